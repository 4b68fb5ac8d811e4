"""cDDPM and BBDM: paths against simulated processes, sampler with models that know the answer, U-Net, training step.

Leaves out what all methods share (test_registry.py), and how good they get.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from baseline_cases import (
    ONE_CT,
    calls_of,
    check_empty_slice,
    check_falls,
    check_resumes,
    drawn_batch,
    meta_networks,
    parameters_m,
    small_method,
    take_steps,
    terms_of,
)
from torch import Tensor, nn

from train.baselines import bbdm, cddpm
from train.baselines.base import Channels, Entry
from train.baselines.bbdm import bridge_path
from train.baselines.cddpm import cosine_path
from train.baselines.diffusion_unet import (
    DiffusionTranslator,
    DiffusionUNet,
    NoisePath,
    sampling_times,
    starting_noise,
)

(CDDPM,), (BBDM,) = cddpm.ENTRIES, bbdm.ENTRIES
BOTH = pytest.mark.parametrize("entry", [CDDPM, BBDM], ids=lambda entry: entry.name)


# Paths


def squared_cosine(share: float) -> float:
    return math.cos((share + 0.008) / 1.008 * math.pi / 2.0) ** 2


def test_the_cosine_path_has_its_closed_form_and_keeps_the_variance() -> None:
    path = cosine_path(1000)
    kept = [squared_cosine(time / 1000) / squared_cosine(0.0) for time in range(1000)]
    assert path.image[:1000] ** 2 == pytest.approx(kept, rel=1e-9)
    assert path.image**2 + path.noise**2 == pytest.approx(np.ones(1001))
    assert (np.diff(path.image) < 0).all()
    assert path.image[1000] < 1e-3  # at the end, nothing but noise


def marginal(path: NoisePath, image: float, source: float, time: int, count: int) -> Tensor:
    """Noised images of one pixel."""
    ones = torch.ones(count, 1, 1, 1)
    random = torch.Generator().manual_seed(time)
    noise = torch.randn(count, 1, 1, 1, generator=random)
    return path.noised(image * ones, source * ones, noise, torch.full((count,), time))


def test_diffusion_has_the_marginals_of_its_chain_of_steps() -> None:
    count, steps, image = 100_000, 8, 0.6
    path, random = cosine_path(steps), np.random.default_rng(5)
    chain = np.full(count, image)
    for time in range(1, steps + 1):
        variance = min(1.0 - squared_cosine(time / steps) / squared_cosine((time - 1) / steps), 0.999)
        chain = math.sqrt(1.0 - variance) * chain + math.sqrt(variance) * random.standard_normal(count)
        direct = marginal(path, image, 0.9, time, count)
        assert float(direct.mean()) == pytest.approx(chain.mean(), abs=0.02)
        assert float(direct.var()) == pytest.approx(chain.var(), abs=0.03)


@pytest.mark.parametrize("variance", [1.0, 0.25])
def test_the_bridge_has_the_marginals_of_a_pinned_brownian_motion(variance: float) -> None:
    count, steps, image, source = 100_000, 8, 0.6, -0.4
    path, random = bridge_path(steps, variance), np.random.default_rng(5)
    motion = math.sqrt(2.0 * variance / steps) * random.standard_normal((steps, count)).cumsum(axis=0)
    for time in range(1, steps + 1):
        share = time / steps
        pinned = image + motion[time - 1] - share * (motion[-1] + image - source)
        direct = marginal(path, image, source, time, count)
        assert float(direct.mean()) == pytest.approx(pinned.mean(), abs=0.02)
        assert float(direct.var()) == pytest.approx(pinned.var(), abs=0.02)


def test_the_bridge_ends_at_image_and_source_exactly() -> None:
    path = bridge_path(1000, 1.0)
    image, source, noise = torch.randn(3, 2, 1, 4, 4).unbind(0)
    assert torch.equal(path.noised(image, source, noise, torch.tensor([0, 0])), image)
    assert torch.equal(path.noised(image, source, noise, torch.tensor([1000, 1000])), source)
    assert path.noise.max() ** 2 == pytest.approx(0.5)
    assert path.noise.argmax() == 500


def test_each_image_of_a_batch_has_its_own_time() -> None:
    path = bridge_path(4, 0.0)
    image, source = torch.ones(3, 1, 2, 2), -torch.ones(3, 1, 2, 2)
    noised = path.noised(image, source, torch.zeros_like(image), torch.tensor([0, 2, 3]))
    assert noised[:, 0, 0, 0].tolist() == [1.0, 0.0, -0.5]


def test_sampling_times_fall_from_the_first_without_repeats() -> None:
    assert sampling_times(1000, 4) == (1000, 750, 500, 250)
    assert sampling_times(3, 10) == (3, 2, 1)
    assert sampling_times(960, 1) == (960,)


# Sampler


class Knowing(nn.Module):
    """Answers what a perfect model would, and keeps what it was shown."""

    def __init__(self, path: NoisePath, image: Tensor, source: Tensor, answers: str) -> None:
        super().__init__()
        self.path, self.image, self.source, self.answers = path, image, source, answers
        self.times: list[int] = []
        self.told: list[Tensor] = []

    def forward(self, x: Tensor, share: Tensor) -> Tensor:
        noised, time = x[:, :1], round(float(share[0]) * self.path.steps)
        signal = self.path.image[time].item() * self.image + self.path.source[time].item() * self.source
        noise = (noised - signal) / max(self.path.noise[time].item(), 1e-12)
        self.times.append(time)
        self.told.append(noise)
        return {"noise": noise, "image": self.image, "difference": noised - self.image}[self.answers]


def knowing_translator(entry: Entry, answers: str, **changes: Any) -> tuple[DiffusionTranslator, Knowing, Tensor]:
    """A translator around such a model, the model, and the CT."""
    random = torch.Generator().manual_seed(1)
    image, ct = (2.0 * torch.rand(2, 2, 1, 16, 16, generator=random) - 1.0).unbind(0)
    options = replace(entry.options, width=0.125, levels=2, **changes)
    translator = entry.method.translator(options, ONE_CT)
    assert isinstance(translator, DiffusionTranslator)
    core = Knowing(translator.path, image, ct, answers)
    translator.core = core
    return translator, core, ct


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize(
    ("entry", "answers", "changes"),
    [
        (CDDPM, "noise", {"predicts": "noise"}),
        (CDDPM, "image", {"predicts": "image"}),
        (BBDM, "difference", {}),
        (BBDM, "difference", {"variance": 0.0}),
    ],
)
def test_a_perfect_model_is_led_to_the_image(entry: Entry, answers: str, changes: dict[str, Any], steps: int) -> None:
    translator, core, ct = knowing_translator(entry, answers, sampling_steps=steps, **changes)
    found = translator(ct, torch.zeros_like(ct))
    assert torch.allclose(found, core.image, atol=1e-4)
    assert len(core.times) == steps
    assert core.times == sorted(core.times, reverse=True)


def test_a_perfect_model_meets_the_same_noise_at_every_time() -> None:
    translator, core, ct = knowing_translator(CDDPM, "noise")
    translator(ct, torch.zeros_like(ct))
    for noise in core.told[1:]:
        assert torch.allclose(noise, core.told[0], atol=1e-3)
    translator, core, ct = knowing_translator(BBDM, "difference")
    translator(ct, torch.zeros_like(ct))
    assert core.times[0] == 1000  # the source itself, without noise
    for noise in core.told[1:]:
        assert torch.allclose(noise, starting_noise(ct), atol=1e-3)


def stirred(network: nn.Module, sd: float = 0.1) -> nn.Module:
    """The network with other weights, none of them 0."""
    torch.manual_seed(11)
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.0, sd)
    return network.eval()


@BOTH
def test_predictions_stay_in_range_whatever_the_network_answers(entry: Entry) -> None:
    translator = entry.method.translator(replace(entry.options, width=0.125, levels=2), ONE_CT)
    stirred(translator, sd=2.0)
    ct = drawn_batch(16).ct
    with torch.no_grad():
        image = translator(ct, torch.zeros_like(ct))
    assert float(image.abs().max()) <= 1.0


@BOTH
def test_a_prediction_depends_on_its_slice_alone(entry: Entry) -> None:
    translator = stirred(entry.method.translator(replace(entry.options, width=0.125, levels=3), ONE_CT))
    ct = drawn_batch(32).ct
    mask = torch.zeros_like(ct)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.no_grad():
        first = translator(ct, mask)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(translator(ct, mask), first)
        assert torch.allclose(translator(ct[1:], mask[1:]), first[1:], atol=1e-3)
        assert not torch.allclose(first[0], first[1], atol=1e-2)


def test_a_silent_bridge_of_one_step_is_the_first_ct_channel() -> None:
    options = replace(BBDM.options, width=0.125, levels=2, sampling_steps=1, mask=True)
    translator = BBDM.method.translator(options, Channels(ct=3, mask=2))
    ct = 2.0 * torch.rand(2, 3, 16, 16) - 1.0
    with torch.no_grad():
        assert torch.equal(translator(ct, torch.zeros(2, 2, 16, 16)), ct[:, :1])


# U-Net


def test_size_is_that_of_the_layers() -> None:
    def convolution(inside: int, outside: int, kernel: int = 3) -> int:
        return kernel**2 * inside * outside + outside

    def block(inside: int, outside: int) -> int:
        beside = convolution(inside, outside, 1) if inside != outside else 0
        time = 128 * outside + outside
        norms = 2 * inside + 2 * outside
        return norms + convolution(inside, outside) + time + convolution(outside, outside) + beside

    count = 64 * 128 + 128 + 128 * 128 + 128 + convolution(2, 32)
    for inside, width in zip((32, 32, 64, 128, 256), (32, 64, 128, 256, 256), strict=True):
        count += block(inside, width) + block(2 * width, width)
    for outer, inner in zip((32, 64, 128, 256), (64, 128, 256, 256), strict=True):
        count += convolution(outer, outer) + convolution(inner, outer)
    count += 2 * block(256, 256) + 2 * 256 + convolution(256, 3 * 256, 1) + convolution(256, 256, 1)
    count += 2 * 32 + convolution(32, 1)
    for entry in (CDDPM, BBDM):
        assert parameters_m(meta_networks(entry)["generator"]) == pytest.approx(count / 1e6, abs=1e-9)


def test_the_network_starts_silent_and_then_knows_the_time() -> None:
    torch.manual_seed(0)
    network = DiffusionUNet(2, (4, 8), 16)
    x = torch.randn(1, 2, 8, 8).expand(2, -1, -1, -1)
    times = torch.tensor([0.1, 0.9])
    assert torch.equal(network(x, times), torch.zeros(2, 1, 8, 8))
    with torch.no_grad():
        early, late = stirred(network)(x, times)
    assert float((early - late).abs().max()) > 1e-3


def test_attention_is_at_the_innermost_map_which_keeps_eight_pixels() -> None:
    network = small_method(CDDPM, 256).generator.core.eval()
    seen: list[torch.Size] = []
    network.attention.register_forward_hook(lambda module, given, answer: seen.append(answer.shape[2:]))
    with torch.no_grad():
        network(torch.zeros(1, 2, 256, 256), torch.zeros(1))
    assert seen == [(16, 16)]


@pytest.mark.parametrize(("grid_px", "levels"), [(256, 5), (128, 5), (64, 4), (96, 4), (32, 3), (8, 1)])
def test_depth_follows_the_image(grid_px: int, levels: int) -> None:
    adapted = BBDM.method.adapted(BBDM.options, grid_px)
    assert adapted.levels == levels
    assert grid_px % BBDM.method.grid_step(adapted) == 0
    assert grid_px // 2 ** (levels - 1) >= 8


# Training


@pytest.mark.parametrize("predicts", ["noise", "image"])
def test_the_loss_of_diffusion_is_the_squared_error_of_noise_or_image(predicts: str) -> None:
    method, batch = small_method(CDDPM, 32, predicts=predicts), drawn_batch(32)
    take_steps(method, batch, 2)
    calls = calls_of(method.generator.core)
    (report,) = take_steps(method, batch, 1, first=2)
    (((x, share), answer),) = calls
    kept = torch.tensor([squared_cosine(float(s)) / squared_cosine(0.0) for s in share], dtype=torch.float64)
    kept = kept.view(-1, 1, 1, 1)
    noise = (x[:, :1] - kept.sqrt() * batch.target) / (1.0 - kept).sqrt()
    wanted = noise if predicts == "noise" else batch.target
    assert torch.equal(x[:, 1:], batch.ct)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.1)
    assert terms_of(report)["denoising"] == pytest.approx(float(((answer.detach() - wanted) ** 2).mean()), rel=1e-3)


def test_the_loss_of_the_bridge_is_the_squared_error_of_the_difference() -> None:
    method, batch = small_method(BBDM, 32, variance=0.0), drawn_batch(32)
    take_steps(method, batch, 2)
    calls = calls_of(method.generator.core)
    (report,) = take_steps(method, batch, 1, first=2)
    (((x, share), answer),) = calls
    difference = share.view(-1, 1, 1, 1) * (batch.ct - batch.target)
    assert torch.allclose(x[:, :1], batch.target + difference, atol=1e-6)
    by_hand = float(((answer.detach() - difference) ** 2).mean())
    assert terms_of(report)["denoising"] == pytest.approx(by_hand, rel=1e-4)


@BOTH
def test_every_weight_learns(entry: Entry) -> None:
    method = small_method(entry, 32)
    before = {name: weight.detach().clone() for name, weight in method.generator.named_parameters()}
    take_steps(method, drawn_batch(32), 4)
    still = [name for name, weight in method.generator.named_parameters() if torch.equal(weight, before[name])]
    assert still == []


@pytest.mark.parametrize(
    ("entry", "changes"),
    [(CDDPM, {"width": 0.5}), (CDDPM, {"predicts": "image"}), (BBDM, {})],
    ids=["noise", "image", "bridge"],
)
def test_learning_lowers_the_loss_and_brings_predictions_nearer(entry: Entry, changes: dict[str, Any]) -> None:
    method, batch = small_method(entry, 32, **changes), drawn_batch(32, size=4)

    def error() -> float:
        return float(((method.predict(batch.ct, batch.mask) - batch.target) ** 2).mean())

    before = error()
    check_falls(take_steps(method, batch, 60), "denoising")
    assert error() < 0.5 * before


@BOTH
def test_a_resumed_run_goes_on_the_same(entry: Entry) -> None:
    check_resumes(lambda: small_method(entry, 32), drawn_batch(32), steps=3)


@BOTH
def test_one_empty_slice_is_finite(entry: Entry) -> None:
    check_empty_slice(small_method(entry, 32, mask=True))
