"""Simple controls: what can be predicted from HU and position without any network.

A network that does not beat them has learnt nothing. Each control is fitted on training volumes and predicts the
normalised DWI in [-1, 1] inside the brain, -1 outside, exactly like the network. Only NumPy and SciPy are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.intensity import mask_channels
from train.data.cache import CachedCase

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
#: (HU (S, H, W), brain (S, H, W)) -> prediction (S, H, W) in [-1, 1].
Control = Callable[[FloatArray, BoolArray], FloatArray]

#: The two scales of the polynomial and the one of the lookup, in mm.
FINE_MM, COARSE_MM = 1.0, 4.0
#: HU range of brain tissue; what lies outside is clipped before fitting.
TISSUE_HU = (0.0, 80.0)
_LOOKUP_BINS = 160
_FIT_VOXELS_A_CASE = 20_000
_DEPTHS = 8


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


def _depth(brain: BoolArray, contract: PreprocessingContract) -> FloatArray:
    return mask_channels(brain, contract)[:, contract.mask_channels.index("edge_distance")]


def draw_sample(cases: Sequence[CachedCase], contract: PreprocessingContract, seed: int = 0) -> FitSample:
    """Draw brain voxels of training cases at random, a fixed number a case at most."""
    rng = np.random.default_rng(seed)
    parts: list[tuple[FloatArray, ...]] = []
    for case in cases:
        brain = np.asarray(case.brain) > 0
        hu = case.hu_slices()
        chosen = rng.permutation(np.flatnonzero(brain))[:_FIT_VOXELS_A_CASE]
        volumes = (
            smooth_in_brain(hu, brain, FINE_MM / contract.grid_spacing_mm),
            smooth_in_brain(hu, brain, COARSE_MM / contract.grid_spacing_mm),
            _depth(brain, contract),
            case.target_slices(),
        )
        parts.append(tuple(volume.ravel()[chosen] for volume in volumes))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return FitSample(*columns)


def _in_brain(values: NDArray[Any], brain: BoolArray) -> FloatArray:
    return np.where(brain, np.clip(values, -1.0, 1.0), -1.0).astype(np.float32)


def identity_window(hu: FloatArray, brain: BoolArray) -> FloatArray:
    """Show the CT window as if it were the DWI."""
    low, high = TISSUE_HU
    return _in_brain((np.clip(hu, low, high) - low) / (high - low) * 2.0 - 1.0, brain)


def fit_constant(sample: FitSample) -> Control:
    """Mean training target everywhere in the brain."""
    mean = float(sample.target.mean())
    return lambda hu, brain: _in_brain(np.full(hu.shape, mean, np.float32), brain)


def fit_lookup(sample: FitSample, contract: PreprocessingContract) -> Control:
    """Mean training target for every smoothed HU."""
    edges = np.linspace(*TISSUE_HU, _LOOKUP_BINS + 1)
    index = np.clip(np.digitize(sample.fine, edges) - 1, 0, _LOOKUP_BINS - 1)
    counts = np.bincount(index, minlength=_LOOKUP_BINS).astype(np.float64)
    sums = np.bincount(index, sample.target, minlength=_LOOKUP_BINS)
    table = ndimage.gaussian_filter1d(sums, 2.0) / np.maximum(ndimage.gaussian_filter1d(counts, 2.0), 1e-9)
    table = np.where(counts.cumsum() > 0, table, sample.target.mean())
    centres = (edges[:-1] + edges[1:]) / 2.0
    sigma_px = FINE_MM / contract.grid_spacing_mm
    return lambda hu, brain: _in_brain(np.interp(smooth_in_brain(hu, brain, sigma_px), centres, table), brain)


def fit_histogram_match(sample: FitSample) -> Control:
    """Map the quantiles of a volume's HU in brain to the quantiles of the training targets."""
    quantiles = np.linspace(0.0, 1.0, 513)
    wanted = np.quantile(sample.target, quantiles)

    def predict(hu: FloatArray, brain: BoolArray) -> FloatArray:
        own = np.quantile(np.clip(hu[brain], *TISSUE_HU), quantiles)
        return _in_brain(np.interp(hu, own, wanted), brain)

    return predict


def _features(fine: NDArray[Any], coarse: NDArray[Any], depth: NDArray[Any]) -> NDArray[np.float64]:
    """Polynomial terms: cubic in each HU scale, their product, quadratic in depth and depth times HU; (n, 12)."""
    low, high = TISSUE_HU
    a = (np.asarray(fine, np.float64) - low) / (high - low) * 2.0 - 1.0
    b = (np.asarray(coarse, np.float64) - low) / (high - low) * 2.0 - 1.0
    d = np.asarray(depth, np.float64)
    return np.stack([np.ones_like(a), a, a**2, a**3, b, b**2, b**3, a * b, d, d**2, d * a, d * b], axis=-1)


def fit_polynomial(sample: FitSample, contract: PreprocessingContract) -> Control:
    """Least-squares polynomial of HU at two scales and depth under the brain's edge: the best control known here."""
    features = _features(sample.fine, sample.coarse, sample.depth)
    weights, *_ = np.linalg.lstsq(features, np.asarray(sample.target, np.float64), rcond=None)

    def predict(hu: FloatArray, brain: BoolArray) -> FloatArray:
        fine = smooth_in_brain(hu, brain, FINE_MM / contract.grid_spacing_mm)[brain]
        coarse = smooth_in_brain(hu, brain, COARSE_MM / contract.grid_spacing_mm)[brain]
        out = np.full(hu.shape, -1.0, np.float32)
        out[brain] = np.clip(_features(fine, coarse, _depth(brain, contract)[brain]) @ weights, -1.0, 1.0)
        return out

    return predict


def fit_mean_image(cases: Sequence[CachedCase]) -> Control:
    """Mean training target at each place of the grid, for each eighth of the brain's height; no HU at all."""
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
    mean = (total + overall) / (count + 1.0)

    def predict(hu: FloatArray, brain: BoolArray) -> FloatArray:
        return _in_brain(mean[np.maximum(_bands(brain), 0)], brain)

    return predict


def _bands(brain: BoolArray) -> NDArray[np.intp]:
    """Which eighth of the brain's height each slice lies in; -1 without brain; (S,)."""
    rows = np.flatnonzero(brain.any(axis=(1, 2)))
    bands = np.full(len(brain), -1, np.intp)
    bands[rows] = np.arange(len(rows)) * _DEPTHS // max(len(rows), 1)
    return bands


def fit_controls(cases: Sequence[CachedCase], contract: PreprocessingContract, seed: int = 0) -> Mapping[str, Control]:
    """Fit every control on training cases.

    Raises
    ------
    ValueError
        Without any case.
    """
    if not cases:
        raise ValueError("controls need at least one training case")
    sample = draw_sample(cases, contract, seed)
    return {
        "hu_polynomial": fit_polynomial(sample, contract),
        "hu_lookup": fit_lookup(sample, contract),
        "constant_in_mask": fit_constant(sample),
        "mean_image": fit_mean_image(cases),
        "identity_window": identity_window,
        "histogram_match": fit_histogram_match(sample),
    }
