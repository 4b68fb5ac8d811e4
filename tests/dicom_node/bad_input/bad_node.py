"""A receiver process and the rooms behind it, to be sent anything: what was heard, what is kept, and how it ended.

The receiver is the real process, reached over TCP; ingest, completion, choice and gate are the real ones on a clock
that the test winds. One node gets the bad input of many cases in turn, as a node in a hospital does.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import func, select

from dicom_node.assemble.content import content_sha256
from dicom_node.assemble.decide import source_frames, source_paths
from dicom_node.dicom.pixels import LoadedVolume, load_volume
from dicom_node.dicom.reading import quiet_pydicom
from dicom_node.dicom.slices import read_slices
from dicom_node.errors import NodeError
from dicom_node.ledger.tables import Instance, Job, Series, SetAside, Study
from dicom_node.net.part10 import FileHead, read_head
from dicom_node.net.scu import EncodedInstance, StoreSession
from dicom_node.operate.beats import Beats
from dicom_node.receive.plan import Caller
from dicom_node.stages.synthesis import SynthesisStage
from tests.dicom_node.dicom.builders import PATIENT_ID, PATIENT_NAME, uid
from tests.dicom_node.net.associations import association_request, wait_until
from tests.dicom_node.node_cases import SOURCE_AE, Room, encoded, head_stack, node_settings
from tests.dicom_node.receive.receiver_process import ReceiverProcess

#: The smallest stack that the gate lets through with the default thresholds: 13 slices of 8 mm cover 104 mm.
GOOD, STEP_MM = 13, 8.0
CALLERS = (Caller("scanner", (SOURCE_AE, "OTHER"), "127.0.0.1"),)


def stack(study: str, n: int = GOOD, *, series: str = "series", **changes: object) -> list[Dataset]:
    """Data sets of an axial head series of one study, contiguous, from slice `start` on."""
    return head_stack(n, step=STEP_MM, series=series, study=study, **changes)  # type: ignore[arg-type]


def as_instance(source: Dataset | EncodedInstance) -> EncodedInstance:
    """A data set as the bytes that travel."""
    if isinstance(source, EncodedInstance):
        return source
    data = encoded(source)
    return EncodedInstance(data, read_head(data))


def raw_instance(
    data_set: bytes, *, sop_instance_uid: str, sop_class_uid: str = CTImageStorage, syntax: str = ExplicitVRLittleEndian
) -> EncodedInstance:
    """Any bytes in the place of a data set, under the UIDs that the C-STORE request names."""
    return EncodedInstance(data_set, FileHead(str(sop_class_uid), sop_instance_uid, str(syntax), 0))


def data_set_bytes(dataset: Dataset) -> bytes:
    """The encoded data set without preamble and file meta information."""
    whole = as_instance(dataset)
    return whole.data[whole.head.data_set_offset :]


class BadNode:
    """The node under test; make it by `running`."""

    def __init__(self, receiver: ReceiverProcess, room: Room) -> None:
        self.receiver = receiver
        self.room = room
        self.study = ""
        self.heard: set[str] = set()
        self.acknowledged: set[str] = set()
        self._asides = 0
        self._digests: dict[Path, str] = {}
        self._stage: SynthesisStage | None = None

    def begin(self, study: str) -> None:
        """Forget what earlier cases did."""
        self.study = study
        self.heard, self.acknowledged = set(), set()
        with self.room.ledger.reading() as session:
            self._asides = session.scalar(select(func.coalesce(func.max(SetAside.id), 0))) or 0

    # --- sending -----------------------------------------------------------------------------------------------------

    def stack(self, n: int = GOOD, **changes: object) -> list[Dataset]:
        """A good stack of this case's study, changed as told."""
        return stack(self.study, n, **changes)  # type: ignore[arg-type]

    @contextmanager
    def session(self, instances: Iterable[EncodedInstance], calling: str = SOURCE_AE) -> Iterator[StoreSession]:
        """One association for some instances."""
        needs = {one.need for one in instances}
        with StoreSession(self.receiver.remote, calling, needs, timeout_s=10) as session:
            yield session

    def send(self, sources: Sequence[Dataset | EncodedInstance], calling: str = SOURCE_AE) -> None:
        """Send over one association and remember each answer."""
        instances = [as_instance(source) for source in sources]
        with self.session(instances, calling) as session:
            for instance in instances:
                self.offer(session, instance)

    def offer(self, session: StoreSession, instance: EncodedInstance) -> None:
        """Send one instance, and remember the answer and what was acknowledged."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pydicom finds some of these UIDs invalid, and rightly so
            result = session.send_encoded(instance)
        if result.status is not None:
            self.heard.add(f"0x{result.status:04X}")
        else:
            self.heard.add("connection lost" if session.lost else "context refused")
        if result.status == 0:
            data_set = instance.data[instance.head.data_set_offset :]
            self.acknowledged.add(hashlib.sha256(data_set).hexdigest())

    def call(self, verb: object) -> None:
        """Call for an association that may be refused, and remember the word for it."""
        try:
            verb()  # type: ignore[operator]
            self.heard.add("accepted")
        except NodeError as error:
            self.heard.add(error.code)

    @contextmanager
    def line(self) -> Iterator[socket.socket]:
        """A bare TCP connection."""
        with socket.create_connection(("127.0.0.1", self.receiver.port)) as connection:
            connection.settimeout(10)
            yield connection

    @contextmanager
    def raw_association(self, sop_class: str = CTImageStorage) -> Iterator[socket.socket]:
        """A connection on which an association with one context was accepted."""
        with self.line() as connection:
            request = association_request(SOURCE_AE, "JMMDA_NODE", sop_class, [ExplicitVRLittleEndian])
            connection.sendall(request)
            kind, _, *length = connection.recv(6)
            assert kind == 2
            left = int.from_bytes(bytes(length), "big")
            while left:
                left -= len(connection.recv(left))
            yield connection

    def until_closed(self, connection: socket.socket) -> None:
        """Wait until the node gives the connection up, by an A-ABORT or without a word, and remember that it did."""
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096)[:1] not in (b"", b"\x07"):
                pass
        self.heard.add("connection closed")

    @contextmanager
    def plan(self, **changes: object) -> Iterator[None]:
        """Other limits of the receiver for a while."""
        usual = self.receiver.plan
        self._tell(replace(usual, **changes))  # type: ignore[arg-type]
        try:
            yield
        finally:
            self._tell(usual)

    @contextmanager
    def other_receiver(self, **changes: object) -> Iterator[None]:
        """Another receiver process on the same spool for a while, with limits that only a start can set."""
        usual = self.receiver
        try:
            with ReceiverProcess(usual.data_dir, **{"callers": CALLERS, **changes}) as self.receiver:
                yield
        finally:
            self.receiver = usual

    def _tell(self, plan: object) -> None:
        self.receiver.tell(plan)  # type: ignore[arg-type]
        assert self.receiver.report() == {"event": "reloaded"}

    # --- the worker --------------------------------------------------------------------------------------------------

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A real worker process for the jobs of the cases, fed by the real stage in the thread of the test."""
        room = self.room
        self._stage = SynthesisStage(room.ledger, lambda: room.settings, Beats(room.clock), lambda: None)
        assert self._stage._prepare()
        try:
            yield
        finally:
            assert self._stage._client is not None
            self._stage._client.stop()

    def work(self) -> None:
        """Have every job done that is due; without a worker nothing happens."""
        if self._stage is not None:
            while self._stage._prepare() and self._stage._one_job():
                pass

    @property
    def worker_pid(self) -> object:
        """Which process works."""
        assert self._stage is not None
        return self._stage.report["pid"]

    def newest_job(self) -> Job:
        """The job that was made last."""
        with self.room.ledger.reading() as session:
            return session.scalars(select(Job).order_by(Job.id.desc()).limit(1)).one()

    # --- what came of it ---------------------------------------------------------------------------------------------

    def quiet(self) -> None:
        """Wait until the receiver has closed every association."""
        assert wait_until(lambda: all(one.outcome != "open" for one in self.receiver.associations()))

    def settle(self) -> None:
        """Let everything that arrived be taken in, closed and decided."""
        self.quiet()
        self.room.settle()

    def ends(self, study: str | None = None) -> dict[str, str]:
        """State and code of each series of this case's study, by the label it was made with."""
        name = study or self.study
        query = select(Series).join(Study).where(Study.study_instance_uid == uid(name))
        with self.room.ledger.reading() as session:
            return {
                self._label(name, one.series_instance_uid): f"{one.state.value} {one.code or ''}".strip()
                for one in session.scalars(query)
            }

    def _label(self, study: str, series_uid: str) -> str:
        labels = ("series", "thin", "bone", "screens", "scout", "contrast", "other")
        return next((label for label in labels if uid(study, label) == series_uid), series_uid)

    def asides(self) -> set[str]:
        """Codes under which files of this case went to the quarantine."""
        with self.room.ledger.reading() as session:
            return set(session.scalars(select(SetAside.code).where(SetAside.id > self._asides)))

    def notes(self, series: str = "series") -> set[str]:
        """Codes of the notes of the newest job of a series."""
        return {note.partition(":")[0] for note in self.jobs(series)[-1].notes}

    def jobs(self, series: str = "series", study: str | None = None) -> list[Job]:
        """The jobs of a series, oldest first."""
        wanted = Series.series_instance_uid == uid(study or self.study, series)
        query = select(Job).join(Series).where(wanted).order_by(Job.id)
        with self.room.ledger.reading() as session:
            found = list(session.scalars(query))
            for job in found:
                assert job.series.folder
            return found

    def volume(self, series: str = "series") -> LoadedVolume:
        """The pixels that the worker would see: those of the newest job of a series."""
        job = self.jobs(series)[-1]
        with quiet_pydicom():
            return load_volume(read_slices(source_paths(self.room.paths, job), source_frames(job)))

    def row(self, series: str = "series") -> Series:
        """The row of a series of this case."""
        with self.room.ledger.reading() as session:
            query = select(Series).where(Series.series_instance_uid == uid(self.study, series))
            return session.scalars(query).one()

    def count(self, series: str = "series") -> int:
        """Number of instances of a series in the ledger."""
        wanted = Series.series_instance_uid == uid(self.study, series)
        with self.room.ledger.reading() as session:
            return session.scalar(select(func.count(Instance.id)).join(Series).where(wanted)) or 0

    def lost(self) -> set[str]:
        """Digests of what was acknowledged in this case and is nowhere any more."""
        kept = [path for root in (self.room.paths.series, self.room.paths.quarantine) for path in root.rglob("*.dcm")]
        for path in kept:
            if path not in self._digests:
                self._digests[path] = content_sha256(path)
        return self.acknowledged - {self._digests[path] for path in kept}

    def secrets_in_log(self) -> set[str]:
        """Identity values of the data sets that the receiver's log quotes."""
        return {secret for secret in (*PATIENT_NAME.split("^"), PATIENT_ID, "19500101") if secret in self.receiver.log}


@contextmanager
def running(folder: Path, **sections: object) -> Iterator[BadNode]:
    """A node for many cases."""
    data_dir = folder / "data"
    room = Room(data_dir, node_settings(data_dir, **sections))
    try:
        with ReceiverProcess(data_dir, callers=CALLERS, network_timeout_s=30.0) as receiver:
            yield BadNode(receiver, room)
            assert receiver.process.poll() is None, "the receiver died"
    finally:
        room.ledger.close()
