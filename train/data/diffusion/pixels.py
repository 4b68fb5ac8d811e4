"""Signal of single frames. Files are opened one at a time and decoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from dicom_node.dicom.pixels import STORED_KEYWORDS, read_hu
from dicom_node.dicom.reading import PARSE_ERRORS, open_dataset, quiet_pydicom
from dicom_node.errors import NodeError
from train.data.diffusion.errors import DiffusionError
from train.data.diffusion.frames import Frame, Storage

__all__ = ["FloatArray", "FrameReader", "stored_bytes"]

FloatArray = npt.NDArray[np.float32]

# Without padding and rescale: padding is no air in MR, and the scale of a frame is known to `Frame`.
_KEYWORDS: Final = (
    *STORED_KEYWORDS,
    "PlanarConfiguration",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
_TAGS: Final = tuple(tag for tag in (tag_for_keyword(keyword) for keyword in _KEYWORDS) if tag is not None)


class FrameReader:
    """Reads the signal of frames; the last file stays open, so frames are best asked file by file."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._dataset: Dataset | None = None
        self._whole: FloatArray | None = None

    def signal(self, frame: Frame) -> FloatArray:
        """Give the signal of one frame: shape (rows, columns), float32, rescaled, not rounded.

        Raises
        ------
        DiffusionError
            ``unreadable``: missing, truncated or undecodable pixels, or not the size that the header announced.
        """
        try:
            dataset = self._open(frame.path)
            stored = _one_frame(dataset, frame.index) if frame.storage is Storage.FRAME else self._cut(dataset, frame)
        except (NodeError, *PARSE_ERRORS, RuntimeError) as error:
            # The texts of pydicom and of the codecs may quote the data.
            raise DiffusionError("unreadable", f"pixels could not be read ({type(error).__name__})") from None
        if stored.shape != frame.size:
            raise DiffusionError("unreadable", "an image does not have the size that its header announces")
        # A senseless factor overflows to infinity here and is refused by the reader of the volume, with its own code.
        with np.errstate(over="ignore"):
            return np.asarray(stored.astype(np.float64) * frame.slope + frame.intercept, dtype=np.float32)

    def _open(self, path: Path) -> Dataset:
        if self._dataset is None or path != self._path:
            self._path, self._dataset, self._whole = path, open_dataset(path, tags=_TAGS, pixels=True), None
        return self._dataset

    def _cut(self, dataset: Dataset, frame: Frame) -> npt.NDArray[np.generic]:
        if self._whole is None:
            self._whole = read_hu(dataset)
        (row, column), (rows, columns) = frame.corner, frame.size
        if frame.storage is Storage.WHOLE:
            return self._whole
        return self._whole[row : row + rows, column : column + columns]


def _one_frame(dataset: Dataset, index: int) -> npt.NDArray[np.generic]:
    with quiet_pydicom():
        values, _ = get_decoder(UID(dataset.file_meta.TransferSyntaxUID)).as_array(dataset, index=index, raw=True)
    return values


def stored_bytes(path: Path) -> bytes:
    """Give the pixel data of a file as they are stored, empty when there are none.

    Raises
    ------
    dicom_node.errors.NodeError
        The file cannot be opened.
    """
    dataset = open_dataset(path, tags=_TAGS, pixels=True)
    value = dataset.get_item("PixelData").value if "PixelData" in dataset else b""
    return value if isinstance(value, bytes) else b""
