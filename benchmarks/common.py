"""What every measurement needs: paired clocks, medians over rounds, memory of a process, a series to work on."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass
class Clock:
    """Wall and CPU seconds per named stage, one entry per round."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)

    def medians(self) -> dict[str, tuple[float, float]]:
        """Median (wall, CPU) seconds per stage."""
        return {name: (statistics.median(self.wall[name]), statistics.median(self.cpu[name])) for name in self.wall}


def rss_mib(pid: int, key: str = "VmRSS") -> float:
    """Resident memory of a process now (VmRSS) or at its peak (VmHWM), MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    return float("nan")


def machine() -> str:
    """One line that says what the figures were measured on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


def ct_series(folder: Path) -> tuple[list[Path], str]:
    """Files of a 28-slice 512x512 head CT: the public one below JMMDA_TEST_DATA, else a phantom made in `folder`."""
    public = Path(os.environ.get("JMMDA_TEST_DATA", "/nonexistent")) / "ge_head_ct"
    if public.is_dir():
        return sorted(public.glob("*.dcm")), "public head CT (GE, 28 x 512 x 512)"
    from train.data.phantom import generate_case
    from train.data.phantom_dicom import write_ct_series

    case = generate_case(7, "A", matrix=512, n_slices=28)
    return list(write_ct_series(case, folder)), "digital phantom (28 x 512 x 512)"


def table(heading: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table."""

    def line(cells: tuple[object, ...]) -> str:
        return "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"

    return "\n".join([line(heading), "|" + " --- |" * len(heading), *(line(row) for row in rows)])
