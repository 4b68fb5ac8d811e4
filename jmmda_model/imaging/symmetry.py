"""The mid-sagittal line of a stack on the network grid, and slices mirrored about it.

Ischaemia is one-sided, so the other side of the same head is the best reference there is. One line serves the whole
stack: what is left of a roll or a curved falx is for the network to forgive. The recipe is ours.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage, optimize

from jmmda_model.imaging.volume import AIR_HU, BoolArray, FloatArray

SymmetryLine = tuple[float, float]
"""Angle in radians of the line's normal against the direction of the columns, and offset in pixels of the line from
the centre of the grid along that normal."""

MAX_ANGLE_RAD: Final = math.radians(25.0)
_TISSUE_HU: Final = (0.0, 80.0)
_COARSE_PX: Final = 64
_BANDS: Final = 3
_STARTS_RAD: Final = tuple(math.radians(degrees) for degrees in (-12.0, 0.0, 12.0))


def mid_sagittal_line(hu: npt.NDArray[Any], brain: npt.NDArray[Any]) -> SymmetryLine:
    """Find the line about which the brain of a stack is most symmetric.

    The brain's tissue is averaged over three bands of slices, made coarse, and compared with its own mirror image; the
    angle and offset with the least squared difference win.

    Parameters
    ----------
    hu : numpy.ndarray
        (S, H, W) in HU on the network grid.
    brain : numpy.ndarray
        (S, H, W) brain, same grid; only its inside counts.

    Returns
    -------
    SymmetryLine
        (0, 0), the middle column, when there is no brain.
    """
    inside = np.asarray(brain, dtype=bool)
    rows = np.flatnonzero(inside.any(axis=(1, 2)))
    if not rows.size:
        return 0.0, 0.0
    images, factor = _bands(hu, inside, rows)
    centre = _centroid_offset(images)

    def cost(line: npt.NDArray[np.float64]) -> float:
        if abs(line[0]) > MAX_ANGLE_RAD:
            return float(1e6 * (1.0 + abs(line[0])))
        mirrored = _mirror_planes(images, (float(line[0]), float(line[1])), 0.0)
        return float(((mirrored - images) ** 2).sum())

    best: tuple[float, npt.NDArray[np.float64]] | None = None
    for angle in _STARTS_RAD:
        simplex = np.array([[angle, centre], [angle + 0.1, centre], [angle, centre + 1.5]])
        options = {"initial_simplex": simplex, "xatol": 2e-3, "fatol": 1e-3, "maxfev": 80}
        found = optimize.minimize(cost, simplex[0], method="Nelder-Mead", options=options)
        if best is None or found.fun < best[0]:
            best = (float(found.fun), found.x)
    assert best is not None
    angle, offset = best[1]
    return float(angle), float(offset * factor)


def mirror_slices(planes: npt.NDArray[Any], line: SymmetryLine, *, fill: float = AIR_HU) -> FloatArray:
    """Mirror planes (n, H, W) about a line, bilinearly; what comes in from outside is ``fill``, air by default."""
    return _mirror_planes(np.asarray(planes, dtype=np.float32), line, fill)


def _bands(hu: npt.NDArray[Any], inside: BoolArray, rows: npt.NDArray[np.intp]) -> tuple[FloatArray, int]:
    """Mean tissue of three bands of slices, (bands, h, w) in 0..1, and the pixels that became one."""
    lower, upper = _TISSUE_HU
    factor = max(1, inside.shape[1] // _COARSE_PX)
    size = [length // factor * factor for length in inside.shape[1:]]
    means = []
    for band in np.array_split(rows, min(_BANDS, len(rows))):
        tissue = np.clip(np.asarray(hu[band], np.float32), lower, upper) / np.float32(upper)
        mean = np.where(inside[band], tissue, 0.0).mean(axis=0)[: size[0], : size[1]]
        means.append(mean.reshape(size[0] // factor, factor, size[1] // factor, factor).mean(axis=(1, 3)))
    return np.stack(means).astype(np.float32), factor


def _centroid_offset(images: FloatArray) -> float:
    """Column of the centroid, from the middle of the image."""
    weight = images.sum(axis=(0, 1), dtype=np.float64)
    columns = np.arange(images.shape[2]) - (images.shape[2] - 1) / 2.0
    return float(weight @ columns / max(float(weight.sum()), 1e-9))


def _mirror_planes(images: FloatArray, line: SymmetryLine, fill: float) -> FloatArray:
    """Reflect each (H, W) plane: a point p goes to p - 2 (p.n - d) n, with n = (cos, sin) over (column, row)."""
    angle, offset = line
    normal = np.array([math.sin(angle), math.cos(angle)])  # row, column
    matrix = np.eye(2) - 2.0 * np.outer(normal, normal)
    middle = (np.array(images.shape[1:]) - 1.0) / 2.0
    shift = middle + 2.0 * offset * normal - matrix @ middle
    out = np.empty(images.shape, np.float32)
    for plane, mirrored in zip(images, out, strict=True):
        ndimage.affine_transform(plane, matrix, shift, output=mirrored, order=1, mode="constant", cval=fill)
    return out
