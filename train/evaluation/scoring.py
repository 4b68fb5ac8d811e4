"""Score one predicted volume slice by slice: errors and similarity in three regions against each truth.

The truth of a case is prepared once (crop to the brain, window means at every scale) and serves every method. Outside
the crop both images are black, so that errors are 0 and similarity is exactly 1 there; images are float32 and sums
float64, which agrees with float64 throughout to better than 1e-5 (tested).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.data.cache import CachedCase, CaseFacts
from train.evaluation.lesions import Finding, LesionTruth, bright_finding, contrast_ratio
from train.metrics import (
    SSIM_RADIUS,
    ScoreHistogram,
    Windowed,
    halve,
    ms_ssim_betas,
    psnr_of,
    similarity,
    unit32,
    window_mean,
)

Float32 = NDArray[np.float32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Slices count from this share of brain in the frame on.
MIN_BRAIN_FRACTION = 0.05
REGIONS = ("frame", "brain", "lesion")
TRUTHS = ("dwi", "dwi_clean")
#: Metrics of one image, in the order in which they are shown.
METRICS = ("mse", "psnr_db", "ssim", "ms_ssim", "mae", "nrmse")


@dataclass(frozen=True, slots=True)
class SliceSums:
    """Sums of one region over each scored slice of a volume, all (n,) float64.

    Attributes
    ----------
    pixels, squared, absolute, energy
        Pixels of the region, and sums of squared error, absolute error and squared truth over them.
    ssim_pixels, ssim
        Pixels of the region whose SSIM window lies inside the frame, and the sum of SSIM over them.
    ms_ssim
        MS-SSIM of the region; nan without pixels.
    """

    pixels: FloatArray
    squared: FloatArray
    absolute: FloatArray
    energy: FloatArray
    ssim_pixels: FloatArray
    ssim: FloatArray
    ms_ssim: FloatArray

    def metric(self, name: str) -> FloatArray:
        """One of `METRICS` for each slice, (n,); nan where the region is empty."""
        if name == "ms_ssim":
            return self.ms_ssim
        if name == "ssim":
            return _divided(self.ssim, self.ssim_pixels)
        if name == "mae":
            return _divided(self.absolute, self.pixels)
        if name == "nrmse":
            return np.sqrt(_divided(self.squared, self.energy))
        mse = _divided(self.squared, self.pixels)
        return psnr_of(mse) if name == "psnr_db" else mse


def _divided(total: FloatArray, count: FloatArray) -> FloatArray:
    out = np.full(total.shape, np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out


@dataclass(frozen=True, slots=True)
class VolumeScore:
    """What is kept of one predicted volume.

    Attributes
    ----------
    facts : CaseFacts
        Of the case.
    slices : ndarray
        (n,) numbers of the scored slices.
    histogram : ScoreHistogram
        Predicted levels inside and outside the lesion, in brain.
    against : Mapping[str, Mapping[str, SliceSums]]
        ``dwi`` and, where there is one, ``dwi_clean`` -> region -> sums.
    contrast, contrast_measured : float
        Mean in the lesion over the mean at the mirrored place, of the prediction and of the measured DWI; nan without
        a lesion.
    findings : Mapping[str, Finding]
        Name of a detector -> what it marks in the prediction; empty when the lesion is unknown.
    """

    facts: CaseFacts
    slices: NDArray[np.intp]
    histogram: ScoreHistogram
    against: Mapping[str, Mapping[str, SliceSums]]
    contrast: float
    contrast_measured: float
    findings: Mapping[str, Finding]

    @property
    def has_lesion(self) -> bool:
        """Whether a labelled lesion lies in the scored slices."""
        return bool(self.histogram.lesion.any())


@dataclass(frozen=True, slots=True)
class _Region:
    """A region's weight at each scale (the finest on the crop) and what lies outside the crop."""

    levels: tuple[Float32, ...]
    pixels: FloatArray
    ssim_pixels: FloatArray
    outside: FloatArray


class CaseTruth:
    """The truth of one case, prepared to be compared with many predictions.

    Parameters
    ----------
    case : CachedCase
        What was measured.
    spacing_mm : float
        Pixel size, for volumes in ml.
    whole_frame : bool
        Do not crop: for predictions that are not black outside the brain.
    """

    def __init__(self, case: CachedCase, spacing_mm: float, *, whole_frame: bool = False) -> None:
        self.case = case
        self._spacing_mm = spacing_mm
        brain = np.asarray(case.brain) > 0
        self._frame = brain.shape[1:]
        share = np.count_nonzero(brain, axis=(1, 2)) / (self._frame[0] * self._frame[1])
        self.rows = np.flatnonzero(share >= MIN_BRAIN_FRACTION)
        brain = brain[self.rows]
        truths = {"dwi": unit32(case.target_slices(self.rows))}
        if case.has_clean:
            truths["dwi_clean"] = unit32(case.target_slices(self.rows, clean=True))
        lit: BoolArray = np.asarray(brain.any(axis=0))
        for truth in truths.values():
            lit |= truth.any(axis=0)
        self.box = (slice(None), slice(None)) if whole_frame or not lit.any() else _box(lit)
        self.brain = brain[:, *self.box]
        self._betas = ms_ssim_betas(min(self._frame))
        self.truths = {name: self._pyramid(truth) for name, truth in truths.items()}
        self._brain_share = window_mean(self.brain.astype(np.float32))
        lesion = case.lesion_slices(self.rows)
        self.lesion = lesion[:, *self.box]
        self._regions = {
            name: self._region(where)
            for name, where in (("frame", np.ones_like(brain)), ("brain", brain), ("lesion", lesion))
        }
        self.lesion_truth = LesionTruth.of(case, self.rows, self.box, spacing_mm) if case.has_lesion_label else None
        dwi = self.truths["dwi"][0].image
        self.contrast_measured = contrast_ratio(dwi, self.lesion_truth)

    def _pyramid(self, unit: Float32) -> tuple[Windowed, ...]:
        """Window means at each scale of MS-SSIM: the finest on the crop, the coarser ones on the whole frame."""
        levels = [Windowed.of(unit[:, *self.box])]
        for _ in self._betas[1:]:
            unit = np.asarray(halve(unit), np.float32)
            levels.append(Windowed.of(unit))
        return tuple(levels)

    def _region(self, where: BoolArray) -> _Region:
        weight: Float32 = where.astype(np.float32)
        pixels = np.count_nonzero(where, axis=(1, 2)).astype(np.float64)
        edge = np.zeros(self._frame, np.float32)
        edge[SSIM_RADIUS:-SSIM_RADIUS, SSIM_RADIUS:-SSIM_RADIUS] = 1.0
        ssim_pixels = (weight * edge).sum(axis=(1, 2), dtype=np.float64)
        levels = [np.asarray((weight * edge)[:, *self.box], np.float32)]
        outside = ssim_pixels - levels[0].sum(axis=(1, 2), dtype=np.float64)
        for _ in self._betas[1:]:
            weight = np.asarray(halve(weight), np.float32)
            inside = np.zeros_like(weight)
            border = (slice(None), slice(SSIM_RADIUS, -SSIM_RADIUS), slice(SSIM_RADIUS, -SSIM_RADIUS))
            inside[border] = weight[border]
            levels.append(inside)
        return _Region(tuple(levels), pixels, ssim_pixels, outside)

    def score(self, prediction: NDArray[np.float32], bright_level: float | None = None) -> VolumeScore:
        """Score a prediction (S, H, W) in [-1, 1].

        Parameters
        ----------
        prediction : ndarray
            Of the whole case.
        bright_level : float, optional
            Level of the bright rule, see `train.evaluation.lesions.fit_bright_level`; without it nothing is marked.
        """
        unit = unit32(prediction[self.rows])
        if self.box[0] != slice(None) and _lit_outside(unit, self.box):
            return CaseTruth(self.case, self._spacing_mm, whole_frame=True).score(prediction, bright_level)
        ours = self._pyramid(unit)
        findings = {}
        if self.lesion_truth is not None and bright_level is not None:
            marked = self.brain & (ours[0].mean >= np.float32(bright_level) * self._brain_share)
            findings["bright"] = bright_finding(marked, self.lesion_truth)
        return VolumeScore(
            facts=self.case.facts,
            slices=self.rows,
            histogram=ScoreHistogram.of(ours[0].image, self.lesion, self.brain),
            against={name: self._sums(ours, truth) for name, truth in self.truths.items()},
            contrast=contrast_ratio(ours[0].image, self.lesion_truth),
            contrast_measured=self.contrast_measured,
            findings=findings,
        )

    def _sums(self, ours: tuple[Windowed, ...], truth: tuple[Windowed, ...]) -> dict[str, SliceSums]:
        difference = ours[0].image - truth[0].image
        squared, absolute, energy = difference * difference, np.abs(difference), truth[0].image ** 2
        whole, structure = similarity(ours[0], truth[0])
        factors = [structure]
        for level, (a, b) in enumerate(zip(ours[1:], truth[1:], strict=True), start=1):
            factors.append(similarity(a, b)[0 if level == len(self._betas) - 1 else 1])
        if len(factors) == 1:
            factors = [whole]
        found = {}
        for name, region in self._regions.items():
            where = None if name == "frame" else (self.brain if name == "brain" else self.lesion)
            found[name] = SliceSums(
                pixels=region.pixels,
                squared=_total(squared, where),
                absolute=_total(absolute, where),
                energy=_total(energy, where),
                ssim_pixels=region.ssim_pixels,
                ssim=_weighted(whole, region.levels[0]) + region.outside,
                ms_ssim=self._ms_ssim(factors, region),
            )
        return found

    def _ms_ssim(self, factors: list[NDArray[Any]], region: _Region) -> FloatArray:
        value = np.ones(len(self.rows))
        for level, (factor, beta) in enumerate(zip(factors, self._betas, strict=True)):
            weight = region.levels[level]
            total, count = _weighted(factor, weight), weight.sum(axis=(1, 2), dtype=np.float64)
            if level == 0:
                total, count = total + region.outside, count + region.outside
            value *= np.maximum(_divided(total, count), 0.0) ** beta
        return value


def _total(values: NDArray[Any], where: BoolArray | None) -> FloatArray:
    part = values if where is None else values * where
    return np.asarray(part.sum(axis=(1, 2), dtype=np.float64))


def _weighted(values: NDArray[Any], weight: Float32) -> FloatArray:
    return np.asarray((values * weight).sum(axis=(1, 2), dtype=np.float64))


def _box(lit: BoolArray) -> tuple[slice, slice]:
    """Rows and columns that hold something, with the reach of the SSIM window around them."""
    box = []
    for axis in (1, 0):
        where = np.flatnonzero(lit.any(axis=axis))
        box.append(slice(max(0, int(where[0]) - SSIM_RADIUS), int(where[-1]) + 1 + SSIM_RADIUS))
    return box[0], box[1]


def _lit_outside(unit: Float32, box: tuple[slice, slice]) -> bool:
    outside = np.ones(unit.shape[1:], np.bool_)
    outside[box] = False
    return bool((unit.max(axis=0, initial=0.0) * outside).any())


def score_volume(
    case: CachedCase, prediction: NDArray[np.float32], *, spacing_mm: float = 0.9, bright_level: float | None = None
) -> VolumeScore:
    """Score one prediction (S, H, W) in [-1, 1] of a case, on the slices that hold enough brain."""
    return CaseTruth(case, spacing_mm).score(prediction, bright_level)
