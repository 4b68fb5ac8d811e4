"""What a recipe will do, before it does it: stages, networks, memory, data and, measured, the time."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.network.counting import NetworkCost, describe
from train.data.dataset import Batch, SliceDataset
from train.data.phantom_cache import cache_folder, load_phantom_split
from train.devices import SingleDevice
from train.feeding import synchronise
from train.fit import load_cases, run_contract
from train.guard import StepGuard
from train.methods import Method, Moment, build_method
from train.recipe import Recipe, StageRecipe, discriminator_settings, generator_settings
from train.schedule import stage_steps
from train.staged import staged_bytes
from train.state import Position

#: Copies of the weights in fp32: weights, gradients, two moments of Adam, and for the generator the average.
_GENERATOR_COPIES, _DISCRIMINATOR_COPIES = 5, 4
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: what it costs.

    ``images`` are slices seen by all processes, ``gflop_per_image`` the floating-point operations of one update of
    all networks (3 forward equivalents of the generator, 8 of the discriminator), ``activations_mib`` what one process
    keeps for the backward pass; ``seconds_per_step`` and ``minutes`` are None unless measured.
    """

    name: str
    grid_px: int
    steps: int | None
    batch: int
    images: int | None
    adversarial: bool
    precision: str
    gflop_per_image: float
    activations_mib: float
    seconds_per_step: float | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Cases and slices with brain of a split; slices are estimated (``exact`` false) until the volumes exist."""

    cases: int
    slices: int
    lesion_slices: int | None
    exact: bool


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a recipe will do.

    ``weights_mib`` holds weights, gradients, moments and average of all networks; ``peak_mib`` adds the activations of
    the largest stage and staged data. Both are estimates, without the allocator's and the libraries' own memory.
    """

    recipe: str
    method: str
    device: str
    processes: int
    max_minutes: float | None
    minutes: float | None
    generator: NetworkCost
    discriminator: NetworkCost
    weights_mib: float
    staged_mib: float
    peak_mib: float
    splits: Mapping[str, SplitPlan]
    stages: tuple[StagePlan, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def plan_run(
    recipe: Recipe, *, cache_root: Path, device: torch.device, processes: int = 1, measure: bool = False
) -> RunPlan:
    """Work out what a recipe will do; nothing is written and no volume is made.

    Parameters
    ----------
    recipe : Recipe
        What would be trained.
    cache_root : Path
        Where phantom volumes would live; those that are there are counted.
    device : torch.device
        Where it would be trained.
    processes : int
        How many would train together.
    measure : bool
        Take a few steps of each stage on random images and tell the time.

    Raises
    ------
    TrainingError
        ``data``: the prepared folder cannot be used.
    """
    contract = run_contract(recipe)
    splits = {name: _split_plan(recipe, contract, cache_root, name) for name in ("train", "validation")}
    slices = splits["train"].slices
    method = _method(recipe, device) if measure else None
    stages = tuple(_stage_plan(recipe, stage, slices, processes, method, device) for stage in recipe.stages)
    largest = max(stage.grid_px for stage in recipe.stages)
    costs = _costs(recipe, largest)
    weights = 4 * (_GENERATOR_COPIES * costs[0].parameters + _DISCRIMINATOR_COPIES * costs[1].parameters) / _MIB
    staged = staged_bytes(slices, contract) / _MIB if recipe.data.on_device else 0.0
    return RunPlan(
        recipe=recipe.name,
        method=recipe.method,
        device=str(device),
        processes=processes,
        max_minutes=recipe.max_minutes,
        minutes=_total_minutes(recipe, stages),
        generator=costs[0],
        discriminator=costs[1],
        weights_mib=weights,
        staged_mib=staged,
        peak_mib=weights + staged + max(stage.activations_mib for stage in stages),
        splits=splits,
        stages=stages,
    )


def _costs(recipe: Recipe, grid_px: int) -> tuple[NetworkCost, NetworkCost]:
    return _cost(generator_settings(recipe.generator), grid_px), _cost(discriminator_settings(recipe), grid_px)


#: Counting a large network takes seconds, and the stages of a recipe share their resolutions.
_cost = functools.cache(describe)


def step_gflop(generator: NetworkCost, discriminator: NetworkCost, *, adversarial: bool) -> float:
    """Floating-point operations of one update per image, in 1e9: 3 G + 8 D forward equivalents, or 3 G alone.

    G: forward, gradient of inputs, gradient of weights. D: forward on truth and on the prediction with both gradients
    of its own update (6), forward on the prediction and the gradient of that input (2).
    """
    return 2.0 * (3.0 * generator.gmac + (8.0 * discriminator.gmac if adversarial else 0.0))


def _stage_plan(
    recipe: Recipe, stage: StageRecipe, slices: int, processes: int, method: Method | None, device: torch.device
) -> StagePlan:
    generator, discriminator = _costs(recipe, stage.grid_px)
    steps = stage_steps(stage, slices, processes) or None
    # Kept at the same time: the generator's graph, and the discriminator's of truth and of the prediction.
    saved = stage.batch * (generator.saved_mib + 2.0 * discriminator.saved_mib * stage.adversarial)
    seconds = measure_step(method, stage, device) if method is not None else None
    return StagePlan(
        name=stage.name,
        grid_px=stage.grid_px,
        steps=steps,
        batch=stage.batch,
        images=steps * stage.batch * processes if steps else None,
        adversarial=stage.adversarial,
        precision=stage.precision,
        gflop_per_image=step_gflop(generator, discriminator, adversarial=stage.adversarial),
        activations_mib=saved / (2.0 if stage.precision == "bf16" else 1.0),
        seconds_per_step=seconds,
        minutes=_minutes(recipe, stage, steps, seconds),
    )


def _minutes(recipe: Recipe, stage: StageRecipe, steps: int | None, seconds: float | None) -> float | None:
    if seconds is None or steps is None:
        return None
    minutes = steps * seconds / 60.0
    return minutes if recipe.max_minutes is None else min(minutes, recipe.max_minutes * stage.time_share)


def _total_minutes(recipe: Recipe, stages: tuple[StagePlan, ...]) -> float | None:
    if any(stage.minutes is None for stage in stages):
        return None
    total = sum(stage.minutes or 0.0 for stage in stages)
    return total if recipe.max_minutes is None else min(total, recipe.max_minutes)


def _split_plan(recipe: Recipe, contract: PreprocessingContract, root: Path, split: Any) -> SplitPlan:  # noqa: ANN401
    data = recipe.data
    if data.source == "phantom":
        wanted = sum(getattr(data, split).values())
        cases = load_phantom_split(cache_folder(root, data, contract), data, split)
        if len(cases) < wanted:
            return SplitPlan(wanted, wanted * data.n_slices, None, exact=False)
    else:
        cases = load_cases(data, Path(data.folder or ""), split)
    slices = SliceDataset(cases, contract)
    return SplitPlan(len(cases), len(slices), len(slices.lesion_rows), exact=True)


def _method(recipe: Recipe, device: torch.device) -> Method:
    devices = SingleDevice(device)
    return build_method(recipe, devices, StepGuard(devices, Position()))


def measure_step(method: Method, stage: StageRecipe, device: torch.device, *, steps: int = 3) -> float:
    """Seconds of one step of a stage on random images: the median after one step that warms up."""
    batch = random_batch(method, stage.batch, stage.grid_px, device)
    seconds = []
    for step in range(steps + 1):
        synchronise(device)
        started = time.perf_counter()
        method.step(batch, Moment(stage, step + 1, 1.0, logged=False))
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds[1:])[(steps - 1) // 2]


def random_batch(method: Method, size: int, grid_px: int, device: torch.device) -> Batch:
    """Random images with a round brain and a round lesion, of the shapes that a method's generator takes."""
    settings: Any = method.networks()["generator"].settings
    random = torch.Generator().manual_seed(0)
    away = torch.arange(grid_px) - (grid_px - 1) / 2.0
    distance = torch.sqrt(away[:, None] ** 2 + away[None] ** 2)
    brain = (distance < 0.35 * grid_px).float().expand(size, 1, -1, -1)
    lesion = (distance < 0.08 * grid_px).float().expand(size, 1, -1, -1)

    def noise(channels: int) -> torch.Tensor:
        return torch.rand(size, channels, grid_px, grid_px, generator=random) * 2.0 - 1.0

    mask = torch.cat([brain, noise(max(0, settings.mask_channels - 1))], dim=1)
    target = torch.where(brain > 0, noise(1), -torch.ones_like(brain))
    return Batch(noise(settings.in_channels), mask, target, brain, lesion, torch.ones(size)).to(device)


def plan_lines(plan: RunPlan) -> list[tuple[str, str]]:
    """The plan's figures beside the stages, as (what, value) for a table."""
    splits = ", ".join(
        f"{name}: {split.cases} cases, {'' if split.exact else 'at most '}{split.slices} slices"
        for name, split in plan.splits.items()
    )
    limit = "none" if plan.max_minutes is None else f"{plan.max_minutes:g} min"
    expected = "not measured" if plan.minutes is None else _duration(plan.minutes)
    networks = [
        (name, f"{cost.parameters / 1e6:.3f} M parameters, {cost.gmac:.2f} GMAC a slice")
        for name, cost in (("generator", plan.generator), ("discriminator", plan.discriminator))
    ]
    return [
        *networks,
        ("memory, estimate", f"{plan.peak_mib:.0f} MiB ({plan.weights_mib:.0f} weights, {plan.staged_mib:.0f} data)"),
        ("data", splits),
        ("device", f"{plan.device}, {plan.processes} process{'es' if plan.processes > 1 else ''}"),
        ("time limit", limit),
        ("expected time", expected),
    ]


def _duration(minutes: float) -> str:
    if math.isnan(minutes) or minutes < 90.0:
        return f"{minutes:.1f} min"
    return f"{minutes / 60.0:.1f} h"
