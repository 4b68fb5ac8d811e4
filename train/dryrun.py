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
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.network.counting import NetworkCost, count_gmac, count_parameters, count_saved_mib, describe
from train.baselines.base import Channels
from train.data.dataset import Batch, SliceDataset
from train.data.phantom_cache import cache_folder, load_phantom_split
from train.devices import SingleDevice
from train.feeding import synchronise
from train.fit import load_cases, run_contract
from train.guard import StepGuard
from train.methods import Method, Moment
from train.recipe import JMMDA, Recipe, StageRecipe, discriminator_settings, generator_settings
from train.registry import build_companions, build_comparison, build_method, channels_of, training_evaluations
from train.schedule import stage_steps
from train.staged import staged_bytes
from train.state import Position

#: Copies of the weights in fp32: weights, gradients, two moments of Adam, and for the generator the average.
_GENERATOR_COPIES, _COMPANION_COPIES = 5, 4
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: what it costs.

    ``images`` are slices seen by all processes, ``gflop_per_image`` the floating-point operations of one update of
    all networks (for JMMDA-GAN 3 forward equivalents of the generator and 8 of the discriminator; for a comparison
    method counted in a real step, so only when measured), ``activations_mib`` what one process keeps for the backward
    pass (of a comparison method: all evaluations of its generator, and nothing of its companions);
    ``seconds_per_step`` and ``minutes`` are None unless measured.
    """

    name: str
    grid_px: int
    steps: int | None
    batch: int
    images: int | None
    adversarial: bool
    precision: str
    gflop_per_image: float | None
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

    ``companions`` are the parameters of the networks that a comparison method needs in training only. ``weights_mib``
    holds weights, gradients, moments and average of all networks; ``peak_mib`` adds the activations of the largest
    stage and staged data. Both are estimates, without the allocator's and the libraries' own memory.
    """

    recipe: str
    method: str
    device: str
    processes: int
    max_minutes: float | None
    minutes: float | None
    generator: NetworkCost
    discriminator: NetworkCost | None
    companions: Mapping[str, int]
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
    generator, discriminator = _costs(recipe, largest)
    companions = _companions(recipe)
    others = sum(companions.values()) + (discriminator.parameters if discriminator else 0)
    weights = 4 * (_GENERATOR_COPIES * generator.parameters + _COMPANION_COPIES * others) / _MIB
    staged = staged_bytes(slices, contract) / _MIB if recipe.data.on_device else 0.0
    return RunPlan(
        recipe=recipe.name,
        method=recipe.method,
        device=str(device),
        processes=processes,
        max_minutes=recipe.max_minutes,
        minutes=_total_minutes(recipe, stages),
        generator=generator,
        discriminator=discriminator,
        companions=companions,
        weights_mib=weights,
        staged_mib=staged,
        peak_mib=weights + staged + max(stage.activations_mib for stage in stages),
        splits=splits,
        stages=stages,
    )


def _costs(recipe: Recipe, grid_px: int) -> tuple[NetworkCost, NetworkCost | None]:
    if recipe.method == JMMDA:
        return _cost(generator_settings(recipe.generator), grid_px), _cost(discriminator_settings(recipe), grid_px)
    return translator_cost(recipe, grid_px), None


def translator_cost(recipe: Recipe, grid_px: int) -> NetworkCost:
    """What the network of a comparison method that predicts costs, counted without computing anything.

    Multiply-adds are those of a prediction, memory is that of a step of training: a sampler's prediction evaluates its
    core many times, a step of its training once.
    """
    channels = channels_of(recipe)
    with FakeTensorMode():
        network = build_comparison(recipe)
        inputs = [torch.zeros(1, count, grid_px, grid_px) for count in (channels.ct, channels.mask)]
        gmac = count_gmac(network.eval(), *inputs)
        once = count_saved_mib(network.train().once, *inputs, parameters=network.parameters())
        return NetworkCost(count_parameters(network), gmac, training_evaluations(recipe) * once)


def _companions(recipe: Recipe) -> dict[str, int]:
    """Parameters of what a comparison method trains beside the network that predicts."""
    if recipe.method == JMMDA:
        return {}
    with torch.device("meta"):
        return {name: count_parameters(network) for name, network in build_companions(recipe).items()}


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
    judged = discriminator.saved_mib if discriminator and stage.adversarial else 0.0
    saved = stage.batch * (generator.saved_mib + 2.0 * judged)
    seconds, counted = measure_step(method, recipe, stage, device) if method is not None else (None, None)
    return StagePlan(
        name=stage.name,
        grid_px=stage.grid_px,
        steps=steps,
        batch=stage.batch,
        images=steps * stage.batch * processes if steps else None,
        adversarial=stage.adversarial,
        precision=stage.precision,
        gflop_per_image=step_gflop(generator, discriminator, adversarial=stage.adversarial)
        if discriminator
        else counted,
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


def measure_step(
    method: Method, recipe: Recipe, stage: StageRecipe, device: torch.device, *, steps: int = 3
) -> tuple[float, float]:
    """Seconds of one step of a stage on random images (the median after one that warms up), and 1e9 floating-point
    operations an image that were counted in that first one.
    """  # noqa: D205  (one sentence)
    batch = random_batch(channels_of(recipe), stage.batch, stage.grid_px, device)
    with OperationCounter() as counter:
        method.step(batch, Moment(stage, 0, 1.0, logged=False))
    seconds = []
    for step in range(steps):
        synchronise(device)
        started = time.perf_counter()
        method.step(batch, Moment(stage, step + 1, 1.0, logged=False))
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[(steps - 1) // 2], counter.flop / stage.batch / 1e9


class OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations as torch's own counter does, in `flop`.

    That one follows modules by hooks on gradients, and fails where a method differentiates a gradient (R1, HisGAN).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Run an operation and count it."""
        named = kwargs or {}
        answer = func(*args, **named)
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.flop += formula(*args, **named, out_val=answer)
        return answer


def random_batch(channels: Channels, size: int, grid_px: int, device: torch.device) -> Batch:
    """Random images with a round brain and a round lesion, of the channels that a recipe's input makes."""
    random = torch.Generator().manual_seed(0)
    away = torch.arange(grid_px) - (grid_px - 1) / 2.0
    distance = torch.sqrt(away[:, None] ** 2 + away[None] ** 2)
    brain = (distance < 0.35 * grid_px).float().expand(size, 1, -1, -1)
    lesion = (distance < 0.08 * grid_px).float().expand(size, 1, -1, -1)

    def noise(channels: int) -> torch.Tensor:
        return torch.rand(size, channels, grid_px, grid_px, generator=random) * 2.0 - 1.0

    mask = torch.cat([brain, noise(max(0, channels.mask - 1))], dim=1)
    target = torch.where(brain > 0, noise(1), -torch.ones_like(brain))
    return Batch(noise(channels.ct), mask, target, brain, lesion, torch.ones(size)).to(device)


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
        if cost is not None
    ]
    networks += [(name, f"{count / 1e6:.3f} M parameters") for name, count in plan.companions.items()]
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
