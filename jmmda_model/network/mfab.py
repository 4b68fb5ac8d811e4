"""Multi-frequency attention block (MFAB): down-sampling with attention on wavelet sub-bands.

Stated by the paper: a wavelet transform, a low-frequency and a high-frequency path, attention on both,
cross-scale fusion, four heads, Haar. Every layer choice is our reconstruction. The strided convolution of
pix2pixHD stays inside as a third input of the fusion, which makes the ablation exact.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from jmmda_model.network.afw import AdaptiveFusion
from jmmda_model.network.layers import init_kaiming, init_normal, init_zero, norm_relu, strided
from jmmda_model.network.settings import MAX_ATTENTION_WIDTH, Afw, MfabPaths
from jmmda_model.network.wavelets import Dwt2d

TOKEN_GRID = 32
"""Largest side of the grid of attention tokens: full resolution would be 16384 tokens."""


class TokenAttention(nn.Module):
    """Pre-norm transformer layer; its two output projections start at zero.

    Parameters
    ----------
    width
        Channels of a token.
    heads
        Attention heads; must divide ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 2 * width)
        self.mlp_out = nn.Linear(2 * width, width)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        init_kaiming(self.mlp_in)
        init_zero(self.projection, self.mlp_out)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, N, width) after self-attention and MLP."""
        batch, count, width = tokens.shape
        qkv = self.qkv(self.attention_norm(tokens)).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(query, key, value)
        seen = seen.transpose(1, 2).reshape(batch, count, width)
        tokens = tokens + self.projection(seen)
        return cast(Tensor, tokens + self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(tokens)))))


def _pool_to_tokens(x: Tensor) -> Tensor:
    """Average ``x`` down to at most 32 x 32 positions."""
    height, width = x.shape[-2:]
    if height <= TOKEN_GRID and width <= TOKEN_GRID:
        return x
    if height % TOKEN_GRID == 0 and width % TOKEN_GRID == 0:
        return functional.avg_pool2d(x, (height // TOKEN_GRID, width // TOKEN_GRID))
    return functional.adaptive_avg_pool2d(x, (min(height, TOKEN_GRID), min(width, TOKEN_GRID)))


class LowPath(nn.Module):
    """Global self-attention on the low-frequency sub-band.

    Parameters
    ----------
    in_channels
        Channels of the sub-band.
    out_channels
        Channels of the result.
    heads
        Attention heads.
    """

    def __init__(self, in_channels: int, out_channels: int, heads: int) -> None:
        super().__init__()
        width = min(out_channels, MAX_ATTENTION_WIDTH)
        self.enter = nn.Conv2d(in_channels, width, 1)
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.attention = TokenAttention(width, heads)
        self.leave = nn.Conv2d(width, out_channels, 1)
        init_kaiming(self.enter, self.leave)
        init_normal(self.position)

    def forward(self, low: Tensor) -> Tensor:
        """Return a map (B, out_channels, H, W) of the scaled LL sub-band (B, in_channels, H, W)."""
        entered = self.enter(low)
        tokens = _pool_to_tokens(entered)
        tokens = tokens + self.position(tokens)
        batch, width, rows, columns = tokens.shape
        attended = self.attention(tokens.flatten(2).transpose(1, 2))
        attended = attended.transpose(1, 2).reshape(batch, width, rows, columns)
        if (rows, columns) != tuple(entered.shape[-2:]):
            attended = functional.interpolate(attended, size=entered.shape[-2:], mode="bilinear", align_corners=False)
        return cast(Tensor, self.leave(attended + entered))


def _turn_to_positive(layer: nn.Linear) -> None:
    """Turn the units of a layer, so that each answers to an input that is positive and even.

    Mean absolute values are such an input. Half of the units before a ReLU would be silent for it, and with few
    of them all could be: a gate that never learns.
    """
    with torch.no_grad():
        total = layer.weight.sum(dim=1, keepdim=True)
        layer.weight.copy_(torch.where(total < 0, -layer.weight, layer.weight))


class HighPath(nn.Module):
    """Edge attention on the three high-frequency sub-bands; convolutional, because edges are local.

    Parameters
    ----------
    in_channels
        Channels of each sub-band.
    out_channels
        Channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3 * in_channels, out_channels, 1)
        self.depthwise = nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels)
        self.pointwise = nn.Conv2d(out_channels, out_channels, 1)
        self.spatial_gate = nn.Conv2d(2, 1, 7, padding=3)
        hidden = max(out_channels // 8, 4)
        self.channel_hidden = nn.Linear(out_channels, hidden)
        self.channel_gate = nn.Linear(hidden, out_channels)
        init_kaiming(self.enter, self.depthwise, self.pointwise, self.channel_hidden, self.channel_gate)
        init_normal(self.spatial_gate)
        _turn_to_positive(self.channel_hidden)

    def forward(self, high: Tensor) -> Tensor:
        """Return a map (B, out_channels, H, W) of the sub-bands (B, in_channels, 3, H, W)."""
        # The small constant keeps the gradient of the root finite where an image is flat.
        edges = torch.sqrt(high.square().sum(dim=2) + 1e-6)
        edges = torch.stack([edges.mean(dim=1), edges.amax(dim=1)], dim=1)
        x = self.enter(high.flatten(1, 2))
        x = x + functional.relu(self.pointwise(self.depthwise(x)))
        channel = self.channel_gate(functional.relu(self.channel_hidden(x.abs().mean(dim=(2, 3)))))
        return cast(Tensor, x * torch.sigmoid(channel)[:, :, None, None] * torch.sigmoid(self.spatial_gate(edges)))


class ImagePyramid(nn.Module):
    """Sub-bands of the input CT for every down-sampling level; it has no weights.

    Parameters
    ----------
    levels
        Number of levels.
    wavelet
        Name of the wavelet.
    """

    def __init__(self, levels: int, wavelet: str) -> None:
        super().__init__()
        self.levels = levels
        self.dwt = Dwt2d(wavelet)

    def forward(self, ct: Tensor) -> list[Tensor]:
        """Return, per level l from 1, all sub-bands of ``ct`` (B, C, H, W): (B, 4C, H/2^l, W/2^l).

        The first C channels are LL on the scale of the image, of which the next level is made; then come LH,
        HL and HH of each channel.
        """
        pyramid = []
        for _ in range(self.levels):
            ll, bands = self.dwt(ct)
            ct = 0.5 * ll
            pyramid.append(torch.cat([ct, bands.flatten(1, 2)], dim=1))
        return pyramid


def cross_groups(channels: int) -> int:
    """Return the groups of the cross-fusion convolutions: ``channels // 64``, or 1 where that fails.

    Examples
    --------
    >>> [cross_groups(c) for c in (48, 128, 192, 200)]
    [1, 2, 3, 1]
    """
    groups = max(1, channels // 64)
    return groups if channels % groups == 0 else 1


class MultiFrequencyAttention(nn.Module):
    """One down-sampling level: strided convolution, low path and high path, fused by AFW.

    Parameters
    ----------
    in_channels
        Channels C of the input; the output has 2C.
    paths
        ``both``, or only the ``low`` or ``high`` path (ablations; then without cross fusion).
    wavelet
        Name of the wavelet.
    heads
        Heads of the low path.
    afw
        Mode of the fusion.
    image_channels
        Channels of the CT whose sub-bands are added to those of the input; 0 for none. The 1x1 convolutions
        that add them start at zero, so that training starts exactly at the block without them.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        paths: MfabPaths = "both",
        wavelet: str = "haar",
        heads: int = 4,
        afw: Afw = "full",
        image_channels: int = 0,
    ) -> None:
        super().__init__()
        out_channels = 2 * in_channels
        self.spatial = strided(in_channels, out_channels)
        init_normal(self.spatial)
        self.dwt = Dwt2d(wavelet)
        self.low = LowPath(in_channels, out_channels, heads) if paths != "high" else None
        self.high = HighPath(in_channels, out_channels) if paths != "low" else None
        self.low_from_high: nn.Conv2d | None = None
        self.high_from_low: nn.Conv2d | None = None
        if paths == "both":
            groups = cross_groups(out_channels)
            self.low_from_high = nn.Conv2d(out_channels, out_channels, 1, groups=groups)
            self.high_from_low = nn.Conv2d(out_channels, out_channels, 1, groups=groups)
            init_kaiming(self.low_from_high, self.high_from_low)
        self.image_low: nn.Conv2d | None = None
        self.image_high: nn.Conv2d | None = None
        if image_channels and self.low is not None:
            self.image_low = nn.Conv2d(4 * image_channels, in_channels, 1)
            init_zero(self.image_low)
        if image_channels and self.high is not None:
            self.image_high = nn.Conv2d(4 * image_channels, 3 * in_channels, 1)
            init_zero(self.image_high)
        self.norm = norm_relu()
        self.fusion = AdaptiveFusion(out_channels, 3 if paths == "both" else 2, afw)

    def forward(self, x: Tensor, image: Tensor | None = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Halve the size and double the channels.

        Parameters
        ----------
        x
            Shape (B, C, H, W), H and W even.
        image
            Sub-bands of the CT from :class:`ImagePyramid`, (B, 4 image_channels, H/2, W/2), where the block
            takes them.

        Returns
        -------
        tuple
            The fused map (B, 2C, H/2, W/2); the high-frequency map of the same shape, or None without
            a high path; the fusion weights (B, K, 2C, H/2, W/2), or None where there are none.
        """
        ll, bands = self.dwt(x)
        # The gain of the orthonormal LL is 2; halved, its scale is that of the input.
        ll = 0.5 * ll
        if image is not None and self.image_low is not None:
            ll = ll + self.image_low(image)
        if image is not None and self.image_high is not None:
            bands = bands + self.image_high(image).reshape(bands.shape)
        low: Tensor | None = self.low(ll) if self.low is not None else None
        high: Tensor | None = self.high(bands) if self.high is not None else None
        if low is not None and high is not None:
            low, high = self._exchange(low, high)
        low = self.norm(low) if low is not None else None
        high = self.norm(high) if high is not None else None
        maps = [self.spatial(x), *(y for y in (low, high) if y is not None)]
        fused, weights = self.fusion.fuse_with_weights(maps)
        return fused, high, weights

    def _exchange(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Let each path amplify itself where the other one answers: y + y * sigmoid(conv(other))."""
        if self.low_from_high is None or self.high_from_low is None:
            return low, high
        return (
            torch.addcmul(low, low, torch.sigmoid(self.low_from_high(high))),
            torch.addcmul(high, high, torch.sigmoid(self.high_from_low(low))),
        )
