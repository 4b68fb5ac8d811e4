"""Completion of real files by what a real source answers to C-FIND, on a wound clock; whole studies; bad answers.

Left out: what is made of single answers (`test_source`), the judgement by itself (`test_completion`), real time and
real processes (`make bench`, `tests/peers/test_orthanc_count`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.ledger.rebuild import restore_missing
from dicom_node.ledger.states import State
from dicom_node.ledger.tables import AWAITED_EVENT, Event
from dicom_node.settings import Peer, Role
from tests.dicom_node.dicom.builders import PATIENT_NAME, uid
from tests.dicom_node.net.archive import Archive, series_answer
from tests.dicom_node.net.associations import wait_until
from tests.dicom_node.node_cases import Room, association, head_stack, node_settings, receive, store_all

STUDY, SERIES = uid("study"), uid("study", "series")


@pytest.fixture
def archive() -> Iterator[Archive]:
    made = Archive()
    with made.listening():
        yield made


@pytest.fixture
def room(tmp_path: Path, archive: Archive) -> Iterator[Room]:
    made = _room(tmp_path, archive)
    yield made
    made.inquiry.stop()
    made.ledger.close()


def _room(tmp_path: Path, archive: Archive, port: int | None = None, **intake: object) -> Room:
    """A room whose scanner is an archive that can be asked."""
    data_dir = tmp_path / "data"
    port = port or archive.remote.port
    source = Peer(name="pacs", ae_titles=("SCANNER",), host="127.0.0.1", port=port, roles=(Role.SOURCE, Role.QUERY))
    other = Peer(name="view", ae_titles=("VIEW",), host="127.0.0.1", port=11199, roles=(Role.DESTINATION,))
    return Room(data_dir, node_settings(data_dir, peers=(source, other), intake=intake))


def _told(room: Room, *, after_s: float = 0.0) -> None:
    """Do a round that asks, wait for the answer, and do the round that it causes."""
    room.round(after_s=after_s)
    assert wait_until(lambda: all(lane.thread is None for lane in room.inquiry._lanes.values()))
    room.round()


def _holed(n: int = 24) -> list[Dataset]:
    """A stack with two slices missing in the middle: no other sign makes it complete before the quiet timer."""
    return [one for k, one in enumerate(head_stack(n)) if k not in (11, 12)]


def test_a_stack_with_a_gap_is_complete_at_once_when_the_source_holds_no_more(room: Room, archive: Archive) -> None:
    archive.hold(_holed())
    receive(room, _holed())
    room.round()
    _told(room, after_s=1.0)
    assert room.series().state is State.RECEIVING
    room.round(after_s=1.1)
    series = room.series()
    assert (series.state, series.code) == (State.REFUSED, "gap"), (
        "the study is whole, so it was decided at once as well"
    )
    assert series.signs == ["association_closed", "sufficient", "source_count", "settled"]
    assert series.expected == {"source": 22, "peer": "pacs", "by": "NumberOfSeriesRelatedInstances"}
    assert archive.levels == ["SERIES"]


def test_a_few_slices_are_complete_at_once_when_there_are_no_more(room: Room, archive: Archive) -> None:
    archive.hold(head_stack(3))
    receive(room, head_stack(3))
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=1.1)
    assert (room.series().state, "sufficient" in room.series().signs) == (State.SKIPPED, False)


def test_a_whole_looking_stack_waits_for_what_the_source_still_holds(room: Room, archive: Archive) -> None:
    archive.hold(head_stack(28))
    receive(room, head_stack(24))
    room.round()
    _told(room, after_s=1.0)
    for after_s in (1.1, 8.0, 50.0):
        room.round(after_s=after_s)
        assert room.series().state is State.RECEIVING
    with room.ledger.reading() as session:
        (remark,) = session.scalars(select(Event).where(Event.kind == AWAITED_EVENT)).all()
    assert "holds 28 images" in (remark.reason or "")
    assert "24 are here" in (remark.reason or "")
    receive(room, head_stack(4, start=24))
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=1.1)
    series = room.series()
    assert series.state is State.QUEUED
    assert len(series.jobs) == 1
    assert len(series.jobs[0].sources["files"]) == 28
    assert "source_count" in series.signs


def test_patience_has_an_end_and_the_result_says_what_is_missing(room: Room, archive: Archive) -> None:
    archive.hold(head_stack(28))
    receive(room, head_stack(24))
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=118.0)
    assert room.series().state is State.RECEIVING
    room.round(after_s=1.5)
    series = room.series()
    assert series.state is State.QUEUED
    assert series.signs[-1] == "patience"
    assert "source_count" not in series.signs
    assert "made of 24 images; the source holds 28 of this series" in series.jobs[0].notes


def test_the_hard_cap_ends_patience(tmp_path: Path, archive: Archive) -> None:
    room = _room(tmp_path, archive, hard_cap_s=60.0)
    archive.hold(head_stack(28))
    receive(room, head_stack(24))
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=58.0)
    assert room.series().state is State.RECEIVING
    room.round(after_s=1.5)
    assert room.series().signs[-1] == "hard_cap"
    room.ledger.close()


def test_a_count_that_was_reached_too_early_is_asked_for_again(room: Room, archive: Archive) -> None:
    """The archive forwards while it is being filled: what it held a moment ago is no proof any more."""
    archive.hold(head_stack(10))
    receive(room, head_stack(10))
    room.round()
    _told(room, after_s=1.0)
    archive.hold(head_stack(18, start=10))
    receive(room, head_stack(4, start=10))
    room.round(after_s=0.2)
    assert len(archive.asked) == 1, "not asked while images come"
    _told(room, after_s=1.0)
    assert len(archive.asked) == 2
    room.round(after_s=5.0)
    assert room.series().state is State.RECEIVING
    receive(room, head_stack(14, start=14))
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=1.1)
    assert room.series().signs[:2] == ["association_closed", "contiguous"]
    assert "source_count" in room.series().signs


def test_a_source_that_holds_less_than_came_says_nothing(room: Room, archive: Archive) -> None:
    """A scanner that sends to us and to the archive at once may be faster here."""
    archive.hold(_holed()[:20])
    receive(room, _holed())
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=8.0)
    assert room.series().state is State.RECEIVING
    room.round(after_s=1.1)
    assert "quiet" in room.series().signs


def test_a_correction_at_the_source_is_noticed_after_a_while(room: Room, archive: Archive) -> None:
    archive.hold(head_stack(28))
    receive(room, head_stack(24))
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=2.0)
    del archive.held[STUDY][SERIES][24:]
    assert len(archive.asked) == 1
    _told(room, after_s=6.0)
    assert len(archive.asked) == 2
    assert room.series().state is not State.RECEIVING


@pytest.mark.parametrize("nonsense", ["nothing", "another series", "no number", "failure"])
def test_nonsense_costs_nothing_but_the_sign(
    room: Room, archive: Archive, nonsense: str, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {
        "nothing": [],
        "another series": [series_answer(STUDY, uid("other"), 99)],
        "no number": [series_answer(STUDY, SERIES, -4)],
        "failure": [],
    }
    archive.says = answers[nonsense]
    archive.status = 0xC001 if nonsense == "failure" else 0x0000
    with caplog.at_level(logging.WARNING):
        receive(room, head_stack())
        room.round()
        _told(room, after_s=1.0)
        room.round(after_s=1.1)
    assert archive.asked
    assert room.series().state is State.COMPLETE, "study_quiet_s is waited for, as without a source that can be asked"
    assert room.series().signs == ["association_closed", "contiguous", "sufficient", "settled"]
    assert ("0xC001" in caplog.text) == (nonsense == "failure")
    assert PATIENT_NAME not in caplog.text


def test_a_source_that_cannot_be_reached_costs_nothing_but_the_sign(
    tmp_path: Path, archive: Archive, free_port: int
) -> None:
    room = _room(tmp_path, archive, port=free_port)
    receive(room, head_stack())
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=1.1)
    assert room.series().state is State.COMPLETE
    room.round(after_s=3.0)
    assert room.series().state is State.QUEUED
    room.ledger.close()


def test_a_peer_without_the_role_is_not_asked(tmp_path: Path, archive: Archive) -> None:
    data_dir = tmp_path / "data"
    source = Peer(name="pacs", ae_titles=("SCANNER",), host="127.0.0.1", port=archive.remote.port,
                  roles=(Role.SOURCE, Role.DESTINATION))  # fmt: skip
    room = Room(data_dir, node_settings(data_dir, peers=(source,)))
    receive(room, head_stack())
    room.settle()
    assert room.series().state is State.QUEUED
    assert archive.asked == []
    room.ledger.close()


def test_what_can_never_be_chosen_is_not_asked_for(room: Room, archive: Archive) -> None:
    receive(room, head_stack(2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    room.settle()
    assert room.series().state is State.SKIPPED
    assert archive.asked == []


def test_an_archive_that_lists_instead_of_counting_serves_as_well(room: Room, archive: Archive) -> None:
    archive.counts = False
    archive.hold(_holed())
    receive(room, _holed())
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=1.1)
    assert room.series().expected["by"] == "list of images"
    assert "source_count" in room.series().signs
    assert archive.levels == ["SERIES", "IMAGE"]


def test_another_open_association_of_a_busy_archive_is_no_reason_to_wait(room: Room, archive: Archive) -> None:
    archive.hold(head_stack())
    with association(room.incoming) as other:
        store_all(other, head_stack(study="other", series="other")[:1])
        receive(room, head_stack())
        room.round()
        _told(room, after_s=1.0)
        room.round(after_s=1.1)
        series = room.series(SERIES)
        assert series.state is State.QUEUED
        assert series.signs[0] == "own_associations_closed"


def test_an_aborted_association_does_not_matter_when_all_is_here(room: Room, archive: Archive) -> None:
    archive.hold(head_stack())
    journal = room.incoming.open_association(calling_ae="SCANNER", called_ae="N", host="127.0.0.1", port=1)
    store_all(journal, head_stack())
    journal.close("aborted")
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=1.1)
    assert room.series().state is State.QUEUED


def test_a_study_with_a_series_still_to_come_waits_for_study_quiet(room: Room, archive: Archive) -> None:
    archive.hold(head_stack())
    archive.hold(head_stack(series="better"))
    receive(room, head_stack())
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=1.1)
    room.round(after_s=2.0)
    assert room.series().state is State.COMPLETE
    room.round(after_s=1.1)
    assert room.series().state is State.QUEUED


def test_series_of_other_modalities_at_the_source_keep_nobody_waiting(room: Room, archive: Archive) -> None:
    archive.says = [series_answer(STUDY, SERIES, 24), series_answer(STUDY, uid("report"), 1)]
    archive.says[0].Modality, archive.says[1].Modality = "CT", "SR"
    receive(room, head_stack())
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=1.1)
    assert room.series().state is State.QUEUED
    with room.ledger.reading() as session:
        assert session.scalars(select(Event).where(Event.kind == "study_whole")).one().reason


def test_a_localizer_that_comes_last_lets_the_study_be_asked_for_again(room: Room, archive: Archive) -> None:
    scout = head_stack(2, series="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    archive.hold(head_stack())
    archive.hold(scout)
    receive(room, head_stack())
    room.round()
    _told(room, after_s=1.5)
    receive(room, scout)
    room.round()
    room.round(after_s=0.6)
    assert room.series(SERIES).state is State.COMPLETE
    room.round(after_s=0.6)
    _told(room, after_s=0.9)
    assert room.series(SERIES).state is State.QUEUED


def test_counts_and_remarks_survive_the_loss_of_the_ledger(room: Room, archive: Archive) -> None:
    archive.hold(head_stack(28))
    receive(room, head_stack(24, ImagesInAcquisition="28"))
    room.round()
    _told(room, after_s=1.0)
    room.round(after_s=1.1)
    expected = {"acquisition": 28, "source": 28, "peer": "pacs", "by": "NumberOfSeriesRelatedInstances"}
    assert room.series().expected == expected
    room.ledger.close()
    for path in room.paths.data_dir.glob("ledger.sqlite*"):
        path.unlink()
    room.open()
    restore_missing(room.ledger)
    assert (room.series().state, room.series().expected) == (State.RECEIVING, expected)


def test_the_sweep_says_when_it_is_worth_looking_again(room: Room, archive: Archive) -> None:
    archive.hold(head_stack())
    assert room.sweeper.run(room.settings) is None
    receive(room, head_stack())
    room.ingest.scan()
    assert room.sweeper.run(room.settings) == pytest.approx(0.5)
    _told(room, after_s=0.6)
    assert room.sweeper.run(room.settings) == pytest.approx(1.4)
    room.clock.advance(1.41)
    assert room.sweeper.run(room.settings) is None
    assert room.series().state is State.QUEUED
