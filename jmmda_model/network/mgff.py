"""Mask-guided feature fusion (MGFF): how the brain mask enters the generator.

The paper states a convolutional fusion of CT and mask as a spatial prior; the layers are our
reconstruction. The CT channels themselves are never masked.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from jmmda_model.network.layers import (
    InstanceNorm,
    conv_reflect,
    init_kaiming,
    init_normal,
    init_zero,
    norm_relu,
    stem,
)


class ResidualGate(nn.Module):
    """Stem with a mask branch that gates the CT features and is added to them.

    No normalisation in the mask branch: a slice whose mask is constant would be normalised to zero, and
    an area would lose its size. The last convolution starts at zero, so that training starts exactly at
    the generator without MGFF. The mask branch itself is initialised for ReLU (Kaiming); with N(0, 0.02)
    it stays silent.

    Parameters
    ----------
    in_channels, mask_channels
        Channels of CT and mask.
    channels
        Channels of the features.
    """

    def __init__(self, in_channels: int, mask_channels: int, channels: int) -> None:
        super().__init__()
        self.stem = stem(in_channels, channels)
        half = max(channels // 2, 1)
        self.mask_branch = nn.Sequential(
            conv_reflect(mask_channels, half, 7),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, channels, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.gate = nn.Conv2d(channels, channels, 1)
        self.merge = nn.Conv2d(3 * channels, channels, 1)
        self.merge_norm = norm_relu()
        self.last = nn.Conv2d(channels, channels, 3, padding=1)
        init_normal(self.stem)
        init_kaiming(self.mask_branch, self.gate, self.merge)
        init_zero(self.last)

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Return features (B, channels, H, W) of CT (B, in_channels, H, W) and mask."""
        features = self.stem(ct)
        prior = self.mask_branch(mask)
        gated = features * torch.sigmoid(self.gate(prior))
        merged = self.merge_norm(self.merge(torch.cat([features, prior, gated], dim=1)))
        return cast(Tensor, features + self.last(merged))


class ConcatStem(nn.Module):
    """Control: the mask as additional input channels of the plain stem.

    Parameters
    ----------
    in_channels, mask_channels
        Channels of CT and mask.
    channels
        Channels of the features.
    """

    def __init__(self, in_channels: int, mask_channels: int, channels: int) -> None:
        super().__init__()
        self.stem = stem(in_channels + mask_channels, channels)
        init_normal(self)

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Return features (B, channels, H, W)."""
        return cast(Tensor, self.stem(torch.cat([ct, mask.to(ct.dtype)], dim=1)))


class PlainStem(nn.Module):
    """Stem of pix2pixHD; the mask is not seen.

    Parameters
    ----------
    in_channels
        Channels of CT.
    channels
        Channels of the features.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stem = stem(in_channels, channels)
        init_normal(self)

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Return features (B, channels, H, W)."""
        return cast(Tensor, self.stem(ct))


class SpadeNorm(nn.Module):
    """Instance norm whose scale and shift come from the mask (spatially-adaptive normalisation).

    Scale and shift start at the identity.

    Parameters
    ----------
    channels
        Channels of the map to normalise.
    mask_channels
        Channels of the mask.
    hidden
        Channels between mask and modulation.
    """

    def __init__(self, channels: int, mask_channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = InstanceNorm()
        self.shared = nn.Sequential(nn.Conv2d(mask_channels, hidden, 3, padding=1), nn.ReLU(inplace=True))
        self.scale = nn.Conv2d(hidden, channels, 3, padding=1)
        self.shift = nn.Conv2d(hidden, channels, 3, padding=1)
        init_kaiming(self.shared)
        init_zero(self.scale, self.shift)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the modulated map; the mask is averaged down to the size of ``x``."""
        factor = mask.shape[-1] // x.shape[-1]
        if factor > 1:
            mask = functional.avg_pool2d(mask, factor)
        prior = self.shared(mask)
        normed = self.norm(x)
        return cast(Tensor, normed * (1 + self.scale(prior)) + self.shift(prior))
