"""Options of the generator beyond the paper, each against an independent value.

Image pyramid, U-Net skips, inverse-wavelet decoder and scale head; and that leaving them off changes no weight's name.

Left out: that each option trains (test_network_generator), and what it is worth (train, evaluation).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import pywt
import torch
from torch.nn import functional

from jmmda_model.network.counting import count_parameters
from jmmda_model.network.generator import LOG_SCALE_RANGE, Generator, build_generator
from jmmda_model.network.layers import Upsample
from jmmda_model.network.mfab import ImagePyramid, MultiFrequencyAttention
from jmmda_model.network.settings import GeneratorSettings

WAVELETS = ("haar", "db2", "bior2.2")
PLAIN = {"mgff": "none", "mfab": False}


def _tiny(**changes: Any) -> Generator:
    torch.manual_seed(0)
    return build_generator(GeneratorSettings.for_size("tiny", **changes))


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _input(batch: int = 2, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    brain = torch.zeros(batch, 1, size, size)
    brain[:, :, size // 8 : -size // 8, size // 8 : -size // 8] = 1.0
    return _randn(batch, 3, size, size).clamp(-1, 1), torch.cat([brain, 2 * brain - 1], dim=1)


def _with_weights_of(network: Generator, other: Generator) -> Generator:
    """Return ``network`` with all weights that ``other`` has, none missing in it."""
    result = network.load_state_dict(other.state_dict(), strict=False)
    assert result.unexpected_keys == []
    return network


@pytest.mark.parametrize(
    ("option", "added"),
    [
        ({"image_pyramid": True}, {f"encoder.{i}.image_{path}" for i in (0, 1) for path in ("low", "high")}),
        ({"unet_skips": True}, {f"decoder.{i}.unet.0" for i in (0, 1)}),
        ({"heteroscedastic": True}, {"scale_head.1"}),
        ({"decoder": "idwt"}, set()),
    ],
)
def test_an_option_adds_weights_and_renames_none(option: dict[str, Any], added: set[str]) -> None:
    before, after = set(_tiny().state_dict()), set(_tiny(**option).state_dict())
    assert before <= after
    assert after - before == {f"{layer}.{kind}" for layer in added for kind in ("weight", "bias")}


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_pyramid_holds_the_sub_bands_of_the_image_at_every_level(wavelet: str) -> None:
    ct = _randn(2, 3, 32, 48)
    image = ct.double().numpy()
    for level in ImagePyramid(3, wavelet)(ct):
        low, bands = pywt.dwt2(image, wavelet, mode="periodization", axes=(-2, -1))
        image = low / 2  # the scale of the image
        expected = np.concatenate([image, np.stack(bands, axis=2).reshape(2, 9, *image.shape[2:])], axis=1)
        np.testing.assert_allclose(level.numpy(), expected, rtol=0, atol=5e-6)


def test_the_pyramid_starts_exactly_at_the_generator_without_it() -> None:
    without = _tiny()
    network = _with_weights_of(_tiny(image_pyramid=True), without)
    with torch.inference_mode():
        assert torch.equal(network(*_input()), without(*_input()))


@pytest.mark.parametrize("paths", ["both", "low", "high"])
def test_sub_bands_of_the_image_act_as_sub_bands_of_the_input(paths: Any) -> None:
    # With the identity as its 1x1 convolutions, a block that sees nothing but the image's sub-bands is the
    # block that sees the image, but for the strided convolution, which is silenced.
    torch.manual_seed(0)
    block = MultiFrequencyAttention(3, paths=paths, heads=1, image_channels=3)
    torch.nn.init.zeros_(block.spatial[0].weight)
    ct = _randn(2, 3, 16, 16)
    with torch.inference_mode():
        expected = block(ct)[0]
        if block.image_low is not None:
            block.image_low.weight.copy_(torch.eye(3, 12)[:, :, None, None])
        if block.image_high is not None:
            block.image_high.weight.copy_(torch.eye(12)[3:, :, None, None])
        got = block(torch.zeros_like(ct), ImagePyramid(1, "haar")(ct)[0])[0]
    assert expected.std() > 0
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_unet_skips_have_the_parameters_of_their_convolutions() -> None:
    ngf, n_down = 8, 2
    expected = sum(2 * c * c + c for c in (ngf * 2**level for level in range(n_down)))
    assert count_parameters(_tiny(unet_skips=True, **PLAIN)) - count_parameters(_tiny(**PLAIN)) == expected


def test_unet_skips_carry_detail_past_a_silent_trunk() -> None:
    ct, mask = _input()
    spread = {}
    for skips in (False, True):
        network = _tiny(unet_skips=skips, mask_output=False, **PLAIN)
        torch.nn.init.zeros_(network.encoder[0][0].weight)
        with torch.inference_mode():
            spread[skips] = float(network(ct, mask)[..., 4:-4, 4:-4].std())
    assert spread[False] < 1e-6
    assert spread[True] > 1e-3


def test_a_unet_skip_is_a_convolution_of_the_concatenation() -> None:
    stage = _tiny(unet_skips=True, **PLAIN).decoder[1]
    x, encoded, mask = _randn(2, 16, 8, 8), _randn(2, 8, 16, 16, seed=1), torch.ones(2, 2, 16, 16)
    with torch.inference_mode():
        got, _ = stage(x, mask, None, encoded)
        doubled = torch.relu(functional.instance_norm(stage.up(x)))
        weight, bias = stage.unet[0].weight[:, :, 0, 0], stage.unet[0].bias
        joined = torch.einsum("oc,bchw->bohw", weight, torch.cat([doubled, encoded], 1)) + bias[:, None, None]
        torch.testing.assert_close(got, torch.relu(functional.instance_norm(joined)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_decoder_joins_the_sub_bands_it_predicts(wavelet: str) -> None:
    torch.manual_seed(0)
    up = Upsample(6, 4, decoder="idwt", wavelet=wavelet)
    x = _randn(2, 6, 8, 12)
    with torch.inference_mode():
        predicted = up.conv(x).double().numpy()
        got = up(x).numpy()
    high = predicted[:, 4:].reshape(2, 4, 3, 8, 12).transpose(2, 0, 1, 3, 4)
    expected = pywt.idwt2((2 * predicted[:, :4], tuple(high)), wavelet, mode="periodization", axes=(-2, -1))
    assert got.shape == (2, 4, 16, 24)
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6)


def test_a_constant_low_sub_band_decodes_to_the_same_constant() -> None:
    up = Upsample(1, 1, decoder="idwt")
    with torch.inference_mode():
        torch.nn.init.zeros_(up.conv.weight)
        up.conv.bias.copy_(torch.tensor([0.3, 0.0, 0.0, 0.0]))
        torch.testing.assert_close(up(torch.randn(1, 1, 4, 4)), torch.full((1, 1, 8, 8), 0.3))


def test_the_scale_head_leaves_the_mean_as_it_is() -> None:
    without = _tiny()
    network = _with_weights_of(_tiny(heteroscedastic=True), without)
    torch.nn.init.normal_(network.scale_head[1].weight)
    with torch.inference_mode():
        expected = without(*_input())
        mean, log_scale = network.forward_with_scale(*_input())
        assert torch.equal(network(*_input()), expected)
    assert torch.equal(mean, expected)
    assert mean.shape == log_scale.shape


def test_the_scale_starts_in_the_middle_and_is_at_its_lower_bound_outside_the_brain() -> None:
    ct, mask = _input()
    low, high = LOG_SCALE_RANGE
    with torch.inference_mode():
        _, log_scale = _tiny(heteroscedastic=True).forward_with_scale(ct, mask)
    assert torch.equal(log_scale[mask[:, :1] > 0], torch.full_like(log_scale[mask[:, :1] > 0], (low + high) / 2))
    assert torch.equal(log_scale[mask[:, :1] == 0], torch.full_like(log_scale[mask[:, :1] == 0], low))


@pytest.mark.parametrize("raw", [-1e4, -10.0, -1.0, 0.5, 1e4])
def test_the_scale_stays_in_its_range_and_follows_its_head_smoothly(raw: float) -> None:
    network = _tiny(heteroscedastic=True, mask_output=False)
    torch.nn.init.constant_(network.scale_head[1].bias, raw)
    with torch.inference_mode():
        _, log_scale = network.forward_with_scale(*_input())
    expected = -2.5 + 3.5 * math.tanh(raw / 3.5)
    torch.testing.assert_close(log_scale, torch.full_like(log_scale, expected))


def test_the_scale_learns_the_scale_of_laplace_noise() -> None:
    network = _tiny(heteroscedastic=True, mask_output=False).requires_grad_(False)
    bias = network.scale_head[1].bias.requires_grad_()
    ct, mask = _input(4, 32)
    with torch.no_grad():
        mean = network(ct, mask)
    noise = torch.distributions.Laplace(0.0, 0.25)
    torch.manual_seed(5)
    error = noise.sample(mean.shape).abs()
    optimiser = torch.optim.LBFGS([bias], max_iter=8, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        _, log_scale = network.forward_with_scale(ct, mask)
        loss = (error * torch.exp(-log_scale) + log_scale).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        learnt = network.forward_with_scale(ct, mask)[1].exp().mean()
    assert learnt == pytest.approx(float(error.mean()), rel=1e-3)  # the maximum-likelihood estimate
    assert learnt == pytest.approx(0.25, rel=0.05)


def test_a_network_without_a_scale_head_says_so() -> None:
    with pytest.raises(ValueError, match="heteroscedastic=False"):
        _tiny().forward_with_scale(*_input())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transforms_of_all_options_run_under_autocast(dtype: torch.dtype) -> None:
    network = _tiny(image_pyramid=True, unet_skips=True, decoder="idwt", heteroscedastic=True)
    ct, mask = _input()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is torch.bfloat16):
        mean, log_scale = network.forward_with_scale(ct, mask)
    (mean.float().square().mean() + log_scale.mean()).backward()
    assert log_scale.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
