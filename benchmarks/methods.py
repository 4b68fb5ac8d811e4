"""Every method in one table: size, multiply-adds, time of a prediction, rate of training, memory.

    python -m benchmarks.methods [--methods jmmda-base pix2pix] [--width 1] [--grid 256] [--rounds 3] [--device cpu]

`jmmda` has the networks, inputs and losses of recipes in `config/train`; the comparison methods are those of
`train methods`, with one CT window. A series is 32 slices in batches of 4, as `train.predict` does it. A training step
updates all networks of a method, jmmda's adversarial one included (without the R1 penalty of every 16th step); its
batch is 1, or the smallest that the method takes. Everything is fp32, with torch's defaults: on CUDA convolutions may
use TF32.

Each figure of each round comes from a child process of its own. Its memory is the peak of the resident memory
(`VmHWM`; `ru_maxrss` would also know the parent's) less that of the child before it builds anything; on CUDA it is what
torch allocated. Rounds are interleaved, because the clock of a busy machine drifts within minutes: `time / jmmda` is
the median over rounds of the ratio to the first jmmda of the run. What does not fit into memory is left out, with the
reason below the table. Images are random; time does not depend on what they show.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import REPOSITORY, machine, rss_mib, table
from train.baselines.layers import scaled
from train.devices import SingleDevice, choose_device
from train.dryrun import RunPlan, plan_run, random_batch
from train.experiments.budgets import Budget, levels_of, recipe_for
from train.feeding import synchronise
from train.guard import StepGuard
from train.methods import Moment
from train.predict import NetworkPredictor
from train.recipe import JMMDA, Recipe, contract_of, generator_settings, load_recipe, parse_recipe
from train.registry import BASELINES, build_method, build_translator, channels_of
from train.state import Position

#: Recipes of `config/train` that jmmda is measured with, by size.
JMMDA_RECIPES = {
    "jmmda-base": "plus",
    "jmmda-compact": "compact-phantom",
}
PREDICTION, TRAINING = "prediction", "training"
NAMES = (*JMMDA_RECIPES, *BASELINES)
COLUMNS = (
    "method",
    "parameters, M",
    "companions, M",
    "GMAC a slice",
    "s a series",
    "time / jmmda",
    "peak MiB",
    "training images/s",
    "training time / jmmda",
    "batch",
    "training peak MiB",
)
SERIES_SLICES = 32
#: Slices that `train.predict` puts through the network together.
_TOGETHER = 4
#: Batches of training: the first of them that a method takes.
_BATCHES = (1, 2, 4)
#: Timed training steps of a round, after one that allocates the optimisers' moments.
_STEPS = {"cpu": 1, "cuda": 10}
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Task:
    """What a child process measures: a phase of a recipe that needs about `needs_mib`, on some CPU cores."""

    phase: str
    recipe: Recipe
    needs_mib: float
    device: str
    cores: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds (a series, or a training image), batch and peak memory; or the reason why there are none."""

    seconds: float = 0.0
    batch: int = 0
    peak_mib: float = 0.0
    reason: str = ""
    failed: bool = False


@dataclass
class Subject:
    """A method with what is known of it beforehand, its readings by phase, and why a phase has no more of them."""

    name: str
    recipe: Recipe
    plan: RunPlan
    readings: dict[str, list[Reading]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    reasons: dict[str, Reading] = field(default_factory=dict)

    @property
    def companions(self) -> int:
        """Parameters of the networks that only training needs."""
        judge = self.plan.discriminator.parameters if self.plan.discriminator else 0
        return judge + sum(self.plan.companions.values())

    def task(self, phase: str, device: str, cores: int) -> Task:
        """What a child is to measure."""
        weights_mib = 4.0 * self.plan.generator.parameters / _MIB
        return Task(phase, self.recipe, self.plan.peak_mib if phase == TRAINING else weights_mib, device, cores)


def subject_recipe(name: str, width: float, grid_px: int) -> Recipe:
    """Recipe of one stage that trains all networks of a method, in fp32, with the depth that the images allow.

    Raises
    ------
    RecipeError
        When the method does not take this width or these images.
    """
    if name not in JMMDA_RECIPES:
        budget = Budget("bench", width, grid_px, train=1, validation=1, test=1, images=1000, batch=1)
        return recipe_for(name, ("A",), budget, seed=0)
    whole = load_recipe(REPOSITORY / "config" / "train" / f"{JMMDA_RECIPES[name]}.toml")
    settings = generator_settings(whole.generator)
    stage = next(stage for stage in whole.stages if stage.adversarial)
    filters = {
        "ngf": scaled(settings.ngf, width, 2),  # an even number, for the heads of the attention
        "n_down": min(settings.n_down, levels_of(grid_px)),
    }
    changed = dataclasses.replace(
        whole,
        input=dataclasses.replace(whole.input, grid_px=grid_px),
        generator={**whole.generator, **filters},
        discriminator=dataclasses.replace(whole.discriminator, ndf=scaled(whole.discriminator.ndf, width)),
        stages=(dataclasses.replace(stage, grid_px=grid_px, batch=1, steps=1000, epochs=None, precision="fp32"),),
    )
    return parse_recipe(changed.to_json(), f"{name} of a benchmark")


def subjects(names: Iterable[str], width: float, grid_px: int) -> tuple[list[Subject], dict[str, str]]:
    """The methods that take this width and these images, and the reasons of those that do not."""
    found: list[Subject] = []
    refused: dict[str, str] = {}
    for name in names:
        try:
            recipe = subject_recipe(name, width, grid_px)
            # No volume is looked for: random images do.
            plan = plan_run(recipe, cache_root=Path("no-cache"), device=torch.device("cpu"))
        except ValueError as error:  # RecipeError is one
            refused[name] = str(error)
        else:
            found.append(Subject(name, recipe, plan))
    return found, refused


def predict_series(recipe: Recipe, device: torch.device) -> tuple[float, int]:
    """Seconds of a series, and slices a batch. The first batch is not counted: it prepares kernels."""
    torch.manual_seed(recipe.seed)
    predictor = NetworkPredictor(build_translator(recipe), contract_of(recipe), device=device)
    given = random_batch(channels_of(recipe), _TOGETHER, recipe.stages[0].grid_px, device)
    predictor.raw(given.ct, given.mask)
    started = time.perf_counter()
    for _ in range(SERIES_SLICES // _TOGETHER):
        predictor.raw(given.ct, given.mask)  # ends with the copy to the CPU, so a GPU has done its work
    return time.perf_counter() - started, _TOGETHER


def train_images(recipe: Recipe, device: torch.device) -> tuple[float, int]:
    """Seconds of a training step by image, and the images a batch."""
    for batch in _BATCHES:
        try:
            return _step_seconds(recipe, device, batch) / batch, batch
        except ValueError as error:  # batch norm cannot make a variance of one value
            if batch == _BATCHES[-1] or "more than 1 value per channel" not in str(error):
                raise
    raise AssertionError("the last batch returns or raises")


def _step_seconds(recipe: Recipe, device: torch.device, batch: int) -> float:
    torch.set_flush_denormal(True)  # as the trainer does
    stage = dataclasses.replace(recipe.stages[0], batch=batch)
    devices = SingleDevice(device)
    method = build_method(dataclasses.replace(recipe, stages=(stage,)), devices, StepGuard(devices, Position()))
    method.start_stage(stage)
    images = random_batch(channels_of(recipe), batch, stage.grid_px, device)
    method.step(images, Moment(stage, step=1, rate=1.0, logged=False))
    synchronise(device)
    steps = _STEPS[device.type]
    started = time.perf_counter()
    for step in range(steps):
        method.step(images, Moment(stage, step=2 + step, rate=1.0, logged=False))
    synchronise(device)
    return (time.perf_counter() - started) / steps


PHASES: dict[str, Callable[[Recipe, torch.device], tuple[float, int]]] = {
    PREDICTION: predict_series,
    TRAINING: train_images,
}


def free_mib(device: torch.device) -> float:
    """Memory that can be had now, MiB."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0]) / _MIB
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return float("inf")


def reading(task: Task) -> Reading:
    """Measure in this process, unless there is too little memory for it."""
    device = choose_device(task.device)
    before = rss_mib(os.getpid(), "VmHWM")
    if (free := free_mib(device)) < task.needs_mib:
        return Reading(reason=f"needs about {task.needs_mib / 1024:.1f} GiB, and {free / 1024:.1f} GiB are free")
    try:
        seconds, batch = PHASES[task.phase](task.recipe, device)
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        return Reading(reason="memory ran out")
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) / _MIB if cuda else rss_mib(os.getpid(), "VmHWM") - before
    return Reading(seconds, batch, peak)


def _lacks_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _child(task: Task) -> Reading:
    # Where memory runs out in spite of the estimate, the kernel ends this process and nobody else's.
    Path("/proc/self/oom_score_adj").write_text("1000")
    if task.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.cores])
        torch.set_num_threads(task.cores)
    return reading(task)


def reading_of_child(task: Task) -> Reading:
    """Measure in a fresh process; whatever goes wrong there is the reading's reason."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_child, task).result()
    except BrokenProcessPool:
        return Reading(reason="the kernel ended the process, as it does where memory runs out")
    except Exception as error:  # noqa: BLE001  (the other methods are still to be measured; `main` ends with status 1)
        traceback.print_exc()
        return Reading(reason=f"failed with {type(error).__name__}: {error}", failed=True)


def one_round(number: int, measured: Sequence[Subject], device: str, cores: int) -> None:
    """Add a reading to every phase of every method that had one in the rounds before."""
    for subject in measured:
        said = []
        for phase in PHASES:
            if phase in subject.reasons:
                continue
            got = reading_of_child(subject.task(phase, device, cores))
            if got.reason:
                subject.reasons[phase] = got
                said.append(f"{phase} left out: {got.reason}")
            else:
                subject.readings[phase].append(got)
                rate = f"{got.seconds:.2f} s a series" if phase == PREDICTION else f"{1.0 / got.seconds:.3f} images/s"
                said.append(f"{rate}, {got.peak_mib:.0f} MiB")
        print(f"round {number}: {subject.name}: {'; '.join(said) or 'nothing left to measure'}", flush=True)


def figures(subject: Subject, reference: Subject | None) -> dict[str, Any]:
    """Medians and ratios of a method, as plain values; a phase without a reading is None."""
    return {
        "parameters": subject.plan.generator.parameters,
        "companions": subject.companions,
        "gmac": subject.plan.generator.gmac,
        "reasons": {phase: found.reason for phase, found in subject.reasons.items()},
        **{
            phase: _medians(readings, reference.readings[phase] if reference else [])
            for phase, readings in subject.readings.items()
        },
    }


def _medians(readings: Sequence[Reading], others: Sequence[Reading]) -> dict[str, Any] | None:
    if not readings:
        return None
    seconds = [one.seconds for one in readings]
    # A phase that is left out stays so: readings of one place are of one round.
    ratios = [ours / theirs.seconds for ours, theirs in zip(seconds, others, strict=False)]
    return {
        "seconds": statistics.median(seconds),
        "seconds_of_rounds": seconds,
        "over_jmmda": statistics.median(ratios) if ratios else None,
        "batch": readings[0].batch,
        "peak_mib": max(one.peak_mib for one in readings),
    }


def result_of(
    measured: Sequence[Subject], refused: Mapping[str, str], arguments: argparse.Namespace, rounds: int
) -> dict[str, Any]:
    """Everything of a run after so many rounds, as plain values."""
    reference = next((subject for subject in measured if subject.recipe.method == JMMDA), None)
    device = choose_device(arguments.device)
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else f"{arguments.cores} CPU cores",
        "machine": machine(),
        "width": arguments.width,
        "grid_px": arguments.grid,
        "rounds": rounds,
        "series_slices": SERIES_SLICES,
        "reference": reference.name if reference else None,
        "methods": {subject.name: figures(subject, reference) for subject in measured},
        "refused": dict(refused),
    }


def _row(name: str, one: Mapping[str, Any]) -> tuple[object, ...]:
    predicted, trained = one[PREDICTION] or {}, one[TRAINING] or {}
    cells = (
        predicted.get("seconds"),
        predicted.get("over_jmmda"),
        round(predicted["peak_mib"]) if predicted else None,
        1.0 / trained["seconds"] if trained else None,
        trained.get("over_jmmda"),
        trained.get("batch"),
        round(trained["peak_mib"]) if trained else None,
    )
    sizes = (one["parameters"] / 1e6, one["companions"] / 1e6, float(one["gmac"]))
    return (name, *sizes, *("-" if cell is None else cell for cell in cells))


def report(result: Mapping[str, Any]) -> str:
    """The figures as a Markdown table, and below it what was left out and why."""
    rows = [_row(name, one) for name, one in result["methods"].items()]
    reasons = [
        f"- {name}, {phase}: {reason}"
        for name, one in result["methods"].items()
        for phase, reason in one["reasons"].items()
    ]
    reasons += [f"- {name}: {reason}" for name, reason in result["refused"].items()]
    left_out = "\nLeft out:\n\n" + "\n".join(reasons) + "\n" if reasons else ""
    compared = f"; jmmda of the ratios: {result['reference']}" if result["reference"] else ""
    return (
        f"## Methods at {result['width']:g} of their width, {result['grid_px']} x {result['grid_px']}, fp32, series of "
        f"{result['series_slices']} slices, median of {result['rounds']} rounds\n\n{machine()}; measured on "
        f"{result['device']}{compared}\n\n{table(COLUMNS, rows)}\n{left_out}"
    )


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--width", type=float, default=1.0, help="share of the channels, where memory is short")
    parser.add_argument("--grid", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores that a measurement on the CPU has")
    parser.add_argument("--json", type=Path, help="also write the figures to this file, anew after each round")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parsed(words)
    arguments.device = str(choose_device(arguments.device))
    measured, refused = subjects(arguments.methods, arguments.width, arguments.grid)
    for number in range(1, arguments.rounds + 1):
        one_round(number, measured, arguments.device, arguments.cores)
        if arguments.json:
            result = result_of(measured, refused, arguments, number)
            arguments.json.write_text(json.dumps(result, indent=1))
    print(f"\n{report(result_of(measured, refused, arguments, arguments.rounds))}", flush=True)
    if any(found.failed for subject in measured for found in subject.reasons.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
