"""How well a brain mask agrees with the truth: overlap, distance of the outlines, volume."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from jmmda_model.imaging import CtVolume

BoolArray = npt.NDArray[np.bool_]

VISIBLE_BELOW_HU = 120.0
VISIBLE_SMOOTH_MM = 0.6


def visible(volume: CtVolume, brain: BoolArray) -> BoolArray:
    """Return the brain that partial volume with bone leaves visible: below 120 HU after smoothing by 0.6 mm."""
    sigma = (0.0, VISIBLE_SMOOTH_MM / volume.spacing_mm[0], VISIBLE_SMOOTH_MM / volume.spacing_mm[1])
    return np.asarray(brain & (ndimage.gaussian_filter(np.clip(volume.hu, -1024, 2000), sigma) < VISIBLE_BELOW_HU))


def dice(first: BoolArray, second: BoolArray) -> float:
    """Return twice the common part over the sum; NaN for two empty masks."""
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else float("nan")


def surface_distance_mm(volume: CtVolume, first: BoolArray, second: BoolArray, quantile: float = 0.95) -> float:
    """Return a quantile of the distances, in mm and both ways, between the in-plane outlines of two masks.

    Distances run in patient coordinates, so that a section which only one mask has counts by its distance to the next
    section of the other. NaN where a mask is empty.
    """
    points = [_outline_mm(volume, mask) for mask in (first, second)]
    if min(len(one) for one in points) == 0:
        return float("nan")
    there, _ = cKDTree(points[1]).query(points[0])
    back, _ = cKDTree(points[0]).query(points[1])
    return float(np.quantile(np.concatenate([there, back]), quantile))


def _outline_mm(volume: CtVolume, mask: BoolArray) -> npt.NDArray[np.float64]:
    """Return (n, 3) patient coordinates of the pixels on the edge of each section."""
    cross = ndimage.generate_binary_structure(2, 1)[None]
    index, row, column = np.nonzero(mask & ~ndimage.binary_erosion(mask, cross, border_value=1))
    down = row[:, None] * volume.spacing_mm[0] * volume.orientation[1]
    right = column[:, None] * volume.spacing_mm[1] * volume.orientation[0]
    return np.asarray(volume.positions_mm[index] + down + right)
