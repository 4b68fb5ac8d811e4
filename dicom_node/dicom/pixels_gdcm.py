"""JPEG with 12 bits through gdcm itself.

pydicom passes 12-bit JPEG (process 2 and 4) to no decoder but the GPL one, and knows none for the retired spectral
selection (process 6 and 8) and full progression (process 10 and 12). gdcm's own JPEG library reads all three, so the
frame is handed to it directly. (gdcm's C code writes "Unsupported JPEG data precision 12" to stderr on its first try
with its 8-bit library, then takes the right one.)
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["TWELVE_BIT_JPEG", "decode_twelve_bit_jpeg"]

#: Transfer syntaxes (PS3.5 section 8.2.1; the last two are retired) that may carry 12 bits in lossy JPEG.
TWELVE_BIT_JPEG: Final = frozenset({"1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"})


def decode_twelve_bit_jpeg(
    frame: bytes, *, rows: int, columns: int, bits_allocated: int, bits_stored: int, signed: bool
) -> npt.NDArray[np.generic]:
    """Decode one lossy JPEG frame of one channel.

    Parameters
    ----------
    frame : bytes
        The code stream of the frame.
    rows, columns, bits_allocated, bits_stored, signed
        As the header announces them.

    Returns
    -------
    numpy.ndarray, shape (rows, columns)
        Stored values.

    Raises
    ------
    ValueError
        If gdcm gives back another number of bytes, as it does for a code stream that it cannot read.
    """
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())

    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    monochrome = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(monochrome))
    # One syntax stands for all three: the code stream says which process it is.
    syntax = gdcm.TransferSyntax.GetTSType("1.2.840.10008.1.2.4.51")
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, bits_allocated, bits_stored, bits_stored - 1, int(signed)))

    # gdcm's Python binding gives char* as text with surrogates for the bytes that are none.
    decoded = image.GetBuffer().encode("utf-8", "surrogateescape")
    dtype = np.dtype(f"<{'i' if signed else 'u'}{bits_allocated // 8}")
    if len(decoded) != rows * columns * dtype.itemsize:
        raise ValueError("gdcm could not decode the frame")
    return np.frombuffer(decoded, dtype=dtype).reshape(rows, columns)
