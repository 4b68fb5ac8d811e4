"""Stored values of one frame, for every transfer syntax the node accepts: bytes of a file to signed integers.

Native data go straight through `numpy.frombuffer`; everything else is decoded by pydicom with gdcm and pyjpegls, 12-bit
lossy JPEG by gdcm directly (`pixels_gdcm`).

Sign. In a native frame PixelRepresentation says how the bits are to be read. A code stream may disagree with it, and
the rule is: *a frame is signed when its header or its code stream says so*.

- The header says signed, the code stream (JPEG 2000 unsigned; JPEG-LS, JPEG and RLE know no sign) does not: the encoder
  was given the bits of two's complement, so they are extended again.
- The header says unsigned, the JPEG 2000 code stream is signed: the decoder returns numbers, negative ones too, and the
  header was changed afterwards. Read as unsigned, -2000 would become 63536.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.uid import UID, AllTransferSyntaxes

from dicom_node.dicom.pixels_gdcm import TWELVE_BIT_JPEG, decode_twelve_bit_jpeg
from dicom_node.dicom.reading import PARSE_ERRORS, ElementReader, quiet_pydicom
from dicom_node.errors import Permanent

__all__ = ["STORED_KEYWORDS", "PixelLayout", "StoredFrame", "layout_of", "read_stored"]

StoredImage = npt.NDArray[np.int32]

#: Native little endian: implicit, explicit, and deflated, which pydicom inflates while it reads (PS3.5 Annex A).
_NATIVE_LITTLE: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"})
_NATIVE_BIG: Final = "1.2.840.10008.1.2.2"
_JPEG_2000: Final = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})
_RLE: Final = "1.2.840.10008.1.2.5"

#: First bytes of encapsulated pixel data: an item (PS3.5 section A.4).
_ITEM: Final = b"\xfe\xff\x00\xe0"

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


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How the stored values of one frame lie in its bytes (PS3.5 section 8.1).

    Attributes
    ----------
    rows, columns : int
        Size, px.
    bits_allocated, bits_stored, high_bit : int
        As in the header, with `high_bit` = `bits_stored` - 1 where it is absent.
    signed : bool
        PixelRepresentation is 1.
    frames : int
        NumberOfFrames, 1 when absent.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    frames: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one native frame."""
        return self.rows * self.columns * self.bits_allocated // 8

    def dtype(self, order: str = "<") -> np.dtype[np.generic]:
        """Type of one cell in the given byte order."""
        return np.dtype(f"{order}{'i' if self.signed else 'u'}{self.bits_allocated // 8}")


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """Stored values of one frame.

    Attributes
    ----------
    values : numpy.ndarray, shape (rows, columns), int32
        Bits outside BitsStored cut away, sign extended.
    signed : bool
        Whether they are signed, by the rule of this module.
    cells : numpy.ndarray or None
        The whole cells of native data, where they have more bits than are stored: old writers put padding there.
    """

    values: StoredImage
    signed: bool
    cells: npt.NDArray[np.generic] | None = None


def layout_of(reader: ElementReader) -> PixelLayout:
    """Read the layout of the pixels of a data set.

    Raises
    ------
    dicom_node.errors.Permanent
        ``pixel_data``: an element is missing or malformed, or this is no grey image.
    """
    numbers = {name: reader.short(name) for name in ("Rows", "Columns", "BitsAllocated", "PixelRepresentation")}
    missing = [name for name, number in numbers.items() if number is None]
    if missing:
        raise Permanent("pixel_data", f"{', '.join(missing)} missing or malformed")
    rows, columns, allocated, representation = (int(number or 0) for number in numbers.values())
    samples, frames = reader.short("SamplesPerPixel") or 1, reader.integer("NumberOfFrames") or 1
    if samples != 1:
        figures: dict[str, object] = {"samples_per_pixel": samples, "number_of_frames": frames}
        raise Permanent("pixel_data", "not a single-frame image of one channel", figures)
    grey = reader.text("PhotometricInterpretation").upper()
    if grey and not grey.startswith("MONOCHROME"):
        raise Permanent("pixel_data", "PhotometricInterpretation is not one of a grey image")
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
    return PixelLayout(rows, columns, allocated, stored, high, signed=representation == 1, frames=max(frames, 1))


def read_stored(dataset: Dataset, reader: ElementReader, layout: PixelLayout, index: int = 0) -> StoredFrame:
    """Decode one frame.

    Parameters
    ----------
    dataset : pydicom.dataset.Dataset
        With its pixel data.
    reader : ElementReader
        Of that data set.
    layout : PixelLayout
        `layout_of` it.
    index : int, default 0
        Number of the frame, from 0.

    Raises
    ------
    dicom_node.errors.Permanent
        ``pixel_data``: missing, truncated or undecodable.
    """
    data = reader.raw("PixelData")
    if not isinstance(data, bytes | bytearray) or not data:
        raise Permanent("pixel_data", "the pixel data are missing")
    syntax = _transfer_syntax(dataset)
    encapsulated = data[:4] == _ITEM
    whole = layout.frame_bytes * layout.frames
    if syntax not in _NATIVE_LITTLE and syntax != _NATIVE_BIG:
        # What an unknown syntax does to the bytes nobody can say, whatever their number is.
        if encapsulated or len(data) not in (whole, whole + 1) or syntax not in AllTransferSyntaxes:
            return _decoded(dataset, syntax, layout, index, bytes(data))
        # Decompressed on its way by somebody who left the old transfer syntax in the file meta information.
        syntax = "1.2.840.10008.1.2.1"
    if len(data) < whole:
        figures = {"expected_bytes": whole, "actual_bytes": len(data)}
        reason = "encapsulated under a native transfer syntax" if encapsulated else "truncated"
        raise Permanent("pixel_data", f"the pixel data are {reason}", figures)
    if len(data) - whole >= max(layout.columns * layout.bits_allocated // 8, 2):
        # A little padding is common; a whole row more means that Rows, Columns or NumberOfFrames are wrong.
        figures = {"expected_bytes": whole, "actual_bytes": len(data)}
        raise Permanent("pixel_data", "the pixel data are longer than the header announces", figures)
    cells = _native(dataset, bytes(data), syntax, layout, index)
    surplus = cells if layout.bits_stored < layout.bits_allocated else None
    return StoredFrame(_significant_bits(cells, layout, shifted=True), layout.signed, surplus)


def _transfer_syntax(dataset: Dataset) -> str:
    meta = getattr(dataset, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
    if syntax:
        return syntax
    # A bare data set: pydicom told the encoding from its bytes.
    return _NATIVE_BIG if dataset.original_encoding[1] is False else "1.2.840.10008.1.2.1"


def _native(dataset: Dataset, data: bytes, syntax: str, layout: PixelLayout, index: int) -> npt.NDArray[np.generic]:
    """Cells of a native frame."""
    big = syntax == _NATIVE_BIG
    if big and layout.bits_allocated == 8 and dataset.get_item("PixelData").VR == "OW":
        # Words of two pixels each, their bytes swapped (PS3.5 section 8.1.2).
        even = len(data) // 2 * 2
        data = np.frombuffer(data[:even], dtype="<u2").byteswap().tobytes() + data[even:]
    cells = np.frombuffer(
        data,
        dtype=layout.dtype(">" if big else "<"),
        count=layout.rows * layout.columns,
        offset=index * layout.frame_bytes,
    )
    return cells.reshape(layout.rows, layout.columns)


def _decoded(dataset: Dataset, syntax: str, layout: PixelLayout, index: int, data: bytes) -> StoredFrame:
    """Decode a compressed frame."""
    trusted = False
    try:
        with quiet_pydicom():
            if syntax in TWELVE_BIT_JPEG:
                values = _lossy_jpeg(data, layout, index)
            else:
                trusted = syntax in _JPEG_2000 and not layout.signed and _signed_stream(data, layout, index)
                # pydicom extends the sign of JPEG-LS and JPEG 2000 at the precision of the code stream. Its own cut
                # of unused bits takes no notice of HighBit, so that is left to `_significant_bits`.
                options: dict[str, Any] = {"correct_unused_bits": False}
                if trusted:
                    options["pixel_representation"] = 1
                values, _ = get_decoder(UID(syntax)).as_array(dataset, raw=True, index=index, **options)
    except (*PARSE_ERRORS, RuntimeError) as error:
        kind = type(error).__name__
        figures = {"transfer_syntax_uid": syntax, "actual_bytes": len(data), "expected_bytes": layout.frame_bytes}
        raise Permanent("pixel_data", f"the pixel data could not be decoded ({kind})", figures) from None
    if values.shape != (layout.rows, layout.columns):
        figures = {"transfer_syntax_uid": syntax, "shape": list(values.shape)}
        raise Permanent("pixel_data", "the decoded image does not have the size that the header announces", figures)
    if trusted:
        return StoredFrame(values.astype(np.int32, copy=False), signed=True)
    return StoredFrame(_significant_bits(values, layout, shifted=syntax == _RLE), layout.signed)


def _signed_stream(data: bytes, layout: PixelLayout, index: int) -> bool:
    """Say whether a JPEG 2000 code stream declares signed samples (Ssiz, ISO/IEC 15444-1 A.5.1)."""
    return bool(get_j2k_parameters(get_frame(data, index, number_of_frames=layout.frames)).get("is_signed", False))


def _lossy_jpeg(data: bytes, layout: PixelLayout, index: int) -> npt.NDArray[np.generic]:
    return decode_twelve_bit_jpeg(
        get_frame(data, index, number_of_frames=layout.frames),
        rows=layout.rows,
        columns=layout.columns,
        bits_allocated=layout.bits_allocated,
        bits_stored=layout.bits_stored,
        signed=layout.signed,
    )


def _significant_bits(values: npt.NDArray[np.generic], layout: PixelLayout, *, shifted: bool) -> StoredImage:
    """Cut away bits outside BitsStored (old overlays live there) and extend the sign (PS3.5 section 8.1.1).

    `shifted`: these are whole cells, in which the bits may lie higher (HighBit); a code stream holds numbers.
    """
    stored = values.astype(np.int32, copy=False)
    if layout.bits_stored == layout.bits_allocated:
        return stored
    surplus = layout.high_bit + 1 - layout.bits_stored if shifted else 0
    stored = (stored >> surplus) & ((1 << layout.bits_stored) - 1)
    if layout.signed:
        sign = 1 << (layout.bits_stored - 1)
        stored = (stored ^ sign) - sign
    return stored
