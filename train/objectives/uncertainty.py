"""The heteroscedastic term: a Laplace distribution of every pixel, whose scale the network predicts.

Source: Kendall and Gal, NeurIPS 2017 (learnt loss attenuation), with the Laplace density (an L1 residual) in place of
the normal one. Where it is counted is ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def laplace_nll(residual: Tensor, log_scale: Tensor) -> Tensor:
    """Negative log-density of Laplace residuals: abs(e) / b + log(2 b), with b = exp(``log_scale``), element-wise.

    Parameters
    ----------
    residual : Tensor
        Prediction minus target, any shape.
    log_scale : Tensor
        Natural logarithm of b, same shape; b is the expected absolute residual.

    Returns
    -------
    Tensor
        Same shape.
    """
    return residual.abs() * torch.exp(-log_scale) + log_scale + math.log(2.0)


def heteroscedastic_loss(prediction: Tensor, log_scale: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted Laplace negative log-likelihood, averaged over the batch.

    Parameters
    ----------
    prediction, log_scale, target : Tensor
        (B, 1, H, W). Detach the prediction to fit the scale to its residuals and leave the prediction alone.
    weights : Tensor
        (B, 1, H, W), zero outside the brain (`train.objectives.pixel.likelihood_weights`): the
        background is exact, and its likelihood has no upper bound.

    Returns
    -------
    Tensor
        Scalar; may be negative.
    """
    # Set to 0 before the exponential, not only weighted by 0: outside, the scale may overflow, and 0 * inf is NaN.
    counted = weights > 0
    nothing = torch.zeros_like(target)
    cost = laplace_nll(torch.where(counted, prediction - target, nothing), torch.where(counted, log_scale, nothing))
    return (weights * cost).sum(dim=(1, 2, 3)).mean()
