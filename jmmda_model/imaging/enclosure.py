"""Which voxels have bone around them: the test that tells brain from scalp, neck, orbit and headrest on CT."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.volume import BoolArray

N_DIRECTIONS: Final = 16
"""In-plane directions in which a voxel looks for bone."""


def enclosure_count(bone: BoolArray) -> npt.NDArray[np.uint8]:
    """Count, for every voxel, the in-plane directions in which it sees bone.

    Each direction is one sweep over the slice: a voxel sees bone if it is bone or if the voxel before it on the line
    does. Lines are digital ones that move one row (or column) a step.

    Parameters
    ----------
    bone : numpy.ndarray
        (S, R, C) bool.

    Returns
    -------
    numpy.ndarray
        (S, R, C) uint8, 0 to `N_DIRECTIONS`.

    Examples
    --------
    >>> ring = np.ones((1, 5, 5), dtype=bool); ring[0, 1:4, 1:4] = False
    >>> int(enclosure_count(ring)[0, 2, 2])
    16
    """
    bone_rows = np.ascontiguousarray(bone.transpose(1, 0, 2))
    bone_columns = np.ascontiguousarray(bone.transpose(2, 0, 1))
    by_rows = np.zeros(bone_rows.shape, dtype=np.uint8)
    by_columns = np.zeros(bone_columns.shape, dtype=np.uint8)
    small = float(np.tan(np.pi / 8))
    # Sweeps over rows own the directions within 45 degrees of vertical, the diagonals included; sweeps over columns own
    # the rest, so that each of the 16 directions is counted once.
    for slope in (0.0, small, -small, 1.0, -1.0):
        _sweep(bone_rows, by_rows, slope)
        if abs(slope) < 1:
            _sweep(bone_columns, by_columns, slope)
    return np.asarray(by_rows.transpose(1, 0, 2) + by_columns.transpose(1, 2, 0))


def _sweep(bone: BoolArray, count: npt.NDArray[np.uint8], slope: float) -> None:
    """Add both senses of one direction to ``count``; axis 0 (R) is swept, the line moves ``slope`` columns a step."""
    n = bone.shape[0]
    shifts = np.diff(np.rint(slope * np.arange(n + 1)).astype(int))
    for order in (range(n), range(n - 1, -1, -1)):
        seen = np.zeros(bone.shape[1:], dtype=bool)
        for step, index in enumerate(order):
            seen = _moved(seen, int(shifts[step]))
            seen |= bone[index]
            count[index] += seen


def _moved(seen: BoolArray, shift: int) -> BoolArray:
    """Return a copy of ``seen`` moved by ``shift`` columns, nothing coming in from outside."""
    out = np.zeros_like(seen)
    if shift == 0:
        out[:] = seen
    elif shift > 0:
        out[:, shift:] = seen[:, :-shift]
    else:
        out[:, :shift] = seen[:, -shift:]
    return out
