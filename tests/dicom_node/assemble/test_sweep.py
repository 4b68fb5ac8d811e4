"""Completion and decision on real files and a wound clock: choice, gate, late slices, a better series that comes late.

Left out: the rules themselves (`tests/dicom_node/dicom`), and everything after QUEUED.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.ledger.spool import SpoolPaths
from dicom_node.ledger.states import DeliveryState, State, StudyState
from dicom_node.ledger.tables import Delivery, DeliveryInstance, Event, Job
from tests.dicom_node.dicom.builders import uid
from tests.dicom_node.node_cases import Room, association, head_stack, receive, store_all

SERIES = uid("study", "series")


@pytest.fixture
def room(tmp_path: Path):
    made = Room(tmp_path / "data")
    yield made
    made.ledger.close()


def _deliver(room: Room, key: str, result_uid: str, *, stored: bool = True) -> None:
    """Take a job to DELIVERED (or to the middle of its delivery) as the later stages do."""
    with room.ledger.transaction() as change:
        job = change.job(key)
        assert job is not None
        change.move_job(job, State.SYNTHESIZING)
        job.result_series_uid = result_uid
        change.move_job(job, State.DERIVED)
        delivery = Delivery(destination="pacs", attempts=1)
        delivery.instances = [DeliveryInstance(sop_instance_uid="1.2", stored=stored)]
        job.deliveries.append(delivery)
        change.move_job(job, State.DELIVERING)
        if stored:
            delivery.state = DeliveryState.DELIVERED
            change.finish_delivery(delivery)


def test_a_whole_series_is_complete_after_settling_and_queued_when_the_study_is_quiet(room: Room):
    receive(room, head_stack())
    room.round()
    room.round(after_s=1.9)
    assert room.series().state is State.RECEIVING
    room.round(after_s=0.2)
    assert room.series().state is State.COMPLETE
    room.round(after_s=3.0)
    series = room.series()
    assert series.state is State.QUEUED
    assert series.signs == ["association_closed", "contiguous", "sufficient", "settled"]
    (job,) = series.jobs
    assert (job.state, job.key) == (State.QUEUED, series.job_key)
    assert len(job.sources["files"]) == 24
    assert (series.study.state, series.study.chosen_series_uid) == (StudyState.DECIDED, SERIES)
    assert (room.paths.jobs / job.key / "job.json").is_file()


def test_the_job_lists_its_files_along_the_normal(room: Room):
    receive(room, list(reversed(head_stack())))
    room.settle()
    (job,) = room.series().jobs
    assert job.sources["sop_instance_uids"] == [str(one.SOPInstanceUID) for one in head_stack()]


def test_nothing_is_complete_while_the_association_is_open_until_the_quiet_timer(room: Room):
    with association(room.incoming) as journal:
        store_all(journal, head_stack())
        room.round()
        room.round(after_s=9.0)
        assert room.series().state is State.RECEIVING
        room.round(after_s=1.1)
        assert room.series().signs == ["contiguous", "sufficient", "settled", "quiet"]


def test_every_series_of_a_study_has_its_reason(room: Room):
    receive(room, head_stack(series="head"))
    receive(room, head_stack(series="bone", ConvolutionKernel="H70h"))
    receive(room, head_stack(2, series="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    room.settle()
    assert room.states() == {
        uid("study", "head"): "QUEUED",
        uid("study", "bone"): "SKIPPED",
        uid("study", "scout"): "SKIPPED",
    }
    assert room.series(uid("study", "bone")).code == "bone_kernel"
    assert room.series(uid("study", "scout")).code == "localizer"
    assert room.series(uid("study", "head")).verdict_code == "chosen"


def test_a_localizer_does_not_keep_the_study_waiting_for_the_quiet_timer(room: Room):
    receive(room, head_stack(series="head"))
    receive(room, head_stack(2, series="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    room.round()
    room.round(after_s=5.1)
    room.round()
    assert room.states()[uid("study", "head")] == "QUEUED"


def test_a_gap_is_refused_with_numbers_and_the_missing_slice_makes_it_good(room: Room):
    stack = head_stack()
    receive(room, [one for k, one in enumerate(stack) if k not in (11, 12)])
    room.settle()
    series = room.series()
    assert (series.state, series.code) == (State.REFUSED, "gap")
    assert series.figures
    assert not series.jobs
    receive(room, stack[11:13])
    room.settle()
    series = room.series()
    assert series.state is State.QUEUED
    assert len(series.jobs[0].sources["files"]) == 24


def test_a_study_without_a_suitable_series_is_decided_for_none_and_opens_when_one_arrives(room: Room):
    receive(room, head_stack(2, series="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    room.settle()
    scout = room.series()
    assert (scout.state, scout.study.state, scout.study.chosen_series_uid) == (State.SKIPPED, StudyState.DECIDED, None)
    receive(room, head_stack(series="head"))
    room.settle()
    assert room.states() == {uid("study", "scout"): "SKIPPED", uid("study", "head"): "QUEUED"}


def test_late_slices_before_anything_was_sent_replace_the_job(room: Room):
    stack = head_stack(28)
    receive(room, stack[:24])
    room.settle()
    first = room.series().jobs[0].key
    receive(room, stack[24:])
    room.round()
    assert room.series().state is State.RECEIVING
    room.settle()
    series = room.series()
    old, new = series.jobs
    assert (old.key, old.state, old.code) == (first, State.SUPERSEDED, "late_slices")
    assert (new.state, len(new.sources["files"])) == (State.QUEUED, 28)
    assert new.supersedes is None
    assert series.job_key == new.key


def test_late_slices_after_delivery_make_a_new_result_that_names_the_old_one(room: Room):
    stack = head_stack(28)
    receive(room, stack[:24])
    room.settle()
    old_key = room.series().job_key
    _deliver(room, old_key, "1.2.3.4")
    assert room.series().state is State.DELIVERED
    receive(room, stack[24:])
    room.round()
    assert room.series().jobs[0].state is State.DELIVERED, "the old result stays valid until there is a new one"
    room.settle()
    old, new = room.series().jobs
    assert (old.state, old.code) == (State.SUPERSEDED, "superseded")
    assert (new.state, new.supersedes, new.superseded_series_uid) == (State.QUEUED, old.key, "1.2.3.4")


def test_a_delivery_under_way_is_cancelled_when_its_successor_is_queued(room: Room):
    stack = head_stack(28)
    receive(room, stack[:24])
    room.settle()
    _deliver(room, room.series().job_key, "1.2.3.4", stored=False)
    receive(room, stack[24:])
    room.settle()
    old, new = room.series().jobs
    assert old.state is State.SUPERSEDED
    assert [delivery.state for delivery in old.deliveries] == [DeliveryState.CANCELLED]
    assert new.superseded_series_uid == "1.2.3.4"


@pytest.mark.parametrize(
    "further", [(), (State.COMMITTED,), (State.DELIVERING,), (State.DELIVERING, State.FAILED)], ids=str
)
def test_a_late_slice_that_the_gate_drops_makes_no_second_result(room: Room, further: tuple[State, ...]):
    stack = head_stack(24)
    receive(room, stack)
    room.settle()
    key = room.series().job_key
    _deliver(room, key, "1.2.3.4")
    with room.ledger.transaction() as change:
        job = change.session.scalars(select(Job)).one()
        for state in further:
            change.move_job(job, state)
    # The same pixels at the same position under another UID: the gate drops one of the two with a note.
    (copy,) = head_stack(1, start=5)
    copy.SOPInstanceUID = uid("study", "series", "zzz copy")
    copy.InstanceNumber = "99"
    receive(room, [copy])
    room.settle()
    series = room.series()
    assert (series.state, series.code, series.job_key) == ((State.DELIVERED, *further)[-1], "same_input", key)
    assert len(series.jobs) == 1


def test_the_whole_study_sent_again_changes_nothing(room: Room):
    receive(room, head_stack())
    room.settle()
    _deliver(room, room.series().job_key, "1.2.3.4")
    for _ in range(3):
        receive(room, head_stack())
        room.settle()
    series = room.series()
    assert series.state is State.DELIVERED
    assert len(series.jobs) == 1


def test_a_better_series_after_the_decision_is_reported_only(room: Room):
    receive(room, head_stack(series="second", SeriesDescription="THIN"))
    room.settle()
    _deliver(room, room.series().job_key, "1.2.3.4")
    receive(room, head_stack(30, series="first", SeriesDescription="BRAIN STANDARD"))
    room.settle()
    late = room.series(uid("study", "first"))
    assert (late.state, late.code) == (State.SKIPPED, "better_series_late")
    with room.ledger.reading() as session:
        assert session.scalars(select(Event).where(Event.kind == "better_series_late")).one().reason
        assert len(session.scalars(select(Job)).all()) == 1


def test_files_that_vanish_refuse_their_series_and_no_other(room: Room):
    receive(room, head_stack(series="gone"))
    room.round()
    receive(room, head_stack(study="other", series="well"))
    room.round()
    folder = room.paths.series_folder(uid("study"), uid("study", "gone"))
    for path in folder.glob("*.dcm"):
        path.rename(path.with_suffix(".elsewhere"))
    for _ in range(3):
        try:
            room.round(after_s=6.0)
        except FileNotFoundError:
            pytest.fail("a series whose files vanished blocks the others")
    states = room.states()
    assert states[uid("other", "well")] == "QUEUED"
    assert states[uid("study", "gone")] == "REFUSED"


def test_waiting_starts_anew_after_a_restart_but_knows_what_passed(room: Room):
    receive(room, head_stack())
    room.round()
    room.clock.advance(60.0)
    room.ledger.close()
    room.open()
    room.sweeper.run(room.settings)
    assert room.series().state is State.QUEUED


def test_the_clock_of_the_wall_may_jump_while_a_series_waits(room: Room):
    receive(room, head_stack())
    room.round()
    room.clock._now = room.clock._now.replace(year=room.clock._now.year + 1)
    room.sweeper.run(room.settings)
    assert room.series().state is State.RECEIVING


def test_paths_of_one_series_uid_in_two_studies_differ(tmp_path: Path):
    paths = SpoolPaths(tmp_path)
    assert paths.series_folder("1", "2") != paths.series_folder("3", "2")
