"""One series over several associations: parallel, repeated, aborted and resumed, interleaved; and clocks that jump.

Every way must end in one result with every slice. Left out: sources that are asked (`test_counted`), late slices
(`test_late_slices`), and the receiver's side of an abort (`tests/dicom_node/receive`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.ledger.states import State
from dicom_node.ledger.tables import Job
from tests.dicom_node.dicom.builders import uid
from tests.dicom_node.node_cases import Room, association, head_stack, receive, store_all

SERIES = uid("study", "series")


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "data")
    yield made
    made.ledger.close()


def _one_result(room: Room, slices: int = 24, uid: str | None = SERIES) -> None:
    series = room.series(uid)
    assert series.state is State.QUEUED
    assert [len(job.sources["files"]) for job in series.jobs] == [slices]


def _abort(room: Room, datasets: Sequence[Dataset]) -> None:
    journal = room.incoming.open_association(calling_ae="SCANNER", called_ae="N", host="127.0.0.1", port=1)
    store_all(journal, datasets)
    journal.close("aborted")


def test_parallel_associations_that_end_one_after_the_other(room: Room) -> None:
    stack = head_stack()
    with association(room.incoming) as first:
        store_all(first, stack[::2])
        with association(room.incoming) as second:
            store_all(second, stack[1::2])
            room.round(after_s=0.1)
        room.round()
        room.round(after_s=3.0)
        assert room.series().state is State.RECEIVING, "the other one is still open"
    room.round()
    room.round(after_s=0.1)
    assert room.series().state is State.COMPLETE
    room.settle()
    _one_result(room)


def test_one_association_per_instance(room: Room) -> None:
    for one in head_stack():
        receive(room, [one])
        room.round(after_s=1.5)
        assert room.series().state is State.RECEIVING
    room.settle()
    _one_result(room)


def test_two_senders_of_one_series(room: Room) -> None:
    stack = head_stack()
    receive(room, stack[:12])
    receive(room, stack[12:], calling_ae="SCANNER2")
    room.settle()
    _one_result(room)


def test_series_that_are_interleaved_on_one_association(room: Room) -> None:
    pairs = zip(head_stack(series="one"), head_stack(series="two", ConvolutionKernel="H70h"), strict=True)
    receive(room, [one for pair in pairs for one in pair])
    room.round()
    room.round(after_s=2.1)
    assert set(room.states().values()) == {"COMPLETE"}
    room.settle()
    _one_result(room, uid=uid("study", "one"))
    assert room.states()[uid("study", "two")] == "SKIPPED"


@pytest.mark.parametrize("resumed_with", ["the rest", "everything"])
def test_an_abort_is_waited_for_and_resumed(room: Room, resumed_with: str) -> None:
    """What has come looks like a whole head: only the way in which the association ended says that more will come."""
    stack = head_stack(30)
    _abort(room, stack[:24])
    room.round()
    room.round(after_s=6.0)
    assert room.series().state is State.RECEIVING
    receive(room, stack if resumed_with == "everything" else stack[24:])
    room.round()
    room.round(after_s=2.1)
    assert room.series().state is State.COMPLETE
    assert room.series().signs == ["association_closed", "contiguous", "sufficient", "settled"]
    room.settle()
    _one_result(room, 30)


def test_an_abort_after_the_last_image_is_made_good_by_a_release(room: Room) -> None:
    """The sender missed the last response, comes back with all of it, and brings nothing new."""
    _abort(room, head_stack())
    room.round(after_s=1.0)
    receive(room, head_stack())
    room.round()
    room.round(after_s=2.1)
    assert room.series().state is State.COMPLETE


def test_an_abort_that_nobody_resumes_ends_with_the_quiet_timer(room: Room) -> None:
    _abort(room, head_stack())
    room.round()
    room.round(after_s=10.1)
    assert room.series().signs == ["own_associations_closed", "contiguous", "sufficient", "settled", "quiet"]


def test_the_count_in_the_headers_makes_a_torn_stack_wait_and_a_whole_one_complete(room: Room) -> None:
    stack = [one for k, one in enumerate(head_stack(NumberOfSeriesRelatedInstances="22")) if k not in (11, 12)]
    receive(room, stack[:20])
    room.round()
    room.round(after_s=5.0)
    assert room.series().state is State.RECEIVING
    receive(room, stack[20:])
    room.round()
    room.round(after_s=2.1)
    series = room.series()
    assert series.state is State.COMPLETE, "a gap, but as many as there are"
    assert series.signs == ["association_closed", "sufficient", "header_count", "settled"]
    assert series.expected == {"header": 22}


@pytest.mark.parametrize("jump", [timedelta(days=400), -timedelta(days=400)])
def test_the_clock_of_the_wall_changes_nothing(room: Room, jump: timedelta) -> None:
    """Back and forth at every step: the moments of the steps are those of the monotonic clock."""
    stack = head_stack()

    def jumped(*, after_s: float) -> str:
        nonlocal jump
        jump = -jump
        room.clock._now += jump
        room.round(after_s=after_s)
        return room.series().state.value

    with association(room.incoming) as journal:
        store_all(journal, stack[:12])
        assert jumped(after_s=0.0) == "RECEIVING"
        assert jumped(after_s=5.0) == "RECEIVING"
        store_all(journal, stack[12:])
        assert jumped(after_s=1.0) == "RECEIVING"
    assert jumped(after_s=1.9) == "RECEIVING"
    assert jumped(after_s=0.2) == "COMPLETE"
    assert jumped(after_s=2.8) == "COMPLETE"
    assert jumped(after_s=0.2) == "QUEUED"


def test_the_hard_cap_counts_on_the_monotonic_clock_and_from_the_reopening(room: Room) -> None:
    cap_s = room.settings.intake.hard_cap_s
    with association(room.incoming) as journal:
        for number, one in enumerate(head_stack(60, step=3.0)):
            store_all(journal, [one])
            room.clock._now = datetime(2020 + number % 5, 1, 1, tzinfo=UTC)
            room.round(after_s=9.9)
            assert room.series().state is State.RECEIVING
        room.clock.advance(cap_s - 59 * 9.9 + 0.1)
        store_all(journal, head_stack(61, step=3.0)[-1:])
        room.round()
        assert room.series().signs[-1] == "hard_cap"
        room.round(after_s=cap_s)
        store_all(journal, head_stack(62, step=3.0)[-1:])
        room.round()
        assert room.series().state is State.RECEIVING, "a late slice opens it for as long as a new series"
        room.round(after_s=9.0)
        assert room.series().state is State.RECEIVING


@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_a_series_is_cut_up_one_result_has_all_of_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    room = Room(tmp_path_factory.mktemp("spread") / "data")
    stack = head_stack(16, step=7.0)
    order = data.draw(st.permutations(range(16)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 15), max_size=3)))
    parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, 16], strict=True)]
    again = data.draw(st.sets(st.integers(0, 15), max_size=4))
    for part in parts:
        datasets = [stack[k] for k in [*part, *again.intersection(order[: order.index(part[-1])])]]
        if data.draw(st.booleans()):
            _abort(room, datasets)
        else:
            receive(room, datasets)
        room.round(after_s=data.draw(st.floats(0.0, 12.0)))
    room.settle()
    room.settle()
    with room.ledger.reading() as session:
        jobs = list(session.scalars(select(Job).where(Job.state != State.SUPERSEDED)))
        assert [len(job.sources["files"]) for job in jobs] == [16]
    assert room.series().state is State.QUEUED
    room.ledger.close()
