"""Building blocks shared by the networks: instance norm, convolution blocks, initialisation.

Layer sizes of the trunk follow the pix2pixHD code (NVIDIA, BSD), which the paper names as its base.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5
NORMAL_INIT_STD = 0.02


class InstanceNorm(nn.Module):
    """Instance normalisation without affine parameters, safe on flat backgrounds.

    Eager execution uses :func:`torch.nn.functional.instance_norm`. A compiled or exported graph gets the
    centred two-pass formula instead: engines fuse the built-in form into one that takes the variance as
    E[x^2] - E[x]^2, which loses 40 dB where clipped CT is exactly constant.

    Parameters
    ----------
    two_pass
        Use the two-pass formula in eager execution too.
    """

    def __init__(self, *, two_pass: bool = False) -> None:
        super().__init__()
        self.two_pass = two_pass

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each image of ``x`` (B, C, H, W) to mean 0 and variance 1."""
        if not (self.two_pass or torch.compiler.is_compiling()):
            return functional.instance_norm(x, eps=EPSILON)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        centred = wide - wide.mean(dim=(2, 3), keepdim=True)
        variance = centred.square().mean(dim=(2, 3), keepdim=True)
        return (centred * torch.rsqrt(variance + EPSILON)).to(x.dtype)

    def extra_repr(self) -> str:
        """Describe the module for ``repr``."""
        return f"two_pass={self.two_pass}"


def norm_relu() -> nn.Sequential:
    """Return instance norm followed by ReLU in place (the norm's gradient needs only its input)."""
    return nn.Sequential(InstanceNorm(), nn.ReLU(inplace=True))


def conv_reflect(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Return a convolution that keeps the size, padded by reflection."""
    return nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(in_channels, out_channels, kernel))


def stem(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return the first layer of pix2pixHD: reflect pad 3, 7x7 convolution, instance norm, ReLU."""
    return nn.Sequential(conv_reflect(in_channels, out_channels, 7), norm_relu())


def strided(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return the down-sampling layer of pix2pixHD: 3x3 convolution of stride 2, instance norm, ReLU."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), norm_relu())


class SingleChannelConv(nn.Conv2d):
    """Convolution to one channel, computed as one column filter per tap of a row and a shifted sum.

    The result is that of :class:`torch.nn.Conv2d` up to rounding, with the same multiply-adds. One output
    channel leaves most of a vector register empty on the CPU; this form is about four times faster there.

    Parameters
    ----------
    in_channels
        Channels of the input.
    kernel
        Side of the square kernel; no padding, stride 1.
    """

    def __init__(self, in_channels: int, kernel: int) -> None:
        super().__init__(in_channels, 1, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map (B, 1, H - kernel + 1, W - kernel + 1)."""
        taps = self.weight.shape[-1]
        columns = functional.conv2d(x, self.weight.permute(3, 1, 2, 0))
        width = columns.shape[-1] - taps + 1
        result = columns[:, :1, :, :width]
        for tap in range(1, taps):
            result = result + columns[:, tap : tap + 1, :, tap : tap + width]
        return result if self.bias is None else result + self.bias.view(1, 1, 1, 1)


class ResidualBlock(nn.Module):
    """Residual block of pix2pixHD: two reflect-padded 3x3 convolutions, no ReLU after the sum.

    Parameters
    ----------
    channels
        Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_reflect(channels, channels, 3),
            norm_relu(),
            conv_reflect(channels, channels, 3),
            InstanceNorm(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus its residual, shape (B, channels, H, W)."""
        return cast(Tensor, self.body(x).add_(x))


class Upsample(nn.Module):
    """Doubling of the size: transposed convolution (pix2pixHD), or enlargement and convolution.

    Parameters
    ----------
    in_channels, out_channels
        Channels before and after.
    resize
        Nearest-neighbour enlargement and a 3x3 convolution: no checkerboard (ours).
    """

    def __init__(self, in_channels: int, out_channels: int, *, resize: bool) -> None:
        super().__init__()
        self.resize = resize
        self.conv: nn.Conv2d | nn.ConvTranspose2d = (
            nn.Conv2d(in_channels, out_channels, 3, padding=1)
            if resize
            else nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of shape (B, out_channels, 2H, 2W)."""
        if self.resize:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return cast(Tensor, self.conv(x))


def init_normal(module: nn.Module) -> None:
    """Initialise all convolutions as pix2pixHD does, N(0, 0.02); biases at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, NORMAL_INIT_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_kaiming(*modules: nn.Module) -> None:
    """Initialise convolutions and linear layers for ReLU (Kaiming); biases at zero.

    Needed wherever no normalisation follows: N(0, 0.02) leaves such a branch practically silent.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def init_zero(*layers: nn.Conv2d | nn.Linear) -> None:
    """Set layers to zero, so that the branch they end adds nothing at the start of training."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
