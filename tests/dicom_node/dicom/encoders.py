"""Compressed CT from real encoders (gdcm, OpenJPEG, CharLS), for tests: a plain data set in, a file out."""

from __future__ import annotations

from pathlib import Path

import gdcm
import jpeg_ls
import numpy as np
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSLossless

from tests.dicom_node.dicom.builders import write

GDCM_LOSSLESS = {
    "1.2.840.10008.1.2.4.57": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "1.2.840.10008.1.2.4.70": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "1.2.840.10008.1.2.4.80": gdcm.TransferSyntax.JPEGLSLossless,
    "1.2.840.10008.1.2.4.90": gdcm.TransferSyntax.JPEG2000Lossless,
    "1.2.840.10008.1.2.5": gdcm.TransferSyntax.RLELossless,
}


def recode_with_gdcm(source: Path, target: Path, syntax: str) -> Path:
    """Have gdcm write a file again in a lossless compressed transfer syntax."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(GDCM_LOSSLESS[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def _encapsulated(dataset: Dataset, frames: list[bytes], syntax: str, path: Path) -> Path:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return write(dataset, path)


def with_jpeg_2000(dataset: Dataset, samples: np.ndarray, path: Path, bits: int, *, ratio: float | None = None) -> Path:
    """Put samples into code streams of their own sign, whatever the header says; reversible without a ratio."""
    stack = samples if samples.ndim == 3 else samples[None]
    options = {} if ratio is None else {"compression_ratios": [ratio]}
    frames = [encode_array(np.ascontiguousarray(one), bits_stored=bits, **options) for one in stack]
    return _encapsulated(dataset, frames, JPEG2000Lossless if ratio is None else JPEG2000, path)


def with_jpeg_ls(dataset: Dataset, samples: np.ndarray, path: Path) -> Path:
    """Put the bits of 16-bit samples into a lossless JPEG-LS code stream, which knows no sign."""
    frame = bytes(jpeg_ls.encode_array(samples.view(np.uint16)))
    return _encapsulated(dataset, [frame], JPEGLSLossless, path)
