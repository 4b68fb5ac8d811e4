"""What a run leaves behind while it goes on: JSON-lines log, sample pictures, progress (a bar with Rich, or lines)."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class RunLog:
    """Append-only ``log.jsonl`` of a run: one JSON object a line, flushed at once, nan and infinity written as null.

    Parameters
    ----------
    path : Path
        File to append to; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **values: object) -> None:
        """Append one line with the name of the event and its values."""
        plain = {key: _finite(value) for key, value in values.items()}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"event": event, **plain}, allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All lines written so far; a last line cut by a crash is left out."""
        if not self.path.exists():
            return []
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return lines

    def forget_after(self, step: int) -> None:
        """Drop what was written about steps that a resumed run will take again, and a line that a crash cut.

        Parameters
        ----------
        step : int
            Steps done at the checkpoint; 0 drops everything. Lines of steps and of the start of a stage carry the steps
            before them, all others the steps after which they were written.
        """
        lines = self.read() if step else []
        kept = [line for line in lines if line.get("step", -1) < step + (line["event"] not in ("step", "stage"))]
        if not self.path.exists():
            return
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(part, self.path)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return round(value, 7) if np.isfinite(value) else None
    return value


def write_png(path: Path, grey: NDArray[np.uint8]) -> None:
    """Write a (H, W) 8-bit grey picture as PNG (ISO/IEC 15948), with the standard library alone, atomically."""
    height, width = grey.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), grey], axis=1).tobytes()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(b"".join(parts))
    os.replace(part, path)


def sample_sheet(columns: Mapping[str, NDArray[Any]], *, low: float = -1.0, high: float = 1.0) -> NDArray[np.uint8]:
    """Put images side by side: one row a slice, one column a name, in the order of ``columns``.

    Parameters
    ----------
    columns : Mapping[str, ndarray]
        Name -> (N, H, W) images with values from ``low`` to ``high``.
    low, high : float
        Black and white.

    Returns
    -------
    ndarray
        (N * H, len(columns) * W) uint8.
    """
    stacks = [np.clip((np.asarray(images, np.float64) - low) / (high - low), 0.0, 1.0) for images in columns.values()]
    rows = np.concatenate(stacks, axis=2)
    return np.rint(rows.reshape(-1, rows.shape[2]) * 255.0).astype(np.uint8)


class Progress(Protocol):
    """What long work tells a progress display."""

    def update(self, done: int, total: int, text: str) -> None:
        """Show that ``done`` of ``total`` steps are done, with a short text."""

    def note(self, line: str) -> None:
        """Tell that something is finished, for displays that keep lines."""


class QuietProgress:
    """Shows nothing."""

    def update(self, done: int, total: int, text: str) -> None:
        """Do nothing."""

    def note(self, line: str) -> None:
        """Do nothing."""


class LineProgress:
    """Lines for a log file, where a bar cannot move: every note and, from time to time, how far things are.

    Parameters
    ----------
    every_s : float or None
        Least time between two lines of `update`; its end is told in any case. None leaves all to the notes.
    """

    def __init__(self, every_s: float | None) -> None:
        self._every_s, self._told_s = every_s, time.monotonic()

    def update(self, done: int, total: int, text: str) -> None:
        """Print how far it is, when it is time."""
        now = time.monotonic()
        if self._every_s is None or (done < total and now - self._told_s < self._every_s):
            return
        self._told_s = now
        self.note(f"{text}: {done} of {total}")

    def note(self, line: str) -> None:
        """Print the line at once."""
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class _RichProgress:
    def __init__(self, bar: Any, task: Any) -> None:  # noqa: ANN401  (Rich is optional, its types are not imported)
        self._bar, self._task = bar, task

    def update(self, done: int, total: int, text: str) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, total=total, description=text)

    def note(self, line: str) -> None:
        """Do nothing: the bar says it."""


#: Seconds between the lines that say in a log file how far things are.
LINE_EVERY_S = 60.0


@contextmanager
def progress_bar(
    description: str, *, show: bool = True, time_left: bool = True, line_every_s: float | None = LINE_EVERY_S
) -> Iterator[Progress]:
    """A Rich progress bar; lines where the output is no terminal; silence without Rich or where nothing is to be shown.

    ``time_left`` adds the bar's own estimate, from the pace alone. ``line_every_s`` is that of `LineProgress`.
    """
    if not show:
        yield QuietProgress()
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichBar
    except ImportError:
        yield QuietProgress()
        return
    console = Console()
    if not console.is_interactive:
        yield LineProgress(line_every_s)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        *([TimeRemainingColumn()] if time_left else []),
    )
    with RichBar(*columns, console=console) as bar:
        yield _RichProgress(bar, bar.add_task(description, total=None))
