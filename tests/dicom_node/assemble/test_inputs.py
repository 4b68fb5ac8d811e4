"""Enhanced CT and dirty texts on their way through the spool: ingest, decision, job.

Left out: reading frames (`tests/dicom_node/dicom/test_enhanced.py`) and what is derived from them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.assemble.decide import source_frames, source_paths
from dicom_node.ledger.states import State
from dicom_node.ledger.tables import Event, Job
from tests.dicom_node.dicom.builders import set_dirty
from tests.dicom_node.dicom.enhanced_cases import classic_stack, enhanced_ct
from tests.dicom_node.node_cases import Room, head_stack, receive


@pytest.fixture
def room(tmp_path: Path):
    made = Room(tmp_path)
    yield made
    made.ledger.close()


def _remarks(room: Room) -> list[Event]:
    with room.ledger.reading() as session:
        return list(session.scalars(select(Event).where(Event.kind == "header_issues")))


def test_an_enhanced_object_is_queued_frame_by_frame(room: Room) -> None:
    slices = classic_stack()
    receive(room, [enhanced_ct([*slices[12:], *slices[:12]])])
    room.settle()
    series = room.series()
    assert (series.state, series.code) == (State.QUEUED, None)
    with room.ledger.reading() as session:
        job = session.scalars(select(Job)).one()
        paths = source_paths(room.paths, job)
    # Along the normal, whatever the order of the frames is.
    assert source_frames(job) == (*range(13, 25), *range(1, 13))
    assert len(paths) == 24
    assert len(set(paths)) == 1
    assert json.loads((room.paths.jobs / job.key / "job.json").read_text())["sources"]["frames"][0] == 13


def test_a_job_from_before_frames_were_known_works_on_whole_files(room: Room) -> None:
    receive(room, head_stack())
    room.settle()
    (job,) = room.series().jobs
    assert source_frames(job) == (None,) * 24
    job.sources = {"files": job.sources["files"]}
    assert source_frames(job) == (None,) * 24


def test_an_enhanced_object_that_tells_no_frames_is_skipped_by_name(room: Room) -> None:
    def spoil(dataset: Dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence

    receive(room, [enhanced_ct(classic_stack(), spoil)])
    room.settle()
    assert (room.series().state, room.series().code) == (State.SKIPPED, "enhanced_not_processed")


def test_broken_texts_are_remarked_and_stop_nothing(room: Room) -> None:
    stack = head_stack(SpecificCharacterSet=None)
    for dataset in stack:
        set_dirty(dataset, "PatientName", "M\u00fcller^J\u00f6rg")
    receive(room, stack)
    room.settle()
    assert room.series().state is State.QUEUED
    (event,) = _remarks(room)
    assert event.reason == "no reason to stop: PatientName: text does not fit the declared character set"
    assert event.figures == {"issues": 1}


def test_clean_texts_are_not_remarked(room: Room) -> None:
    receive(room, head_stack())
    room.settle()
    assert room.series().state is State.QUEUED
    assert _remarks(room) == []
