"""What the tests of the comparison methods share: small methods and images, the rules that hold for every method.

Methods at an eighth of their width and recipes for them, counts of networks at full width, drawn images, losses by
hand, and checks of what is the same for all: losses fall, who learns when, a restored method goes on as the one that it
was taken from, an empty slice does no harm.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from train.baselines.base import BaselineMethod, Channels, Entry, Options
from train.data.dataset import Batch
from train.devices import SingleDevice
from train.guard import StepGuard
from train.methods.base import Moment, StepReport
from train.recipe import Recipe, parse_recipe
from train.state import Position

ONE_CT = Channels(ct=1, mask=1)
Method = BaselineMethod[Any]


# Methods


def plain_recipe(
    entry: Entry, grid_px: int, options: Options, *, channels: Channels = ONE_CT, ema_decay: float = 0.0
) -> Recipe:
    """The method's recipe of one stage, without clipping; without a decay the weights are not averaged either."""
    return parse_recipe(
        {
            "name": "test",
            "description": "for tests",
            "method": entry.name,
            "seed": 1,
            "data": {"train": {"A": 1}, "validation": {"A": 1}},
            "input": {"windows_hu": [[0.0, 80.0]] * channels.ct, "mask_channels": ["brain"]},
            "options": dataclasses.asdict(options),
            "optimiser": {"beta1": entry.schedule.beta1, "clip_norm": 0.0, "ema_decay": ema_decay},
            "stages": [{"name": "all", "grid_px": grid_px, "steps": 100, "batch": 2, "learning_rate": 1e-3}],
        },
        "test",
    )


def built(entry: Entry, recipe: Recipe, options: Options, channels: Channels = ONE_CT) -> Method:
    """The method of a recipe on the CPU, before its first stage."""
    devices = SingleDevice(torch.device("cpu"))
    return entry.method(recipe, devices, StepGuard(devices, Position()), options, channels)


def small_method(
    entry: Entry, grid_px: int, *, channels: Channels = ONE_CT, ema_decay: float = 0.0, **changes: Any
) -> Method:
    """The method at an eighth of its width, with the depth that the image allows, in its first stage.

    ``changes`` are to its options.
    """
    options = entry.method.adapted(dataclasses.replace(entry.options, **({"width": 0.125} | changes)), grid_px)
    recipe = plain_recipe(entry, grid_px, options, channels=channels, ema_decay=ema_decay)
    method = built(entry, recipe, options, channels)
    method.start_stage(recipe.stages[0])
    return method


def parameters_m(network: nn.Module) -> float:
    """Trainable parameters in millions."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad) / 1e6


def meta_networks(entry: Entry) -> dict[str, nn.Module]:
    """All networks at full width on the meta device, for one CT channel without mask: nothing is computed."""
    with torch.device("meta"):
        generator = entry.method.translator(entry.options, ONE_CT)
        return {"generator": generator, **entry.method.companions(entry.options, ONE_CT)}


def fix_verdict(discriminator: nn.Module, value: float = 0.0) -> None:
    """Let a patch discriminator answer one value whatever it sees, so that it pulls at nobody."""
    nn.init.zeros_(discriminator.logits.weight)
    nn.init.constant_(discriminator.logits.bias, value)


# Images


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


def empty_batch(grid_px: int, size: int = 1, *, known: float = 1.0) -> Batch:
    """Slices without brain: CT and DWI are black, and nothing is marked; ``known`` says whether lesions would be."""
    black, nothing = -torch.ones(size, 1, grid_px, grid_px), torch.zeros(size, 1, grid_px, grid_px)
    return Batch(black, nothing, black, nothing, nothing, torch.full((size,), known))


# Steps


def take_steps(method: Method, batch: Batch, steps: int, first: int = 0) -> list[StepReport]:
    """Reports of some steps on one batch."""
    stage = method.recipe.stages[0]
    return [method.step(batch, Moment(stage, first + step, 1.0, logged=False)) for step in range(steps)]


def terms_of(report: StepReport) -> dict[str, float]:
    """Terms of a step as plain numbers."""
    return values_of(report.terms)


def values_of(terms: dict[str, Tensor]) -> dict[str, float]:
    """Terms as plain numbers."""
    return {name: float(term.detach()) for name, term in terms.items()}


def unchanging_step(method: Method, batch: Batch) -> dict[str, float]:
    """Terms of a step at a rate of 0: an update that comes first changes nothing before the terms of the second."""
    return terms_of(method.step(batch, Moment(method.recipe.stages[0], 0, 0.0, logged=False)))


def descents(method: Method, batch: Batch) -> list[tuple[str, dict[str, Tensor]]]:
    """What an update descends, in order, with the graphs of its terms; no step is taken."""
    seen: list[tuple[str, dict[str, Tensor]]] = []
    method.descend = lambda name, terms: seen.append((name, dict(terms)))
    method.update(batch, None)
    return seen


def reaches(term: Tensor, network: nn.Module) -> bool:
    """Whether a term has a gradient with respect to any weight of a network."""
    weights = list(network.parameters())
    gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def calls_of(module: nn.Module) -> list[tuple[Any, Any]]:
    """What a module is given (a tuple) and answers from now on, in order."""
    calls: list[tuple[Any, Any]] = []
    module.register_forward_hook(lambda module, given, answer: calls.append((given, answer)))
    return calls


def answers_of(module: nn.Module) -> list[Any]:
    """What a module answers from now on, in order."""
    answers: list[Any] = []
    module.register_forward_hook(lambda module, given, answer: answers.append(answer))
    return answers


# Losses by hand, in NumPy


def sigmoid(x: ArrayLike) -> NDArray[np.floating[Any]]:
    """Logistic function."""
    return 1.0 / (1.0 + np.exp(-np.asarray(x)))


def plain(x: Tensor) -> NDArray[np.float64]:
    """Values of a tensor in double precision."""
    return x.detach().double().numpy()


def squares_from(logits: Tensor, target: float) -> float:
    """Least-squares adversarial loss: mean of the squared distance of all logits from a target."""
    return float(np.mean((plain(logits) - target) ** 2))


def judged_by_squares(on_real: Tensor, on_fake: Tensor) -> float:
    """Least-squares loss of a discriminator: half the distance of truth from 1 and of predictions from 0."""
    return 0.5 * (squares_from(on_real, 1.0) + squares_from(on_fake, 0.0))


def log_loss(logits: Tensor, *, real: bool) -> float:
    """Cross-entropy of logits with the answer that all are real, or none is."""
    return float(np.log1p(np.exp(-plain(logits) if real else plain(logits))).mean())


def judged_by_logs(on_real: Tensor, on_fake: Tensor) -> float:
    """Cross-entropy of a discriminator: half of truth with real, and half of predictions with not real."""
    return 0.5 * (log_loss(on_real, real=True) + log_loss(on_fake, real=False))


# What holds for every method


def check_falls(reports: list[StepReport], *terms: str) -> None:
    """Every figure is finite, and each named term is lower over the last quarter of the steps than over the first."""
    assert all(math.isfinite(value) for report in reports for value in terms_of(report).values())
    quarter = max(1, len(reports) // 4)
    for term in terms:
        values = [terms_of(report)[term] for report in reports]
        first, last = sum(values[:quarter]) / quarter, sum(values[-quarter:]) / quarter
        assert last < first, f"{term}: {first:.4f} -> {last:.4f}"


def check_order(method: Method, batch: Batch, *expected: tuple[str, set[str]]) -> None:
    """A step descends these optimisers in this order, and each changes weights and gradients of these networks alone.

    So no network learns from a loss that it only steers.
    """
    seen: list[tuple[str, set[str], set[str]]] = []
    descend = method.descend

    def watch(name: str, terms: dict[str, Tensor]) -> bool:
        before = _weights_and_gradients(method)
        taken = descend(name, terms)
        after = _weights_and_gradients(method)
        seen.append((name, *(_differing(*pair) for pair in zip(before, after, strict=True))))
        return taken

    method.descend = watch
    take_steps(method, batch, 1)
    assert seen == [(name, networks, networks) for name, networks in expected]


_Tensors = dict[str, list[Tensor | None]]


def _weights_and_gradients(method: Method) -> tuple[_Tensors, _Tensors]:
    """Copies of every network's weights and gradients, by network."""
    networks = {name: list(network.parameters()) for name, network in method.networks().items()}
    weights = {name: [p.detach().clone() for p in parameters] for name, parameters in networks.items()}
    gradients = {
        name: [None if p.grad is None else p.grad.clone() for p in parameters] for name, parameters in networks.items()
    }
    return weights, gradients


def _differing(before: _Tensors, after: _Tensors) -> set[str]:
    """Networks with a tensor that came, went or changed."""

    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return a is b if a is None or b is None else torch.equal(a, b)

    return {name for name in before if not all(map(same, before[name], after[name]))}


def state_of(method: Method) -> dict[str, Any]:
    """A copy of everything of a method that a checkpoint keeps."""
    return copy.deepcopy({name: part.state_dict() for name, part in method.parts().items()})


def restore(method: Method, state: dict[str, Any], *, without: str | None = None) -> None:
    """Let a method take over a copy of a state, all of it but one part where that is named."""
    for name, part in method.parts().items():
        if name != without:
            part.load_state_dict(copy.deepcopy(state[name]))


def check_resumes(make: Callable[[], Method], batch: Batch, *, steps: int = 2) -> None:
    """A fresh method with the state of one that took some steps goes on with identical terms, losses and norms.

    The global random generator stands elsewhere then, as in another process. A fresh one without the state does
    something else, so that equal figures say something.
    """
    method = make()
    take_steps(method, batch, steps)
    state = state_of(method)
    expected = take_steps(method, batch, 2, first=steps)
    resumed = make()
    restore(resumed, state)
    torch.manual_seed(99)
    found = take_steps(resumed, batch, 2, first=steps)
    assert [_figures(report) for report in found] == [_figures(report) for report in expected]
    (fresh,) = take_steps(make(), batch, 1, first=steps)
    assert _figures(fresh) != _figures(expected[0])


def _figures(report: StepReport) -> dict[str, float]:
    return {**terms_of(report), "loss": float(report.loss), "gradient norm": float(report.gradient_norm)}


def check_empty_slice(method: Method, *, size: int = 1, known: float = 1.0) -> None:
    """Slices without anything are learnt from: no step is skipped; figures, weights and prediction stay finite."""
    batch = empty_batch(method.recipe.stages[0].grid_px, size, known=known)
    reports = take_steps(method, batch, 3)
    assert all(math.isfinite(value) for report in reports for value in _figures(report).values())
    assert method.guard.position.skipped == 0
    assert all(weight.isfinite().all() for network in method.networks().values() for weight in network.parameters())
    assert torch.isfinite(method.predict(batch.ct, batch.mask)).all()
