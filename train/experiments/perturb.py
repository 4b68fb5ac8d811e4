"""What a network is given at test, damaged on purpose: noise in the CT, a CT moved against the DWI, another mask.

Every function takes a case and returns another one with the same truth (target, clean target, lesion), so that a
prediction from the damaged case is scored against the undamaged one. Chance depends on the patient alone: all methods
meet the same damage, and a stronger one is the weaker one enlarged. Definitions are ours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from jmmda_model.imaging.morphology import edge_distance_px
from jmmda_model.imaging.volume import AIR_HU
from train.data.cache import HU_STEP, CachedCase, encode_hu
from train.experiments.records import MaskSource, TestSet
from train.experiments.statistics import cluster_of
from train.metrics import unit32

BoolArray = NDArray[np.bool_]

#: By how much the damaged mask is too large.
DILATION_MM = 5.0
#: The brain of the DWI: what reaches this share of the median signal, closed by so much in the plane (CSF is dark).
SIGNAL_SHARE = 0.5
CLOSING_MM = 9.0


def _chance(case: CachedCase, what: str) -> np.random.Generator:
    """Random numbers of one patient for one kind of damage."""
    digest = hashlib.sha256(f"{what} {cluster_of(case.facts)}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def noisy(case: CachedCase, noise_hu: float) -> CachedCase:
    """Add white Gaussian noise to the CT.

    Parameters
    ----------
    case : CachedCase
        What was measured.
    noise_hu : float
        Standard deviation, of a pixel of the grid.
    """
    if not noise_hu:
        return case
    noise = _chance(case, "noise").standard_normal(case.hu.shape, dtype=np.float32)
    return dataclasses.replace(case, hu=encode_hu(case.hu_slices() + np.float32(noise_hu) * noise))


def moved(case: CachedCase, shift_mm: float, rotation_deg: float, spacing_mm: float) -> CachedCase:
    """Move the CT and its mask in the plane against the DWI, all slices alike.

    Parameters
    ----------
    case : CachedCase
        What was measured.
    shift_mm : float
        Length of the shift; its direction is the patient's.
    rotation_deg : float
        Angle about the middle of the grid; its sign is the patient's.
    spacing_mm : float
        Pixel size.

    Returns
    -------
    CachedCase
        HU are interpolated linearly, with air from outside; the mask is where at least half a pixel is brain; the
        mid-sagittal line moves along.
    """
    if not shift_mm and not rotation_deg:
        return case
    rng = _chance(case, "movement")
    direction, sign = rng.uniform(0.0, 2.0 * math.pi), rng.choice((-1.0, 1.0))
    shift = shift_mm / spacing_mm * np.array([math.sin(direction), math.cos(direction)])  # row, column
    angle = math.radians(float(sign) * rotation_deg)
    brain = _transformed(np.asarray(case.brain, np.float32), shift, angle, 0.0) >= 0.5
    line_angle, line_offset = case.facts.symmetry
    line_angle += angle
    along = float(shift @ (math.sin(line_angle), math.cos(line_angle)))
    return dataclasses.replace(
        case,
        facts=dataclasses.replace(case.facts, symmetry=(line_angle, line_offset + along)),
        hu=np.rint(_transformed(np.asarray(case.hu, np.float32), shift, angle, AIR_HU / HU_STEP)).astype(np.int16),
        brain=brain.astype(np.uint8),
    )


def _transformed(
    planes: NDArray[np.float32], shift: NDArray[np.float64], angle: float, fill: float
) -> NDArray[np.float32]:
    """Rotate planes (S, H, W) about their middle, columns towards rows, then shift them by pixels."""
    cos, sin = math.cos(angle), math.sin(angle)
    back = np.array([[cos, -sin], [sin, cos]])  # where a (row, column) of the result lies in the source
    middle = (np.array(planes.shape[1:]) - 1.0) / 2.0
    start = middle - back @ (middle + shift)
    out = np.empty_like(planes)
    for plane, result in zip(planes, out, strict=True):
        ndimage.affine_transform(plane, back, start, output=result, order=1, mode="constant", cval=fill)
    return out


def with_mask(case: CachedCase, source: MaskSource, spacing_mm: float) -> CachedCase:
    """Replace the mask.

    Parameters
    ----------
    case : CachedCase
        Of it the CT's own mask, or for the oracles the truth, is used.
    source : str
        See `TestSet.mask`.
    spacing_mm : float
        Pixel size.

    Raises
    ------
    ValueError
        When the lesion is wanted and it is not known where it is.
    """
    if source == "ct":
        return case
    if source == "zeros":
        mask = np.zeros(case.brain.shape, np.bool_)
    elif source == "dilated":
        mask = _grown(np.asarray(case.brain) > 0, DILATION_MM / spacing_mm)
    elif source == "brain_of_dwi":
        mask = brain_of_dwi(case, spacing_mm)
    else:
        if case.lesion is None:
            raise ValueError(f"{case.facts.patient} has no lesion label, so its lesion cannot serve as mask")
        mask = case.lesion_slices()
    return dataclasses.replace(case, brain=mask.astype(np.uint8))


def brain_of_dwi(case: CachedCase, spacing_mm: float) -> BoolArray:
    """The brain as the measured DWI shows it, (S, H, W): an oracle, because its edge is that of the image wanted.

    The DWI of a case is known inside the mask of the CT only, so it is the outline within that mask (and the closing
    about it), not one that is independent of it.
    """
    signal = unit32(case.target_slices())
    inside = signal > 0
    level = SIGNAL_SHARE * float(np.median(signal[inside])) if inside.any() else 1.0
    reach = CLOSING_MM / spacing_mm
    closed = _grown(signal >= level, reach)
    closed = edge_distance_px(closed) > reach
    return np.stack([ndimage.binary_fill_holes(plane) for plane in closed])


def _grown(mask: BoolArray, reach_px: float) -> BoolArray:
    """A mask (S, H, W) and all that lies within a distance of its edge in the plane."""
    return np.asarray(edge_distance_px(mask) >= -reach_px)


def seen_case(case: CachedCase, test: TestSet, spacing_mm: float) -> CachedCase:
    """The CT of a case as a test set has it: moved, then noisy. The mask is the CT's own, see `with_mask`."""
    return noisy(moved(case, test.shift_mm, test.rotation_deg, spacing_mm), test.noise_hu)
