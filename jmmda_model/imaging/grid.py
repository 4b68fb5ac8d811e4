"""The network's input from a volume, and stored values on the CT grid from its output.

One path for training and serving. Grid, slab means and the rule for the brain's edge are our reconstruction:
JEIT250643 does not state them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.context import context_planes, ct_channels, regional_asymmetry
from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.errors import ImagingError
from jmmda_model.imaging.intensity import mask_channels, stored_values
from jmmda_model.imaging.mask import BrainMask
from jmmda_model.imaging.placement import (
    GridPlacement,
    check_shape,
    place_grid,
    plane_weights,
    resample_from_grid,
    resample_to_grid,
)
from jmmda_model.imaging.resample import apply_weights
from jmmda_model.imaging.symmetry import SymmetryLine, mid_sagittal_line
from jmmda_model.imaging.volume import AIR_HU, BoolArray, CtVolume, FloatArray

__all__ = [
    "GridPlacement",
    "GridStack",
    "NetworkInput",
    "from_network_grid",
    "place_grid",
    "resample_from_grid",
    "resample_to_grid",
    "slab_weights",
    "to_grid_stack",
    "to_network_grid",
]

MAX_OFF_GRID_FRACTION: Final = 0.001
"""Share of the brain that may lie outside the grid before the volume is refused (code ``fov``)."""

THICKNESS_TOLERANCE: Final = 0.9
"""Slices of at least this share of the nominal thickness pass as they are: 4.8 mm counts as 5 mm."""


@dataclass(frozen=True, slots=True)
class GridStack:
    """A volume on the network grid before windowing: what a training cache keeps.

    Attributes
    ----------
    hu : numpy.ndarray
        (S, grid_px, grid_px) float32 HU, slab means where the contract asks for them.
    brain : numpy.ndarray
        (S, grid_px, grid_px) bool.
    placement : GridPlacement
        Where the grid lies.
    offsets_mm : numpy.ndarray
        (S,) positions along the normal, growing towards the head.
    source_slices : tuple[tuple[int, ...], ...]
        Per slice the indices of the source slices that were averaged.
    notes : tuple[str, ...]
        What was done to the stack, for the record.
    """

    hu: FloatArray
    brain: BoolArray
    placement: GridPlacement
    offsets_mm: npt.NDArray[np.float64]
    source_slices: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]

    @property
    def has_brain(self) -> BoolArray:
        """(S,) slices the network must run on."""
        return np.asarray(self.brain.any(axis=(1, 2)))

    def symmetry(self) -> SymmetryLine:
        """Mid-sagittal line of the stack."""
        return mid_sagittal_line(self.hu, self.brain)


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """What the network sees of one volume, and how to go back.

    Attributes
    ----------
    ct : numpy.ndarray
        (S, ct_channel_count, grid_px, grid_px) float32 in [-1, 1]; not masked.
    mask : numpy.ndarray
        (S, len(mask_channels), grid_px, grid_px) float32.
    has_brain : numpy.ndarray
        (S,) bool: slices the network must run on; the others are black by rule.
    placement : GridPlacement
        Where the grid lies.
    source_slices : tuple[tuple[int, ...], ...]
        Per slice the indices of the CT slices averaged into it; ``(i,)`` where none were.
    notes : tuple[str, ...]
        What was done to the stack, for the record.
    """

    ct: FloatArray
    mask: FloatArray
    has_brain: BoolArray
    placement: GridPlacement
    source_slices: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]


def to_grid_stack(volume: CtVolume, mask: BrainMask, contract: PreprocessingContract) -> GridStack:
    """Bring a volume and its mask to the network grid, in HU.

    Parameters
    ----------
    volume : CtVolume
        The CT stack.
    mask : BrainMask
        Its brain, on the same grid.
    contract : PreprocessingContract
        Grid and thickness rules.

    Raises
    ------
    ImagingError
        ``no_brain``: empty mask; ``fov``: more than 0.1 % of the brain off the grid; ``thickness``: a slice with
        brain is thicker than ``max_thickness_mm``.
    """
    check_shape(mask.mask, volume.hu.shape)
    placement = place_grid(volume, mask.mask, contract)
    _refuse_thick(volume, mask.mask, contract)
    _refuse_off_grid(volume, mask.mask, placement)
    brain: BoolArray = np.asarray(resample_to_grid(mask.mask, placement) >= np.float32(0.5))
    hu = resample_to_grid(volume.hu, placement, fill=AIR_HU)
    weights = slab_weights(volume, contract, np.asarray(brain.any(axis=(1, 2))))
    sources = tuple(tuple(np.flatnonzero(row).tolist()) for row in weights)
    averaged = [index for index, slices in enumerate(sources) if len(slices) > 1]
    notes: tuple[str, ...] = ()
    if averaged:
        means = hu.copy()
        for index in averaged:
            used = list(sources[index])
            means[index] = np.tensordot(weights[index, used].astype(np.float32), hu[used], axes=1)
        hu = means
        notes = (f"{len(averaged)} slices fed as slab means of {contract.nominal_thickness_mm:g} mm",)
    towards_head = 1.0 if volume.normal[2] >= 0 else -1.0
    return GridStack(hu, brain, placement, towards_head * volume.offsets_mm, sources, notes)


def slab_weights(
    volume: CtVolume, contract: PreprocessingContract, wanted: BoolArray | None = None
) -> npt.NDArray[np.float64]:
    """Return the (S, S) weights that turn a thin stack into slab means of nominal thickness, rows summing to 1.

    Row i holds, for a slab centred on slice i, the length of each slice inside it; slices beside a gap only share what
    they cover. A slice that is thick enough already keeps weight 1 for itself, and so does one not in ``wanted`` (S,).
    """
    n, nominal = volume.hu.shape[0], contract.nominal_thickness_mm
    offsets, thickness = volume.offsets_mm, volume.slice_thickness_mm
    lower, upper = offsets - thickness / 2, offsets + thickness / 2
    overlap = np.minimum(offsets[:, None] + nominal / 2, upper) - np.maximum(offsets[:, None] - nominal / 2, lower)
    # A sliver below 1 % of the slab is rounding of positions, not a source worth naming.
    weights = np.where(overlap > 0.01 * nominal, overlap, 0.0)
    alone = thickness >= THICKNESS_TOLERANCE * nominal
    if wanted is not None:
        alone = alone | ~wanted
    weights[alone] = np.eye(n)[alone]
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def to_network_grid(volume: CtVolume, mask: BrainMask, contract: PreprocessingContract) -> NetworkInput:
    """Make the network's input from a volume: grid, windows, context, mask channels.

    Parameters
    ----------
    volume : CtVolume
        The CT stack.
    mask : BrainMask
        Its brain, on the same grid.
    contract : PreprocessingContract
        The bundle's contract.

    Raises
    ------
    ImagingError
        ``no_brain``, ``fov`` or ``thickness``, see `to_grid_stack`.
    """
    stack = to_grid_stack(volume, mask, contract)
    line = stack.symmetry() if contract.mirror or contract.asymmetry_mm else (0.0, 0.0)
    sides = regional_asymmetry(stack.hu, stack.brain, stack.offsets_mm, line, contract)
    return NetworkInput(
        ct=ct_channels(context_planes(stack.hu, stack.offsets_mm, line, sides, contract), contract),
        mask=mask_channels(stack.brain, contract),
        has_brain=stack.has_brain,
        placement=stack.placement,
        source_slices=stack.source_slices,
        notes=stack.notes,
    )


def from_network_grid(
    prediction: npt.NDArray[Any], net_input: NetworkInput, mask: BrainMask, contract: PreprocessingContract
) -> npt.NDArray[np.uint16]:
    """Bring a prediction back to the CT grid as stored values, brain only.

    Linear interpolation among the brain's grid samples: the background (-1) has no weight, else every edge would carry
    a dark seam of one grid pixel. Then the CT-resolution mask; slices without brain on the grid are black by rule.

    Parameters
    ----------
    prediction : numpy.ndarray
        (S, grid_px, grid_px) network output in [-1, 1].
    net_input : NetworkInput
        What the prediction was made from.
    mask : BrainMask
        Brain on the CT grid.
    contract : PreprocessingContract
        The bundle's contract.

    Returns
    -------
    numpy.ndarray
        (S, rows, columns) uint16, 0 to output_levels; 0 outside the brain.

    Raises
    ------
    ImagingError
        ``geometry`` when shapes disagree or the prediction is not finite.
    """
    level = np.clip(_finite(prediction), -1, 1).astype(np.float32) + 1
    out = np.zeros(mask.mask.shape, dtype=np.uint16)
    for index, plane in _brain_planes(level, net_input, mask, contract):
        out[index] = np.where(mask.mask[index], stored_values(plane - 1, contract), 0)
    return out


def scale_from_network_grid(
    scale: npt.NDArray[Any], net_input: NetworkInput, mask: BrainMask, contract: PreprocessingContract
) -> npt.NDArray[np.float32]:
    """Bring the network's estimate of its error back to the CT grid, along the same way as its prediction.

    Parameters
    ----------
    scale : numpy.ndarray
        (S, grid_px, grid_px) expected absolute error in units of the network's output, whose range is 2.
    net_input, mask, contract
        As for `from_network_grid`.

    Returns
    -------
    numpy.ndarray
        (S, rows, columns) float32 in 0..1, as a fraction of the full scale of the stored values; 0 outside the brain.

    Raises
    ------
    ImagingError
        ``geometry`` when shapes disagree or the scale is not finite.
    """
    fraction = (np.clip(_finite(scale), 0, 2) / 2).astype(np.float32)
    out = np.zeros(mask.mask.shape, dtype=np.float32)
    for index, plane in _brain_planes(fraction, net_input, mask, contract):
        out[index] = np.where(mask.mask[index], np.clip(plane, 0, 1), 0)
    return out


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not np.isfinite(values).all():
        raise ImagingError("geometry", "the prediction holds values that are not finite")
    return values


def _brain_planes(
    values: npt.NDArray[np.float32], net_input: NetworkInput, mask: BrainMask, contract: PreprocessingContract
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield each slice with brain on the CT's own grid, interpolated among samples of the brain alone."""
    placement = net_input.placement
    check_shape(mask.mask, (placement.n_slices, *placement.source_shape))
    check_shape(values, (placement.n_slices, placement.grid_px, placement.grid_px))
    inside = net_input.mask[:, contract.mask_channels.index("brain")]
    for index, (rows, columns) in enumerate(plane_weights(placement, backward=True)):
        if not net_input.has_brain[index]:
            continue
        share = apply_weights(inside[index], rows, columns)
        value = apply_weights(values[index] * inside[index], rows, columns)
        np.divide(value, share, out=value, where=share > np.float32(1e-3))
        yield index, placement.from_canonical(value)


def _refuse_thick(volume: CtVolume, mask: BoolArray, contract: PreprocessingContract) -> None:
    """Raise ``thickness`` when a slice with brain is thicker than the contract allows."""
    thickest = float(volume.slice_thickness_mm[mask.any(axis=(1, 2))].max())
    if thickest > contract.max_thickness_mm + 1e-3:
        raise ImagingError(
            "thickness",
            f"slices of {thickest:.2f} mm are thicker than the {contract.max_thickness_mm:g} mm the model accepts",
            {"thickness_mm": thickest, "max_thickness_mm": contract.max_thickness_mm},
        )


def _refuse_off_grid(volume: CtVolume, mask: BoolArray, placement: GridPlacement) -> None:
    """Raise ``fov`` when too much of the brain lies outside the grid."""
    canonical = placement.to_canonical(mask)
    inside_px = np.zeros(mask.shape[0])
    for index in range(mask.shape[0]):
        bounds = []
        for axis in range(2):
            first, step = placement.forward_line(index, axis)
            last = first + step * (placement.grid_px - 1)
            size = placement.canonical_shape[axis]
            bounds.append(slice(*np.clip(np.ceil([first - step / 2, last + step / 2]), 0, size).astype(int)))
        inside_px[index] = np.count_nonzero(canonical[index][tuple(bounds)])
    extent = volume.slice_extent_mm
    total = float(np.count_nonzero(mask, axis=(1, 2)) @ extent)
    off = 1 - float(inside_px @ extent) / total
    if off > MAX_OFF_GRID_FRACTION:
        side = placement.grid_px * placement.grid_spacing_mm
        raise ImagingError(
            "fov",
            f"{off * 100:.2f} % of the brain lies outside the {side:g} mm grid",
            {"off_grid_percent": off * 100, "allowed_percent": MAX_OFF_GRID_FRACTION * 100},
        )
