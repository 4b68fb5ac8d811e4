"""The ledger is lost and made again from the journals: every row is as before.

Left out: the running node that loses its ledger (`test_node_recovery`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.ledger.job_file import read_job_file, row_to_json
from dicom_node.ledger.rebuild import Restored, restore_missing, sync_journals
from dicom_node.ledger.spool import read_lines
from dicom_node.ledger.states import CommitmentState, DeliveryState, State, TransactionState
from dicom_node.ledger.store import SERIES_JOURNAL, Ledger
from dicom_node.ledger.tables import (
    Association,
    CommitmentTransaction,
    Delivery,
    DeliveryInstance,
    Event,
    Instance,
    Job,
    Series,
    Study,
)
from tests.dicom_node.dicom.builders import uid
from tests.dicom_node.node_cases import Room, head_stack, receive

TABLES = (Study, Series, Instance, Association, Job, Delivery, DeliveryInstance, CommitmentTransaction)


@pytest.fixture
def room(tmp_path: Path):
    made = Room(tmp_path / "data")
    yield made
    made.ledger.close()


def _rows(ledger: Ledger) -> dict[str, list[dict[str, Any]]]:
    with ledger.reading() as session:
        found = {table.__tablename__: [row_to_json(row) for row in session.scalars(select(table))] for table in TABLES}
        events = session.scalars(select(Event).where(Event.kind.in_(("state", "job_state", "duplicate"))))
        # An association that brought nothing new left no trace in any series.
        useful = set(session.scalars(select(Instance.association_key)))
        found["associations"] = [row for row in found["associations"] if row["key"] in useful]
        found["events"] = [row_to_json(row) for row in events]
    for rows in found.values():
        for row in rows:
            row.pop("study_id", None)
        rows.sort(key=repr)
    return found


def _differences(before: dict[str, list[dict[str, Any]]], after: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Table, column and both values of whatever is not as before."""
    found = [f"{table}: {len(rows)} rows, now {len(after[table])}" for table, rows in before.items()
             if len(rows) != len(after[table])]  # fmt: skip
    for table, rows in before.items():
        for old, new in zip(rows, after[table], strict=False):
            found += [f"{table}.{name}: {old[name]!r}, now {new[name]!r}" for name in old if old[name] != new[name]]
    return found


def _lose(room: Room) -> None:
    room.ledger.close()
    for path in room.paths.data_dir.glob("ledger.sqlite*"):
        path.unlink()
    room.open()


def _result(room: Room, *, delivered: bool) -> None:
    """Take the queued job as far as the later stages would."""
    with room.ledger.transaction() as change:
        job = change.session.scalars(select(Job).where(Job.state == State.QUEUED)).one()
        job.bundle = {"name": "b", "sha256": "s"}
        job.attempts, job.started_at, job.synthesized_at = 1, change.at, change.at
        change.move_job(job, State.SYNTHESIZING)
        job.result = {"series_instance_uid": "9.8", "instances": [{"file": "a.dcm", "sop_instance_uid": "9.8.1"}]}
        job.result_series_uid, job.derived_at = "9.8", change.at
        change.move_job(job, State.DERIVED)
        delivery = Delivery(destination="pacs", attempts=2, code="x", reason="y")
        delivery.instances = [
            DeliveryInstance(sop_instance_uid="9.8.1", stored=True, status=0, sent_at=change.at),
            DeliveryInstance(sop_instance_uid="9.8.2", stored=False),
        ]
        delivery.commitment, delivery.commitment_asked = CommitmentState.WAITING, 2
        delivery.commitment_next_at, delivery.commitment_code = change.at, "commitment_silent"
        delivery.transactions = [
            CommitmentTransaction(
                transaction_uid=f"2.25.{n}", peer="pacs", state=state, instances=2, asked_at=change.at
            )
            for n, state in enumerate((TransactionState.EXPIRED, TransactionState.ASKED))
        ]
        job.deliveries.append(delivery)
        change.move_job(job, State.DELIVERING)
        if delivered:
            delivery.state, delivery.delivered_at = DeliveryState.DELIVERED, change.at
            change.finish_delivery(delivery)


def _study(room: Room) -> None:
    receive(room, head_stack(series="head"))
    receive(room, head_stack(series="bone", ConvolutionKernel="H70h"))
    receive(room, head_stack(3, series="head"))
    receive(room, head_stack(12, study="gap", series="gap")[:5] + head_stack(12, start=8, study="gap", series="gap"))
    receive(room, head_stack(24, study="back", series="own", SyntheticData="YES"))
    room.settle()


@pytest.mark.parametrize("how_far", ["queued", "delivering", "delivered"])
def test_everything_is_as_before(room: Room, how_far: str):
    _study(room)
    if how_far != "queued":
        _result(room, delivered=how_far == "delivered")
    before = _rows(room.ledger)
    assert {row["state"] for row in before["series"]} >= {"SKIPPED", "REFUSED"}
    _lose(room)
    assert restore_missing(room.ledger) == Restored(series=4, jobs=1)
    assert _differences(before, _rows(room.ledger)) == []


def test_a_series_still_being_received_goes_on_where_it_was(room: Room):
    stack = head_stack()
    receive(room, stack[:10])
    room.round()
    _lose(room)
    restore_missing(room.ledger)
    receive(room, stack[10:])
    room.settle()
    series = room.series()
    assert series.state is State.QUEUED
    assert len(series.jobs[0].sources["files"]) == 24


def test_late_slices_and_their_superseded_result_survive(room: Room):
    stack = head_stack(28, series="head")
    receive(room, stack[:24])
    room.settle()
    _result(room, delivered=True)
    receive(room, stack[24:])
    room.settle()
    before = _rows(room.ledger)
    _lose(room)
    assert restore_missing(room.ledger).jobs == 2
    assert _differences(before, _rows(room.ledger)) == []
    series = room.series(uid("study", "head"))
    assert [job.state for job in series.jobs] == [State.SUPERSEDED, State.QUEUED]
    assert series.job_key == series.jobs[1].key


def test_a_whole_ledger_is_left_alone(room: Room):
    _study(room)
    before = _rows(room.ledger)
    assert restore_missing(room.ledger) == Restored(0, 0)
    assert _differences(before, _rows(room.ledger)) == []


def test_journals_cut_off_by_a_crash_are_completed_at_the_next_start(room: Room):
    receive(room, head_stack(series="head"))
    room.settle()
    series = room.series()
    journal = room.paths.series / series.folder / SERIES_JOURNAL
    job_file = room.paths.jobs / str(series.job_key) / "job.json"
    lines = journal.read_bytes().splitlines(keepends=True)
    cut = [line for line in lines if b'"after":"QUEUED"' not in line]
    assert len(cut) == len(lines) - 1
    journal.write_bytes(b"".join(cut))
    job_file.unlink()
    sync_journals(room.ledger)
    sync_journals(room.ledger)
    states = [line["after"] for line in read_lines(journal) if line["event"] == "state"]
    assert states[-1] == "QUEUED"
    assert states.count("QUEUED") == 1
    record = read_job_file(job_file.parent)
    assert record is not None
    _lose(room)
    restore_missing(room.ledger)
    assert room.series().state is State.QUEUED


def test_a_job_file_of_an_unknown_series_is_left_out(room: Room):
    receive(room, head_stack(series="head"))
    room.settle()
    series = room.series()
    for path in (room.paths.series / series.folder).iterdir():
        path.unlink()
    (room.paths.series / series.folder).rmdir()
    _lose(room)
    assert restore_missing(room.ledger) == Restored(0, 0)


def test_a_damaged_job_file_stops_nothing(room: Room):
    receive(room, head_stack(series="head"))
    room.settle()
    (room.paths.jobs / str(room.series().job_key) / "job.json").write_bytes(b'{"version": 1, "cut')
    _lose(room)
    assert restore_missing(room.ledger).series == 1
