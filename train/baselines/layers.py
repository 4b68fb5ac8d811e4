"""Networks that several comparison methods are made of: ResNet generator, U-Net, patch discriminator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

Norm = Literal["batch", "instance", "none"]


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """Channels at a share of a table's width: a whole multiple of ``multiple``, at least one of it."""
    return max(1, round(channels * width / multiple)) * multiple


def groups_for(*channels: int, most: int) -> int:
    """Most groups, up to ``most``, into which all these channel numbers divide."""
    return math.gcd(most, *channels)


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """Normalisation with affine weights for ``batch``, without for ``instance``."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels) if kind == "instance" else nn.Identity()


def init_gaussian(network: nn.Module, sd: float = 0.02) -> nn.Module:
    """Draw weights of convolutions and linear layers from N(0, sd), batch-norm scales from N(1, sd); biases are 0."""
    return _initialised(network, lambda weight: nn.init.normal_(weight, 0.0, sd), sd)


def init_xavier(network: nn.Module, gain: float = 0.02) -> nn.Module:
    """Draw weights of convolutions and linear layers by Glorot's rule; batch-norm scales from N(1, 0.02)."""
    return _initialised(network, lambda weight: nn.init.xavier_normal_(weight, gain), 0.02)


def _initialised(network: nn.Module, draw: Callable[[Tensor], object], norm_sd: float) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, norm_sd)
            nn.init.zeros_(module.bias)
    return network


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with reflection padding and instance norm, added to the input, without a last activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as ``x``."""
        return cast(Tensor, x + self.body(x))


def stem(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Reflection padding, 7x7 convolution, instance norm, ReLU."""
    return [
        nn.ReflectionPad2d(3),
        nn.Conv2d(in_channels, out_channels, 7),
        nn.InstanceNorm2d(out_channels),
        nn.ReLU(),
    ]


def halving(in_channels: int, out_channels: int) -> list[nn.Module]:
    """3x3 convolution of stride 2, instance norm, ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1),
        nn.InstanceNorm2d(out_channels),
        nn.ReLU(),
    ]


def doubling(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Transposed 3x3 convolution of stride 2, instance norm, ReLU."""
    return [
        nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1),
        nn.InstanceNorm2d(out_channels),
        nn.ReLU(),
    ]


def head(in_channels: int, out_channels: int = 1) -> list[nn.Module]:
    """Reflection padding, 7x7 convolution, tanh."""
    return [nn.ReflectionPad2d(3), nn.Conv2d(in_channels, out_channels, 7), nn.Tanh()]


def resnet_generator(
    in_channels: int, out_channels: int = 1, *, ngf: int, n_down: int, n_blocks: int = 9
) -> nn.Sequential:
    """ResNet generator: stem of ``ngf`` channels, ``n_down`` halvings that double them, blocks, and the way back."""
    widths = [ngf * 2**level for level in range(n_down + 1)]
    layers = stem(in_channels, ngf)
    for level in range(n_down):
        layers += halving(widths[level], widths[level + 1])
    layers += [ResidualBlock(widths[-1]) for _ in range(n_blocks)]
    for level in reversed(range(n_down)):
        layers += doubling(widths[level + 1], widths[level])
    return nn.Sequential(*layers, *head(ngf, out_channels))


class UNet(nn.Module):
    """The U-Net of pix2pix (Isola et al., CVPR 2017): 4x4 convolutions of stride 2 down and up, skips by concatenation.

    The first and the innermost convolution have no norm. ``latent`` channels, if any, are given to `forward` and
    concatenated, tiled, to the input of every convolution on the way down, as BicycleGAN does.

    Parameters
    ----------
    in_channels, out_channels : int
        Of input and image.
    widths : sequence of int
        Channels after each convolution on the way down, from the outside in.
    norm : {"batch", "instance", "none"}
        Normalisation; a convolution before batch norm has no bias.
    dropout : sequence of int
        Levels (0 outermost) whose convolution on the way up is followed by dropout of 0.5.
    latent : int
        Channels of the latent vector.
    final : bool
        End with tanh.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        *,
        norm: Norm = "batch",
        dropout: Sequence[int] = (),
        latent: int = 0,
        final: bool = True,
    ) -> None:
        super().__init__()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        last = len(widths) - 1
        for level, width in enumerate(widths):
            before = in_channels if level == 0 else widths[level - 1]
            self.down.append(
                _unet_down(before + latent, width, "none" if level in (0, last) else norm, first=level == 0)
            )
            inner = width if level == last else 2 * width
            after = out_channels if level == 0 else widths[level - 1]
            kind: Norm = "none" if level == 0 else norm
            self.up.append(_unet_up(inner, after, kind, dropout=level in dropout))
        self.final: nn.Module = nn.Tanh() if final else nn.Identity()

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """Image (B, out_channels, H, W) of (B, in_channels, H, W) and, with a latent, ``z`` (B, latent)."""
        skips: list[Tensor] = []
        for down in self.down:
            x = down(x if z is None else torch.cat([x, z[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1))
            skips.append(x)
        x = skips.pop()
        for up in reversed(list(self.up)[1:]):
            x = torch.cat([skips.pop(), up(x)], dim=1)
        return cast(Tensor, self.final(self.up[0](x)))


def _unet_down(in_channels: int, out_channels: int, norm: Norm, *, first: bool) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1, bias=norm != "batch")
    begin: list[nn.Module] = [] if first else [nn.LeakyReLU(0.2)]
    return nn.Sequential(*begin, conv, norm_layer(norm, out_channels))


def _unet_up(in_channels: int, out_channels: int, norm: Norm, *, dropout: bool) -> nn.Sequential:
    conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=norm != "batch")
    end: list[nn.Module] = [nn.Dropout(0.5)] if dropout else []
    return nn.Sequential(nn.ReLU(), conv, norm_layer(norm, out_channels), *end)


def unet_widths(width: float, levels: int, base: int = 64, most: int = 512) -> list[int]:
    """Channels of a U-Net's levels: ``base``, doubled up to ``most``, at a share of that width."""
    return [scaled(min(base * 2**level, most), width) for level in range(levels)]


class PatchGan(nn.Module):
    """Patch discriminator of pix2pix: 4x4 convolutions with padding 1, the last two of stride 1.

    Parameters
    ----------
    in_channels : int
        Of what it judges: the image, and the CT beside it where it is conditional.
    widths : sequence of int
        Channels of the convolutions before the last, which makes one logit a patch.
    norm : {"batch", "instance", "none"}
        Normalisation after all but the first.
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int] = (64, 128, 256, 512), *, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        before = in_channels
        for level, width in enumerate(widths):
            kind: Norm = "none" if level == 0 else norm
            stride = 1 if level == len(widths) - 1 else 2
            conv = nn.Conv2d(before, width, 4, stride=stride, padding=1, bias=kind != "batch")
            self.blocks.append(nn.Sequential(conv, norm_layer(kind, width), nn.LeakyReLU(0.2)))
            before = width
        self.logits = nn.Conv2d(before, 1, 4, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Activations of every block and, last, the logits (B, 1, h, w)."""
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return [*features, self.logits(x)]


def patch_widths(width: float, base: int = 64) -> tuple[int, ...]:
    """Channels of a patch discriminator at a share of its width."""
    return tuple(scaled(base * 2**level, width) for level in range(4))


def least_squares(logits: Tensor, target: float) -> Tensor:
    """Mean squared distance of logits from 1 (real) or 0 (not)."""
    return ((logits - target) ** 2).mean()


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of logits against 1 (real) or 0 (not)."""
    return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
