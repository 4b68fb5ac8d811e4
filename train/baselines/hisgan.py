"""HisGAN (Peng, Sun et al., Knowledge-Based Systems 2023, 110802): a light network of weighted dilated convolutions.

A second network of the same kind learns from mixtures of input and prediction, the discriminator is held by a gradient
penalty, and the distance between histograms of prediction and truth scales the loss on gradients. `hisgan` mends three
things that the public implementation does; `hisgan_repo` keeps them:

- batch norm and ReLU stand before the first convolution, so that half of the raw input is lost;
- the loss on gradients is a sum over a row, so its weight grows with the size of the image;
- the histogram losses of an epoch are compared with a history that starts anew with a 0.

The convolutions have biases: with them a network has the 4.13 M parameters that are counted for it, without 4.11 M.
Channels not divided by 16 groups, as at small widths, have as many groups as divide them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Translator
from train.baselines.layers import PatchGan, cross_entropy, groups_for, init_gaussian, patch_widths, scaled
from train.baselines.pool import ImagePool
from train.data.dataset import Batch
from train.devices import Devices
from train.guard import StepGuard
from train.methods.average import MovingAverage
from train.methods.base import Moment
from train.recipe import Recipe, StageRecipe

#: Bins of the histograms, and what lies above the darkest value by less than this is not counted: the background.
N_BINS = 100
BACKGROUND = 0.1
#: Added to a squared norm whose root is differentiated: at 0 the root's slope is infinite.
_TINY = 1e-12


def _activated(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    *,
    stride: int = 1,
    dilation: int = 1,
    most_groups: int = 1,
) -> nn.Sequential:
    """Batch norm, ReLU and a convolution that keeps the size, or divides it by the stride."""
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=(dilation * ((kernel[0] - 1) // 2), dilation * ((kernel[1] - 1) // 2)),
        dilation=dilation,
        groups=groups_for(in_channels, out_channels, most=most_groups),
    )
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), conv)


def _narrowed(in_channels: int, middle: int) -> nn.Sequential:
    """Two 1x1 convolutions through a quarter of the channels."""
    quarter = max(1, in_channels // 4)
    return nn.Sequential(_activated(in_channels, quarter, (1, 1)), _activated(quarter, middle, (1, 1)))


class DilatedBlock(nn.Module):
    """Three grouped 3x3 convolutions of dilation 1, 3 and 5, weighted by learnt scalars, beside a plain convolution.

    Its ``stride`` is 1, or 2 to halve the size.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.narrowed = _narrowed(in_channels, middle)
        self.dilated = nn.ModuleList(
            _activated(middle, out_channels, (3, 3), stride=stride, dilation=dilation, most_groups=16)
            for dilation in (1, 3, 5)
        )
        self.shares = nn.Parameter(torch.ones(3))
        self.plain = _activated(middle, out_channels, (stride, stride), stride=stride)
        self.mixed = _activated(out_channels, out_channels, (1, 3), most_groups=16)
        changes = stride > 1 or in_channels != out_channels
        self.skip: nn.Module = (
            _activated(in_channels, out_channels, (stride, stride), stride=stride) if changes else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, out_channels, H / stride, W / stride) of (B, in_channels, H, W)."""
        narrowed = self.narrowed(x)
        total = self.plain(narrowed)
        for share, branch in zip(self.shares, self.dilated, strict=True):
            total = total + share * branch(narrowed)
        return cast(Tensor, self.skip(x) + self.mixed(total))


class RisingBlock(nn.Module):
    """Two grouped 3x3 convolutions beside a 1x1 convolution, for the way up."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.body = nn.Sequential(
            _narrowed(in_channels, middle),
            _activated(middle, out_channels, (3, 3), most_groups=16),
            _activated(out_channels, out_channels, (3, 3), most_groups=16),
        )
        self.skip = _activated(in_channels, out_channels, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, out_channels, H, W) of (B, in_channels, H, W)."""
        return cast(Tensor, self.skip(x) + self.body(x))


class DilatedNet(nn.Module):
    """Encoder and decoder of dilated blocks: four halvings, skips by concatenation, tanh.

    ``width`` is the share of the table's channels; ``activated_input`` puts batch norm and ReLU before the first
    convolution too.
    """

    def __init__(self, in_channels: int, width: float, *, activated_input: bool) -> None:
        super().__init__()
        c1, c2, c3, c4 = (scaled(channels, width, 4) for channels in (64, 128, 256, 512))
        self.first: nn.Module = (
            _activated(in_channels, c1, (3, 3), stride=2)
            if activated_input
            else nn.Conv2d(in_channels, c1, 3, stride=2, padding=1)
        )
        self.down = nn.ModuleList(
            nn.Sequential(DilatedBlock(before, inner, stride=2), DilatedBlock(inner, inner), DilatedBlock(inner, after))
            for before, inner, after in ((c1, c2, c2), (c2, c3, c3), (c3, c4, c3))
        )
        self.up = nn.ModuleList([RisingBlock(2 * c3, c3), RisingBlock(c3 + c2, c2), RisingBlock(c2 + c1, c1)])
        self.last = nn.Sequential(_activated(c1, 1, (1, 1)), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, 1, H, W) in [-1, 1] of (B, in_channels, H, W)."""
        skips: list[Tensor] = [self.first(x)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.up:
            x = up(torch.cat([_doubled(x), skips.pop()], dim=1))
        return cast(Tensor, self.last(_doubled(x)))


def _doubled(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear")


def gradient_distance(fake: Tensor, real: Tensor, *, row_sums: bool = False) -> Tensor:
    """L1 between central differences along the columns and along the rows, half of each.

    Parameters
    ----------
    fake, real : Tensor
        (B, 1, H, W); zero lies outside.
    row_sums : bool
        Sum over the last axis before averaging: W times the mean.

    Returns
    -------
    Tensor
        Scalar.
    """
    error = fake - real  # the difference is linear
    total = error.new_zeros(())
    for axis, around in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        padded, length = nn.functional.pad(error, around), error.shape[axis]
        apart = (padded.narrow(axis, 2, length) - padded.narrow(axis, 0, length)).abs()
        total = total + 0.5 * (apart.sum(dim=-1).mean() if row_sums else apart.mean())
    return total


@torch.no_grad()
def histogram_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference between histogram counts of two batches, divided by the number of bins.

    Both histograms span the true batch from its least value plus 0.1, which leaves out the background, to its largest;
    a batch without such a range has no counts.

    Parameters
    ----------
    fake, real : Tensor
        (B, 1, H, W).

    Returns
    -------
    Tensor
        Scalar, without gradient.
    """
    low, high = real.min() + BACKGROUND, real.max()
    return (_counts(fake, low, high) - _counts(real, low, high)).abs().mean() / N_BINS


def _counts(images: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(N_BINS,) counts. Not `torch.histc`: its bounds are numbers, for which a GPU would have to be waited for."""
    values = images.flatten()
    place = ((values - low) / (high - low).clamp_min(_TINY) * N_BINS).clamp(0, N_BINS - 1)
    counted = (values >= low) & (values <= high)
    index = torch.where(counted, place, N_BINS).long()  # the bin after the last takes what is outside
    return torch.zeros(N_BINS + 1, device=images.device).scatter_add_(0, index, torch.ones_like(values))[:N_BINS]


class HistogramHistory:
    """Losses of earlier steps, against which the newest one is called large or small.

    Parameters
    ----------
    length : int
        Steps that it holds.
    restarts : bool
        Forget everything after ``length`` steps and start with a 0, as if that were an epoch. Otherwise the oldest
        loss makes room for the newest.
    device : torch.device
        Where the losses are and stay: nothing waits for them.
    """

    def __init__(self, length: int, *, restarts: bool, device: torch.device) -> None:
        self.length, self.restarts = length, restarts
        self._values = torch.zeros(length + int(restarts), device=device)
        self._seen = 0

    @torch.no_grad()
    def factor(self, loss: Tensor) -> Tensor:
        """Take in a loss (scalar) and return the sigmoid of its z-score in the history, 0.5 where all are equal."""
        place = self._seen % self.length + int(self.restarts)
        self._values[place] = loss
        kept = self._values[: place + 1] if self.restarts else self._values[: min(self._seen + 1, self.length)]
        self._seen += 1
        sd = kept.std(correction=0)
        varied = sd > 1e-6 * kept.abs().max()  # else it is what rounding leaves of none
        return torch.where(varied, (loss - kept.mean()) / sd, 0.0).sigmoid()

    def clear(self) -> None:
        """Forget everything."""
        self._values.zero_()
        self._seen = 0

    def state_dict(self) -> dict[str, Any]:
        """Losses and how many steps there were."""
        return {"values": self._values.clone(), "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Take a state over in place."""
        self._values.copy_(state_dict["values"])
        self._seen = int(state_dict["seen"])


def gradient_penalty(judge: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Squared distance from 1 of the norm of the gradient between real and predicted images (WGAN-GP).

    The verdict on an image is the sum of its logits. To be called in fp32: the gradient is differentiated again.

    Parameters
    ----------
    judge : nn.Module
        Discriminator without normalisation over the batch: each image must have a gradient of its own.
    real, fake : Tensor
        (B, 1, H, W), mixed image by image with random shares.

    Returns
    -------
    Tensor
        Scalar, mean over the images, differentiable for the judge's weights.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = (share * real + (1.0 - share) * fake).detach().requires_grad_()
    logits = judge(between)[-1]
    (gradient,) = torch.autograd.grad(logits.sum(), between, create_graph=True)
    norm = (gradient.square().flatten(1).sum(dim=1) + _TINY).sqrt()
    return ((norm - 1.0) ** 2).mean()


@dataclass(frozen=True, slots=True)
class HisGanOptions(Options):
    """Options of HisGAN.

    Attributes
    ----------
    as_published : bool
        Keep what the public implementation does, see the module's text. It also predicts with the weights themselves,
        not with their average.
    l1_weight, penalty_weight : float
        Of L1 and of the gradient penalty.
    gradient_weight : float
        Of the loss on gradients. The public implementation's 10 is for sums over rows; 2560 gives means the same
        weight at 256 pixels.
    refined_gan_weight, refined_l1_weight : float
        Of the same terms on the second network's image.
    epoch_steps : int
        Steps of the history of histogram losses. An epoch in the source; a step does not know its epoch.
    """

    as_published: bool = False
    l1_weight: float = field(default=10.0, metadata={"low": 0.0})
    gradient_weight: float = field(default=2560.0, metadata={"low": 0.0})
    penalty_weight: float = field(default=10.0, metadata={"low": 0.0})
    refined_gan_weight: float = field(default=0.5, metadata={"low": 0.0})
    refined_l1_weight: float = field(default=5.0, metadata={"low": 0.0})
    epoch_steps: int = field(default=500, metadata={"low": 2})


class HisGan(BaselineMethod[HisGanOptions]):
    """HisGAN: cross-entropy of a discriminator that sees the DWI alone, L1, and gradients scaled by histograms."""

    optimised = {GENERATOR: (GENERATOR, "refiner"), "discriminator": ("discriminator",)}  # noqa: RUF012

    def __init__(
        self, recipe: Recipe, devices: Devices, guard: StepGuard, options: HisGanOptions, channels: Channels
    ) -> None:
        super().__init__(recipe, devices, guard, options, channels)
        if options.as_published:
            self.average = MovingAverage(self.generator, 0.0)
        self.pool = ImagePool(50)
        self.history = HistogramHistory(options.epoch_steps, restarts=options.as_published, device=devices.device)
        self.memory |= {"pool": self.pool, "history": self.history}

    @classmethod
    def translator(cls, options: HisGanOptions, channels: Channels) -> Translator:
        """The network of dilated blocks."""
        return Translator(_dilated_net(options, channels), with_mask=options.mask)

    @classmethod
    def companions(cls, options: HisGanOptions, channels: Channels) -> dict[str, nn.Module]:
        """The refiner, a twin of the generator's core, and the discriminator, which sees the DWI alone."""
        judge = PatchGan(1, patch_widths(options.width), norm="none")
        return {"refiner": _dilated_net(options, channels), "discriminator": init_gaussian(judge)}

    @classmethod
    def grid_step(cls, options: HisGanOptions) -> int:
        """Four halvings, and more than one pixel in the middle, of which batch norm can make no variance."""
        return 32

    def start_stage(self, stage: StageRecipe) -> None:
        """Also forget the histogram losses: counts grow with the image."""
        super().start_stage(stage)
        self.history.clear()

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of the discriminator, then one of generator and refiner together."""
        fake = self.run(self.generator.core, self.given(batch))
        share = torch.rand(len(fake), 1, 1, 1, device=fake.device)
        mixture = self.given(replace(batch, ct=share * batch.ct + (1.0 - share) * fake))
        refined = self.run(self.network("refiner"), mixture)
        judged = self._judged(batch.target, fake.detach(), refined.detach())
        self.descend("discriminator", judged)
        terms = self._steered(batch.target, fake, refined)
        self.descend(GENERATOR, terms)
        return terms | judged

    def _judged(self, real: Tensor, fake: Tensor, refined: Tensor) -> dict[str, Tensor]:
        judge = self.network("discriminator")
        fake = self.pool.exchanged(fake)
        on_real, on_fake, on_refined = (self.run(judge, images)[-1] for images in (real, fake, refined))
        not_real = 0.5 * (cross_entropy(on_fake, 0.0) + cross_entropy(on_refined, 0.0))
        return {
            "discriminator": cross_entropy(on_real, 1.0) + not_real,
            "gradient_penalty": self.options.penalty_weight * gradient_penalty(judge, real, fake),
        }

    def _steered(self, real: Tensor, fake: Tensor, refined: Tensor) -> dict[str, Tensor]:
        options, judge = self.options, self.still["discriminator"]
        # The mean over the processes, so that all of them keep the same history.
        factor = self.history.factor(self.devices.mean(histogram_distance(fake, real)))
        gradients = gradient_distance(fake, real, row_sums=options.as_published)
        return {
            "gan": cross_entropy(self.run(judge, fake)[-1], 1.0),
            "l1": options.l1_weight * nn.functional.l1_loss(fake, real),
            "gradient": options.gradient_weight * (1.0 + factor) * gradients,
            "refined_gan": options.refined_gan_weight * cross_entropy(self.run(judge, refined)[-1], 1.0),
            "refined_l1": options.refined_l1_weight * nn.functional.l1_loss(refined, real),
        }


def _dilated_net(options: HisGanOptions, channels: Channels) -> nn.Module:
    given = channels.given(options)
    return init_gaussian(DilatedNet(given, options.width, activated_input=options.as_published))


_WORK = "Peng et al., Knowledge-Based Systems 2023"
_AS_PUBLISHED = HisGanOptions(as_published=True, gradient_weight=10.0)

ENTRIES = (
    Entry("hisgan", "HisGAN", f"{_WORK}, faults of its public implementation mended", HisGan, HisGanOptions()),
    Entry("hisgan_repo", "HisGAN (public)", f"{_WORK}, as its public implementation computes", HisGan, _AS_PUBLISHED),
)
