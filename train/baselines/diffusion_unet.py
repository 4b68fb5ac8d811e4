"""What `cddpm` and `bbdm` share: a noising path, its deterministic few-step sampler, a U-Net with time, the step.

Both noise an image in pixel space, and in both the noised image is a weighted sum of image, source (the CT's first
channel) and noise: with weights that depend on time alone, any estimate of the image tells the noise, and the sum can
be made anew for an earlier time. That is DDIM (Song et al., ICLR 2021) for diffusion, and for the bridge DBIM with its
one draw of noise at the start (Zheng et al., ICLR 2025).

The U-Net is a small one of the kind of Ho et al. (NeurIPS 2020): a prediction runs it ``sampling_steps`` times, and
validation during training does so for every slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Options, Translator
from train.baselines.layers import groups_for, scaled
from train.data.dataset import Batch
from train.methods.base import Moment

#: Channels of the outermost level, doubled with each level up to the most.
_BASE, _MOST = 32, 256
_EMBEDDING = 128
#: Sines (and cosines) of time that the embedding is made of.
_WAVES = 32
_HEADS = 4
#: Smallest side of the innermost map, where attention is.
_SMALLEST_SIDE = 8
#: Seed of the noise that a prediction starts from.
_SEED = 2025


@dataclass(frozen=True, slots=True)
class DiffusionOptions(Options):
    """Options of both diffusion methods.

    Attributes
    ----------
    levels : int
        Resolutions of the U-Net.
    train_steps : int
        Times that training draws from.
    sampling_steps : int
        Times that a prediction visits: as often the U-Net runs.
    """

    levels: int = field(default=5, metadata={"low": 1, "high": 7})
    train_steps: int = field(default=1000, metadata={"low": 10})
    sampling_steps: int = field(default=10, metadata={"low": 1, "high": 250})


@dataclass(frozen=True, slots=True, eq=False)
class NoisePath:
    """Weights of image, source and noise in the noised image at times 0 (the image) to T.

    Attributes
    ----------
    image, source, noise : ndarray
        (T + 1,) float64. The noise has unit variance.
    """

    image: NDArray[np.float64]
    source: NDArray[np.float64]
    noise: NDArray[np.float64]

    @property
    def steps(self) -> int:
        """T."""
        return len(self.image) - 1

    def at(self, time: int) -> tuple[float, float, float]:
        """Weights of image, source and noise."""
        return float(self.image[time]), float(self.source[time]), float(self.noise[time])

    def noised(self, image: Tensor, source: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Noised images, (B, 1, H, W) as all three; ``times`` (B,) of whole numbers is on the CPU."""

        def at_times(weights: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(weights[times.numpy()]).to(image).view(-1, 1, 1, 1)

        return at_times(self.image) * image + at_times(self.source) * source + at_times(self.noise) * noise


def sampling_times(first: int, count: int) -> tuple[int, ...]:
    """At most ``count`` different times from ``first`` down, evenly spaced, all above 0."""
    return tuple(sorted({max(1, round(first * step / count)) for step in range(1, count + 1)}, reverse=True))


def sampled(
    path: NoisePath,
    times: Sequence[int],
    estimate: Callable[[Tensor, int], Tensor],
    source: Tensor,
    noise: Tensor,
) -> Tensor:
    """Go back along the path from the first time to the image, without drawing anything on the way.

    Parameters
    ----------
    path : NoisePath
        Of the training.
    times : sequence of int
        Falling, above 0.
    estimate : callable
        Image of a noised image and its time; limited to [-1, 1] here.
    source : Tensor
        (B, 1, H, W).
    noise : Tensor
        (B, 1, H, W) to start with.

    Returns
    -------
    Tensor
        The last estimate, (B, 1, H, W) in [-1, 1].
    """
    _, of_source, of_noise = path.at(times[0])
    x = of_source * source + of_noise * noise
    for now, then in zip(times, (*times[1:], 0), strict=True):
        image = estimate(x, now).clamp(-1.0, 1.0)
        of_image, of_source, of_noise = path.at(now)
        if of_noise > 0.0:  # at the end of a bridge there is none to tell, and the drawn one stays
            noise = (x - of_image * image - of_source * source) / of_noise
        of_image, of_source, of_noise = path.at(then)
        x = of_image * image + of_source * source + of_noise * noise
    return x


def starting_noise(like: Tensor) -> Tensor:
    """Noise of a prediction, the same map for every image (B, C, H, W), so that slices do not differ by it."""
    random = torch.Generator().manual_seed(_SEED)
    noise = torch.randn(1, 1, *like.shape[2:], generator=random, device="cpu")
    return noise.to(like).expand(like.shape[0], -1, -1, -1)


def _norm(channels: int) -> nn.Module:
    # At least four channels a group: a group of one pixel of one channel has no variance.
    return nn.GroupNorm(groups_for(channels, most=min(8, max(1, channels // 4))), channels)


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """Start with an answer of 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


class TimeEmbedding(nn.Module):
    """Sines and cosines of time through two linear layers: (B, channels) of times (B,) as a share of T."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * _WAVES, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU()
        )

    def forward(self, share: Tensor) -> Tensor:
        """(B, channels)."""
        rates = torch.exp(torch.arange(_WAVES, device=share.device) * (-math.log(10_000.0) / _WAVES))
        angles = 1000.0 * share[:, None] * rates
        return cast(Tensor, self.layers(torch.cat([angles.sin(), angles.cos()], dim=1)))


class TimedBlock(nn.Module):
    """Residual block, norm before convolution, whose middle is shifted by the embedded time.

    Parameters
    ----------
    in_channels, out_channels : int
        Of the map.
    embedding : int
        Channels of the embedded time.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.begin = nn.Sequential(_norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.shift = nn.Linear(embedding, out_channels)
        last = _silent(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.end = nn.Sequential(_norm(out_channels), nn.SiLU(), last)
        same = in_channels == out_channels
        self.beside: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, out_channels, H, W) of (B, in_channels, H, W) and the embedded time."""
        middle = self.begin(x) + self.shift(time)[:, :, None, None]
        return cast(Tensor, self.beside(x) + self.end(middle))


class SelfAttention(nn.Module):
    """Attention between all pixels of a map, added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = groups_for(channels, most=_HEADS)
        self.norm = _norm(channels)
        self.queries_keys_values = nn.Conv2d(channels, 3 * channels, 1)
        self.merge = _silent(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) of the same."""
        batch, channels, height, width = x.shape
        split = self.queries_keys_values(self.norm(x)).reshape(batch, 3, self.heads, -1, height * width)
        queries, keys, values = split.transpose(-1, -2).unbind(1)
        seen = functional.scaled_dot_product_attention(queries, keys, values)
        return cast(Tensor, x + self.merge(seen.transpose(-1, -2).reshape(batch, channels, height, width)))


class DiffusionUNet(nn.Module):
    """U-Net with time: a block a level on each way, strided convolutions down, nearest neighbours and convolution up.

    Between the ways, at the innermost level, are two blocks with attention between them. The answer starts at 0.

    Parameters
    ----------
    in_channels : int
        Noised image and what it is conditioned on.
    widths : sequence of int
        Channels of the levels, from the outside in.
    embedding : int
        Channels of the embedded time.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], embedding: int) -> None:
        super().__init__()
        inner = widths[-1]
        self.time = TimeEmbedding(embedding)
        self.begin = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down_blocks, self.halvings = nn.ModuleList(), nn.ModuleList()
        self.up_blocks, self.doublings = nn.ModuleList(), nn.ModuleList()
        before = widths[0]
        for level, width in enumerate(widths):
            self.down_blocks.append(TimedBlock(before, width, embedding))
            self.up_blocks.append(TimedBlock(2 * width, width, embedding))
            if level < len(widths) - 1:
                self.halvings.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                self.doublings.append(nn.Conv2d(widths[level + 1], width, 3, padding=1))
            before = width
        self.middle_begin, self.middle_end = (TimedBlock(inner, inner, embedding) for _ in range(2))
        self.attention = SelfAttention(inner)
        last = _silent(nn.Conv2d(widths[0], 1, 3, padding=1))
        self.end = nn.Sequential(_norm(widths[0]), nn.SiLU(), last)

    def forward(self, x: Tensor, share: Tensor) -> Tensor:
        """(B, 1, H, W) of (B, in_channels, H, W) and the times (B,) as a share of T."""
        time = self.time(share)
        x = self.begin(x)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down_blocks):
            x = block(x, time)
            skips.append(x)
            if level < len(self.halvings):
                x = self.halvings[level](x)
        x = self.middle_end(self.attention(self.middle_begin(x, time)), time)
        for level in reversed(range(len(self.up_blocks))):
            x = self.up_blocks[level](torch.cat([x, skips.pop()], dim=1), time)
            if level > 0:
                x = self.doublings[level - 1](functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return cast(Tensor, self.end(x))


def build_core(options: DiffusionOptions, channels: Channels) -> DiffusionUNet:
    """The U-Net of these options: it sees the noised image and all that a generator is given."""
    widths = [scaled(min(_BASE * 2**level, _MOST), options.width, 4) for level in range(options.levels)]
    return DiffusionUNet(1 + channels.given(options), widths, scaled(_EMBEDDING, options.width, 4))


class DiffusionTranslator(Translator):
    """Predicts by going back along the path; a subclass says what the core's answer means.

    Parameters
    ----------
    core : nn.Module
        Called with (B, 1 + C, H, W), the noised image first, and times (B,) as a share of T.
    path : NoisePath
        Of the training.
    times : sequence of int
        That a prediction visits, falling.
    with_mask : bool
        Whether the mask channels belong to the condition.
    """

    def __init__(self, core: nn.Module, path: NoisePath, times: Sequence[int], *, with_mask: bool) -> None:
        super().__init__(core, with_mask=with_mask)
        self.path, self.times = path, tuple(times)

    def wanted(self, image: Tensor, noised: Tensor, noise: Tensor) -> Tensor:
        """What the core should answer to a noised image."""
        raise NotImplementedError

    def image_of(self, answer: Tensor, noised: Tensor, time: int) -> Tensor:
        """Image that an answer stands for; the inverse of `wanted`."""
        raise NotImplementedError

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image (B, 1, H, W) in [-1, 1], always the same for the same input."""
        given = self.given(ct, mask)

        def estimate(x: Tensor, time: int) -> Tensor:
            share = torch.full((x.shape[0],), time / self.path.steps, device=x.device)
            return self.image_of(self.core(torch.cat([x, given], dim=1), share), x, time)

        return sampled(self.path, self.times, estimate, ct[:, :1], starting_noise(ct))

    def once(self, ct: Tensor, mask: Tensor) -> object:
        """One evaluation of the core: training meets one time of a slice, a prediction ``len(times)``."""
        share = torch.ones(ct.shape[0], device=ct.device)
        return self.core(torch.cat([ct[:, :1], self.given(ct, mask)], dim=1), share)


D = TypeVar("D", bound=DiffusionOptions)


class DiffusionMethod(BaselineMethod[D]):
    """Training of both: a time and a noise for each image, and the squared error of the core's answer."""

    optimised = {GENERATOR: (GENERATOR,)}  # noqa: RUF012  (declared as ClassVar in the base)

    @classmethod
    def companions(cls, options: D, channels: Channels) -> dict[str, nn.Module]:
        """None."""
        return {}

    @classmethod
    def grid_step(cls, options: D) -> int:
        """Every level but the first halves the image."""
        return int(2 ** (options.levels - 1))

    @classmethod
    def adapted(cls, options: D, grid_px: int) -> D:
        """As many levels as leave the innermost map eight pixels."""
        by_step = (grid_px & -grid_px).bit_length()
        by_side = (grid_px // _SMALLEST_SIDE).bit_length()
        return replace(options, levels=max(1, min(options.levels, by_step, by_side)))

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One step down the squared error."""
        translator = cast(DiffusionTranslator, self.generator)
        path = translator.path
        times = torch.randint(1, path.steps + 1, (len(batch.target),))
        noise = torch.randn_like(batch.target)
        noised = path.noised(batch.target, batch.ct[:, :1], noise, times)
        share = (times / path.steps).to(noised.device)
        answer = self.run(translator.core, torch.cat([noised, self.given(batch)], dim=1), share)
        terms = {"denoising": functional.mse_loss(answer, translator.wanted(batch.target, noised, noise))}
        self.descend(GENERATOR, terms)
        return terms
