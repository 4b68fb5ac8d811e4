"""The pixel term: weights of brain, lesion and background, and the cost of a residual.

Barron's losses come from `train.objectives.robust`. Normalising over the brain, the lesion weight and the weights of
the terms are ours: with the paper's method section unpublished, this is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from train.objectives.errors import ObjectiveError
from train.objectives.robust import AdaptiveRobust, robust_rho

if TYPE_CHECKING:
    from train.recipe import LossRecipe

_ALL_OF_IMAGE = (1, 2, 3)
#: Below one pixel of the smallest partial brain; only there to divide an empty slice by something.
_EMPTY = 1e-6


def _sums_to_one(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=_ALL_OF_IMAGE, keepdim=True).clamp_min(_EMPTY)


def known_lesion(lesion: Tensor, lesion_known: Tensor | None) -> Tensor:
    """Lesion labels, zero in images of which no label exists.

    Parameters
    ----------
    lesion : Tensor
        (B, 1, H, W) in 0..1.
    lesion_known : Tensor, optional
        (B,): 0 where no lesion label exists. None: every image has one.

    Returns
    -------
    Tensor
        (B, 1, H, W).
    """
    return lesion if lesion_known is None else lesion * lesion_known.to(lesion.dtype).view(-1, 1, 1, 1)


def pixel_weights(
    brain: Tensor,
    lesion: Tensor,
    lesion_weight: float,
    background_weight: float,
    *,
    brain_weight: float = 1.0,
    normalise: Literal["brain", "frame"] = "brain",
    lesion_known: Tensor | None = None,
) -> Tensor:
    """Weight of every pixel of an image; the weighted sum of a cost is the image's loss.

    ``brain``: brain weighs ``brain_weight``, lesion in it ``lesion_weight`` more, scaled so that they sum to 1; the
    background sums to at most ``background_weight``. The frame is three quarters background, and dividing by the frame
    would let it drown the brain.

    ``frame``: 1 + ``brain_weight`` in the brain, ``lesion_weight`` more in the lesion, 1 elsewhere, scaled to a mean
    of 1 over the frame (and so, divided by the number of pixels, to a sum of 1); ``background_weight`` has no part.

    Parameters
    ----------
    brain, lesion : Tensor
        (B, 1, H, W) in 0..1.
    lesion_weight, background_weight, brain_weight, normalise
        See `train.recipe.LossRecipe`.
    lesion_known : Tensor, optional
        (B,): 0 where no lesion label exists; such an image has no lesion weight.

    Returns
    -------
    Tensor
        (B, 1, H, W), not negative; all finite for an empty brain.
    """
    labelled = known_lesion(lesion, lesion_known)
    if normalise == "frame":
        return _sums_to_one(1.0 + brain_weight * brain + lesion_weight * labelled)
    inside = _sums_to_one(brain * (brain_weight + lesion_weight * labelled))
    return inside + background_weight * _sums_to_one(1.0 - brain)


def likelihood_weights(brain: Tensor, lesion: Tensor, loss: LossRecipe, lesion_known: Tensor | None = None) -> Tensor:
    """Weights for a likelihood with a learnt scale: those of `pixel_weights` in the brain, none outside.

    The background is predicted exactly; a likelihood counted there has no upper bound, and its scale none below.

    Parameters
    ----------
    brain, lesion : Tensor
        (B, 1, H, W) in 0..1.
    loss : LossRecipe
        ``brain_weight`` and ``lesion_weight``; always normalised over the brain.
    lesion_known : Tensor, optional
        (B,): 0 where no lesion label exists.

    Returns
    -------
    Tensor
        (B, 1, H, W), sum 1 an image, 0 for an empty brain.
    """
    return pixel_weights(
        brain, lesion, loss.lesion_weight, 0.0, brain_weight=loss.brain_weight, lesion_known=lesion_known
    )


def pixel_cost(residual: Tensor, loss: LossRecipe) -> Tensor:
    """Cost of each residual under a fixed (not adaptive) pixel loss.

    Parameters
    ----------
    residual : Tensor
        Prediction minus target, any shape.
    loss : LossRecipe
        ``squared``: e^2 / 2. ``l1``: abs(e). ``robust``: Barron's rho times c^2, so that small residuals count as in
        the squared loss (a weight meant for rho times c, as in the ``paper`` preset, is divided by c).

    Raises
    ------
    ObjectiveError
        When the recipe's pixel loss is ``none`` or ``adaptive``.
    """
    costs: dict[str, Callable[[Tensor], Tensor]] = {
        "squared": lambda e: e**2 / 2.0,
        "l1": torch.abs,
        "robust": lambda e: robust_rho(e, loss.alpha, loss.scale_c) * loss.scale_c**2,
    }
    if loss.pixel not in costs:
        raise ObjectiveError("no_term", f"the pixel loss {loss.pixel!r} has no fixed cost per pixel")
    return costs[loss.pixel](residual)


def pixel_loss(
    prediction: Tensor,
    target: Tensor,
    brain: Tensor,
    lesion: Tensor,
    loss: LossRecipe,
    *,
    lesion_known: Tensor | None = None,
    adaptive: AdaptiveRobust | None = None,
) -> Tensor:
    """Weighted pixel loss, averaged over the batch.

    Parameters
    ----------
    prediction, target : Tensor
        (B, 1, H, W) in [-1, 1].
    brain, lesion : Tensor
        (B, 1, H, W) in 0..1. The lesion enters here, in the loss, and never as an input of the network.
    loss : LossRecipe
        Kind and weights.
    lesion_known : Tensor, optional
        (B,): 0 where no lesion label exists.
    adaptive : AdaptiveRobust, optional
        Needed by (and only used for) ``pixel = "adaptive"``: its likelihood is taken inside the brain only, else the
        exactly black background would pull its scale to zero; the background keeps e^2 / 2 at its small weight.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    ObjectiveError
        For ``pixel = "none"``, or ``adaptive`` without its parameters.
    """
    residual = prediction - target
    if loss.pixel != "adaptive":
        weights = pixel_weights(
            brain,
            lesion,
            loss.lesion_weight,
            loss.background_weight,
            brain_weight=loss.brain_weight,
            normalise=loss.normalise,
            lesion_known=lesion_known,
        )
        return (weights * pixel_cost(residual, loss)).sum(dim=_ALL_OF_IMAGE).mean()
    if adaptive is None:
        raise ObjectiveError("no_term", "the adaptive pixel loss needs its AdaptiveRobust parameters")
    inside = likelihood_weights(brain, lesion, loss, lesion_known)
    outside = loss.background_weight * _sums_to_one(1.0 - brain)
    weighted: Tensor = inside * adaptive(residual) + outside * (residual**2 / 2.0)
    return weighted.sum(dim=_ALL_OF_IMAGE).mean()
