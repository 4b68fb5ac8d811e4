"""Brain under an opening of the vault, where the enclosure test fails because bone is missing on one side."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.volume import BoolArray

N_RAYS: Final = 180
"""Rays from the middle of a section, 2 degrees apart."""
GRAZING_RAYS: Final = 3
"""Rays on each side of a gap that are not trusted."""


def outline_across_gaps(bone: BoolArray, centre: tuple[float, float]) -> npt.NDArray[np.float64] | None:
    """Return the inner outline of the skull in one section, bridged where bone is missing.

    From the middle of the section each ray runs to the first bone. Rays that meet none take a length interpolated over
    the angle: an arc, where a straight bridge would cut off the cap of brain under the opening.

    Parameters
    ----------
    bone : numpy.ndarray
        (R, C) bool.
    centre : tuple[float, float]
        Row and column from which the rays start.

    Returns
    -------
    numpy.ndarray or None
        (N_RAYS,) distance to the outline in pixels, or None where no bone is missing or fewer than half of the
        rays meet bone (there is no outline to complete then).
    """
    reach = int(np.hypot(*bone.shape))
    angle = np.arange(N_RAYS) * (2 * np.pi / N_RAYS)
    length = np.arange(reach)
    row = np.rint(centre[0] + np.sin(angle)[:, None] * length).astype(int)
    column = np.rint(centre[1] + np.cos(angle)[:, None] * length).astype(int)
    inside = (row >= 0) & (row < bone.shape[0]) & (column >= 0) & (column < bone.shape[1])
    hit = bone[np.clip(row, 0, bone.shape[0] - 1), np.clip(column, 0, bone.shape[1] - 1)] & inside
    met = hit.any(axis=1)
    if met.all():
        return None
    # Rays beside a gap graze its cut face and run on into the bone: they would push the bridge outwards.
    met &= np.all([np.roll(met, shift) for shift in range(-GRAZING_RAYS, GRAZING_RAYS + 1)], axis=0)
    if np.count_nonzero(met) < N_RAYS / 2:
        return None
    first = np.argmax(hit, axis=1).astype(np.float64)
    return np.asarray(np.interp(angle, angle[met], first[met], period=2 * np.pi), dtype=np.float64)


def within_outline(shape: tuple[int, int], centre: tuple[float, float], outline: npt.NDArray[np.float64]) -> BoolArray:
    """Return which pixels of a section of ``shape`` lie inside an outline of `outline_across_gaps`, by one pixel."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float64)
    rows, columns = rows - centre[0], columns - centre[1]
    ray = np.rint(np.arctan2(rows, columns) * (N_RAYS / (2 * np.pi))).astype(int) % N_RAYS
    return np.asarray(np.hypot(rows, columns) < outline[ray] - 1)
