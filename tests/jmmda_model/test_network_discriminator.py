"""The multi-scale discriminator: parameter counts, shapes of all features, gradients, options.

Left out: adversarial training itself (train).
"""

from __future__ import annotations

import pytest
import torch

from jmmda_model.network.counting import count_gmac, count_parameters
from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.settings import DiscriminatorSettings, SettingsValueError


@pytest.mark.parametrize(("scales", "millions", "gmac"), [(2, 5.53, 4.6), (3, 8.29, 4.9)])
def test_parameter_count_is_that_of_pix2pixhd(scales: int, millions: float, gmac: float) -> None:
    with torch.device("meta"):
        discriminator = build_discriminator(DiscriminatorSettings(2, num_scales=scales))
        counted = count_gmac(discriminator, torch.zeros(1, 2, 256, 256))
    assert count_parameters(discriminator) / 1e6 == pytest.approx(millions, abs=5e-3)
    assert counted == pytest.approx(gmac, abs=0.05)


def test_sizes_of_all_features_at_256() -> None:
    with torch.device("meta"):
        results = build_discriminator(DiscriminatorSettings(2))(torch.zeros(1, 2, 256, 256))
    sizes = [[feature.shape[-1] for feature in features] for features in results]
    assert sizes == [[129, 65, 33, 34, 35], [65, 33, 17, 18, 19]]
    channels = [feature.shape[1] for feature in results[0]]
    assert channels == [64, 128, 256, 512, 1]


def test_the_second_scale_does_not_count_padding() -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(DiscriminatorSettings(1, ndf=4))
    halved = torch.full((1, 1, 32, 32), 0.5)
    expected = discriminator.scales[1](halved)
    got = discriminator(torch.full((1, 1, 64, 64), 0.5))[1]
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("spectral", [False, True])
def test_every_parameter_gets_a_finite_gradient(spectral: bool) -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(DiscriminatorSettings(4, ndf=4, spectral_norm=spectral))
    x = torch.randn(3, 4, 64, 64).clamp(-1, 1)
    x[:, :, :20] = -1.0
    loss = torch.stack([features[-1].sub(1).square().mean() for features in discriminator(x)]).sum()
    loss.backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_spectral_norm_bounds_every_convolution() -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(DiscriminatorSettings(2, ndf=4, num_scales=1, spectral_norm=True))
    for _ in range(30):  # the power iteration converges over forward passes
        discriminator(torch.randn(1, 2, 32, 32))
    discriminator.eval()
    convolutions = [m for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 5
    for convolution in convolutions:
        norm = torch.linalg.matrix_norm(convolution.weight.detach().flatten(1), ord=2)
        assert norm == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("spectral", [False, True])
def test_the_discriminator_compiles_without_a_graph_break(spectral: bool) -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(DiscriminatorSettings(4, ndf=4, num_scales=1, spectral_norm=spectral)).eval()
    x = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        compiled = torch.compile(discriminator, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(compiled, discriminator(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("spectral", [False, True])
def test_a_penalty_on_the_gradient_of_the_logits_has_its_own_gradient(spectral: bool) -> None:
    # R1 (the squared gradient on real images) differentiates twice. Compared with a central difference.
    torch.manual_seed(0)
    discriminator = build_discriminator(DiscriminatorSettings(2, ndf=4, spectral_norm=spectral)).double().eval()
    x = torch.randn(2, 2, 32, 32, dtype=torch.float64, requires_grad=True)
    weight = next(p for p in discriminator.scales[0].blocks[0].parameters() if p.ndim == 4)

    def penalty() -> torch.Tensor:
        logits = torch.stack([features[-1].sum() for features in discriminator(x)]).sum()
        (gradient,) = torch.autograd.grad(logits, x, create_graph=True)
        return gradient.square().sum()

    (slope,) = torch.autograd.grad(penalty(), weight)
    direction = torch.randn_like(weight)
    ends = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight.add_(direction, alpha=step)
        ends.append(float(penalty().detach()))
        with torch.no_grad():
            weight.sub_(direction, alpha=step)
    assert float((slope.detach() * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


def test_logits_are_free_of_an_activation() -> None:
    # Least squares and hinge both need them unbounded; the last layer alone decides their scale.
    torch.manual_seed(0)
    discriminator = build_discriminator(DiscriminatorSettings(2, ndf=4, num_scales=1))
    x = torch.randn(1, 2, 32, 32)
    with torch.no_grad():
        before = discriminator(x)[0][-1]
        discriminator.scales[0].logits.weight.mul_(-1000.0)
        torch.testing.assert_close(discriminator(x)[0][-1], -1000.0 * before, rtol=1e-3, atol=1e-3)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SettingsValueError, match="num_scales must be at least 1"):
        DiscriminatorSettings(2, num_scales=0)
