"""ARGAN for shadow removal (Ding et al., ICCV 2019): several steps of attention and removal with a shared memory.

The article's steps find the shadow and add a negative residual to the image inside it. Here a lesion takes the place
of the shadow, and the residual may have either sign. Since a DWI differs from a CT everywhere and not in the lesion
alone, the removal network makes two residuals, one for what is attended and one for the rest; with the second at 0 the
step is the article's. Widths, depth and the memory are ours: the article's are not known to us in figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Translator
from train.baselines.layers import PatchGan, UNet, init_gaussian, least_squares, patch_widths, scaled, unet_widths
from train.data.dataset import Batch
from train.methods.base import Moment

#: Largest change of a pixel in a step: the farthest that two values in [-1, 1] are apart.
_REACH = 2.0


class ConvLstm(nn.Module):
    """Convolutional LSTM cell (Shi et al., NeurIPS 2015, without its peepholes) of 3x3 convolutions.

    Parameters
    ----------
    in_channels, channels : int
        Of its input and of its state.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gates = nn.Conv2d(in_channels + channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """New output and cell, each (B, channels, H, W), from ``x`` and the old ones; None is a state of zeros."""
        if state is None:
            zeros = x.new_zeros(x.shape[0], self.channels, *x.shape[2:])
            state = zeros, zeros
        output, cell = state
        enter, keep, leave, news = self.gates(torch.cat([x, output], dim=1)).chunk(4, dim=1)
        cell = keep.sigmoid() * cell + enter.sigmoid() * news.tanh()
        return leave.sigmoid() * cell.tanh(), cell


class AttentiveSteps(nn.Module):
    """Detector of what to attend to, with its memory, and remover, applied again and again with the same weights.

    Norms are of the instance: batch norm would keep one average for steps whose images differ.

    Parameters
    ----------
    in_channels : int
        Of the input, whose first channel is the image that the steps start from.
    state : int
        Channels of the memory.
    widths : sequence of int
        Of the remover's U-Net.
    steps : int
        How many.
    """

    def __init__(self, in_channels: int, state: int, widths: Sequence[int], steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.features = nn.Sequential(
            nn.Conv2d(in_channels + 1, state, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(state, state, 3, padding=1),
            nn.LeakyReLU(0.2),
        )
        self.memory = ConvLstm(state, state)
        self.attention = nn.Conv2d(state, 1, 3, padding=1)
        self.remover = UNet(in_channels + 2, 2, widths, norm="instance")

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Image and logits of the attention after each step, each (B, 1, H, W), of (B, in_channels, H, W).

        The images may leave [-1, 1], where clipping would take their gradient.
        """
        images: list[Tensor] = []
        logits: list[Tensor] = []
        image = x[:, :1]
        state: tuple[Tensor, Tensor] | None = None
        for _ in range(self.steps):
            state = self.memory(self.features(torch.cat([x, image], dim=1)), state)
            logits.append(self.attention(state[0]))
            attended = logits[-1].sigmoid()
            inside, outside = self.remover(torch.cat([x, image, attended], dim=1)).split(1, dim=1)
            image = image + _REACH * (attended * inside + (1.0 - attended) * outside)
            images.append(image)
        return images, logits


class LastStep(Translator):
    """Predicts the image of the last step."""

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image (B, 1, H, W) in [-1, 1]."""
        images, _ = self.core(self.given(ct, mask))
        return cast(Tensor, images[-1].clamp(-1.0, 1.0))


def growing_sum(losses: Sequence[Tensor], decay: float) -> Tensor:
    """Sum of the steps' losses (scalars); the last counts 1 and each earlier one ``decay`` times the next."""
    last = len(losses) - 1
    return torch.stack([decay ** (last - step) * loss for step, loss in enumerate(losses)]).sum()


def known_cross_entropy(logits: Tensor, lesion: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy of attention against the lesion, mean over the images whose lesions are known.

    Parameters
    ----------
    logits, lesion : Tensor
        (B, 1, H, W); the lesion in 0..1.
    known : Tensor
        (B,) 1 or 0.

    Returns
    -------
    Tensor
        Scalar; 0 where no lesion is known.
    """
    each = nn.functional.binary_cross_entropy_with_logits(logits, lesion, reduction="none").mean(dim=(1, 2, 3))
    return (known * each).sum() / known.sum().clamp_min(1.0)


@dataclass(frozen=True, slots=True)
class ShadowOptions(Options):
    """Options of ARGAN.

    Attributes
    ----------
    levels : int
        Halvings of the remover.
    steps : int
        How often attention and removal are applied.
    decay : float
        Weight of a step's losses as a share of the next one's.
    l1_weight, attention_weight : float
        Of L1 of the images and cross-entropy of the attention at the last step.
    """

    levels: int = field(default=5, metadata={"low": 2, "high": 10})
    steps: int = field(default=3, metadata={"low": 1, "high": 8})
    decay: float = field(default=0.7, metadata={"low": 0.0, "high": 1.0})
    l1_weight: float = field(default=10.0, metadata={"low": 0.0})
    attention_weight: float = field(default=1.0, metadata={"low": 0.0})


class ArGanShadow(BaselineMethod[ShadowOptions]):
    """ARGAN: least squares of a discriminator of the last step, L1 of all steps, attention led to known lesions."""

    @classmethod
    def translator(cls, options: ShadowOptions, channels: Channels) -> Translator:
        """The steps."""
        widths = unet_widths(options.width, options.levels)
        core = AttentiveSteps(channels.given(options), scaled(32, options.width), widths, options.steps)
        init_gaussian(core.remover)  # nothing normalises the detector, whose signal such weights would shrink
        return LastStep(core, with_mask=options.mask)

    @classmethod
    def companions(cls, options: ShadowOptions, channels: Channels) -> dict[str, nn.Module]:
        """The discriminator, which sees what the generator sees and the image."""
        judge = PatchGan(channels.given(options) + 1, patch_widths(options.width))
        return {"discriminator": init_gaussian(judge)}

    @classmethod
    def grid_step(cls, options: ShadowOptions) -> int:
        """Every level halves the image; the discriminator needs 32 pixels."""
        return max(32, int(2**options.levels))

    @classmethod
    def adapted(cls, options: ShadowOptions, grid_px: int) -> ShadowOptions:
        """As many levels as the image can be halved."""
        return replace(options, levels=min(options.levels, (grid_px & -grid_px).bit_length() - 1))

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator."""
        options, x, real = self.options, self.given(batch), batch.target
        images, logits = self.run(self.generator.core, x)
        judge = self.network("discriminator")
        on_real = self.run(judge, torch.cat([x, real], dim=1))[-1]
        on_fake = self.run(judge, torch.cat([x, images[-1].detach()], dim=1))[-1]
        judged = {"discriminator": 0.5 * (least_squares(on_real, 1.0) + least_squares(on_fake, 0.0))}
        self.descend("discriminator", judged)
        on_fake = self.run(self.still["discriminator"], torch.cat([x, images[-1]], dim=1))[-1]
        errors = [nn.functional.l1_loss(image, real) for image in images]
        attention = [known_cross_entropy(logit, batch.lesion, batch.lesion_known) for logit in logits]
        terms = {
            "gan": least_squares(on_fake, 1.0),
            "l1": options.l1_weight * growing_sum(errors, options.decay),
            "attention": options.attention_weight * growing_sum(attention, options.decay),
        }
        self.descend(GENERATOR, terms)
        return terms | judged


ENTRIES = (
    Entry(
        "argan_shadow",
        "ARGAN (shadow removal)",
        "Ding et al., ICCV 2019, adapted: attention learns the lesion",
        ArGanShadow,
        ShadowOptions(),
    ),
)
