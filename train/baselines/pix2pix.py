"""pix2pix (Isola et al., CVPR 2017) and, as a control, its U-Net trained with L1 alone.

The U-Net has eight halvings, so images of 256 pixels reach one pixel in the middle; smaller images take fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Schedule, Translator
from train.baselines.layers import PatchGan, UNet, cross_entropy, init_gaussian, patch_widths, unet_widths
from train.data.dataset import Batch
from train.methods.base import Moment


@dataclass(frozen=True, slots=True)
class UNetOptions(Options):
    """Options of the U-Net: ``levels`` halvings, and the weight of L1."""

    levels: int = field(default=8, metadata={"low": 2, "high": 10})
    l1_weight: float = field(default=100.0, metadata={"low": 0.0})


class UNetL1(BaselineMethod[UNetOptions]):
    """The U-Net of pix2pix trained with L1: no adversary, often the best PSNR."""

    optimised = {GENERATOR: (GENERATOR,)}  # noqa: RUF012  (declared as ClassVar in the base)

    @classmethod
    def translator(cls, options: UNetOptions, channels: Channels) -> Translator:
        """U-Net with batch norm and dropout in its three levels next to the innermost."""
        levels = options.levels
        dropout = range(max(1, levels - 4), levels - 1)
        core = UNet(channels.given(options), 1, unet_widths(options.width, levels), dropout=dropout)
        return Translator(init_gaussian(core), with_mask=options.mask)

    @classmethod
    def companions(cls, options: UNetOptions, channels: Channels) -> dict[str, nn.Module]:
        """None."""
        return {}

    @classmethod
    def grid_step(cls, options: UNetOptions) -> int:
        """Every level halves the image, down to one pixel."""
        return int(2**options.levels)

    @classmethod
    def adapted(cls, options: UNetOptions, grid_px: int) -> UNetOptions:
        """As many levels as the image can be halved."""
        return replace(options, levels=min(options.levels, (grid_px & -grid_px).bit_length() - 1))

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One step down L1."""
        fake = self.run(self.generator.core, self.given(batch))
        terms = {"l1": self.options.l1_weight * nn.functional.l1_loss(fake, batch.target)}
        self.descend(GENERATOR, terms)
        return terms


class Pix2Pix(UNetL1):
    """pix2pix: cross-entropy of a conditional patch discriminator, which learns first, and L1."""

    optimised = {GENERATOR: (GENERATOR,), "discriminator": ("discriminator",)}  # noqa: RUF012

    @classmethod
    def companions(cls, options: UNetOptions, channels: Channels) -> dict[str, nn.Module]:
        """The discriminator, which sees what the generator sees and the image."""
        judge = PatchGan(channels.given(options) + 1, patch_widths(options.width), norm="batch")
        return {"discriminator": init_gaussian(judge)}

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator."""
        x = self.given(batch)
        fake = self.run(self.generator.core, x)
        on_real = self.run(self.network("discriminator"), torch.cat([x, batch.target], dim=1))[-1]
        on_fake = self.run(self.network("discriminator"), torch.cat([x, fake.detach()], dim=1))[-1]
        judged = {"discriminator": 0.5 * (cross_entropy(on_real, 1.0) + cross_entropy(on_fake, 0.0))}
        self.descend("discriminator", judged)
        on_fake = self.run(self.still["discriminator"], torch.cat([x, fake], dim=1))[-1]
        terms = {
            "gan": cross_entropy(on_fake, 1.0),
            "l1": self.options.l1_weight * nn.functional.l1_loss(fake, batch.target),
        }
        self.descend(GENERATOR, terms)
        return terms | judged


_SCHEDULE = Schedule(learning_rate=2e-4, batch=1)

ENTRIES = (
    Entry("pix2pix", "pix2pix", "Isola et al., CVPR 2017", Pix2Pix, UNetOptions(), _SCHEDULE),
    Entry("unet_l1", "U-Net L1", "control: the generator of pix2pix with L1 alone", UNetL1, UNetOptions(), _SCHEDULE),
)
