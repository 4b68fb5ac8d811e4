"""What a lesion looks like in a prediction: contrast against the mirrored side, and what a detector marks.

Definitions, all ours:

* *Contrast ratio*: mean in the lesion over the mean at the place mirrored about the mid-sagittal line, lesion excluded.
* *Lesion*: a connected component (26 neighbours) of the true mask of at least 0.05 ml. It is *detected* when at least a
  tenth of its voxels are marked.
* *Bright rule*: brain whose mean under a Gaussian window of sigma 1.5 pixels reaches one level is marked; the level is
  the one with the best Dice on the measured DWI of training cases. Marked components below 0.05 ml are dropped.
* *False-positive volume*: what is marked on slices without any lesion, and in volumes without any lesion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from jmmda_model.imaging.symmetry import mirror_slices
from train.data.cache import CachedCase
from train.metrics import LEVELS, ScoreHistogram, unit32, window_mean

BoolArray = NDArray[np.bool_]

MIN_COMPONENT_ML = 0.05
DETECTED_SHARE = 0.1
#: The bright rule looks at this many training cases at most, evenly spread.
_FIT_CASES = 40
_NEIGHBOURS = np.ones((3, 3, 3), np.bool_)


def voxel_ml(case: CachedCase, spacing_mm: float) -> float:
    """Volume of a voxel of the grid: pixel size squared times the median distance of slices."""
    offsets = np.asarray(case.facts.slice_offsets_mm)
    step = float(np.median(np.abs(np.diff(offsets)))) if len(offsets) > 1 else 0.0
    return spacing_mm**2 * step / 1000.0


@dataclass(frozen=True, slots=True)
class LesionTruth:
    """The true lesions of a case on its scored slices.

    Attributes
    ----------
    lesion, mirrored : ndarray
        (n, h, w) bool on the crop: lesion, and the same place on the other side, in brain and without lesion.
    components : ndarray
        (n, h, w) int32, number of the component from 1; 0 outside and in components that are too small.
    sizes_ml : tuple of float
        Volume of each component.
    voxel_ml : float
        Volume of a voxel.
    free_rows : ndarray
        (n,) bool, slices without any lesion.
    """

    lesion: BoolArray
    mirrored: BoolArray
    components: NDArray[np.int32]
    sizes_ml: tuple[float, ...]
    voxel_ml: float
    free_rows: BoolArray

    @classmethod
    def of(cls, case: CachedCase, rows: NDArray[np.intp], box: tuple[slice, slice], spacing_mm: float) -> LesionTruth:
        """Prepare the scored slices of a case with a lesion label, cropped to a box."""
        whole = case.lesion_slices(rows)
        brain = np.asarray(case.brain[rows]) > 0
        mirrored = np.zeros_like(whole)
        sick = np.flatnonzero(whole.any(axis=(1, 2)))
        if sick.size:
            other = mirror_slices(whole[sick].astype(np.float32), case.facts.symmetry) > 0.5
            mirrored[sick] = other & brain[sick] & ~whole[sick]
        lesion = whole[:, *box]
        volume = voxel_ml(case, spacing_mm)
        components, sizes = _components(lesion, volume)
        return cls(lesion, mirrored[:, *box], components, sizes, volume, np.asarray(~lesion.any(axis=(1, 2))))


def _components(mask: BoolArray, volume_ml: float) -> tuple[NDArray[np.int32], tuple[float, ...]]:
    """Number the components that are large enough; (n, h, w), and the volume of each."""
    if not mask.any():
        return np.zeros(mask.shape, np.int32), ()
    labels, count = ndimage.label(mask, _NEIGHBOURS)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)
    kept = voxels * volume_ml >= MIN_COMPONENT_ML - 1e-9
    kept[0] = False
    number = np.zeros(count + 1, np.int32)
    number[kept] = np.arange(1, int(kept.sum()) + 1)
    return number[labels], tuple((voxels[kept] * volume_ml).tolist())


def contrast_ratio(unit: NDArray[Any], truth: LesionTruth | None) -> float:
    """Mean of a [0, 1] image in the lesion over its mean at the mirrored place; nan where either is missing."""
    if truth is None or not truth.lesion.any() or not truth.mirrored.any():
        return float("nan")
    other = float(unit[truth.mirrored].mean(dtype=np.float64))
    return float(unit[truth.lesion].mean(dtype=np.float64)) / other if other > 0 else float("nan")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector marks in one volume, beside the truth.

    Attributes
    ----------
    truth_ml, found_ml, both_ml : float
        Volume of the lesion, of what is marked, and of both together.
    lesions_ml, marked_share : tuple of float
        Volume of each true lesion, and the share of its voxels that is marked.
    free_slices : int
        Slices without any lesion.
    false_ml : float
        Marked on them.
    """

    truth_ml: float
    found_ml: float
    both_ml: float
    lesions_ml: tuple[float, ...]
    marked_share: tuple[float, ...]
    free_slices: int
    false_ml: float

    @property
    def dice(self) -> float:
        """Dice of marked and true lesion; nan when both are empty."""
        total = self.truth_ml + self.found_ml
        return 2.0 * self.both_ml / total if total else float("nan")

    @property
    def detected(self) -> tuple[bool, ...]:
        """For each true lesion whether enough of it is marked."""
        return tuple(share >= DETECTED_SHARE for share in self.marked_share)


def finding(marked: BoolArray, truth: LesionTruth) -> Finding:
    """Compare a marked mask (n, h, w) with the truth."""
    count = len(truth.sizes_ml)
    hit = np.bincount(truth.components[marked], minlength=count + 1)[1:] * truth.voxel_ml
    return Finding(
        truth_ml=int(np.count_nonzero(truth.lesion)) * truth.voxel_ml,
        found_ml=int(np.count_nonzero(marked)) * truth.voxel_ml,
        both_ml=int(np.count_nonzero(marked & truth.lesion)) * truth.voxel_ml,
        lesions_ml=truth.sizes_ml,
        marked_share=tuple((hit / np.asarray(truth.sizes_ml)).tolist()) if count else (),
        free_slices=int(truth.free_rows.sum()),
        false_ml=int(np.count_nonzero(marked[truth.free_rows])) * truth.voxel_ml,
    )


def bright_finding(marked: BoolArray, truth: LesionTruth) -> Finding:
    """`finding` after dropping marked components that are too small."""
    return finding(_components(marked, truth.voxel_ml)[0] > 0, truth)


def fit_bright_level(cases: Sequence[CachedCase]) -> float | None:
    """Level of the bright rule: the best pooled Dice on the measured DWI of training cases.

    Parameters
    ----------
    cases : sequence of CachedCase
        Training split; 40 of them at most, evenly spread, are looked at.

    Returns
    -------
    float or None
        In [0, 1] of the target scale; None when no case has a labelled lesion.
    """
    labelled = [case for case in cases if case.has_lesion_label and case.facts.lesion_ml]
    if not labelled:
        return None
    chosen = np.unique(np.linspace(0, len(labelled) - 1, min(_FIT_CASES, len(labelled))).round().astype(int))
    total = ScoreHistogram(np.zeros(LEVELS, np.int64), np.zeros(LEVELS, np.int64))
    for index in chosen:
        case = labelled[index]
        brain = np.asarray(case.brain) > 0
        share = window_mean(brain.astype(np.float32))
        mean = window_mean(unit32(case.target_slices()) * brain) / np.maximum(share, np.float32(1e-6))
        total = total + ScoreHistogram.of(mean, case.lesion_slices(), brain)
    hit, wrong = (np.cumsum(counts[::-1])[::-1] for counts in (total.lesion, total.other))
    dice = 2.0 * hit / np.maximum(hit + wrong + total.lesion.sum(), 1)
    return float(np.argmax(dice) / (LEVELS - 1))
