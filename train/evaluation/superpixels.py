"""Correlation of mean grey over superpixels of the measured DWI, after the idea of JEIT250643; the definition is ours.

SLIC (Achanta et al., TPAMI 2012; within a mask, Irving 2016) cuts the brain of each measured slice into about
`SEGMENTS` regions, at 256 pixels of about 110 pixels each, the size of a small infarct. A slice's figures compare the
means of the measured and the synthetic image over these regions. Only the measured image is cut, so that the regions
are the same for all methods. scikit-image normalises a slice's grey to its own range in the brain first, and for such
grey levels `COMPACTNESS` follows the image; the usual 10 gives a mere grid.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from train.data.cache import CachedCase, CaseFacts
from train.evaluation.scoring import MIN_BRAIN_FRACTION
from train.evaluation.summary import spread
from train.metrics import unit32

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.intp]

#: Regions asked for, and the other numbers with which the experiment is repeated.
SEGMENTS = 200
OTHER_SEGMENTS = (50, 100, 400)
COMPACTNESS = 0.1
SIGMA_PX = 1.0
#: Smaller superpixels do not count, and slices with fewer superpixels are skipped.
MIN_PIXELS = 16
MIN_SUPERPIXELS = 20
#: Figures of one slice.
METRICS = ("r", "spearman", "ccc", "slope")
#: Why a slice has no figures: too few superpixels, or one of the images has the same mean in all.
SKIPS = ("few", "flat_measured", "flat_synthetic")
#: Means that differ by less are equal but for rounding; the stored target has steps of 1.5e-5.
_FLAT = 1e-9
#: Fisher's z of a perfect r is infinite: |r| counts as this at most (z = 7.25).
_LARGEST_R = 1.0 - 1e-6


def segment(image: NDArray[Any], brain: BoolArray, n_segments: int = SEGMENTS) -> IntArray:
    """Superpixels of one slice.

    Parameters
    ----------
    image : ndarray
        (H, W) in [0, 1], measured.
    brain : ndarray
        (H, W) bool, not empty.
    n_segments : int
        Superpixels asked for.

    Returns
    -------
    ndarray
        (H, W) labels from 1; 0 outside the brain, and on pixels in it that no superpixel reaches, should there be any.

    Raises
    ------
    ImportError
        When scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError("superpixels need scikit-image: pip install 'jmmda-node[train]'") from error
    with warnings.catch_warnings():
        # The seeds in the mask come from k-means of its pixels, where a cluster may run empty and keeps its place.
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        labels = slic(
            np.asarray(image, np.float64),
            n_segments=n_segments,
            compactness=COMPACTNESS,
            sigma=SIGMA_PX,
            mask=brain,
            channel_axis=None,
            start_label=1,
        )
    return np.asarray(labels, np.intp)


def agreement(measured: FloatArray, synthetic: FloatArray) -> dict[str, float]:
    """Agreement of two series of means (n,), each with some variance.

    Returns
    -------
    dict
        ``r`` (Pearson), ``spearman``, ``ccc`` (concordance with moments over n, Lin, Biometrics 45, 1989), and
        ``slope`` and ``intercept`` of the regression of synthetic on measured.
    """
    x, y = measured - measured.mean(), synthetic - synthetic.mean()
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    offset = float(measured.mean() - synthetic.mean())
    slope = xy / xx
    return {
        "r": _correlation(measured, synthetic),
        "spearman": _correlation(stats.rankdata(measured), stats.rankdata(synthetic)),
        "ccc": 2.0 * xy / (xx + yy + len(x) * offset**2),
        "slope": slope,
        "intercept": float(synthetic.mean()) - slope * float(measured.mean()),
    }


def _correlation(a: FloatArray, b: FloatArray) -> float:
    x, y = a - a.mean(), b - b.mean()
    return min(1.0, max(-1.0, float(x @ y) / math.sqrt(float(x @ x) * float(y @ y))))


@dataclass(frozen=True, slots=True, eq=False)
class _Regions:
    """Superpixels of one slice that count: flat places of their pixels, the number of each's region, and sizes (n,)."""

    pixels: IntArray
    number: IntArray
    size: IntArray

    @classmethod
    def of(cls, labels: IntArray) -> _Regions:
        flat = labels.ravel()
        size = np.bincount(flat)
        counts = size >= MIN_PIXELS
        counts[0] = False
        pixels = np.flatnonzero(counts[flat])
        return cls(pixels, (np.cumsum(counts) - 1)[flat[pixels]], size[counts])

    def means(self, image: NDArray[Any]) -> FloatArray:
        """Mean of an image (H, W) in each superpixel, (n,)."""
        values = np.asarray(image, np.float64).ravel()[self.pixels]
        return np.bincount(self.number, weights=values, minlength=len(self.size)) / self.size


@dataclass(frozen=True, slots=True, eq=False)
class SuperpixelScore:
    """Agreement of one predicted volume with the measured one over superpixels.

    Attributes
    ----------
    facts : CaseFacts
        Of the case.
    n_segments : int
        Superpixels asked for.
    slices : ndarray
        (n,) numbers of the slices with enough brain, as in `train.evaluation.scoring.VolumeScore`.
    metrics : Mapping[str, ndarray]
        Each of `METRICS` -> (n,), nan for a skipped slice, so that methods stay paired.
    skipped : Mapping[str, int]
        Each of `SKIPS` -> slices.
    measured, synthetic : ndarray
        (p,) means of all superpixels of the slices that were not skipped.
    """

    facts: CaseFacts
    n_segments: int
    slices: IntArray
    metrics: Mapping[str, FloatArray]
    skipped: Mapping[str, int]
    measured: FloatArray
    synthetic: FloatArray


class CaseSuperpixels:
    """Superpixels of one case, made once for many predictions.

    Parameters
    ----------
    case : CachedCase
        What was measured.
    n_segments : int
        Superpixels asked for in each slice, at least `MIN_SUPERPIXELS`.

    Raises
    ------
    ValueError
        When no slice could have enough superpixels.
    ImportError
        When scikit-image is not installed.
    """

    def __init__(self, case: CachedCase, n_segments: int = SEGMENTS) -> None:
        if n_segments < MIN_SUPERPIXELS:
            raise ValueError(f"slices with fewer than {MIN_SUPERPIXELS} superpixels are skipped: ask for more")
        self.case = case
        self.n_segments = n_segments
        brain = np.asarray(case.brain) > 0
        self.rows = np.flatnonzero(np.count_nonzero(brain, axis=(1, 2)) / brain[0].size >= MIN_BRAIN_FRACTION)
        images = unit32(case.target_slices(self.rows))
        self._cuts = [self._cut(image, where) for image, where in zip(images, brain[self.rows], strict=True)]

    def _cut(self, image: NDArray[np.float32], brain: BoolArray) -> tuple[_Regions, FloatArray] | None:
        """Superpixels of a slice and their measured means; None when there are too few."""
        if np.count_nonzero(brain) < MIN_SUPERPIXELS * MIN_PIXELS:
            return None
        regions = _Regions.of(segment(image, brain, self.n_segments))
        return (regions, regions.means(image)) if len(regions.size) >= MIN_SUPERPIXELS else None

    def score(self, prediction: NDArray[np.float32]) -> SuperpixelScore:
        """Score a prediction (S, H, W) in [-1, 1] of the whole case.

        Raises
        ------
        ValueError
            When it has another shape than the case, or a scored slice is not finite.
        """
        if prediction.shape != self.case.target.shape:
            raise ValueError(f"the prediction has shape {prediction.shape}, the case {self.case.target.shape}")
        if not np.isfinite(prediction[self.rows]).all():
            raise ValueError("the prediction is not finite")
        images = unit32(prediction[self.rows])
        metrics = {name: np.full(len(self.rows), np.nan) for name in METRICS}
        skipped = Counter(dict.fromkeys(SKIPS, 0))
        points: list[FloatArray] = [np.empty((2, 0))]
        for row, (image, cut) in enumerate(zip(images, self._cuts, strict=True)):
            if cut is None:
                skipped["few"] += 1
                continue
            regions, measured = cut
            pair = np.stack([measured, regions.means(image)])
            flat = np.ptp(pair, axis=1) < _FLAT
            if flat.any():
                skipped["flat_measured" if flat[0] else "flat_synthetic"] += 1
                continue
            found = agreement(pair[0], pair[1])
            for name in METRICS:
                metrics[name][row] = found[name]
            points.append(pair)
        pooled = np.concatenate(points, axis=1)
        return SuperpixelScore(self.case.facts, self.n_segments, self.rows, metrics, dict(skipped), *pooled)


def fisher_z(r: FloatArray) -> FloatArray:
    """Fisher's z of correlations of any shape; a perfect one counts as 1 - 1e-6."""
    return np.asarray(np.arctanh(np.clip(r, -_LARGEST_R, _LARGEST_R)), np.float64)


@dataclass(frozen=True, slots=True)
class CorrelationSpread:
    """Mean and spread of correlations.

    Attributes
    ----------
    mean : float or None
        Of Fisher's z, turned back into a correlation.
    sd : float or None
        Of the correlations themselves (n - 1).
    mean_plain, sd_z : float or None
        Arithmetic mean of the correlations, and standard deviation (n - 1) of Fisher's z.
    n : int
        Correlations that are known.
    """

    mean: float | None
    sd: float | None
    mean_plain: float | None
    sd_z: float | None
    n: int

    @classmethod
    def of(cls, r: FloatArray) -> CorrelationSpread:
        """Of (n,) correlations; nan does not count."""
        known = r[~np.isnan(r)]
        if not known.size:
            return cls(None, None, None, None, 0)
        z = fisher_z(known)
        several = known.size > 1
        return cls(
            mean=float(np.tanh(z.mean())),
            sd=float(known.std(ddof=1)) if several else None,
            mean_plain=float(known.mean()),
            sd_z=float(z.std(ddof=1)) if several else None,
            n=int(known.size),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Scatter:
    """All superpixels of many volumes, and the line through them.

    Attributes
    ----------
    measured, synthetic : ndarray
        (p,) means in [0, 1].
    r, slope, intercept : float or None
        Pearson's r and the regression of synthetic on measured; None without a slice that counts.
    """

    measured: FloatArray
    synthetic: FloatArray
    r: float | None
    slope: float | None
    intercept: float | None

    @classmethod
    def of(cls, scores: Sequence[SuperpixelScore]) -> Scatter:
        """Pool volumes."""
        measured, synthetic = (
            np.concatenate([np.empty(0), *(getattr(score, name) for score in scores)])
            for name in ("measured", "synthetic")
        )
        if not measured.size:
            return cls(measured, synthetic, None, None, None)
        line = agreement(measured, synthetic)
        return cls(measured, synthetic, line["r"], line["slope"], line["intercept"])

    def thinned(self, most: int, seed: int = 0) -> tuple[FloatArray, FloatArray]:
        """At most so many points to draw, the same superpixels for all methods with as many."""
        if len(self.measured) <= most:
            return self.measured, self.synthetic
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.measured), most, replace=False))
        return self.measured[chosen], self.synthetic[chosen]

    def to_json(self) -> dict[str, Any]:
        """The line and the number of points, without the points."""
        return {"n": len(self.measured), "r": self.r, "slope": self.slope, "intercept": self.intercept}


@dataclass(frozen=True, slots=True)
class SuperpixelSummary:
    """Agreement over superpixels of one method on many volumes.

    Attributes
    ----------
    n_segments : int
        Superpixels asked for.
    per_slice, per_patient : CorrelationSpread
        Of r over slices, and of r over volumes, where a volume's r is the Fisher mean of its slices.
    others : Mapping[str, Mapping[str, Any]]
        ``spearman``, ``ccc`` and ``slope`` -> ``per_slice`` and ``per_patient`` mean, sd and n.
    skipped : Mapping[str, int]
        Slices that were skipped, by `SKIPS`.
    scatter : Scatter
        All superpixels.
    """

    n_segments: int
    per_slice: CorrelationSpread
    per_patient: CorrelationSpread
    others: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, int]
    scatter: Scatter

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the settings."""
        return {
            "n_segments": self.n_segments,
            "compactness": COMPACTNESS,
            "sigma_px": SIGMA_PX,
            "r": {"per_slice": self.per_slice.to_json(), "per_patient": self.per_patient.to_json()},
            **self.others,
            "skipped": dict(self.skipped),
            "scatter": self.scatter.to_json(),
        }


def summarise_superpixels(scores: Sequence[SuperpixelScore]) -> SuperpixelSummary:
    """Summarise the volumes of one method.

    Raises
    ------
    ValueError
        Without a volume, or when volumes were cut into different numbers of superpixels.
    """
    numbers = {score.n_segments for score in scores}
    if len(numbers) != 1:
        raise ValueError("a summary needs volumes, all cut into the same number of superpixels")
    of_slices = {name: np.concatenate([score.metrics[name] for score in scores]) for name in METRICS}
    of_patients = {name: np.array([_volume_mean(score, name) for score in scores]) for name in METRICS}
    return SuperpixelSummary(
        n_segments=numbers.pop(),
        per_slice=CorrelationSpread.of(of_slices["r"]),
        per_patient=CorrelationSpread.of(of_patients["r"]),
        others={
            name: {"per_slice": spread(of_slices[name]), "per_patient": spread(of_patients[name])}
            for name in METRICS
            if name != "r"
        },
        skipped={name: sum(score.skipped[name] for score in scores) for name in SKIPS},
        scatter=Scatter.of(scores),
    )


def _volume_mean(score: SuperpixelScore, metric: str) -> float:
    """Mean over the slices of a volume, of r by Fisher's z; nan without any."""
    known = score.metrics[metric][~np.isnan(score.metrics[metric])]
    if not known.size:
        return math.nan
    return float(np.tanh(fisher_z(known).mean())) if metric == "r" else float(known.mean())
