"""MultiCycleGAN in the reading of the public implementation, which is BicycleGAN (Zhu et al., NeurIPS 2017).

A U-Net sees the CT and a latent vector. Once the vector is what an encoder reads from the true DWI, which must then be
found again (image to vector to image); once it is drawn, and the encoder must read it from the prediction (vector to
image to vector). The article's method is `train.baselines.multicycle_paper`.

A batch is split in two halves. The generator translates the first with both vectors; the second holds the real pairs
that the discriminator tells from the predictions of drawn vectors. A batch of 1 cannot be split in two halves: the same
image is used for both then. Likewise an odd batch has its middle image in both.

Choices where the tables are silent (ours): the adversarial loss is summed over the two scales; the Kullback-Leibler
divergence is summed over the vector and averaged over the images; generator and encoder learn first, then the
discriminator; images below 64 pixels take a discriminator with one convolution less.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Translator
from train.baselines.layers import PatchGan, UNet, init_xavier, least_squares, patch_widths, scaled, unet_widths
from train.data.dataset import Batch
from train.methods.base import Moment

#: Smallest side: the encoder's last block normalises images of a sixteenth of it, which must be more than one pixel.
_SMALLEST_SIDE = 32
#: Seed of the vectors over which a prediction is averaged.
_SEED = 2025


@dataclass(frozen=True, slots=True)
class MultiCycleRepoOptions(Options):
    """Depth of the networks, the latent vector, and weights of the losses.

    Attributes
    ----------
    levels : int
        Halvings of the U-Net.
    discriminator_halvings : int
        Convolutions of stride 2 of the discriminator, at each of its scales.
    latent : int
        Length of the vector.
    samples : int
        Drawn vectors, always the same, over which a prediction is averaged; 0 predicts from the vector 0.
    l1_weight, kl_weight, latent_weight : float
        Of L1 with the encoded vector, of the divergence, and of L1 between drawn and recovered vector.
    """

    levels: int = field(default=8, metadata={"low": 2, "high": 10})
    discriminator_halvings: int = field(default=3, metadata={"low": 1, "high": 3})
    latent: int = field(default=8, metadata={"low": 1, "high": 256})
    samples: int = field(default=0, metadata={"low": 0, "high": 100})
    l1_weight: float = field(default=10.0, metadata={"low": 0.0})
    kl_weight: float = field(default=0.01, metadata={"low": 0.0})
    latent_weight: float = field(default=0.5, metadata={"low": 0.0})


class LatentTranslator(Translator):
    """A network that needs a latent vector, predicting from 0 or as the mean over a fixed set of drawn vectors.

    Parameters
    ----------
    core : nn.Module
        Takes input and vector.
    latent, samples : int
        See `MultiCycleRepoOptions`.
    with_mask : bool
        See `Translator`.
    """

    vectors: Tensor

    def __init__(self, core: nn.Module, latent: int, samples: int, *, with_mask: bool) -> None:
        super().__init__(core, with_mask=with_mask)
        vectors = torch.zeros(1, latent)
        if samples:
            random = torch.Generator("cpu").manual_seed(_SEED)
            vectors = torch.randn(samples, latent, generator=random, device="cpu")
        self.register_buffer("vectors", vectors, persistent=False)

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image (B, 1, H, W)."""
        x = self.given(ct, mask)
        return torch.stack([self.core(x, vector.expand(len(x), -1)) for vector in self.vectors]).mean(dim=0)

    def once(self, ct: Tensor, mask: Tensor) -> object:
        """One evaluation of the core, whatever the number of vectors that a prediction is a mean over."""
        return self.core(self.given(ct, mask), self.vectors[:1].expand(len(ct), -1))


class PooledResidualBlock(nn.Module):
    """Instance norm, leaky ReLU, 3x3 convolution, twice, and a mean over 2 x 2, added to a 1x1 convolution of means."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.InstanceNorm2d(in_channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(in_channels, in_channels, 3, padding=1),
            nn.InstanceNorm2d(in_channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.AvgPool2d(2),
        )
        self.skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, out_channels, H / 2, W / 2)."""
        summed: Tensor = self.skip(x) + self.body(x)
        return summed


class LatentEncoder(nn.Module):
    """Reads a normal distribution of latent vectors from an image.

    Parameters
    ----------
    latent : int
        Length of the vector.
    width : float
        Share of the channels.
    """

    def __init__(self, latent: int, width: float = 1.0) -> None:
        super().__init__()
        widths = [scaled(channels, width) for channels in (64, 128, 192, 256, 256)]
        self.features = nn.Sequential(
            nn.Conv2d(1, widths[0], 4, stride=2, padding=1),
            *(PooledResidualBlock(before, after) for before, after in pairwise(widths)),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),  # over the 8 x 8 that 256 pixels leave
            nn.Flatten(),
        )
        self.mean, self.log_variance = nn.Linear(widths[-1], latent), nn.Linear(widths[-1], latent)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, (B, latent) each, of (B, 1, H, W)."""
        features = self.features(image)
        return self.mean(features), self.log_variance(features)


class TwoScaleDiscriminator(nn.Module):
    """Patch discriminators of the image and, with half the channels, of the image at half its size.

    Parameters
    ----------
    in_channels : int
        Of CT and image together.
    halvings : int
        Convolutions of stride 2 of each.
    width : float
        Share of the channels.
    """

    def __init__(self, in_channels: int, halvings: int, width: float = 1.0) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            PatchGan(in_channels, patch_widths(width, base)[: halvings + 1]) for base in (64, 32)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits (B, 1, h, w) of each scale."""
        smaller = functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return [scale(image)[-1] for scale, image in zip(self.scales, (x, smaller), strict=True)]


def summed_squares(logits: list[Tensor], target: float) -> Tensor:
    """Least-squares loss summed over the scales; scalar."""
    return torch.stack([least_squares(scale, target) for scale in logits]).sum()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of normal distributions from the standard one, mean over the images.

    Parameters
    ----------
    mean, log_variance : Tensor
        (B, latent).

    Returns
    -------
    Tensor
        Scalar.
    """
    return -0.5 * (1.0 + log_variance - mean.square() - log_variance.exp()).sum(dim=1).mean()


class MultiCycleRepo(BaselineMethod[MultiCycleRepoOptions]):
    """BicycleGAN. The encoder learns with the generator, except from the recovery of drawn vectors."""

    optimised = {  # noqa: RUF012  (declared as ClassVar in the base)
        GENERATOR: (GENERATOR, "encoder"),
        "discriminator": ("discriminator",),
    }

    @classmethod
    def translator(cls, options: MultiCycleRepoOptions, channels: Channels) -> Translator:
        """U-Net with instance norm, the vector at every level down, dropout in the three next to the innermost."""
        levels = options.levels
        core = UNet(
            channels.given(options),
            1,
            unet_widths(options.width, levels),
            norm="instance",
            dropout=range(max(1, levels - 4), levels - 1),
            latent=options.latent,
        )
        return LatentTranslator(init_xavier(core), options.latent, options.samples, with_mask=options.mask)

    @classmethod
    def companions(cls, options: MultiCycleRepoOptions, channels: Channels) -> dict[str, nn.Module]:
        """The encoder of the DWI, and the discriminator, which sees what the generator sees and the image."""
        judge = TwoScaleDiscriminator(channels.given(options) + 1, options.discriminator_halvings, options.width)
        encoder = LatentEncoder(options.latent, options.width)
        return {"encoder": init_xavier(encoder), "discriminator": init_xavier(judge)}

    @classmethod
    def grid_step(cls, options: MultiCycleRepoOptions) -> int:
        """Every level halves the image, down to one pixel."""
        return max(_SMALLEST_SIDE, int(2**options.levels))

    @classmethod
    def adapted(cls, options: MultiCycleRepoOptions, grid_px: int) -> MultiCycleRepoOptions:
        """As many levels as the image can be halved; halvings that leave 3 pixels at the discriminator's half size.

        A convolution of stride 1 makes 2 of them, which instance norm needs.
        """
        seen = [n for n in range(1, options.discriminator_halvings + 1) if grid_px // 2 ** (n + 1) > 2]
        levels = min(options.levels, (grid_px & -grid_px).bit_length() - 1)
        return replace(options, levels=levels, discriminator_halvings=max(seen, default=1))

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of generator and encoder, then one of the discriminator."""
        pairs = torch.cat([self.given(batch), batch.target], dim=1)
        half = (len(pairs) + 1) // 2
        pair, other = pairs[:half], pairs[len(pairs) - half :]
        x, y = pair[:, :-1], pair[:, -1:]
        mean, log_variance = self.run(self.network("encoder"), y)
        encoded = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        drawn = torch.randn_like(mean)
        fakes = self.run(self.generator.core, torch.cat([x, x]), torch.cat([encoded, drawn]))
        fake, drawn_fake = fakes.chunk(2)
        recovered, _ = self.run(self.still["encoder"], drawn_fake)
        options, judge = self.options, self.still["discriminator"]
        terms = {
            "gan_encoded": summed_squares(self.run(judge, torch.cat([x, fake], dim=1)), 1.0),
            "gan_drawn": summed_squares(self.run(judge, torch.cat([x, drawn_fake], dim=1)), 1.0),
            "l1": options.l1_weight * functional.l1_loss(fake, y),
            "kl": options.kl_weight * divergence(mean, log_variance),
            "latent": options.latent_weight * functional.l1_loss(recovered, drawn),
        }
        self.descend(GENERATOR, terms)
        judged = {
            "discriminator_encoded": self._judged(pair, torch.cat([x, fake.detach()], dim=1)),
            "discriminator_drawn": self._judged(other, torch.cat([x, drawn_fake.detach()], dim=1)),
        }
        self.descend("discriminator", judged)
        return terms | judged

    def _judged(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the discriminator on pairs of input and image."""
        judge = self.network("discriminator")
        return 0.5 * (summed_squares(self.run(judge, real), 1.0) + summed_squares(self.run(judge, fake), 0.0))


ENTRIES = (
    Entry(
        "multicycle_repo",
        "MultiCycleGAN (repo)",
        "public implementation: BicycleGAN, Zhu et al., NeurIPS 2017",
        MultiCycleRepo,
        MultiCycleRepoOptions(),
    ),
)
