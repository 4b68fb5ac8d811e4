"""``DATA_DIR/pulled.jsonl``: what was pulled, so that a pull that was interrupted goes on where it stood.

One line for each study that came without trouble: peer, UIDs and counts, written when the peer had said that all was
sent. It is a convenience, not a record: losing it means that studies are pulled once more, which the node notices.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dicom_node.commands.pull_plan import StudyPlan
from dicom_node.ledger.spool import append_line, read_lines, utc_now

FILE_NAME: Final = "pulled.jsonl"


class PulledBefore:
    """What earlier pulls from one peer brought.

    Parameters
    ----------
    data_dir : Path
        Folder of the node.
    peer : str
        Name of the peer; another one may hold other images of a study.
    forget : bool
        Take nothing for pulled; what comes is written down all the same.
    """

    def __init__(self, data_dir: Path, peer: str, *, forget: bool = False) -> None:
        self._path = data_dir / FILE_NAME
        self._peer = peer
        self._studies: dict[str, dict[str, int | None]] = {}
        for record in () if forget else read_lines(self._path):
            series = record.get("series")
            if record.get("peer") == peer and isinstance(series, dict):
                known = self._studies.setdefault(str(record.get("study")), {})
                known.update({uid: count if isinstance(count, int) else None for uid, count in series.items()})

    def of(self, study_instance_uid: str) -> Mapping[str, int | None]:
        """Series of a study that were pulled, each with the count that the peer named then."""
        return self._studies.get(study_instance_uid, {})

    def add(self, plan: StudyPlan, verb: str) -> None:
        """Write down that a plan was carried out.

        Raises
        ------
        OSError
            When the disk does not take it.
        """
        line = {
            "at": utc_now(),
            "peer": self._peer,
            "verb": verb,
            "study": plan.study_instance_uid,
            "series": dict(plan.series),
        }
        append_line(self._path, line)
        self._studies.setdefault(plan.study_instance_uid, {}).update(plan.series)
