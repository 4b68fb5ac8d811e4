"""Whom the front door turned away, and why: a bounded journal that `status` reads.

A refused association leaves nothing in the spool, and its line in the log is soon far up. Receivers append one line
for each to ``run/refusals.jsonl``; a full file is renamed and begun anew, so that a caller that knocks for ever costs
no more than two files. The journal is no part of the ledger and may be deleted at any time.

Standard library only, because the receiver uses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from dicom_node.ledger.durable import append_line, read_lines, utc_now

_NAME: Final = "refusals.jsonl"
_OLD_NAME: Final = "refusals.1.jsonl"
#: A file that is larger is begun anew.
MOST_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Refusal:
    """One association that was turned away.

    Attributes
    ----------
    code : str
        Stable code of the reason: ``called_ae``, ``calling_ae``, ``calling_host``, ``tls_expired`` and the like.
    reason : str
        A sentence that names the two values that differ.
    host : str
        Address it came from.
    calling_ae, called_ae : str
        Titles of the request; empty when it did not come so far.
    """

    code: str
    reason: str
    host: str
    calling_ae: str = ""
    called_ae: str = ""


@dataclass(frozen=True, slots=True)
class RefusedCaller:
    """The same refusal as often as the journal knows it.

    Attributes
    ----------
    refusal : Refusal
        The last one.
    count : int
        How often.
    first_at, last_at : str
        ISO 8601 with offset.
    """

    refusal: Refusal
    count: int
    first_at: str
    last_at: str

    def to_json(self) -> dict[str, object]:
        """Return it as plain JSON data."""
        return {**asdict(self.refusal), "count": self.count, "first_at": self.first_at, "last_at": self.last_at}


def note_refusal(run: Path, refusal: Refusal) -> None:
    """Append a refusal to the journal of a node.

    Parameters
    ----------
    run : Path
        `SpoolPaths.run`.
    refusal : Refusal
        What to write.

    Raises
    ------
    OSError
        When the disk is full or gone.
    """
    path = run / _NAME
    # Two receivers may both rename: then one file of refusals is lost, and nothing else.
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > MOST_BYTES:
            path.replace(run / _OLD_NAME)
    append_line(path, {"at": utc_now(), **asdict(refusal)}, sync=False)


def read_refusals(run: Path) -> list[RefusedCaller]:
    """Return every different refusal in the journal, the last one first."""
    found: dict[tuple[str, ...], RefusedCaller] = {}
    for name in (_OLD_NAME, _NAME):
        for record in read_lines(run / name):
            one = _refusal(record)
            if one is None:
                continue
            at = str(record.get("at", ""))
            key = (one.code, one.host, one.calling_ae, one.called_ae)
            before = found.pop(key, None)
            found[key] = RefusedCaller(
                one, 1 if before is None else before.count + 1, before.first_at if before else at, at
            )
    return list(reversed(found.values()))


def _refusal(record: Mapping[str, object]) -> Refusal | None:
    names = ("code", "reason", "host", "calling_ae", "called_ae")
    if not record.get("code"):
        return None
    return Refusal(**{name: str(record.get(name, "")) for name in names})
