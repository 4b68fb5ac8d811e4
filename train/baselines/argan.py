"""AR-GAN (Luo et al., Medical Image Analysis 2022): a U-Net predicts, a second network rectifies, spectra must agree.

`argan` follows the method's sense: the second network learns what the first one missed, both are added and clipped,
that sum is the prediction, and spectra are compared as they are. `argan_repo` is the public implementation, made for
images of one modality: the second network learns truth minus input, the sum passes a sigmoid although images reach
down to -1, the first network alone predicts, the discriminator ends with tanh, and log-amplitudes pass a sigmoid, which
makes little of differences between large ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Translator
from train.baselines.layers import PatchGan, UNet, init_gaussian, least_squares, patch_widths, scaled, unet_widths
from train.baselines.pool import ImagePool
from train.data.dataset import Batch
from train.devices import Devices
from train.guard import StepGuard
from train.methods.base import Moment
from train.recipe import Recipe


class RectificationNet(nn.Module):
    """Convolutions without skips through a quarter of the size; tanh; the result multiplies the input.

    Parameters
    ----------
    width : float
        Share of the table's channels.
    random_slopes : bool
        Activate with RReLU, whose negative slopes are drawn anew in training, and not with ReLU.
    """

    def __init__(self, width: float, *, random_slopes: bool) -> None:
        super().__init__()
        c1, c2, c3, c4 = (scaled(channels, width) for channels in (64, 128, 256, 512))

        def block(before: int, after: int) -> list[nn.Module]:
            conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
            return [conv, nn.BatchNorm2d(after), nn.RReLU() if random_slopes else nn.ReLU()]

        self.body = nn.Sequential(
            *block(1, c1),
            nn.MaxPool2d(2),
            *block(c1, c2),
            nn.MaxPool2d(2),
            *block(c2, c3),
            *block(c3, c4),
            *block(c4, c3),
            nn.ConvTranspose2d(c3, c3, 2, stride=2),
            *block(c3, c2),
            nn.ConvTranspose2d(c2, c2, 2, stride=2),
            *block(c2, c1),
            nn.Conv2d(c1, 1, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Correction (B, 1, H, W) of an image of the same shape, at most as large as the image's own values."""
        return cast(Tensor, image * self.body(image))


class PredictThenRectify(nn.Module):
    """The U-Net (PreNet), and the network that rectifies its image (AR-Net).

    Parameters
    ----------
    pre, rectification : nn.Module
        (B, C, H, W) to an image (B, 1, H, W) in [-1, 1], and that to its correction.
    as_published : bool
        Pass the sum through a sigmoid and not clip it.
    """

    def __init__(self, pre: nn.Module, rectification: nn.Module, *, as_published: bool) -> None:
        super().__init__()
        self.pre, self.rectification = pre, rectification
        self.as_published = as_published

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First image, correction and rectified image, each (B, 1, H, W)."""
        pre = self.pre(x)
        correction = self.rectification(pre)
        total = pre + correction
        return pre, correction, total.sigmoid() if self.as_published else total.clamp(-1.0, 1.0)


class RectifiedTranslator(Translator):
    """Predicts the rectified image; the public implementation the first one."""

    core: PredictThenRectify

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image (B, 1, H, W)."""
        pre, _, rectified = self.core(self.given(ct, mask))
        return cast(Tensor, pre if self.core.as_published else rectified)


def log_amplitudes(images: Tensor) -> Tensor:
    """Logarithm of 1 + amplitude of the two-dimensional Fourier transform: the shape of ``images``, (B, 1, H, W)."""
    spectrum: Tensor = torch.fft.fft2(images)
    return spectrum.abs().log1p()


def spectral_distance(fake: Tensor, real: Tensor, *, as_published: bool) -> Tensor:
    """Distance between the log-amplitudes of two batches.

    Parameters
    ----------
    fake, real : Tensor
        (B, 1, H, W) float32.
    as_published : bool
        Cross-entropy between their sigmoids. Otherwise L1, divided by the largest log-amplitude that an image in
        [-1, 1] can have, log(1 + H W).

    Returns
    -------
    Tensor
        Scalar.
    """
    ours, theirs = log_amplitudes(fake), log_amplitudes(real)
    if as_published:
        return nn.functional.binary_cross_entropy_with_logits(ours, theirs.sigmoid())
    return nn.functional.l1_loss(ours, theirs) / math.log1p(fake.shape[-2] * fake.shape[-1])


@dataclass(frozen=True, slots=True)
class ArGanOptions(Options):
    """Options of AR-GAN.

    Attributes
    ----------
    as_published : bool
        Do as the public implementation, see the module's text.
    levels : int
        Halvings of the U-Net; 7 leave two pixels of 256.
    l1_weight, residual_weight, spectrum_weight : float
        Of L1 of the first image, L1 of the correction, and the distance of spectra of the rectified image.
    """

    as_published: bool = False
    levels: int = field(default=7, metadata={"low": 2, "high": 10})
    l1_weight: float = field(default=100.0, metadata={"low": 0.0})
    residual_weight: float = field(default=10.0, metadata={"low": 0.0})
    spectrum_weight: float = field(default=10.0, metadata={"low": 0.0})


class ArGan(BaselineMethod[ArGanOptions]):
    """AR-GAN: least squares of a conditional patch discriminator on the rectified image, L1 twice, and spectra."""

    def __init__(
        self, recipe: Recipe, devices: Devices, guard: StepGuard, options: ArGanOptions, channels: Channels
    ) -> None:
        super().__init__(recipe, devices, guard, options, channels)
        self.pool = ImagePool(50)
        self.memory["pool"] = self.pool

    @classmethod
    def translator(cls, options: ArGanOptions, channels: Channels) -> Translator:
        """U-Net with batch norm, and the rectification network on its image."""
        pre = UNet(channels.given(options), 1, unet_widths(options.width, options.levels))
        rectification = RectificationNet(options.width, random_slopes=options.as_published)
        core = PredictThenRectify(pre, rectification, as_published=options.as_published)
        return RectifiedTranslator(init_gaussian(core), with_mask=options.mask)

    @classmethod
    def companions(cls, options: ArGanOptions, channels: Channels) -> dict[str, nn.Module]:
        """The discriminator, which sees what the generator sees and the image."""
        judge = PatchGan(channels.given(options) + 1, patch_widths(options.width), norm="batch")
        return {"discriminator": init_gaussian(judge)}

    @classmethod
    def grid_step(cls, options: ArGanOptions) -> int:
        """Every level halves the image; the discriminator needs 32 pixels."""
        return max(32, int(2**options.levels))

    @classmethod
    def adapted(cls, options: ArGanOptions, grid_px: int) -> ArGanOptions:
        """As many levels as the image can be halved."""
        return replace(options, levels=min(options.levels, (grid_px & -grid_px).bit_length() - 1))

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator's two networks together."""
        options, x, real = self.options, self.given(batch), batch.target
        pre, correction, rectified = self.run(self.generator.core, x)
        judge = self.network("discriminator")
        shown = self.pool.exchanged(torch.cat([x, rectified], dim=1))
        on_real, on_fake = self._verdict(judge, torch.cat([x, real], dim=1)), self._verdict(judge, shown)
        judged = {"discriminator": 0.5 * (least_squares(on_real, 1.0) + least_squares(on_fake, 0.0))}
        self.descend("discriminator", judged)
        on_fake = self._verdict(self.still["discriminator"], torch.cat([x, rectified], dim=1))
        missed = real - (batch.ct[:, :1] if options.as_published else pre.detach())
        spectra = spectral_distance(rectified, real, as_published=options.as_published)
        terms = {
            "gan": least_squares(on_fake, 1.0),
            "l1": options.l1_weight * nn.functional.l1_loss(pre, real),
            "residual": options.residual_weight * nn.functional.l1_loss(correction, missed),
            "spectrum": options.spectrum_weight * spectra,
        }
        self.descend(GENERATOR, terms)
        return terms | judged

    def _verdict(self, judge: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = self.run(judge, images)[-1]
        return logits.tanh() if self.options.as_published else logits


_WORK = "Luo et al., Medical Image Analysis 2022"

ENTRIES = (
    Entry("argan", "AR-GAN", f"{_WORK}, in the article's sense", ArGan, ArGanOptions()),
    Entry("argan_repo", "AR-GAN (public)", f"{_WORK}, public implementation", ArGan, ArGanOptions(as_published=True)),
)
