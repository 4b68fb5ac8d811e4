"""How much an experiment may cost, and the recipe of one network at that cost.

Within a budget every method gets the same volumes, the same augmentation, the same share of its channels and the same
number of images; rates, betas and the shape of the schedule are those of its source (`Schedule`), those of JMMDA-GAN
stand in ``config/train/paper.toml``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from train.baselines.base import Schedule
from train.data.cache import SPLITS, CacheError
from train.data.prepared import open_prepared
from train.recipe import JMMDA, Recipe, generator_settings, parse_recipe
from train.registry import BASELINES, title_of
from train.state import TrainingError

#: Simulated centres that stand for the paper's first and second data set.
PHANTOM_CENTRES: Final = ("A", "B")
#: Channels of the first layer of generator and discriminator at full width.
FULL_WIDTH: Final = 64
_FULL_GRID_PX, _FULL_DOWNS = 256, 4
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Budget:
    """What each network of an experiment may cost.

    Attributes
    ----------
    name : str
        ``quick``, ``half`` or ``full``.
    width : float
        Share of the channels.
    grid_px : int
        Side of the images of phantoms, over the same field of view; an archive brings its own.
    matrix, n_slices, slice_mm : int, int, float
        Geometry of the phantom volumes.
    train, validation, test : int
        Phantom volumes a centre.
    images : int or None
        Slices that a network sees in training; None: as many epochs as its source trains.
    batch : int or None
        Slices a step, for all methods; None: as its source.
    rate_factor : float
        Learning rates as a multiple of those of the sources: a short training takes larger steps.
    seeds : tuple of int
        One network each.
    sensitivity_share : float
        Length of a training of the sensitivity experiment as a share of the others.
    thorough : bool
        Also train what only widens a result: the grid of wavelets and heads, and the masked comparison of the first
        centre.
    on_device : bool
        Keep the training slices in the memory of the device.
    max_minutes : float or None
        Longest training of a network of the usual length; it ends with its schedule then, however far it came.
    mark : str
        Printed with every table; set where the figures rank nothing.
    """

    name: str
    width: float
    grid_px: int
    train: int
    validation: int
    test: int
    images: int | None
    batch: int | None
    matrix: int = 256
    n_slices: int = 24
    slice_mm: float = 5.0
    rate_factor: float = 1.0
    seeds: tuple[int, ...] = (0, 1, 2)
    sensitivity_share: float = 1.0
    thorough: bool = True
    on_device: bool = False
    max_minutes: float | None = None
    mark: str = ""


BUDGETS: Final[Mapping[str, Budget]] = {
    budget.name: budget
    for budget in (
        # On two CPU cores everything together takes less than an hour.
        Budget(
            "quick",
            width=0.25,
            grid_px=64,
            matrix=128,
            train=24,
            validation=4,
            test=12,
            images=960,
            batch=4,
            rate_factor=4.0,
            seeds=(0,),
            sensitivity_share=0.5,
            thorough=False,
            max_minutes=4.0,
            mark="pipeline check: no ranking, no p values",
        ),
        # Minutes a network on one GPU.
        Budget(
            "half",
            width=0.5,
            grid_px=128,
            train=80,
            validation=8,
            test=40,
            images=32_000,
            batch=8,
            sensitivity_share=0.5,
            on_device=True,
        ),
        # The paper's first data set has 228 patients; hours a network on one GPU.
        Budget(
            "full",
            width=1.0,
            grid_px=256,
            train=160,
            validation=22,
            test=46,
            images=None,
            batch=None,
            on_device=True,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class ArchiveData:
    """A prepared archive in the place of the phantom.

    Attributes
    ----------
    folder : Path
        What ``train prepare`` wrote.
    centres : tuple of str
        The two that stand for the paper's data sets 1 and 2.
    grid_px : int
        Side of its images.
    source : str
        Layout that it was read from.
    """

    folder: Path
    centres: tuple[str, str]
    grid_px: int
    source: str

    @classmethod
    def open(cls, folder: Path, centres: tuple[str, str]) -> ArchiveData:
        """Open a prepared folder.

        Raises
        ------
        TrainingError
            ``data``: it cannot be used, or lacks one of the centres in one of its splits.
        """
        if centres[0] == centres[1]:
            raise TrainingError("data", f"two different centres are needed, not twice {centres[0]}")
        try:
            archive = open_prepared(folder)
            for split in SPLITS:
                there = {case.facts.centre for case in archive.cases(split, centres)}
                if lacking := [centre for centre in centres if centre not in there]:
                    raise TrainingError("data", f"{folder}: no case of {', '.join(lacking)} in the split {split}")
        except CacheError as error:
            raise TrainingError("data", error.reason) from error
        return cls(folder.resolve(), centres, archive.index.contract.grid_px, archive.index.source)


def recipe_for(
    method: str,
    centres: tuple[str, ...],
    budget: Budget,
    seed: int,
    *,
    data: ArchiveData | None = None,
    options: Mapping[str, Any] = _NOTHING,
    generator: Mapping[str, Any] = _NOTHING,
    loss: Mapping[str, Any] = _NOTHING,
    input: Mapping[str, Any] = _NOTHING,  # noqa: A002  (the name of the recipe's table)
    share: float = 1.0,
) -> Recipe:
    """Recipe of one network.

    Parameters
    ----------
    method : str
        Name in the registry.
    centres : tuple of str
        Centres to train on.
    budget : Budget
        What it may cost.
    seed : int
        Of weights and batches.
    data : ArchiveData, optional
        Instead of phantoms.
    options : Mapping
        Changes to the options of a comparison method.
    generator, loss : Mapping
        Changes to the network and the loss of JMMDA-GAN. Without adversarial and feature matching weight there is no
        discriminator.
    input : Mapping
        Changes to what the networks see.
    share : float
        Length of the training as a share of the budget's.

    Raises
    ------
    train.recipe.RecipeError
        When the changes make a recipe that cannot be.
    """
    grid_px = budget.grid_px if data is None else data.grid_px
    stage = _stage(budget, _schedule(method), grid_px, share)
    paper = _paper()
    values: dict[str, Any] = {
        "name": f"{method} on {' and '.join(centres)}",
        "description": f"{title_of(method)} at the budget {budget.name}",
        "method": method,
        "seed": seed,
        "max_minutes": None if budget.max_minutes is None else budget.max_minutes * max(1.0, share),
        "data": _data(centres, budget, data),
        "input": {**paper["input"], **({} if data else {"grid_px": grid_px}), **input},
        "augment": paper["augment"],
        "log": _log(stage.get("steps")),
        "stages": [stage],
    }
    where = f"{method} of an experiment"
    if method != JMMDA:
        return parse_recipe(values | _comparison_tables(method, budget, grid_px, options), where)
    values |= _jmmda_tables(budget, grid_px, generator, loss)
    terms = values["loss"]
    stage["adversarial"] = bool(terms["gan_weight"] or terms["feature_matching_weight"])
    recipe = parse_recipe(values, where)
    # All settings written out: recipes that come to the same network in two ways are one.
    return dataclasses.replace(recipe, generator=generator_settings(recipe.generator).to_json())


def levels_of(grid_px: int) -> int:
    """Halvings of the networks that are built on pix2pixHD: four at 256 pixels, and one less for half the side.

    The innermost map has the same field of view at every side then.
    """
    levels = max(1, _FULL_DOWNS - max(0, round(math.log2(_FULL_GRID_PX / grid_px))))
    while grid_px % 2**levels:
        levels -= 1
    return levels


@functools.cache
def _paper() -> dict[str, Any]:
    """The tables of the recipe ``paper.toml``."""
    return tomllib.loads(importlib.resources.files("config").joinpath("train", "paper.toml").read_text("utf-8"))


def _schedule(method: str) -> Schedule:
    if method != JMMDA:
        return BASELINES[method].schedule
    (stage,), adam = _paper()["stages"], _paper()["optimiser"]
    hold = round(stage["hold"] * stage["epochs"])
    return Schedule(stage["learning_rate"], adam["beta1"], adam["beta2"], stage["batch"], hold, stage["epochs"] - hold)


def _stage(budget: Budget, schedule: Schedule, grid_px: int, share: float) -> dict[str, Any]:
    """The only stage: rates in the shape of the source's schedule, as long as the budget allows."""
    return {
        "name": "all",
        "grid_px": grid_px,
        "batch": budget.batch or schedule.batch,
        "learning_rate": budget.rate_factor * schedule.learning_rate,
        "decay": "linear",
        "hold": schedule.hold_epochs / (schedule.hold_epochs + schedule.decay_epochs),
        "final_rate": 0.0,
        **_length(budget, schedule, share),
    }


def _length(budget: Budget, schedule: Schedule, share: float) -> dict[str, int]:
    """Steps or epochs of the stage; a training that is counted in steps is warmed up for a tenth of them."""
    if budget.images is None:
        return {"epochs": max(1, round(share * (schedule.hold_epochs + schedule.decay_epochs)))}
    steps = max(1, round(share * budget.images / (budget.batch or schedule.batch)))
    return {"steps": steps, "warm_up_steps": steps // 10}


def _data(centres: tuple[str, ...], budget: Budget, data: ArchiveData | None) -> dict[str, Any]:
    drawn = {"lesion_share": _paper()["data"]["lesion_share"], "on_device": budget.on_device}
    if data is not None:
        return {"source": "prepared", "folder": str(data.folder), "centres_train": list(centres), **drawn}
    return {
        "train": dict.fromkeys(centres, budget.train),
        "validation": dict.fromkeys(centres, budget.validation),
        "test": dict.fromkeys(PHANTOM_CENTRES, budget.test),
        "matrix": budget.matrix,
        "n_slices": budget.n_slices,
        "slice_mm": budget.slice_mm,
        **drawn,
    }


def _log(steps: int | None) -> dict[str, Any]:
    """Every network is validated at its end alone: nothing is chosen by it."""
    every, checkpoint_every = (50, 1000) if steps is None else (max(1, steps // 20), max(1, steps // 4))
    return {
        "every": every,
        "checkpoint_every": checkpoint_every,
        "validate_every": 1_000_000,
        "validation_slices": 16,
        "tensorboard": False,
    }


def _jmmda_tables(
    budget: Budget, grid_px: int, generator: Mapping[str, Any], loss: Mapping[str, Any]
) -> dict[str, Any]:
    paper, filters = _paper(), max(1, round(FULL_WIDTH * budget.width))
    adam = dict(paper["optimiser"])
    adam["discriminator_learning_rate"] *= budget.rate_factor
    return {
        "generator": {**paper["generator"], "ngf": filters, "n_down": levels_of(grid_px), **generator},
        "discriminator": paper["discriminator"] | {"ndf": filters},
        "loss": paper["loss"] | dict(loss),
        "optimiser": adam,
    }


def _comparison_tables(method: str, budget: Budget, grid_px: int, options: Mapping[str, Any]) -> dict[str, Any]:
    schedule = _schedule(method)
    return {
        "optimiser": {"beta1": schedule.beta1, "beta2": schedule.beta2, "clip_norm": 0.0, "ema_decay": 0.0},
        "options": _options(method, budget, grid_px) | dict(options),
    }


def _options(method: str, budget: Budget, grid_px: int) -> dict[str, Any]:
    """A method's own options at the width of the budget and with the depth that the images allow."""
    entry = BASELINES[method]
    adapted = entry.method.adapted(dataclasses.replace(entry.options, width=budget.width), grid_px)
    values = dataclasses.asdict(adapted)
    if "n_down" in values:
        values["n_down"] = min(values["n_down"], levels_of(grid_px))
    return values
