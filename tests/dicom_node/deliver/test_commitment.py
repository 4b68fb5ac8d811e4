"""Storage commitment of results, over real associations: when a report comes, how, and what becomes of each.

Left out: failures, refusals and what is given up (`test_commitment_failures`), what a crash leaves
(`test_commitment_killed`), Orthanc (`tests/peers/test_commitment_orthanc`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dicom_node.assemble.late import supersede
from dicom_node.deliver.commitment_state import await_commitment
from dicom_node.ledger.states import CommitmentState, JobKind, State, TransactionState
from dicom_node.ledger.tables import DeliveryInstance
from tests.dicom_node.deliver.commitment_cases import CommitmentCase, Destination, report_dataset
from tests.dicom_node.net.associations import PATIENT_NAME, wait_until


@pytest.fixture
def case(tmp_path: Path):
    made = CommitmentCase(tmp_path)
    yield made
    made.close()


@pytest.fixture
def pacs(case: CommitmentCase):
    """A destination that listens, and to which the result has been delivered already."""
    made = Destination()
    with made.listening() as port:
        case.peer("pacs", port)
        case.deliver()
        with case.receiving(made):
            yield made


def test_a_report_over_a_new_association_makes_job_and_series_committed(case: CommitmentCase, pacs: Destination):
    assert case.job().state is State.DELIVERED
    assert case.state_of() is CommitmentState.WAITING
    case.ask()
    (request,) = pacs.requests
    assert request.uids == [one.sop_instance_uid for one in case.result.instances]
    assert {sop_class for sop_class, _ in request.references} == {"1.2.840.10008.5.1.4.1.1.4"}
    assert pacs.report(report_dataset(request)) == 0x0000
    case.take_in()
    job = case.job()
    assert (job.state, job.series.state) == (State.COMMITTED, State.COMMITTED)
    assert all(item.committed_at for item in case.delivery().instances)
    record = json.loads((case.room.paths.jobs / case.key / "job.json").read_bytes())
    (told,) = record["deliveries"][0]["commitment_transactions"]
    assert (told["transaction_uid"], told["state"]) == (request.transaction_uid, "COMMITTED")
    assert record["state"] == "COMMITTED"


def test_a_peer_that_negotiates_no_roles_may_report_too(case: CommitmentCase, pacs: Destination):
    case.ask()
    assert pacs.report(report_dataset(pacs.requests[0]), roles=False) == 0x0000
    case.take_in()
    assert case.job().state is State.COMMITTED


@pytest.mark.parametrize("moment", ["after", "within"])
def test_a_report_over_the_same_association_counts(tmp_path: Path, moment: str):
    """Some report before they have answered the request."""
    case = CommitmentCase(tmp_path, same_association_s=20.0)
    pacs, answers = Destination(), []

    def report(request) -> None:
        answers.append(pacs.report_over_the_same(request, report_dataset(request)))

    setattr(pacs, moment, report)
    with pacs.listening() as port:
        case.peer("pacs", port)
        case.deliver()
        case.ask()  # ends when the report has been answered, long before the twenty seconds
        case.take_in()
    assert answers == [0x0000]
    assert case.job().state is State.COMMITTED
    assert case.transactions()[0].accepted_at is not None
    case.close()


def test_a_report_that_comes_twice_is_answered_twice_and_counts_once(case: CommitmentCase, pacs: Destination):
    case.ask()
    for _ in range(2):
        assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000
    case.take_in(2)
    assert case.job().state is State.COMMITTED
    assert case.remarks() == ["commitment_confirmed", "commitment_again"]
    assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000
    case.take_in()
    assert case.remarks()[2:] == ["commitment_again"]


def test_a_late_report_counts_although_the_peer_was_asked_again(case: CommitmentCase, pacs: Destination):
    case.ask()
    case.ask()
    assert len(pacs.requests) == 1, "nobody is asked again before the time is over"
    case.room.clock.advance(61.0)
    case.ask()
    first, second = pacs.requests
    assert first.transaction_uid != second.transaction_uid
    assert first.uids == second.uids
    assert [row.state for row in case.transactions()] == [TransactionState.EXPIRED, TransactionState.ASKED]
    assert pacs.report(report_dataset(first)) == 0x0000
    case.take_in()
    assert case.job().state is State.COMMITTED
    assert pacs.report(report_dataset(second)) == 0x0000
    case.take_in()
    assert case.job().state is State.COMMITTED
    assert case.remarks() == ["commitment_confirmed"]


def test_a_peer_that_never_reports_leaves_the_job_delivered_and_says_what_to_do(
    case: CommitmentCase, pacs: Destination
):
    for _ in range(5):
        case.ask()
        case.room.clock.advance(61.0)
    assert len({request.transaction_uid for request in pacs.requests}) == len(pacs.requests) == 3
    assert case.job().state is State.DELIVERED
    delivery = case.delivery()
    assert (delivery.commitment, delivery.commitment_code) == (CommitmentState.UNCONFIRMED, "commitment_silent")
    assert "no report came from pacs, after 3 requests" in str(delivery.commitment_reason)
    assert case.remarks() == ["commitment_silent"]
    from dicom_node.remedies import retry_series

    (remedy,) = retry_series(case.room.ledger, case.settings, case.job().series.series_instance_uid, new=False)
    assert "asked for again: pacs" in remedy.told
    case.ask()
    assert len(pacs.requests) == 4
    assert pacs.report(report_dataset(pacs.requests[3])) == 0x0000
    case.take_in()
    assert case.job().state is State.COMMITTED


def test_a_report_after_all_was_given_up_counts_still(case: CommitmentCase, pacs: Destination):
    for _ in range(5):
        case.ask()
        case.room.clock.advance(61.0)
    assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000
    case.take_in()
    assert case.job().state is State.COMMITTED


def test_an_unknown_transaction_is_answered_and_changes_nothing(
    case: CommitmentCase, pacs: Destination, caplog: pytest.LogCaptureFixture
):
    case.ask()
    ds = report_dataset(pacs.requests[0])
    ds.TransactionUID = "2.25.4711"
    ds.PatientName = PATIENT_NAME
    with caplog.at_level("DEBUG"):
        assert pacs.report(ds) == 0x0000
        folder = case.room.paths.data_dir / "commitment"
        assert wait_until(lambda: list(folder.glob("*.report.json")))
        assert PATIENT_NAME not in next(folder.glob("*.report.json")).read_text()
        case.take_in()
    assert case.state_of() is CommitmentState.WAITING
    assert "2.25.4711, which nobody here began" in caplog.text
    assert PATIENT_NAME not in caplog.text


def test_two_destinations_make_a_job_committed_only_when_both_have_confirmed(tmp_path: Path):
    case = CommitmentCase(tmp_path, destinations=("pacs", "archive"))
    pacs, archive = Destination(), Destination("ARCHIVE")
    with pacs.listening() as port, archive.listening() as other:
        case.peer("pacs", port)
        case.peer("archive", other)
        with case.receiving(pacs):
            archive.node_port = pacs.node_port
            case.deliver("pacs")
            case.ask("pacs")
            assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000
            case.take_in()
            assert case.job().state is State.DELIVERING
            case.deliver("archive")
            assert case.job().state is State.DELIVERED
            case.ask("archive")
            assert archive.report(report_dataset(archive.requests[0])) == 0x0000
            case.take_in()
    assert case.job().state is State.COMMITTED
    case.close()


def test_another_peer_may_commit_for_a_destination(tmp_path: Path):
    case = CommitmentCase(tmp_path)
    pacs, archive = Destination(), Destination("ARCHIVE")
    with pacs.listening(commits=False) as port, archive.listening() as other:
        case.peer("archive", other, roles=("commitment",))
        case.peer("pacs", port, roles=("destination",), committed_by="archive")
        with case.receiving(archive):
            case.deliver()
            case.ask()
            assert (len(pacs.stored), len(archive.stored)) == (4, 0)
            assert archive.report(report_dataset(archive.requests[0])) == 0x0000
            case.take_in()
    assert case.job().state is State.COMMITTED
    case.close()


def test_without_the_role_nobody_is_asked_and_delivered_is_the_end(tmp_path: Path):
    case = CommitmentCase(tmp_path)
    pacs = Destination()
    with pacs.listening() as port:
        case.peer("pacs", port, roles=("destination",))
        case.deliver()
        case.ask()
    assert pacs.requests == []
    assert case.state_of() is None
    assert case.job().state is State.DELIVERED
    case.close()


def test_what_was_delivered_before_the_peer_had_its_role_is_asked_for_on_request(tmp_path: Path):
    from dicom_node.remedies import retry_series

    case = CommitmentCase(tmp_path)
    pacs = Destination()
    with pacs.listening() as port:
        case.peer("pacs", port, roles=("destination",))
        case.deliver()
        case.peer("pacs", port)
        case.ask()
        assert pacs.requests == []
        retry_series(case.room.ledger, case.settings, case.job().series.series_instance_uid, new=False)
        case.ask()
    assert len(pacs.requests) == 1
    case.close()


def test_a_result_that_was_replaced_is_asked_for_no_more_and_its_report_changes_no_state(
    case: CommitmentCase, pacs: Destination
):
    case.ask()
    with case.room.ledger.transaction() as change:
        job = change.job(case.key)
        assert job is not None
        supersede(change, job, "heir")
    assert case.state_of() is None
    case.room.clock.advance(61.0)
    case.ask()
    assert len(pacs.requests) == 1
    assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000
    case.take_in()
    assert case.job().state is State.SUPERSEDED
    assert case.state_of() is CommitmentState.COMMITTED


@pytest.mark.parametrize("stored", [True, False])
def test_companions_are_not_asked_about_whether_they_got_there_or_not(tmp_path: Path, stored: bool):
    case, pacs = CommitmentCase(tmp_path), Destination()
    with pacs.listening() as port:
        case.peer("pacs", port)
        case.deliver()
        with case.room.ledger.transaction() as change:
            job = change.job(case.key)
            assert job is not None
            seg = {"sop_instance_uid": "2.25.7", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.4", "file": "seg.dcm"}
            job.result = {**job.result, "companions": [{"kind": "seg", "instances": [seg]}]}
            job.deliveries[0].instances.append(DeliveryInstance(sop_instance_uid="2.25.7", stored=stored))
        with case.receiving(pacs):
            case.ask()
            (request,) = pacs.requests
            assert request.uids == [one.sop_instance_uid for one in case.result.instances]
            assert pacs.report(report_dataset(request)) == 0x0000
            case.take_in()
    assert case.job().state is State.COMMITTED
    case.close()


def test_a_note_about_a_refusal_is_not_asked_about(case: CommitmentCase):
    with case.room.ledger.transaction() as change:
        job = change.job(case.key)
        assert job is not None
        case.peer("pacs", 11199)
        await_commitment(job.deliveries[0], case.settings, change.at)
        assert job.deliveries[0].commitment is CommitmentState.WAITING
        job.kind = JobKind.NOTE
        await_commitment(job.deliveries[0], case.settings, change.at)
        assert job.deliveries[0].commitment is None
