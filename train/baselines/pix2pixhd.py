"""pix2pixHD (Wang et al., CVPR 2018): its global generator, which the paper builds on, and its local enhancer.

After the public implementation: least-squares losses of two discriminators, summed, and feature matching; there is no
pixel loss. One step takes both losses at the same weights and the same prediction, and the generator learns first.
Left out: the perceptual term, which needs a downloaded VGG-19 (these methods use no foreign weights), and the separate
training of the global generator before the enhancer joins it, which the implementation leaves off by default.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.settings import DiscriminatorSettings
from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Schedule, Translator
from train.baselines.layers import ResidualBlock, doubling, halving, head, init_gaussian, resnet_generator, scaled, stem
from train.data.dataset import Batch
from train.methods.base import Moment
from train.objectives.adversarial import (
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    feature_matching_loss,
)

#: Residual blocks of the enhancer at the full size.
_LOCAL_BLOCKS = 3
#: Smallest side of the innermost map: instance norm over fewer pixels leaves hardly an image.
_INNERMOST_PX = 4
#: The mean over all layers and scales, times this, is pix2pixHD's feature matching (`train.objectives.adversarial`).
_SUM_OF_FEATURES = 4.0


@dataclass(frozen=True, slots=True)
class Pix2PixHDOptions(Options):
    """Options of pix2pixHD.

    Attributes
    ----------
    n_down : int
        Halvings of the global generator.
    n_blocks : int
        Its residual blocks.
    num_scales : int
        Discriminators: 2 in the public implementation, 3 in the article.
    feature_weight : float
        Of feature matching, in pix2pixHD's own scaling.
    """

    n_down: int = field(default=4, metadata={"low": 1, "high": 8})
    n_blocks: int = field(default=9, metadata={"low": 1, "high": 64})
    num_scales: int = field(default=2, metadata={"low": 1, "high": 4})
    feature_weight: float = field(default=10.0, metadata={"low": 0.0})


class LocalEnhancer(nn.Module):
    """A global generator without its last layer, on the halved image, and finer layers around it.

    Parameters
    ----------
    in_channels : int
        Of the input.
    ngf : int
        Channels at the full size; the global generator starts with twice as many.
    n_down, n_blocks : int
        Halvings and residual blocks of the global generator.
    """

    def __init__(self, in_channels: int, *, ngf: int, n_down: int, n_blocks: int) -> None:
        super().__init__()
        whole = resnet_generator(in_channels, ngf=2 * ngf, n_down=n_down, n_blocks=n_blocks)
        self.coarse = whole[:-3]  # the head is three modules
        self.front = nn.Sequential(*stem(in_channels, ngf), *halving(ngf, 2 * ngf))
        blocks = [ResidualBlock(2 * ngf) for _ in range(_LOCAL_BLOCKS)]
        self.back = nn.Sequential(*blocks, *doubling(2 * ngf, ngf), *head(ngf))

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, 1, H, W) of (B, in_channels, H, W)."""
        halved = functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return cast(Tensor, self.back(self.front(x) + self.coarse(halved)))


class Pix2PixHD(BaselineMethod[Pix2PixHDOptions]):
    """pix2pixHD with the global generator alone, the sensible one for 256 pixels."""

    @classmethod
    def translator(cls, options: Pix2PixHDOptions, channels: Channels) -> Translator:
        """The global generator."""
        core = resnet_generator(
            channels.given(options), ngf=scaled(64, options.width), n_down=options.n_down, n_blocks=options.n_blocks
        )
        return Translator(init_gaussian(core), with_mask=options.mask)

    @classmethod
    def companions(cls, options: Pix2PixHDOptions, channels: Channels) -> dict[str, nn.Module]:
        """The discriminators of all scales as one, which sees what the generator sees and the image."""
        settings = DiscriminatorSettings(
            in_channels=channels.given(options) + 1, ndf=scaled(64, options.width), num_scales=options.num_scales
        )
        return {"discriminator": build_discriminator(settings)}

    @classmethod
    def grid_step(cls, options: Pix2PixHDOptions) -> int:
        """Every halving is undone by a doubling."""
        return int(2**options.n_down)

    @classmethod
    def adapted(cls, options: Pix2PixHDOptions, grid_px: int) -> Pix2PixHDOptions:
        """As many halvings as leave whole pixels, and four of them in the middle."""
        return replace(options, n_down=_halvings(options.n_down, grid_px))

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of the generator, then one of the discriminator."""
        x = self.given(batch)
        fake = self.run(self.generator.core, x)
        discriminator = self.network("discriminator")
        on_real = self.run(discriminator, torch.cat([x, batch.target], dim=1))
        on_fake = self.run(self.still["discriminator"], torch.cat([x, fake], dim=1))
        # The helpers take means over the scales where pix2pixHD sums.
        scales = float(self.options.num_scales)
        terms = {
            "gan": scales * adversarial_generator_loss(on_fake),
            "feature_matching": self.options.feature_weight
            * _SUM_OF_FEATURES
            * feature_matching_loss(on_real, on_fake),
        }
        self.descend(GENERATOR, terms)
        on_fake = self.run(discriminator, torch.cat([x, fake.detach()], dim=1))
        judged = {"discriminator": scales * adversarial_discriminator_loss(on_real, on_fake)}
        self.descend("discriminator", judged)
        return terms | judged


class Pix2PixHDLocal(Pix2PixHD):
    """pix2pixHD with the local enhancer, made for images of 1024 pixels and more; both parts learn together."""

    @classmethod
    def translator(cls, options: Pix2PixHDOptions, channels: Channels) -> Translator:
        """The local enhancer around the global generator."""
        ngf = scaled(32, options.width)
        core = LocalEnhancer(channels.given(options), ngf=ngf, n_down=options.n_down, n_blocks=options.n_blocks)
        return Translator(init_gaussian(core), with_mask=options.mask)

    @classmethod
    def grid_step(cls, options: Pix2PixHDOptions) -> int:
        """The global generator works on the halved image."""
        return 2 * super().grid_step(options)

    @classmethod
    def adapted(cls, options: Pix2PixHDOptions, grid_px: int) -> Pix2PixHDOptions:
        """As many halvings as the halved image allows."""
        return super().adapted(options, grid_px // 2)


def _halvings(most: int, side: int) -> int:
    """Halvings of a side, up to ``most`` and at least one, down to no less than the innermost side."""
    fitting = [n for n in range(1, most + 1) if side % 2**n == 0 and side // 2**n >= _INNERMOST_PX]
    return max(fitting, default=1)


_SOURCE = "Wang et al., CVPR 2018, public implementation, without VGG"
_SCHEDULE = Schedule(learning_rate=2e-4, batch=1)

ENTRIES = (
    Entry("pix2pixhd", "Pix2PixHD", _SOURCE, Pix2PixHD, Pix2PixHDOptions(), _SCHEDULE),
    Entry("pix2pixhd_local", "Pix2PixHD local", f"{_SOURCE}: enhancer", Pix2PixHDLocal, Pix2PixHDOptions(), _SCHEDULE),
)
