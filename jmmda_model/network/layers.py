"""Building blocks shared by the networks: instance norm, convolution blocks, initialisation.

Layer sizes of the trunk follow the pix2pixHD code (NVIDIA, BSD), which the paper names as its base.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from jmmda_model.network.settings import Decoder
from jmmda_model.network.wavelets import Idwt2d

EPSILON = 1e-5
NORMAL_INIT_STD = 0.02


def at_least_single(x: Tensor) -> Tensor:
    """Return ``x`` in single precision where it is in half, else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _two_pass(x: Tensor) -> Tensor:
    """Centre first, then take the mean of squares; sums in single precision at least."""
    wide = at_least_single(x)
    centred = wide - wide.mean(dim=(2, 3), keepdim=True)
    variance = centred.square().mean(dim=(2, 3), keepdim=True)
    return (centred * torch.rsqrt(variance + EPSILON)).to(x.dtype)


class InstanceNorm(nn.Module):
    """Instance normalisation without affine parameters, safe on flat backgrounds.

    Which formula computes it is decided here and nowhere else:

    - a compiled or exported graph: the centred two-pass formula, which compilers fuse. Engines turn the
      built-in form into one that takes the variance as E[x^2] - E[x]^2, which loses 40 dB where clipped CT
      is exactly constant. `group_norm` does the same to channels-last maps on the CPU: not used.
    - eager, channels last: the two-pass formula, because it keeps the layout. Both built-in forms return
      contiguous maps, and each convolution would convert them back: a training step of the generator takes
      8 % longer with them.
    - eager, contiguous, on the CPU: `layer_norm` over rows and columns. Forward and backward of
      2 x 24 x 256 x 256 take 4.9 ms, with `instance_norm` 9.5 ms, with the two-pass formula 49.5 ms (one
      core, torch 2.13).
    - eager, contiguous, on other devices: `instance_norm`.

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
        if self.two_pass or torch.compiler.is_compiling() or not x.is_contiguous():
            return _two_pass(x)
        if x.device.type == "cpu":
            return functional.layer_norm(x, x.shape[2:], eps=EPSILON)
        return functional.instance_norm(x, eps=EPSILON)

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
    """Doubling of the size, in one of three ways.

    Parameters
    ----------
    in_channels, out_channels
        Channels before and after.
    decoder
        ``transposed``: a transposed convolution (pix2pixHD). ``resize``: nearest-neighbour enlargement and a
        3x3 convolution, no checkerboard (ours). ``idwt``: a 3x3 convolution predicts four sub-bands, which
        the inverse wavelet transform joins (ours).
    wavelet
        Name of the wavelet of ``idwt``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, decoder: Decoder, wavelet: str = "haar") -> None:
        super().__init__()
        self.out_channels = out_channels
        self.resize = decoder == "resize"
        self.inverse = Idwt2d(wavelet) if decoder == "idwt" else None
        self.conv: nn.Conv2d | nn.ConvTranspose2d = (
            nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
            if decoder == "transposed"
            else nn.Conv2d(in_channels, (4 if decoder == "idwt" else 1) * out_channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of shape (B, out_channels, 2H, 2W)."""
        if self.resize:
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.conv(x)
        if self.inverse is None:
            return x
        low = x[:, : self.out_channels]
        high = x[:, self.out_channels :].reshape(len(x), self.out_channels, 3, *x.shape[2:])
        # The gain of the orthonormal LL is 2. The encoder halves it, so that all sub-bands have the scale of
        # the image; the decoder predicts them on that scale and doubles it here.
        joined: Tensor = self.inverse(2.0 * low, high)
        return joined.to(x.dtype)


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
