"""The stages on jobs: what each outcome of the worker and each failure of deriving does to job and series.

The worker is the scripted child process, so that it can be made to fail on cue; the real one runs in `test_node`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.dicom.reading import quiet_pydicom
from dicom_node.errors import RETRY
from dicom_node.ledger.queries import history
from dicom_node.ledger.rebuild import restore_missing
from dicom_node.ledger.result_file import SynthesisResult, write_result
from dicom_node.ledger.states import State
from dicom_node.ledger.tables import Job
from dicom_node.operate.beats import Beats
from dicom_node.settings import Settings
from dicom_node.stages import synthesis
from dicom_node.stages.derivation import COPIED_AS_IS, DeriveStage
from dicom_node.stages.synthesis import SynthesisStage, recover_jobs
from tests.dicom_node.net.associations import wait_until
from tests.dicom_node.node_cases import Room, head_stack, node_settings, receive

WORKER = Path(__file__).parent / "synthesize" / "scripted_worker.py"
BUNDLE = {"name": "b", "sha256": "ab" * 32, "weights_sha256": "cd" * 32, "is_phantom": False, "trained": True,
          "size": "tiny"}  # fmt: skip


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "data")
    receive(made, head_stack(rows=96, columns=128))
    made.settle()
    yield made
    made.ledger.close()


def _job(room: Room) -> Job:
    with room.ledger.reading() as session:
        job = session.scalars(select(Job)).one()
        assert job.series.state is not None
        for delivery in job.deliveries:
            assert delivery.instances is not None
        return job


class Running:
    """A synthesis stage whose worker behaves as told."""

    def __init__(self, room: Room, monkeypatch: pytest.MonkeyPatch, how: str, behaviour: str) -> None:
        self.room = room
        self.done = 0
        command = (sys.executable, str(WORKER), how, behaviour)
        monkeypatch.setattr(synthesis, "worker_command", lambda **_: command)
        self.stage = SynthesisStage(room.ledger, lambda: room.settings, Beats(room.clock), self._count)
        self.stage.start()

    def _count(self) -> None:
        self.done += 1

    def until(self, count: int) -> None:
        assert wait_until(lambda: self.done >= count, 20)


def _run(room: Room, monkeypatch: pytest.MonkeyPatch, behaviour: str, *, tries: int = 1) -> Job:
    running = Running(room, monkeypatch, "well", behaviour)
    for count in range(1, tries + 1):
        running.until(count)
        room.clock.advance(RETRY["synthesize"].longest_wait_s * 2)
        running.stage.wake()
    running.stage.stop()
    return _job(room)


def test_a_good_job_waits_for_derivation_with_its_bundle(room: Room, monkeypatch: pytest.MonkeyPatch):
    job = _run(room, monkeypatch, "good")
    assert (job.state, job.series.state, job.attempts) == (State.SYNTHESIZING, State.SYNTHESIZING, 1)
    assert job.synthesized_at is not None
    assert job.lease_until is None
    assert job.bundle["name"] == "scripted"


def test_a_refusal_of_the_worker_reaches_the_series_with_its_figures(room: Room, monkeypatch: pytest.MonkeyPatch):
    job = _run(room, monkeypatch, "refuse")
    assert (job.state, job.code, job.series.state) == (State.REFUSED, "no_brain", State.REFUSED)
    assert job.series.figures == {"volume_ml": 12.0}


def test_a_permanent_failure_is_a_dead_letter_at_once(room: Room, monkeypatch: pytest.MonkeyPatch):
    job = _run(room, monkeypatch, "permanent")
    assert (job.state, job.code, job.attempts) == (State.FAILED, "pixel_data", 1)


@pytest.mark.parametrize(("behaviour", "code"), [("killed", "worker_died"), ("passing", "internal")])
def test_a_passing_failure_is_tried_again_and_then_a_dead_letter(
    room: Room, monkeypatch: pytest.MonkeyPatch, behaviour: str, code: str
):
    job = _run(room, monkeypatch, behaviour, tries=RETRY["synthesize"].attempts)
    assert (job.state, job.code, job.series.state) == (State.FAILED, code, State.FAILED)
    assert job.attempts == RETRY["synthesize"].attempts


def test_a_worker_that_cannot_start_fails_no_job(room: Room, monkeypatch: pytest.MonkeyPatch):
    running = Running(room, monkeypatch, "refuse-start", "good")
    assert wait_until(lambda: running.stage.report["state"] == "cannot start", 20)
    running.stage.stop()
    assert running.stage.report["code"] == "bundle_hash"
    assert (_job(room).state, _job(room).attempts) == (State.QUEUED, 0)


def test_a_job_under_way_goes_back_into_the_queue_when_the_service_stops(room: Room, monkeypatch: pytest.MonkeyPatch):
    running = Running(room, monkeypatch, "well", "endless")
    assert wait_until(lambda: running.stage.report.get("step") == "network", 20)
    assert _job(room).lease_until is not None
    running.stage.stop()
    job = _job(room)
    assert (job.state, job.attempts, job.code) == (State.QUEUED, 0, "service_stopped")


def test_late_slices_take_the_job_away_from_the_worker(room: Room, monkeypatch: pytest.MonkeyPatch):
    running = Running(room, monkeypatch, "well", "slow")
    assert wait_until(lambda: running.stage.report.get("step") == "read", 20)
    receive(room, head_stack(2, start=24, rows=96, columns=128))
    room.round()
    running.until(1)
    running.stage.stop()
    with room.ledger.reading() as session:
        (job,) = session.scalars(select(Job)).all()
        assert (job.state, job.code) == (State.SUPERSEDED, "late_slices")
        assert job.series.state is State.RECEIVING


def _half_done(room: Room, attempts: int = 1) -> None:
    with room.ledger.transaction() as change:
        job = change.session.scalars(select(Job)).one()
        job.attempts = attempts
        job.bundle = dict(BUNDLE)
        change.move_job(job, State.SYNTHESIZING)


def test_a_half_done_job_is_done_again_after_a_restart(room: Room):
    _half_done(room)
    recover_jobs(room.ledger)
    job = _job(room)
    assert (job.state, job.code, job.series.state) == (State.QUEUED, "lease_lost", State.QUEUED)


def test_a_job_that_was_half_done_at_every_start_is_taken_for_the_cause(room: Room):
    _half_done(room, attempts=5)
    recover_jobs(room.ledger)
    assert (_job(room).state, _job(room).code) == (State.FAILED, "crash_loop")


def _synthesized(room: Room, *, shape: tuple[int, int, int] = (24, 96, 128)) -> Path:
    _half_done(room)
    job = _job(room)
    folder = room.paths.jobs / job.key
    y, x = np.mgrid[: shape[1], : shape[2]]
    mask = np.broadcast_to((y - 50) ** 2 + (x - 64) ** 2 < 900, shape)
    write_result(
        folder,
        SynthesisResult(
            pixels=np.where(mask, 1000, 0).astype(np.uint16),
            mask=mask,
            source_sop_instance_uids=tuple(job.sources["sop_instance_uids"]),
            source_slices=tuple((k,) for k in range(shape[0])),
            quality_flags=("open_skull",),
            figures={"vault_gap_cm2": 24.2},
        ),
    )
    with room.ledger.transaction() as change:
        change.session.scalars(select(Job)).one().synthesized_at = change.at
    return folder


def _derive(room: Room, tries: int = 1) -> Job:
    done: list[int] = []
    stage = DeriveStage(room.ledger, lambda: room.settings, Beats(room.clock), lambda: done.append(1))
    stage.start()
    for count in range(1, tries + 1):
        assert wait_until(lambda count=count: len(done) >= count, 20)
        room.clock.advance(RETRY["derive"].longest_wait_s * 2)
        stage.wake()
    stage.stop()
    return _job(room)


def test_derived_files_are_addressed_to_every_destination(room: Room):
    folder = _synthesized(room)
    recover_jobs(room.ledger)
    job = _derive(room)
    assert (job.state, job.series.state) == (State.DERIVED, State.DERIVED)
    assert len(job.result["instances"]) == 24
    assert {path.name for path in (folder / "out").glob("*.dcm")} == {one["file"] for one in job.result["instances"]}
    (delivery,) = job.deliveries
    assert delivery.destination == "pacs"
    assert len(delivery.instances) == 24
    record = json.loads((folder / "job.json").read_bytes())
    assert record["result_series_uid"] == job.result_series_uid
    assert record["result"]["quality_flags"] == ["open_skull"]
    assert record["result"]["figures"] == {"vault_gap_cm2": 24.2}


@pytest.mark.parametrize("kind", ["mr", "sc"])
def test_a_dirty_header_is_a_warning_in_the_ledger(tmp_path: Path, kind: str):
    room = Room(tmp_path / "data", node_settings(tmp_path / "data", output={"object": kind}))
    with quiet_pydicom():
        dirty = head_stack(rows=96, columns=128, PatientSex="m", AccessionNumber="A" * 20)
    receive(room, dirty)
    room.settle()
    folder = _synthesized(room)
    job = _derive(room)
    assert job.state is State.DERIVED
    assert job.result["label_facts"]["object_kind"] == kind
    with room.ledger.reading() as session:
        (event,) = [one for one in history(session, room.series()) if one.kind == COPIED_AS_IS]
    assert "PatientSex: not a legal CS" in str(event.reason)
    assert "AccessionNumber: longer than SH may be" in str(event.reason)
    assert "AAAA" not in str(event.reason)
    assert event.figures == {"warnings": len(job.result["warnings"])}
    assert json.loads((folder / "job.json").read_bytes())["result"]["warnings"] == job.result["warnings"]
    # A ledger made anew from the journals has it too.
    room.ledger.close()
    for path in room.paths.data_dir.glob("ledger.sqlite*"):
        path.unlink()
    room.open()
    restore_missing(room.ledger)
    with room.ledger.reading() as session:
        reasons = [one.reason for one in history(session, room.series()) if one.kind == COPIED_AS_IS]
    assert reasons == [event.reason]
    room.ledger.close()


def test_deriving_again_after_a_crash_gives_the_same_bytes(room: Room):
    folder = _synthesized(room)
    first = _derive(room)
    before = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    with room.ledger.transaction() as change:
        job = change.session.scalars(select(Job)).one()
        job.state = job.series.state = State.SYNTHESIZING
        job.result, job.result_series_uid = {}, None
    again = _derive(room)
    assert again.result == first.result
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == before
    assert len(again.deliveries) == 1


def test_without_a_route_the_result_is_a_dead_letter_that_can_be_addressed_later(room: Room):
    from dicom_node.remedies import retry_series

    _synthesized(room)
    with_route = room.settings
    room.settings = Settings.model_validate({"node": {"data_dir": room.paths.data_dir}})
    job = _derive(room)
    assert (job.state, job.code) == (State.FAILED, "no_destination")
    (remedy,) = retry_series(room.ledger, with_route, job.series.series_instance_uid, new=False)
    assert remedy.after == "DELIVERING"
    assert [one.destination for one in _job(room).deliveries] == ["pacs"]


def test_a_damaged_result_is_a_dead_letter_and_a_retry_synthesizes_anew(room: Room):
    from dicom_node.remedies import retry_series

    folder = _synthesized(room)
    (folder / "result.npz").write_bytes(b"no longer what it was")
    job = _derive(room)
    assert (job.state, job.code) == (State.FAILED, "result_damaged")
    (remedy,) = retry_series(room.ledger, room.settings, job.series.series_instance_uid, new=False)
    assert remedy.after == "QUEUED"


def test_a_disk_that_fails_is_tried_again_and_then_a_dead_letter(room: Room):
    folder = _synthesized(room)
    # A file stands where the folder of the derived files has to be made.
    (folder / "out").write_bytes(b"")
    job = _derive(room, tries=RETRY["derive"].attempts)
    assert (job.state, job.code) == (State.FAILED, "storage")
    assert job.derive_attempts == RETRY["derive"].attempts


def test_companions_are_written_recorded_and_addressed_beside_the_images(tmp_path: Path):
    output = {"companions": ["seg", "sr"]}
    room = Room(tmp_path / "data", node_settings(tmp_path / "data", output=output))
    receive(room, head_stack(rows=96, columns=128))
    room.settle()
    folder = _synthesized(room)
    job = _derive(room)
    assert job.state is State.DERIVED
    assert [one["kind"] for one in job.result["companions"]] == ["seg", "sr"]
    files = [one["instances"][0] for one in job.result["companions"]]
    assert all((folder / "out" / one["file"]).is_file() for one in files)
    addressed = [row.sop_instance_uid for row in job.deliveries[0].instances]
    assert addressed[24:] == [one["sop_instance_uid"] for one in files]
    room.ledger.close()


def test_the_choice_of_companions_leaves_the_uids_of_the_images_alone():
    plain = Settings()
    wanted = Settings.model_validate({"output": {"companions": ["seg"]}})
    assert wanted.output.fingerprint() == plain.output.fingerprint() == OutputSettings().fingerprint()
    for bad in ({"companions": ["mr"]}, {"companions": ["sr", "sr"]}, {"not_processed_note": "yes"}):
        with pytest.raises(ValueError, match="output"):
            Settings.model_validate({"output": bad})
