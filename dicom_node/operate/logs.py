"""Log lines of the node's processes: one format, to standard error, without patient data.

The journal of systemd adds time and process, so the format carries a time only when nobody else does.
"""

from __future__ import annotations

import logging
import os
import sys

from dicom_node.dicom.reading import install_pydicom_privacy

_WITH_TIME = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_WITHOUT_TIME = "%(levelname)s %(name)s: %(message)s"


def set_up_logs(level: str) -> None:
    """Prepare logging in this process; calling it again only changes the level.

    Parameters
    ----------
    level : str
        Least severe message of the node that is written (``node.log_level``). Libraries speak from WARNING up, and
        what they say is reduced to keyword and rule.
    """
    install_pydicom_privacy()
    if not logging.getLogger().handlers:
        layout = _WITHOUT_TIME if "JOURNAL_STREAM" in os.environ else _WITH_TIME
        logging.basicConfig(stream=sys.stderr, format=layout, level=logging.WARNING)
    # APScheduler reports a job that is still running when its next turn comes; our jobs are made for that.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    for library in ("alembic", "pydicom", "pynetdicom", "highdicom"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("dicom_node").setLevel(level)
