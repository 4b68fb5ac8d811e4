"""What the ledger answers: counts, stage times against NumPy, and who is meant by a UID.

Left out: how the command line prints it (`test_journey`).
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from dicom_node.ledger import queries
from dicom_node.ledger.states import State
from dicom_node.ledger.tables import Job
from tests.dicom_node.dicom.builders import uid
from tests.dicom_node.node_cases import Room, head_stack, receive


@pytest.fixture
def room(tmp_path: Path):
    made = Room(tmp_path / "data")
    receive(made, head_stack(series="head"))
    receive(made, head_stack(series="bone", ConvolutionKernel="H70h"))
    made.settle()
    yield made
    made.ledger.close()


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_percentiles_agree_with_numpy(values: list[float], fraction: float):
    assert queries.percentile(values, fraction) == pytest.approx(np.percentile(values, 100 * fraction), abs=1e-3)


def test_counts_by_state(room: Room):
    with room.ledger.reading() as session:
        status = queries.status(session)
    assert {state: count for state, count in status.series.items() if count} == {"QUEUED": 1, "SKIPPED": 1}
    assert status.studies == {"OPEN": 0, "DECIDED": 1}
    assert set(status.series) == {state.value for state in State}
    json.dumps(status.to_json())


def test_stage_times_are_the_times_between_the_moments_of_a_job(room: Room):
    with room.ledger.transaction() as change:
        job = change.session.scalars(select(Job)).one()
        at = job.queued_at
        job.first_arrival_at, job.last_arrival_at = at - timedelta(seconds=9), at - timedelta(seconds=5)
        job.started_at = at + timedelta(seconds=1)
        job.synthesized_at = at + timedelta(seconds=7)
        job.derived_at = at + timedelta(seconds=10)
        job.delivered_at = at + timedelta(seconds=15)
    with room.ledger.reading() as session:
        times = queries.stage_times(session)
    assert {stage: one.p50_s for stage, one in times.items()} == {
        "receive": 4.0,
        "wait": 5.0,
        "queue": 1.0,
        "synthesize": 6.0,
        "derive": 3.0,
        "deliver": 5.0,
        "total": 20.0,
    }


def test_an_unfinished_stage_is_not_counted(room: Room):
    with room.ledger.reading() as session:
        times = queries.stage_times(session)
    assert times["wait"].jobs == 1
    assert times["synthesize"] == queries.StageTime(0, None, None)


def test_a_uid_means_a_series_a_study_or_a_result(room: Room):
    with room.ledger.transaction() as change:
        change.session.scalars(select(Job)).one().result_series_uid = "9.9.9"
    with room.ledger.reading() as session:
        by_series = queries.find_series(session, uid("study", "head"))
        by_study = queries.find_series(session, uid("study"))
        by_result = queries.find_series(session, "9.9.9")
        assert queries.find_series(session, "0.0") == []
    assert [one.id for one in by_series] == [one.id for one in by_result]
    assert len(by_study) == 2


def test_the_story_of_a_series_has_every_step_in_order(room: Room):
    with room.ledger.reading() as session:
        (series,) = queries.find_series(session, uid("study", "head"))
        events = queries.history(session, series)
        view = queries.series_view(session, series)
    assert [event.after for event in events if event.after] == ["COMPLETE", "QUEUED"]
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert view.verdict_code == "chosen"
    json.dumps([view.to_json(), *(event.to_json() for event in events)])
