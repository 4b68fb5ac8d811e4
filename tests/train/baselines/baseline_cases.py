"""Small steps of a comparison method on drawn images, and counts of its networks, for the tests of each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from train.baselines.base import BaselineMethod, Channels, Entry, Options
from train.data.dataset import Batch
from train.devices import SingleDevice
from train.guard import StepGuard
from train.methods.base import Moment, StepReport
from train.recipe import Recipe, parse_recipe
from train.state import Position

ONE_CT = Channels(ct=1, mask=1)


def plain_recipe(entry: Entry, grid_px: int, *, batch: int = 2, learning_rate: float = 1e-3) -> Recipe:
    """A recipe of one stage that leaves the weights as the method makes them: no clipping, no average."""
    return parse_recipe(
        {
            "name": "test",
            "description": "for tests",
            "seed": 1,
            "data": {"train": {"A": 1}, "validation": {"A": 1}},
            "input": {"windows_hu": [[0.0, 80.0]], "mask_channels": ["brain"]},
            "generator": {"size": "tiny"},
            "optimiser": {"beta1": entry.schedule.beta1, "clip_norm": 0.0, "ema_decay": 0.0},
            "stages": [
                {
                    "name": "all",
                    "grid_px": grid_px,
                    "steps": 100,
                    "batch": batch,
                    "learning_rate": learning_rate,
                    "adversarial": True,
                }
            ],
        },
        "test",
    )


def small_method(entry: Entry, grid_px: int, **changes: Any) -> BaselineMethod[Any]:
    """The method at an eighth of its width, with the depth that the image allows."""
    options: Options = entry.method.adapted(replace(entry.options, **({"width": 0.125} | changes)), grid_px)
    devices = SingleDevice(torch.device("cpu"))
    recipe = plain_recipe(entry, grid_px)
    method = entry.method(recipe, devices, StepGuard(devices, Position()), options, ONE_CT)
    method.start_stage(recipe.stages[0])
    return method


def drawn_batch(grid_px: int, size: int = 2) -> Batch:
    """Discs whose tissue differs from place to place; the DWI is a smooth function of the CT, the lesion bright."""
    random = torch.Generator().manual_seed(7)
    away = torch.arange(grid_px) - (grid_px - 1) / 2.0
    distance = torch.sqrt(away[:, None] ** 2 + away[None] ** 2).expand(size, 1, -1, -1)
    brain = (distance < 0.4 * grid_px).float()
    lesion = (distance < 0.1 * grid_px).float()
    coarse = torch.rand(size, 1, 4, 4, generator=random)
    tissue = nn.functional.interpolate(coarse, grid_px, mode="bilinear") * 0.6 - 0.3
    ct = torch.where(brain > 0, tissue - 0.1 * lesion, -torch.ones_like(brain))
    target = torch.where(brain > 0, (0.8 * lesion - 0.5 * tissue - 0.2).clamp(-1.0, 1.0), -torch.ones_like(brain))
    return Batch(ct, brain, target, brain, lesion, torch.ones(size))


def take_steps(method: BaselineMethod[Any], batch: Batch, steps: int, first: int = 0) -> list[StepReport]:
    """Reports of some steps on one batch."""
    stage = method.recipe.stages[0]
    return [method.step(batch, Moment(stage, first + step, 1.0, logged=False)) for step in range(steps)]


def check_falls(reports: list[StepReport], *terms: str) -> None:
    """Every figure is finite, and each named term is lower over the last quarter of the steps than over the first."""
    assert all(math.isfinite(float(value)) for report in reports for value in report.terms.values())
    quarter = max(1, len(reports) // 4)
    for term in terms:
        values = [float(report.terms[term]) for report in reports]
        first, last = sum(values[:quarter]) / quarter, sum(values[-quarter:]) / quarter
        assert last < first, f"{term}: {first:.4f} -> {last:.4f}"


def parameters_m(network: nn.Module) -> float:
    """Trainable parameters in millions."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) / 1e6


def meta_networks(entry: Entry) -> dict[str, nn.Module]:
    """All networks at full width on the meta device, for one CT channel without mask: nothing is computed."""
    with torch.device("meta"):
        generator = entry.method.translator(entry.options, ONE_CT)
        return {"generator": generator, **entry.method.companions(entry.options, ONE_CT)}


def watched(method: BaselineMethod[Any]) -> list[tuple[str, set[str], set[str]]]:
    """Optimisers in their order, each with the networks whose weights and whose gradients its step changed."""
    seen, descend = [], method.descend

    def state(of):
        return {
            name: [None if (value := of(parameter)) is None else value.clone() for parameter in network.parameters()]
            for name, network in method.networks().items()
        }

    def differing(before, after) -> set[str]:
        return {
            name
            for name in before
            if any(
                (a is None) != (b is None) or (a is not None and not torch.equal(a, b))
                for a, b in zip(before[name], after[name], strict=True)
            )
        }

    def watch(name, terms):
        weights, gradients = state(lambda p: p.detach()), state(lambda p: p.grad)
        taken = descend(name, terms)
        changed = differing(weights, state(lambda p: p.detach())), differing(gradients, state(lambda p: p.grad))
        seen.append((name, *changed))
        return taken

    method.descend = watch
    return seen
