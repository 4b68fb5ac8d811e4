"""Storage commitment and crashes: the report is on disk before it is answered, and reaches the ledger once.

Killed is a forked process at each of its changes of the file system. Left out: killing a running node (`test_node*`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sqlalchemy import select

from dicom_node.deliver.commitment import CommitmentAsker
from dicom_node.deliver.commitment_reports import CommitmentReports
from dicom_node.ledger.commitment_box import CommitmentBox, Kind, read_record
from dicom_node.ledger.job_file import read_job_file
from dicom_node.ledger.rebuild import restore_missing, sync_journals
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.ledger.states import State, TransactionState
from dicom_node.ledger.store import Ledger
from dicom_node.ledger.tables import CommitmentTransaction, Event, Job
from tests.dicom_node.deliver.commitment_cases import CommitmentCase, Destination, report_dataset
from tests.dicom_node.net.associations import wait_until
from tests.dicom_node.node_cases import killed_at


def _reported(tmp_path: Path) -> CommitmentCase:
    """A case with a report on disk that the ledger does not know yet."""
    case, pacs = CommitmentCase(tmp_path), Destination()
    with pacs.listening() as port:
        case.peer("pacs", port)
        case.deliver()
        case.ask()
        with case.receiving(pacs):
            assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000
    return case


def test_killed_anywhere_between_the_file_and_the_ledger_the_report_counts_once(tmp_path: Path):
    case = _reported(tmp_path / "template")
    case.close()
    settings, template = case.settings, case.room.paths.data_dir
    died, call = True, 0
    while died:
        paths = SpoolPaths(tmp_path / f"run-{call}")
        shutil.copytree(template, paths.data_dir)

        def work(paths: SpoolPaths = paths) -> None:
            CommitmentReports(Ledger.open(paths), lambda: settings).take_in()

        died = killed_at(call, work)
        ledger = Ledger.open(paths)
        sync_journals(ledger)
        CommitmentReports(ledger, lambda: settings).take_in()
        assert list((paths.data_dir / "commitment").iterdir()) == []
        with ledger.reading() as session:
            job = session.scalars(select(Job)).one()
            codes = [one.code for one in session.scalars(select(Event).where(Event.kind == "commitment"))]
            assert (job.state, job.series.state, codes) == (State.COMMITTED, State.COMMITTED, ["commitment_confirmed"])
            record = read_job_file(paths.jobs / job.key)
            assert record is not None
            assert record["state"] == "COMMITTED"
        ledger.close()
        call += 1
    assert call > 4


def test_killed_anywhere_while_it_is_written_a_report_is_whole_or_not_there(tmp_path: Path):
    record = {"calling_ae": "PACS", "transaction_uid": "2.25.1", "committed": [["1.2", "3.4"]], "failed": []}
    died, call = True, 0
    while died:
        data = tmp_path / f"run-{call}"
        data.mkdir()
        answered = data / "answered"

        def work(data: Path = data, answered: Path = answered) -> None:
            CommitmentBox(data).leave(Kind.REPORT, record)
            answered.touch()

        died = killed_at(call, work)
        found = CommitmentBox(data).waiting(Kind.REPORT)
        assert all(read_record(path) == record for path in found)
        assert found or not answered.exists()
        call += 1
    assert call > 4


def test_a_request_cut_off_by_a_crash_is_made_again_and_its_report_counts_still(tmp_path: Path):
    case, pacs = CommitmentCase(tmp_path), Destination()
    with pacs.listening() as port:
        case.peer("pacs", port)
        case.deliver()
        case.ask()
        with case.room.ledger.transaction() as change:
            # As the ledger stands while the request is on its way.
            change.session.scalars(select(CommitmentTransaction)).one().accepted_at = None
        again = CommitmentAsker(case.room.ledger, lambda: case.settings)
        again.recover()
        again.round("pacs")
        assert len({request.transaction_uid for request in pacs.requests}) == 2
        assert [row.state for row in case.transactions()] == [TransactionState.LOST, TransactionState.ASKED]
        assert case.delivery().commitment_asked == 1
        with case.receiving(pacs):
            assert pacs.report(report_dataset(pacs.requests[0])) == 0x0000
            case.take_in()
    assert case.job().state is State.COMMITTED
    case.close()


def test_the_ledger_is_lost_while_a_report_waits(tmp_path: Path):
    case = _reported(tmp_path)
    before = [row.transaction_uid for row in case.transactions()]
    case.close()
    for path in case.room.paths.data_dir.glob("ledger.sqlite*"):
        path.unlink()
    case.room.open()
    case.open()
    assert restore_missing(case.room.ledger).jobs == 1
    assert [row.transaction_uid for row in case.transactions()] == before
    assert case.job().state is State.DELIVERED
    case.take_in()
    assert case.job().state is State.COMMITTED
    case.close()
    for path in case.room.paths.data_dir.glob("ledger.sqlite*"):
        path.unlink()
    case.room.open()
    assert restore_missing(case.room.ledger).jobs == 1
    assert (case.job().state, case.job().series.state) == (State.COMMITTED, State.COMMITTED)
    assert all(item.committed_at for item in case.delivery().instances)
    assert case.remarks() == ["commitment_confirmed"]
    case.room.ledger.close()


def test_a_damaged_file_is_set_aside_and_stops_nothing(tmp_path: Path):
    case = _reported(tmp_path)
    folder = case.room.paths.data_dir / "commitment"
    assert wait_until(lambda: list(folder.glob("*.report.json")))
    (folder / "00-damaged.report.json").write_bytes(b'{"transaction_uid": "2.2')
    case.reports.take_in()
    assert case.job().state is State.COMMITTED
    assert [path.name for path in folder.iterdir()] == ["00-damaged.report.json.damaged"]
    case.close()
