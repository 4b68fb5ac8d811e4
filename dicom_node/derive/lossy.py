"""Lossy compression is inherited: once lost, always declared (PS3.3 C.7.6.1.1.5)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments

from dicom_node.dicom.identity import copy_verbatim
from dicom_node.dicom.reading import ElementReader, open_dataset

#: Transfer syntaxes that always or (near-lossless, irreversible) usually lose information, with their method terms.
_LOSSY_METHODS: Final = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.53": "ISO_10918_1",
    "1.2.840.10008.1.2.4.55": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}


def inherit_lossy_compression(path: Path, header: Dataset, target: Dataset) -> None:
    """Set LossyImageCompression of a derived image, with ratio and method when its CT was lossy at any time.

    Parameters
    ----------
    path : Path
        The CT file; opened again only when its transfer syntax is lossy and its header does not tell the ratio.
    header : pydicom.Dataset
        Its elements.
    target : pydicom.Dataset
        The derived image.
    """
    reader = ElementReader(header)
    method = _LOSSY_METHODS.get(str(header.file_meta.get("TransferSyntaxUID", "")))
    if method is None and reader.text("LossyImageCompression") != "01":
        target.LossyImageCompression = "00"
        return
    target.LossyImageCompression = "01"
    copy_verbatim(header, target, ("LossyImageCompressionRatio", "LossyImageCompressionMethod"))
    if method is not None and not reader.present("LossyImageCompressionMethod"):
        target.LossyImageCompressionMethod = method
    if method is not None and not reader.present("LossyImageCompressionRatio"):
        target.LossyImageCompressionRatio = f"{_ratio(path, reader):.2f}"


def _ratio(path: Path, reader: ElementReader) -> float:
    """Bytes of the image in memory over its compressed bytes, over all frames where there are several."""
    stat = path.stat()
    frames, compressed = _compressed(path, stat.st_mtime_ns, stat.st_size)
    plain = (reader.short("Rows") or 0) * (reader.short("Columns") or 0) * (reader.short("BitsAllocated") or 0) / 8
    return plain * frames / max(compressed, 1)


@lru_cache(maxsize=2)
def _compressed(path: Path, mtime_ns: int, size: int) -> tuple[int, int]:
    """Frames and compressed bytes of a file; kept, since every frame of an Enhanced CT object asks for them."""
    del mtime_ns, size
    ds = open_dataset(path, pixels=True)
    compressed = sum(map(len, generate_fragments(ds.PixelData))) if "PixelData" in ds else 0
    return ElementReader(ds).integer("NumberOfFrames") or 1, compressed
