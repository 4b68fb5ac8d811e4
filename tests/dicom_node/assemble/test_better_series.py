"""A better series that comes after the decision: `report` keeps the one result, `supersede` replaces it; never two.

Left out: late slices of the chosen series (test_sweep), and the new DerivationDescription (`derive`, `test_stages`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.assemble.late import TOOK_OVER
from dicom_node.ledger.rebuild import restore_missing
from dicom_node.ledger.states import UNSENT, DeliveryState, State
from dicom_node.ledger.tables import Delivery, DeliveryInstance, Event, Job, Study
from dicom_node.ledger.verdicts import verdicts_of
from tests.dicom_node.dicom.builders import uid
from tests.dicom_node.node_cases import Room, head_stack, node_settings, receive

FIRST, LATE = uid("study", "first"), uid("study", "late")


def _room(tmp_path: Path, policy: str) -> Room:
    data_dir = tmp_path / "data"
    return Room(data_dir, node_settings(data_dir, selection={"better_series_later": policy}))


@pytest.fixture
def reporting(tmp_path: Path):
    made = _room(tmp_path, "report")
    yield made
    made.ledger.close()


@pytest.fixture
def superseding(tmp_path: Path):
    made = _room(tmp_path, "supersede")
    yield made
    made.ledger.close()


def _poor() -> list[Dataset]:
    """A series that can be chosen, without a word for it in the description."""
    return head_stack(series="first", SeriesDescription="THIN")


def _better(n: int = 30) -> list[Dataset]:
    return head_stack(n, series="late", SeriesDescription="BRAIN STANDARD")


def _advance(room: Room, *states: State, stored: bool = False) -> None:
    """Take the job of the first series through states as the later stages do."""
    with room.ledger.transaction() as change:
        job = change.session.scalars(select(Job)).one()
        job.result_series_uid = "1.2.3.4"
        for state in states:
            if state is State.DELIVERING:
                delivery = Delivery(destination="pacs", attempts=1)
                delivery.instances = [DeliveryInstance(sop_instance_uid="1.2", stored=stored)]
                job.deliveries.append(delivery)
            change.move_job(job, state)
        if states[-1:] == (State.DELIVERED,):
            job.deliveries[0].state = DeliveryState.DELIVERED


def _live(room: Room) -> list[str]:
    """UIDs of the series that have a result, finished or in the making."""
    with room.ledger.reading() as session:
        jobs = session.scalars(select(Job).where(Job.state.not_in((State.SUPERSEDED, State.FAILED, State.REFUSED))))
        return [job.series.series_instance_uid for job in jobs]


def _chosen(room: Room) -> str | None:
    with room.ledger.reading() as session:
        return session.scalars(select(Study)).one().chosen_series_uid


IN_THE_WAY: dict[str, Callable[[Room], None]] = {
    "queued": lambda room: None,
    "synthesizing": lambda room: _advance(room, State.SYNTHESIZING),
    "derived": lambda room: _advance(room, State.SYNTHESIZING, State.DERIVED),
    "delivering": lambda room: _advance(room, State.SYNTHESIZING, State.DERIVED, State.DELIVERING, stored=True),
    "delivered": lambda room: _advance(
        room, State.SYNTHESIZING, State.DERIVED, State.DELIVERING, State.DELIVERED, stored=True
    ),
    "committed": lambda room: _advance(
        room, State.SYNTHESIZING, State.DERIVED, State.DELIVERING, State.DELIVERED, State.COMMITTED, stored=True
    ),
    "failed before it was sent": lambda room: _advance(room, State.SYNTHESIZING, State.FAILED),
    "failed in the middle": lambda room: _advance(
        room, State.SYNTHESIZING, State.DERIVED, State.DELIVERING, State.FAILED, stored=True
    ),
}


@pytest.mark.parametrize("stand", IN_THE_WAY)
def test_report_keeps_the_first_result_wherever_it_stands(reporting: Room, stand: str):
    receive(reporting, _poor())
    reporting.settle()
    IN_THE_WAY[stand](reporting)
    before = reporting.series(FIRST).state
    receive(reporting, _better())
    reporting.settle()
    late = reporting.series(LATE)
    assert (late.state, late.code, late.verdict_code) == (State.SKIPPED, "better_series_late", "better_series_late")
    assert "series retry --new" in (late.reason or "")
    assert (reporting.series(FIRST).state, _chosen(reporting)) == (before, FIRST)
    assert not late.jobs
    with reporting.ledger.reading() as session:
        assert session.scalars(select(Event).where(Event.kind == "better_series_late")).one().reason


@pytest.mark.parametrize("stand", IN_THE_WAY)
def test_supersede_takes_the_late_series_and_leaves_one_live_result(superseding: Room, stand: str):
    room = superseding
    receive(room, _poor())
    room.settle()
    IN_THE_WAY[stand](room)
    receive(room, _better())
    room.settle()
    first, late = room.series(FIRST), room.series(LATE)
    assert (late.state, _chosen(room), _live(room)) == (State.QUEUED, LATE, [LATE])
    assert (first.state, first.code, first.job_key) == (State.SKIPPED, TOOK_OVER, None)
    assert LATE in (first.reason or "")
    (old,), (new,) = first.jobs, late.jobs
    assert old.state is State.SUPERSEDED
    # What was sent, or may have been, has to be named in the successor; what never left needs no mention.
    was_sent = stand in ("delivering", "delivered", "committed", "failed in the middle")
    assert (new.supersedes, new.superseded_series_uid) == ((old.key, "1.2.3.4") if was_sent else (None, None))
    assert all(delivery.state is not DeliveryState.PENDING for delivery in old.deliveries)


@pytest.mark.parametrize("policy", ["report", "supersede"])
def test_a_late_series_that_is_not_better_has_its_reason_and_changes_nothing(tmp_path: Path, policy: str):
    room = _room(tmp_path, policy)
    receive(room, _better())
    room.settle()
    receive(room, _poor())
    receive(room, head_stack(series="bone", ConvolutionKernel="H70h"))
    room.settle()
    assert (room.series(FIRST).state, room.series(FIRST).code) == (State.SKIPPED, "not_preferred")
    assert room.series(uid("study", "bone")).code == "bone_kernel"
    assert (_chosen(room), _live(room)) == (LATE, [LATE])
    room.ledger.close()


def test_a_late_series_that_the_gate_refuses_takes_no_place(superseding: Room):
    room = superseding
    receive(room, _poor())
    room.settle()
    _advance(room, State.SYNTHESIZING, State.DERIVED, State.DELIVERING, State.DELIVERED, stored=True)
    # Two slices at one position with other pixels: the score takes them for copies, the gate looks at the pixels.
    (other,) = head_stack(1, start=5, series="late", pixels=np.full((16, 16), 7, dtype=np.uint16))
    other.SOPInstanceUID, other.InstanceNumber = uid("study", "late", "other"), "99"
    receive(room, [*_better(), other])
    room.settle()
    late = room.series(LATE)
    assert (late.state, late.code) == (State.REFUSED, "duplicate_position")
    assert (room.series(FIRST).state, _chosen(room), _live(room)) == (State.DELIVERED, FIRST, [FIRST])


def test_late_slices_of_the_series_that_stepped_back_make_no_second_result(superseding: Room):
    room = superseding
    receive(room, _poor())
    room.settle()
    receive(room, _better())
    room.settle()
    receive(room, head_stack(2, start=24, series="first", SeriesDescription="THIN"))
    room.settle()
    assert (room.series(FIRST).state, room.series(FIRST).code) == (State.SKIPPED, "not_preferred")
    assert (_chosen(room), _live(room)) == (LATE, [LATE])


def test_a_chosen_series_that_is_refused_while_another_arrives_does_not_block_it(reporting: Room):
    room = reporting
    receive(room, _poor())
    room.settle()
    receive(room, _better())
    room.round()
    assert room.series(LATE).state is State.RECEIVING
    with room.ledger.transaction() as change:
        job = change.session.scalars(select(Job)).one()
        assert job.state in UNSENT
        change.move_job(job, State.SYNTHESIZING)
        change.move_job(job, State.REFUSED, code="no_brain", reason="no brain")
    room.settle()
    room.settle()
    assert room.series(FIRST).state is State.REFUSED
    assert (room.series(LATE).state, _chosen(room), _live(room)) == (State.QUEUED, LATE, [LATE])


def test_the_table_of_a_study_survives_the_loss_of_the_ledger(superseding: Room):
    room = superseding
    receive(room, _poor())
    receive(room, head_stack(2, series="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    room.settle()
    receive(room, _better())
    room.settle()

    def table() -> dict[str, object]:
        with room.ledger.reading() as session:
            rows = verdicts_of(session, session.scalars(select(Study)).one())
            return {row.series_instance_uid: row for row in rows}

    before = table()
    assert len(before) == 3
    room.ledger.close()
    for path in room.paths.data_dir.glob("ledger.sqlite*"):
        path.unlink()
    room.open()
    restore_missing(room.ledger)
    assert table() == before
