"""Masked regression with a residual-encoder U-Net: the plain method that SynthRAD challenges were won with.

Layers are those of nnU-Net's residual encoder for a 2-D patch of 256 pixels (Isensee et al., MICCAI 2024) with the
interpolating decoder of its translation variants; the masked L1 is that of nnsyn (SynthRAD2025). Left out are nnsyn's
loss on features of a segmentation network, deep supervision, tiles (a slice is one tile), and SGD: Adam, rate and
length are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Schedule, Translator
from train.baselines.layers import scaled
from train.data.dataset import Batch
from train.methods.base import Moment
from train.objectives.pixel import pixel_weights

#: Channels and residual blocks of each stage; a stage halves the image, the first one does not.
WIDTHS = (32, 64, 128, 256, 512, 512, 512)
BLOCKS = (1, 3, 4, 6, 6, 6, 6)

_SLOPE = 0.01
#: nnU-Net stops halving before a side falls below this.
_SMALLEST_SIDE = 4


@dataclass(frozen=True, slots=True)
class ResUNetOptions(Options):
    """Options of the residual U-Net.

    Attributes
    ----------
    stages : int
        Stages of the encoder, each but the first halving the image.
    background_weight : float
        Weight of the mean error outside the brain, beside 1 for the mean error inside.
    """

    stages: int = field(default=len(WIDTHS), metadata={"low": 1, "high": len(WIDTHS)})
    background_weight: float = field(default=0.1, metadata={"low": 0.0})


def _norm(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True)


def _conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution and instance norm, which would take a bias out again."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, _norm(out_channels)]


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions with instance norm added to the input; leaky ReLU between and after.

    Parameters
    ----------
    in_channels, out_channels : int
        Where they differ, the input passes a 1x1 convolution with instance norm.
    stride : int
        Of the first convolution; the input is averaged to match.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv_norm(in_channels, out_channels, 3, stride),
            nn.LeakyReLU(_SLOPE),
            *_conv_norm(out_channels, out_channels, 3),
        )
        beside: list[nn.Module] = [nn.AvgPool2d(stride)] if stride > 1 else []
        if in_channels != out_channels:
            beside += _conv_norm(in_channels, out_channels, 1)
        self.beside = nn.Sequential(*beside)
        self.end = nn.LeakyReLU(_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, out_channels, H / stride, W / stride) of (B, in_channels, H, W)."""
        return cast(Tensor, self.end(self.body(x) + self.beside(x)))


class Widening(nn.Module):
    """Bilinear doubling, 1x1 convolution to the skip's channels, concatenation, 3x3 convolution, norm, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(in_channels, out_channels, 1)
        self.fuse = nn.Sequential(*_conv_norm(2 * out_channels, out_channels, 3), nn.LeakyReLU(_SLOPE))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, out_channels, 2 H, 2 W) of (B, in_channels, H, W) and the skip of the answer's shape."""
        # The 1x1 convolution commutes with the interpolation, and costs a quarter before it.
        up = functional.interpolate(self.narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return cast(Tensor, self.fuse(torch.cat([skip, up], dim=1)))


class ResUNet(nn.Module):
    """U-Net whose encoder is a residual network and whose decoder interpolates; no activation at the end.

    Parameters
    ----------
    in_channels : int
        Of the input.
    widths, blocks : sequence of int
        Channels and residual units of each stage.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_norm(in_channels, widths[0], 3), nn.LeakyReLU(_SLOPE))
        self.stages = nn.ModuleList()
        before = widths[0]
        for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            units = [ResidualUnit(before, width, stride=1 if level == 0 else 2)]
            units += [ResidualUnit(width, width) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*units))
            before = width
        self.widenings = nn.ModuleList(
            Widening(widths[level + 1], widths[level]) for level in reversed(range(len(widths) - 1))
        )
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, 1, H, W) of (B, in_channels, H, W), not limited to [-1, 1]."""
        x = self.stem(x)
        skips: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for widening in self.widenings:
            x = widening(x, skips.pop())
        return cast(Tensor, self.head(x))


def _init_he(network: nn.Module) -> nn.Module:
    """He's rule for convolutions before a leaky ReLU; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


class ClampedTranslator(Translator):
    """Limits the core's answer to [-1, 1]; training sees it without limits, whose gradient would be 0."""

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image (B, 1, H, W) in [-1, 1]."""
        return super().forward(ct, mask).clamp(-1.0, 1.0)


class ResUNetMasked(BaselineMethod[ResUNetOptions]):
    """The residual U-Net trained with L1 in the brain and, at a small weight, outside it."""

    optimised = {GENERATOR: (GENERATOR,)}  # noqa: RUF012  (declared as ClassVar in the base)

    @classmethod
    def translator(cls, options: ResUNetOptions, channels: Channels) -> Translator:
        """Residual U-Net; the brain mask is no input unless the option ``mask`` makes it one."""
        widths = [scaled(width, options.width) for width in WIDTHS[: options.stages]]
        core = ResUNet(channels.given(options), widths, BLOCKS[: options.stages])
        return ClampedTranslator(_init_he(core), with_mask=options.mask)

    @classmethod
    def companions(cls, options: ResUNetOptions, channels: Channels) -> dict[str, nn.Module]:
        """None."""
        return {}

    @classmethod
    def grid_step(cls, options: ResUNetOptions) -> int:
        """Every stage but the first halves the image, and instance norm needs two pixels of the last one's sides."""
        return int(2**options.stages)

    @classmethod
    def adapted(cls, options: ResUNetOptions, grid_px: int) -> ResUNetOptions:
        """As many stages as leave the innermost maps four pixels."""
        by_step = (grid_px & -grid_px).bit_length() - 1
        by_side = (grid_px // _SMALLEST_SIDE).bit_length()
        return replace(options, stages=max(1, min(options.stages, by_step, by_side)))

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One step down the masked L1."""
        fake = self.run(self.generator.core, self.given(batch))
        no_lesion = torch.zeros_like(batch.brain)
        weights = pixel_weights(batch.brain, no_lesion, 0.0, self.options.background_weight)
        terms = {"masked_l1": (weights * (fake - batch.target).abs()).sum(dim=(1, 2, 3)).mean()}
        self.descend(GENERATOR, terms)
        return terms


ENTRIES = (
    Entry(
        "resunet_masked",
        "ResUNet, masked L1",
        "nnU-Net residual encoder with masked L1, as in SynthRAD2025 (nnsyn), without its feature loss",
        ResUNetMasked,
        ResUNetOptions(),
        Schedule(learning_rate=3e-4, beta1=0.9),
    ),
)
