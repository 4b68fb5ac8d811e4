"""Image metrics on [0, 1] in three regions, lesion AUC from mergeable histograms, and bootstrap intervals over volumes.

Conventions (ours, see docs/results.md): float64, one channel, prediction clipped to [0, 1]; PSNR = 10 log10(1 / MSE),
capped at 100 dB; SSIM with an 11-tap Gaussian window of sigma 1.5, data range 1 and population covariance (Wang et
al. 2004), computed here with SciPy and tested against scikit-image. ``mse_paper`` = 3 x MSE, because the printed
tables of JEIT250643 fit a squared error summed over three equal channels.

Only NumPy and SciPy are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]

PSNR_CAP_DB = 100.0
SSIM_SIGMA = 1.5
SSIM_RADIUS = 5
#: Grey levels of the stored series (PreprocessingContract.output_levels + 1): AUC on this grid is the AUC of what is
#: delivered.
LEVELS = 4096


def to_unit(image: FloatArray) -> NDArray[np.float64]:
    """[-1, 1] to [0, 1], clipped, float64; same shape."""
    return np.clip((np.asarray(image, dtype=np.float64) + 1.0) / 2.0, 0.0, 1.0)


def mse(prediction: FloatArray, truth: FloatArray, region: BoolArray | None = None) -> float:
    """Mean squared error of two [0, 1] images over a region (default: all pixels); nan when it is empty."""
    squared = (np.asarray(prediction, np.float64) - np.asarray(truth, np.float64)) ** 2
    values = squared if region is None else squared[region]
    return float(values.mean()) if values.size else float("nan")


def mse_paper(value: float) -> float:
    """MSE in the convention that fits the paper's printed tables: squared error summed over three equal channels."""
    return 3.0 * value


def psnr_db(mean_squared_error: float) -> float:
    """PSNR in dB for data range 1, capped at 100 dB; nan stays nan."""
    if mean_squared_error != mean_squared_error:
        return float("nan")
    if mean_squared_error <= 10.0 ** (-PSNR_CAP_DB / 10.0):
        return PSNR_CAP_DB
    return float(-10.0 * np.log10(mean_squared_error))


def ssim_map(prediction: FloatArray, truth: FloatArray) -> NDArray[np.float64]:
    """Structural similarity of two [0, 1] slices.

    Parameters
    ----------
    prediction, truth : ndarray
        (H, W), at least 11 pixels a side.

    Returns
    -------
    ndarray
        (H, W) float64; the outer 5 pixels depend on the reflected border and are left out by `ssim`.
    """
    x, y = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)

    def blur(image: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.gaussian_filter(image, SSIM_SIGMA, radius=SSIM_RADIUS))

    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x**2
    var_y = blur(y * y) - mean_y**2
    cov = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def ssim(prediction: FloatArray, truth: FloatArray, region: BoolArray | None = None) -> float:
    """Mean of `ssim_map` over a (H, W) region without the outer 5 pixels; nan when nothing is left."""
    edge = slice(SSIM_RADIUS, -SSIM_RADIUS)
    values = ssim_map(prediction, truth)[edge, edge]
    if region is not None:
        values = values[region[edge, edge]]
    return float(values.mean()) if values.size else float("nan")


@dataclass(frozen=True, slots=True)
class ScoreHistogram:
    """Predicted grey levels in and out of the lesion, in brain: enough for the AUC, and volumes add up.

    Attributes
    ----------
    lesion, other : ndarray
        (LEVELS,) int64 counts of voxels a level.
    """

    lesion: NDArray[np.int64]
    other: NDArray[np.int64]

    @classmethod
    def of(cls, prediction: FloatArray, lesion: BoolArray, brain: BoolArray) -> ScoreHistogram:
        """Count a [0, 1] prediction, quantised to `LEVELS`, in ``brain``; three arrays of one shape."""
        levels = np.rint(np.clip(prediction, 0.0, 1.0) * (LEVELS - 1)).astype(np.int64)
        return cls(
            np.bincount(levels[brain & lesion], minlength=LEVELS).astype(np.int64),
            np.bincount(levels[brain & ~lesion], minlength=LEVELS).astype(np.int64),
        )

    def __add__(self, more: ScoreHistogram) -> ScoreHistogram:
        return ScoreHistogram(self.lesion + more.lesion, self.other + more.other)

    def auc(self) -> float:
        """Chance that a lesion voxel is brighter than another brain voxel, ties half; nan if one kind is missing."""
        positives, negatives = int(self.lesion.sum()), int(self.other.sum())
        if positives == 0 or negatives == 0:
            return float("nan")
        below = np.cumsum(self.other) - self.other
        wins = float(np.dot(self.lesion.astype(np.float64), below + 0.5 * self.other))
        return wins / (float(positives) * float(negatives))


def pooled_auc(histograms: Sequence[ScoreHistogram]) -> float:
    """AUC over the voxels of all volumes together; nan without any volume or lesion."""
    if not histograms:
        return float("nan")
    total = ScoreHistogram(
        np.sum([h.lesion for h in histograms], axis=0), np.sum([h.other for h in histograms], axis=0)
    )
    return total.auc()


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap interval (2.5 and 97.5 per cent) and the number of volumes behind it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """Plain values; nan becomes None, because JSON has no nan."""
        plain = {"value": self.value, "low": self.low, "high": self.high}
        return {key: (None if x != x else round(x, 6)) for key, x in plain.items()} | {"n": self.n}


def bootstrap(
    figure: Callable[[NDArray[np.intp]], float], n_volumes: int, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Percentile interval of a figure when whole volumes are drawn with replacement.

    Parameters
    ----------
    figure : callable
        Maps an array of volume indices (with repeats) to the figure; may return nan, which is left out of the
        percentiles.
    n_volumes : int
        Volumes to draw from. Voxels of one patient are not independent, so volumes are what is drawn.
    resamples, seed : int
        Number of draws and their seed.

    Returns
    -------
    Interval
        nan throughout when there is no volume.
    """
    if n_volumes == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    value = figure(np.arange(n_volumes))
    rng = np.random.default_rng(seed)
    draws = np.array([figure(rng.integers(0, n_volumes, n_volumes)) for _ in range(resamples)])
    draws = draws[~np.isnan(draws)]
    if draws.size == 0:
        return Interval(value, float("nan"), float("nan"), n_volumes)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, float(low), float(high), n_volumes)
