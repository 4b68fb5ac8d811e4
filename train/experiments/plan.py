"""What experiments will take before they start: networks, their parameters and, measured, the time."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from jmmda_model.network.counting import count_parameters
from train.data.dataset import SliceDataset
from train.data.phantom_cache import cache_folder, case_keys
from train.data.workers import one_thread_each
from train.devices import SingleDevice, choose_device
from train.dryrun import random_batch
from train.experiments.records import Training
from train.experiments.runner import finished, phantom_data, threads_each
from train.feeding import synchronise
from train.fit import load_cases, run_contract
from train.guard import StepGuard
from train.methods import Method, Moment
from train.recipe import Recipe, StageRecipe, contract_of
from train.registry import build_method, build_translator, channels_of
from train.schedule import stage_steps
from train.state import Position

#: Seconds that the process of a training needs beside its steps: starting, reading, validating, writing.
START_S = 5.0


@dataclass(frozen=True, slots=True)
class PlannedNetwork:
    """One training.

    Attributes
    ----------
    key, name : str
        `Training.key` and the recipe's name.
    parameters : int
        Of the network that predicts.
    steps : int
        Of all stages.
    finished : bool
        Whether it was trained earlier.
    seconds : float or None
        What the training takes, cut by its time limit; None when it was not measured.
    """

    key: str
    name: str
    parameters: int
    steps: int
    finished: bool
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """All trainings.

    Attributes
    ----------
    networks : tuple of PlannedNetwork
        In the order in which they are trained.
    jobs : int
        Processes side by side.
    volumes : int
        Phantom volumes that have to be made first; their time is not in `minutes`, nor is that of the scores.
    """

    networks: tuple[PlannedNetwork, ...]
    jobs: int
    volumes: int

    @property
    def left(self) -> tuple[PlannedNetwork, ...]:
        """Networks that are not trained yet."""
        return tuple(network for network in self.networks if not network.finished)

    @property
    def minutes(self) -> float | None:
        """Time until the last training ends; None unless all were measured."""
        seconds = [network.seconds for network in self.left]
        known = [second for second in seconds if second is not None]
        if len(known) < len(seconds):
            return None
        return max([sum(known) / self.jobs, *known], default=0.0) / 60.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        totals = {"left": len(self.left), "minutes": self.minutes}
        return dataclasses.asdict(self) | totals


def estimate(
    trainings: Sequence[Training],
    folder: Path,
    *,
    cache_root: Path,
    jobs: int = 1,
    devices: Sequence[str] = ("auto",),
    measure: bool = True,
) -> Plan:
    """Work out what training takes; nothing is written.

    Parameters
    ----------
    trainings : sequence of Training
        What would be trained.
    folder : Path
        Of the experiments, where finished ones are found.
    cache_root : Path
        Where phantom volumes would be.
    jobs : int
        Processes side by side; the measurement uses as many.
    devices : sequence of str
        Where they would train.
    measure : bool
        Take a step of each network that differs in what it computes, after one that warms up.

    Raises
    ------
    TrainingError
        ``data``: a prepared folder cannot be used; ``device``: there is no such device.
    """
    known = {training.key for training in trainings if finished(folder, training)}
    shapes = {training.key: _shape(training.recipe) for training in trainings}
    examples = {shapes[training.key]: training.recipe for training in trainings}
    parameters = {shape: _parameters(recipe) for shape, recipe in examples.items()}
    open_shapes = {shapes[training.key] for training in trainings if training.key not in known}
    paces = _paces({shape: examples[shape] for shape in open_shapes}, jobs, devices) if measure else {}
    slices = _Slices()
    networks = []
    for training in trainings:
        shape, steps = shapes[training.key], slices.steps(training.recipe)
        seconds = _seconds(training.recipe, steps, paces.get(shape))
        networks.append(
            PlannedNetwork(
                training.key, training.recipe.name, parameters[shape], sum(steps), training.key in known, seconds
            )
        )
    return Plan(tuple(networks), jobs, _missing_volumes(trainings, cache_root))


def _shape(recipe: Recipe) -> str:
    """All that decides what a step costs."""
    values = recipe.to_json()
    stages = [
        {name: value for name, value in stage.items() if name not in ("steps", "epochs", "learning_rate", "loss")}
        for stage in values["stages"]
    ]
    kept = ("method", "generator", "options", "discriminator", "input", "loss", "run")
    return json.dumps([{name: values[name] for name in kept}, stages], sort_keys=True)


def _parameters(recipe: Recipe) -> int:
    with FakeTensorMode():
        return count_parameters(build_translator(recipe))


def _seconds(recipe: Recipe, steps: Sequence[int], paces: Sequence[float] | None) -> float | None:
    if paces is None:
        return None
    seconds = sum(count * pace for count, pace in zip(steps, paces, strict=True))
    if recipe.max_minutes is not None:
        seconds = min(seconds, 60.0 * recipe.max_minutes)
    return START_S + seconds


class _Slices:
    """Training slices of recipes that count epochs; archives are opened once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str | None, tuple[str, ...]], int] = {}

    def steps(self, recipe: Recipe) -> list[int]:
        """Steps of each stage."""
        if all(stage.epochs is None for stage in recipe.stages):
            return [stage.steps or 0 for stage in recipe.stages]
        return [stage_steps(stage, self._count(recipe)) for stage in recipe.stages]

    def _count(self, recipe: Recipe) -> int:
        data = recipe.data
        if data.source == "phantom":  # those without brain stay out, but which are is not known before
            return sum(data.train.values()) * data.n_slices
        key = data.folder, data.centres_train
        if key not in self._known:
            cases = load_cases(data, Path(data.folder or ""), "train")
            self._known[key] = len(SliceDataset(cases, run_contract(recipe)))
        return self._known[key]


def _missing_volumes(trainings: Sequence[Training], cache_root: Path) -> int:
    return sum(
        not (cache_folder(cache_root, recipe.data, contract_of(recipe)) / key.name).is_dir()
        for recipe in phantom_data(trainings)
        for key in case_keys(recipe.data)
    )


def _paces(recipes: Mapping[str, Recipe], jobs: int, devices: Sequence[str]) -> dict[str, list[float] | None]:
    """Seconds a step of each stage, measured in as many processes as will train; None where no step could be taken."""
    for device in devices:
        choose_device(device)
    if not recipes:
        return {}
    context = multiprocessing.get_context("spawn")
    with (
        one_thread_each(),
        ProcessPoolExecutor(
            min(jobs, len(recipes)), context, initializer=torch.set_num_threads, initargs=(threads_each(jobs),)
        ) as pool,
    ):
        turns: Iterable[str] = (devices[place % len(devices)] for place in range(len(recipes)))
        return dict(zip(recipes, pool.map(_pace, recipes.values(), turns), strict=True))


def _pace(recipe: Recipe, device_name: str) -> list[float] | None:
    device = choose_device(device_name)
    devices = SingleDevice(device)
    try:
        method = build_method(recipe, devices, StepGuard(devices, Position()))
        return [_step_seconds(method, recipe, stage, device) for stage in recipe.stages]
    except (RuntimeError, ValueError):  # its training will say why
        return None


def _step_seconds(method: Method, recipe: Recipe, stage: StageRecipe, device: torch.device) -> float:
    """Seconds of the second step on random images; unlike `train.dryrun.measure_step`, no operations are counted."""
    batch = random_batch(channels_of(recipe), stage.batch, stage.grid_px, device)
    started = 0.0
    for step in range(2):
        synchronise(device)
        started = time.perf_counter()
        method.step(batch, Moment(stage, step, 1.0, logged=False))
        synchronise(device)
    return time.perf_counter() - started
