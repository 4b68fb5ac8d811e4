"""Simple controls: what can be predicted from HU and position without any network.

A network that does not beat them has learnt nothing. Each control is fitted on training volumes and predicts the
normalised DWI in [-1, 1] inside the brain, -1 outside, exactly like the network. Controls are plain records, so that
they travel to worker processes. Only NumPy and SciPy are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.intensity import mask_channels
from train.data.cache import CachedCase

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: The two scales of the polynomial and the one of the lookup, in mm.
FINE_MM, COARSE_MM = 1.0, 4.0
#: HU range of brain tissue; what lies outside is clipped before fitting.
TISSUE_HU = (0.0, 80.0)
_LOOKUP_BINS = 160
_FIT_VOXELS_A_CASE = 20_000
_DEPTHS = 8
_QUANTILES = 513


@dataclass(frozen=True, slots=True)
class ControlInput:
    """What controls look at; computed once a case for all of them.

    Attributes
    ----------
    hu, fine, coarse : ndarray
        (S, H, W) HU, and its mean in brain at 1 and 4 mm.
    depth : ndarray
        (S, H, W) signed depth under the brain's edge, 20 mm = 1, clipped.
    brain : ndarray
        (S, H, W) bool.
    """

    hu: FloatArray
    fine: FloatArray
    coarse: FloatArray
    depth: FloatArray
    brain: BoolArray

    @classmethod
    def of(cls, case: CachedCase, contract: PreprocessingContract) -> ControlInput:
        """Compute the input of a case."""
        brain = np.asarray(case.brain) > 0
        hu = case.hu_slices()
        fine, coarse = (smooth_in_brain(hu, brain, size / contract.grid_spacing_mm) for size in (FINE_MM, COARSE_MM))
        plain = replace(contract, mask_channels=("brain", "edge_distance"))
        return cls(hu, fine, coarse, mask_channels(brain, plain)[:, 1], brain)


class Control(Protocol):
    """A fitted control."""

    def __call__(self, seen: ControlInput) -> FloatArray:
        """Predict (S, H, W) in [-1, 1], -1 outside the brain."""


@dataclass(frozen=True, slots=True)
class FitSample:
    """Voxels of training volumes: HU at two scales, signed depth under the brain's edge (-1..1, 20 mm), target."""

    fine: FloatArray
    coarse: FloatArray
    depth: FloatArray
    target: FloatArray


def smooth_in_brain(hu: FloatArray, brain: BoolArray, sigma_px: float) -> FloatArray:
    """Gaussian mean of tissue HU over brain voxels of the same slice; 0 where there is no brain near; (S, H, W)."""
    weight = brain.astype(np.float32)
    sigma = (0.0, sigma_px, sigma_px)
    total = ndimage.gaussian_filter(np.clip(hu, *TISSUE_HU) * weight, sigma, truncate=3.0)
    share = ndimage.gaussian_filter(weight, sigma, truncate=3.0)
    return np.where(brain, total / np.maximum(share, 1e-6), 0.0).astype(np.float32)


def draw_sample(cases: Sequence[CachedCase], contract: PreprocessingContract, seed: int = 0) -> FitSample:
    """Draw brain voxels of training cases at random, a fixed number a case at most."""
    rng = np.random.default_rng(seed)
    parts: list[tuple[FloatArray, ...]] = []
    for case in cases:
        seen = ControlInput.of(case, contract)
        chosen = rng.permutation(np.flatnonzero(seen.brain))[:_FIT_VOXELS_A_CASE]
        volumes = (seen.fine, seen.coarse, seen.depth, case.target_slices())
        parts.append(tuple(volume.ravel()[chosen] for volume in volumes))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return FitSample(*columns)


def _in_brain(values: NDArray[Any], brain: BoolArray) -> FloatArray:
    return np.where(brain, np.clip(values, -1.0, 1.0), -1.0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class IdentityWindow:
    """Shows the CT window as if it were the DWI."""

    def __call__(self, seen: ControlInput) -> FloatArray:
        """Predict."""
        low, high = TISSUE_HU
        return _in_brain((np.clip(seen.hu, low, high) - low) / (high - low) * 2.0 - 1.0, seen.brain)


@dataclass(frozen=True, slots=True)
class Constant:
    """The mean training target everywhere in the brain."""

    mean: float

    def __call__(self, seen: ControlInput) -> FloatArray:
        """Predict."""
        return np.where(seen.brain, np.float32(self.mean), np.float32(-1.0))


@dataclass(frozen=True, slots=True)
class Lookup:
    """The mean training target for every smoothed HU: a table between bin centres."""

    centres: NDArray[np.float64]
    table: NDArray[np.float64]

    @classmethod
    def fit(cls, sample: FitSample) -> Lookup:
        """Fit on a sample."""
        edges = np.linspace(*TISSUE_HU, _LOOKUP_BINS + 1)
        index = np.clip(np.digitize(sample.fine, edges) - 1, 0, _LOOKUP_BINS - 1)
        counts = np.bincount(index, minlength=_LOOKUP_BINS).astype(np.float64)
        sums = np.bincount(index, sample.target, minlength=_LOOKUP_BINS)
        table = ndimage.gaussian_filter1d(sums, 2.0) / np.maximum(ndimage.gaussian_filter1d(counts, 2.0), 1e-9)
        return cls((edges[:-1] + edges[1:]) / 2.0, np.where(counts.cumsum() > 0, table, sample.target.mean()))

    def __call__(self, seen: ControlInput) -> FloatArray:
        """Predict."""
        return _filled(seen.brain, np.interp(seen.fine[seen.brain], self.centres, self.table))


@dataclass(frozen=True, slots=True)
class HistogramMatch:
    """Maps the quantiles of a volume's HU in brain to the quantiles of the training targets."""

    wanted: NDArray[np.float64]

    @classmethod
    def fit(cls, sample: FitSample) -> HistogramMatch:
        """Fit on a sample."""
        return cls(np.quantile(sample.target, np.linspace(0.0, 1.0, _QUANTILES)).astype(np.float64))

    def __call__(self, seen: ControlInput) -> FloatArray:
        """Predict."""
        values = np.clip(seen.hu[seen.brain], *TISSUE_HU)
        own = np.quantile(values, np.linspace(0.0, 1.0, _QUANTILES))
        return _filled(seen.brain, np.interp(values, own, self.wanted))


def _filled(brain: BoolArray, values: NDArray[Any]) -> FloatArray:
    out = np.full(brain.shape, -1.0, np.float32)
    out[brain] = np.clip(values, -1.0, 1.0)
    return out


def _features(fine: NDArray[Any], coarse: NDArray[Any], depth: NDArray[Any]) -> NDArray[np.float64]:
    """Polynomial terms: cubic in each HU scale, their product, quadratic in depth and depth times HU; (n, 12)."""
    low, high = TISSUE_HU
    a = (np.asarray(fine, np.float64) - low) / (high - low) * 2.0 - 1.0
    b = (np.asarray(coarse, np.float64) - low) / (high - low) * 2.0 - 1.0
    d = np.asarray(depth, np.float64)
    return np.stack([np.ones_like(a), a, a**2, a**3, b, b**2, b**3, a * b, d, d**2, d * a, d * b], axis=-1)


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Least-squares polynomial of HU at two scales and depth under the brain's edge: the best control known here."""

    weights: NDArray[np.float64]

    @classmethod
    def fit(cls, sample: FitSample) -> Polynomial:
        """Fit on a sample."""
        features = _features(sample.fine, sample.coarse, sample.depth)
        weights, *_ = np.linalg.lstsq(features, np.asarray(sample.target, np.float64), rcond=None)
        return cls(np.asarray(weights, np.float64))

    def __call__(self, seen: ControlInput) -> FloatArray:
        """Predict."""
        brain = seen.brain
        return _filled(brain, _features(seen.fine[brain], seen.coarse[brain], seen.depth[brain]) @ self.weights)


@dataclass(frozen=True, slots=True)
class MeanImage:
    """The mean training target at each place of the grid, for each eighth of the brain's height; no HU at all."""

    mean: FloatArray

    @classmethod
    def fit(cls, cases: Sequence[CachedCase]) -> MeanImage:
        """Fit on training cases."""
        shape = (_DEPTHS, *cases[0].brain.shape[1:])
        total, count = np.zeros(shape), np.zeros(shape)
        for case in cases:
            brain = np.asarray(case.brain) > 0
            bands = _bands(brain)
            target = case.target_slices()
            for row in np.flatnonzero(bands >= 0):
                total[bands[row]] += np.where(brain[row], target[row], 0.0)
                count[bands[row]] += brain[row]
        overall = total.sum() / max(count.sum(), 1.0)
        return cls(((total + overall) / (count + 1.0)).astype(np.float32))

    def __call__(self, seen: ControlInput) -> FloatArray:
        """Predict."""
        return np.where(seen.brain, self.mean[np.maximum(_bands(seen.brain), 0)], np.float32(-1.0))


def _bands(brain: BoolArray) -> NDArray[np.intp]:
    """Which eighth of the brain's height each slice lies in; -1 without brain; (S,)."""
    rows = np.flatnonzero(brain.any(axis=(1, 2)))
    bands = np.full(len(brain), -1, np.intp)
    bands[rows] = np.arange(len(rows)) * _DEPTHS // max(len(rows), 1)
    return bands


def fit_controls(
    cases: Sequence[CachedCase], contract: PreprocessingContract, *, most: int = 120, seed: int = 0
) -> Mapping[str, Control]:
    """Fit every control on training cases.

    Parameters
    ----------
    cases : sequence of CachedCase
        Training split.
    contract : PreprocessingContract
        Of the cases.
    most : int
        Look at this many cases at most, evenly spread: twelve weights and a mean image need no more.
    seed : int
        Of the choice of voxels.

    Raises
    ------
    ValueError
        Without any case.
    """
    if not cases:
        raise ValueError("controls need at least one training case")
    chosen = [cases[i] for i in np.unique(np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int))]
    sample = draw_sample(chosen, contract, seed)
    return {
        "hu_polynomial": Polynomial.fit(sample),
        "hu_lookup": Lookup.fit(sample),
        "constant_in_mask": Constant(float(sample.target.mean())),
        "mean_image": MeanImage.fit(chosen),
        "identity_window": IdentityWindow(),
        "histogram_match": HistogramMatch.fit(sample),
    }
