"""HisGAN in both readings: sizes, every term by hand, the gradient penalty's second derivative, histograms and history.

Leaves out what all methods share (test_registry.py).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_cases import (
    check_empty_slice,
    check_falls,
    check_order,
    check_resumes,
    drawn_batch,
    fix_verdict,
    meta_networks,
    parameters_m,
    restore,
    small_method,
    state_of,
    take_steps,
    terms_of,
    unchanging_step,
)

from train.baselines.base import Channels
from train.baselines.hisgan import ENTRIES, HistogramHistory, gradient_distance, gradient_penalty, histogram_distance

MENDED, PUBLIC = ENTRIES
CPU = torch.device("cpu")


def image_of(method, batch):
    with torch.no_grad():
        return method.generator.core(batch.ct)


def test_sizes_of_the_table() -> None:
    for entry in ENTRIES:
        networks = meta_networks(entry)
        assert parameters_m(networks["generator"]) == pytest.approx(4.13, abs=0.005)
        assert parameters_m(networks["refiner"]) == parameters_m(networks["generator"])
        assert parameters_m(networks["discriminator"]) == pytest.approx(2.76, abs=0.005)


def test_sixteen_pixels_remain_of_256() -> None:
    network = meta_networks(MENDED)["generator"]
    seen = {}
    network.core.down[-1].register_forward_hook(lambda module, given, answer: seen.update(shape=answer.shape))
    image = network(torch.zeros(1, 1, 256, 256, device="meta"), torch.zeros(1, 1, 256, 256, device="meta"))
    assert seen["shape"] == (1, 256, 16, 16)
    assert image.shape == (1, 1, 256, 256)


def test_only_the_public_one_loses_what_is_below_the_mean_of_the_input() -> None:
    ct = torch.linspace(-1.0, 1.0, 1024).reshape(1, 1, 32, 32)
    darker = torch.where(ct < -0.5, ct.flip(-1), ct)  # other values of the same mean and variance, all below it
    for entry, differs in ((MENDED, True), (PUBLIC, False)):
        first = small_method(entry, 32).generator.core.first
        with torch.no_grad():
            apart = (first(ct) - first(darker)).abs().max()
        assert (float(apart) > 1e-4) is differs


def test_both_learn() -> None:
    for entry in ENTRIES:
        check_falls(take_steps(small_method(entry, 32), drawn_batch(32), 8), "l1", "refined_l1")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_terms_on_images_by_hand(entry) -> None:
    method, batch = small_method(entry, 32), drawn_batch(32)
    error = (image_of(method, batch) - batch.target).numpy()[:, 0]
    terms = unchanging_step(method, batch)
    assert terms["l1"] == pytest.approx(10.0 * np.abs(error).mean(), rel=1e-4)
    padded = np.pad(error, ((0, 0), (1, 1), (1, 1)))
    along = np.abs(padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2])
    down = np.abs(padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1])
    halves = 0.5 * (along.sum(axis=-1).mean() + down.sum(axis=-1).mean())
    # The public one's first loss is one standard deviation above its mean with the 0; ours has nothing to compare with.
    scale = 10.0 * (1.0 + 1.0 / (1.0 + math.exp(-1.0))) if entry is PUBLIC else 2560.0 / 32 * 1.5
    assert terms["gradient"] == pytest.approx(scale * halves, rel=1e-4)


def test_the_gradient_weights_agree_at_256_pixels() -> None:
    fake, real = torch.rand(1, 1, 256, 256), torch.rand(1, 1, 256, 256)
    ours = MENDED.options.gradient_weight * gradient_distance(fake, real)
    theirs = PUBLIC.options.gradient_weight * gradient_distance(fake, real, row_sums=True)
    torch.testing.assert_close(ours, theirs)


def test_an_undecided_discriminator() -> None:
    method = small_method(MENDED, 32)
    fix_verdict(method.network("discriminator"))
    terms = unchanging_step(method, drawn_batch(32))
    assert terms["discriminator"] == pytest.approx(2.0 * math.log(2.0))
    assert terms["gradient_penalty"] == pytest.approx(10.0, rel=1e-4)  # a gradient of 0 is 1 away from 1
    assert terms["gan"] == pytest.approx(math.log(2.0))
    assert terms["refined_gan"] == pytest.approx(0.5 * math.log(2.0))
    assert all(p.grad.isfinite().all() for p in method.network("discriminator").parameters())


class Linear(torch.nn.Module):
    """A judge whose gradient is its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [2.0, 0.0]]))

    def forward(self, x):
        return [(x * self.weight).sum(dim=(1, 2, 3))]


class Square(torch.nn.Module):
    """A judge whose gradient is the image."""

    def forward(self, x):
        return [0.5 * x.square()]


def test_gradient_penalty_and_its_derivative_by_hand() -> None:
    judge = Linear()  # of norm 3
    penalty = gradient_penalty(judge, torch.rand(4, 1, 2, 2), torch.rand(4, 1, 2, 2))
    assert float(penalty.detach()) == pytest.approx((3.0 - 1.0) ** 2)
    penalty.backward()
    torch.testing.assert_close(judge.weight.grad, 2.0 * (3.0 - 1.0) * judge.weight.detach() / 3.0)


def test_gradient_penalty_is_taken_between_the_images() -> None:
    real, fake = torch.full((2, 1, 1, 1), 5.0), torch.full((2, 1, 1, 1), 3.0)
    torch.manual_seed(3)
    penalty = float(gradient_penalty(Square(), real, fake).detach())
    torch.manual_seed(3)
    first, second = torch.rand(2).tolist()
    assert first != second
    assert penalty == pytest.approx(((3 + 2 * first - 1) ** 2 + (3 + 2 * second - 1) ** 2) / 2, rel=1e-5)


def test_gradient_penalty_stays_in_fp32_where_the_stage_does_not() -> None:
    method = small_method(MENDED, 32)
    method.recipe = replace(
        method.recipe, stages=tuple(replace(stage, precision="bf16") for stage in method.recipe.stages)
    )
    kinds = []
    judge = method.network("discriminator")
    judge.register_forward_hook(lambda module, given, answer: kinds.append((given[0].requires_grad, answer[-1].dtype)))
    (report,) = take_steps(method, drawn_batch(32), 1)
    assert (True, torch.float32) in kinds
    assert {dtype for differentiated, dtype in kinds if not differentiated} == {torch.bfloat16}
    assert all(math.isfinite(float(term)) for term in report.terms.values())


def test_the_refiner_sees_mixtures_of_input_and_prediction() -> None:
    method, batch = small_method(MENDED, 32), drawn_batch(32)
    fake, seen = image_of(method, batch), {}
    method.network("refiner").register_forward_pre_hook(lambda module, given: seen.update(x=given[0].detach()))
    take_steps(method, batch, 1)
    shares = []
    for mixture, ct, image in zip(seen["x"], batch.ct, fake, strict=True):
        share = float(((mixture - image) * (ct - image)).sum() / (ct - image).square().sum())
        torch.testing.assert_close(mixture, share * ct + (1.0 - share) * image, atol=1e-4, rtol=0.0)
        shares.append(share)
    assert 0.0 <= min(shares) < max(shares) <= 1.0


def test_the_refined_image_teaches_both_networks() -> None:
    method = small_method(MENDED, 32, l1_weight=0.0, gradient_weight=0.0, refined_gan_weight=0.0)
    fix_verdict(method.network("discriminator"))
    unchanging_step(method, drawn_batch(32))
    for network in (method.generator, method.network("refiner")):
        assert max(float(p.grad.abs().max()) for p in network.parameters()) > 0.0


def test_the_discriminator_learns_first_and_then_both_generators_alone() -> None:
    order = (("discriminator", {"discriminator"}), ("generator", {"generator", "refiner"}))
    check_order(small_method(MENDED, 32), drawn_batch(32), *order)


def test_histogram_distance_by_hand() -> None:
    random = torch.Generator().manual_seed(5)
    fake, real = (torch.rand(2, 1, 16, 16, generator=random) * 2.0 - 1.0 for _ in range(2))
    span = (float(real.min()) + 0.1, float(real.max()))
    counts = [np.histogram(images.numpy(), bins=100, range=span)[0] for images in (fake, real)]
    expected = np.abs(counts[0] - counts[1]).mean() / 100.0
    assert expected > 0.0
    assert float(histogram_distance(fake, real)) == pytest.approx(expected)


def test_histograms_of_an_empty_batch_agree() -> None:
    assert float(histogram_distance(torch.rand(1, 1, 8, 8), torch.full((1, 1, 8, 8), -1.0))) == 0.0


def test_history_of_steps() -> None:
    history = HistogramHistory(3, restarts=False, device=CPU)
    losses = [3.0, 5.0, 4.0, 9.0]
    factors = [float(history.factor(torch.tensor(loss))) for loss in losses]
    assert factors[0] == 0.5
    z = (9.0 - np.mean(losses[1:])) / np.std(losses[1:])
    assert factors[3] == pytest.approx(1.0 / (1.0 + np.exp(-z)))


def test_history_that_restarts_with_a_zero() -> None:
    history = HistogramHistory(2, restarts=True, device=CPU)
    factors = [float(history.factor(torch.tensor(loss))) for loss in (3.0, 5.0, 4.0, 0.0)]
    one_above = 1.0 / (1.0 + math.exp(-1.0))
    z = (5.0 - np.mean([0.0, 3.0, 5.0])) / np.std([0.0, 3.0, 5.0])
    assert factors[:3] == pytest.approx([one_above, 1.0 / (1.0 + np.exp(-z)), one_above])


def test_a_history_without_variance_decides_nothing() -> None:
    history = HistogramHistory(8, restarts=False, device=CPU)
    assert [float(history.factor(torch.tensor(0.1))) for _ in range(7)] == [0.5] * 7
    fresh = HistogramHistory(8, restarts=True, device=CPU)
    assert float(fresh.factor(torch.tensor(0.0))) == 0.5


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_resumed_run_goes_on_exactly(entry) -> None:
    check_resumes(lambda: small_method(entry, 32), drawn_batch(32), steps=3)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_resumed_run_needs_its_history(entry) -> None:
    batch, method = drawn_batch(32), small_method(entry, 32)
    take_steps(method, batch, 3)
    method.history.factor(torch.tensor(0.0))  # unlike the losses so far, which may all be equal at first
    state = state_of(method)
    resumed, forgetful = small_method(entry, 32), small_method(entry, 32)
    restore(resumed, state)
    restore(forgetful, state, without="history")
    ahead, again, other = (terms_of(take_steps(one, batch, 1, first=3)[0]) for one in (method, resumed, forgetful))
    assert again == ahead
    assert other["gradient"] != ahead["gradient"]


def test_a_stage_forgets_the_histograms_of_the_last() -> None:
    method = small_method(MENDED, 32)
    take_steps(method, drawn_batch(32), 1)
    assert method.history.state_dict()["seen"] == 1
    method.start_stage(method.recipe.stages[0])
    assert method.history.state_dict()["seen"] == 0


def test_the_public_one_predicts_with_the_weights_themselves() -> None:
    for entry, same in ((MENDED, False), (PUBLIC, True)):
        method = small_method(entry, 32, ema_decay=0.999)
        take_steps(method, drawn_batch(32), 2)
        pairs = zip(method.average.network.parameters(), method.generator.parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs) is same


def test_several_ct_channels_and_masks() -> None:
    method, batch = small_method(MENDED, 32, channels=Channels(3, 1), mask=True), drawn_batch(32)
    (report,) = take_steps(method, replace(batch, ct=batch.ct.expand(-1, 3, -1, -1)), 1)
    assert math.isfinite(float(report.loss))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_one_empty_slice(entry) -> None:
    check_empty_slice(small_method(entry, 32))
