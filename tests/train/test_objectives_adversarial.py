"""Least-squares and hinge losses, feature matching and R1 on cases small enough to work out by hand.

Leaves out whether adversarial training sharpens anything; that is measured in docs/results.md.
"""

from __future__ import annotations

import pytest
import torch

from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.settings import DiscriminatorSettings
from train.objectives import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    feature_matching_loss,
    r1_penalty,
)


def logits(*values: float) -> list[torch.Tensor]:
    """One scale: a feature map that must not matter, and logits of the given values."""
    return [torch.full((1, 1, 2, 2), 50.0), torch.tensor(values).view(1, 1, 1, -1)]


def test_least_squares_at_its_ideal_and_worst_outputs() -> None:
    ones, zeros = [logits(1.0, 1.0)], [logits(0.0)]
    assert float(adversarial_generator_loss(ones)) == 0.0
    assert float(adversarial_generator_loss(zeros)) == 1.0
    assert float(adversarial_discriminator_loss(ones, zeros)) == 0.0
    assert float(adversarial_discriminator_loss(zeros, ones)) == 1.0


def test_least_squares_by_hand_over_two_scales_of_unlike_size() -> None:
    real, fake = [logits(0.5, 1.5), logits(2.0)], [logits(0.0, 1.0), logits(-1.0)]
    assert float(adversarial_generator_loss(fake)) == pytest.approx(((1 + 0) / 2 + 4) / 2)
    assert float(adversarial_discriminator_loss(real, fake)) == pytest.approx(
        (0.5 * (0.25 + 0.5) + 0.5 * (1.0 + 1.0)) / 2
    )


def test_hinge_by_hand_over_two_scales_of_unlike_size() -> None:
    real, fake = [logits(0.5, 1.5), logits(2.0)], [logits(0.0, 1.0), logits(-3.0)]
    assert float(adversarial_generator_loss(fake, "hinge")) == pytest.approx((-0.5 + 3.0) / 2)
    assert float(adversarial_discriminator_loss(real, fake, "hinge")) == pytest.approx(
        (0.5 * (0.25 + 1.5) + 0.5 * (0.0 + 0.0)) / 2
    )


def test_hinge_no_longer_pulls_on_what_is_told_apart_by_the_margin() -> None:
    real = torch.tensor([[[[1.5, 0.5]]]], requires_grad=True)
    fake = torch.tensor([[[[-1.5, 0.0]]]], requires_grad=True)
    adversarial_discriminator_loss([[real]], [[fake]], "hinge").backward()
    assert real.grad.flatten().tolist() == [0.0, -0.25]
    assert fake.grad.flatten().tolist() == [0.0, 0.25]


def test_feature_matching_leaves_out_the_logits_and_the_gradient_of_the_truth() -> None:
    ours = torch.tensor([1.0], requires_grad=True)
    theirs = torch.tensor([3.0], requires_grad=True)
    loss = feature_matching_loss([[theirs, torch.tensor([100.0])]], [[ours, torch.tensor([0.0])]])
    loss.backward()
    assert float(loss.detach()) == 2.0
    assert float(ours.grad) == -1.0
    assert theirs.grad is None


@pytest.mark.parametrize(("n_layers", "num_scales"), [(3, 2), (2, 3)])
def test_four_times_feature_matching_is_pix2pixhd_s(n_layers: int, num_scales: int) -> None:
    discriminator = build_discriminator(
        DiscriminatorSettings(in_channels=1, ndf=4, n_layers=n_layers, num_scales=num_scales)
    )
    with torch.no_grad():
        real, fake = (discriminator(torch.randn(1, 1, 64, 64)) for _ in range(2))
    published = 0.0  # the loops of pix2pixHD_model.py, without its lambda_feat of 10
    feat_weights, d_weights = 4.0 / (n_layers + 1), 1.0 / num_scales
    for scale in range(num_scales):
        for layer in range(len(fake[scale]) - 1):
            published += d_weights * feat_weights * float((fake[scale][layer] - real[scale][layer]).abs().mean())
    assert 4 * float(feature_matching_loss(real, fake)) == pytest.approx(published, rel=1e-5)


def test_r1_of_a_linear_discriminator_is_its_squared_weight() -> None:
    weight = torch.tensor([[[[3.0, -1.0], [2.0, 0.5]]]], requires_grad=True)
    real = torch.randn(5, 1, 2, 2, requires_grad=True)
    answer = [[(real * weight).sum(dim=(1, 2, 3)).view(-1, 1, 1, 1)]]
    penalty = r1_penalty(answer, real, gamma=10.0, every=16)
    assert float(penalty.detach()) == pytest.approx(16 * 10.0 / 2 * (9 + 1 + 4 + 0.25), rel=1e-6)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 16 * 10.0 * weight.detach())


def test_r1_is_a_mean_over_images_patches_and_scales() -> None:
    real = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).requires_grad_()
    patches = torch.cat([real**2, 3 * real], dim=-1)  # mean verdict x^2 / 2 + 3 x / 2, slope x + 1.5
    second = 5 * real  # slope 5; mean of both scales (x + 6.5) / 2
    penalty = r1_penalty([[patches], [second]], real, gamma=2.0)
    assert float(penalty.detach()) == pytest.approx((3.75**2 + 4.25**2) / 2)


def test_r1_of_the_real_discriminator_is_that_of_finite_differences_and_reaches_its_weights() -> None:
    torch.manual_seed(1)
    settings = DiscriminatorSettings(in_channels=2, ndf=4, n_layers=2, num_scales=2, spectral_norm=True)
    discriminator = build_discriminator(settings).double().eval()
    ct = torch.randn(1, 1, 32, 32, dtype=torch.float64)
    real = torch.randn(1, 1, 32, 32, dtype=torch.float64, requires_grad=True)

    def verdict(image: torch.Tensor) -> torch.Tensor:
        answers = discriminator(torch.cat([ct, image], dim=1))
        return torch.stack([scale[-1].mean() for scale in answers]).mean()

    penalty = r1_penalty(discriminator(torch.cat([ct, real], dim=1)), real, gamma=1.0)
    penalty.backward()
    weights = [p.grad for name, p in discriminator.named_parameters() if "weight" in name or "original" in name]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in weights)
    with torch.no_grad():
        direction = torch.autograd.functional.jacobian(verdict, real.detach())
        length = float(direction.norm())
        step = 1e-4 * direction / length
        slope = float(verdict(real + step) - verdict(real - step)) / 2e-4
    assert slope == pytest.approx(length, rel=1e-4)
    assert float(penalty.detach()) == pytest.approx(slope**2 / 2, rel=1e-3)
