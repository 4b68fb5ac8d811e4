"""What the service last said of itself, read by commands from ``run/state.json``."""

from __future__ import annotations

import json
from typing import Any, Final

from dicom_node.ledger.spool import SpoolPaths
from dicom_node.operate.guard import service_runs

STATE_FILE: Final = "state.json"


def process_report(paths: SpoolPaths) -> dict[str, Any]:
    """Return whether a service runs and what it reported last.

    Returns
    -------
    dict
        ``running`` (bool), ``well`` (bool, or None when nothing runs), and the service's report: ``at``, ``pid``,
        ``worker``, ``loops``, ``reload``.
    """
    try:
        said = json.loads((paths.run / STATE_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        said = {}
    running = service_runs(paths)
    return {**said, "running": running, "well": said.get("well") if running else None}
