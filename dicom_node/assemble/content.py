"""The identity of an instance's bytes."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of the data set of a Part-10 file.

    The file meta information is left out: it names the receiver's software and the association's AE titles, so the same
    instance sent twice would differ there (PS3.10 7.1).
    """
    with path.open("rb") as stream:
        head = stream.read(144)
        start = 0
        if len(head) == 144 and head[128:136] == b"DICM\x02\x00\x00\x00" and head[136:140] == b"UL\x04\x00":
            start = 144 + struct.unpack_from("<I", head, 140)[0]
        stream.seek(start)
        return hashlib.file_digest(stream, "sha256").hexdigest()
