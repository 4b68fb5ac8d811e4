"""Storage commitment that fails: instances that are not kept, requests that are refused, reports that make no sense.

Left out: when and how a good report comes (`test_commitment`).
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.ledger.states import CommitmentState, DeliveryState, State, TransactionState
from dicom_node.remedies import replay_dead_letters
from tests.dicom_node.deliver.commitment_cases import NODE_AE, CommitmentCase, Destination, Request, report_dataset

NO_SUCH_INSTANCE = 0x0112


@pytest.fixture
def case(tmp_path: Path):
    made = CommitmentCase(tmp_path)
    yield made
    made.close()


@pytest.fixture
def pacs(case: CommitmentCase):
    """A destination to which the result has been delivered and that was asked once."""
    made = Destination()
    with made.listening() as port:
        case.peer("pacs", port)
        case.deliver()
        case.ask()
        with case.receiving(made):
            yield made


def _report(case: CommitmentCase, pacs: Destination, request: Request, failed: dict[str, int]) -> None:
    assert pacs.report(report_dataset(request, failed)) == 0x0000
    case.take_in()


def test_what_failed_is_sent_again_and_asked_for_with_a_new_transaction_uid(case: CommitmentCase, pacs: Destination):
    first = pacs.requests[0]
    lost = first.uids[2]
    _report(case, pacs, first, {lost: NO_SUCH_INSTANCE})
    job, delivery = case.job(), case.delivery()
    assert (job.state, job.code) == (State.DELIVERING, "commitment_failed")
    assert "1 of 4 instances are not kept: no such object instance (0x0112) 1" in str(delivery.reason)
    assert [item.stored for item in delivery.instances] == [True, True, False, True]
    assert delivery.instances[2].failure_reason == NO_SUCH_INSTANCE
    case.ask()
    assert len(pacs.requests) == 1, "nothing is asked before it is sent again"
    case.room.clock.advance(6.0)
    case.deliver()
    assert pacs.stored[4:] == [lost]
    case.ask()
    second = pacs.requests[1]
    assert second.uids == [lost]
    assert second.transaction_uid != first.transaction_uid
    _report(case, pacs, second, {})
    assert case.job().state is State.COMMITTED
    assert [row.state for row in case.transactions()] == [TransactionState.FAILED, TransactionState.COMMITTED]


def test_a_peer_that_keeps_failing_makes_a_dead_letter_which_can_be_replayed(case: CommitmentCase, pacs: Destination):
    for number in range(3):
        _report(case, pacs, pacs.requests[number], {pacs.requests[number].uids[0]: NO_SUCH_INSTANCE})
        case.room.clock.advance(6.0)
        case.deliver()
        case.ask()
    assert len(pacs.requests) == 3
    assert len(pacs.stored) == 4 + 2
    job = case.job()
    assert (job.state, job.series.state, job.code) == (State.FAILED, State.FAILED, "commitment_failed")
    assert case.delivery().state is DeliveryState.FAILED
    (remedy,) = replay_dead_letters(case.room.ledger, case.settings, None)
    assert remedy.after == "DELIVERING"
    case.deliver()
    case.ask()
    assert len(pacs.stored) == 4 + 3
    _report(case, pacs, pacs.requests[3], {})
    assert case.job().state is State.COMMITTED


def test_a_report_that_leaves_instances_out_is_asked_again_for_those(case: CommitmentCase, pacs: Destination):
    first = pacs.requests[0]
    assert pacs.report(report_dataset(first, only=first.uids[:3])) == 0x0000
    case.take_in()
    assert (case.job().state, case.delivery().commitment_code) == (State.DELIVERED, "commitment_incomplete")
    assert case.transactions()[0].state is TransactionState.INCOMPLETE
    case.room.clock.advance(6.0)
    case.ask()
    assert pacs.requests[1].uids == first.uids[3:]
    assert len(pacs.stored) == 4, "nobody said that anything is lost"
    _report(case, pacs, pacs.requests[1], {})
    assert case.job().state is State.COMMITTED


def test_a_duplicate_transaction_is_only_asked_again(case: CommitmentCase, pacs: Destination):
    first = pacs.requests[0]
    _report(case, pacs, first, dict.fromkeys(first.uids, 0x0131))
    case.room.clock.advance(6.0)
    case.ask()
    assert pacs.requests[1].transaction_uid != first.transaction_uid
    assert (len(pacs.stored), case.job().state) == (4, State.DELIVERED)


def test_a_class_that_is_never_committed_is_neither_sent_nor_asked_again(case: CommitmentCase, pacs: Destination):
    _report(case, pacs, pacs.requests[0], dict.fromkeys(pacs.requests[0].uids, 0x0122))
    assert (case.job().state, case.state_of()) == (State.DELIVERED, CommitmentState.UNCONFIRMED)
    assert "SOP class not supported" in str(case.delivery().commitment_reason)


def test_failures_of_an_older_request_do_not_count(case: CommitmentCase, pacs: Destination):
    case.room.clock.advance(61.0)
    case.ask()
    first, second = pacs.requests
    _report(case, pacs, first, {first.uids[1]: NO_SUCH_INSTANCE})
    assert case.job().state is State.DELIVERED
    assert [bool(item.committed_at) for item in case.delivery().instances] == [True, False, True, True]
    _report(case, pacs, second, {})
    assert case.job().state is State.COMMITTED
    assert len(pacs.stored) == 4


def test_a_failure_that_is_taken_back_before_anything_was_sent_again(case: CommitmentCase, pacs: Destination):
    first = pacs.requests[0]
    _report(case, pacs, first, {first.uids[1]: NO_SUCH_INSTANCE})
    assert case.job().state is State.DELIVERING
    _report(case, pacs, first, {})
    assert case.job().state is State.COMMITTED
    assert case.delivery().state is DeliveryState.DELIVERED
    case.room.clock.advance(6.0)
    case.deliver()
    assert len(pacs.stored) == 4


def test_a_report_from_another_peer_does_not_count_and_is_noted(case: CommitmentCase, pacs: Destination):
    case.peer("other", 4242, roles=("commitment",))
    with case.receiving(pacs):
        assert pacs.report(report_dataset(pacs.requests[0]), title="OTHER") == 0x0000
        case.take_in()
    assert case.state_of() is CommitmentState.WAITING
    assert case.remarks() == ["commitment_other_peer"]


def test_a_peer_without_the_role_may_not_report(case: CommitmentCase, pacs: Destination):
    assert pacs.report(report_dataset(pacs.requests[0]), title="SCANNER") == 0x0124
    assert case.reports.take_in() == 0


def _without(*keywords: str):
    def change(ds: Dataset) -> None:
        for keyword in keywords:
            delattr(ds, keyword)

    return change


def _bad_uid(ds: Dataset) -> None:
    ds.TransactionUID = "../../etc"


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("change", "event_type", "status"),
    [(_without("TransactionUID"), 1, 0x0115), (_bad_uid, 1, 0x0115), (lambda ds: None, 3, 0x0113)],
    ids=["no transaction", "no UID", "event type"],
)
def test_a_report_that_cannot_be_used_is_refused(
    case: CommitmentCase, pacs: Destination, change, event_type: int, status: int
):
    ds = report_dataset(pacs.requests[0])
    change(ds)
    assert pacs.report(ds, event_type=event_type) == status
    assert case.reports.take_in() == 0
    assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000


@pytest.mark.parametrize("garbage", [b"garbage" * 50, b"\x08\x00\x99\x11\xff\xff\xff\xff\xfe\xff", None])
def test_a_report_of_garbage_is_refused_and_the_receiver_goes_on(
    case: CommitmentCase, pacs: Destination, garbage: bytes | None
):
    assoc = AE("PACS").associate(
        "127.0.0.1", pacs.node_port, [build_context(StorageCommitmentPushModel)], ae_title=NODE_AE
    )
    message = N_EVENT_REPORT()
    message.MessageID, message.EventTypeID = 1, 1
    message.AffectedSOPClassUID = StorageCommitmentPushModel
    message.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
    if garbage is not None:
        message.EventInformation = BytesIO(garbage)
    assoc._reactor_checkpoint.clear()
    assoc.dimse.send_msg(message, assoc.accepted_contexts[0].context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert answer.Status == 0x0115
    assoc.release()
    assert case.reports.take_in() == 0
    assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000


def _fresh(tmp_path: Path) -> tuple[CommitmentCase, Destination]:
    return CommitmentCase(tmp_path), Destination()


def test_a_refused_request_ends_at_once_and_names_who_has_to_act(tmp_path: Path):
    case, pacs = _fresh(tmp_path)
    pacs.action_status = 0x0124
    with pacs.listening() as port:
        case.peer("pacs", port)
        case.deliver()
        case.ask()
        case.room.clock.advance(100.0)
        case.ask()
    assert len(pacs.requests) == 1
    delivery = case.delivery()
    assert (case.job().state, delivery.commitment) == (State.DELIVERED, CommitmentState.UNCONFIRMED)
    assert "0x0124 (not authorised); ask its administrator" in str(delivery.commitment_reason)
    assert case.transactions()[0].state is TransactionState.REFUSED
    case.close()


def test_a_peer_without_storage_commitment_ends_it_at_once(tmp_path: Path):
    case, pacs = _fresh(tmp_path)
    with pacs.listening(commits=False) as port:
        case.peer("pacs", port)
        case.deliver()
        case.ask()
    assert (case.job().state, case.delivery().commitment_code) == (State.DELIVERED, "commitment_refused")
    case.close()


def test_a_busy_peer_is_asked_again_with_another_uid(tmp_path: Path):
    case, pacs = _fresh(tmp_path)
    pacs.action_status = 0x0213
    with pacs.listening() as port:
        case.peer("pacs", port)
        case.deliver()
        case.ask()
        assert case.state_of() is CommitmentState.WAITING
        pacs.action_status = 0x0000
        case.room.clock.advance(6.0)
        case.ask()
    assert len({request.transaction_uid for request in pacs.requests}) == 2
    assert [row.state for row in case.transactions()] == [TransactionState.LOST, TransactionState.ASKED]
    case.close()


def test_a_peer_that_is_down_is_asked_when_it_is_back_and_the_tries_are_capped(tmp_path: Path, free_port: int):
    case, pacs = _fresh(tmp_path)
    with pacs.listening() as port:
        case.peer("pacs", port)
        case.deliver()
    case.peer("pacs", free_port)
    case.ask()
    delivery = case.delivery()
    assert (delivery.commitment_code, delivery.commitment_tries) == ("peer_unreachable", 1)
    assert case.transactions() == [], "what never left leaves no request behind"
    with pacs.listening() as port:
        case.peer("pacs", port)
        case.ask()
        assert pacs.requests == [], "nothing is tried before its wait is over"
        case.room.clock.advance(6.0)
        case.ask()
        assert len(pacs.requests) == 1
    case.peer("pacs", free_port)
    for _ in range(4):
        case.room.clock.advance(100.0)
        case.ask()
    assert (case.state_of(), case.delivery().commitment_code) == (CommitmentState.UNCONFIRMED, "peer_unreachable")
    assert case.job().state is State.DELIVERED
    case.close()


def test_a_peer_that_aborts_instead_of_answering_may_have_been_asked(tmp_path: Path):
    case, pacs = _fresh(tmp_path)
    pacs.within = lambda request: request.event.assoc.abort()
    with pacs.listening() as port:
        case.peer("pacs", port)
        case.deliver()
        case.ask()
        assert case.delivery().commitment_code == "commitment_unanswered"
        (row,) = case.transactions()
        assert row.state is TransactionState.LOST
        with case.receiving(pacs):
            assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000
            case.take_in()
    assert case.job().state is State.COMMITTED
    case.close()
