"""Slices that come late, by policy and by where the result stands: one live result at all times, and never two.

Left out: `supersede` in detail (`test_sweep`), a better series that comes late (`test_better_series`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.ledger.rebuild import restore_missing
from dicom_node.ledger.states import State
from dicom_node.ledger.tables import Event, Job
from dicom_node.remedies import retry_series
from tests.dicom_node.assemble.test_better_series import IN_THE_WAY
from tests.dicom_node.dicom.builders import uid
from tests.dicom_node.node_cases import Room, head_stack, node_settings, receive

SERIES = uid("study", "series")
POLICIES = ("supersede", "reopen", "report")
#: Where the result stands -> whether a destination has, or may have, some of it.
SENT = {
    "queued": False,
    "synthesizing": False,
    "derived": False,
    "delivering": True,
    "delivered": True,
    "committed": True,
    "failed before it was sent": False,
    "failed in the middle": True,
}


def _room(tmp_path: Path, policy: str) -> Room:
    data_dir = tmp_path / "data"
    return Room(data_dir, node_settings(data_dir, intake={"late_slices": policy}))


def _jobs(room: Room) -> list[Job]:
    with room.ledger.reading() as session:
        return list(session.scalars(select(Job).order_by(Job.id)))


def _live(room: Room) -> list[int]:
    """Number of slices of every result that is there or being made."""
    dead = (State.SUPERSEDED, State.REFUSED, State.FAILED)
    return [len(job.sources["files"]) for job in _jobs(room) if job.state not in dead]


def _remarks(room: Room) -> list[Event]:
    with room.ledger.reading() as session:
        return list(session.scalars(select(Event).where(Event.kind == "late_slices")))


@pytest.mark.parametrize("stand", SENT)
@pytest.mark.parametrize("policy", POLICIES)
def test_what_becomes_of_late_slices(tmp_path: Path, policy: str, stand: str) -> None:
    room = _room(tmp_path, policy)
    stack = head_stack(28)
    receive(room, stack[:24])
    room.settle()
    IN_THE_WAY[stand](room)
    before = room.series().state
    receive(room, stack[24:])
    room.round()
    assert len(_live(room)) <= 1
    room.settle()
    makes_new = policy == "supersede" or (not SENT[stand] and (policy == "reopen" or "failed" in stand))
    series = room.series()
    assert len(series.instances) == 28, "what came is kept in any case"
    if makes_new:
        assert (series.state, _live(room), len(_jobs(room))) == (State.QUEUED, [28], 2)
        assert not _remarks(room)
    else:
        assert (series.state, len(_jobs(room))) == (before, 1)
        assert _live(room) == ([] if "failed" in stand else [24])
        (remark,) = _remarks(room)
        assert "series retry --new" in (remark.reason or "")
    room.ledger.close()


@pytest.mark.parametrize("policy", ["reopen", "report"])
def test_a_reported_slice_enters_the_result_when_an_administrator_asks(tmp_path: Path, policy: str) -> None:
    room = _room(tmp_path, policy)
    stack = head_stack(28)
    receive(room, stack[:24])
    room.settle()
    IN_THE_WAY["delivered"](room)
    receive(room, stack[24:])
    room.settle()
    assert _live(room) == [24]
    retry_series(room.ledger, room.settings, SERIES, new=True)
    assert _live(room) == [28]
    old, new = _jobs(room)
    assert (old.state, new.supersedes) == (State.SUPERSEDED, old.key)
    room.ledger.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_series_without_a_result_is_always_opened_again(tmp_path: Path, policy: str) -> None:
    room = _room(tmp_path, policy)
    stack = head_stack()
    receive(room, [one for k, one in enumerate(stack) if k not in (11, 12)])
    room.settle()
    assert room.series().code == "gap"
    receive(room, stack[11:13])
    room.settle()
    assert (room.series().state, _live(room)) == (State.QUEUED, [24])
    room.ledger.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_late_before_the_study_is_decided(tmp_path: Path, policy: str) -> None:
    room = _room(tmp_path, policy)
    stack = head_stack(28)
    receive(room, stack[:24])
    room.round()
    room.round(after_s=2.1)
    assert room.series().state is State.COMPLETE
    receive(room, stack[24:])
    room.settle()
    assert (room.series().state, _live(room)) == (State.QUEUED, [28])
    room.ledger.close()


@pytest.mark.parametrize("policy", POLICIES)
def test_synthetic_data_that_comes_late_condemns_the_series_under_every_policy(tmp_path: Path, policy: str) -> None:
    room = _room(tmp_path, policy)
    receive(room, head_stack())
    room.settle()
    receive(room, head_stack(1, start=24, SyntheticData="YES"))
    room.settle()
    assert (room.series().code, _live(room)) == ("loop_guard", [])
    room.ledger.close()


@pytest.mark.parametrize("policy", ["reopen", "report"])
def test_a_kept_result_is_kept_after_the_loss_of_the_ledger(tmp_path: Path, policy: str) -> None:
    room = _room(tmp_path, policy)
    stack = head_stack(28)
    receive(room, stack[:24])
    room.settle()
    IN_THE_WAY["delivered"](room)
    receive(room, stack[24:])
    room.settle()
    room.ledger.close()
    for path in room.paths.data_dir.glob("ledger.sqlite*"):
        path.unlink()
    room.open()
    restore_missing(room.ledger)
    room.settle()
    assert (room.series().state, len(room.series().instances), _live(room)) == (State.DELIVERED, 28, [24])
    assert len(_remarks(room)) == 1
    room.ledger.close()
