"""NaN and infinity in NIfTI files, found in the bytes: ITK's reader turns them into zeros without a word."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from train.data.readers.base import CaseRefusedError, PairSource

_HEADER_BYTES: Final = 352
_FLOATS: Final = {16: "f4", 64: "f8"}
"""NIfTI-1 data types of real numbers; integers are always finite."""
_CHUNK: Final = 1 << 20


def check_finite_files(source: PairSource) -> None:
    """Refuse a case with a voxel that is no number in one of its NIfTI files.

    Raises
    ------
    CaseRefusedError
        ``not_finite`` with the number of such voxels; ``unreadable`` for a file that ends early.
    """
    for part in source.paths:
        for path in source.files(part):
            if not path.name.lower().endswith((".nii", ".nii.gz")):
                continue
            try:
                count = nonfinite_voxels(path)
            except (OSError, EOFError, zlib.error):
                raise CaseRefusedError("unreadable", f"{path.name} is missing or cut off; copy it again") from None
            if count:
                reason = f"{path.name} holds NaN or infinite values; repair the file at its source"
                raise CaseRefusedError("not_finite", reason, {"voxels": float(count)})


def nonfinite_voxels(path: Path) -> int:
    """Count voxels that are NaN or infinite in a NIfTI-1 file; 0 for integers and for files of another kind."""
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
        if len(head) < _HEADER_BYTES:
            return 0
        order = next((sign for sign in "<>" if struct.unpack_from(f"{sign}i", head)[0] == 348), None)
        if order is None:
            return 0
        (kind,) = struct.unpack_from(f"{order}h", head, 70)
        (offset,) = struct.unpack_from(f"{order}f", head, 108)
        if kind not in _FLOATS or not _HEADER_BYTES <= offset < _CHUNK:
            return 0
        stream.read(int(offset) - _HEADER_BYTES)
        return _count(stream.read, np.dtype(order + _FLOATS[kind]))


def _count(read: Callable[[int], bytes], dtype: np.dtype[np.floating]) -> int:
    count, rest = 0, b""
    while chunk := read(_CHUNK):
        data = rest + chunk
        whole = len(data) - len(data) % dtype.itemsize
        count += int(np.count_nonzero(~np.isfinite(np.frombuffer(data[:whole], dtype))))
        rest = data[whole:]
    return count
