"""References to read every result against, measured on phantoms before any training.

1. *Matched filter* (`train.data.phantom_filter`): what of a lesion is in the CT, for whoever knows the anatomy; and the
   ceiling for whoever knows all but the noise. A network knows neither beforehand and stays below. Fitted on training
   patients of centres A and B.
2. *Measured DWI* as a score: what of the lesion is in the target.
3. *Floors* of the squared error in the brain on [0, 1], all against `dwi_clean`: of the measured target; of a predictor
   that knows the head, its lesion and its physics, but not the texture of T2 and of fibre tracts, which no CT shows; of
   the same predictor without the lesion.

All on the network grid, in the slices and in the brain that evaluation scores. Only NumPy and SciPy are used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.phantom_cache import case_keys
from train.data.phantom_filter import (
    Knowledge,
    ReferenceCase,
    TerritoryPrior,
    features,
    fit_discriminant,
    fit_prior,
    grid_view,
    prior_counts,
)
from train.data.phantom_plans import SetGeometry
from train.data.workers import one_thread_each
from train.metrics import Interval, ScoreHistogram, bootstrap
from train.recipe import DataRecipe

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")

#: Bands of the lesion's drop in grey matter, HU, from and below; volumes without a lesion are in "all" only.
BANDS: Mapping[str, tuple[float, float]] = {
    "all": (-1.0, np.inf),
    "drop < 2 HU": (1e-9, 2.0),
    "drop 2-4 HU": (2.0, 4.0),
    "drop > 4 HU": (4.0, np.inf),
    "drop >= 3 HU": (3.0, np.inf),
}
#: Scores, and what the filters among them know.
SCORES: Mapping[str, Knowledge | None] = {
    "matched_filter": Knowledge.ANATOMY,
    "matched_filter_all_but_noise": Knowledge.ALL_BUT_NOISE,
    "measured_dwi": None,
}
FLOORS = ("measured", "known_but_texture", "known_but_texture_and_lesion")
#: Centres that the discriminant and the prior are fitted on; the third stays unseen.
FITTED_ON = ("A", "B")
#: Scan of the patients that only the prior is counted on.
_PRIOR_GEOMETRY = SetGeometry(matrix=64)
#: The discriminant is fitted on at most this many voxels a volume.
_FIT_VOXELS = 20_000
#: Log odds from -_LOGIT to +_LOGIT are spread over the levels of the histogram.
_LOGIT = 14.0


@dataclass(frozen=True, slots=True)
class Cases:
    """Patients of a run: the discriminant's, the prior's, and those that are reported; none is in two of them."""

    fitted: tuple[ReferenceCase, ...]
    prior: tuple[ReferenceCase, ...]
    test: tuple[ReferenceCase, ...]


@dataclass(frozen=True, slots=True)
class VolumeReference:
    """What is kept of one volume.

    Attributes
    ----------
    centre, hu_drop
        Of the patient; no lesion has a drop of 0.
    histograms
        Score -> levels in and out of the lesion.
    squared
        Floor -> summed squared error in the brain.
    pixels
        Voxels of the brain.
    """

    centre: str
    hu_drop: float
    histograms: Mapping[str, ScoreHistogram]
    squared: Mapping[str, float]
    pixels: int


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """References of one centre and band: pooled lesion AUC and brain MSE with bootstrap intervals over volumes."""

    centre: str
    band: str
    n: int
    auc: Mapping[str, Interval]
    mse: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "centre": self.centre,
            "band": self.band,
            "volumes": self.n,
            "auc": {name: interval.to_json() for name, interval in self.auc.items()},
            "mse": {name: interval.to_json() for name, interval in self.mse.items()},
        }


def reference_cases(
    volumes: int, centres: Collection[str] = ("A", "B", "C"), *, fitted: int = 6, prior: int = 60
) -> Cases:
    """Choose the patients: the first test volumes of each centre, which evaluation uses too, and training ones.

    Parameters
    ----------
    volumes
        Test volumes a centre.
    centres
        Which to report.
    fitted, prior
        Training volumes a centre of `FITTED_ON` for the discriminant, and for the prior.
    """
    data = DataRecipe(
        train=dict.fromkeys(FITTED_ON, fitted + prior), validation={}, test=dict.fromkeys(sorted(centres), volumes)
    )
    geometry = SetGeometry(data.matrix, data.fov_mm, data.n_slices, data.slice_mm)
    keys = case_keys(data)
    training = {c: [key.seed for key in keys if key.split == "train" and key.centre == c] for c in FITTED_ON}
    return Cases(
        fitted=tuple(ReferenceCase(c, seed, geometry) for c in FITTED_ON for seed in training[c][:fitted]),
        prior=tuple(ReferenceCase(c, seed, _PRIOR_GEOMETRY) for c in FITTED_ON for seed in training[c][fitted:]),
        test=tuple(ReferenceCase(key.centre, key.seed, geometry) for key in keys if key.split == "test"),
    )


def _mapped(make: Callable[[_In], _Out], items: Sequence[_In], workers: int) -> Iterator[_Out]:
    if workers <= 1 or len(items) <= 1:
        yield from map(make, items)
        return
    with one_thread_each(), ProcessPoolExecutor(min(workers, len(items)), mp_context=get_context("spawn")) as pool:
        yield from pool.map(make, items)


_Table = tuple[NDArray[np.float64], NDArray[np.bool_]]
Weights = Mapping[Knowledge, NDArray[np.float64]]


def _fit_tables(case: ReferenceCase, prior: TerritoryPrior, contract: PreprocessingContract) -> dict[Knowledge, _Table]:
    view = grid_view(case, contract)
    lesion = view.lesion[view.brain]
    chosen = np.random.default_rng(case.seed).permutation(len(lesion))[:_FIT_VOXELS]
    return {known: (features(view, prior, known)[chosen], lesion[chosen]) for known in Knowledge}


def measure_volume(
    case: ReferenceCase, prior: TerritoryPrior, weights: Weights, contract: PreprocessingContract
) -> VolumeReference:
    """Make one patient and measure it.

    Parameters
    ----------
    case
        The patient.
    prior, weights
        From `train.data.phantom_filter`; weights by what is known.
    contract
        Grid and target scale.
    """
    view = grid_view(case, contract)
    lesion = view.lesion[view.brain]
    everywhere = np.ones_like(lesion)

    def levels(known: Knowledge | None) -> NDArray[np.floating[Any]]:
        if known is None:
            return view.measured[view.brain]
        return np.asarray((features(view, prior, known) @ weights[known] + _LOGIT) / (2 * _LOGIT))

    clean = view.clean[view.brain].astype(np.float64)
    against = zip(FLOORS, (view.measured, view.known, view.healthy), strict=True)
    return VolumeReference(
        centre=case.centre,
        hu_drop=view.hu_drop,
        histograms={name: ScoreHistogram.of(levels(known), lesion, everywhere) for name, known in SCORES.items()},
        squared={name: float(np.sum((image[view.brain] - clean) ** 2)) for name, image in against},
        pixels=lesion.size,
    )


def measure_references(
    cases: Cases,
    contract: PreprocessingContract | None = None,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[VolumeReference, ...]:
    """Fit the filter and measure every test volume; the result does not depend on the number of workers.

    Parameters
    ----------
    cases
        See `reference_cases`.
    contract
        Default: that of a plain bundle.
    workers
        Processes.
    progress
        Called after each volume.
    """
    grid = contract or PreprocessingContract()

    def told(text: str, items: Sequence[ReferenceCase], make: Callable[[ReferenceCase], _Out]) -> list[_Out]:
        done: list[_Out] = []
        for result in _mapped(make, items, workers):
            done.append(result)
            if progress is not None:
                progress(text, len(done), len(items))
        return done

    prior = fit_prior(told("territories", cases.prior, prior_counts))
    tables = told("training volumes", cases.fitted, partial(_fit_tables, prior=prior, contract=grid))
    weights = {known: fit_discriminant([table[known] for table in tables]) for known in Knowledge}
    measure = partial(measure_volume, prior=prior, weights=weights, contract=grid)
    return tuple(told("test volumes", cases.test, measure))


def reference_rows(volumes: Sequence[VolumeReference], *, resamples: int = 1000) -> tuple[ReferenceRow, ...]:
    """One row for each centre, and all together, and each band that has volumes."""
    rows = []
    for centre in ("all", *sorted({volume.centre for volume in volumes})):
        own = [volume for volume in volumes if centre in ("all", volume.centre)]
        for band, (low, high) in BANDS.items():
            chosen = [volume for volume in own if low <= volume.hu_drop < high]
            if chosen:
                rows.append(_row(centre, band, chosen, resamples))
    return tuple(rows)


def _row(centre: str, band: str, volumes: Sequence[VolumeReference], resamples: int) -> ReferenceRow:
    n = len(volumes)
    pixels = np.array([volume.pixels for volume in volumes], np.float64)

    def auc(name: str) -> Interval:
        lesion, other = (
            np.stack([getattr(volume.histograms[name], part) for volume in volumes]).astype(np.float64)
            for part in ("lesion", "other")
        )

        def pooled(chosen: NDArray[np.intp]) -> float:
            times = np.bincount(chosen, minlength=n).astype(np.float64)
            return ScoreHistogram((times @ lesion).astype(np.int64), (times @ other).astype(np.int64)).auc()

        return bootstrap(pooled, n, resamples=resamples)

    def mse(name: str) -> Interval:
        squared = np.array([volume.squared[name] for volume in volumes])
        return bootstrap(lambda chosen: float(squared[chosen].sum() / pixels[chosen].sum()), n, resamples=resamples)

    return ReferenceRow(centre, band, n, {name: auc(name) for name in SCORES}, {name: mse(name) for name in FLOORS})
