"""ResViT (Dalmaz, Yurt and Cukur, IEEE TMI 2022): transformers aggregated into a residual generator's bottleneck.

The article starts its transformers from ImageNet weights; here they start from random numbers, so this is a lower
bound of the method and has to be called that. The layers are written from the article as we remember it (sizes of
ViT-B, nine ART blocks, transformers in the first and the sixth); what we could not check is the padding, the layers of
the channel compression, and dropout, of which there is none here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.baselines.base import GENERATOR, BaselineMethod, Channels, Entry, Options, Schedule, Translator
from train.baselines.layers import PatchGan, init_gaussian, least_squares, patch_widths, scaled
from train.data.dataset import Batch
from train.methods.base import Moment
from train.recipe import StageRecipe

#: ART blocks, and which of them have a transformer.
BLOCKS = 9
WITH_TRANSFORMER = (0, 5)
#: Layers, heads and channels of the transformer, those of ViT-B.
LAYERS, HEADS, HIDDEN = 12, 12, 768
#: Side of the map that the learnt positions are drawn on: that of an image of 256 pixels.
BASE_SIDE = 16


@dataclass(frozen=True, slots=True)
class ResViTOptions(Options):
    """Options of ResViT.

    Attributes
    ----------
    l1_weight : float
        Weight of L1 beside 1 for the adversarial term.
    pretrain_stages : int
        Stages at the beginning of a recipe that train without the transformers, as the article does first.
    """

    l1_weight: float = field(default=100.0, metadata={"low": 0.0})
    pretrain_stages: int = field(default=0, metadata={"low": 0, "high": 9})


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Convolution without bias, batch norm, ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


def _up(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Transposed convolution of stride 2 without bias, batch norm, ReLU."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer perceptron, each after a layer norm and added to its input.

    Parameters
    ----------
    hidden, heads : int
        Channels of a token, and heads that share them.
    """

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.queries_keys_values = nn.Linear(hidden, 3 * hidden)
        self.merge = nn.Linear(hidden, hidden)
        self.perceptron = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, hidden) of the same."""
        batch, count, hidden = tokens.shape
        split = self.queries_keys_values(self.norm_attention(tokens)).view(batch, count, 3, self.heads, -1)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(queries, keys, values)
        tokens = tokens + self.merge(seen.transpose(1, 2).reshape(batch, count, hidden))
        return cast(Tensor, tokens + self.perceptron(self.norm_perceptron(tokens)))


class Transformer(nn.Sequential):
    """Layers and a last norm: (B, N, hidden) of the same. One of them serves every ART block."""

    def __init__(self, hidden: int, heads: int = HEADS, layers: int = LAYERS) -> None:
        super().__init__(*(TransformerLayer(hidden, heads) for _ in range(layers)), nn.LayerNorm(hidden))


class ChannelCompression(nn.Module):
    """Two parallel branches, two 3x3 convolutions and a 1x1 convolution, summed."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        last = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.wide = nn.Sequential(*_conv(in_channels, out_channels, 3), last, nn.BatchNorm2d(out_channels))
        self.narrow = nn.Sequential(*_conv(in_channels, out_channels, 1)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, out_channels, H, W) of (B, in_channels, H, W)."""
        return functional.relu(self.wide(x) + self.narrow(x))


class Aggregation(nn.Module):
    """What an ART block puts before its residual convolutions: a transformer's view of the quarter-size map.

    Two halvings, tokens with learnt positions, the transformer, two doublings; input and answer are concatenated and
    compressed to the input's channels.

    Parameters
    ----------
    channels : int
        Of the map.
    hidden : int
        Of a token.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Sequential(*_conv(channels, 2 * channels, 3, 2), *_conv(2 * channels, 4 * channels, 3, 2))
        self.embed = nn.Conv2d(4 * channels, hidden, 1)
        self.positions = nn.Parameter(torch.empty(1, hidden, BASE_SIDE, BASE_SIDE).normal_(0.0, 0.02))
        self.up = nn.Sequential(*_up(hidden, 2 * channels), *_up(2 * channels, channels))
        self.compress = ChannelCompression(2 * channels, channels)

    def positions_at(self, height: int, width: int) -> Tensor:
        """Positions (1, hidden, height, width): those learnt, interpolated where the map is not the base one."""
        if (height, width) == tuple(self.positions.shape[2:]):
            return self.positions
        return functional.interpolate(self.positions, (height, width), mode="bicubic", align_corners=False)

    def forward(self, x: Tensor, transformer: nn.Module) -> Tensor:
        """(B, channels, H, W) of the same; sides are multiples of 4."""
        embedded = self.embed(self.down(x))
        height, width = embedded.shape[2:]
        tokens = (embedded + self.positions_at(height, width)).flatten(2).transpose(1, 2)
        seen = transformer(tokens).transpose(1, 2).unflatten(2, (height, width))
        return cast(Tensor, self.compress(torch.cat([x, self.up(seen)], dim=1)))


class ArtBlock(nn.Module):
    """Aggregated residual transformer block: aggregation, where it has one, then residual convolutions.

    Parameters
    ----------
    channels : int
        Of the map.
    hidden : int or None
        Of a token; None: no aggregation.
    """

    def __init__(self, channels: int, hidden: int | None) -> None:
        super().__init__()
        self.aggregation = None if hidden is None else Aggregation(channels, hidden)
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor, transformer: nn.Module | None) -> Tensor:
        """(B, channels, H, W) of the same; without a transformer the aggregation is left out."""
        if self.aggregation is not None and transformer is not None:
            x = self.aggregation(x, transformer)
        return cast(Tensor, x + self.body(x))


class ResViT(nn.Module):
    """Stem and two halvings, nine ART blocks around one transformer, two doublings and a 7x7 convolution with tanh.

    Parameters
    ----------
    in_channels : int
        Of the input.
    channels : int
        After the stem; four times as many in the bottleneck.
    hidden : int
        Of a token.
    """

    def __init__(self, in_channels: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, channels, 7, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            *_conv(channels, 2 * channels, 3, 2),
            *_conv(2 * channels, 4 * channels, 3, 2),
        )
        self.blocks = nn.ModuleList(
            ArtBlock(4 * channels, hidden if block in WITH_TRANSFORMER else None) for block in range(BLOCKS)
        )
        self.transformer = Transformer(hidden)
        self.decoder = nn.Sequential(
            *_up(4 * channels, 2 * channels),
            *_up(2 * channels, channels),
            nn.ReflectionPad2d(3),
            nn.Conv2d(channels, 1, 7),
            nn.Tanh(),
        )
        #: Whether the transformer takes part; kept with the weights, so that those of before are read as such.
        self.aggregates = True

    def get_extra_state(self) -> bool:
        """What `state_dict` keeps beside the weights."""
        return self.aggregates

    def set_extra_state(self, state: bool) -> None:
        """Take over what `get_extra_state` gave."""
        self.aggregates = state

    def forward(self, x: Tensor) -> Tensor:
        """Image (B, 1, H, W) of (B, in_channels, H, W); sides are multiples of 16."""
        transformer = self.transformer if self.aggregates else None
        x = self.encoder(x)
        for block in self.blocks:
            x = block(x, transformer)
        return cast(Tensor, self.decoder(x))


class ResViTMethod(BaselineMethod[ResViTOptions]):
    """ResViT: least squares of a conditional patch discriminator, which learns first, and L1."""

    @classmethod
    def translator(cls, options: ResViTOptions, channels: Channels) -> Translator:
        """Generator with random weights in all its parts."""
        hidden = scaled(HIDDEN, options.width, HEADS)
        core = ResViT(channels.given(options), scaled(64, options.width), hidden)
        return Translator(init_gaussian(core), with_mask=options.mask)

    @classmethod
    def companions(cls, options: ResViTOptions, channels: Channels) -> dict[str, nn.Module]:
        """The discriminator, which sees what the generator sees and the image."""
        judge = PatchGan(channels.given(options) + 1, patch_widths(options.width), norm="batch")
        return {"discriminator": init_gaussian(judge)}

    @classmethod
    def grid_step(cls, options: ResViTOptions) -> int:
        """Two halvings before the bottleneck and two in it."""
        return 16

    def start_stage(self, stage: StageRecipe) -> None:
        """Go on from the averaged weights, with the transformer from stage ``pretrain_stages`` on."""
        super().start_stage(stage)
        aggregates = self.recipe.stages.index(stage) >= self.options.pretrain_stages
        for network in (self.generator, cast(Translator, self.average.network)):
            cast(ResViT, network.core).aggregates = aggregates

    def update(self, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        """One update of the discriminator, then one of the generator."""
        x = self.given(batch)
        fake = self.run(self.generator.core, x)
        on_real = self.run(self.network("discriminator"), torch.cat([x, batch.target], dim=1))[-1]
        on_fake = self.run(self.network("discriminator"), torch.cat([x, fake.detach()], dim=1))[-1]
        judged = {"discriminator": 0.5 * (least_squares(on_real, 1.0) + least_squares(on_fake, 0.0))}
        self.descend("discriminator", judged)
        on_fake = self.run(self.still["discriminator"], torch.cat([x, fake], dim=1))[-1]
        terms = {
            "gan": least_squares(on_fake, 1.0),
            "l1": self.options.l1_weight * functional.l1_loss(fake, batch.target),
        }
        self.descend(GENERATOR, terms)
        return terms | judged


ENTRIES = (
    Entry(
        "resvit",
        "ResViT",
        "Dalmaz et al., IEEE TMI 2022, without ImageNet weights",
        ResViTMethod,
        ResViTOptions(),
        # 50 + 50 epochs without and 25 + 25 with transformers, in one go at the rate of the first part.
        Schedule(learning_rate=2e-4, batch=1, hold_epochs=75, decay_epochs=75),
    ),
)
