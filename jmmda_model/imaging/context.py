"""What the network sees of a slice beside the slice: its neighbours, its mirror image, and how the two sides differ.

Early ischaemia lowers the HU by a few units, less than the noise of a voxel; it shows in means over a region, and
against the other side. All of it is our reconstruction.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from jmmda_model.imaging.contract import ASYMMETRY_RANGE_HU, PreprocessingContract
from jmmda_model.imaging.intensity import window_channels
from jmmda_model.imaging.symmetry import SymmetryLine, mirror_slices
from jmmda_model.imaging.volume import FloatArray

#: HU that count as tissue in regional means: neither fluid nor bone, blood or calcium.
_TISSUE_HU: Final = (15.0, 60.0)
#: Pixels along a side that share one value of the regional means.
_COARSE: Final = 4
#: Share of tissue in a region below which its mean means nothing, and from which on it counts in full.
_LEAST_TISSUE, _ENOUGH_TISSUE = 0.03, 0.3


def neighbour_slices(offsets_mm: npt.NDArray[np.float64], contract: PreprocessingContract) -> npt.NDArray[np.intp]:
    """Choose the slices above and below that each slice of a stack is shown with.

    Parameters
    ----------
    offsets_mm : numpy.ndarray
        (S,) positions, ascending or descending, growing towards the head.
    contract : PreprocessingContract
        Its ``neighbours`` and ``nominal_thickness_mm``.

    Returns
    -------
    numpy.ndarray
        (S, 2 x neighbours) indices: 1 below, 1 above, 2 below ...; the nearest slice to each wanted position, which at
        the ends of a stack is the end slice.
    """
    z = np.asarray(offsets_mm, dtype=np.float64)
    steps = [sign * step for step in range(1, contract.neighbours + 1) for sign in (-1, 1)]
    wanted = z[:, None] + np.array(steps, dtype=np.float64).reshape(1, -1) * contract.nominal_thickness_mm
    return np.asarray(np.abs(wanted[..., None] - z).argmin(axis=-1), dtype=np.intp)


def regional_asymmetry(
    hu: npt.NDArray[Any],
    brain: npt.NDArray[Any],
    offsets_mm: npt.NDArray[np.float64],
    line: SymmetryLine,
    contract: PreprocessingContract,
) -> FloatArray:
    """Compare the mean HU of tissue around each point with that around its mirror image.

    Parameters
    ----------
    hu : numpy.ndarray
        (S, H, W) in HU on the network grid.
    brain : numpy.ndarray
        (S, H, W) brain, same grid.
    offsets_mm : numpy.ndarray
        (S,) positions of the slices along their normal.
    line : SymmetryLine
        Mid-sagittal line of the stack.
    contract : PreprocessingContract
        Its ``asymmetry_mm``: standard deviations of the Gaussian region, in space.

    Returns
    -------
    numpy.ndarray
        (S, scales, H // 4, W // 4) float32: HU of this side minus the other, towards 0 where there is little tissue.
    """
    values = np.asarray(hu, dtype=np.float32)
    lower, upper = _TISSUE_HU
    tissue = ((np.asarray(brain) > 0) & (values > lower) & (values < upper)).astype(np.float32)
    amount, total = _pooled(tissue), _pooled(values * tissue)
    coarse_line = (line[0], line[1] / _COARSE)
    maps = np.zeros((len(values), len(contract.asymmetry_mm), *amount.shape[1:]), np.float32)
    for number, scale_mm in enumerate(contract.asymmetry_mm):
        share, summed = (_smooth(planes, offsets_mm, scale_mm, contract) for planes in (amount, total))
        other_share, other_summed = (mirror_slices(planes, coarse_line, fill=0.0) for planes in (share, summed))
        difference = summed / np.maximum(share, _LEAST_TISSUE) - other_summed / np.maximum(other_share, _LEAST_TISSUE)
        least = np.minimum(share, other_share)
        trust = np.where(least > _LEAST_TISSUE, np.minimum(least / _ENOUGH_TISSUE, 1.0), 0.0)
        maps[:, number] = difference * trust
    return maps


def _pooled(planes: FloatArray) -> FloatArray:
    """Means of 4 x 4 pixels, (S, H // 4, W // 4)."""
    count, height, width = planes.shape
    inner = planes[:, : height // _COARSE * _COARSE, : width // _COARSE * _COARSE]
    blocks = inner.reshape(count, height // _COARSE, _COARSE, width // _COARSE, _COARSE)
    return np.asarray(blocks.mean(axis=(2, 4)), np.float32)


def _smooth(
    planes: FloatArray, offsets_mm: npt.NDArray[np.float64], scale_mm: float, contract: PreprocessingContract
) -> FloatArray:
    """Gaussian mean in space of coarse planes (S, h, w) at true slice positions."""
    sigma_px = scale_mm / (contract.grid_spacing_mm * _COARSE)
    within = ndimage.gaussian_filter(planes, (0.0, sigma_px, sigma_px))
    z = np.asarray(offsets_mm, dtype=np.float64)
    reach = np.abs(np.gradient(z)) if len(z) > 1 else np.ones(1)
    weights = np.exp(-0.5 * ((z[:, None] - z) / scale_mm) ** 2) * reach
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.tensordot(weights.astype(np.float32), within, axes=1), np.float32)


def context_planes(
    hu: npt.NDArray[Any],
    offsets_mm: npt.NDArray[np.float64],
    line: SymmetryLine,
    asymmetry: FloatArray,
    contract: PreprocessingContract,
    rows: npt.NDArray[np.intp] | None = None,
) -> FloatArray:
    """Gather what the network sees of each slice, still in HU.

    Parameters
    ----------
    hu : numpy.ndarray
        (S, H, W) in HU on the network grid.
    offsets_mm : numpy.ndarray
        (S,) positions, growing towards the head.
    line : SymmetryLine
        Mid-sagittal line of the stack.
    asymmetry : numpy.ndarray
        (S, scales, h, w) from `regional_asymmetry`.
    contract : PreprocessingContract
        What is asked for.
    rows : numpy.ndarray, optional
        Indices of the slices wanted; default all.

    Returns
    -------
    numpy.ndarray
        (len(rows), ct_plane_count + scales, H, W) float32: the slice, its neighbours, its mirror image, and the
        asymmetry at each scale.
    """
    chosen = np.arange(len(hu)) if rows is None else np.asarray(rows, dtype=np.intp)
    own = np.asarray(hu[chosen], dtype=np.float32)
    planes = [own]
    planes.extend(np.asarray(hu[beside], np.float32) for beside in neighbour_slices(offsets_mm, contract)[chosen].T)
    if contract.mirror:
        planes.append(mirror_slices(own, line))
    enlarged = _enlarge(asymmetry[chosen], (own.shape[1], own.shape[2]))
    return np.concatenate([np.stack(planes, axis=1), enlarged], axis=1)


def _enlarge(maps: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Bring coarse maps (..., h, w) to a size by linear interpolation between the centres of their pixels."""
    lower, upper, share = _between(maps.shape[-2], size[0])
    rows = maps[..., lower, :] * (1 - share[:, None]) + maps[..., upper, :] * share[:, None]
    lower, upper, share = _between(maps.shape[-1], size[1])
    return np.asarray(rows[..., lower] * (1 - share) + rows[..., upper] * share, np.float32)


@functools.cache
def _between(coarse: int, fine: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], FloatArray]:
    """For each fine pixel its two coarse neighbours and the share of the second; beyond the ends the edge goes on."""
    place = np.clip((np.arange(fine) + 0.5) * coarse / fine - 0.5, 0, coarse - 1)
    lower = np.floor(place).astype(np.intp)
    return lower, np.minimum(lower + 1, coarse - 1), (place - lower).astype(np.float32)


def ct_channels(planes: npt.NDArray[Any], contract: PreprocessingContract) -> FloatArray:
    """Window the planes of `context_planes` into the network's CT channels.

    Parameters
    ----------
    planes : numpy.ndarray
        (n, ct_plane_count + scales, H, W) in HU.
    contract : PreprocessingContract
        Windows of the slice itself, and of its context.

    Returns
    -------
    numpy.ndarray
        (n, ct_channel_count, H, W) float32 in [-1, 1].
    """
    count = contract.ct_plane_count
    span = (-ASYMMETRY_RANGE_HU, ASYMMETRY_RANGE_HU)
    own = window_channels(planes[:, 0], contract.windows_hu)
    context = window_channels(planes[:, 1:count], [contract.context_window_hu])[:, :, 0]
    sides = window_channels(planes[:, count:], [span])[:, :, 0]
    return np.concatenate([own, context, sides], axis=1)
