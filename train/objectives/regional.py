"""Squared error of regional means: what is left of the residual when its texture is averaged away.

Early ischaemia changes a region by less than the spread of its pixels, so the pixel loss spends most of its gradient
on texture that CT cannot show. The least value of both losses is the same mean prediction; this one finds it for whole
regions first. Ours, from trials on the phantom.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from train.objectives.errors import ObjectiveError
from train.objectives.pixel import known_lesion

#: A block with less brain than this has no mean worth comparing.
LEAST_BRAIN = 0.05
_ALL_OF_IMAGE = (1, 2, 3)


def regional_loss(
    prediction: Tensor,
    target: Tensor,
    brain: Tensor,
    lesion: Tensor,
    *,
    blocks: int = 16,
    lesion_weight: float = 0.0,
    lesion_known: Tensor | None = None,
) -> Tensor:
    """Half the squared mean residual of overlapping blocks, weighted by their brain and lesion.

    Parameters
    ----------
    prediction, target : Tensor
        (B, 1, H, W) in [-1, 1].
    brain, lesion : Tensor
        (B, 1, H, W) in 0..1.
    blocks : int
        Blocks along a side of the frame, so that their size in millimetres is that of every resolution; they overlap
        by half.
    lesion_weight : float
        A block weighs its share of brain plus this times its share of lesion; the weights of an image sum to 1.
    lesion_known : Tensor, optional
        (B,): 0 where no lesion label exists; such an image has no lesion weight.

    Returns
    -------
    Tensor
        Scalar, mean over the batch; 0 for an image without brain.

    Raises
    ------
    ObjectiveError
        ``image_too_small`` when a block would be smaller than two pixels.
    """
    side = min(prediction.shape[-2:]) // blocks
    if side < 2:
        raise ObjectiveError("image_too_small", f"{blocks} blocks need an image of at least {2 * blocks} pixels")

    def pooled(image: Tensor) -> Tensor:
        return functional.avg_pool2d(image, side, side // 2)

    share = pooled(brain)
    mean = pooled((prediction - target) * brain) / share.clamp_min(LEAST_BRAIN)
    weights = share * (share > LEAST_BRAIN) + lesion_weight * pooled(brain * known_lesion(lesion, lesion_known))
    weights = weights / weights.sum(dim=_ALL_OF_IMAGE, keepdim=True).clamp_min(1e-6)
    return (weights * mean**2 / 2.0).sum(dim=_ALL_OF_IMAGE).mean()
