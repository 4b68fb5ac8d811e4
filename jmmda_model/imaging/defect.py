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
HARMONICS: Final = 4
"""Detail of the smooth outline that is fitted to the rays which meet bone: ellipse, egg, corners."""
STIFFNESS: Final = 0.1
"""Keeps the higher terms of the fit from swinging inside a wide gap."""
OUTLIER: Final = 0.06
"""Rays that end this part of their length away from the fit met something else than the vault."""
SKIN_WITHIN_PX: Final = 12
"""How far outside the outline the skin is looked for; beyond lies a headrest."""


def outline_across_gaps(bone: BoolArray, centre: tuple[float, float]) -> npt.NDArray[np.float64] | None:
    """Return the inner outline of the skull in one section, bridged where bone is missing.

    From the middle of the section each ray runs to the first bone. Rays that meet none take the length of a smooth
    closed outline fitted to the others, moved to join them at the ends of the gap: a straight bridge would cut off the
    cap of brain under the opening, an arc around the middle would bulge out at the side of a head, which is longer than
    wide.

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
    angle = np.arange(N_RAYS, dtype=np.float64) * (2 * np.pi / N_RAYS)
    hit = _along_rays(bone, centre)
    met = hit.any(axis=1)
    if met.all():
        return None
    # Rays beside a gap graze its cut face and run on into the bone: they would push the bridge outwards.
    met &= np.all([np.roll(met, shift) for shift in range(-GRAZING_RAYS, GRAZING_RAYS + 1)], axis=0)
    if np.count_nonzero(met) < N_RAYS / 2:
        return None
    first = np.argmax(hit, axis=1).astype(np.float64)
    logarithm = np.asarray(np.log(np.maximum(first, 1)), dtype=np.float64)
    smooth = _smooth_outline(angle, logarithm, met)
    rest = np.interp(angle, angle[met], (logarithm - smooth)[met], period=2 * np.pi)
    return np.asarray(np.exp(smooth + rest), dtype=np.float64)


def _smooth_outline(
    angle: npt.NDArray[np.float64], logarithm: npt.NDArray[np.float64], met: BoolArray
) -> npt.NDArray[np.float64]:
    """Return a Fourier series of few terms fitted to the logarithm of the length of rays that met the vault."""
    order = np.arange(1, HARMONICS + 1)
    turns = np.outer(angle, order)
    terms = np.concatenate([np.ones((N_RAYS, 1)), np.cos(turns), np.sin(turns)], axis=1)
    stiffness = np.diag(np.concatenate([[0.0], order**2.0, order**2.0])) * STIFFNESS
    used, fitted = met, logarithm
    for _ in range(3):
        design = terms[used]
        fitted = terms @ np.linalg.solve(design.T @ design + stiffness, design.T @ logarithm[used])
        close = met & (np.abs(logarithm - fitted) < OUTLIER)
        if np.count_nonzero(close) < N_RAYS / 3:
            break
        used = close
    return np.asarray(fitted, dtype=np.float64)


def under_skin(
    outline: npt.NDArray[np.float64], bone: BoolArray, tissue: BoolArray, centre: tuple[float, float]
) -> npt.NDArray[np.float64]:
    """Draw an outline in where the skin has sunk into the gap: no brain lies nearer to the skin than a scalp is thick.

    The other way round, tissue that stands out of a gap, says nothing: it may be brain, temporal muscle or fluid.

    Parameters
    ----------
    outline : numpy.ndarray
        (N_RAYS,) of `outline_across_gaps`, pixels.
    bone, tissue : numpy.ndarray
        (R, C) bool; ``tissue`` is all that is not air.
    centre : tuple[float, float]
        Row and column from which the rays start.
    """
    hit, body = _along_rays(bone, centre), _along_rays(tissue, centre)
    within = np.arange(hit.shape[1]) < outline[:, None] + SKIN_WITHIN_PX
    met = hit.any(axis=1)
    skin, skull = (_last(one & within) for one in (body, hit))
    scalp = float(np.median((skin - skull)[met]))
    return np.where(met, outline, np.minimum(outline, skin - scalp))


def _last(along: BoolArray) -> npt.NDArray[np.int64]:
    """Return the index of the last set sample of each ray; that of the end where none is set."""
    return np.asarray(along.shape[1] - 1 - np.argmax(along[:, ::-1], axis=1))


def _along_rays(plane: BoolArray, centre: tuple[float, float]) -> BoolArray:
    """Return (N_RAYS, length) samples, one pixel apart, of a plane that continues empty outside its frame."""
    angle = np.arange(N_RAYS, dtype=np.float64) * (2 * np.pi / N_RAYS)
    length = np.arange(int(np.hypot(*plane.shape)))
    row = np.rint(centre[0] + np.sin(angle)[:, None] * length).astype(int)
    column = np.rint(centre[1] + np.cos(angle)[:, None] * length).astype(int)
    inside = (row >= 0) & (row < plane.shape[0]) & (column >= 0) & (column < plane.shape[1])
    return np.asarray(
        plane[np.clip(row, 0, plane.shape[0] - 1), np.clip(column, 0, plane.shape[1] - 1)] & inside, dtype=bool
    )


def within_outline(shape: tuple[int, int], centre: tuple[float, float], outline: npt.NDArray[np.float64]) -> BoolArray:
    """Return which pixels of a section of ``shape`` lie inside an outline of `outline_across_gaps`, by one pixel."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float64)
    rows, columns = rows - centre[0], columns - centre[1]
    ray = np.rint(np.arctan2(rows, columns) * (N_RAYS / (2 * np.pi))).astype(int) % N_RAYS
    return np.asarray(np.hypot(rows, columns) < outline[ray] - 1)
