"""MedGAN as its article describes it (Armanious et al., CMIG 2020): a cascade of U-Nets, style and content losses.

The article takes style and content from a VGG-19 trained on photographs. No such weights are shipped, so both are taken
from the hidden features of the discriminator, which the perceptual loss uses too; results say so. Weights of the losses
and the discriminator are from memory of the article, not read again.

Differences from the article's tables: the first and the innermost convolution of a U-block have no norm (at 256 pixels
the innermost is one pixel, which batch norm cannot take in a batch of 1); two convolutions of stride 2 do not give the
patches of 16 pixels that the article names, and a last kernel of 3 comes nearest with 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Schedule, Translator
from train.baselines.layers import UNet, cross_entropy, init_gaussian, scaled, unet_widths
from train.data.dataset import Batch
from train.methods.base import Moment


@dataclass(frozen=True, slots=True)
class CasNetOptions(Options):
    """Size of the cascade, updates, and weights of the losses.

    Attributes
    ----------
    n_blocks : int
        U-blocks in series: 6 in the article (326.5 M parameters); 2 is practical.
    levels : int
        Halvings of each.
    generator_updates : int
        Updates of the generator for one of the discriminator, on the same batch.
    perceptual_weight, style_weight, content_weight : float
        The article's lambda 1 to 3.
    """

    n_blocks: int = field(default=6, metadata={"low": 1, "high": 12})
    levels: int = field(default=8, metadata={"low": 2, "high": 10})
    generator_updates: int = field(default=3, metadata={"low": 1, "high": 10})
    perceptual_weight: float = field(default=20.0, metadata={"low": 0.0})
    style_weight: float = field(default=1e-4, metadata={"low": 0.0})
    content_weight: float = field(default=1e-4, metadata={"low": 0.0})


def casnet(in_channels: int, widths: Sequence[int], n_blocks: int) -> nn.Sequential:
    """U-Nets in series, each handing an image to the next; only the last ends with tanh.

    Parameters
    ----------
    in_channels : int
        Of the first; the others see one channel.
    widths : sequence of int
        Channels of each one's levels.
    n_blocks : int
        How many.
    """
    last = n_blocks - 1
    return nn.Sequential(*(UNet(1 if n else in_channels, 1, widths, final=n == last) for n in range(n_blocks)))


class ShallowPatchGan(nn.Module):
    """Patch discriminator of two 4x4 convolutions of stride 2 with batch norm and one 3x3 that makes the logits.

    Parameters
    ----------
    in_channels : int
        Of CT and image together.
    widths : sequence of int
        Channels of the two.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        before = in_channels
        for width in widths:
            conv = nn.Conv2d(before, width, 4, stride=2, padding=1, bias=False)
            self.blocks.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.LeakyReLU(0.2)))
            before = width
        self.logits = nn.Conv2d(before, 1, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Activations of both and, last, the logits (B, 1, H / 4, W / 4)."""
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return [*features, self.logits(x)]


def perceptual_loss(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference, summed over layers.

    Parameters
    ----------
    ours, theirs : sequence of Tensor
        (B, C, H, W) each: images, and features of prediction and truth.

    Returns
    -------
    Tensor
        Scalar.
    """
    return torch.stack([functional.l1_loss(a, b) for a, b in zip(ours, theirs, strict=True)]).sum()


def gram_matrix(features: Tensor) -> Tensor:
    """Products of channels summed over the pixels, divided by C x H x W: (B, C, H, W) -> (B, C, C)."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def style_loss(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Squared Frobenius distance of Gram matrices over 4 C^2, mean over the batch, summed over layers.

    Parameters and return as `perceptual_loss`, of features.
    """
    terms = []
    for a, b in zip(ours, theirs, strict=True):
        distance = (gram_matrix(a) - gram_matrix(b)).square().sum(dim=(1, 2))
        terms.append(distance.mean() / (4.0 * a.shape[1] ** 2))
    return torch.stack(terms).sum()


def content_loss(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Mean squared difference, summed over layers; parameters and return as `perceptual_loss`, of features."""
    return torch.stack([functional.mse_loss(a, b) for a, b in zip(ours, theirs, strict=True)]).sum()


class MedGanCasNet(BaselineMethod[CasNetOptions]):
    """A conditional discriminator learns once, then the cascade three times on the same batch."""

    @classmethod
    def translator(cls, options: CasNetOptions, channels: Channels) -> Translator:
        """Cascade of U-blocks, without dropout."""
        core = casnet(channels.given(options), unet_widths(options.width, options.levels), options.n_blocks)
        return Translator(init_gaussian(core), with_mask=options.mask)

    @classmethod
    def companions(cls, options: CasNetOptions, channels: Channels) -> dict[str, nn.Module]:
        """The discriminator, which sees what the generator sees and the image."""
        widths = [scaled(64, options.width), scaled(128, options.width)]
        return {"discriminator": init_gaussian(ShallowPatchGan(channels.given(options) + 1, widths))}

    @classmethod
    def grid_step(cls, options: CasNetOptions) -> int:
        """Every level halves the image, down to one pixel."""
        return int(2**options.levels)

    @classmethod
    def adapted(cls, options: CasNetOptions, grid_px: int) -> CasNetOptions:
        """As many levels as the image can be halved."""
        return replace(options, levels=min(options.levels, (grid_px & -grid_px).bit_length() - 1))

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of the discriminator, then those of the generator; the figures are those of its first."""
        x = self.given(batch)
        real = torch.cat([x, batch.target], dim=1)
        fake = self.run(self.generator.core, x)
        on_real = self.run(self.network("discriminator"), real)[-1]
        on_fake = self.run(self.network("discriminator"), torch.cat([x, fake.detach()], dim=1))[-1]
        judged = {"discriminator": 0.5 * (cross_entropy(on_real, 1.0) + cross_entropy(on_fake, 0.0))}
        self.descend("discriminator", judged)
        with torch.no_grad():
            true_features = self.run(self.still["discriminator"], real)[:-1]
        first = self._terms(x, fake, batch.target, true_features)
        self.descend(GENERATOR, first)
        for _ in range(1, self.options.generator_updates):
            fake = self.run(self.generator.core, x)
            self.descend(GENERATOR, self._terms(x, fake, batch.target, true_features))
        return first | judged

    def _terms(self, x: Tensor, fake: Tensor, target: Tensor, true_features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Weighted terms of the generator."""
        *features, logits = self.run(self.still["discriminator"], torch.cat([x, fake], dim=1))
        perceptual = perceptual_loss([fake, *features], [target, *true_features])
        return {
            "gan": cross_entropy(logits, 1.0),
            "perceptual": self.options.perceptual_weight * perceptual,
            "style": self.options.style_weight * style_loss(features, true_features),
            "content": self.options.content_weight * content_loss(features, true_features),
        }


ENTRIES = (
    Entry(
        "medgan_casnet",
        "MedGAN (CasNet)",
        "article: Armanious et al., CMIG 2020; style and content on the discriminator's features, not on VGG-19",
        MedGanCasNet,
        CasNetOptions(),
        Schedule(learning_rate=2e-4, batch=1, hold_epochs=200, decay_epochs=0),
    ),
)
