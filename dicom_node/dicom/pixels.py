"""Pixels in Hounsfield units: rescale and padding of each slice, volumes, digests.

How the stored values are decoded is told in `dicom_node.dicom.stored`. MONOCHROME1 changes how a value is displayed,
not what it means (PS3.3 C.7.6.3.1.2), so it has no influence here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from dicom_node.dicom.enhanced import FUNCTIONAL_GROUPS, frame_dataset
from dicom_node.dicom.geometry import FloatArray, offsets_of, spacing_statistics, stack_normal
from dicom_node.dicom.reading import ElementReader, open_dataset
from dicom_node.dicom.stored import STORED_KEYWORDS, PixelLayout, StoredFrame, layout_of, read_stored
from dicom_node.dicom.values import SliceHeader
from dicom_node.errors import Permanent

__all__ = [
    "PADDING_HU",
    "STORED_KEYWORDS",
    "HuReader",
    "LoadedVolume",
    "load_volume",
    "pixel_digest",
    "read_hu",
    "read_slice_hu",
]

FloatImage = npt.NDArray[np.float32]

#: What padding outside the field of reconstruction becomes: air.
PADDING_HU: Final = -1024.0

#: Defined terms of Rescale Type (PS3.3 C.11.1.1.2) of maps that multi-energy scanners make: no Hounsfield units.
_OTHER_UNITS: Final = frozenset({"OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"})

_KEYWORDS: Final = (
    *STORED_KEYWORDS,
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "ModalityLUTSequence",
    *FUNCTIONAL_GROUPS,
)
_TAGS: Final = tuple(tag for tag in (tag_for_keyword(keyword) for keyword in _KEYWORDS) if tag is not None)


@dataclass(frozen=True, slots=True)
class LoadedVolume:
    """A stack in Hounsfield units with its geometry; the field names are those of `jmmda_model.imaging.CtVolume`.

    Attributes
    ----------
    hu : numpy.ndarray, shape (S, rows, columns), float32
        Padding replaced by -1024.
    positions_mm : numpy.ndarray, shape (S, 3), float64
        ImagePositionPatient, LPS, in the order of the headers given.
    orientation : numpy.ndarray, shape (2, 3), float64
        Row direction, column direction.
    spacing_mm : tuple of 2 floats
        Between rows, between columns.
    thickness_mm : numpy.ndarray, shape (S,), float64
        SliceThickness; where unknown, the median distance of neighbours.
    """

    hu: FloatImage
    positions_mm: FloatArray
    orientation: FloatArray
    spacing_mm: tuple[float, float]
    thickness_mm: FloatArray


def read_hu(source: Path | Dataset, frame_number: int | None = None) -> FloatImage:
    """Read one image in Hounsfield units.

    Parameters
    ----------
    source : Path or pydicom.dataset.Dataset
        A file, or a data set with its file meta information and pixel data.
    frame_number : int, optional
        Frame of an Enhanced CT object, counted from 1 (PS3.3 10.3); absent for a single-frame image.

    Returns
    -------
    numpy.ndarray, shape (rows, columns), float32
        ``stored * RescaleSlope + RescaleIntercept`` (PS3.3 C.11.1.1.2) with the slope and intercept of this very slice;
        PixelPaddingValue, or the range up to PixelPaddingRangeLimit, becomes -1024 (PS3.3 C.7.5.1.1.2).

    Raises
    ------
    dicom_node.errors.Permanent
        ``pixel_data``: missing, truncated or undecodable pixels, colour, several frames or no such frame, a rescale
        that is no number, or values that are no Hounsfield units;
        ``unreadable``: see `dicom_node.dicom.reading.open_dataset`.
    dicom_node.errors.Transient
        ``storage``: the file system failed.
    """
    dataset = open_dataset(source, tags=_TAGS, pixels=True) if isinstance(source, Path) else source
    reader = ElementReader(dataset)
    layout = layout_of(reader)
    number = 1 if frame_number is None else frame_number
    if not 1 <= number <= layout.frames or (frame_number is None and layout.frames != 1):
        figures = {"samples_per_pixel": 1, "number_of_frames": layout.frames, "frame_number": frame_number}
        raise Permanent("pixel_data", "not a single-frame image, or no such frame", figures)
    view = reader if frame_number is None else ElementReader(frame_dataset(dataset, number))
    _ensure_hounsfield(view)
    slope, intercept = _rescale(view)
    stored = read_stored(dataset, reader, layout, number - 1)
    hu = stored.values.astype(np.float32)
    if slope != 1.0:
        hu *= np.float32(slope)
    if intercept != 0.0:
        hu += np.float32(intercept)
    padded = _padded(view, layout, stored)
    if padded is not None:
        hu[padded] = PADDING_HU
    return hu


class HuReader:
    """Reads images one after the other; the last file stays open, so frames are best asked file by file."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._dataset: Dataset | None = None

    def read(self, path: Path, frame_number: int | None = None) -> FloatImage:
        """Read one image in Hounsfield units, as `read_hu` does."""
        if frame_number is None:
            return read_hu(path)
        if self._dataset is None or self._path != path:
            self._path, self._dataset = path, open_dataset(path, tags=_TAGS, pixels=True)
        return read_hu(self._dataset, frame_number)


def load_volume(headers: Sequence[SliceHeader], on_slice: Callable[[int, int], None] | None = None) -> LoadedVolume:
    """Load the slices that the gate let through.

    Parameters
    ----------
    headers : sequence of SliceHeader
        In the order of the gate: ascending along the normal, one grid, all with position.
    on_slice : callable, optional
        Called with (slices done, slices in all) after each slice: the worker's heartbeat.

    Returns
    -------
    LoadedVolume

    Raises
    ------
    dicom_node.errors.Permanent
        As in `read_hu`; also when the pixels do not have the size that the header announced.
    ValueError
        If the headers are not what the gate lets through: none at all, or one without geometry.
    """
    if not headers:
        raise ValueError("no slices to load")
    first = headers[0]
    if first.rows is None or first.columns is None or first.pixel_spacing_mm is None:
        raise ValueError("a slice has no size or spacing; pass the headers of a gate outcome")
    positions = [header.image_position_patient for header in headers]
    if first.image_orientation_patient is None or any(position is None for position in positions):
        raise ValueError("a slice has no position or orientation; pass the headers of a gate outcome")
    reader = HuReader()
    size = (first.rows, first.columns)
    hu = np.empty((0, *size), dtype=np.float32)
    for index, header in enumerate(headers):
        image = reader.read(header.path, header.frame_number)
        if not index:
            # Only now is it known that there are as many pixels as the header announces.
            hu = np.empty((len(headers), *size), dtype=np.float32)
        if image.shape != size:
            figures = {"instance_number": header.instance_number, "rows": image.shape[0], "columns": image.shape[1]}
            raise Permanent("pixel_data", "the pixels do not have the size of the stack", figures)
        hu[index] = image
        if on_slice is not None:
            on_slice(index + 1, len(headers))
    positions_mm = np.array(positions, dtype=np.float64)
    orientation = np.array(first.image_orientation_patient, dtype=np.float64).reshape(2, 3)
    return LoadedVolume(hu, positions_mm, orientation, first.pixel_spacing_mm, _thickness(headers))


def read_slice_hu(header: SliceHeader) -> FloatImage:
    """Read the pixels of a slice in Hounsfield units, as `read_hu` does; the gate looks at some slices by it."""
    return read_hu(header.path, header.frame_number)


def pixel_digest(header: SliceHeader) -> str:
    """Digest of the decoded pixels of a slice, independent of its transfer syntax.

    Returns
    -------
    str
        SHA-256 of the shape and the Hounsfield units rounded to int16, hexadecimal.

    Raises
    ------
    dicom_node.errors.NodeError
        As in `read_hu`.
    """
    hu = np.clip(np.rint(read_slice_hu(header)), -32768, 32767).astype("<i2")
    return hashlib.sha256(f"{hu.shape[0]}x{hu.shape[1]}:".encode() + hu.tobytes()).hexdigest()


def _thickness(headers: Sequence[SliceHeader]) -> FloatArray:
    offsets = offsets_of(headers, stack_normal(headers))
    usual = spacing_statistics(offsets).median_mm
    return np.array([header.slice_thickness_mm or usual for header in headers], dtype=np.float64)


def _rescale(reader: ElementReader) -> tuple[float, float]:
    """Slope and intercept; absent means 1 and 0, but a value that is there and does not parse must not be guessed."""
    values = []
    for keyword, assumed in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        number = reader.decimal(keyword) if reader.present(keyword) else assumed
        if number is None or (keyword == "RescaleSlope" and number == 0.0):
            raise Permanent("pixel_data", f"{keyword} is not a usable number")
        values.append(number)
    return values[0], values[1]


def _ensure_hounsfield(reader: ElementReader) -> None:
    """Refuse values that no slope and intercept turn into Hounsfield units (PS3.3 C.11.1.1.2)."""
    if reader.text("RescaleType").upper() in _OTHER_UNITS:
        raise Permanent("pixel_data", "RescaleType names another quantity than Hounsfield units")
    if reader.present("ModalityLUTSequence") and not reader.present("RescaleSlope"):
        raise Permanent("pixel_data", "the values are given by a Modality LUT, not by slope and intercept")


def _padded(reader: ElementReader, layout: PixelLayout, stored: StoredFrame) -> npt.NDArray[np.bool_] | None:
    """Where padding lies: the range has both ends included, and the limit may lie on either side of the value."""
    value = reader.short("PixelPaddingValue", signed=stored.signed)
    if value is None:
        return None
    limit = reader.short("PixelPaddingRangeLimit", signed=stored.signed)
    ends = [_as_stored(end, layout, stored) for end in (value, value if limit is None else limit)]
    low, high = min(ends), max(ends)
    padded = stored.values == low if low == high else (stored.values >= low) & (stored.values <= high)
    if stored.cells is not None and layout.bits_allocated == 16:
        # A value that BitsStored cannot hold was written into the whole cell, over the bits that do not count.
        padded |= (stored.cells.astype(np.int32) & 0xFFFF) == (value & 0xFFFF)
    return padded


def _as_stored(value: int, layout: PixelLayout, stored: StoredFrame) -> int:
    """Extend the sign of a padding value that was written as the bare bits of BitsStored."""
    bits = layout.bits_stored
    return value - (1 << bits) if stored.signed and 1 << (bits - 1) <= value < 1 << bits else value
