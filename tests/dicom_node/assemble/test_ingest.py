"""From the receiver's files to series and ledger: each kind of arrival, and a kill before every change of the disk.

Left out: completion and decision (`test_sweep`), and the receiver (its files are written by its own `Incoming` here).
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from dicom_node.assemble.content import content_sha256
from dicom_node.ledger import queries
from dicom_node.ledger.spool import InstanceMeta, read_lines
from dicom_node.ledger.states import State
from dicom_node.ledger.store import SERIES_JOURNAL, Ledger
from dicom_node.ledger.tables import Association, Event, Instance, Job, SetAside
from tests.dicom_node.dicom.builders import ct_dataset, set_dirty, uid
from tests.dicom_node.node_cases import Room, association, encoded, head_stack, killed_at, receive, store_all


@pytest.fixture
def room(tmp_path: Path):
    made = Room(tmp_path / "data")
    yield made
    made.ledger.close()


def _count(room: Room, table: type) -> int:
    with room.ledger.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def _asides(room: Room) -> list[queries.AsideView]:
    with room.ledger.reading() as session:
        return queries.set_aside(session)


def test_files_move_below_their_series_and_the_association_folder_goes(room: Room):
    receive(room, head_stack(3))
    room.ingest.scan()
    series = room.series()
    folder = room.paths.series / series.folder
    assert series.state is State.RECEIVING
    assert sorted(path.name for path in folder.glob("*.dcm")) == sorted(one.file_name for one in series.instances)
    assert list(room.paths.incoming.iterdir()) == []
    events = [line["event"] for line in read_lines(folder / SERIES_JOURNAL)]
    assert events.count("instance") == 3
    assert events[0] == "series"
    assert events[-1] == "association"


def test_an_open_association_is_in_the_ledger_and_its_files_are_taken_already(room: Room):
    with association(room.incoming) as journal:
        store_all(journal, head_stack(2))
        room.ingest.scan()
        assert len(room.series().instances) == 2
        with room.ledger.reading() as session:
            assert session.scalars(select(Association)).one().outcome == "open"
    room.ingest.scan()
    with room.ledger.reading() as session:
        assert session.scalars(select(Association)).one().outcome == "closed"


def test_two_series_interleaved_on_one_association_are_told_apart(room: Room):
    first, second = head_stack(4, series="a"), head_stack(4, series="b")
    receive(room, [one for pair in zip(first, second, strict=True) for one in pair])
    room.ingest.scan()
    assert len(room.states()) == 2
    assert len(room.series(uid("study", "a")).instances) == 4


def test_the_same_bytes_again_are_noted_and_dropped(room: Room):
    receive(room, head_stack(3))
    room.ingest.scan()
    receive(room, head_stack(3))
    room.ingest.scan()
    assert _count(room, Instance) == 3
    assert not _asides(room)
    with room.ledger.reading() as session:
        remark = session.scalars(select(Event).where(Event.kind == "duplicate")).one()
    assert remark.figures["instances"] == 3


def test_an_instance_twice_within_one_association_is_one(room: Room):
    (one,) = head_stack(1)
    receive(room, [one, one])
    room.ingest.scan()
    assert _count(room, Instance) == 1
    assert not _asides(room)


def test_other_bytes_under_the_same_uid_are_kept_aside_and_the_first_copy_wins(room: Room):
    (first,) = head_stack(1)
    (other,) = head_stack(1, intercept=-1000.0)
    receive(room, [first])
    room.ingest.scan()
    receive(room, [other])
    room.ingest.scan()
    (aside,) = _asides(room)
    assert (aside.code, aside.sop_instance_uid) == ("other_bytes", first.SOPInstanceUID)
    assert (room.paths.quarantine / aside.file_name).read_bytes() == encoded(other)
    series = room.series()
    assert (room.paths.series / series.folder / series.instances[0].file_name).read_bytes() == encoded(first)


def test_the_same_image_through_another_receiver_version_is_a_duplicate(tmp_path: Path):
    (one,) = head_stack(1)
    first = tmp_path / "first.dcm"
    first.write_bytes(encoded(one))
    one.file_meta.ImplementationVersionName = "ANOTHER_1"
    one.file_meta.SourceApplicationEntityTitle = "ELSEWHERE"
    second = tmp_path / "second.dcm"
    second.write_bytes(encoded(one))
    assert first.read_bytes() != second.read_bytes()
    assert content_sha256(first) == content_sha256(second)


def test_random_bytes_go_to_the_quarantine_with_a_reason_and_block_nobody(room: Room):
    with association(room.incoming) as journal:
        journal.store([b"\x00\xff" * 500], InstanceMeta("1.2", "1.3", "1.2.840.10008.1.2.1"))
        store_all(journal, head_stack(1))
    room.ingest.scan()
    (aside,) = _asides(room)
    assert aside.code == "unreadable"
    assert (room.paths.quarantine / aside.file_name).read_bytes() == b"\x00\xff" * 500
    assert _count(room, Instance) == 1


def test_a_uid_with_path_characters_cannot_leave_the_spool(room: Room):
    hostile = ct_dataset(0)
    set_dirty(hostile, "SeriesInstanceUID", "../../evil")
    receive(room, [hostile])
    room.ingest.scan()
    assert [aside.code for aside in _asides(room)] == ["unreadable"]
    assert not list(room.paths.data_dir.parent.glob("**/evil*"))


@pytest.mark.parametrize(
    "marks",
    [
        {"SyntheticData": "YES"},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]},
        {"ManufacturerModelName": "jmmda-node"},
    ],
    ids=["synthetic", "derived", "own device"],
)
def test_what_a_node_made_is_skipped_at_once(room: Room, marks: dict[str, object]):
    receive(room, head_stack(24, **marks))
    room.ingest.scan()
    series = room.series()
    assert (series.state, series.code) == (State.SKIPPED, "loop_guard")
    assert len(series.instances) == 24


def test_our_own_result_is_known_by_its_uid_even_if_a_peer_strips_every_mark(room: Room):
    receive(room, head_stack(24, series="source"))
    room.settle()
    with room.ledger.transaction() as change:
        change.session.scalars(select(Job)).one().result_series_uid = uid("study", "stripped")
    receive(room, head_stack(24, series="stripped"))
    room.ingest.scan()
    assert room.series(uid("study", "stripped")).code == "loop_guard"


def test_a_single_derived_screen_inside_a_series_does_not_condemn_it(room: Room):
    stack = head_stack(24)
    stack[3].ImageType = ["DERIVED", "SECONDARY"]
    receive(room, stack)
    room.ingest.scan()
    assert room.series().state is State.RECEIVING


def test_a_dead_receiver_leaves_an_aborted_association_whose_images_are_kept(room: Room):
    def work() -> None:
        journal = room.incoming.open_association(calling_ae="SCANNER", called_ae="N", host="127.0.0.1", port=1)
        store_all(journal, head_stack(3))

    # The fork ends without closing the journal, as a killed receiver does.
    assert not killed_at(10_000, work)
    room.ingest.scan()
    assert _count(room, Instance) == 3
    with room.ledger.reading() as session:
        assert session.scalars(select(Association)).one().outcome == "aborted"


def test_folders_that_a_crash_left_behind_are_swept_away_and_young_ones_are_not(room: Room):
    root = room.paths.incoming
    for name, age_s in ((".done-x", 0), (".old", 7200), (".young", 0)):
        (root / name).mkdir()
        then = time.time() - age_s
        os.utime(root / name, (then, then))
    room.ingest.recover()
    assert [entry.name for entry in root.iterdir()] == [".young"]


def test_a_kill_before_any_change_of_the_disk_loses_and_doubles_nothing(tmp_path: Path):
    """Good files, a duplicate, other bytes and garbage, taken in by a service that dies before each step in turn."""
    template = tmp_path / "template"
    made = Room(template)
    with association(made.incoming) as journal:
        store_all(journal, head_stack(3))
        store_all(journal, [head_stack(1)[0], head_stack(1, intercept=-1000.0)[0]])
        journal.store([b"garbage" * 50], InstanceMeta("1.2", "1.3", "1.2.840.10008.1.2.1"))
    made.ledger.close()

    call = 0
    died = True
    while died:
        data = tmp_path / f"run-{call}"
        shutil.copytree(template, data)

        def work(data: Path = data) -> None:
            Room(data).ingest.scan()

        died = killed_at(call, work)
        after = Room(data)
        after.ingest.recover()
        after.ingest.scan()
        series = after.series()
        assert len(series.instances) == 3
        assert len(list((data / "spool" / "series" / series.folder).glob("*.dcm"))) == 3
        assert sorted(aside.code for aside in _asides(after)) == ["other_bytes", "unreadable"]
        lines = list(read_lines(data / "spool" / "series" / series.folder / SERIES_JOURNAL))
        told = {line["sop_instance_uid"] for line in lines if line["event"] == "instance"}
        assert told == {one.sop_instance_uid for one in series.instances}
        assert list((data / "spool" / "incoming").iterdir()) == []
        after.ledger.close()
        shutil.rmtree(data)
        call += 1
    assert call > 15


def test_the_quarantine_is_known_again_after_the_ledger_is_lost(room: Room):
    from dicom_node.ledger.rebuild import restore_missing

    with association(room.incoming) as journal:
        journal.store([b"garbage" * 50], InstanceMeta("1.2", "1.3", "1.2.840.10008.1.2.1"))
    room.ingest.scan()
    before = _asides(room)
    room.ledger.close()
    (room.paths.data_dir / "ledger.sqlite").unlink()
    room.ledger = Ledger.open(room.paths, clock=room.clock)
    restore_missing(room.ledger)
    restore_missing(room.ledger)
    assert _asides(room) == before
    assert _count(room, SetAside) == 1
