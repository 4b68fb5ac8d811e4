"""Train many networks side by side, each in a process of its own.

What is finished is not trained again and what was interrupted goes on, so an experiment that was stopped, or killed, is
continued by the same call. A network that fails is told about and the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Final, Literal

import torch

from train.data.phantom_cache import build_cache, cache_folder
from train.data.workers import one_thread_each
from train.experiments.records import Training
from train.fit import fit_recipe
from train.recipe import DataRecipe, Recipe, contract_of
from train.runlog import Progress, QuietProgress, RunLog
from train.state import CHECKPOINT_NAME, read_checkpoint, save_atomically

_log = logging.getLogger(__name__)

RUNS: Final = "runs"
DONE_NAME: Final = "done.json"
#: What the process of a training prints, warnings and the end of a failed one among it.
PROCESS_LOG: Final = "process.log"
_POLL_S = 0.5
#: How long a training that was asked to stop may take over its step and its checkpoint.
_PATIENCE_S = 120.0

State = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended.

    Attributes
    ----------
    key : str
        `Training.key`.
    state : str
        ``finished`` (now or earlier), ``failed``, or ``stopped`` before its end or its start.
    minutes : float or None
        Of training, over all resumes; None unless finished.
    reason : str
        Why it failed.
    """

    key: str
    state: State
    minutes: float | None = None
    reason: str = ""


def run_folder(folder: Path, training: Training) -> Path:
    """Run folder of a training below the folder of the experiments."""
    return folder / RUNS / training.key


def finished(folder: Path, training: Training) -> Outcome | None:
    """Outcome of a training that was finished earlier, or None."""
    try:
        done = json.loads((run_folder(folder, training) / DONE_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Outcome(training.key, "finished", float(done["minutes"]))


def phantom_data(trainings: Sequence[Training]) -> tuple[Recipe, ...]:
    """Recipes, one a cache, that ask for the volumes of all trainings together: of every split and centre the most."""
    found: dict[Path, Recipe] = {}
    for recipe in (training.recipe for training in trainings if training.recipe.data.source == "phantom"):
        cache = cache_folder(Path(), recipe.data, contract_of(recipe))
        before = found.get(cache)
        data = recipe.data if before is None else _union(before.data, recipe.data)
        found[cache] = dataclasses.replace(recipe, data=data)
    return tuple(found.values())


def _union(one: DataRecipe, other: DataRecipe) -> DataRecipe:
    def most(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
        return {centre: max(a.get(centre, 0), b.get(centre, 0)) for centre in sorted({*a, *b})}

    return dataclasses.replace(
        one,
        train=most(one.train, other.train),
        validation=most(one.validation, other.validation),
        test=most(one.test, other.test),
    )


def make_volumes(
    trainings: Sequence[Training], cache_root: Path, *, jobs: int, progress: Progress | None = None
) -> None:
    """Make the phantom volumes of all trainings and their tests that are not there yet, in ``jobs`` processes."""
    shown, started = progress or QuietProgress(), time.monotonic()
    for recipe in phantom_data(trainings):
        data = dataclasses.replace(recipe.data, workers=jobs)
        build_cache(
            cache_root,
            data,
            contract_of(recipe),
            progress=lambda done, total: shown.update(done, total, "phantom volumes"),
        )
    shown.note(f"phantom volumes: there after {time.monotonic() - started:.0f} s")


def run_trainings(
    trainings: Sequence[Training],
    folder: Path,
    *,
    cache_root: Path,
    jobs: int = 1,
    devices: Sequence[str] = ("auto",),
    progress: Progress | None = None,
) -> tuple[Outcome, ...]:
    """Train every network that is not finished yet; SIGINT and SIGTERM stop all of them with checkpoints.

    Parameters
    ----------
    trainings : sequence of Training
        What to train; their runs are in ``folder/runs/KEY``.
    folder : Path
        Of the experiments.
    cache_root : Path
        Where phantom volumes are; those that are missing are made first.
    jobs : int
        Processes side by side. The cores are shared out among them.
    devices : sequence of str
        ``auto``, ``cpu`` or ``cuda:N``, given to the processes in turn.
    progress : Progress, optional
        Display, in per cent of all trainings; each that ends is noted.

    Returns
    -------
    tuple of Outcome
        In the order of ``trainings``.
    """
    known = {training.key: outcome for training in trainings if (outcome := finished(folder, training))}
    missing = [training for training in trainings if training.key not in known]
    if missing:
        make_volumes(trainings, cache_root, jobs=jobs, progress=progress)
        slots = _Slots(folder, cache_root.resolve(), jobs, devices)
        known |= slots.run(missing, len(known), progress or QuietProgress())
    return tuple(known[training.key] for training in trainings)


@dataclass(frozen=True, slots=True)
class _Job:
    """A training as its process gets it."""

    recipe: Recipe
    run: Path
    cache_root: Path
    device: str
    threads: int


@dataclass(slots=True)
class _Running:
    """A training whose process was started."""

    training: Training
    run: Path
    process: SpawnProcess
    started_at: float
    asked_at: float | None = None

    def stop(self) -> None:
        """Ask the process to end, and end it when it takes too long."""
        now = time.monotonic()
        if self.asked_at is None:
            self.asked_at = now
            self.process.terminate()
        elif now - self.asked_at > _PATIENCE_S:
            self.process.kill()

    def percent(self) -> float:
        """How much of the training is done, as its log tells."""
        steps, done = 0, 0
        for line in RunLog(self.run / "log.jsonl").read():
            if line["event"] == "started":
                steps = sum(line["stage_steps"])
            done = max(done, line.get("step", 0))
        return 100.0 * min(1.0, done / steps) if steps else 0.0


class _Slots:
    """A number of places in which processes train, each on its device."""

    def __init__(self, folder: Path, cache_root: Path, jobs: int, devices: Sequence[str]) -> None:
        self._folder, self._cache_root, self._devices = folder, cache_root, devices
        self._threads = threads_each(jobs)
        self._slots: list[_Running | None] = [None] * jobs
        self._outcomes: dict[str, Outcome] = {}

    def run(self, trainings: Sequence[Training], before: int, progress: Progress) -> dict[str, Outcome]:
        """Train all; ``before`` more are finished already and count in the progress."""
        waiting = deque(trainings)
        total = before + len(trainings)
        with _stop_signals() as stop, one_thread_each():
            try:
                while any(self._slots) or (waiting and not stop.is_set()):
                    self._fill(waiting, stop)
                    ended = self._wait(stop)
                    self._report(ended, before, total, progress)
            finally:
                self._end_all()
        stopped = {training.key: Outcome(training.key, "stopped") for training in waiting}
        return self._outcomes | stopped

    def _fill(self, waiting: deque[Training], stop: threading.Event) -> None:
        for place, running in enumerate(self._slots):
            if running is None and waiting and not stop.is_set():
                training = waiting.popleft()
                self._slots[place] = self._start(training, self._devices[place % len(self._devices)])

    def _start(self, training: Training, device: str) -> _Running:
        run = run_folder(self._folder, training)
        run.mkdir(parents=True, exist_ok=True)
        job = _Job(training.recipe, run, self._cache_root, device, self._threads)
        process = multiprocessing.get_context("spawn").Process(target=_train, args=(job,), name=training.key)
        process.start()
        return _Running(training, run, process, time.monotonic())

    def _wait(self, stop: threading.Event) -> list[str]:
        """Wait until a process ends, or a moment, and note how those that ended did; they are told in words."""
        ended = []
        wait([running.process.sentinel for running in self._slots if running], timeout=_POLL_S)
        for place, running in enumerate(self._slots):
            if running is None:
                continue
            if running.process.exitcode is not None:
                outcome = self._outcomes[running.training.key] = self._outcome(running)
                ended.append(f"{outcome.key}: {outcome.state} after {time.monotonic() - running.started_at:.0f} s")
                running.process.close()
                self._slots[place] = None
            elif stop.is_set():
                running.stop()
        return ended

    def _outcome(self, running: _Running) -> Outcome:
        key, code = running.training.key, running.process.exitcode or 0
        if outcome := finished(self._folder, running.training):
            return outcome
        if code == 0 or running.asked_at is not None:
            return Outcome(key, "stopped")
        reason = f"its process was ended by signal {-code}" if code < 0 else last_line(running.run / PROCESS_LOG)
        _log.warning("training %s failed: %s", key, reason)
        return Outcome(key, "failed", reason=reason)

    def _report(self, ended: Sequence[str], before: int, total: int, progress: Progress) -> None:
        running = [slot for slot in self._slots if slot]
        done = before + len(self._outcomes)
        for number, words in enumerate(ended, done - len(ended) + 1):
            progress.note(f"{words}, {number} of {total}")
        percent = [slot.percent() for slot in running]
        names = ", ".join(f"{slot.training.recipe.name} {x:.0f} %" for slot, x in zip(running, percent, strict=True))
        progress.update(100 * done + round(sum(percent)), 100 * total, f"{done} of {total} trained; {names}")

    def _end_all(self) -> None:
        """Leave no process behind, whatever happened here."""
        for running in self._slots:
            if running is not None:
                running.process.terminate()
                running.process.join(_PATIENCE_S)
                running.process.kill()


def threads_each(jobs: int) -> int:
    """Threads of each of ``jobs`` processes that share the cores of this one."""
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def last_line(log: Path) -> str:
    """Last line that a process printed: of a traceback the error, without the name of its class."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    text = next((line for line in reversed(lines) if line), "no reason was printed")
    name, _, reason = text.partition(": ")
    return reason if reason and name.replace(".", "").isidentifier() else text


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Set an event on SIGINT and SIGTERM instead of what they do."""
    stop = threading.Event()

    def handler(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _train(job: _Job) -> None:
    """Train in this process; what it prints goes to a file of the run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's reaches all: whoever started this says when to stop
    with (job.run / PROCESS_LOG).open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(job.threads)
    result = fit_recipe(
        job.recipe, job.run, cache_root=job.cache_root, resume=True, device=job.device, show_progress=False
    )
    if result.finished:
        _write_done(job.run, result.minutes, result.steps)
        keep_weights_alone(job.run)


def _write_done(run: Path, minutes: float, steps: int) -> None:
    part = run / f".{DONE_NAME}.part"
    part.write_text(json.dumps({"minutes": minutes, "steps": steps}), encoding="utf-8")
    os.replace(part, run / DONE_NAME)


def keep_weights_alone(run: Path) -> None:
    """Drop from a finished run what only its continuation needs: optimisers, companions, the weights of its stages.

    The weights that the run stands for stay where `train.state.averaged_weights` looks for them. With the moments of
    Adam a run is five times as large.
    """
    values = read_checkpoint(run)
    values["parts"] = {"average": values["parts"]["average"]}
    save_atomically(values, run / CHECKPOINT_NAME)
    for file in run.glob("stage-*.pt"):
        file.unlink()
