"""Multi-scale PatchGAN discriminator of pix2pixHD, the one the paper's base uses."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from jmmda_model.network.layers import InstanceNorm, init_normal
from jmmda_model.network.settings import DiscriminatorSettings

_KERNEL = 4
_PADDING = 2
_MAX_WIDTH = 512
_SLOPE = 0.2


def _block(in_channels: int, out_channels: int, stride: int, *, norm: bool, spectral: bool) -> nn.Sequential:
    conv: nn.Module = nn.Conv2d(in_channels, out_channels, _KERNEL, stride=stride, padding=_PADDING)
    init_normal(conv)
    if spectral:
        conv = spectral_norm(conv)
    layers: list[nn.Module] = [conv]
    if norm:
        layers.append(InstanceNorm())
    return nn.Sequential(*layers, nn.LeakyReLU(_SLOPE, inplace=True))


class PatchDiscriminator(nn.Module):
    """Discriminator of one scale; every output pixel judges a patch.

    Parameters
    ----------
    settings
        Shape of the network.
    """

    def __init__(self, settings: DiscriminatorSettings) -> None:
        super().__init__()
        spectral = settings.spectral_norm
        widths = [min(settings.ndf * 2**level, _MAX_WIDTH) for level in range(settings.n_layers + 1)]
        self.blocks = nn.ModuleList([_block(settings.in_channels, widths[0], 2, norm=False, spectral=spectral)])
        for level in range(1, settings.n_layers + 1):
            stride = 2 if level < settings.n_layers else 1
            self.blocks.append(_block(widths[level - 1], widths[level], stride, norm=True, spectral=spectral))
        self.logits: nn.Module = nn.Conv2d(widths[-1], 1, _KERNEL, padding=_PADDING)
        init_normal(self.logits)
        if spectral:
            self.logits = spectral_norm(self.logits)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the activations of all blocks and, last, the logits (B, 1, h, w)."""
        features: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        features.append(self.logits(x))
        return features


class MultiScaleDiscriminator(nn.Module):
    """Equal discriminators on the image and on its successive halvings.

    Parameters
    ----------
    settings
        Shape of the network.
    """

    def __init__(self, settings: DiscriminatorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.scales = nn.ModuleList(PatchDiscriminator(settings) for _ in range(settings.num_scales))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Judge conditioned images.

        Parameters
        ----------
        x
            CT (and mask) and DWI, concatenated: shape (B, in_channels, H, W).

        Returns
        -------
        list of list of torch.Tensor
            Per scale, from full size to the smallest: activations of every block, then the logits.
        """
        results: list[list[Tensor]] = []
        for index, scale in enumerate(self.scales):
            if index:
                x = functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            results.append(cast(list[Tensor], scale(x)))
        return results


def build_discriminator(settings: DiscriminatorSettings) -> MultiScaleDiscriminator:
    """Build a discriminator with fresh weights, drawn from torch's global random generator.

    Parameters
    ----------
    settings
        Shape of the network.
    """
    return MultiScaleDiscriminator(settings)
