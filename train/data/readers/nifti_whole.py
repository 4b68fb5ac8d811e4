"""Is a NIfTI file whole? ITK reads one that was cut off during a download without a word, and fills up with zeros."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Final

from train.data.readers.base import CaseRefusedError

__all__ = ["check_whole"]

_CHUNK: Final = 1 << 20
_HEADER_BYTES: Final = 348


def check_whole(path: Path) -> None:
    """Refuse a NIfTI-1 file that ends before its last voxel, and a gzip stream that is cut off or fails its checksum.

    Other formats pass: they are checked by their own readers.

    Raises
    ------
    CaseRefusedError
        ``unreadable``, with the bytes that are there and those that are needed.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return
    try:
        with gzip.open(path) if name.endswith(".gz") else path.open("rb") as stream:
            head = stream.read(_HEADER_BYTES)
            found = len(head)
            # Reading to the end is what makes gzip compare its checksum.
            while chunk := stream.read(_CHUNK):
                found += len(chunk)
    except (OSError, EOFError, zlib.error):
        raise CaseRefusedError("unreadable", f"{path.name} is missing or cut off; copy or download it again") from None
    needed = _needed_bytes(head)
    if found < needed:
        figures = {"bytes": float(found), "needed_bytes": float(needed)}
        raise CaseRefusedError("unreadable", f"{path.name} is cut off; copy or download it again", figures)


def _needed_bytes(head: bytes) -> int:
    """Bytes up to the last voxel by a NIfTI-1 header; its own length for any other header."""
    if len(head) < _HEADER_BYTES:
        return _HEADER_BYTES
    order = next((order for order in "<>" if struct.unpack_from(f"{order}i", head)[0] == _HEADER_BYTES), None)
    if order is None:
        return _HEADER_BYTES
    rank, *sizes = struct.unpack_from(f"{order}8h", head, 40)
    (bits,) = struct.unpack_from(f"{order}h", head, 72)
    (offset,) = struct.unpack_from(f"{order}f", head, 108)
    if not 1 <= rank <= 7 or not math.isfinite(offset):
        return _HEADER_BYTES
    voxels = math.prod(max(int(size), 1) for size in sizes[:rank])
    return int(offset) + voxels * int(bits) // 8
