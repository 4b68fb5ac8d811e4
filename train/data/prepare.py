"""``train prepare``: from an archive of CT/DWI pairs to one cache, with a record of what was taken and what refused.

Every case first lies in ``.prepare/`` of the cache, where no trainer looks. When all are done, lesion volumes are known
and patients are split; then the cases move to their places and the index is written. So whatever ends a run, a kill or
a full disk, the cache holds complete cases of a decided split only, and the same command goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from train.data.cache import CachedCase, CacheError, CaseFacts, Split, load_case, read_index, write_index
from train.data.prepare_case import CaseJob, StorageError, run_case
from train.data.prepare_outcome import (
    QC_FOLDER,
    REPORT_FOLDER,
    Outcome,
    read_record,
    write_atomically,
    write_record,
    write_report,
)
from train.data.prepare_settings import PrepareSettings, given_masks
from train.data.prepared import SLICES_NAME, differing
from train.data.readers import LayoutError, PairSource, Reader, detect_layout, reader_for
from train.data.splits import LEAKAGE_WARNING, SplitCase, SplitError, assign_splits, slice_splits
from train.data.workers import one_thread_each

_log = logging.getLogger(__name__)

WORK_FOLDER: Final = ".prepare"
SOURCE: Final = "prepared"
#: A slice counts for a split on slices from this share of brain on, as for training.
MIN_BRAIN_FRACTION: Final = 0.005

Progress = Callable[[int, int], None]


class PrepareError(RuntimeError):
    """Raise this when a run cannot go on; finished cases are kept and the same command continues.

    Parameters
    ----------
    code
        ``storage`` (no space, read-only), ``worker`` (a process was killed), ``contract`` or ``split`` (the cache was
        begun with other settings), ``leak``, ``name`` (two cases would have one name).
    reason
        What to do.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FoundCase:
    """A case of the archive and the name it gets in the cache."""

    name: str
    source: PairSource


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """Result of a run.

    Attributes
    ----------
    layout : str
        Name of the reader.
    outcomes : tuple of Outcome
        All cases of the archive, by name.
    finished_before : int
        How many of them an earlier run had done.
    report : Path
        Folder of the report.
    warning : str or None
        What has to be said beside every score of this cache.
    """

    layout: str
    outcomes: tuple[Outcome, ...]
    finished_before: int
    report: Path
    warning: str | None

    @property
    def taken(self) -> int:
        """How many cases are in the cache."""
        return sum(outcome.taken for outcome in self.outcomes)


def find_cases(root: Path, settings: PrepareSettings) -> tuple[Reader, tuple[FoundCase, ...]]:
    """List the cases of an archive without opening an image.

    Raises
    ------
    LayoutError
        When the root does not look like the layout.
    PrepareError
        ``name`` when two cases would have one name.
    """
    options = settings.options
    reader = detect_layout(root, options) if settings.layout == "auto" else reader_for(settings.layout, options)
    if not root.exists():
        raise LayoutError("missing", f"{root} does not exist")
    cases = tuple(FoundCase(settings.name_of(source), source) for source in reader.find(root))
    names = [case.name for case in cases]
    if len(set(names)) != len(names):
        raise PrepareError("name", "two cases would have one name in the cache: rename a folder or use --keep-names")
    return reader, tuple(sorted(cases, key=lambda case: case.name))


def prepare(root: Path, cache: Path, settings: PrepareSettings, progress: Progress | None = None) -> PrepareResult:
    """Bring an archive into a cache, or go on with it.

    Several archives may go into one cache, one run each, with a centre each.

    Parameters
    ----------
    root : Path
        Archive, in a layout of `train.data.readers`.
    cache : Path
        Made when missing.
    settings : PrepareSettings
        Settings of the run.
    progress : callable, optional
        Called with (done, total) after each case.

    Raises
    ------
    LayoutError
        When the root does not look like the layout.
    PrepareError
        When the run cannot go on.
    """
    reader, cases = find_cases(root, settings)
    _check_cache(cache, settings)
    jobs = [_job(case, reader.name, root, cache, settings) for case in cases]
    with _storage_errors():
        _sweep(cache / WORK_FOLDER)
        done = {job.name: record for job in jobs if (record := _finished(job, cache)) is not None}
        before = len(done)
        if progress:
            progress(before, len(jobs))
        for outcome in _outcomes([job for job in jobs if job.name not in done], settings.workers):
            write_record(_record_path(cache, outcome.name), outcome)
            done[outcome.name] = outcome
            if progress:
                progress(len(done), len(jobs))
        outcomes = _settle(cache, [done[name] for name in sorted(done)], settings)
        warning = LEAKAGE_WARNING if settings.split == "slice" else None
        head = {"layout": reader.name, "split": settings.split, "warning": warning, "source": SOURCE}
        write_report(cache / REPORT_FOLDER, outcomes, head)
    return PrepareResult(reader.name, tuple(outcomes), before, cache / REPORT_FOLDER, warning)


def _job(case: FoundCase, layout: str, root: Path, cache: Path, settings: PrepareSettings) -> CaseJob:
    return CaseJob(
        source=case.source,
        name=case.name,
        digest=settings.digest_of(case.source, given_masks(case.source, root, settings.brain_mask)),
        layout=layout,
        root=root,
        folder=cache / WORK_FOLDER / case.name,
        picture=cache / REPORT_FOLDER / QC_FOLDER / f"{case.name}.png",
        settings=settings,
    )


def _record_path(cache: Path, name: str) -> Path:
    return cache / WORK_FOLDER / f"{name}.json"


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Turn what stops a whole run into a `PrepareError` that says how to go on."""
    try:
        yield
    except (StorageError, OSError) as error:
        why = errno.errorcode.get(error.errno or 0, "no reason given") if isinstance(error, OSError) else str(error)
        reason = f"the cache cannot be written ({why}); make room and run the same command again: it goes on from here"
        raise PrepareError("storage", reason) from error
    except BrokenProcessPool as error:
        reason = "a worker process was killed, perhaps for memory; run the same command again, with fewer --workers"
        raise PrepareError("worker", reason) from error
    except SplitError as error:
        raise PrepareError(error.code, error.reason) from error


def _check_cache(cache: Path, settings: PrepareSettings) -> None:
    """Refuse to mix arrays or splits of different kinds in one cache."""
    try:
        index = read_index(cache)
    except CacheError as error:
        if error.code == "missing":
            return
        raise PrepareError(error.code, error.reason) from error
    if index.source != SOURCE:
        raise PrepareError("contract", f"{cache} is a cache of another kind ({index.source}); choose another folder")
    if differs := differing(index.contract, settings.contract):
        raise PrepareError("contract", f"{cache} was begun with other {', '.join(differs)}; choose another folder")
    if index.notes.get("split") != settings.split:
        raise PrepareError("split", f"{cache} is split by {index.notes.get('split')}; choose another folder")


def _sweep(work: Path) -> None:
    """Remove what a killed run left half-written; such a folder never had its final name."""
    work.mkdir(parents=True, exist_ok=True)
    for part in work.glob(".*.part"):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


def _finished(job: CaseJob, cache: Path) -> Outcome | None:
    """The record of a case that was made, or refused, from the same inputs with the same settings."""
    record = read_record(_record_path(cache, job.name))
    if record is None or record.digest != job.digest:
        return None
    there = any((folder / "case.json").is_file() for folder in (job.folder, cache / job.name))
    return record if there or not record.taken else None


def _outcomes(jobs: Sequence[CaseJob], workers: int) -> Iterator[Outcome]:
    """Run the jobs, in this process or in several, in whatever order they end."""
    if workers <= 1 or len(jobs) <= 1:
        yield from map(run_case, jobs)
        return
    # Started afresh, not forked: a thread pool of the parent (BLAS, ITK) does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with one_thread_each(), ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(run_case, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _settle(cache: Path, outcomes: Sequence[Outcome], settings: PrepareSettings) -> list[Outcome]:
    """Decide splits, move the cases to their places, write the index; returns the outcomes with their splits."""
    for outcome in outcomes:
        if not outcome.taken:  # what an earlier run took and this one refuses must not stay
            shutil.rmtree(cache / outcome.name, ignore_errors=True)
    decided = _decided(cache, outcomes)
    settled = []
    for outcome in outcomes:
        if not outcome.taken:
            settled.append(outcome)
            continue
        split: Split = "train" if settings.split == "slice" else decided[outcome.name]
        final = replace(outcome, split=None if settings.split == "slice" else split)
        # The record comes first: should the run end between two moves, the next one keeps this split.
        write_record(_record_path(cache, outcome.name), final)
        _move(cache / WORK_FOLDER / outcome.name, cache / outcome.name, split)
        settled.append(final)
    if any(outcome.taken for outcome in settled):
        if settings.split == "slice":
            _write_slices(cache)
        leaky = settings.split == "slice"
        write_index(cache, settings.contract, SOURCE, split=settings.split, leaky=leaky, target=settings.target)
    return settled


def _decided(cache: Path, outcomes: Sequence[Outcome]) -> dict[str, Split]:
    """Split of every taken case; cases that other runs brought into the cache count too and stay where they are."""
    ours = {outcome.name for outcome in outcomes}
    cases = [
        SplitCase(outcome.name, outcome.centre, outcome.lesion_ml, outcome.official, _kept(outcome))
        for outcome in outcomes
        if outcome.taken
    ]
    for case in _cases(cache):
        facts = case.facts
        if facts.patient not in ours:
            cases.append(SplitCase(facts.patient, facts.centre, facts.lesion_ml, None, facts.split))
    return assign_splits(cases)


def _kept(outcome: Outcome) -> Split | None:
    return None if outcome.official else outcome.split


def _cases(cache: Path) -> list[CachedCase]:
    return [load_case(file.parent) for file in sorted(cache.glob("[!.]*/case.json"))]


def _move(made: Path, place: Path, split: str) -> None:
    """Put a case in its place with its split; one that is there already only gets the split."""
    where = made if made.is_dir() else place
    file = where / "case.json"
    facts = json.loads(file.read_text(encoding="utf-8"))
    if facts["split"] != split:
        checked = CaseFacts.from_json({**facts, "split": split})
        write_atomically(file, json.dumps(checked.to_json(), indent=1))
    if where is made:
        shutil.rmtree(place, ignore_errors=True)
        made.rename(place)


def _write_slices(cache: Path) -> None:
    usable: dict[str, list[int]] = {}
    for case in _cases(cache):
        share = np.count_nonzero(case.brain, axis=(1, 2)) / np.prod(case.brain.shape[1:])
        usable[case.facts.patient] = np.flatnonzero(share >= MIN_BRAIN_FRACTION).tolist()
    shares: Mapping[str, Any] = slice_splits(usable)
    content = {name: {"train": share.train, "test": share.test} for name, share in shares.items()}
    write_atomically(cache / SLICES_NAME, json.dumps(content))
