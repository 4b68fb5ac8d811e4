"""MedGAN in the reading of the public implementation: the networks and losses of Nie et al. (IEEE TBME 2018).

A U-Net that adds its answer to the CT, and a discriminator that judges whole slices. The article that carries the name
MedGAN (Armanious et al., CMIG 2020) is `train.baselines.medgan_casnet`.

The discriminator's convolutions have no padding, and its linear layers take what they leave of 256 pixels; of other
sizes the features are averaged, or repeated, to that, and images below 40 pixels take fewer convolutions (ours).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Translator
from train.baselines.layers import cross_entropy, init_xavier, scaled
from train.data.dataset import Batch
from train.methods.base import Moment

_INIT_GAIN = math.sqrt(2.0)
#: Channels and kernels of the discriminator's convolutions, and the side of what they leave of 256 pixels.
_CONV_CHANNELS, _CONV_KERNELS, _FEATURE_SIDE = (32, 64, 64), (9, 5, 5), 28


@dataclass(frozen=True, slots=True)
class MedGanNieOptions(Options):
    """Depth of the networks and weights of the losses.

    Attributes
    ----------
    halvings : int
        Of the U-Net.
    discriminator_convs : int
        Convolutions of the discriminator.
    adversarial_weight, mse_weight, gradient_weight : float
        Of cross-entropy, squared error and squared gradient difference.
    """

    halvings: int = field(default=4, metadata={"low": 1, "high": 6})
    discriminator_convs: int = field(default=3, metadata={"low": 1, "high": len(_CONV_KERNELS)})
    adversarial_weight: float = field(default=0.5, metadata={"low": 0.0})
    mse_weight: float = field(default=1.0, metadata={"low": 0.0})
    gradient_weight: float = field(default=1.0, metadata={"low": 0.0})


class ResidualUNet(nn.Module):
    """U-Net of two 3x3 convolutions a level whose answer is added to the first input channel, the slice itself.

    Parameters
    ----------
    in_channels : int
        Of the input.
    widths : sequence of int
        Channels of the levels, from the outside in; max-pooling between them.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(_two_convs(before, after) for before, after in pairwise([in_channels, *widths]))
        inwards = list(pairwise(widths))[::-1]
        self.up = nn.ModuleList(_enlarging(inner, outer) for outer, inner in inwards)
        self.merge = nn.ModuleList(_two_convs(2 * outer, outer) for outer, _ in inwards)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, 1, H, W), not bounded, of (B, in_channels, H, W)."""
        own, skips = x[:, :1], []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return own + cast(Tensor, self.head(x))


def _two_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(*_conv(in_channels, out_channels), *_conv(out_channels, out_channels))


def _conv(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


def _enlarging(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


class SliceDiscriminator(nn.Module):
    """Discriminator of whole slices: convolutions without padding, max-pooling, three linear layers; no norm.

    Parameters
    ----------
    in_channels : int
        Of CT and image together.
    convs : int
        Convolutions, of three at most.
    width : float
        Share of the channels.
    """

    def __init__(self, in_channels: int, convs: int, width: float = 1.0) -> None:
        super().__init__()
        widths = [scaled(channels, width) for channels in _CONV_CHANNELS[:convs]]
        layers: list[nn.Module] = []
        for (before, after), kernel in zip(pairwise([in_channels, *widths]), _CONV_KERNELS[:convs], strict=True):
            layers += [nn.Conv2d(before, after, kernel), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        first, second = scaled(512, width), scaled(64, width)
        self.verdict = nn.Sequential(
            nn.Linear(widths[-1] * _FEATURE_SIDE**2, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1) of (B, in_channels, H, W)."""
        features = self.features(x)
        if features.shape[-2:] != (_FEATURE_SIDE, _FEATURE_SIDE):
            features = functional.adaptive_avg_pool2d(features, _FEATURE_SIDE)
        return cast(Tensor, self.verdict(features.flatten(1)))


def squared_gradient_difference(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared difference of absolute forward gradients, mean along the rows plus mean along the columns.

    Parameters
    ----------
    prediction, target : Tensor
        (B, 1, H, W).

    Returns
    -------
    Tensor
        Scalar.
    """
    rows, columns = (prediction.diff(dim=axis).abs() - target.diff(dim=axis).abs() for axis in (-2, -1))
    return rows.square().mean() + columns.square().mean()


class Clipped(Translator):
    """A core without a last activation, whose prediction is clipped to the range of the images; training is not."""

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image (B, 1, H, W) in [-1, 1]."""
        return super().forward(ct, mask).clamp(-1.0, 1.0)


class MedGanNie(BaselineMethod[MedGanNieOptions]):
    """Squared error, squared gradient difference, cross-entropy of a conditional discriminator, which learns first."""

    @classmethod
    def translator(cls, options: MedGanNieOptions, channels: Channels) -> Translator:
        """Residual U-Net."""
        widths = [scaled(64 * 2**level, options.width) for level in range(options.halvings + 1)]
        core = ResidualUNet(channels.given(options), widths)
        return Clipped(init_xavier(core, _INIT_GAIN), with_mask=options.mask)

    @classmethod
    def companions(cls, options: MedGanNieOptions, channels: Channels) -> dict[str, nn.Module]:
        """The discriminator, which sees what the generator sees and the image."""
        judge = SliceDiscriminator(channels.given(options) + 1, options.discriminator_convs, options.width)
        return {"discriminator": init_xavier(judge, _INIT_GAIN)}

    @classmethod
    def grid_step(cls, options: MedGanNieOptions) -> int:
        """Every halving needs an even side."""
        return int(2**options.halvings)

    @classmethod
    def adapted(cls, options: MedGanNieOptions, grid_px: int) -> MedGanNieOptions:
        """As many halvings as leave 2 pixels (one has no variance in a batch of 1), as many convolutions as leave 1."""
        deep = [n for n in range(1, options.halvings + 1) if grid_px % 2**n == 0 and grid_px >= 2 ** (n + 1)]
        seen = [n for n in range(1, options.discriminator_convs + 1) if _side_left(grid_px, n) > 0]
        return replace(options, halvings=max(deep, default=1), discriminator_convs=max(seen, default=1))

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator."""
        x, options = self.given(batch), self.options
        fake = self.run(self.generator.core, x)
        on_real = self.run(self.network("discriminator"), torch.cat([x, batch.target], dim=1))
        on_fake = self.run(self.network("discriminator"), torch.cat([x, fake.detach()], dim=1))
        judged = {"discriminator": 0.5 * (cross_entropy(on_real, 1.0) + cross_entropy(on_fake, 0.0))}
        self.descend("discriminator", judged)
        on_fake = self.run(self.still["discriminator"], torch.cat([x, fake], dim=1))
        terms = {
            "gan": options.adversarial_weight * cross_entropy(on_fake, 1.0),
            "mse": options.mse_weight * functional.mse_loss(fake, batch.target),
            "gradient": options.gradient_weight * squared_gradient_difference(fake, batch.target),
        }
        self.descend(GENERATOR, terms)
        return terms | judged


def _side_left(side: int, convs: int) -> int:
    for kernel in _CONV_KERNELS[:convs]:
        side = (side - kernel + 1) // 2
    return side


ENTRIES = (
    Entry(
        "medgan_nie",
        "MedGAN (Nie)",
        "public implementation: networks and losses of Nie et al., IEEE TBME 2018",
        MedGanNie,
        MedGanNieOptions(),
    ),
)
