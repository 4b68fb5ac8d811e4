"""From a recipe to a trained run: make the volumes, train, stop cleanly on a signal."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.cache import build_cache, load_split
from train.data.dataset import SliceDataset
from train.recipe import Recipe
from train.runlog import progress_bar
from train.state import CHECKPOINT_NAME, TrainingError
from train.trainer import FitResult, Trainer, choose_device


@dataclass(frozen=True, slots=True)
class RunData:
    """Where the volumes of a run are, and the contract they were made with."""

    cache: Path
    contract: PreprocessingContract


def read_run(run: Path) -> tuple[Recipe, RunData]:
    """Recipe and data of a run folder.

    Raises
    ------
    FileNotFoundError
        When the folder is not a run.
    """
    recipe = Recipe.from_json(json.loads((run / "recipe.json").read_text(encoding="utf-8")))
    data = json.loads((run / "data.json").read_text(encoding="utf-8"))
    contract = PreprocessingContract.from_json(data["contract"])
    return recipe, RunData(Path(data["cache"]), contract)


def fit_recipe(
    recipe: Recipe,
    run: Path,
    *,
    cache_root: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    show_progress: bool = True,
) -> FitResult:
    """Make what volumes are missing and train.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    run : Path
        Run folder, made when missing.
    cache_root : Path, optional
        Where preprocessed volumes live and may be shared by runs; default ``run/cache``.
    resume : bool
        Go on from the run's checkpoint; without one, start.
    device : str
        ``auto``, ``cpu`` or ``cuda:N``.
    show_progress : bool
        Show a bar where Rich is installed.

    Raises
    ------
    TrainingError
        When the run has a checkpoint and ``resume`` is not set, or training cannot go on.
    """
    if (run / CHECKPOINT_NAME).exists() and not resume:
        raise TrainingError(f"{run} holds a run already: resume it, or choose another folder")
    where = choose_device(device)
    run.mkdir(parents=True, exist_ok=True)
    contract = PreprocessingContract()
    root = (cache_root or run / "cache").resolve()
    with progress_bar("phantom volumes", show=show_progress) as bar:
        cache = build_cache(
            root,
            recipe.data,
            contract,
            splits=("train", "validation"),
            progress=lambda done, total: bar.update(done, total, "phantom volumes"),
        )
    (run / "data.json").write_text(
        json.dumps({"cache": str(cache), "cache_root": str(root), "contract": contract.to_json()}, indent=1),
        encoding="utf-8",
    )
    training = SliceDataset(load_split(cache, recipe.data, "train"), contract)
    validation = SliceDataset(load_split(cache, recipe.data, "validation"), contract)
    with progress_bar("training", show=show_progress) as bar:
        trainer = Trainer(recipe, run, training, validation, where, bar)
        if resume and (run / CHECKPOINT_NAME).exists():
            trainer.resume()
        with _stops_on_signal(trainer):
            return trainer.fit()


@contextlib.contextmanager
def _stops_on_signal(trainer: Trainer) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run after the current step, with a checkpoint."""

    def handler(_signal: int, _frame: FrameType | None) -> None:
        trainer.stop()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
