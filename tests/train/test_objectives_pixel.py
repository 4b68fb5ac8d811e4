"""The pixel term: weights in both normalisations, unknown lesions, every kind of cost, adaptive loss in the brain only.

Leaves out the robust losses themselves (test_objectives_robust).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from train.objectives import AdaptiveRobust, ObjectiveError, pixel_cost, pixel_loss, pixel_weights
from train.recipe import LossRecipe


@pytest.fixture
def labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Two brains of unlike size in a frame of 20 x 20, a lesion of one pixel in each."""
    brain = torch.zeros(2, 1, 20, 20)
    brain[0, :, 2:6, 2:6] = 1
    brain[1, :, 2:18, 2:18] = 1
    lesion = torch.zeros_like(brain)
    lesion[:, :, 3, 3] = 1
    return brain, lesion


def test_weights_sum_to_one_in_brain_whatever_its_size_and_favour_the_lesion(labels) -> None:
    brain, lesion = labels
    weights = pixel_weights(brain, lesion, lesion_weight=4.0, background_weight=0.02)
    inside = (weights * brain).sum(dim=(1, 2, 3))
    outside = (weights * (1 - brain)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(inside, torch.ones(2))
    torch.testing.assert_close(outside, torch.full((2,), 0.02))
    torch.testing.assert_close(weights[1, 0, 3, 3], 5 * weights[1, 0, 10, 10])


def test_brain_weight_sets_the_brain_against_the_lesion(labels) -> None:
    weights = pixel_weights(*labels, lesion_weight=4.0, background_weight=0.0, brain_weight=0.5)
    torch.testing.assert_close(weights[1, 0, 3, 3], 9 * weights[1, 0, 10, 10])


def test_frame_weights_have_mean_one_and_follow_the_specified_map(labels) -> None:
    brain, lesion = labels
    weights = pixel_weights(brain, lesion, 4.0, 0.5, brain_weight=1.0, normalise="frame")
    plain = 1.0 + brain.numpy() + 4.0 * lesion.numpy()
    wanted = plain / plain.mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(weights.numpy() * 400, wanted, rtol=1e-5)


@pytest.mark.parametrize("normalise", ["brain", "frame"])
def test_unknown_lesion_has_no_weight(labels, normalise) -> None:
    brain, lesion = labels
    known = torch.tensor([1.0, 0.0])
    weights = pixel_weights(brain, lesion, 4.0, 0.02, normalise=normalise, lesion_known=known)
    without = pixel_weights(brain, torch.zeros_like(lesion), 4.0, 0.02, normalise=normalise)
    with_it = pixel_weights(brain, lesion, 4.0, 0.02, normalise=normalise)
    torch.testing.assert_close(weights[1], without[1])
    torch.testing.assert_close(weights[0], with_it[0])
    assert not torch.equal(with_it[1], without[1])


@pytest.mark.parametrize("normalise", ["brain", "frame"])
@pytest.mark.parametrize("pixel", ["squared", "robust", "adaptive", "l1"])
def test_slice_without_brain_has_finite_loss_and_gradient(pixel, normalise) -> None:
    prediction = torch.zeros(1, 1, 8, 8, requires_grad=True)
    empty = torch.zeros(1, 1, 8, 8)
    recipe = LossRecipe(pixel=pixel, normalise=normalise)
    loss = pixel_loss(prediction, empty - 1, empty, empty, recipe, adaptive=AdaptiveRobust())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize(
    ("pixel", "cost"),
    [("squared", 0.2**2 / 2), ("l1", 0.2), ("robust", 0.5**2 * (math.sqrt((0.2 / 0.5) ** 2 + 1) - 1))],
)
def test_even_residual_in_the_brain_costs_its_closed_form(pixel, cost) -> None:
    brain = torch.zeros(1, 1, 8, 8)
    brain[..., 2:6, 2:6] = 1
    prediction, target = torch.full_like(brain, 0.3), torch.full_like(brain, 0.1)
    recipe = LossRecipe(pixel=pixel, background_weight=0.0)
    loss = pixel_loss(prediction, target, brain, torch.zeros_like(brain), recipe)
    assert float(loss) == pytest.approx(cost, rel=1e-5)


def test_weighted_loss_is_the_weighted_mean_of_numpy(labels) -> None:
    brain, lesion = labels
    rng = np.random.default_rng(0)
    prediction, target = (torch.from_numpy(rng.uniform(-1, 1, (2, 1, 20, 20))) for _ in range(2))
    loss = pixel_loss(prediction, target, brain, lesion, LossRecipe(background_weight=0.1))
    half_square = ((prediction - target) ** 2 / 2).numpy()
    each = []
    for image in range(2):
        inside, marked = brain[image].numpy() > 0, lesion[image].numpy() > 0
        weight = np.where(marked, 5.0, 1.0)
        each.append(
            np.average(half_square[image][inside], weights=weight[inside]) + 0.1 * half_square[image][~inside].mean()
        )
    assert float(loss) == pytest.approx(np.mean(each), rel=1e-6)


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


def test_adaptive_likelihood_is_counted_in_the_brain_only(labels) -> None:
    brain, lesion = labels
    rng = np.random.default_rng(1)
    noise = torch.from_numpy(rng.normal(0, 0.3, (2, 1, 20, 20)).astype(np.float32))
    recipe = LossRecipe(pixel="adaptive", lesion_weight=0.0, background_weight=0.02)

    def loss_and_pull(residual: torch.Tensor) -> tuple[float, float]:
        adaptive = AdaptiveRobust(1.0, 0.5)
        loss = pixel_loss(residual, torch.zeros_like(residual), brain, lesion, recipe, adaptive=adaptive)
        loss.backward()
        return float(loss.detach()), float(adaptive.latent_scale.grad)

    exact_outside, pull = loss_and_pull(noise * brain)
    wrong_outside, same_pull = loss_and_pull(noise * brain + 0.4 * (1 - brain))
    assert same_pull == pytest.approx(pull, rel=1e-6)
    assert wrong_outside - exact_outside == pytest.approx(0.02 * 0.4**2 / 2, rel=1e-3)
    with torch.no_grad():
        likelihood = AdaptiveRobust(1.0, 0.5)(noise)
    wanted = np.mean([likelihood[i][brain[i] > 0].mean() for i in range(2)])
    assert exact_outside == pytest.approx(float(wanted), rel=1e-5)


def test_kinds_without_a_fixed_cost_are_refused() -> None:
    image = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ObjectiveError, match="none"):
        pixel_cost(image, LossRecipe(pixel="none"))
    with pytest.raises(ObjectiveError, match="AdaptiveRobust"):
        pixel_loss(image, image, image, image, LossRecipe(pixel="adaptive"))
