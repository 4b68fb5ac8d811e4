"""Writing that survives a crash: whole files, moved files, appended journal lines.

Standard library only, because the receiver uses it. Every function either leaves its result on disk when it
returns, or raises `OSError` and leaves nothing half done.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

PART_SUFFIX: Final = ".part"
FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600


def utc_now() -> str:
    """Return the present time as ISO 8601 with microseconds and offset."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def name_hash(*parts: str) -> str:
    """Return 32 hexadecimal digits that depend on every part; used for every file name made from a UID."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def fsync_folder(folder: Path) -> None:
    """Make the names inside a folder durable (fsync of the directory itself)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: Buffer) -> None:
    """Write every byte, however many calls the kernel needs."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_part(part: Path, parts: Iterable[Buffer]) -> int:
    """Write a ``.part`` file and fsync it; on any failure the file is removed before the error goes on."""
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    written = 0
    try:
        for chunk in parts:
            write_all(descriptor, chunk)
            written += len(chunk)
        os.fsync(descriptor)
    except BaseException:  # an interrupt too: whatever ends the write, no part stays, and the error goes on
        os.close(descriptor)
        part.unlink(missing_ok=True)
        raise
    os.close(descriptor)
    return written


def durable_write(path: Path, data: Buffer) -> None:
    """Write a file so that after a crash either the old or the new content is there, never a mixture.

    Parameters
    ----------
    path : Path
        Target; its folder must exist.
    data : bytes-like
        Whole content.

    Raises
    ------
    OSError
        When the disk is full or gone; no partial file is left.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
    write_part(part, (data,))
    part.replace(path)
    fsync_folder(path.parent)


def durable_move(source: Path, target: Path) -> None:
    """Rename within one file system and make both folders durable; the target's folder must exist."""
    source.replace(target)
    fsync_folder(target.parent)
    fsync_folder(source.parent)


def append_lines(path: Path, records: Iterable[Mapping[str, object]], *, sync: bool = True) -> None:
    """Append JSON lines with one write; a line torn by an earlier crash stays alone on its own line.

    Parameters
    ----------
    path : Path
        Journal; created when missing (its name is then made durable as well).
    records : iterable of Mapping[str, object]
        JSON-serialisable content, one mapping a line.
    sync : bool
        Wait until the lines are on disk.
    """
    lines = b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)
    created = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, FILE_MODE)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end and os.pread(descriptor, 1, end - 1) != b"\n":
            lines = b"\n" + lines
        write_all(descriptor, lines)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if created and sync:
        fsync_folder(path.parent)


def append_line(path: Path, record: Mapping[str, object], *, sync: bool = True) -> None:
    """Append one JSON line; see `append_lines`."""
    append_lines(path, (record,), sync=sync)


def read_lines(path: Path) -> Iterator[dict[str, object]]:
    """Yield the whole lines of a journal; a missing file yields nothing, a torn line is left out."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record
