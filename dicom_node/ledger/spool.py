"""The spool on disk: where received bytes become durable before the peer is told so.

Layout below ``DATA_DIR`` (see `SpoolPaths`)::

    spool/incoming/<association_key>/association.jsonl     written by the receiver, one line per event
    spool/incoming/<association_key>/<n:06d>-<hash>.dcm    one complete Part-10 file per acknowledged instance
    spool/series/<hash>/<hash>.dcm, series.jsonl           written by the service when it has read the header
    spool/quarantine/                                      files that could not be read, each with a reason
    jobs/<job_key>/                                        one synthesis result with its ``job.json``
    commitment/                                            requests and reports of storage commitment
    run/service.sock, run/service.lock                     the poke and the guard against a second service

Standard library only: the receiver imports this module and has to stay small. File names come from hashes
and counters, never from what a peer sent, so no peer can choose where its bytes land.

A file that ends in ``.part`` was never acknowledged and may be deleted by whoever finds it; a file that ends
in ``.dcm`` is complete. The receiver holds a lock on its journal for as long as the association lives, so the
service can tell an open association from one whose receiver was killed.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias

from dicom_node.ledger.durable import (
    FILE_MODE,
    FOLDER_MODE,
    PART_SUFFIX,
    Buffer,
    append_line,
    append_lines,
    durable_move,
    durable_write,
    fsync_folder,
    name_hash,
    read_lines,
    utc_now,
    write_all,
    write_part,
)
from dicom_node.ledger.poke import bind_poke_socket, poke

__all__ = [
    "AssociationJournal",
    "Buffer",
    "Incoming",
    "IncomingAssociation",
    "InstanceMeta",
    "SpoolPaths",
    "append_line",
    "append_lines",
    "bind_poke_socket",
    "durable_move",
    "durable_write",
    "fsync_folder",
    "name_hash",
    "poke",
    "read_association",
    "read_lines",
    "utc_now",
]

Outcome: TypeAlias = Literal["closed", "aborted"]

JOURNAL_NAME: Final = "association.jsonl"


@dataclass(frozen=True, slots=True)
class SpoolPaths:
    """The folders below one ``data_dir``; the only place that knows the layout.

    Attributes
    ----------
    data_dir : Path
        The node's private folder (mode 0700).
    """

    data_dir: Path

    @property
    def incoming(self) -> Path:
        """Folder of one sub-folder per association."""
        return self.data_dir / "spool" / "incoming"

    @property
    def series(self) -> Path:
        """Folder of one sub-folder per received series."""
        return self.data_dir / "spool" / "series"

    @property
    def quarantine(self) -> Path:
        """Folder of files that could not be read and of second copies that differ from the first."""
        return self.data_dir / "spool" / "quarantine"

    @property
    def jobs(self) -> Path:
        """Folder of one sub-folder per synthesis job."""
        return self.data_dir / "jobs"

    @property
    def run(self) -> Path:
        """Folder of the socket and the lock of the running service."""
        return self.data_dir / "run"

    @property
    def service_socket(self) -> Path:
        """Datagram socket on which the receiver pokes the service."""
        return self.run / "service.sock"

    @property
    def service_lock(self) -> Path:
        """Lock file held by the one service of this ``data_dir``."""
        return self.run / "service.lock"

    def series_folder(self, study_instance_uid: str, series_instance_uid: str) -> Path:
        """Folder of one series; a series UID that occurs in two studies gets two folders."""
        return self.series / name_hash(study_instance_uid, series_instance_uid)

    def make(self) -> None:
        """Create every folder, readable by the owner only."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir.chmod(FOLDER_MODE)
        for folder in (self.incoming, self.series, self.quarantine, self.jobs, self.run):
            folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)


@dataclass(frozen=True, slots=True)
class InstanceMeta:
    """What the receiver knows about an instance without decoding it (PS3.7 9.3.1, C-STORE request)."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class IncomingAssociation:
    """One association as its journal tells it.

    Attributes
    ----------
    key : str
        Name of the folder, unique for the node's life.
    folder : Path
        Where its files wait.
    calling_ae, called_ae, host : str
        Who sent to whom, and from which address.
    opened_at, closed_at : str
        ISO 8601 with offset; `closed_at` is empty while the association is open.
    outcome : {"open", "closed", "aborted"}
        ``aborted`` also stands for a receiver that died with the association open.
    files : tuple of Path
        Complete files in the order of arrival.
    """

    key: str
    folder: Path
    calling_ae: str
    called_ae: str
    host: str
    opened_at: str
    closed_at: str
    outcome: Literal["open", "closed", "aborted"]
    files: tuple[Path, ...]


class AssociationJournal:
    """The receiver's end of one association: stores instances and notes how the association ended.

    Not meant to be made by hand: `Incoming.open_association` returns it. Safe to use from several threads.
    """

    def __init__(self, folder: Path, opened: Mapping[str, object]) -> None:
        self.folder = folder
        self._path = folder / JOURNAL_NAME
        self._counter = itertools.count(1)
        self._lock = threading.Lock()
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._line(opened, sync=True)
        fsync_folder(folder)
        fsync_folder(folder.parent)

    @property
    def key(self) -> str:
        """Name of the association's folder."""
        return self.folder.name

    def store(self, parts: Iterable[Buffer], meta: InstanceMeta) -> Path:
        """Make one instance durable; only when this has returned may 0x0000 be answered.

        Parameters
        ----------
        parts : iterable of bytes-like
            The complete Part-10 file (preamble, file meta, data set) in pieces, so that nothing is copied.
        meta : InstanceMeta
            UIDs from the C-STORE request.

        Returns
        -------
        Path
            The file below `folder`.

        Raises
        ------
        OSError
            Disk full or gone: nothing is left behind, and the peer should be asked to send again.
        """
        with self._lock:
            number = next(self._counter)
        path = self.folder / f"{number:06d}-{name_hash(meta.sop_instance_uid)[:16]}.dcm"
        part = path.with_suffix(PART_SUFFIX)
        size = write_part(part, parts)
        part.replace(path)
        fsync_folder(self.folder)
        # The file itself is the durable record; the line only helps a person who reads the journal.
        self._line(
            {
                "event": "stored",
                "at": utc_now(),
                "file": path.name,
                "sop_instance_uid": meta.sop_instance_uid,
                "sop_class_uid": meta.sop_class_uid,
                "transfer_syntax_uid": meta.transfer_syntax_uid,
                "bytes": size,
            },
            sync=False,
        )
        return path

    def close(self, outcome: Outcome) -> None:
        """Note that the association was released or aborted; calling it a second time does nothing."""
        if self._descriptor < 0:
            return
        self._line({"event": outcome, "at": utc_now()}, sync=True)
        with self._lock:
            os.close(self._descriptor)
            self._descriptor = -1

    def _line(self, record: Mapping[str, object], *, sync: bool) -> None:
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
        with self._lock:
            write_all(self._descriptor, line)
            if sync:
                os.fsync(self._descriptor)


class Incoming:
    """The folder in which the receiver leaves what it has acknowledged.

    Parameters
    ----------
    root : Path
        ``DATA_DIR/spool/incoming`` (`SpoolPaths.incoming`); created when missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)

    def open_association(self, *, calling_ae: str, called_ae: str, host: str, port: int) -> AssociationJournal:
        """Begin the journal of an association that was just accepted.

        The folder is named by time and chance; a peer has no influence on it. It comes into being under a
        name that the service does not look at, and gets its own once the journal is locked and written.
        """
        key = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        opening = self.root / f".{key}"
        opening.mkdir(mode=FOLDER_MODE)
        opened = {
            "event": "opened",
            "at": utc_now(),
            "monotonic": time.monotonic(),
            "calling_ae": calling_ae.strip(),
            "called_ae": called_ae.strip(),
            "host": host,
            "port": port,
            "pid": os.getpid(),
        }
        journal = AssociationJournal(opening, opened)
        folder = self.root / key
        opening.rename(folder)
        fsync_folder(self.root)
        journal.folder = folder
        return journal

    def associations(self) -> list[IncomingAssociation]:
        """Return every association folder in the order of opening, as the service sees it now."""
        folders = (entry for entry in self.root.iterdir() if entry.is_dir() and entry.name[0] != ".")
        return [read_association(folder) for folder in sorted(folders)]


def read_association(folder: Path) -> IncomingAssociation:
    """Read one association's journal and list its complete files.

    The state is looked at before the files are listed: a file cannot arrive after an association has ended, so
    a listing made later is complete whenever the outcome is not ``open``.
    """
    opened: dict[str, object] = {}
    ended: dict[str, object] = {}
    writer_lives = _is_locked(folder / JOURNAL_NAME)
    for record in read_lines(folder / JOURNAL_NAME):
        event = record.get("event")
        if event == "opened":
            opened = record
        elif event in ("closed", "aborted"):
            ended = record
    outcome: Literal["open", "closed", "aborted"] = "open" if writer_lives else "aborted"
    if ended:
        outcome = "closed" if ended["event"] == "closed" else "aborted"
    files = tuple(sorted(path for path in folder.iterdir() if path.suffix == ".dcm"))
    return IncomingAssociation(
        key=folder.name,
        folder=folder,
        calling_ae=str(opened.get("calling_ae", "")),
        called_ae=str(opened.get("called_ae", "")),
        host=str(opened.get("host", "")),
        opened_at=str(opened.get("at", "")),
        closed_at=str(ended.get("at", "")) if outcome != "open" else "",
        outcome=outcome,
        files=files,
    )


def _is_locked(journal: Path) -> bool:
    """Whether another process (or open file) holds the journal, that is, whether its writer lives."""
    try:
        descriptor = os.open(journal, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
