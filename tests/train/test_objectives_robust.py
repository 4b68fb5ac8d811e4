"""Barron's losses against SciPy: partition function, density, gradients, and a fit to samples of known spread.

Leaves out which pixels the adaptive loss is counted on (test_objectives_pixel) and whether it trains a better network.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from train.objectives import AdaptiveRobust, ObjectiveError, partition, robust_rho
from train.objectives.robust import TABLE_POINTS, log_partition_spline


def rho_in_numpy(x: float, alpha: float) -> float:
    """The general form as the article prints it."""
    return abs(alpha - 2) / alpha * ((x * x / abs(alpha - 2) + 1) ** (alpha / 2) - 1)


def log_partition_by_quadrature(alpha: float) -> float:
    half, _ = integrate.quad(
        lambda t: math.exp(-rho_in_numpy(math.sinh(t), alpha)) * math.cosh(t), 0, 60, epsabs=1e-13, epsrel=1e-12
    )
    return math.log(2 * half)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (2.0, lambda z: z**2 / 2),
        (1.0, lambda z: math.sqrt(z**2 + 1) - 1),
        (0.0, lambda z: math.log(z**2 / 2 + 1)),
        (-2.0, lambda z: 2 * z**2 / (z**2 + 4)),
        (float("-inf"), lambda z: 1 - math.exp(-(z**2) / 2)),
    ],
)
def test_robust_loss_has_its_named_special_cases(alpha: float, expected) -> None:
    residual = torch.tensor([-1.3, 0.0, 0.2, 2.0], dtype=torch.float64)
    wanted = torch.tensor([expected(float(e) / 0.5) for e in residual], dtype=torch.float64)
    torch.testing.assert_close(robust_rho(residual, alpha, 0.5), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("near", [2.0, 0.0])
def test_robust_loss_is_continuous_at_its_limits(near: float) -> None:
    residual = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(
        robust_rho(residual, near + 2e-4, 0.5), robust_rho(residual, near, 0.5), rtol=2e-3, atol=1e-6
    )


@pytest.mark.parametrize("alpha", [-3.0, 0.001, 0.3, 1.4, 1.9])
def test_robust_loss_keeps_its_digits_in_single_precision(alpha: float) -> None:
    residual = np.linspace(-1.9, 1.9, 7)
    wanted = [rho_in_numpy(e / 0.3, alpha) for e in residual]
    ours = robust_rho(torch.from_numpy(residual).float(), alpha, 0.3)
    np.testing.assert_allclose(ours.numpy(), wanted, rtol=3e-6, atol=1e-9)


def test_robust_loss_refuses_a_scale_of_zero() -> None:
    with pytest.raises(ValueError, match="positive"):
        robust_rho(torch.zeros(1), 1.0, 0.0)


@pytest.mark.parametrize(
    ("alpha", "value"), [(0.0, 4.44288), (0.5, 3.63899), (1.0, 3.27231), (1.5, 2.96592), (2.0, 2.50663)]
)
def test_partition_function_has_its_published_values(alpha: float, value: float) -> None:
    assert partition(alpha) == pytest.approx(value, abs=6e-6)


def test_partition_function_has_its_closed_forms() -> None:
    assert partition(0.0) == pytest.approx(math.pi * math.sqrt(2), rel=1e-12)
    assert partition(2.0) == pytest.approx(math.sqrt(2 * math.pi), rel=1e-12)


def test_partition_function_refuses_shapes_where_it_diverges() -> None:
    with pytest.raises(ValueError, match=r"alpha in 0\.\.2"):
        partition(-0.1)


def test_table_is_made_once_with_512_points() -> None:
    assert log_partition_spline().shape == (4, TABLE_POINTS - 1)
    assert log_partition_spline() is log_partition_spline()


@pytest.mark.parametrize("alpha", [0.0015, 0.0107, 0.3331, 1.0002, 1.7779, 1.9979, 1.9987])
def test_table_gives_value_and_slope_between_its_points(alpha: float) -> None:
    loss = AdaptiveRobust(alpha, 0.5).double()
    value = loss.log_partition()
    (slope,) = torch.autograd.grad(value, loss.latent_alpha)
    per_latent = float(torch.autograd.functional.jacobian(torch.sigmoid, loss.latent_alpha.detach())) * 1.998
    at, step = float(loss.alpha().detach()), 1e-4  # of the differences
    wanted = (log_partition_by_quadrature(at + step) - log_partition_by_quadrature(at - step)) / (2 * step)
    assert float(value.detach()) == pytest.approx(log_partition_by_quadrature(at), abs=1e-6)
    assert float(slope) / per_latent == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize(("alpha", "scale_c"), [(0.4, 0.05), (1.0, 0.5), (1.8, 2.0)])
def test_adaptive_loss_is_the_negative_logarithm_of_a_density(alpha: float, scale_c: float) -> None:
    loss = AdaptiveRobust(alpha, scale_c).double()

    def density(t: float) -> float:
        with torch.no_grad():
            residual = torch.tensor(scale_c * math.sinh(t), dtype=torch.float64)
            return math.exp(-float(loss(residual))) * scale_c * math.cosh(t)

    total, _ = integrate.quad(density, -40, 40, epsabs=1e-8, limit=200)
    assert total == pytest.approx(1.0, abs=2e-6)


def test_adaptive_loss_near_two_is_the_normal_one() -> None:
    residual = np.linspace(-1, 1, 11)
    with torch.no_grad():
        ours = AdaptiveRobust(1.9985, 0.4).double()(torch.from_numpy(residual))
    np.testing.assert_allclose(ours.numpy(), -stats.norm(scale=0.4).logpdf(residual), atol=0.02)


def test_adaptive_loss_has_the_gradients_of_finite_differences() -> None:
    loss = AdaptiveRobust(0.8, 0.2).double()
    residual = torch.tensor([-0.9, -0.04, 0.3, 1.7], dtype=torch.float64, requires_grad=True)

    def value(residual: torch.Tensor, latent_alpha: torch.Tensor, latent_scale: torch.Tensor) -> torch.Tensor:
        latents = {"latent_alpha": latent_alpha, "latent_scale": latent_scale}
        return torch.func.functional_call(loss, latents, (residual,))

    latents = [latent.detach().clone().requires_grad_() for latent in (loss.latent_alpha, loss.latent_scale)]
    assert torch.autograd.gradcheck(value, (residual, *latents), eps=1e-6, atol=1e-6)


def test_adaptive_loss_finds_the_spread_and_the_tail_of_samples() -> None:
    rng = np.random.default_rng(3)
    found = {}
    for name, samples in {
        "normal": rng.normal(0, 0.1, 4000),
        "heavy": 0.1 * rng.standard_t(1.5, 4000),
    }.items():
        loss = AdaptiveRobust(1.0, 0.5).double()
        residual = torch.from_numpy(samples)
        optimiser = torch.optim.Adam(loss.parameters(), lr=0.1)
        for _ in range(250):
            optimiser.zero_grad()
            loss(residual).mean().backward()
            optimiser.step()
        found[name] = float(loss.alpha().detach()), float(loss.scale_c().detach())
    assert found["normal"][0] > 1.7
    assert found["normal"][1] == pytest.approx(0.1, rel=0.1)
    assert found["heavy"][0] < 0.6


def test_adaptive_scale_stays_above_its_bound_on_exact_predictions() -> None:
    loss = AdaptiveRobust(1.0, 0.1)
    optimiser = torch.optim.Adam(loss.parameters(), lr=1.0)
    for _ in range(40):
        optimiser.zero_grad()
        loss(torch.zeros(8)).mean().backward()
        optimiser.step()
    assert 0.02 <= float(loss.scale_c().detach()) < 0.021
    assert torch.isfinite(loss(torch.tensor([0.0, 2.0]))).all()


@pytest.mark.parametrize(("alpha", "scale_c"), [(0.0, 0.5), (2.0, 0.5), (1.0, 0.02)])
def test_adaptive_loss_refuses_a_start_outside_its_range(alpha: float, scale_c: float) -> None:
    with pytest.raises(ObjectiveError, match="start") as caught:
        AdaptiveRobust(alpha, scale_c)
    assert caught.value.code == "adaptive_start"
