"""Feeding the worker process, and looking after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Select, select

from dicom_node.assemble.decide import source_frames, source_paths
from dicom_node.errors import RETRY, NodeError
from dicom_node.ledger.result_file import RESULT_ARRAYS, RESULT_JSON
from dicom_node.ledger.spool import fsync_folder
from dicom_node.ledger.states import State
from dicom_node.ledger.store import Ledger, Transaction
from dicom_node.ledger.tables import Job
from dicom_node.operate.beats import Beats
from dicom_node.settings import Settings
from dicom_node.stages.base import BEAT_LIMIT_S, Stage
from dicom_node.synthesize.client import SILENCE_LIMIT_S, START_LIMIT_S, WorkerClient, worker_command

logger = logging.getLogger(__name__)

#: How often a job may be found half done at a start before it is taken for the cause.
_MOST_STARTS: Final = 5
_LEASE_EVERY_S: Final = 5.0


class SynthesisStage(Stage):
    """Feeds the worker process and looks after it."""

    name = "synthesize"
    policy = RETRY["synthesize"]

    def __init__(
        self, ledger: Ledger, settings: Callable[[], Settings], beats: Beats, on_done: Callable[[], None]
    ) -> None:
        super().__init__(ledger, settings, beats, on_done)
        self._client: WorkerClient | None = None
        self._command: tuple[str, ...] = ()
        self._start_failures = 0
        self._start_not_before = 0.0
        self._state: dict[str, Any] = {"state": "starting"}

    @property
    def report(self) -> Mapping[str, Any]:
        """What the worker is doing, for `status`."""
        return dict(self._state)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the worker; the job under way goes back into the queue."""
        self._stopping.set()
        client = self._client
        if client is not None:
            client.stop()
        super().stop(timeout_s)

    def _due(self) -> Select[Job]:
        return select(Job).where(Job.state == State.QUEUED)

    def _failures(self, job: Job) -> int:
        return job.attempts

    def _prepare(self) -> bool:
        """Have a worker that suits the settings, started with growing patience where it will not start."""
        settings = self._settings()
        model = settings.model
        command = worker_command(
            bundle=model.bundle, device=model.device, precision=model.precision.value, threads=model.threads
        )
        if self._client is not None and self._client.alive and command == self._command:
            self._client.time_limit_s = model.time_limit_s
            return True
        if command != self._command:
            self._start_failures, self._start_not_before = 0, 0.0
        if time.monotonic() < self._start_not_before:
            return False
        if self._client is not None:
            self._client.stop()
        return self._start_worker(WorkerClient(command, time_limit_s=model.time_limit_s), command)

    def _start_worker(self, client: WorkerClient, command: tuple[str, ...]) -> bool:
        self._client, self._command = client, command
        # Why it did not start last time stays in sight until it has started.
        self._state = {**self._state, "state": "starting"}
        self._beats.beat(self.name, BEAT_LIMIT_S + START_LIMIT_S)
        try:
            ready = client.start()
        except NodeError as error:
            self._start_failures += 1
            wait_s = RETRY["child"].wait_s(self._start_failures)
            self._start_not_before = time.monotonic() + wait_s
            self._state = {"state": "cannot start", "code": error.code, "reason": error.reason}
            if not self._stopping.is_set():
                logger.error("the worker does not start: %s; next try in %.0f s, jobs wait", error, wait_s)
            return False
        self._start_failures = 0
        self._state = {
            "state": "ready",
            "pid": ready.pid,
            "device": ready.device,
            "precision": ready.precision,
            "bundle": ready.bundle.get("name"),
        }
        return not self._stopping.is_set()

    def _work(self, key: str) -> None:
        client = self._client
        if client is None or client.ready is None:
            return
        ready = client.ready
        with self._ledger.transaction() as change:
            job = change.job(key)
            if job is None or job.state is not State.QUEUED:
                return
            files, frames = source_paths(self._ledger.paths, job), source_frames(job)
            job.attempts += 1
            job.started_at, job.synthesized_at, job.next_try_at = change.at, None, None
            job.lease_until = change.at + timedelta(seconds=SILENCE_LIMIT_S)
            job.bundle = {**ready.bundle, "device": ready.device, "precision": ready.precision}
            change.move_job(job, State.SYNTHESIZING)
        folder = self._ledger.paths.jobs / key
        _clear_results(folder)
        eligibility = self._settings().eligibility.model_dump()
        done = client.run(key, files, folder, self._on_progress(key), frames=frames, eligibility=eligibility)
        with self._current(key) as current:
            if current is not None:
                change, job = current
                job.synthesized_at, job.lease_until = change.at, None
                change.touch(job)
        self._state = {**self._state, "state": "ready", "job": None}
        logger.info("job %s: synthesized in %.1f s", key, sum(done.seconds.values()))

    def _on_progress(self, key: str) -> Callable[[str, int, int], None]:
        """Return the callback for signs of life: beats, the lease, and what `status` shows."""
        last_lease = time.monotonic()

        def progress(step: str, done: int, total: int) -> None:
            nonlocal last_lease
            self._beats.beat(self.name, SILENCE_LIMIT_S + BEAT_LIMIT_S)
            self._state = {**self._state, "state": "working", "job": key, "step": step, "done": done, "total": total}
            if time.monotonic() - last_lease >= _LEASE_EVERY_S:
                last_lease = time.monotonic()
                with self._current(key) as current:
                    if current is not None:
                        current[1].lease_until = current[0].at + timedelta(seconds=SILENCE_LIMIT_S)

        self._beats.beat(self.name, SILENCE_LIMIT_S + BEAT_LIMIT_S)
        return progress

    def _failed(self, key: str, error: NodeError) -> None:
        self._state = {**self._state, "state": "ready", "job": None}
        if not self._stopping.is_set():
            super()._failed(key, error)
            return
        with self._current(key) as current:
            if current is not None:
                change, job = current
                job.attempts -= 1
                change.move_job(
                    job, State.QUEUED, code="service_stopped", reason="the service stopped; it is done again"
                )

    def _try_again(self, change: Transaction, job: Job, error: NodeError) -> None:
        change.move_job(job, State.QUEUED, code=error.code, reason=error.reason, figures=error.figures)


def recover_jobs(ledger: Ledger) -> None:
    """Put jobs that an earlier service left half done back into the queue.

    A job whose result files are complete goes on from there. One that was found half done again and again is taken for
    the cause of the service's end and goes to the dead letter.
    """
    half_done = select(Job.key).where(Job.state == State.SYNTHESIZING, Job.synthesized_at.is_(None))
    with ledger.reading() as session:
        keys = list(session.scalars(half_done))
    for key in keys:
        with ledger.transaction() as change:
            job = change.job(key)
            if job is None:
                continue
            job.lease_until = None
            if job.attempts >= _MOST_STARTS:
                reason = f"the service ended {job.attempts} times while it worked on this job"
                change.move_job(job, State.FAILED, code="crash_loop", reason=reason)
            else:
                reason = "the service ended while the job was under way; it is done again"
                change.move_job(job, State.QUEUED, code="lease_lost", reason=reason)


def _clear_results(folder: Path) -> None:
    """Remove what an earlier attempt left, so that nobody takes it for the result of this one."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in (RESULT_JSON, RESULT_ARRAYS):
        (folder / name).unlink(missing_ok=True)
    fsync_folder(folder)
