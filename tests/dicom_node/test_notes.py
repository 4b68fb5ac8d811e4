"""Notes about refusals: when one is due, that there is one, that it goes out and can be replayed, and how it survives.

The files are those of the writer's own tests (`derive/companions/test_companion_notes`); here the journey is judged,
over a real ledger and real associations. Left out: the running node (`test_node_companions`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage
from sqlalchemy import select

from dicom_node.deliver.outbox import Outbox
from dicom_node.ledger import queries
from dicom_node.ledger.rebuild import restore_missing, sync_journals
from dicom_node.ledger.states import JobKind, State
from dicom_node.ledger.tables import Job
from dicom_node.remedies import handle_request
from dicom_node.settings import Settings
from dicom_node.stages.notes import TOLD_WITHIN, Notes
from tests.dicom_node.deliver.test_outbox import Archive
from tests.dicom_node.net.associations import storage_scp
from tests.dicom_node.node_cases import Room, head_stack, killed_at, node_settings, receive

NOTE = {"not_processed_note": "sr", "not_processed_wait_s": 60.0}


class Case:
    """A node whose site wants notes."""

    def __init__(self, tmp_path: Path, **output: object) -> None:
        data = tmp_path / "data"
        self.room = Room(data, node_settings(data, output={**NOTE, **output}))
        self.woken = 0
        self.notes = Notes(self.room.ledger, lambda: self.room.settings, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def refuse(self, series: str = "series", **changes: object) -> None:
        """Have a series arrive that is too short, and be refused."""
        receive(self.room, head_stack(10, series=series, **changes))
        self.room.settle()

    def round(self, after_s: float = 61.0) -> None:
        self.room.clock.advance(after_s)
        self.notes.run()

    def written(self) -> list[Job]:
        with self.room.ledger.reading() as session:
            jobs = list(session.scalars(select(Job).where(Job.kind == JobKind.NOTE)))
            for job in jobs:
                assert job.series.study.series
                for delivery in job.deliveries:
                    assert delivery.instances
            return jobs

    def file(self, job: Job) -> Path:
        return self.room.paths.jobs / job.key / "out" / job.result["companions"][0]["instances"][0]["file"]

    def outbox(self, port: int) -> Outbox:
        raw = self.room.settings.model_dump()
        raw["peers"] = [one for one in raw["peers"] if one["name"] != "pacs"]
        raw["peers"].append(
            {"name": "pacs", "ae_titles": ["PACS"], "host": "127.0.0.1", "port": port, "roles": ["destination"]}
        )
        raw["delivery"] |= {"attempts": 2, "first_wait_s": 5.0, "association_timeout_s": 3.0}
        self.room.settings = Settings.model_validate(raw)
        return Outbox(self.room.ledger, lambda: self.room.settings)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Case]]:
    made: list[Case] = []

    def build(**output: object) -> Case:
        made.append(Case(tmp_path, **output))
        return made[-1]

    yield build
    for one in made:
        one.room.ledger.close()


@pytest.fixture
def case(make: Callable[..., Case]) -> Case:
    return make()


def test_a_refused_series_gets_one_note_in_its_study_that_says_why(case: Case):
    case.refuse()
    assert case.room.series().state is State.REFUSED
    case.round()
    (job,) = case.written()
    assert (job.state, job.series.state, case.woken) == (State.DERIVED, State.REFUSED, 1)
    assert [one.destination for one in job.deliveries] == ["pacs"]
    note = dcmread(case.file(job))
    source = head_stack(1)[0]
    assert note.SOPClassUID == Comprehensive3DSRStorage
    assert (note.StudyInstanceUID, note.PatientID) == (source.StudyInstanceUID, source.PatientID)
    assert "NOT PROCESSED" in note.SeriesDescription
    assert "coverage" in str(note)


def test_nothing_is_told_by_a_site_that_wants_no_notes(make: Callable[..., Case]):
    case = make(not_processed_note="none")
    case.refuse()
    case.round()
    assert case.written() == []


def test_a_note_waits_until_nothing_more_comes(case: Case):
    case.refuse()
    case.round(after_s=40.0)
    assert case.written() == []
    case.round(after_s=10.0)
    assert len(case.written()) == 1


def test_a_study_whose_later_slices_made_it_whole_gets_no_note(case: Case):
    case.refuse()
    receive(case.room, head_stack(14, start=10))
    case.room.settle()
    assert case.room.series().state is State.QUEUED
    case.round()
    assert case.written() == []


def test_one_reason_is_told_once_however_often_and_for_however_many_series(case: Case):
    case.refuse()
    case.round()
    handle_request(
        case.room.ledger, case.room.settings, {"verb": "retry", "uid": case.room.series().series_instance_uid}
    )
    case.room.settle()
    assert case.room.series().state is State.REFUSED
    case.round()
    case.refuse(series="another")
    case.round()
    assert len(case.written()) == 1


def test_a_refusal_of_another_kind_gets_a_note_of_its_own(case: Case):
    case.refuse()
    case.round()
    receive(case.room, [*head_stack(10, start=20), *head_stack(10, start=40)])
    case.room.settle()
    case.round()
    assert [job.sources["code"] for job in case.written()] == ["coverage", "gap"]


def test_a_study_without_any_series_to_choose_is_told_about_its_best_ct(make: Callable[..., Case]):
    case = make(not_processed_note="sc")
    receive(case.room, head_stack(4))
    case.room.settle()
    assert case.room.series().state is State.SKIPPED
    case.round()
    (job,) = case.written()
    assert job.sources["code"] == "no_series"
    note = dcmread(case.file(job))
    assert note.SOPClassUID == SecondaryCaptureImageStorage
    assert note.pixel_array.max() > note.pixel_array.min()


@pytest.mark.parametrize("changes", [{"Modality": "MR"}, {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}])
def test_what_is_no_ct_or_came_from_a_node_is_not_commented_on(case: Case, changes: dict[str, object]):
    stack = head_stack(12)
    for ds in stack:
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
    receive(case.room, stack)
    case.room.settle()
    assert case.room.series().state is State.SKIPPED
    case.round()
    assert case.written() == []


def test_old_refusals_stay_untold_when_a_site_switches_the_notes_on(make: Callable[..., Case]):
    case = make(not_processed_note="none")
    case.refuse()
    case.room.clock.advance(TOLD_WITHIN.total_seconds())
    raw = case.room.settings.model_dump()
    raw["output"]["not_processed_note"] = "sr"
    case.room.settings = Settings.model_validate(raw)
    case.round()
    assert case.written() == []


def test_the_note_is_sent_and_counted_apart_from_the_results(case: Case):
    case.refuse()
    case.round()
    archive = Archive()
    with storage_scp(archive, sop_class=Comprehensive3DSRStorage) as remote:
        outbox = case.outbox(remote.port)
        outbox.round("pacs")
    (job,) = case.written()
    assert (job.state, job.series.state) == (State.DELIVERED, State.REFUSED)
    assert archive.arrived == [job.result["companions"][0]["instances"][0]["sop_instance_uid"]]
    with case.room.ledger.reading() as session:
        status = queries.status(session)
    assert (status.notes["DELIVERED"], sum(status.results.values()), status.stages["total"].jobs) == (1, 0, 0)
    outbox.stop()


def test_a_note_that_a_peer_refuses_is_a_dead_letter_and_can_be_replayed(case: Case):
    case.refuse()
    case.round()
    with storage_scp(Archive({1: 0xC000}), sop_class=Comprehensive3DSRStorage) as remote:
        case.outbox(remote.port).round("pacs")
    (job,) = case.written()
    assert job.state is State.FAILED
    with case.room.ledger.reading() as session:
        (letter,) = queries.dead_letters(session)
    assert (letter.state, letter.jobs[0].kind, letter.jobs[0].state) == ("REFUSED", "NOTE", "FAILED")
    (remedy,) = handle_request(case.room.ledger, case.room.settings, {"verb": "replay", "uid": None})
    assert remedy["after"] == "DELIVERING"
    archive = Archive()
    with storage_scp(archive, sop_class=Comprehensive3DSRStorage) as remote:
        case.outbox(remote.port).round("pacs")
    assert case.written()[0].state is State.DELIVERED
    assert len(archive.arrived) == 1


def test_a_file_that_lost_a_mark_does_not_leave(case: Case):
    case.refuse()
    case.round()
    path = case.file(case.written()[0])
    path.write_bytes(path.read_bytes().replace(b"NOT PROCESSED", b"all processed"))
    archive = Archive()
    with storage_scp(archive, sop_class=Comprehensive3DSRStorage) as remote:
        case.outbox(remote.port).round("pacs")
    (job,) = case.written()
    assert (job.state, job.code, archive.arrived) == (State.FAILED, "label_missing", [])


def test_a_series_of_which_no_file_can_be_read_any_more_is_named_and_not_tried_again(case: Case):
    case.refuse()
    for path in case.room.paths.series.glob("*/*"):
        if path.suffix != ".jsonl":
            path.write_bytes(b"gone")
    case.round()
    (job,) = case.written()
    assert (job.state, job.code) == (State.FAILED, "source_header")
    case.round()
    assert len(case.written()) == 1


def test_a_note_survives_the_loss_of_the_ledger_and_is_not_made_twice(case: Case):
    case.refuse()
    case.round()
    (before,) = case.written()
    case.room.ledger.close()
    for path in case.room.paths.data_dir.glob("ledger.sqlite*"):
        path.unlink()
    case.room.open()
    restore_missing(case.room.ledger)
    case.notes = Notes(case.room.ledger, lambda: case.room.settings, case._wake)
    case.round()
    (after,) = case.written()
    assert (after.key, after.kind, after.state) == (before.key, JobKind.NOTE, State.DERIVED)
    assert len(after.deliveries) == 1


@pytest.mark.slow
def test_killed_anywhere_there_is_one_note_with_the_same_bytes(make: Callable[..., Case]):
    case = make()
    case.refuse()
    case.room.clock.advance(61.0)
    case.room.ledger.close()

    def work() -> None:
        case.room.open()
        sync_journals(case.room.ledger)
        notes = Notes(case.room.ledger, lambda: case.room.settings, lambda: None)
        notes.run()
        case.room.ledger.close()

    call = 0
    contents = set()
    while killed_at(call, work):
        call += 1
        case.room.open()
        jobs = case.written()
        assert len(jobs) <= 1
        contents |= {case.file(job).read_bytes() for job in jobs}
        case.room.ledger.close()
    assert call > 3
    case.room.open()
    assert len(case.written()) == 1
    assert len(contents | {case.file(case.written()[0]).read_bytes()}) == 1
