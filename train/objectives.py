"""The terms of the training loss (pixel, least-squares adversarial, feature matching) and their pull at the output.

Sources: LSGAN and feature matching as in pix2pixHD (Wang et al., CVPR 2018); the robust loss is Barron's (CVPR 2019).
Normalising over the brain, the lesion weight and the weights of the terms are ours: with the paper's method section
unpublished, this is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from train.recipe import LossRecipe

#: What a discriminator returns: for each scale its features in order, the last being the logits.
Features = Sequence[Sequence[Tensor]]

_LIMIT_TOLERANCE = 1e-4


def robust_rho(residual: Tensor, alpha: float, scale_c: float) -> Tensor:
    """Barron's general robust loss, element-wise.

    rho(e, a, c) = |a-2|/a * (((e/c)^2/|a-2| + 1)^(a/2) - 1), with the limits a = 2, a = 0 and a = -inf.

    Parameters
    ----------
    residual : Tensor
        Prediction minus target, any shape.
    alpha : float
        Shape: 2 is squared error, 1 Charbonnier, 0 Cauchy, -inf Welsch.
    scale_c : float
        Residual at which the loss turns from quadratic to its tail.

    Returns
    -------
    Tensor
        Loss of each element, zero where the residual is zero.

    Raises
    ------
    ValueError
        When ``scale_c`` is not positive.
    """
    if scale_c <= 0.0:
        raise ValueError(f"scale_c must be positive, not {scale_c}")
    squared = (residual / scale_c) ** 2
    if abs(alpha - 2.0) < _LIMIT_TOLERANCE:
        return squared / 2.0
    if abs(alpha) < _LIMIT_TOLERANCE:
        return torch.log1p(squared / 2.0)
    if alpha == float("-inf"):
        return 1.0 - torch.exp(-squared / 2.0)
    distance = abs(alpha - 2.0)
    return distance / alpha * ((squared / distance + 1.0) ** (alpha / 2.0) - 1.0)


def pixel_weights(brain: Tensor, lesion: Tensor, lesion_weight: float, background_weight: float) -> Tensor:
    """Weight of every pixel: brain 1, lesion in the brain 1 + ``lesion_weight``, outside ``background_weight``.

    The weights of brain and lesion are scaled so that they sum to 1 in each image, and the background sums to at most
    ``background_weight``: the frame is three quarters background, and dividing by the frame would let it drown the
    brain.

    Parameters
    ----------
    brain, lesion : Tensor
        (B, 1, H, W) in 0..1.
    lesion_weight, background_weight : float
        See `train.recipe.LossRecipe`.

    Returns
    -------
    Tensor
        (B, 1, H, W), not negative.
    """
    inside = brain * (1.0 + lesion_weight * lesion)
    outside = 1.0 - brain
    inside = inside / inside.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1.0)
    outside = outside / outside.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1.0)
    return inside + background_weight * outside


def pixel_loss(prediction: Tensor, target: Tensor, brain: Tensor, lesion: Tensor, loss: LossRecipe) -> Tensor:
    """Weighted pixel loss, averaged over the batch.

    Parameters
    ----------
    prediction, target : Tensor
        (B, 1, H, W) in [-1, 1].
    brain, lesion : Tensor
        (B, 1, H, W) in 0..1. The lesion enters here, in the loss, and never as an input of the network.
    loss : LossRecipe
        Kind and weights. The robust loss is multiplied by c^2, so that small residuals count as in the squared loss.

    Returns
    -------
    Tensor
        Scalar.
    """
    residual = prediction - target
    if loss.pixel == "squared":
        cost = residual**2 / 2.0
    else:
        cost = robust_rho(residual, loss.alpha, loss.scale_c) * loss.scale_c**2
    weights = pixel_weights(brain, lesion, loss.lesion_weight, loss.background_weight)
    return (weights * cost).sum(dim=(1, 2, 3)).mean()


def adversarial_generator_loss(fake: Features) -> Tensor:
    """Least-squares generator loss (targets 1), averaged over the scales; scalar."""
    return torch.stack([((scale[-1] - 1.0) ** 2).mean() for scale in fake]).mean()


def adversarial_discriminator_loss(real: Features, fake: Features) -> Tensor:
    """Least-squares discriminator loss: half of real (target 1) plus fake (target 0), mean over scales; scalar."""
    terms = [
        0.5 * (((on_real[-1] - 1.0) ** 2).mean() + (on_fake[-1] ** 2).mean())
        for on_real, on_fake in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def feature_matching_loss(real: Features, fake: Features) -> Tensor:
    """L1 between the discriminator's features of truth (detached) and prediction, mean over all layers; scalar."""
    terms = [
        functional.l1_loss(ours, theirs.detach())
        for on_real, on_fake in zip(real, fake, strict=True)
        for theirs, ours in zip(on_real[:-1], on_fake[:-1], strict=True)
    ]
    return torch.stack(terms).mean()


def gradient_norms(terms: Mapping[str, Tensor], prediction: Tensor) -> dict[str, float]:
    """Norm of the gradient of each (weighted) term at the generator's output.

    The values of the terms do not say which one steers the generator; their gradients at the output do, and they drift.

    Parameters
    ----------
    terms : Mapping[str, Tensor]
        Name -> scalar that depends on ``prediction``.
    prediction : Tensor
        (B, 1, H, W), part of the graph of every term.

    Returns
    -------
    dict[str, float]
        Name -> Euclidean norm over the whole batch. The graph is kept for the backward pass that follows.
    """
    norms = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, prediction, retain_graph=True)
        norms[name] = float(gradient.norm())
    return norms
