"""Generator of JMMDA-GAN (our reconstruction): MGFF stem, MFAB encoder, residual trunk, decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jmmda_model.network.afw import AdaptiveFusion
from jmmda_model.network.layers import (
    ResidualBlock,
    SingleChannelConv,
    Upsample,
    init_normal,
    norm_relu,
    strided,
)
from jmmda_model.network.mfab import MultiFrequencyAttention
from jmmda_model.network.mgff import ConcatStem, PlainStem, ResidualGate, SpadeNorm
from jmmda_model.network.settings import GeneratorSettings

BLACK = -1.0
"""Network value of the background."""


def _build_stem(settings: GeneratorSettings) -> nn.Module:
    if settings.mgff == "residual_gate":
        return ResidualGate(settings.in_channels, settings.mask_channels, settings.ngf)
    if settings.mgff == "concat":
        return ConcatStem(settings.in_channels, settings.mask_channels, settings.ngf)
    return PlainStem(settings.in_channels, settings.ngf)


def _build_encoder(settings: GeneratorSettings) -> nn.ModuleList:
    levels = nn.ModuleList()
    for level in range(settings.n_down):
        channels = settings.ngf * 2**level
        if settings.mfab:
            levels.append(
                MultiFrequencyAttention(
                    channels,
                    paths=settings.mfab_paths,
                    wavelet=settings.wavelet,
                    heads=settings.heads,
                    afw=settings.afw,
                )
            )
        else:
            plain = strided(channels, 2 * channels)
            init_normal(plain)
            levels.append(plain)
    return levels


class DecoderStage(nn.Module):
    """One doubling of the size, optionally modulated by the mask and joined with a high-frequency map.

    Parameters
    ----------
    channels
        Channels of the output; the input has twice as many.
    settings
        Settings of the whole generator.
    skip
        Whether a high-frequency map of the encoder is fused in.
    """

    def __init__(self, channels: int, settings: GeneratorSettings, *, skip: bool) -> None:
        super().__init__()
        self.up = Upsample(2 * channels, channels, resize=settings.decoder == "resize")
        init_normal(self.up)
        self.spade: SpadeNorm | None = None
        self.skip_conv: nn.Conv2d | None = None
        self.skip_fusion: AdaptiveFusion | None = None
        if settings.mgff == "spade":
            self.spade = SpadeNorm(channels, settings.mask_channels, settings.ngf)
        self.norm: nn.Module = nn.ReLU(inplace=True) if self.spade is not None else norm_relu()
        if skip:
            self.skip_conv = nn.Conv2d(channels, channels, 1)
            self.skip_fusion = AdaptiveFusion(channels, 2, settings.afw)
            init_normal(self.skip_conv)

    def forward(self, x: Tensor, mask: Tensor, high: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the doubled map (B, channels, 2H, 2W) and, with a skip, the fusion weights."""
        x = self.up(x)
        if self.spade is not None:
            x = self.spade(x, mask)
        x = self.norm(x)
        if self.skip_conv is None or self.skip_fusion is None or high is None:
            return x, None
        return self.skip_fusion.fuse_with_weights([x, self.skip_conv(high)])


class Generator(nn.Module):
    """CT and brain mask in, synthetic DWI out.

    With ``mgff="none"`` and ``mfab=False`` this is exactly the global generator of pix2pixHD.

    Parameters
    ----------
    settings
        Shape of the network.
    """

    def __init__(self, settings: GeneratorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.stem = _build_stem(settings)
        self.encoder = _build_encoder(settings)
        deepest = settings.ngf * 2**settings.n_down
        self.trunk = nn.Sequential(*(ResidualBlock(deepest) for _ in range(settings.n_blocks)))
        init_normal(self.trunk)
        self.decoder = nn.ModuleList(
            DecoderStage(settings.ngf * 2**level, settings, skip=settings.hf_skip and level > 0)
            for level in reversed(range(settings.n_down))
        )
        self.head = nn.Sequential(nn.ReflectionPad2d(3), SingleChannelConv(settings.ngf, 7))
        init_normal(self.head)

    def forward(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Synthesise DWI.

        Parameters
        ----------
        ct
            Shape (B, in_channels, H, W), values in [-1, 1]; not masked.
        mask
            Shape (B, mask_channels, H, W); the first channel is the binary brain mask.

        Returns
        -------
        torch.Tensor
            Shape (B, 1, H, W), values in [-1, 1].

        Raises
        ------
        ValueError
            If a shape does not fit the settings.
        """
        return self.forward_with_weights(ct, mask)[0]

    def forward_with_weights(self, ct: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Synthesise DWI and return the fusion weights of every AFW, from the input to the output.

        Each weight tensor has the shape (B, K, C, H, W) of its level. K is 3 in the encoder (strided
        convolution, low path, high path) and 2 in a decoder stage with a high-frequency skip.
        """
        self._check(ct, mask)
        weights: list[Tensor | None] = []
        highs: list[Tensor | None] = []
        x = self.stem(ct, mask)
        for level in self.encoder:
            if isinstance(level, MultiFrequencyAttention):
                x, high, weight = level(x)
                highs.append(high)
                weights.append(weight)
            else:
                x = level(x)
                highs.append(None)
        x = self.trunk(x)
        for index, stage in enumerate(self.decoder):
            shallower = len(highs) - 2 - index
            x, weight = stage(x, mask, highs[shallower] if shallower >= 0 else None)
            weights.append(weight)
        out = torch.tanh(self.head(x))
        if self.settings.mask_output:
            brain = mask[:, :1]
            out = brain * out + (1.0 - brain) * BLACK
        return out, [weight for weight in weights if weight is not None]

    def _check(self, ct: Tensor, mask: Tensor) -> None:
        settings = self.settings
        step = 2**settings.n_down
        height, width = ct.shape[-2:]
        if ct.ndim != 4 or ct.shape[1] != settings.in_channels:
            raise ValueError(f"ct must be (B, {settings.in_channels}, H, W), got {tuple(ct.shape)}")
        if mask.shape != (ct.shape[0], settings.mask_channels, height, width):
            raise ValueError(
                f"mask must be {(ct.shape[0], settings.mask_channels, height, width)}, got {tuple(mask.shape)}"
            )
        if height % step or width % step:
            raise ValueError(f"height and width must be multiples of {step}, got {height} x {width}")


def build_generator(settings: GeneratorSettings) -> Generator:
    """Build a generator with fresh weights, drawn from torch's global random generator.

    Parameters
    ----------
    settings
        Shape of the network.
    """
    return Generator(settings)
