"""Images a second of the full training step, beside the floor of its multiply-adds.

    python -m benchmarks.train_step [--size base] [--grid 256] [--batch 1] [--rounds 5] [--device cpu]

A step is one update of generator and discriminator with the losses of `config/train/paper.toml` (least squares, feature
matching, pixel). Its floor is 2 x (3 G + 8 D) multiply-adds an image, counted, over the fp32 matrix product rate that
is measured in the same rounds: element-wise passes, normalisation, optimiser and Python are what lies above it. Rounds
are interleaved (product, variant, variant ...), because the clock of a busy machine drifts within minutes. In the
column `data` the batches come from memory-mapped arrays through the trainer's own feeder, augmented; the share is that
of the step's time spent waiting for them. Images are random; time does not depend on what they show.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import REPOSITORY, machine, table
from jmmda_model.network.counting import describe
from train.data.cache import CachedCase, CaseFacts, write_case
from train.data.dataset import Batch, SliceDataset
from train.devices import SingleDevice, choose_device
from train.dryrun import random_batch, step_gflop
from train.feeding import DiskSource, Feeder, synchronise
from train.guard import StepGuard
from train.methods import Method, Moment
from train.recipe import Recipe, RuntimeRecipe, contract_of, discriminator_settings, generator_settings, load_recipe
from train.registry import build_method, channels_of
from train.state import Position

#: Side of the square matrices of the product, by device: large enough to reach the device's rate.
_PRODUCT_SIDE = {"cpu": 1536, "cuda": 8192}
_SLICES_ON_DISK = 48


@dataclass
class Variant:
    """One way to compute the step, with the seconds of its rounds."""

    name: str
    recipe: Recipe
    method: Method
    batch: Batch
    seconds: list[float] = field(default_factory=list)
    data_seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    @property
    def moment(self) -> Moment:
        return Moment(self.recipe.stages[0], step=1, rate=1.0, logged=False)


def step_recipe(size: str, grid_px: int, batch: int) -> Recipe:
    """The paper's losses on a network of a size."""
    paper = load_recipe(REPOSITORY / "config" / "train" / "paper.toml")
    stage = dataclasses.replace(paper.stages[0], grid_px=grid_px, batch=batch, steps=1000, epochs=None)
    return dataclasses.replace(paper, generator={**paper.generator, "size": size}, stages=(stage,))


def variants(recipe: Recipe, device: torch.device, names: list[str]) -> Iterator[Variant]:
    """Build the variants one after the other: fp32, bf16, channels-last, compiled."""
    bf16 = dataclasses.replace(recipe.stages[0], precision="bf16")
    known: dict[str, Callable[[], Recipe]] = {
        "fp32": lambda: recipe,
        "bf16": lambda: dataclasses.replace(recipe, stages=(bf16,)),
        "channels_last": lambda: dataclasses.replace(recipe, run=RuntimeRecipe(channels_last=True)),
        "compile": lambda: dataclasses.replace(recipe, run=RuntimeRecipe(compile=True)),
        "bf16+channels_last": lambda: dataclasses.replace(
            recipe, stages=(bf16,), run=RuntimeRecipe(channels_last=True)
        ),
        "bf16+compile": lambda: dataclasses.replace(recipe, stages=(bf16,), run=RuntimeRecipe(compile=True)),
        "bf16+channels_last+compile": lambda: dataclasses.replace(
            recipe, stages=(bf16,), run=RuntimeRecipe(channels_last=True, compile=True)
        ),
    }
    devices = SingleDevice(device)
    for name in names:
        changed = known[name]()
        method = build_method(changed, devices, StepGuard(devices, Position()))
        stage = changed.stages[0]
        yield Variant(name, changed, method, random_batch(channels_of(changed), stage.batch, stage.grid_px, device))


def product_gflops(device: torch.device) -> float:
    """Rate of the fp32 matrix product now, in 1e9 operations a second."""
    side = _PRODUCT_SIDE[device.type]
    one, other = torch.rand(side, side, device=device), torch.rand(side, side, device=device)
    torch.matmul(one, other)
    synchronise(device)
    started = time.perf_counter()
    torch.matmul(one, other)
    synchronise(device)
    return 2.0 * side**3 / (time.perf_counter() - started) / 1e9


def random_split(folder: Path, recipe: Recipe) -> SliceDataset:
    """Memory-mapped slices of noise with a round brain, on the full grid."""
    contract = contract_of(recipe)
    side, slices = contract.grid_px, _SLICES_ON_DISK // 2
    rng = np.random.default_rng(0)
    away = np.arange(side) - (side - 1) / 2.0
    brain = np.repeat((np.hypot(*np.meshgrid(away, away)) < 0.35 * side)[None], slices, axis=0).astype(np.uint8)
    cases: list[CachedCase] = []
    for number in range(2):
        facts = CaseFacts(
            patient=f"noise-{number}",
            centre="A",
            split="train",
            source="phantom",
            brain_ml=1400.0,
            lesion_ml=0.0,
            slice_offsets_mm=tuple(5.0 * row for row in range(slices)),
            symmetry=(0.0, 0.0),
        )
        shape = (slices, side, side)
        arrays = {
            "hu": rng.integers(0, 80 * 16, shape).astype(np.int16),
            "target": rng.integers(-32767, 32767, shape).astype(np.int16),
            "brain": brain,
            "lesion": np.zeros(shape, np.uint8),
        }
        cases.append(write_case(folder / facts.patient, facts, arrays))
    return SliceDataset(cases, contract)


def timed_step(variant: Variant, batch: Batch, device: torch.device) -> float:
    """Seconds of one step."""
    synchronise(device)
    started = time.perf_counter()
    variant.method.step(batch, variant.moment)
    synchronise(device)
    return time.perf_counter() - started


def fed_steps(variant: Variant, data: SliceDataset, device: torch.device, steps: int) -> tuple[float, float]:
    """Seconds a step, and the share of waiting, with batches from the disk; the first one fills the queue."""
    source = DiskSource(data, dataclasses.replace(variant.recipe.augment, probability=0.5, noise_hu=1.0))
    feeder = Feeder(source, variant.recipe, SingleDevice(device))
    batches = feeder.batches(0, variant.recipe.stages[0], 0, steps + 1)
    variant.method.step(next(batches), variant.moment)
    synchronise(device)
    feeder.waited_s, started = 0.0, time.perf_counter()
    for batch in batches:
        variant.method.step(batch, variant.moment)
    synchronise(device)
    spent = time.perf_counter() - started
    return spent / steps, feeder.waited_s / spent


def measure(recipe: Recipe, device: torch.device, names: list[str], rounds: int) -> dict[str, object]:
    """Measure all variants in interleaved rounds; each round is printed when it is over."""
    stage = recipe.stages[0]
    costs = [
        describe(settings, stage.grid_px)
        for settings in (generator_settings(recipe.generator), discriminator_settings(recipe))
    ]
    gflop = step_gflop(*costs, adversarial=True)
    rates: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        data = random_split(Path(folder), recipe)
        running = []
        for variant in variants(recipe, device, names):
            running.append(variant)
            print(f"{variant.name}: first step {timed_step(variant, variant.batch, device):.1f} s", flush=True)
        for number in range(rounds):
            rates.append(product_gflops(device))
            for variant in running:
                variant.seconds.append(timed_step(variant, variant.batch, device))
                seconds, waiting = fed_steps(variant, data, device, steps=2 if device.type == "cpu" else 20)
                variant.data_seconds.append(seconds)
                variant.waited.append(waiting)
            said = ", ".join(f"{variant.name} {stage.batch / variant.seconds[-1]:.3f}" for variant in running)
            print(f"round {number + 1}: matrix product {rates[-1]:.0f} GFLOP/s; images/s: {said}", flush=True)
    floor = gflop / statistics.median(rates)
    return {
        "size": recipe.generator["size"],
        "grid_px": stage.grid_px,
        "batch": stage.batch,
        "device": str(device),
        "rounds": rounds,
        "generator_gmac": costs[0].gmac,
        "discriminator_gmac": costs[1].gmac,
        "gflop_per_image": gflop,
        "product_gflops": statistics.median(rates),
        "floor_images_per_s": 1.0 / floor,
        "variants": {variant.name: _figures(variant, floor) for variant in running},
    }


def _figures(variant: Variant, floor_s: float) -> dict[str, float]:
    batch = variant.recipe.stages[0].batch
    seconds = statistics.median(variant.seconds) / batch
    fed = statistics.median(variant.data_seconds) / batch
    return {
        "images_per_s": 1.0 / seconds,
        "over_floor": seconds / floor_s,
        "images_per_s_from_disk": 1.0 / fed,
        "waiting_share": statistics.median(variant.waited),
    }


def report(result: dict[str, object]) -> str:
    """The figures as a Markdown table."""
    figures: dict[str, dict[str, float]] = result["variants"]  # type: ignore[assignment]
    rows: list[tuple[object, ...]] = [("floor (3 G + 8 D)", result["floor_images_per_s"], 1.0, "", "")]
    rows += [
        (name, one["images_per_s"], one["over_floor"], one["images_per_s_from_disk"], f"{one['waiting_share']:.1%}")
        for name, one in figures.items()
    ]
    heading = ("step", "images/s", "time / floor", "images/s, data from disk", "waiting for data")
    return (
        f"## Training step, size `{result['size']}`, {result['grid_px']} x {result['grid_px']}, batch "
        f"{result['batch']}, {result['device']}, median of {result['rounds']} rounds\n\n{machine()}; G "
        f"{result['generator_gmac']:.1f} and D {result['discriminator_gmac']:.1f} GMAC a slice, "
        f"{result['gflop_per_image']:.0f} GFLOP an image, matrix product {result['product_gflops']:.0f} GFLOP/s\n\n"
        f"{table(heading, rows)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base")
    parser.add_argument("--grid", type=int, default=256)
    parser.add_argument("--batch", type=int, help="images a step; default 1 on a CPU, 8 on a GPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", nargs="+", help="default: cpu, and cuda where there is one")
    parser.add_argument("--variants", nargs="+", help="default: fp32 and bf16 on a CPU, all on a GPU")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    names = arguments.device or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    torch.set_flush_denormal(True)
    results = []
    for name in names:
        device = choose_device(name)
        on_cpu = device.type == "cpu"
        recipe = step_recipe(arguments.size, arguments.grid, arguments.batch or (1 if on_cpu else 8))
        usual = ["fp32", "bf16"] if on_cpu else ["fp32", "bf16", "bf16+channels_last", "bf16+compile"]
        result = measure(recipe, device, arguments.variants or usual, arguments.rounds)
        results.append(result)
        print(f"\n{report(result)}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
