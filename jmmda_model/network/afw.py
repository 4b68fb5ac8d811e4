"""Adaptive fusion weighting (AFW): a weight per input, channel and pixel that depends on the content.

The paper names a CNN and attention that weigh the inputs; the layers are our reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from jmmda_model.network.layers import init_kaiming, init_normal, init_zero
from jmmda_model.network.settings import Afw


class AdaptiveFusion(nn.Module):
    """Weighted sum of K maps, with weights that are positive and sum to one.

    The last layers of both logit branches start at zero, so training starts from the plain mean.

    Parameters
    ----------
    channels
        Channels C of each input.
    inputs
        Number K of inputs.
    mode
        ``full``, or an ablation: ``channel_only``, ``spatial_only``, ``mean`` (fixed 1/K) or ``concat``
        (a 1x1 convolution of the concatenation, no weights).
    """

    def __init__(self, channels: int, inputs: int, mode: Afw = "full") -> None:
        super().__init__()
        self.channels = channels
        self.inputs = inputs
        self.mode = mode
        if mode == "mean":
            return
        if mode == "concat":
            self.mix = nn.Conv2d(inputs * channels, channels, 1)
            init_normal(self.mix)
            return
        width = max(channels // 8, 16)
        self.squeeze = nn.Conv2d(inputs * channels, width, 1)
        self.look = nn.Conv2d(width, width, 3, padding=1)
        init_kaiming(self.squeeze, self.look)
        if mode != "spatial_only":
            self.channel_hidden = nn.Linear(2 * width, width)
            self.channel_logits = nn.Linear(width, inputs * channels)
            init_kaiming(self.channel_hidden)
            init_zero(self.channel_logits)
        if mode != "channel_only":
            self.spatial_logits = nn.Conv2d(width, inputs, 1)
            init_zero(self.spatial_logits)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse the maps.

        Parameters
        ----------
        maps
            K tensors of shape (B, C, H, W).

        Returns
        -------
        torch.Tensor
            Shape (B, C, H, W).

        Raises
        ------
        ValueError
            If the number of maps is not K.
        """
        return self.fuse_with_weights(maps)[0]

    def fuse_with_weights(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Fuse the maps and return the weights too, shape (B, K, C, H, W); None in mode ``concat``."""
        if len(maps) != self.inputs:
            raise ValueError(f"this fusion takes {self.inputs} maps, got {len(maps)}")
        if self.mode == "concat":
            return cast(Tensor, self.mix(torch.cat(list(maps), dim=1))), None
        shape = (len(maps[0]), self.inputs, *maps[0].shape[1:])
        if self.mode == "mean":
            weights = maps[0].new_full((1, 1, 1, 1, 1), 1.0 / self.inputs).expand(shape)
        else:
            weights = torch.softmax(self._logits(maps), dim=1).to(maps[0].dtype).expand(shape)
        # One multiply-add per input: a stack of the inputs and its product with the weights would be written
        # to memory and kept for the gradient.
        parts = weights.unbind(dim=1)
        fused = parts[0] * maps[0]
        for weight, x in zip(parts[1:], maps[1:], strict=True):
            fused = torch.addcmul(fused, weight, x)
        return fused, weights

    def _logits(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits that broadcast to (B, K, C, H, W)."""
        parts = torch.split(self.squeeze.weight, self.channels, dim=1)
        # A sum of K convolutions equals one of the concatenation and saves a copy of all inputs.
        seen = functional.conv2d(maps[0], parts[0], self.squeeze.bias)
        for x, part in zip(maps[1:], parts[1:], strict=True):
            seen = seen + functional.conv2d(x, part)
        seen = functional.relu(self.look(functional.relu(seen)))
        logits: Tensor | None = None
        if self.mode != "spatial_only":
            pooled = torch.cat([seen.mean(dim=(2, 3)), seen.amax(dim=(2, 3))], dim=1)
            channel = self.channel_logits(functional.relu(self.channel_hidden(pooled)))
            logits = channel.view(-1, self.inputs, self.channels, 1, 1)
        if self.mode != "channel_only":
            spatial = self.spatial_logits(seen).unsqueeze(2)
            logits = spatial if logits is None else logits + spatial
        return cast(Tensor, logits)
