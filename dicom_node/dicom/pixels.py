"""Stored pixel values to Hounsfield units, for every transfer syntax the node accepts.

Native little endian data go straight through `numpy.frombuffer`; everything else is decoded by pydicom with gdcm,
pylibjpeg and pyjpegls, 12-bit lossy JPEG by gdcm directly (`pixels_gdcm`). MONOCHROME1 changes how a value is
displayed, not what it means (PS3.3 C.7.6.3.1.2), so it has no influence here.
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
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from dicom_node.dicom.geometry import FloatArray, offsets_of, spacing_statistics, stack_normal
from dicom_node.dicom.pixels_gdcm import TWELVE_BIT_JPEG, decode_twelve_bit_jpeg
from dicom_node.dicom.reading import PARSE_ERRORS, ElementReader, open_dataset, quiet_pydicom
from dicom_node.dicom.values import SliceHeader
from dicom_node.errors import Permanent

__all__ = ["PADDING_HU", "STORED_KEYWORDS", "LoadedVolume", "load_volume", "pixel_digest", "read_hu"]

FloatImage = npt.NDArray[np.float32]
StoredImage = npt.NDArray[np.int32]

#: What padding outside the field of reconstruction becomes: air.
PADDING_HU: Final = -1024.0

#: Native little endian: implicit, explicit, and deflated, which pydicom inflates while it reads (PS3.5 Annex A).
_NATIVE_LITTLE: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"})
_NATIVE_BIG: Final = "1.2.840.10008.1.2.2"

#: What it takes to decode the stored values of an image.
STORED_KEYWORDS: Final = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)
_KEYWORDS: Final = (
    *STORED_KEYWORDS,
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
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


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the stored values of one image lie in its bytes (PS3.5 section 8.1)."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    @property
    def expected_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.bits_allocated // 8}")


def read_hu(source: Path | Dataset) -> FloatImage:
    """Read one image in Hounsfield units.

    Parameters
    ----------
    source : Path or pydicom.dataset.Dataset
        A file, or a data set with its file meta information and pixel data.

    Returns
    -------
    numpy.ndarray, shape (rows, columns), float32
        ``stored * RescaleSlope + RescaleIntercept`` (PS3.3 C.11.1.1.2) with the slope and intercept of this very slice;
        PixelPaddingValue, or the range up to PixelPaddingRangeLimit, becomes -1024 (PS3.3 C.7.5.1.1.2).

    Raises
    ------
    dicom_node.errors.Permanent
        ``pixel_data``: missing, truncated or undecodable pixels, colour, several frames, or a rescale that is no
        number;
        ``unreadable``: see `dicom_node.dicom.reading.open_dataset`.
    dicom_node.errors.Transient
        ``storage``: the file system failed.
    """
    dataset = open_dataset(source, tags=_TAGS, pixels=True) if isinstance(source, Path) else source
    reader = ElementReader(dataset)
    layout = _layout(reader)
    slope, intercept = _rescale(reader)
    padding = _padding(reader, layout)
    stored = _stored_values(dataset, reader, layout)
    hu = stored.astype(np.float32)
    if slope != 1.0:
        hu *= np.float32(slope)
    if intercept != 0.0:
        hu += np.float32(intercept)
    if padding is not None:
        low, high = padding
        hu[stored == low if low == high else (stored >= low) & (stored <= high)] = PADDING_HU
    return hu


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
    hu = np.empty((len(headers), first.rows, first.columns), dtype=np.float32)
    for index, header in enumerate(headers):
        image = read_hu(header.path)
        if image.shape != hu.shape[1:]:
            figures = {"instance_number": header.instance_number, "rows": image.shape[0], "columns": image.shape[1]}
            raise Permanent("pixel_data", "the pixels do not have the size of the stack", figures)
        hu[index] = image
        if on_slice is not None:
            on_slice(index + 1, len(headers))
    positions_mm = np.array(positions, dtype=np.float64)
    orientation = np.array(first.image_orientation_patient, dtype=np.float64).reshape(2, 3)
    return LoadedVolume(hu, positions_mm, orientation, first.pixel_spacing_mm, _thickness(headers))


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
    hu = np.clip(np.rint(read_hu(header.path)), -32768, 32767).astype("<i2")
    return hashlib.sha256(f"{hu.shape[0]}x{hu.shape[1]}:".encode() + hu.tobytes()).hexdigest()


def _thickness(headers: Sequence[SliceHeader]) -> FloatArray:
    offsets = offsets_of(headers, stack_normal(headers))
    usual = spacing_statistics(offsets).median_mm
    return np.array([header.slice_thickness_mm or usual for header in headers], dtype=np.float64)


def _layout(reader: ElementReader) -> _Layout:
    numbers = {name: reader.short(name) for name in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation")}
    missing = [name for name, number in numbers.items() if number is None]
    if missing:
        raise Permanent("pixel_data", f"{', '.join(missing)} missing or malformed")
    rows, columns, allocated, representation = (int(number or 0) for number in numbers.values())
    samples, frames = reader.short("SamplesPerPixel") or 1, reader.integer("NumberOfFrames") or 1
    if samples != 1 or frames != 1:
        figures = {"samples_per_pixel": samples, "number_of_frames": frames}
        raise Permanent("pixel_data", "not a single-frame image of one channel", figures)
    stored = reader.short("BitsStored") or allocated
    high = reader.short("HighBit")
    high = stored - 1 if high is None else high
    if rows < 1 or columns < 1 or allocated not in (8, 16, 32) or not 0 < stored <= high + 1 <= allocated:
        figures = {
            "rows": rows,
            "columns": columns,
            "bits_allocated": allocated,
            "bits_stored": stored,
            "high_bit": high,
        }
        raise Permanent("pixel_data", "the pixel layout is not one that a CT image can have", figures)
    return _Layout(rows, columns, allocated, stored, high, signed=representation == 1)


def _rescale(reader: ElementReader) -> tuple[float, float]:
    """Slope and intercept; absent means 1 and 0, but a value that is there and does not parse must not be guessed."""
    values = []
    for keyword, assumed in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        number = reader.decimal(keyword) if reader.present(keyword) else assumed
        if number is None or (keyword == "RescaleSlope" and number == 0.0):
            raise Permanent("pixel_data", f"{keyword} is not a usable number")
        values.append(number)
    return values[0], values[1]


def _padding(reader: ElementReader, layout: _Layout) -> tuple[int, int] | None:
    """Range of stored values that are padding, both ends included; the limit may lie on either side of the value."""
    value = reader.short("PixelPaddingValue", signed=layout.signed)
    if value is None:
        return None
    limit = reader.short("PixelPaddingRangeLimit", signed=layout.signed)
    limit = value if limit is None else limit
    return min(value, limit), max(value, limit)


def _stored_values(dataset: Dataset, reader: ElementReader, layout: _Layout) -> StoredImage:
    """Stored values, shape (rows, columns), sign extended."""
    data = reader.raw("PixelData")
    if not isinstance(data, bytes | bytearray) or not data:
        raise Permanent("pixel_data", "the pixel data are missing")
    meta = getattr(dataset, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
    if not syntax:
        # A bare data set: pydicom told the encoding from its bytes.
        syntax = _NATIVE_BIG if dataset.original_encoding[1] is False else "1.2.840.10008.1.2.1"
    native = syntax in _NATIVE_LITTLE or syntax == _NATIVE_BIG
    if native and len(data) < layout.expected_bytes:
        figures = {"expected_bytes": layout.expected_bytes, "actual_bytes": len(data)}
        raise Permanent("pixel_data", "the pixel data are truncated", figures)
    if syntax in _NATIVE_LITTLE:
        count = layout.rows * layout.columns
        values = np.frombuffer(data, dtype=layout.dtype, count=count).reshape(layout.rows, layout.columns)
    else:
        values = _decode(dataset, syntax, layout, len(data))
    return _significant_bits(values, layout)


def _decode(dataset: Dataset, syntax: str, layout: _Layout, actual_bytes: int) -> npt.NDArray[np.generic]:
    try:
        with quiet_pydicom():
            if syntax in TWELVE_BIT_JPEG:
                values = _decode_jpeg(dataset, layout)
            else:
                values, _ = get_decoder(UID(syntax)).as_array(dataset, raw=True)
    except (*PARSE_ERRORS, RuntimeError) as error:
        kind = type(error).__name__
        figures = {"transfer_syntax_uid": syntax, "actual_bytes": actual_bytes, "expected_bytes": layout.expected_bytes}
        raise Permanent("pixel_data", f"the pixel data could not be decoded ({kind})", figures) from None
    if values.shape != (layout.rows, layout.columns):
        figures = {"transfer_syntax_uid": syntax, "shape": list(values.shape)}
        raise Permanent("pixel_data", "the decoded image does not have the size that the header announces", figures)
    return values


def _decode_jpeg(dataset: Dataset, layout: _Layout) -> npt.NDArray[np.generic]:
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    return decode_twelve_bit_jpeg(
        frame,
        rows=layout.rows,
        columns=layout.columns,
        bits_allocated=layout.bits_allocated,
        bits_stored=layout.bits_stored,
        signed=layout.signed,
    )


def _significant_bits(values: npt.NDArray[np.generic], layout: _Layout) -> StoredImage:
    """Cut away bits outside BitsStored (old overlays live there) and extend the sign (PS3.5 section 8.1.1)."""
    stored = values.astype(np.int32, copy=False)
    surplus = layout.high_bit + 1 - layout.bits_stored
    if layout.bits_stored == layout.bits_allocated:
        return stored
    stored = (stored >> surplus) & ((1 << layout.bits_stored) - 1)
    if layout.signed:
        sign = 1 << (layout.bits_stored - 1)
        stored = (stored ^ sign) - sign
    return stored
