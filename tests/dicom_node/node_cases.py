"""Helpers of the node's tests: a clock to wind, a spool filled as the receiver fills it, a process that dies on cue.

All files are real; what is received is written by the receiver's own `Incoming`.
"""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.assemble.decide import Decider
from dicom_node.assemble.ingest import Ingest
from dicom_node.assemble.quiet import QuietClock
from dicom_node.assemble.source import Inquiry
from dicom_node.assemble.sweep import Sweep
from dicom_node.dicom.reading import quiet_pydicom
from dicom_node.ledger.clock import Clock
from dicom_node.ledger.spool import AssociationJournal, Incoming, InstanceMeta, SpoolPaths
from dicom_node.ledger.store import Ledger
from dicom_node.ledger.tables import Series
from dicom_node.settings import Peer, Role, Settings
from tests.dicom_node.dicom.builders import ct_dataset

SOURCE_AE = "SCANNER"


class ManualClock(Clock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds


def node_settings(data_dir: Path, **sections: object) -> Settings:
    """Settings of a node with one scanner and one PACS."""
    peers = (
        Peer(name="scanner", ae_titles=(SOURCE_AE,), host="127.0.0.1", roles=(Role.SOURCE,)),
        Peer(name="pacs", ae_titles=("PACS",), host="127.0.0.1", port=11199, roles=(Role.DESTINATION,)),
    )
    values: dict[str, object] = {"node": {"data_dir": data_dir}, "peers": peers, **sections}
    return Settings.model_validate(values)


class Room:
    """Ledger, ingest and sweep over one data folder, with a clock to wind."""

    def __init__(self, data_dir: Path, settings: Settings | None = None) -> None:
        self.paths = SpoolPaths(data_dir)
        self.paths.make()
        self.clock = ManualClock()
        self.settings = settings or node_settings(data_dir)
        self.incoming = Incoming(self.paths.incoming)
        self.open()

    def open(self) -> None:
        self.ledger = Ledger.open(self.paths, clock=self.clock)
        self.quiet = QuietClock(self.clock)
        self.ingest = Ingest(self.ledger, self.quiet, lambda: self.settings.intake.late_slices)
        self.inquiry = Inquiry(self.clock, lambda: self.settings, lambda: None)
        self.decider = Decider(self.paths)
        self.sweeper = Sweep(self.ledger, self.quiet, self.decider, self.inquiry)

    def round(self, *, after_s: float = 0.0) -> None:
        """Let time pass, then take in and sweep once."""
        self.clock.advance(after_s)
        self.ingest.scan()
        self.sweeper.run(self.settings)

    def settle(self) -> None:
        """Let everything that arrived be closed and decided."""
        self.round()
        self.round(after_s=self.settings.intake.quiet_s + 0.1)
        self.round(after_s=self.settings.intake.study_quiet_s)

    def series(self, uid: str | None = None) -> Series:
        """The series of that UID, or the only one, with all that the tests look at loaded."""
        with self.ledger.reading() as session:
            found = [one for one in session.query(Series) if uid in (None, one.series_instance_uid)]
            assert len(found) == 1
            for job in found[0].jobs:
                assert job.deliveries is not None
            assert found[0].instances is not None
            assert found[0].study.series is not None
            return found[0]

    def states(self) -> dict[str, str]:
        with self.ledger.reading() as session:
            return {one.series_instance_uid: one.state.value for one in session.query(Series)}


def encoded(dataset: Dataset) -> bytes:
    """Part-10 bytes of a data set."""
    buffer = io.BytesIO()
    with quiet_pydicom():
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def head_stack(
    n: int = 24, *, start: int = 0, step: float = 5.0, series: str = "series", **changes: object
) -> list[Dataset]:
    """Data sets of an axial head series of `n` slices from number `start` on."""
    return [
        ct_dataset(k, position=(-120.0, -130.0, step * k), thickness=step, series=series, **changes)  # type: ignore[arg-type]
        for k in range(start, start + n)
    ]


def store_all(journal: AssociationJournal, datasets: Iterable[Dataset]) -> None:
    for dataset in datasets:
        meta = InstanceMeta(str(dataset.SOPInstanceUID), str(dataset.SOPClassUID), "1.2.840.10008.1.2.1")
        journal.store([encoded(dataset)], meta)


@contextmanager
def association(incoming: Incoming, calling_ae: str = SOURCE_AE):
    """An open association of the scanner; closed at the end of the block."""
    journal = incoming.open_association(calling_ae=calling_ae, called_ae="JMMDA_NODE", host="127.0.0.1", port=4242)
    try:
        yield journal
    finally:
        journal.close("closed")


def receive(room: Room, datasets: Sequence[Dataset], calling_ae: str = SOURCE_AE) -> None:
    """Have data sets received over one association."""
    with association(room.incoming, calling_ae) as journal:
        store_all(journal, datasets)


_WATCHED = ("fsync", "replace", "rename", "link", "unlink", "rmdir", "write")


def killed_at(call: int, work: Callable[[], None]) -> bool:
    """Run `work` in a forked process that is killed before its `call`-th change of the file system.

    Returns
    -------
    bool
        False when the work was done before that.
    """
    pid = os.fork()
    if pid == 0:
        count = 0

        def counted(original: Callable[..., object]) -> Callable[..., object]:
            def change(*args: object, **kwargs: object) -> object:
                nonlocal count
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return original(*args, **kwargs)

            return change

        for name in _WATCHED:
            setattr(os, name, counted(getattr(os, name)))
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    _, outcome = os.waitpid(pid, 0)
    if os.WIFSIGNALED(outcome):
        return True
    assert os.WEXITSTATUS(outcome) == 0, "the work failed without being killed"
    return False
