"""What the service last said of itself, read by commands from ``run/state.json`` and ``run/settings.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from dicom_node.ledger.spool import SpoolPaths, durable_write, utc_now
from dicom_node.operate.guard import service_runs
from dicom_node.settings import Settings

STATE_FILE: Final = "state.json"
SETTINGS_FILE: Final = "settings.json"


@dataclass(frozen=True, slots=True)
class SettingsInForce:
    """The settings that the service works by.

    Attributes
    ----------
    at : str
        Since when, ISO 8601 with offset.
    file : Path
        Where the supervisor read them, and reads them again at a reload.
    settings : Settings
        Effective settings. They hold no secrets, only the names of files that do.
    """

    at: str
    file: Path
    settings: Settings


def write_in_force(paths: SpoolPaths, file: Path, settings: Settings) -> None:
    """Leave the settings in force where commands find them."""
    record = {"at": utc_now(), "file": str(file), "settings": settings.model_dump(mode="json")}
    durable_write(paths.run / SETTINGS_FILE, json.dumps(record, indent=1).encode())


def settings_in_force(paths: SpoolPaths) -> SettingsInForce | None:
    """Return the settings of the running service; None when none runs, or one of another version."""
    try:
        said = json.loads((paths.run / SETTINGS_FILE).read_bytes())
        found = SettingsInForce(str(said["at"]), Path(said["file"]), Settings.model_validate(said["settings"]))
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
    return found if service_runs(paths) else None


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
