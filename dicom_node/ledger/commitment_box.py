"""``DATA_DIR/commitment/``: requests and reports of storage commitment, durable before a peer is told so.

One file for each that arrived; the receiver (or the thread that asked) leaves it and the service takes it in. A file
goes only when what it says is in the ledger, or its answer has left, so a crash at any point costs nothing.

``*.report.json``   a report that we got about our results; waits for the ledger
``*.request.json``  a request that we got about what we received; waits for the service to look
``*.answer.json``   the answer to it; waits for the peer to take it
``*.gone.json``     an answer that no try could deliver; kept for a person, and for nothing else

Standard library only, because the receiver uses it. The files hold UIDs, AE titles and addresses, never a value of a
patient's attribute.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final

from dicom_node.ledger.durable import FOLDER_MODE, PART_SUFFIX, durable_write, fsync_folder

logger = logging.getLogger(__name__)

FOLDER: Final = "commitment"


class Kind(Enum):
    """What a file holds, by the end of its name."""

    REPORT = ".report.json"
    REQUEST = ".request.json"
    ANSWER = ".answer.json"
    GONE = ".gone.json"


class CommitmentBox:
    """The folder.

    Parameters
    ----------
    data_dir : Path
        The node's data folder.
    """

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / FOLDER

    def leave(self, kind: Kind, record: Mapping[str, Any]) -> Path:
        """Write a new file; only when this has returned may the peer be told that it is safe.

        Raises
        ------
        OSError
            When the disk is full or gone; no partial file is left.
        """
        if not self.folder.is_dir():
            self.folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            fsync_folder(self.folder.parent)
        path = self.folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{kind.value}"
        durable_write(path, _encoded(record))
        return path

    def waiting(self, kind: Kind) -> list[Path]:
        """Return the files of a kind, the oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.endswith(kind.value))

    def turn(self, path: Path, before: Kind, after: Kind, record: Mapping[str, Any]) -> Path:
        """Put a file of another kind in the place of one; killed in between, both are there and it is done again."""
        target = path.with_name(path.name.removesuffix(before.value) + after.value)
        durable_write(target, _encoded(record))
        self.drop(path)
        return target

    def rewrite(self, path: Path, record: Mapping[str, Any]) -> None:
        """Replace the content of a file."""
        durable_write(path, _encoded(record))

    def sweep(self, older_than_s: float = 3600.0) -> None:
        """Remove half-written files that a crash left; no peer was told anything about them."""
        if not self.folder.is_dir():
            return
        for part in self.folder.glob(f"*{PART_SUFFIX}"):
            if time.time() - part.stat().st_mtime > older_than_s:
                part.unlink(missing_ok=True)

    def drop(self, path: Path) -> None:
        """Remove a file whose end is reached; one that is gone already is fine."""
        path.unlink(missing_ok=True)
        fsync_folder(self.folder)


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the content of a file; None where it is gone, or is no record and never will be one."""
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        logger.error("%s is damaged; it is set aside", path.name)
        path.rename(path.with_name(path.name + ".damaged"))
        return None
    return record if isinstance(record, dict) else None


def _encoded(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()
