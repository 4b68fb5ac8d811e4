"""From a recipe to a trained run: find or make the volumes, train, stop cleanly on a signal."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.cache import CachedCase, CacheError, Split
from train.data.dataset import SliceDataset
from train.data.phantom_cache import build_cache, load_phantom_split
from train.data.prepared import open_prepared
from train.data.splits import LEAKAGE_WARNING
from train.devices import in_turn, open_devices
from train.recipe import DataRecipe, Recipe, RecipeError, channel_values, contract_of
from train.runlog import progress_bar
from train.state import CHECKPOINT_NAME, TrainingError
from train.trainer import FitResult, Trainer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunData:
    """Where the volumes of a run are, and the contract its networks are trained with."""

    cache: Path
    contract: PreprocessingContract


def read_run(run: Path) -> tuple[Recipe, RunData]:
    """Recipe and data of a run folder.

    Raises
    ------
    FileNotFoundError
        When the folder is not a run.
    TrainingError
        ``recipe``: its recipe is one of another version of the program.
    """
    try:
        recipe = Recipe.from_json(json.loads((run / "recipe.json").read_text(encoding="utf-8")))
    except RecipeError as error:
        faults = "; ".join(f"{fault.key}: {fault.reason}" for fault in error.faults)
        raise TrainingError(
            "recipe", f"{run} was trained by another version of the program; use that one, or train anew ({faults})"
        ) from error
    data = json.loads((run / "data.json").read_text(encoding="utf-8"))
    contract = PreprocessingContract.from_json(data["contract"])
    return recipe, RunData(Path(data["cache"]), contract)


def run_contract(recipe: Recipe) -> PreprocessingContract:
    """Contract of a run: the recipe's ``[input]`` over that of the prepared folder, or over the default one.

    Raises
    ------
    TrainingError
        ``data``: the prepared folder cannot be used, or a stage does not fit its grid.
    """
    data = recipe.data
    if data.source == "phantom" or data.folder is None:
        return contract_of(recipe)
    try:
        made_with = open_prepared(Path(data.folder)).index.contract
    except CacheError as error:
        raise TrainingError("data", error.reason) from error
    contract = dataclasses.replace(made_with, **channel_values(recipe.input))
    for stage in recipe.stages:
        if contract.grid_px % stage.grid_px:
            raise TrainingError(
                "data", f"stage {stage.name}: {stage.grid_px} does not divide {contract.grid_px} pixels"
            )
    return contract


def load_cases(data: DataRecipe, cache: Path, split: Split) -> tuple[CachedCase, ...]:
    """Cases of a split that a recipe trains, validates or tests on.

    Raises
    ------
    TrainingError
        ``data``: there are none, or one cannot be read.
    """
    chosen = data.centres_test if split == "test" else data.centres_train
    try:
        if data.source == "phantom":
            cases = load_phantom_split(cache, data, split)
        else:
            cases = open_prepared(cache).cases(split, chosen or None)
    except CacheError as error:
        raise TrainingError("data", error.reason) from error
    if not cases:
        where = f" of the centres {', '.join(chosen)}" if chosen else ""
        raise TrainingError("data", f"{cache} holds no case of the split {split}{where}")
    return cases


def find_data(recipe: Recipe, root: Path, progress: Callable[[int, int], None] | None = None) -> RunData:
    """Open the prepared folder of a recipe, or make the phantom volumes that are missing below ``root``.

    Raises
    ------
    TrainingError
        ``data``: see `run_contract`.
    """
    contract = run_contract(recipe)
    if recipe.data.source == "prepared" and recipe.data.folder is not None:
        return RunData(Path(recipe.data.folder).resolve(), contract)
    cache = build_cache(root, recipe.data, contract, splits=("train", "validation"), progress=progress)
    return RunData(cache, contract)


def datasets(recipe: Recipe, data: RunData) -> tuple[SliceDataset, SliceDataset]:
    """Training and validation slices of a run.

    Raises
    ------
    TrainingError
        ``data``: a split is empty, or holds no slice with brain.
    """
    try:
        training = SliceDataset(
            load_cases(recipe.data, data.cache, "train"),
            data.contract,
            lesion_share=recipe.data.lesion_share,
            balance=recipe.data.balance,
        )
        return training, SliceDataset(load_cases(recipe.data, data.cache, "validation"), data.contract)
    except ValueError as error:
        raise TrainingError("data", f"{data.cache}: {error}") from error


def fit_recipe(
    recipe: Recipe,
    run: Path,
    *,
    cache_root: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    show_progress: bool = True,
) -> FitResult:
    """Make what volumes are missing and train; under ``torchrun`` together with the other processes.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    run : Path
        Run folder, made when missing.
    cache_root : Path, optional
        Where preprocessed phantom volumes live and may be shared by runs; default ``run/cache``.
    resume : bool
        Go on from the run's checkpoint; without one, start.
    device : str
        ``auto``, ``cpu`` or ``cuda:N``.
    show_progress : bool
        Show a bar where Rich is installed.

    Raises
    ------
    TrainingError
        When the run has a checkpoint and ``resume`` is not set (``run_exists``), there are no data, or training cannot
        go on.
    """
    if (run / CHECKPOINT_NAME).exists() and not resume:
        raise TrainingError("run_exists", f"{run} holds a run already: resume it, or choose another folder")
    devices = open_devices(device)
    shows = show_progress and devices.rank == 0
    run.mkdir(parents=True, exist_ok=True)
    root = (cache_root or run / "cache").resolve()
    with progress_bar("phantom volumes", show=shows) as bar:
        data = in_turn(
            devices,
            lambda: find_data(recipe, root, lambda done, total: bar.update(done, total, "phantom volumes")),
        )
    training, validation = datasets(recipe, data)
    if recipe.data.source == "prepared" and open_prepared(data.cache).leaky and devices.rank == 0:
        _log.warning(LEAKAGE_WARNING)
    if devices.rank == 0:
        _write_data(run, data, root)
    with progress_bar("training", show=shows, time_left=False) as bar:
        trainer = Trainer(recipe, run, training, validation, devices, bar)
        if devices.broadcast(resume and (run / CHECKPOINT_NAME).exists()):
            trainer.resume()
        with _stops_on_signal(trainer):
            return trainer.fit()


def _write_data(run: Path, data: RunData, root: Path) -> None:
    content = {"cache": str(data.cache), "cache_root": str(root), "contract": data.contract.to_json()}
    part = run / ".data.json.part"
    part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(part, run / "data.json")


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
