"""Sort the frames of a series into volumes: by b value, by direction, and where neither is known by geometry alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dicom_node.dicom.geometry import normal_of, orientation_defect, spacing_statistics
from train.data.diffusion.errors import DiffusionError
from train.data.diffusion.frames import Frame

__all__ = ["Stack", "Volume", "lay_out", "same_plane", "shell_above", "split_volumes"]

#: Positions closer than this along the normal are one slice, mm.
_SAME_SLICE_MM: Final = 0.1
#: Largest deviation of a cosine between frames of one stack: about a tenth of a degree.
_SAME_DIRECTION: Final = 2e-3
#: Slice distances may differ by this share before the stack counts as one with a gap.
_UNEVEN: Final = 0.05
#: The origins of an MR stack may stray this far from its normal, mm.
_SHEAR_MM: Final = 1.0


@dataclass(frozen=True, slots=True)
class Volume:
    """Frames of one volume in ascending order along the normal: one b value, one direction, every slice once."""

    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Stack:
    """Geometry that the volumes of a group share, in mm (LPS): origin, 3x3 axes as columns, spacing (x, y, z)."""

    origin: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    spacing: tuple[float, float, float]


def same_plane(frames: Sequence[Frame]) -> None:
    """Check that all frames have geometry and one size, spacing and orientation.

    Raises
    ------
    DiffusionError
        ``geometry``: they have not.
    """
    if any(f.position_mm is None or f.orientation is None or f.spacing_mm is None or min(f.size) < 1 for f in frames):
        raise DiffusionError("geometry", "an image has no position, orientation, spacing or size")
    first = frames[0]
    if any(frame.size != first.size for frame in frames):
        raise DiffusionError("geometry", "the images of the series have different sizes")
    cosines = np.array([frame.orientation for frame in frames])
    spacing = np.array([frame.spacing_mm for frame in frames])
    if orientation_defect(cosines[0]) > 1e-2:
        raise DiffusionError("geometry", "the direction cosines are no axes")
    if np.abs(cosines - cosines[0]).max() > _SAME_DIRECTION:
        raise DiffusionError("geometry", "the images of the series are not parallel")
    if np.abs(spacing / spacing[0] - 1.0).max() > 1e-3:
        raise DiffusionError("geometry", "the images of the series have different pixel spacing")


def shell_above(b_values: Sequence[float], wanted: float | None) -> tuple[float, float]:
    """Give the limits of the shell of b values to use: within 5 % (at least 5 s/mm^2) of the highest, or of `wanted`.

    Nominal b values scatter with the imaging gradients, so 995, 1000 and 1005 are one shell.

    Raises
    ------
    DiffusionError
        ``no_b_value``: nothing lies near `wanted`.
    """
    centre = max(b_values)
    if wanted is not None:
        centre = min(b_values, key=lambda value: (abs(value - wanted), value))
        if abs(centre - wanted) > max(0.05 * wanted, 5.0):
            listed = ", ".join(f"{value:g}" for value in sorted(set(b_values)))
            raise DiffusionError("no_b_value", f"no volume has b = {wanted:g}; the series has {listed}")
    width = max(0.05 * centre, 5.0)
    return centre - width, centre + width


def split_volumes(frames: Sequence[Frame]) -> tuple[tuple[Volume, ...], int]:
    """Split frames of one b value into volumes.

    Frames are put together by direction. Several frames of one direction at one position are repetitions: the k-th of
    every position, in order of acquisition and instance number, makes the k-th volume; the same rule separates a 4-D
    series in which nothing but geometry tells the volumes apart.

    Parameters
    ----------
    frames : sequence of Frame
        Checked by `same_plane`, at least one.

    Returns
    -------
    volumes : tuple of Volume
        Those that have every position of the group.
    n_dropped : int
        Volumes left out because a slice is missing.
    """
    places = _slice_numbers(frames)
    n_slices = int(places.max()) + 1
    by_direction: dict[object, list[list[Frame]]] = defaultdict(lambda: [[] for _ in range(n_slices)])
    for frame, place in sorted(zip(frames, places, strict=True), key=lambda pair: (pair[0].order, str(pair[0].path))):
        by_direction[frame.weighting.direction][int(place)].append(frame)
    complete, dropped = [], 0
    for slots in by_direction.values():
        full, most = min(map(len, slots)), max(map(len, slots))
        complete += [Volume(tuple(slot[k] for slot in slots)) for k in range(full)]
        dropped += most - full
    return tuple(complete), dropped


def _slice_numbers(frames: Sequence[Frame]) -> npt.NDArray[np.int64]:
    """Number the positions along the normal from 0; shape (frames,)."""
    offsets = _offsets(frames)
    order = np.argsort(offsets, kind="stable")
    numbers = np.empty(len(frames), dtype=np.int64)
    numbers[order] = np.concatenate(([0], np.cumsum(np.diff(offsets[order]) > _SAME_SLICE_MM)))
    return numbers


def _offsets(frames: Sequence[Frame]) -> npt.NDArray[np.float64]:
    positions = np.array([frame.position_mm for frame in frames], dtype=np.float64)
    return np.asarray(positions @ normal_of(frames[0].orientation or ()), dtype=np.float64)


def lay_out(volume: Volume) -> Stack:
    """Compute the grid of a volume from its positions.

    Raises
    ------
    DiffusionError
        ``one_slice``: a single slice is no volume; ``geometry``: a gap, or origins that do not follow the normal.
    """
    frames = volume.frames
    if len(frames) < 2:
        raise DiffusionError("one_slice", "the series has a single slice position", {"slices": float(len(frames))})
    offsets = _offsets(frames)
    steps = spacing_statistics(offsets)
    if steps.maximum_mm - steps.minimum_mm > max(_UNEVEN * steps.median_mm, _SAME_SLICE_MM):
        figures = {"smallest_mm": steps.minimum_mm, "median_mm": steps.median_mm, "largest_mm": steps.maximum_mm}
        raise DiffusionError("geometry", "slices are missing or unevenly spaced", figures)
    first = frames[0]
    cosines = np.array(first.orientation, dtype=np.float64)
    axes = np.stack([cosines[:3], cosines[3:], normal_of(first.orientation or ())], axis=1)
    positions = np.array([frame.position_mm for frame in frames], dtype=np.float64)
    stray = positions - positions[0] - (offsets - offsets[0])[:, None] * axes[:, 2]
    worst = float(np.linalg.norm(stray, axis=1).max())
    if worst > _SHEAR_MM:
        raise DiffusionError("geometry", "the slices are shifted sideways against their normal", {"shift_mm": worst})
    rows_mm, columns_mm = first.spacing_mm or (0.0, 0.0)
    mean_step = float(offsets[-1] - offsets[0]) / (len(frames) - 1)
    return Stack(positions[0], axes, (columns_mm, rows_mm, mean_step))
