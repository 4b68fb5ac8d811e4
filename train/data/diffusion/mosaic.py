"""Siemens mosaics: all slices of one volume as tiles of one large image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from dicom_node.dicom.geometry import normal_of
from dicom_node.dicom.reading import ElementReader
from train.data.diffusion.csa import csa_numbers
from train.data.diffusion.elements import first_number, private_tag

__all__ = ["Tile", "is_mosaic", "tiles_of"]

_SIEMENS: Final = frozenset({"SIEMENS MR HEADER"})
_TILE_COUNT: Final = 0x0A


@dataclass(frozen=True, slots=True)
class Tile:
    """One slice of a mosaic: its first row and column, its size (rows, columns) and the place of its first pixel."""

    corner: tuple[int, int]
    size: tuple[int, int]
    position_mm: tuple[float, float, float]


def is_mosaic(ds: Dataset) -> bool:
    """Say whether ImageType calls the image a mosaic."""
    return "MOSAIC" in {text.upper() for text in ElementReader(ds).texts("ImageType")}


def tiles_of(
    ds: Dataset,
    csa: Mapping[str, tuple[str, ...]],
    size: tuple[int, int],
    position_mm: tuple[float, float, float],
    orientation: tuple[float, float, float, float, float, float],
    spacing_mm: tuple[float, float],
) -> tuple[Tile, ...]:
    """Find the slices of a mosaic and where they lie.

    The tiles fill a square of ceil(sqrt(n)) tiles a side, row by row. The scanner computes ImagePositionPatient as if
    the whole mosaic were one slice around the centre of the true first slice, so the first pixel of that slice lies
    half the difference of both sizes further along the row and the column (as nibabel and SPM undo it). Later slices
    follow along the CSA entry SliceNormalVector, which may point against row x column, by SpacingBetweenSlices.

    Parameters
    ----------
    ds, csa
        Header and its CSA image header.
    size : tuple of 2 ints
        Rows, columns of the mosaic, px.
    position_mm, orientation, spacing_mm
        Plane of the mosaic as its header gives it, mm.

    Returns
    -------
    tuple of Tile
        In the order of the mosaic.

    Raises
    ------
    ValueError
        The number of slices or their distance is not known, or does not fit the size.
    """
    count = _count(ds, csa)
    side = math.isqrt(count - 1) + 1 if count > 0 else 0
    if side == 0 or size[0] < side or size[1] < side or size[0] % side or size[1] % side:
        raise ValueError("the number of images in a mosaic is missing or does not fit its size")
    rows, columns = size[0] // side, size[1] // side
    step = _step_mm(ds)
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = normal_of(orientation)
    told = csa_numbers(csa, "SliceNormalVector")
    if len(told) == 3 and float(np.dot(told, normal)) < 0:
        normal = -normal
    first = (
        np.array(position_mm)
        + along_row * spacing_mm[1] * (size[1] - columns) / 2.0
        + along_column * spacing_mm[0] * (size[0] - rows) / 2.0
    )
    tiles = []
    for k in range(count):
        place = first + normal * step * k
        corner = (k // side * rows, k % side * columns)
        tiles.append(Tile(corner, (rows, columns), (float(place[0]), float(place[1]), float(place[2]))))
    return tuple(tiles)


def _count(ds: Dataset, csa: Mapping[str, tuple[str, ...]]) -> int:
    told = first_number(ds, private_tag(ds, 0x0019, _SIEMENS, _TILE_COUNT), "US")
    if told is None:
        told = next(iter(csa_numbers(csa, "NumberOfImagesInMosaic")), None)
    return int(told) if told is not None else 0


def _step_mm(ds: Dataset) -> float:
    """Distance of slice centres, from the attribute: a mosaic has no second position to measure it by."""
    reader = ElementReader(ds)
    step = reader.decimal("SpacingBetweenSlices") or reader.decimal("SliceThickness")
    if step is None or step <= 0:
        raise ValueError("a mosaic without the distance of its slices")
    return step
