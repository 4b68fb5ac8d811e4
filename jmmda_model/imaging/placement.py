"""Where the network grid lies in a stack, and the resampling between the two.

A canonical slice has rows growing from anterior to posterior and columns from the patient's right to left, the usual
axial display, whatever the source's orientation. The crop follows a line along the stack normal, not the centroid of
each slice, so that anatomy does not jump from slice to slice, on tilted stacks included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.errors import ImagingError
from jmmda_model.imaging.resample import apply_weights, linear_weights, nearest_index
from jmmda_model.imaging.volume import BoolArray, CtVolume, FloatArray


@dataclass(frozen=True, slots=True)
class GridPlacement:
    """Where the network grid lies in a stack: all that is needed to go there and back.

    Attributes
    ----------
    transpose, flip_rows, flip_columns : bool
        Steps from the source slice to the canonical slice, in this order.
    source_shape : tuple[int, int]
        Rows and columns of the source slice.
    spacing_mm : tuple[float, float]
        Row and column spacing of the canonical slice.
    centre_px : numpy.ndarray
        (S, 2) row and column of the grid's centre in each canonical slice, in its pixels.
    grid_px, grid_spacing_mm : int, float
        Size and pixel size of the network grid.
    """

    transpose: bool
    flip_rows: bool
    flip_columns: bool
    source_shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    centre_px: npt.NDArray[np.float64]
    grid_px: int
    grid_spacing_mm: float

    @property
    def n_slices(self) -> int:
        """Number of slices the placement was made for."""
        return int(self.centre_px.shape[0])

    @property
    def canonical_shape(self) -> tuple[int, int]:
        """Rows and columns of the canonical slice."""
        rows, columns = self.source_shape
        return (columns, rows) if self.transpose else (rows, columns)

    def to_canonical(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of ``image`` (..., rows, columns) in canonical orientation."""
        turned = np.swapaxes(image, -1, -2) if self.transpose else image
        return turned[..., :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def from_canonical(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Undo `to_canonical` exactly."""
        turned = image[..., :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return np.swapaxes(turned, -1, -2) if self.transpose else turned

    def forward_line(self, index: int, axis: int) -> tuple[float, float]:
        """Return first position and step, in canonical pixels, of grid samples along ``axis`` of slice ``index``."""
        step = self.grid_spacing_mm / self.spacing_mm[axis]
        return float(self.centre_px[index, axis]) - step * (self.grid_px - 1) / 2, step

    def backward_line(self, index: int, axis: int) -> tuple[float, float]:
        """Return first position and step, in grid pixels, of canonical samples along ``axis`` of slice ``index``."""
        first, step = self.forward_line(index, axis)
        return -first / step, 1 / step


def place_grid(volume: CtVolume, mask: BoolArray, contract: PreprocessingContract) -> GridPlacement:
    """Find where the network grid lies in a stack.

    The grid's centre is the line along the stack normal through the centroid of the mask, moved by less than a pixel so
    that grid samples fall on pixel centres of the middle brain slice: a stack that already has the grid's spacing then
    passes unchanged, and a voxel more or less of mask does not move the grid.

    Parameters
    ----------
    volume : CtVolume
        The stack.
    mask : numpy.ndarray
        (S, rows, columns) bool: the brain.
    contract : PreprocessingContract
        Size and spacing of the grid.

    Raises
    ------
    ImagingError
        ``no_brain`` when the mask is empty.
    """
    areas = np.count_nonzero(mask, axis=(1, 2))
    if not areas.any():
        raise ImagingError("no_brain", "there is no brain to centre the grid on")
    transpose, flips = _canonical_steps(volume.orientation)
    rows, columns = volume.hu.shape[1:]
    spacing = volume.spacing_mm[::-1] if transpose else volume.spacing_mm
    source_px = _centre_line_px(volume, mask)
    canonical_px = source_px[:, ::-1] if transpose else source_px
    shape = (columns, rows) if transpose else (rows, columns)
    middle = int(np.argmax(np.cumsum(areas) * 2 >= areas.sum()))
    centre = np.empty_like(canonical_px)
    for axis in range(2):
        line = canonical_px[:, axis]
        line = shape[axis] - 1 - line if flips[axis] else line
        half_step = contract.grid_spacing_mm / spacing[axis] / 2 * (contract.grid_px % 2 == 0)
        centre[:, axis] = line + (np.rint(line[middle] + half_step) - half_step - line[middle])
    return GridPlacement(
        transpose=transpose,
        flip_rows=flips[0],
        flip_columns=flips[1],
        source_shape=(rows, columns),
        spacing_mm=spacing,
        centre_px=centre,
        grid_px=contract.grid_px,
        grid_spacing_mm=contract.grid_spacing_mm,
    )


def _canonical_steps(orientation: npt.NDArray[np.float64]) -> tuple[bool, tuple[bool, bool]]:
    """Return whether to transpose, and which canonical axes (rows, columns) to flip then.

    Canonical columns follow +x (left) and rows +y (posterior) of LPS, as far as 90 degree turns can.
    """
    along_columns, along_rows = orientation
    keep = abs(along_columns[0]) + abs(along_rows[1])
    swap = abs(along_columns[1]) + abs(along_rows[0])
    transpose = bool(swap > keep)
    if transpose:
        along_columns, along_rows = along_rows, along_columns
    return transpose, (bool(along_rows[1] < 0), bool(along_columns[0] < 0))


def _centre_line_px(volume: CtVolume, mask: BoolArray) -> npt.NDArray[np.float64]:
    """(S, 2) row and column, in source pixels, of the line along the normal through the mask's centroid."""
    origin = volume.in_plane_origin_mm()
    weights = volume.slice_extent_mm
    spacing = np.asarray(volume.spacing_mm)
    total, moment = 0.0, np.zeros(2)
    for index in range(mask.shape[0]):
        by_row, by_column = np.count_nonzero(mask[index], axis=1), np.count_nonzero(mask[index], axis=0)
        area = int(by_row.sum())
        first = np.array([by_row @ np.arange(by_row.size), by_column @ np.arange(by_column.size)], dtype=np.float64)
        total += weights[index] * area
        moment += weights[index] * (first * spacing + area * origin[index])
    return np.asarray((moment / total - origin) / spacing)


def plane_weights(
    placement: GridPlacement, *, backward: bool = False
) -> Iterator[tuple[sparse.csr_array, sparse.csr_array]]:
    """Yield row and column weights of each slice; equal lines (an untilted stack) share their matrices."""
    size, shape = placement.grid_px, placement.canonical_shape
    cache: dict[tuple[int, float], sparse.csr_array] = {}
    for index in range(placement.n_slices):
        pair = []
        for axis in range(2):
            start, step = (placement.backward_line if backward else placement.forward_line)(index, axis)
            key = (axis, round(start, 6))
            if key not in cache:
                n_in, n_out = (size, shape[axis]) if backward else (shape[axis], size)
                cache[key] = linear_weights(n_in, key[1], step, n_out)
            pair.append(cache[key])
        yield pair[0], pair[1]


def resample_to_grid(
    array: npt.NDArray[Any], placement: GridPlacement, *, nearest: bool = False, fill: float = 0.0
) -> npt.NDArray[Any]:
    """Bring a stack on the CT grid to the network grid.

    Parameters
    ----------
    array : numpy.ndarray
        (S, rows, columns) of the placement's source.
    placement : GridPlacement
        From `place_grid`, or the one in a `NetworkInput`.
    nearest : bool
        Nearest neighbour, for labels; the dtype is kept. Otherwise linear and antialiased, as float32.
    fill : float
        Value outside the source slice.

    Returns
    -------
    numpy.ndarray
        (S, grid_px, grid_px).

    Raises
    ------
    ImagingError
        ``geometry`` when the array does not have the placement's shape.
    """
    check_shape(array, (placement.n_slices, *placement.source_shape))
    canonical = placement.to_canonical(array)
    size = placement.grid_px
    out = np.empty((placement.n_slices, size, size), dtype=array.dtype if nearest else np.float32)
    if not nearest:
        for index, (rows, columns) in enumerate(plane_weights(placement)):
            out[index] = apply_weights(canonical[index], rows, columns, fill)
        return out
    for index in range(placement.n_slices):
        row, row_inside = nearest_index(canonical.shape[1], *placement.forward_line(index, 0), size)
        column, column_inside = nearest_index(canonical.shape[2], *placement.forward_line(index, 1), size)
        picked = canonical[index][np.ix_(row, column)]
        out[index] = np.where(np.outer(row_inside, column_inside), picked, np.asarray(fill, dtype=out.dtype))
    return out


def resample_from_grid(grid: npt.NDArray[Any], placement: GridPlacement, *, fill: float = 0.0) -> FloatArray:
    """Bring a stack on the network grid back to the CT grid, linearly.

    Parameters
    ----------
    grid : numpy.ndarray
        (S, grid_px, grid_px).
    placement : GridPlacement
        The one the stack was made with.
    fill : float
        Value outside the grid.

    Returns
    -------
    numpy.ndarray
        (S, rows, columns) float32 in the source's own orientation.

    Raises
    ------
    ImagingError
        ``geometry`` when the array does not have the placement's shape.
    """
    check_shape(grid, (placement.n_slices, placement.grid_px, placement.grid_px))
    out = np.empty((placement.n_slices, *placement.source_shape), dtype=np.float32)
    for index, (rows, columns) in enumerate(plane_weights(placement, backward=True)):
        out[index] = placement.from_canonical(apply_weights(grid[index], rows, columns, fill))
    return out


def check_shape(array: npt.NDArray[Any], wanted: tuple[int, ...]) -> None:
    """Raise ``geometry`` when an array does not belong to the stack."""
    if array.shape != wanted:
        raise ImagingError("geometry", f"array of shape {array.shape} where {wanted} belongs")
