"""What a run writes down as it goes: its log, TensorBoard's files and sample pictures; by process 0 alone."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from train.data.cache import CachedCase
from train.recipe import Recipe
from train.runlog import RunLog
from train.validation import save_picture

_log = logging.getLogger(__name__)

#: Events whose numbers are curves.
_DRAWN = ("step", "validation")


class Recorder:
    """Run log, scalars and pictures of a run.

    Parameters
    ----------
    run : Path
        Run folder.
    recipe : Recipe
        Whether TensorBoard's files are wanted.
    active : bool
        False in all processes but one: they write nothing.
    """

    def __init__(self, run: Path, recipe: Recipe, *, active: bool = True) -> None:
        self.run, self.recipe, self.active = run, recipe, active
        self._board: Any = None
        if active:
            (run / "samples").mkdir(parents=True, exist_ok=True)
            self.log = RunLog(run / "log.jsonl")

    def open(self, step: int) -> None:
        """Start writing at a step: later lines of an interrupted run are dropped, and TensorBoard's hidden."""
        if not self.active:
            return
        self.log.forget_after(step)
        if self.recipe.log.tensorboard:
            self._board = _summary_writer(self.run / "tensorboard", step)

    def close(self) -> None:
        """Flush TensorBoard's files."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def write(self, event: str, **values: object) -> None:
        """Append a line to the log, and its numbers to TensorBoard where the line belongs to a step."""
        if not self.active:
            return
        self.log.write(event, **values)
        step = values.get("step")
        if self._board is not None and isinstance(step, int) and event in _DRAWN:
            for name, value in _scalars(values, event):
                self._board.add_scalar(name, value, step)

    def picture(self, stage: str, step: int, sheet: NDArray[np.uint8]) -> None:
        """Keep a sample picture."""
        if not self.active:
            return
        save_picture(self.run / "samples" / f"{stage}-{step:06d}.png", sheet)
        if self._board is not None:
            self._board.add_image(f"samples/{stage}", sheet, step, dataformats="HW")

    def keep_recipe(self) -> None:
        """Write the recipe as it was understood."""
        if self.active:
            (self.run / "recipe.json").write_text(json.dumps(self.recipe.to_json(), indent=1), encoding="utf-8")


def _summary_writer(folder: Path, step: int) -> Any:  # noqa: ANN401  (TensorBoard is optional)
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        _log.info("tensorboard is not installed: scalars go to log.jsonl alone")
        return None
    return SummaryWriter(str(folder), purge_step=step or None)


def _scalars(values: Mapping[str, object], prefix: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "step":
            found.append((f"{prefix}/{name}", float(value)))
    return found


def origin(recipe: Recipe, cases: Sequence[CachedCase]) -> dict[str, object]:
    """What a run came from: digests of recipe and training data, revision of the program, machine."""
    return {
        "recipe": recipe.name,
        "recipe_sha256": hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode()).hexdigest(),
        "data_sha256": data_digest(cases),
        "revision": _revision(),
        "seed": recipe.seed,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "torch": torch.__version__,
    }


def data_digest(cases: Sequence[CachedCase]) -> str:
    """SHA-256 over the facts of all cases and the middle slice of their images: another data set shows."""
    digest = hashlib.sha256()
    for case in cases:
        facts = asdict(case.facts)
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        middle = case.hu.shape[0] // 2
        for array in (case.hu, case.target, case.brain):
            digest.update(np.ascontiguousarray(array[middle]).tobytes())
    return digest.hexdigest()


def _revision() -> str | None:
    """Git revision of the program, where it runs from a working tree."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
