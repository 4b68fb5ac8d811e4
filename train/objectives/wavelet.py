"""The wavelet term: L1 between the high-frequency sub-bands of prediction and truth.

The transform is the network's own (`jmmda_model.network.wavelets`); the term and its weights are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from jmmda_model.network.wavelets import Dwt2d
from train.objectives.errors import ObjectiveError


def sub_bands(image: Tensor, levels: int, wavelet: str = "haar") -> list[Tensor]:
    """High-frequency sub-bands of an image, finest level first.

    Parameters
    ----------
    image : Tensor
        (B, C, H, W).
    levels : int
        H and W must be divisible by 2^levels.
    wavelet : str
        Name as PyWavelets spells it.

    Returns
    -------
    list of Tensor
        Level l: (B, C, 3, H / 2^l, W / 2^l), in the order LH, HL, HH (PyWavelets cH, cV, cD), orthonormal and
        periodised: `pywt.wavedec2` with ``mode="periodization"``.

    Raises
    ------
    ObjectiveError
        When the image is not divisible.
    """
    height, width = image.shape[-2:]
    if levels < 1 or height % 2**levels or width % 2**levels:
        raise ObjectiveError(
            "image_too_small", f"{height} x {width} pixels do not divide into {levels} levels of the wavelet transform"
        )
    transform = Dwt2d(wavelet)
    bands = []
    for _ in range(levels):
        image, high = transform(image)
        bands.append(high)
    return bands


def wavelet_loss(
    prediction: Tensor, target: Tensor, brain: Tensor | None = None, *, levels: int = 3, wavelet: str = "haar"
) -> Tensor:
    """Mean absolute difference of the high-frequency sub-bands, mean over levels 1 to ``levels``.

    Coefficients are divided by 2^(level - 1), the gain of the low-pass steps before them, so that coarse levels, whose
    orthonormal coefficients are larger, do not drown the fine ones this term is for.

    Parameters
    ----------
    prediction, target : Tensor
        (B, 1, H, W).
    brain : Tensor, optional
        (B, 1, H, W) in 0..1: each coefficient counts as much as the pixels it stands for lie in the brain. None: the
        whole frame.
    levels, wavelet
        See `sub_bands`.

    Returns
    -------
    Tensor
        Scalar, mean over the images.

    Raises
    ------
    ObjectiveError
        When the image is not divisible by 2^levels.
    """
    # The transform is linear: one of the difference serves for the difference of two.
    terms = []
    for level, high in enumerate(sub_bands(prediction - target, levels, wavelet), start=1):
        size = high.abs().mean(dim=(1, 2), keepdim=False).unsqueeze(1) / 2.0 ** (level - 1)
        terms.append(masked_mean(size, None if brain is None else functional.avg_pool2d(brain, 2**level)))
    return torch.stack(terms).mean()


def masked_mean(values: Tensor, share: Tensor | None) -> Tensor:
    """Mean over each image, weighted by ``share``, then over the images; an image without share counts 0.

    Parameters
    ----------
    values : Tensor
        (B, 1, h, w).
    share : Tensor or None
        (B, 1, h, w), not negative. None: all pixels alike.
    """
    if share is None:
        return values.mean()
    total = share.sum(dim=(1, 2, 3))
    return ((values * share).sum(dim=(1, 2, 3)) / total.clamp_min(1e-6)).mean()
