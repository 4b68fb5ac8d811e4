"""Loss terms: limits and known values of the robust loss, weights, LSGAN and feature matching, gradients at the output.

Leaves out whether the terms train a good network; that is measured in docs/results.md.
"""

from __future__ import annotations

import math

import pytest
import torch

from train.objectives import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    feature_matching_loss,
    gradient_norms,
    pixel_loss,
    pixel_weights,
    robust_rho,
)
from train.recipe import LossRecipe


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


def test_robust_loss_refuses_a_scale_of_zero() -> None:
    with pytest.raises(ValueError, match="positive"):
        robust_rho(torch.zeros(1), 1.0, 0.0)


def test_weights_sum_to_one_in_brain_whatever_its_size_and_favour_the_lesion() -> None:
    brain = torch.zeros(2, 1, 20, 20)
    brain[0, :, 2:6, 2:6] = 1
    brain[1, :, 2:18, 2:18] = 1
    lesion = torch.zeros_like(brain)
    lesion[:, :, 3, 3] = 1
    weights = pixel_weights(brain, lesion, lesion_weight=4.0, background_weight=0.02)
    inside = (weights * brain).sum(dim=(1, 2, 3))
    outside = (weights * (1 - brain)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(inside, torch.ones(2))
    torch.testing.assert_close(outside, torch.full((2,), 0.02))
    torch.testing.assert_close(weights[1, 0, 3, 3], 5 * weights[1, 0, 10, 10])


def test_slice_without_brain_has_finite_loss_and_gradient() -> None:
    prediction = torch.zeros(1, 1, 8, 8, requires_grad=True)
    empty = torch.zeros(1, 1, 8, 8)
    loss = pixel_loss(prediction, empty - 1, empty, empty, LossRecipe())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


def test_squared_pixel_loss_is_half_the_mean_squared_error_of_the_brain_without_lesion() -> None:
    brain = torch.zeros(1, 1, 8, 8)
    brain[..., 2:6, 2:6] = 1
    prediction, target = torch.full_like(brain, 0.3), torch.full_like(brain, 0.1)
    loss = pixel_loss(prediction, target, brain, torch.zeros_like(brain), LossRecipe(background_weight=0.0))
    assert float(loss) == pytest.approx(0.2**2 / 2)


def test_robust_pixel_loss_equals_the_squared_one_for_small_residuals_and_forgives_large_ones() -> None:
    brain = torch.ones(1, 1, 8, 8)
    none = torch.zeros_like(brain)

    def both(residual: float) -> tuple[float, float]:
        squared = pixel_loss(brain * residual, none, brain, none, LossRecipe())
        robust = pixel_loss(brain * residual, none, brain, none, LossRecipe(pixel="robust"))
        return float(squared), float(robust)

    small, large = both(0.01), both(1.5)
    assert small[1] == pytest.approx(small[0], rel=1e-3)
    assert large[1] < 0.6 * large[0]


def test_adversarial_losses_at_their_ideal_and_worst_outputs() -> None:
    ones, zeros = [[torch.zeros(1), torch.ones(1, 1, 3, 3)]], [[torch.zeros(1), torch.zeros(1, 1, 2, 2)]]
    assert float(adversarial_generator_loss(ones)) == 0.0
    assert float(adversarial_generator_loss(zeros)) == 1.0
    assert float(adversarial_discriminator_loss(ones, zeros)) == 0.0
    assert float(adversarial_discriminator_loss(zeros, ones)) == 1.0
    assert float(adversarial_generator_loss([*ones, *zeros])) == 0.5


def test_feature_matching_leaves_out_the_logits_and_the_gradient_of_the_truth() -> None:
    ours = torch.tensor([1.0], requires_grad=True)
    theirs = torch.tensor([3.0], requires_grad=True)
    loss = feature_matching_loss([[theirs, torch.tensor([100.0])]], [[ours, torch.tensor([0.0])]])
    loss.backward()
    assert float(loss.detach()) == 2.0
    assert float(ours.grad) == -1.0
    assert theirs.grad is None


def test_gradient_norms_are_those_of_each_term_and_leave_the_graph() -> None:
    prediction = torch.tensor([3.0, 4.0], requires_grad=True)
    terms = {"half_square": (prediction**2).sum() / 2, "sum": 2 * prediction.sum()}
    norms = gradient_norms(terms, prediction)
    assert norms == pytest.approx({"half_square": 5.0, "sum": 2 * math.sqrt(2)})
    sum(terms.values()).backward()
    torch.testing.assert_close(prediction.grad, torch.tensor([5.0, 6.0]))
