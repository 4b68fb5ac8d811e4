"""Scores on disk, and scoring all that experiments ask for: in several processes, continued where it was interrupted.

Below the folder of the experiments, ``runs/KEY`` are the trained networks and ``scores/KEY/TEST.npz`` and ``.json``
what they scored. The JSON is written last and names the digest of the arrays, so a kill between the two leaves scores
that count as missing, never a mixture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from train.data.workers import one_thread_each
from train.evaluation.cases import open_cases
from train.evaluation.targets import MEASURED
from train.experiments.records import Experiment, Row, Scores, TestSet, Training
from train.experiments.scoring import Place, control_key, score_control, score_training, trained_centres
from train.fit import run_contract
from train.recipe import Recipe
from train.runlog import Progress, QuietProgress, RunLog
from train.state import BEST_NAME, CHECKPOINT_NAME

_log = logging.getLogger(__name__)

#: Version of the files, and of what the figures in them mean; scores of another one are made again.
SCORES_LAYOUT = 1
RUNS_FOLDER, SCORES_FOLDER = "runs", "scores"


def _base(folder: Path, key: str, test: TestSet) -> Path:
    """Both files of some scores, without their endings; centres of an archive may have any name."""
    return folder / SCORES_FOLDER / quote(key, safe="+") / quote(test.key, safe="+")


def save_scores(folder: Path, scores: Scores) -> Path:
    """Keep scores below the folder of the experiments; earlier ones of the same key and test set are replaced.

    Returns
    -------
    Path
        The JSON file.
    """
    shown = list(scores.pictures.values())
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        slices=scores.slices,
        values=np.stack(list(scores.values.values())),
        superpixels=scores.superpixels,
        pictures=np.stack(shown) if shown else np.empty((0, 4, 0, 0), np.uint8),
    )
    arrays = stream.getvalue()
    content = {
        "layout": SCORES_LAYOUT,
        "sha256": hashlib.sha256(arrays).hexdigest(),
        "values": list(scores.values),
        "pictures": list(scores.pictures),
        **scores.to_json(),
    }
    base = _base(folder, scores.key, scores.test)
    text = json.dumps(content, indent=1, allow_nan=False)
    base.parent.mkdir(parents=True, exist_ok=True)
    _write(_with_ending(base, "npz"), arrays)
    return _write(_with_ending(base, "json"), text.encode())


def _with_ending(base: Path, ending: str) -> Path:
    return base.with_name(f"{base.name}.{ending}")


def _write(path: Path, content: bytes) -> Path:
    """Write a file beside its final name, flush it to the disk, then rename."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
    return path


def load_scores(folder: Path, key: str, test: TestSet) -> Scores | None:
    """Scores that are there and still hold.

    Returns
    -------
    Scores or None
        None where there are none, where they are damaged or of another `SCORES_LAYOUT`, and where the weights of the
        run of that key are newer than they are.
    """
    base = _base(folder, key, test)
    file = _with_ending(base, "json")
    try:
        if file.stat().st_mtime_ns < _weights_time(folder / RUNS_FOLDER / key):
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["layout"] != SCORES_LAYOUT:
            return None
        arrays = _with_ending(base, "npz").read_bytes()
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if hashlib.sha256(arrays).hexdigest() != content["sha256"]:
        return None
    return _scores_of(content, arrays)


def _scores_of(content: dict[str, Any], arrays: bytes) -> Scores:
    with np.load(io.BytesIO(arrays), allow_pickle=False) as found:
        return Scores(
            key=content["key"],
            test=TestSet(**{**content["test"], "centres": tuple(content["test"]["centres"])}),
            patients=tuple(content["patients"]),
            slices=found["slices"],
            values=dict(zip(content["values"], found["values"], strict=True)),
            summary=content["summary"],
            superpixels=found["superpixels"],
            pictures=dict(zip(content["pictures"], found["pictures"], strict=True)),
        )


def _weights_time(run: Path) -> int:
    """When the weights of a run were last written, in ns; 0 without any."""
    files = (run / name for name in (CHECKPOINT_NAME, BEST_NAME))
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)


def is_finished(run: Path) -> bool:
    """Whether a run was trained to its end."""
    ended = [line for line in RunLog(run / "log.jsonl").read() if line["event"] == "ended"]
    return bool(ended) and ended[-1]["finished"] is True and (run / CHECKPOINT_NAME).exists()


class ScoreBook(dict[tuple[str, str], Scores]):
    """Scores by key and `TestSet.key`.

    The key is `Training.key`. A simple control is found by its name, or, since the same one may be fitted on several
    centres, by ``NAME@CENTRES`` (`control_name`); by its name alone only where that is unambiguous.

    Attributes
    ----------
    missing : dict
        Key (`control_name` of a control) and `TestSet.key` of each score that could not be made -> why.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing: dict[tuple[str, str], str] = {}


def control_name(row: Row) -> str:
    """Name of a row's control with the centres on which it was fitted."""
    return f"{row.control}@{'+'.join(row.centres)}"


@dataclass(frozen=True, slots=True)
class _Job:
    """One network or control to score on one test set; ``control`` is its name."""

    key: str
    test: TestSet
    recipe: Recipe
    control: str | None
    folder: Path
    cache_root: Path
    device: str = "cpu"

    @property
    def order(self) -> tuple[object, ...]:
        """Jobs that share volumes come one after the other."""
        return self.test.centres, trained_centres(self.recipe.data), self.test.key, self.key

    def stored(self) -> Scores | None:
        """What is on disk, unless the recipe asks for another number of test volumes by now."""
        found = load_scores(self.folder, self.key, self.test)
        asked = {name: count for name, count in self.recipe.data.test.items() if name in self.test.centres}
        return found if found is not None and found.summary.get("asked") == asked else None

    def make(self) -> None:
        """Score and keep."""
        if self.control:
            save_scores(self.folder, score_control(self.control, self.recipe, self.test, self.cache_root))
            return
        run = self.folder / RUNS_FOLDER / self.key
        if not is_finished(run):
            raise ValueError("the network was not trained to its end")
        training = Training(self.recipe)
        found = score_training(training, self.test, run=run, cache_root=self.cache_root, device=self.device)
        save_scores(self.folder, found)


def score_all(
    experiments: Sequence[Experiment],
    folder: Path,
    cache_root: Path,
    jobs: int = 1,
    progress: Progress | None = None,
    *,
    devices: Sequence[str] = ("cpu",),
) -> ScoreBook:
    """Score every row of every table; what is on disk and still holds is not made again.

    Parameters
    ----------
    experiments : sequence of Experiment
        What is asked for.
    folder : Path
        Of the experiments: holds ``runs``, gets ``scores``.
    cache_root : Path
        Where phantom volumes are, and are made where they are missing.
    jobs : int
        Processes; they share the cores. 1 works in this one.
    progress : Progress, optional
        Display, told at the start and after each score; each is noted.
    devices : sequence of str
        Where networks predict, in turn.

    Returns
    -------
    ScoreBook
        What could not be scored is absent, and named with its reason in ``missing``.
    """
    book = ScoreBook()
    named = _jobs(experiments, folder, cache_root, book)
    wanted = {(job.key, job.test.key): job for job in named.values()}
    waiting = sorted((job for job in wanted.values() if job.stored() is None), key=lambda job: job.order)
    waiting = [dataclasses.replace(job, device=devices[n % len(devices)]) for n, job in enumerate(waiting)]
    before, total = len(wanted) - len(waiting), len(wanted)
    shown = progress or QuietProgress()
    shown.update(before, total, "scores")
    _make_volumes(waiting)
    reasons: dict[tuple[str, str], str] = {}
    for done, (job, reason, seconds) in enumerate(_outcomes(waiting, jobs), before + 1):
        if reason is not None:
            _log.warning("%s on %s is not scored: %s", job.key, job.test.key, reason)
            reasons[job.key, job.test.key] = reason
        state = "scored" if reason is None else "not scored"
        shown.note(f"{job.key} on {job.test.key}: {state} after {seconds:.0f} s, {done} of {total}")
        shown.update(done, total, "scores")
    for name, job in named.items():
        if (job.key, job.test.key) in reasons:
            book.missing[name] = reasons[job.key, job.test.key]
        elif (found := job.stored()) is not None:
            book[name] = found
    _shorten_names(named, book)
    return book


def _jobs(
    experiments: Sequence[Experiment], folder: Path, cache_root: Path, book: ScoreBook
) -> dict[tuple[str, str], _Job]:
    """All that is to be scored, each once: under its key, a control under `control_name`, and its test set."""
    wanted: dict[tuple[str, str], _Job] = {}
    everything = [training.recipe for experiment in experiments for training in experiment.trainings()]
    for table in (table for experiment in experiments for table in experiment.tables):
        beside = [training.recipe for row in table.rows for training in row.trainings]
        for row in table.rows:
            for training in row.trainings:
                job = _Job(training.key, row.test, training.recipe, None, folder, cache_root)
                wanted.setdefault((training.key, row.test.key), job)
            name = (control_name(row), row.test.key)
            if row.control is None or name in wanted:
                continue
            recipe = _recipe_for(row, [*beside, *everything])
            if recipe is None:
                book.missing[name] = "no network of these experiments is trained on its centres and tested on these"
                continue
            key = control_key(row.control, recipe)
            wanted[name] = _Job(key, row.test, recipe, row.control, folder, cache_root)
    return wanted


def _recipe_for(row: Row, recipes: Sequence[Recipe]) -> Recipe | None:
    """The first recipe that trains on a control's centres and has its test volumes; any of the latter for the DWI."""
    tested = [r for r in recipes if r.data.source != "phantom" or set(row.test.centres) <= set(r.data.test)]
    fitting = [recipe for recipe in tested if set(trained_centres(recipe.data)) == set(row.centres)]
    if not fitting and row.control == MEASURED:
        fitting = tested
    return fitting[0] if fitting else None


def _shorten_names(named: Mapping[tuple[str, str], _Job], book: ScoreBook) -> None:
    """Let a control be found by its name alone where all of that name, on that test set, are one."""
    found: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}
    for name, job in named.items():
        if job.control is not None:
            found.setdefault((job.control, job.test.key), {})[job.key] = name
    for short, names in found.items():
        if len(names) == 1 and (name := next(iter(names.values()))) in book:
            book[short] = book[name]


def _make_volumes(jobs: Sequence[_Job]) -> None:
    """Make the phantoms that are missing before processes start that would make the same ones side by side."""
    phantoms = [job for job in jobs if job.recipe.data.source == "phantom"]
    for place in {Place.of(j.recipe, run_contract(j.recipe), j.cache_root, j.test.centres) for j in phantoms}:
        with contextlib.suppress(ValueError):  # the job itself will say what is wrong
            open_cases(place.data, place.contract, place.root, centres=place.centres)


def _run(job: _Job) -> tuple[str | None, float]:
    """Do a job; why it could not be done, or None, and the seconds it took."""
    started, reason = time.monotonic(), None
    try:
        job.make()
    except (ValueError, OSError, RuntimeError) as error:
        reason = str(error)
    return reason, time.monotonic() - started


def _outcomes(jobs: Sequence[_Job], processes: int) -> Iterator[tuple[_Job, str | None, float]]:
    """Do the jobs, here or in several processes; yields each as it ends, with why it failed or None, and seconds."""
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, *_run(job)
        return
    begun = time.monotonic()
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    context = multiprocessing.get_context("spawn")
    with one_thread_each():
        pool = ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(threads,))
        try:
            futures = {pool.submit(_run, job): job for job in jobs}
            for future in as_completed(futures):
                try:
                    yield futures[future], *future.result()
                except BrokenProcessPool:
                    reason = "its process was killed, perhaps for want of memory"
                    yield futures[future], reason, time.monotonic() - begun
        finally:
            pool.shutdown(cancel_futures=True)
