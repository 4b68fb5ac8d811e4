"""Storage commitment of what was received: a peer asks, the node answers, over real associations.

The peer is made of pynetdicom alone; the node's side is its receiver and the part that answers. Left out: Orthanc as
the one that asks (`tests/peers/test_commitment_orthanc`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedCTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from dicom_node.deliver.commitment_answers import CommitmentAnswers
from dicom_node.net.commitment_values import LARGEST_BYTES
from dicom_node.receive.planning import receiver_plan
from dicom_node.receive.server import Receiver
from dicom_node.settings import Settings
from tests.dicom_node.net.associations import wait_until
from tests.dicom_node.node_cases import Room, head_stack, killed_at, node_settings, receive

NODE_AE = "JMMDA_NODE"


class Scanner:
    """Asks, and takes reports over associations of the node."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.roles: list[tuple[bool, bool]] = []
        self.status = 0x0000
        self.node_port = 0

    @contextmanager
    def listening(self) -> Iterator[int]:
        entity = AE("SCANNER")
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._report)]
        )
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()

    def _report(self, event: evt.Event) -> tuple[int, None]:
        self.roles += [(one.scu_role, one.scp_role) for one in event.assoc.requestor.role_selection.values()]
        self.reports.append((event.event_type, event.event_information))
        return self.status, None

    def ask(
        self,
        ds: Dataset | None,
        *,
        action_type: int = 1,
        instance: str = StorageCommitmentPushModelInstance,
        title: str = "SCANNER",
        stay_s: float = 0.0,
    ) -> int:
        """Send a request; with `stay_s`, wait so long for the report over the same association."""
        arrived = threading.Event()

        def heard(event: evt.Event) -> tuple[int, None]:
            try:
                return self._report(event)
            finally:
                arrived.set()

        assoc = AE(title).associate(
            "127.0.0.1", self.node_port, [build_context(StorageCommitmentPushModel)], ae_title=NODE_AE,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, heard)],
        )  # fmt: skip
        assert assoc.is_established
        try:
            status, _ = assoc.send_n_action(ds, action_type, StorageCommitmentPushModel, instance)
            if stay_s:
                assert arrived.wait(stay_s)
            return int(status.Status)
        finally:
            assoc.release()


def request_dataset(references: Sequence[tuple[str, str]], transaction_uid: str = "2.25.99") -> Dataset:
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    items = []
    for sop_class, uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    ds.ReferencedSOPSequence = items
    return ds


class Case:
    """A node that received a series of the scanner, and can be asked about it."""

    def __init__(self, tmp_path: Path) -> None:
        self.room = Room(tmp_path / "data")
        stack = head_stack(10)
        receive(self.room, stack)
        self.room.round()
        self.held = [(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in stack]
        self.settings = node_settings(
            self.room.paths.data_dir,
            node={"host": "127.0.0.1", "data_dir": self.room.paths.data_dir},
            delivery={"attempts": 3, "first_wait_s": 5.0, "longest_wait_s": 20.0, "association_timeout_s": 3.0},
        )
        self.answers = CommitmentAnswers(self.room.ledger, lambda: self.settings)
        self.scanner = Scanner()

    def port(self, port: int | None) -> None:
        """Give the scanner a port, or none."""
        entry: dict[str, Any] = {"name": "scanner", "ae_titles": ["SCANNER"], "host": "127.0.0.1", "roles": ["source"]}
        others = [one.model_dump() for one in self.settings.peers if one.name != "scanner"]
        entry |= {} if port is None else {"port": port}
        self.settings = Settings.model_validate({**self.settings.model_dump(), "peers": [*others, entry]})

    @contextmanager
    def receiving(self) -> Iterator[None]:
        plan = replace(receiver_plan(self.settings), port=0, min_free_bytes=0, drain_s=3.0)
        receiver = Receiver(plan)
        self.scanner.node_port = receiver.address[1]
        try:
            yield
        finally:
            receiver.drain()

    def files(self) -> list[str]:
        """Kinds of the files that are there; half-written ones do not count."""
        folder = self.room.paths.data_dir / "commitment"
        return sorted(path.name.split(".", 1)[1] for path in folder.glob("*.json"))

    def answer(self) -> None:
        """Take in what waits and send whatever is due."""
        requests = self.answers.waiting()
        self.room.ingest.scan()
        self.answers.answer(requests)
        self.answers.send_due("scanner")


@pytest.fixture
def case(tmp_path: Path):
    made = Case(tmp_path)
    yield made
    made.answers.stop()
    made.room.ledger.close()


def test_what_is_in_the_spool_is_committed_over_an_association_of_ours(case: Case):
    with case.scanner.listening() as port:
        case.port(port)
        with case.receiving():
            assert case.scanner.ask(request_dataset(case.held)) == 0x0000
            assert case.files() == ["request.json"]
            case.answer()
    ((event_type, report),) = case.scanner.reports
    assert (event_type, report.TransactionUID) == (1, "2.25.99")
    assert [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in report.ReferencedSOPSequence] == case.held
    assert "FailedSOPSequence" not in report
    assert case.scanner.roles == [(False, True)]
    assert case.files() == []


def test_every_other_instance_is_named_with_its_reason(case: Case):
    gone = case.room.series().instances[2]
    (case.room.paths.series / case.room.series().folder / gone.file_name).unlink()
    wrong_class = (str(EnhancedCTImageStorage), case.held[1][1])
    asked = [case.held[0], wrong_class, (str(CTImageStorage), gone.sop_instance_uid), (str(CTImageStorage), "1.2.3")]
    with case.scanner.listening() as port:
        case.port(port)
        with case.receiving():
            assert case.scanner.ask(request_dataset(asked)) == 0x0000
            case.answer()
    ((event_type, report),) = case.scanner.reports
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [case.held[0][1]]
    reasons = {item.ReferencedSOPInstanceUID: item.FailureReason for item in report.FailedSOPSequence}
    assert reasons == {case.held[1][1]: 0x0119, gone.sop_instance_uid: 0x0112, "1.2.3": 0x0112}


def test_what_was_stored_just_before_the_request_is_committed(case: Case):
    fresh = head_stack(3, start=10)
    with case.scanner.listening() as port:
        case.port(port)
        with case.receiving():
            receive(case.room, fresh)
            assert case.scanner.ask(request_dataset([(str(o.SOPClassUID), str(o.SOPInstanceUID)) for o in fresh])) == 0
            case.answer()
    ((event_type, _),) = case.scanner.reports
    assert event_type == 1


def test_a_peer_that_is_down_gets_its_report_when_it_is_back(case: Case, free_port: int):
    case.port(free_port)
    with case.receiving():
        assert case.scanner.ask(request_dataset(case.held)) == 0x0000
    case.answer()
    assert (case.scanner.reports, case.files()) == ([], ["answer.json"])
    with case.scanner.listening() as port:
        case.port(port)
        case.answers.send_due("scanner")
        assert case.scanner.reports == [], "nothing is sent before its wait is over"
        case.room.clock.advance(6.0)
        case.answers.send_due("scanner")
    assert len(case.scanner.reports) == 1
    assert case.files() == []


def test_a_peer_that_refuses_the_report_gets_it_again_a_capped_number_of_times(case: Case):
    case.scanner.status = 0x0110
    with case.scanner.listening() as port:
        case.port(port)
        with case.receiving():
            assert case.scanner.ask(request_dataset(case.held)) == 0x0000
        case.answer()
        for _ in range(4):
            case.room.clock.advance(30.0)
            case.answers.send_due("scanner")
    assert len(case.scanner.reports) == 3
    assert case.files() == ["gone.json"]


def test_a_peer_without_a_port_hears_over_the_association_on_which_it_asked(case: Case):
    case.port(None)
    with case.receiving():
        stop = threading.Event()

        def serve() -> None:
            while not stop.wait(0.05):
                case.answer()

        service = threading.Thread(target=serve)
        service.start()
        try:
            assert case.scanner.ask(request_dataset(case.held), stay_s=10.0) == 0x0000
            assert wait_until(lambda: case.files() == [])
        finally:
            stop.set()
            service.join()
    ((event_type, report),) = case.scanner.reports
    assert (event_type, len(report.ReferencedSOPSequence)) == (1, 10)


def test_a_peer_without_a_port_that_is_gone_is_given_up(case: Case):
    case.port(None)
    with case.receiving():
        assert case.scanner.ask(request_dataset(case.held)) == 0x0000
    case.answer()
    assert case.files() == ["answer.json"]
    case.answers.wake()
    assert case.files() == ["answer.json"]
    case.room.clock.advance(120.0)
    case.answers.wake()
    assert case.files() == ["gone.json"]


@pytest.mark.parametrize(
    ("asked", "more", "status"),
    [
        ("no sequence", {}, 0x0115),
        ([], {}, 0x0115),
        ([("1.2", "../../x")], {}, 0x0115),
        (None, {}, 0x0115),
        ([("1.2", "3.4")], {"action_type": 2}, 0x0123),
        ([("1.2", "3.4")], {"instance": "1.2.3"}, 0x0112),
        ([("1.2", "3.4")], {"title": "PACS"}, 0x0124),
    ],
    ids=["no sequence", "nothing asked", "no UID", "no data set", "action type", "instance", "no source"],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_request_that_cannot_be_answered_is_refused_and_leaves_nothing(
    case: Case, asked: Any, more: dict[str, Any], status: int
):
    ds = request_dataset(asked) if isinstance(asked, list) else None
    if asked == "no sequence":
        ds = Dataset()
        ds.TransactionUID = "2.25.1"
    peers = [one.model_dump() for one in case.settings.peers]
    peers[1]["roles"] = ["destination", "commitment"]
    case.settings = Settings.model_validate({**case.settings.model_dump(), "peers": peers})
    with case.receiving():
        assert case.scanner.ask(ds, **more) == status
    assert case.files() == []


def test_a_request_that_is_too_large_is_not_decoded(case: Case):
    ds = request_dataset(case.held)
    ds.add_new(0x00091010, "OB", b"\0" * LARGEST_BYTES)
    with case.receiving():
        assert case.scanner.ask(ds) == 0x0213
        assert case.scanner.ask(request_dataset(case.held)) == 0x0000


def test_a_disk_that_takes_nothing_is_a_resource_limitation(case: Case):
    (case.room.paths.data_dir / "commitment").write_text("no folder")
    with case.receiving():
        assert case.scanner.ask(request_dataset(case.held)) == 0x0213


def test_a_peer_that_only_echoes_is_offered_no_storage_commitment(case: Case):
    case.port(None)
    with case.receiving():
        entity = AE("PACS")
        contexts = [build_context(StorageCommitmentPushModel)]
        roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
        assoc = entity.associate("127.0.0.1", case.scanner.node_port, contexts, ae_title=NODE_AE, ext_neg=roles)
        assert assoc.accepted_contexts == []
        assoc.abort()


def test_killed_anywhere_the_peer_hears_at_least_once(tmp_path: Path):
    case = Case(tmp_path)
    with case.scanner.listening() as port:
        case.port(port)
        with case.receiving():
            assert case.scanner.ask(request_dataset(case.held)) == 0x0000
        folder = case.room.paths.data_dir / "commitment"
        (request,) = folder.iterdir()
        content, name = request.read_bytes(), request.name
        died, call = True, 0
        while died:
            for path in folder.iterdir():
                path.unlink()
            (folder / name).write_bytes(content)
            case.room.ledger.engine.dispose()
            died = killed_at(call, lambda: case.answers.answer(case.answers.waiting()))
            case.scanner.reports.clear()
            case.answers.answer(case.answers.waiting())
            case.answers.send_due("scanner")
            assert wait_until(lambda: case.files() == [])
            assert len(case.scanner.reports) >= 1
            call += 1
    assert call > 3
    case.answers.stop()
    case.room.ledger.close()
