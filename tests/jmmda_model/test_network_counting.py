"""What networks cost: multiply-adds and saved memory against values counted by hand, for every option.

Left out: time (benchmarks), and memory of the optimiser, which its own documentation gives.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from jmmda_model.network.counting import count_gmac, count_parameters, count_saved_mib, describe
from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.generator import build_generator
from jmmda_model.network.mfab import TokenAttention
from jmmda_model.network.settings import DiscriminatorSettings, GeneratorSettings, Size

NGF, PX = 8, 32
"""Width of the tiny network, and the side of the images here."""


@pytest.mark.parametrize(
    ("size", "gmac", "tokens"),
    [
        ("paper", 64.6, [(1024, 128), (1024, 256), (1024, 256), (256, 256)]),
        ("base", 61.1, [(1024, 128), (1024, 256), (1024, 256)]),
        ("small", 16.1, [(1024, 64), (1024, 128), (1024, 256)]),
    ],
)
def test_the_reconstruction_costs_what_its_prototype_did(
    size: Size, gmac: float, tokens: list[tuple[int, int]]
) -> None:
    # Counted for a prototype by instantiating its layers, one CT channel, one mask channel, 256 x 256. The products
    # of queries, keys and values have no layer and are not in that figure.
    products = sum(2 * count**2 * width for count, width in tokens) / 1e9
    settings = GeneratorSettings.for_size(size, in_channels=1, mask_channels=1)
    assert describe(settings, 256).gmac == pytest.approx(gmac + products, abs=0.07)


def test_attention_is_counted_with_its_two_products() -> None:
    count, width = 256, 16
    layers = (3 + 1 + 2 + 2) * count * width**2  # queries, keys, values; projection; both layers of the MLP
    for heads in (1, 4):
        attention = TokenAttention(width, heads)
        counted = count_gmac(attention, torch.zeros(1, count, width)) * 1e9
        assert counted == pytest.approx(layers + 2 * count**2 * width, rel=1e-12)


def test_a_narrow_pix2pixhd_costs_what_the_table_says() -> None:
    settings = GeneratorSettings.for_size("small", in_channels=1, mask_channels=1, mgff="none", mfab=False)
    cost = describe(settings, 256)
    assert cost.parameters / 1e6 == pytest.approx(11.40, abs=5e-3)
    assert cost.gmac == pytest.approx(12.9, abs=0.05)


def _tiny(**changes: Any) -> GeneratorSettings:
    return GeneratorSettings.for_size("tiny", **changes)


@cache
def _plain_gmac() -> float:
    return describe(_tiny(), PX).gmac


def _extra_macs(**changes: Any) -> float:
    return (describe(_tiny(**changes), PX).gmac - _plain_gmac()) * 1e9


def test_every_option_adds_the_multiply_adds_of_its_layers() -> None:
    levels = [(NGF * 2**level, (PX // 2 ** (level + 1)) ** 2) for level in range(2)]
    assert _extra_macs(image_pyramid=True) == pytest.approx(sum(12 * 4 * c * area for c, area in levels))
    assert _extra_macs(unet_skips=True) == pytest.approx(sum(2 * c * c * 4 * area for c, area in levels))
    # Both replace 9 * 2c * c at the small size by four times as much.
    enlarged = sum(3 * 9 * 2 * c * c * area for c, area in levels)
    assert _extra_macs(decoder="resize") == pytest.approx(enlarged)
    assert _extra_macs(decoder="idwt") == pytest.approx(enlarged)
    # Columns of 7 taps over the padded image, one more output channel of 7 x 7.
    assert _extra_macs(heteroscedastic=True) == pytest.approx(7 * 7 * NGF * PX * (PX + 6))


@pytest.mark.parametrize(
    "changes", [{}, {"wavelet": "db2"}, {"image_pyramid": True, "unet_skips": True, "decoder": "idwt"}]
)
def test_the_count_without_computing_is_the_count_of_computing(changes: dict[str, Any]) -> None:
    network = build_generator(_tiny(**changes))
    inputs = torch.zeros(1, 3, PX, PX), torch.zeros(1, 2, PX, PX)
    cost = describe(_tiny(**changes), PX)
    assert count_gmac(network, *inputs) == pytest.approx(cost.gmac, rel=1e-9)
    assert count_parameters(network) == cost.parameters
    saved = count_saved_mib(network, *inputs, parameters=network.parameters())
    assert saved == pytest.approx(cost.saved_mib, rel=1e-9)


def test_longer_wavelets_are_counted() -> None:
    # Two separable passes, 4 taps, low and high; periodising takes 2 positions more than half the side.
    def level(c: int, px: int) -> int:
        columns, rows = c * px * (px // 2 + 2), 2 * c * (px // 2) * (px // 2 + 2)
        return 2 * 4 * (columns + rows)

    assert _extra_macs(wavelet="db2") == pytest.approx(level(NGF, PX) + level(2 * NGF, PX // 2))


def test_saved_memory_is_that_of_the_tensors_kept() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 1, 1))
    saved = count_saved_mib(network, torch.zeros(1, 1, 256, 256), parameters=network.parameters())
    # The input, and the output of the ReLU, which the second convolution shares.
    assert saved == pytest.approx((1 + 4) * 256 * 256 * 4 / 2**20)


def test_a_discriminator_is_described_too() -> None:
    settings = DiscriminatorSettings(2)
    cost = describe(settings, 256)
    assert cost.parameters == count_parameters(build_discriminator(settings)) == 5_527_426
    assert cost.gmac == pytest.approx(4.6, abs=0.05)
    assert describe(DiscriminatorSettings(2, spectral_norm=True), 256).parameters == cost.parameters


def test_a_size_the_network_does_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        describe(_tiny(), 62)
