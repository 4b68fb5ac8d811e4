"""One step of JMMDA-GAN: what it changes, what it leaves alone, and what is counted.

Covers: every option of the recipe that acts in a step, non-finite steps on both paths of the guard, the frozen twin,
the moving average, equality of a step with one written out by hand.

Leaves out the values of the terms (test_objectives*.py) and CUDA (no device in CI): the device path of the guard is
forced on a CPU, whose fused Adam knows ``found_inf`` too.
"""

from __future__ import annotations

import copy
import dataclasses
import logging

import pytest
import torch
from torch import nn
from training_cases import CONTRACT, drawn_case, tiny_recipe

from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.settings import DiscriminatorSettings
from train.data.dataset import Batch, SliceDataset
from train.devices import SingleDevice
from train.guard import MAX_SKIPPED_IN_A_ROW, StepGuard
from train.methods import JmmdaMethod, Moment, compiled
from train.methods.average import MovingAverage
from train.methods.compiled import Answer, as_asked
from train.methods.twins import frozen_twin
from train.objectives import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    feature_matching_loss,
    pixel_loss,
)
from train.recipe import AugmentRecipe, Recipe
from train.registry import build_method
from train.state import Position, TrainingError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch() -> Batch:
    data = SliceDataset([drawn_case(0), drawn_case(1)], CONTRACT)
    return data.training_batch(2, 32, AugmentRecipe(), (0,))


def method(recipe: Recipe, *, on_device: bool = False) -> JmmdaMethod:
    devices = SingleDevice(CPU)
    built = build_method(recipe, devices, StepGuard(devices, Position(), on_device=on_device))
    assert isinstance(built, JmmdaMethod)
    built.start_stage(recipe.stages[-1])
    return built


def moment(recipe: Recipe, step: int = 5, *, logged: bool = False) -> Moment:
    return Moment(recipe.stages[-1], step, 1.0, logged)


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def unchanged(before: list[torch.Tensor], network: nn.Module) -> bool:
    return all(map(torch.equal, before, network.parameters()))


def test_step_equals_one_written_out_by_hand(batch: Batch) -> None:
    recipe = tiny_recipe(optimiser={"fused": False, "clip_norm": 0.0})
    ours = method(recipe)
    generator, discriminator = copy.deepcopy(ours.generator), copy.deepcopy(ours.discriminator)
    report = ours.step(batch, moment(recipe))

    loss, rates = recipe.loss, (recipe.stages[-1].learning_rate, recipe.optimiser.discriminator_learning_rate)
    adams = [
        torch.optim.Adam(network.parameters(), lr=rate, betas=(0.5, 0.999))
        for network, rate in zip((generator, discriminator), rates, strict=True)
    ]
    fake = generator(batch.ct, batch.mask)
    on_real = discriminator(torch.cat([batch.ct, batch.target], dim=1))
    on_fake = discriminator(torch.cat([batch.ct, fake], dim=1))
    total = (
        loss.pixel_weight * pixel_loss(fake, batch.target, batch.brain, batch.lesion, loss)
        + loss.gan_weight * adversarial_generator_loss(on_fake)
        + loss.feature_matching_weight * feature_matching_loss(on_real, on_fake)
    )
    total.backward(inputs=list(generator.parameters()))
    adams[0].step()
    on_fake = discriminator(torch.cat([batch.ct, fake.detach()], dim=1))
    on_real = discriminator(torch.cat([batch.ct, batch.target], dim=1))
    judged = adversarial_discriminator_loss(on_real, on_fake)
    judged.backward(inputs=list(discriminator.parameters()))
    adams[1].step()

    assert float(report.loss) == pytest.approx(float(total.detach()), rel=1e-5)
    assert float(report.terms["discriminator"]) == pytest.approx(float(judged.detach()), rel=1e-5)
    for one, other in ((ours.generator, generator), (ours.discriminator, discriminator)):
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("on_device", [False, True])
def test_step_that_is_not_finite_changes_nothing_and_is_counted(batch: Batch, on_device: bool) -> None:
    recipe = tiny_recipe()
    ours = method(recipe, on_device=on_device)
    broken = dataclasses.replace(batch, target=torch.full_like(batch.target, float("nan")))
    before = weights(ours.generator), weights(ours.discriminator), weights(ours.average.network)
    ours.step(broken, moment(recipe))
    ours.guard.read()
    assert unchanged(before[0], ours.generator)
    assert unchanged(before[1], ours.discriminator)
    for mine, theirs in zip(before[2], ours.average.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)  # the device path averages weights that did not change
    assert (ours.guard.position.skipped, ours.guard.position.skipped_in_a_row) == (1, 1)
    ours.step(batch, moment(recipe))
    ours.guard.read()
    assert (ours.guard.position.skipped, ours.guard.position.skipped_in_a_row) == (1, 0)
    assert not unchanged(before[0], ours.generator)
    assert not unchanged(before[1], ours.discriminator)


def test_run_of_steps_that_are_not_finite_ends_training() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    guard = StepGuard(SingleDevice(CPU), Position())
    parameter.grad = torch.ones(1)
    never = torch.tensor(False)
    for _ in range(MAX_SKIPPED_IN_A_ROW - 1):
        assert not guard.step(optimiser, never)
    with pytest.raises(TrainingError, match="in a row") as caught:
        guard.step(optimiser, never)
    assert caught.value.code == "not_finite"
    assert parameter.item() == 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"optimiser": {"weight_decay": 0.01, "clip_norm": 1.0, "discriminator_decay": True}},
        {"run": {"channels_last": True}},
        {"discriminator": {"ndf": 4, "n_layers": 1, "num_scales": 2, "spectral_norm": True, "mask": True}},
        {"discriminator": {"ndf": 4, "n_layers": 1, "r1_gamma": 1.0, "r1_every": 1}, "loss": {"gan": "hinge"}},
        {"loss": {"pixel": "adaptive", "wavelet_weight": 1.0, "gradient_difference_weight": 1.0}},
        {"loss": {"perceptual": "disc", "perceptual_weight": 2.0, "feature_matching_weight": 0.0}},
        {"loss": {"heteroscedastic": True}, "generator": {"size": "tiny", "heteroscedastic": True}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_option_trains_all_networks(batch: Batch, changes: dict[str, object]) -> None:
    recipe = tiny_recipe(**changes)
    ours = method(recipe)
    before = weights(ours.generator), weights(ours.discriminator), list(map(torch.clone, ours.objective.parameters()))
    report = ours.step(batch, moment(recipe, logged=True))
    ours.step(batch, moment(recipe))
    assert ours.guard.position.skipped == 0
    assert torch.isfinite(report.loss)
    assert set(report.gradient_at_output) == set(report.terms) - {"discriminator", "r1"}
    assert ("r1" in report.terms) == (recipe.discriminator.r1_gamma > 0)
    assert not unchanged(before[0], ours.generator)
    assert not unchanged(before[1], ours.discriminator)
    assert all(not torch.equal(*pair) for pair in zip(before[2], ours.objective.parameters(), strict=True))


def test_bf16_keeps_losses_and_weights_in_fp32(batch: Batch) -> None:
    stages = [{"name": "gan", "grid_px": 32, "steps": 3, "batch": 2, "adversarial": True, "precision": "bf16"}]
    recipe = tiny_recipe(stages=stages)
    ours = method(recipe)
    report = ours.step(batch, moment(recipe))
    plain = tiny_recipe(stages=[stages[0] | {"precision": "fp32"}])
    exact = method(plain).step(batch, moment(plain))
    assert all(term.dtype == torch.float32 for term in report.terms.values())
    assert all(value.dtype == torch.float32 for value in ours.evaluated_weights().values())
    assert float(report.loss) != float(exact.loss)
    assert float(report.loss) == pytest.approx(float(exact.loss), rel=0.05)


def test_discriminator_s_weights_get_no_gradient_from_the_generator_s_loss(batch: Batch) -> None:
    ours = method(tiny_recipe())
    twin = ours._judge_frozen
    seen = torch.cat([batch.ct, batch.target], dim=1).requires_grad_()
    twin(seen)[0][-1].sum().backward()
    assert seen.grad is not None
    assert all(parameter.grad is None for parameter in ours.discriminator.parameters())
    with torch.no_grad():
        next(ours.discriminator.parameters()).add_(1.0)
    assert all(map(torch.equal, twin.parameters(), ours.discriminator.parameters()))
    ours.discriminator.load_state_dict(method(tiny_recipe(seed=9)).discriminator.state_dict())
    assert all(map(torch.equal, twin.parameters(), ours.discriminator.parameters()))


def test_frozen_twin_follows_the_buffers_of_spectral_norm() -> None:
    network = build_discriminator(DiscriminatorSettings(3, ndf=4, n_layers=1, num_scales=1, spectral_norm=True))
    twin = frozen_twin(network)
    image = torch.randn(1, 3, 32, 32)
    for _ in range(3):
        network(image)  # in training, a power iteration moves the buffers
    network.eval()
    torch.testing.assert_close(twin(image)[0][-1], network(image)[0][-1])


def test_average_follows_fast_at_first_and_slowly_later() -> None:
    network = nn.Linear(3, 3)
    average = MovingAverage(network, 0.999)
    mean = average.network.weight
    with torch.no_grad():
        network.weight.add_(1.0)
    start = mean.clone()
    average.update(network, 0)
    torch.testing.assert_close(mean - start, torch.full_like(mean, 0.9))
    start = mean.clone()
    average.update(network, 10_000_000)
    torch.testing.assert_close(mean - start, torch.full_like(mean, 0.1 * 0.001), rtol=1e-2, atol=1e-6)
    assert not mean.requires_grad


def test_average_without_decay_is_the_network() -> None:
    network = nn.Linear(3, 3)
    average = MovingAverage(network, 0.0)
    with torch.no_grad():
        network.weight.add_(1.0)
    average.update(network, 77)
    assert torch.equal(average.network.weight, network.weight)


def test_missing_compiler_is_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    compiled.can_compile.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no C++ compiler\nmore")))
    network = nn.Linear(2, 2)
    with caplog.at_level(logging.WARNING):
        assert as_asked(network, Answer(True, CPU)) is network
        assert as_asked(network, Answer(True, CPU)) is network
    assert [record.getMessage() for record in caplog.records] == [
        "torch.compile does not work here (no C++ compiler): training goes on without it"
    ]
    compiled.can_compile.cache_clear()
    assert as_asked(network, Answer(False, CPU)) is network
