"""`Frame`: one slice image of an MR series, wherever it lies: a file, a tile of a mosaic, a frame of Enhanced MR."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.dicom.reading import ElementReader
from train.data.diffusion.csa import csa_image_header
from train.data.diffusion.elements import first_number, items_of, private_tag
from train.data.diffusion.mosaic import is_mosaic, tiles_of
from train.data.diffusion.roles import Role, role_of
from train.data.diffusion.weighting import Weighting, weighting_of, weighting_of_frame

__all__ = ["Frame", "Storage", "frames_of"]

_PHILIPS_MR: Final = frozenset({"PHILIPS MR IMAGING DD 001"})
_PHILIPS_FRAME: Final = frozenset({"PHILIPS MR IMAGING DD 005"})


class Storage(Enum):
    """How the pixels of a frame lie in its file."""

    WHOLE = "whole"
    TILE = "tile"
    FRAME = "frame"


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice image with its place in the patient and its weighting.

    Attributes
    ----------
    path : Path
        The file.
    index : int
        Number of the tile or frame in the file, from 0.
    storage : Storage
        How the pixels lie in the file.
    size : tuple of 2 ints
        Rows, columns of this image, px.
    corner : tuple of 2 ints
        First row and column of a tile in its mosaic; (0, 0) elsewhere.
    position_mm : tuple of 3 floats or None
        Centre of the first pixel, LPS (PS3.3 C.7.6.2.1.1).
    orientation : tuple of 6 floats or None
        Row and column direction cosines.
    spacing_mm : tuple of 2 floats or None
        Between rows, between columns.
    weighting : Weighting
        b value and direction.
    role : Role
        What the image is by its ImageType.
    order : tuple of 3 ints
        Acquisition number, instance number, index: the order of equal images.
    slope, intercept : float
        Stored value to signal: ``stored * slope + intercept``.
    """

    path: Path
    index: int
    storage: Storage
    size: tuple[int, int]
    corner: tuple[int, int]
    position_mm: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float, float, float] | None
    spacing_mm: tuple[float, float] | None
    weighting: Weighting
    role: Role
    order: tuple[int, int, int]
    slope: float = 1.0
    intercept: float = 0.0


def frames_of(ds: Dataset, path: Path) -> tuple[Frame, ...]:
    """Find the frames of one MR data set.

    Parameters
    ----------
    ds : pydicom.dataset.Dataset
        The header.
    path : Path
        Where it came from.

    Returns
    -------
    tuple of Frame
        One for a classic image, n for a mosaic or for Enhanced MR with n frames.

    Raises
    ------
    ValueError
        The file is a mosaic whose tiles cannot be told, or has several frames without functional groups.
    """
    reader = ElementReader(ds)
    size = (reader.short("Rows") or 0, reader.short("Columns") or 0)
    order = (reader.integer("AcquisitionNumber") or 0, reader.integer("InstanceNumber") or 0)
    per_frame = items_of(ds, "PerFrameFunctionalGroupsSequence")
    if per_frame:
        shared = items_of(ds, "SharedFunctionalGroupsSequence")
        top = shared[0] if shared else Dataset()
        return tuple(_enhanced(ds, top, group, path, size, (*order, k)) for k, group in enumerate(per_frame))
    if (reader.integer("NumberOfFrames") or 1) > 1:
        raise ValueError("several frames without functional groups")
    return _mosaic(ds, path, size, order) if is_mosaic(ds) else (_single(ds, path, size, order),)


def _single(ds: Dataset, path: Path, size: tuple[int, int], order: tuple[int, int]) -> Frame:
    slope, intercept = _scale(ds)
    position, orientation, spacing = _plane(ds)
    weighting = weighting_of(ds)
    return Frame(
        path=path,
        index=0,
        storage=Storage.WHOLE,
        size=size,
        corner=(0, 0),
        position_mm=position,
        orientation=orientation,
        spacing_mm=spacing,
        weighting=weighting,
        role=role_of(ds, weighting),
        order=(*order, 0),
        slope=slope,
        intercept=intercept,
    )


def _mosaic(ds: Dataset, path: Path, size: tuple[int, int], order: tuple[int, int]) -> tuple[Frame, ...]:
    csa = csa_image_header(ds)
    position, orientation, spacing = _plane(ds)
    if position is None or orientation is None or spacing is None:
        raise ValueError("a mosaic without position, orientation or spacing")
    weighting = weighting_of(ds, csa)
    slope, intercept = _scale(ds)
    return tuple(
        Frame(
            path=path,
            index=k,
            storage=Storage.TILE,
            size=tile.size,
            corner=tile.corner,
            position_mm=tile.position_mm,
            orientation=orientation,
            spacing_mm=spacing,
            weighting=weighting,
            role=role_of(ds, weighting),
            order=(*order, k),
            slope=slope,
            intercept=intercept,
        )
        for k, tile in enumerate(tiles_of(ds, csa, size, position, orientation, spacing))
    )


def _enhanced(
    ds: Dataset, shared: Dataset, group: Dataset, path: Path, size: tuple[int, int], order: tuple[int, int, int]
) -> Frame:
    """Read one frame of Enhanced MR: a macro stands in the frame's own group, or in the shared one (PS3.3 C.7.6.16)."""

    def macro(keyword: str) -> Dataset:
        items = items_of(group, keyword) or items_of(shared, keyword)
        return items[0] if items else Dataset()

    position = _three(ElementReader(macro("PlanePositionSequence")).decimals("ImagePositionPatient", 3))
    orientation = _six(ElementReader(macro("PlaneOrientationSequence")).decimals("ImageOrientationPatient", 6))
    spacing = _two(ElementReader(macro("PixelMeasuresSequence")).decimals("PixelSpacing", 2))
    tag = private_tag(group, 0x2005, _PHILIPS_FRAME, 0x0F)
    philips = items_of(group, tag) if tag is not None else ()
    slope, intercept = _scale(macro("PixelValueTransformationSequence"), philips[0] if philips else ds)
    weighting = weighting_of_frame(shared, group)
    frame_type = ElementReader(macro("MRImageFrameTypeSequence")).texts("FrameType")
    return Frame(
        path=path,
        index=order[2],
        storage=Storage.FRAME,
        size=size,
        corner=(0, 0),
        position_mm=position,
        orientation=orientation,
        spacing_mm=spacing,
        weighting=weighting,
        role=role_of(ds, weighting, frame_type),
        order=order,
        slope=slope,
        intercept=intercept,
    )


def _plane(
    ds: Dataset,
) -> tuple[
    tuple[float, float, float] | None,
    tuple[float, float, float, float, float, float] | None,
    tuple[float, float] | None,
]:
    reader = ElementReader(ds)
    return (
        _three(reader.decimals("ImagePositionPatient", 3)),
        _six(reader.decimals("ImageOrientationPatient", 6)),
        _two(reader.decimals("PixelSpacing", 2)),
    )


def _scale(ds: Dataset, philips: Dataset | None = None) -> tuple[float, float]:
    """Slope and intercept from stored value to signal.

    ``(stored * RescaleSlope + RescaleIntercept)`` (PS3.3 C.11.1.1.2); Philips rescales every image for display and
    writes the factor of the display value in (2005,xx0E), its scale slope: signal = display / (RescaleSlope *
    scale slope). Without it, two b values of one examination are not on one scale (notes of dcm2niix on Philips).
    """
    reader = ElementReader(ds)
    slope, intercept = reader.decimal("RescaleSlope"), reader.decimal("RescaleIntercept")
    slope = slope or 1.0
    intercept = 0.0 if intercept is None else intercept
    source = ds if philips is None else philips
    scale = first_number(source, private_tag(source, 0x2005, _PHILIPS_MR, 0x0E), "FL")
    if scale is not None and scale > 0.0:
        return 1.0 / scale, intercept / (slope * scale)
    return slope, intercept


def _two(numbers: tuple[float, ...] | None) -> tuple[float, float] | None:
    return None if numbers is None or min(numbers) <= 0 else (numbers[0], numbers[1])


def _three(numbers: tuple[float, ...] | None) -> tuple[float, float, float] | None:
    return None if numbers is None else (numbers[0], numbers[1], numbers[2])


def _six(numbers: tuple[float, ...] | None) -> tuple[float, float, float, float, float, float] | None:
    return None if numbers is None else (numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])
