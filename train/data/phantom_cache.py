"""Phantom volumes in the cache of training: which ones a recipe asks for, and making those that are missing.

Only what decides the arrays (grid, thickness, target scale, geometry of the phantom) names the cache, so recipes that
differ in windows, context or number of patients share it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.errors import ImagingError
from train.data.cache import (
    LAYOUT,
    SPLITS,
    CachedCase,
    CaseFacts,
    Split,
    allow_many_cases,
    encode_hu,
    encode_target,
    load_case,
    write_case,
    write_index,
)
from train.data.workers import one_thread_each
from train.recipe import DataRecipe

_log = logging.getLogger(__name__)

#: Seeds of the splits lie this far apart, and those of the centres within a split one tenth of it.
_SPLIT_SEEDS = 10_000_000
_CENTRE_SEEDS = 1_000_000


@dataclass(frozen=True, slots=True)
class CaseKey:
    """Identity of one phantom patient: split, centre and seed; the seeds of two splits never meet."""

    split: Split
    centre: str
    seed: int

    @property
    def name(self) -> str:
        """Folder name of the case."""
        return f"{self.centre}-{self.seed:08d}"


def case_keys(data: DataRecipe) -> tuple[CaseKey, ...]:
    """List the patients of a recipe.

    The first patients of a split stay the same when a recipe asks for more of them, so that a cache grows.
    """
    keys: list[CaseKey] = []
    for number, split in enumerate(SPLITS):
        counts: Mapping[str, int] = getattr(data, split)
        for centre in sorted(counts):
            first = (number + 1) * _SPLIT_SEEDS + (ord(centre) - ord("A")) * _CENTRE_SEEDS
            keys.extend(CaseKey(split, centre, first + index) for index in range(counts[centre]))
    return tuple(keys)


def cache_folder(root: Path, data: DataRecipe, contract: PreprocessingContract) -> Path:
    """Folder of a cache: named by a digest of all that decides the arrays, so other settings never share it."""
    decides = {
        "grid": [contract.grid_px, contract.grid_spacing_mm],
        "thickness": [contract.nominal_thickness_mm, contract.max_thickness_mm],
        "target_scale": contract.target_scale,
        "phantom": [data.matrix, data.fov_mm, data.n_slices, data.slice_mm],
        "layout": LAYOUT,
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    return root / f"phantom-{digest}"


def build_case(key: CaseKey, data: DataRecipe, contract: PreprocessingContract, folder: Path) -> CachedCase:
    """Generate one phantom, preprocess it as the node does, and write it below ``folder``.

    Raises
    ------
    ImagingError
        When the preprocessing refuses the volume (no brain, brain off the grid, slices too thick).
    """
    from jmmda_model.imaging.eligibility import EligibilityLimits, ensure_eligible
    from jmmda_model.imaging.grid import resample_to_grid, to_grid_stack
    from jmmda_model.imaging.intensity import normalise_target
    from jmmda_model.imaging.mask import brain_mask
    from train.data.phantom import generate_case

    case = generate_case(
        key.seed,
        key.centre,
        matrix=data.matrix,
        fov_mm=data.fov_mm,
        n_slices=data.n_slices,
        slice_mm=data.slice_mm,
    )
    volume = case.ct_volume()
    # A recipe may ask for a slab of any height.
    mask = brain_mask(volume, limits=EligibilityLimits(min_brain_height_mm=0.0))
    ensure_eligible(mask)
    stack = to_grid_stack(volume, mask, contract)
    placement, brain = stack.placement, stack.brain
    lesion = np.asarray(resample_to_grid(case.lesion, placement, nearest=True), dtype=bool)
    targets = [
        normalise_target(resample_to_grid(signal, placement), brain, contract) for signal in (case.dwi, case.dwi_clean)
    ]
    facts = CaseFacts(
        patient=key.name,
        centre=key.centre,
        split=key.split,
        source="phantom",
        brain_ml=float(mask.volume_ml),
        lesion_ml=float(case.lesion_ml),
        slice_offsets_mm=tuple(stack.offsets_mm.round(4).tolist()),
        symmetry=stack.symmetry(),
        seed=key.seed,
        lesion_kind=str(case.lesion_kind),
        hu_drop=float(case.hu_drop),
        onset_h=float(case.onset_h),
        mask_dice=_dice(mask.mask, case.brain),
    )
    arrays: dict[str, NDArray[Any]] = {
        "hu": encode_hu(stack.hu),
        "target": encode_target(targets[0]),
        "clean": encode_target(targets[1]),
        "brain": brain.astype(np.uint8),
        "lesion": (lesion & brain).astype(np.uint8),
    }
    return write_case(folder / key.name, facts, arrays)


def _dice(ours: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    both, total = int(np.count_nonzero(ours & truth)), int(np.count_nonzero(ours) + np.count_nonzero(truth))
    return 2.0 * both / total if total else 1.0


@dataclass(frozen=True, slots=True)
class _Job:
    key: CaseKey
    data: DataRecipe
    contract: PreprocessingContract
    folder: Path


def _run_job(job: _Job) -> str | None:
    """Build one case in a worker process; the code of a refusal, or None."""
    try:
        build_case(job.key, job.data, job.contract, job.folder)
    except ImagingError as error:
        return error.code
    return None


def build_cache(
    root: Path,
    data: DataRecipe,
    contract: PreprocessingContract,
    *,
    splits: Sequence[Split] = SPLITS,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make every case of a recipe that the cache does not hold yet.

    Parameters
    ----------
    root : Path
        Where caches live.
    data : DataRecipe
        Patients and phantom settings; ``workers`` processes share the work.
    contract : PreprocessingContract
        Grid and target scale.
    splits : sequence of str
        Which splits to make.
    progress : callable, optional
        Called with (done, total) after each case.

    Returns
    -------
    Path
        Folder of the cache. Cases that preprocessing refuses are named in ``refused.jsonl`` there and left out.
    """
    folder = cache_folder(root, data, contract)
    write_index(folder, contract, "phantom")
    refused = _refused(folder)
    wanted = [key for key in case_keys(data) if key.split in splits]
    missing = [key for key in wanted if not (folder / key.name).is_dir() and key.name not in refused]
    done = len(wanted) - len(missing)
    if progress:
        progress(done, len(wanted))
    jobs = [_Job(key, data, contract, folder) for key in missing]
    for job, code in _outcomes(jobs, data.workers):
        done += 1
        if code is not None:
            _log.warning("case %s left out: preprocessing refused it (%s)", job.key.name, code)
            with (folder / "refused.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"case": job.key.name, "code": code}) + "\n")
        if progress:
            progress(done, len(wanted))
    return folder


def _outcomes(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[_Job, str | None]]:
    """Run the jobs, in this process or in several; yields each job as it ends, with the code of a refusal or None."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, _run_job(job)
        return
    context = multiprocessing.get_context("spawn")
    with one_thread_each(), ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(_run_job, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _refused(folder: Path) -> set[str]:
    file = folder / "refused.jsonl"
    if not file.exists():
        return set()
    return {json.loads(line)["case"] for line in file.read_text(encoding="utf-8").splitlines()}


def load_phantom_split(
    folder: Path, data: DataRecipe, split: Split, centres: Collection[str] | None = None
) -> tuple[CachedCase, ...]:
    """Cases of one split that a recipe names, in the order of `case_keys`, without those that preprocessing refused."""
    allow_many_cases()
    keys = [key for key in case_keys(data) if key.split == split and (centres is None or key.centre in centres)]
    return tuple(load_case(folder / key.name) for key in keys if (folder / key.name).is_dir())
