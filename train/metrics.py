"""Image metrics on [0, 1] in any region, lesion AUC from mergeable histograms, and bootstrap intervals over volumes.

Conventions (ours, see docs/results.md): one channel, prediction clipped to [0, 1]; PSNR = 10 log10(1 / MSE), capped
at 100 dB; SSIM with an 11-tap Gaussian window of sigma 1.5, data range 1 and population covariance (Wang et al. 2004);
MS-SSIM with the five scales and exponents of Wang et al. 2003; NRMSE over the Euclidean norm of the truth.
``mse_paper`` = 3 x MSE, because the printed tables of JEIT250643 fit a squared error summed over three equal channels.
Tested against scikit-image and torchmetrics; only NumPy and SciPy are used.
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
_C1, _C2 = 0.01**2, 0.03**2
#: Exponents of MS-SSIM, fine to coarse.
MS_SSIM_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: Grey levels of the stored series (PreprocessingContract.output_levels + 1): AUC on this grid is the AUC of what is
#: delivered.
LEVELS = 4096


def to_unit(image: FloatArray) -> NDArray[np.float64]:
    """[-1, 1] to [0, 1], clipped, float64; same shape."""
    return np.clip((np.asarray(image, dtype=np.float64) + 1.0) / 2.0, 0.0, 1.0)


def unit32(image: NDArray[Any]) -> NDArray[np.float32]:
    """`to_unit` in float32, for whole stacks."""
    half: NDArray[np.float32] = np.asarray(image, np.float32) * np.float32(0.5)
    half += np.float32(0.5)
    return np.clip(half, np.float32(0.0), np.float32(1.0), out=half)


def _difference(prediction: FloatArray, truth: FloatArray, region: BoolArray | None) -> NDArray[np.float64]:
    difference = np.asarray(prediction, np.float64) - np.asarray(truth, np.float64)
    return difference.ravel() if region is None else difference[region]


def mse(prediction: FloatArray, truth: FloatArray, region: BoolArray | None = None) -> float:
    """Mean squared error of two [0, 1] images over a region (default: all pixels); nan when it is empty."""
    values = _difference(prediction, truth, region) ** 2
    return float(values.mean()) if values.size else float("nan")


def mae(prediction: FloatArray, truth: FloatArray, region: BoolArray | None = None) -> float:
    """Mean absolute error of two [0, 1] images over a region (default: all pixels); nan when it is empty."""
    values = np.abs(_difference(prediction, truth, region))
    return float(values.mean()) if values.size else float("nan")


def nrmse(prediction: FloatArray, truth: FloatArray, region: BoolArray | None = None) -> float:
    """Root of the summed squared error over the summed squared truth in a region; nan when that is empty or black."""
    energy = float((_difference(truth, np.zeros_like(truth), region) ** 2).sum())
    return float(np.sqrt((_difference(prediction, truth, region) ** 2).sum() / energy)) if energy else float("nan")


def mse_paper(value: float) -> float:
    """MSE in the convention that fits the paper's printed tables: squared error summed over three equal channels."""
    return 3.0 * value


def psnr_db(mean_squared_error: float) -> float:
    """PSNR in dB for data range 1, capped at 100 dB; nan stays nan."""
    return float(psnr_of(np.asarray(mean_squared_error)))


def psnr_of(mean_squared_error: NDArray[Any]) -> NDArray[np.float64]:
    """`psnr_db` of an array of any shape."""
    floor = 10.0 ** (-PSNR_CAP_DB / 10.0)
    return np.asarray(-10.0 * np.log10(np.maximum(mean_squared_error, floor)), np.float64)


@dataclass(frozen=True, slots=True)
class Windowed:
    """A stack of slices with its mean and variance under SSIM's Gaussian window; all (..., H, W) of one kind of float.

    The windows of one truth serve every prediction that is compared with it.
    """

    image: FloatArray
    mean: FloatArray
    variance: FloatArray

    @classmethod
    def of(cls, image: FloatArray) -> Windowed:
        """Filter a stack (..., H, W) in [0, 1], in its own precision."""
        mean = window_mean(image)
        return cls(image, mean, window_mean(image * image) - mean * mean)


def window_mean(image: FloatArray) -> FloatArray:
    """Mean under SSIM's 11-tap Gaussian window (sigma 1.5) of each (H, W) plane; same shape and kind of float."""
    flat = (0,) * (image.ndim - 2)
    out: FloatArray = ndimage.gaussian_filter(
        image, (*flat, SSIM_SIGMA, SSIM_SIGMA), radius=(*flat, SSIM_RADIUS, SSIM_RADIUS)
    )
    return out


def similarity(prediction: Windowed, truth: Windowed) -> tuple[FloatArray, FloatArray]:
    """SSIM and its contrast-structure factor at every pixel, both (..., H, W)."""
    product = prediction.mean * truth.mean
    covariance = window_mean(prediction.image * truth.image) - product
    structure = (2 * covariance + _C2) / (prediction.variance + truth.variance + _C2)
    luminance = (2 * product + _C1) / (prediction.mean**2 + truth.mean**2 + _C1)
    return luminance * structure, structure


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
    pair = (Windowed.of(np.asarray(image, np.float64)) for image in (prediction, truth))
    return np.asarray(similarity(*pair)[0], np.float64)


def ssim(prediction: FloatArray, truth: FloatArray, region: BoolArray | None = None) -> float:
    """Mean of `ssim_map` over a (H, W) region without the outer 5 pixels; nan when nothing is left."""
    edge = slice(SSIM_RADIUS, -SSIM_RADIUS)
    values = ssim_map(prediction, truth)[edge, edge]
    if region is not None:
        values = values[region[edge, edge]]
    return float(values.mean()) if values.size else float("nan")


def ms_ssim_betas(side_px: int) -> NDArray[np.float64]:
    """Exponents of the scales that a frame has room for (more than 10 pixels a side), made to sum to 1.

    A frame of more than 160 pixels has all five, with the exponents of Wang et al. 2003 unchanged.
    """
    count = sum(side_px >> scale > 2 * SSIM_RADIUS for scale in range(len(MS_SSIM_BETAS)))
    betas = np.array(MS_SSIM_BETAS[:count])
    return betas if count == len(MS_SSIM_BETAS) else betas / betas.sum()


def halve(stack: FloatArray) -> FloatArray:
    """Mean of 2 x 2 pixels of each plane; an odd last row or column is left out; (..., H // 2, W // 2)."""
    height, width = (length // 2 * 2 for length in stack.shape[-2:])
    part = stack[..., :height, :width]
    rows = part[..., ::2, :] + part[..., 1::2, :]
    out: FloatArray = (rows[..., ::2] + rows[..., 1::2]) * rows.dtype.type(0.25)
    return out


def inner(stack: NDArray[Any]) -> NDArray[Any]:
    """View of each plane without the outer 5 pixels, where SSIM's window is whole."""
    return stack[..., SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS]


def ms_ssim(prediction: FloatArray, truth: FloatArray, region: BoolArray | None = None) -> float:
    """Multi-scale SSIM of two [0, 1] slices (H, W), Wang et al. 2003.

    Every scale is weighted by the share of the region in its pixels; negative factors count as 0. A frame of 160 pixels
    or less has fewer scales, see `ms_ssim_betas`. nan when no inner pixel belongs to the region.
    """
    x: FloatArray = np.asarray(prediction, np.float64)
    y: FloatArray = np.asarray(truth, np.float64)
    weight: FloatArray = np.ones_like(x) if region is None else np.asarray(region, np.float64)
    betas, value = ms_ssim_betas(min(x.shape)), 1.0
    for scale, beta in enumerate(betas):
        if scale:
            x, y, weight = halve(x), halve(y), halve(weight)
        whole, structure = similarity(Windowed.of(x), Windowed.of(y))
        factor = whole if scale == len(betas) - 1 else structure
        total = float(inner(weight).sum())
        if not total:
            return float("nan")
        value *= max(float((inner(factor) * inner(weight)).sum()) / total, 0.0) ** beta
    return value


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
        levels = np.rint(np.clip(prediction[brain], 0.0, 1.0) * (LEVELS - 1)).astype(np.int64)
        sick = lesion[brain]
        return cls(
            np.bincount(levels[sick], minlength=LEVELS).astype(np.int64),
            np.bincount(levels[~sick], minlength=LEVELS).astype(np.int64),
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


def aucs_of(lesion: FloatArray, other: FloatArray) -> NDArray[np.float64]:
    """AUC of many pairs of histograms at once.

    Parameters
    ----------
    lesion, other : ndarray
        (N, LEVELS) counts, whole numbers as floats.

    Returns
    -------
    ndarray
        (N,), nan where either is empty.
    """
    below = np.cumsum(other, axis=1) - other
    won = np.einsum("nl,nl->n", lesion, below + other / 2.0)
    pairs = lesion.sum(axis=1) * other.sum(axis=1)
    aucs: NDArray[np.float64] = np.full(len(pairs), np.nan)
    np.divide(won, pairs, out=aucs, where=pairs > 0)
    return aucs


def draw_volumes(n_volumes: int, *, resamples: int = 500, seed: int = 0) -> NDArray[np.float64]:
    """How often each volume is drawn in each bootstrap sample: (1 + resamples, n), the first row once each.

    Figures that are ratios of sums over volumes follow for all samples from one product with this matrix, and two
    methods under the same draws are compared as pairs.
    """
    rng = np.random.default_rng(seed)
    counts = np.ones((1 + resamples, n_volumes))
    for row in range(1, 1 + resamples):
        counts[row] = np.bincount(rng.integers(0, n_volumes, n_volumes), minlength=n_volumes)
    return counts


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap interval (2.5 and 97.5 per cent) and the number of volumes behind it."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: NDArray[np.float64], n: int) -> Interval:
        """Interval of a figure over the rows of `draw_volumes`: the first is the value, the others its draws.

        Parameters
        ----------
        values : ndarray
            (1 + resamples,); draws that are nan are left out of the percentiles.
        n : int
            Volumes behind the figure.
        """
        draws = values[1:][~np.isnan(values[1:])]
        if n == 0 or draws.size == 0:
            return cls(float(values[0]) if n else float("nan"), float("nan"), float("nan"), n)
        low, high = np.percentile(draws, [2.5, 97.5])
        return cls(float(values[0]), float(low), float(high), n)

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
    rng = np.random.default_rng(seed)
    draws = [figure(rng.integers(0, n_volumes, n_volumes)) for _ in range(resamples)]
    return Interval.of(np.array([figure(np.arange(n_volumes)), *draws]), n_volumes)
