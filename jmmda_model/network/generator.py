"""Generator of JMMDA-GAN (our reconstruction): MGFF stem, MFAB encoder, residual trunk, decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jmmda_model.network.afw import AdaptiveFusion
from jmmda_model.network.layers import (
    ResidualBlock,
    SingleChannelConv,
    Upsample,
    at_least_single,
    init_normal,
    init_zero,
    norm_relu,
    strided,
)
from jmmda_model.network.mfab import ImagePyramid, MultiFrequencyAttention
from jmmda_model.network.mgff import ConcatStem, PlainStem, ResidualGate, SpadeNorm
from jmmda_model.network.settings import GeneratorSettings

BLACK = -1.0
"""Network value of the background."""

LOG_SCALE_RANGE = (-6.0, 1.0)
"""Bounds of the predicted log-scale: b from 0.0025 (5 of 4095 output levels) to 2.7 (more than the whole range)."""


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
                    image_channels=settings.in_channels if settings.image_pyramid else 0,
                )
            )
        else:
            plain = strided(channels, 2 * channels)
            init_normal(plain)
            levels.append(plain)
    return levels


class DecoderStage(nn.Module):
    """One doubling of the size, optionally modulated by the mask and joined with maps of the encoder.

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
        self.up = Upsample(2 * channels, channels, decoder=settings.decoder, wavelet=settings.wavelet)
        init_normal(self.up)
        self.spade: SpadeNorm | None = None
        self.skip_conv: nn.Conv2d | None = None
        self.skip_fusion: AdaptiveFusion | None = None
        self.unet: nn.Sequential | None = None
        if settings.mgff == "spade":
            self.spade = SpadeNorm(channels, settings.mask_channels, settings.ngf)
        self.norm: nn.Module = nn.ReLU(inplace=True) if self.spade is not None else norm_relu()
        if skip:
            self.skip_conv = nn.Conv2d(channels, channels, 1)
            self.skip_fusion = AdaptiveFusion(channels, 2, settings.afw)
            init_normal(self.skip_conv)
        if settings.unet_skips:
            self.unet = nn.Sequential(nn.Conv2d(2 * channels, channels, 1), norm_relu())
            init_normal(self.unet)

    def forward(
        self, x: Tensor, mask: Tensor, high: Tensor | None, encoded: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Double the size.

        Parameters
        ----------
        x
            Shape (B, 2 channels, H, W).
        mask
            The mask at full size.
        high, encoded
            High-frequency map, and input of the encoder level, both (B, channels, 2H, 2W); or None.

        Returns
        -------
        tuple
            The map (B, channels, 2H, 2W) and, where a high-frequency map was fused in, the fusion weights.
        """
        x = self.up(x)
        if self.spade is not None:
            x = self.spade(x, mask)
        x = self.norm(x)
        weights: Tensor | None = None
        if self.skip_conv is not None and self.skip_fusion is not None and high is not None:
            x, weights = self.skip_fusion.fuse_with_weights([x, self.skip_conv(high)])
        if self.unet is not None and encoded is not None:
            x = self.unet(torch.cat([x, encoded], dim=1))
        return x, weights


class Generator(nn.Module):
    """CT and brain mask in, synthetic DWI out.

    With ``mgff="none"`` and ``mfab=False`` this is exactly the global generator of pix2pixHD. The defaults of
    all other options leave the names and shapes of the weights as they are without them.

    Parameters
    ----------
    settings
        Shape of the network.
    """

    def __init__(self, settings: GeneratorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.stem = _build_stem(settings)
        self.pyramid = ImagePyramid(settings.n_down, settings.wavelet) if settings.image_pyramid else None
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
        # A head of its own: weights of a network without it fit, and who asks for the mean alone pays nothing.
        self.scale_head: nn.Sequential | None = None
        if settings.heteroscedastic:
            scale = SingleChannelConv(settings.ngf, 7)
            init_zero(scale)
            self.scale_head = nn.Sequential(nn.ReflectionPad2d(3), scale)

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
        return self._mean(self._decode(ct, mask)[0], mask)

    def forward_with_weights(self, ct: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Synthesise DWI and return the fusion weights of every AFW, from the input to the output.

        Each weight tensor has the shape (B, K, C, H, W) of its level. K is 3 in the encoder (strided
        convolution, low path, high path) and 2 in a decoder stage with a high-frequency skip.
        """
        features, weights = self._decode(ct, mask)
        return self._mean(features, mask), weights

    def forward_with_scale(self, ct: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Synthesise DWI and predict the scale of its error.

        The error is taken as Laplace distributed, with the density exp(-abs(error) / b) / (2 b). The logarithm
        of b passes smoothly (tanh) into the bounds of `LOG_SCALE_RANGE`, so that its gradient never is
        exactly zero; it starts at their middle, b = 0.08, everywhere.

        Returns
        -------
        tuple
            What :meth:`forward` returns, and log b of the same shape, in units of the network's output. With
            ``mask_output`` log b is at its lower bound outside the brain, where the output is certain.

        Raises
        ------
        ValueError
            If a shape does not fit the settings, or the network has no such head.
        """
        if self.scale_head is None:
            raise ValueError("this network predicts no scale: its settings say heteroscedastic=False")
        features, _ = self._decode(ct, mask)
        low, high = LOG_SCALE_RANGE
        half = (high - low) / 2
        log_scale = (low + high) / 2 + half * torch.tanh(at_least_single(self.scale_head(features)) / half)
        return self._mean(features, mask), self._outside(log_scale, mask, low)

    def _mean(self, features: Tensor, mask: Tensor) -> Tensor:
        return self._outside(torch.tanh(self.head(features)), mask, BLACK)

    def _outside(self, image: Tensor, mask: Tensor, value: float) -> Tensor:
        """Set an image to a value outside the brain, where the settings say so."""
        if not self.settings.mask_output:
            return image
        brain = mask[:, :1]
        return brain * image + (1.0 - brain) * value

    def _decode(self, ct: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the last features (B, ngf, H, W) and all fusion weights."""
        self._check(ct, mask)
        settings = self.settings
        images = self.pyramid(ct) if self.pyramid is not None else [None] * settings.n_down
        weights: list[Tensor | None] = []
        highs: list[Tensor | None] = []
        encoded: list[Tensor | None] = []
        x = self.stem(ct, mask)
        for level, image in zip(self.encoder, images, strict=True):
            encoded.append(x if settings.unet_skips else None)
            if isinstance(level, MultiFrequencyAttention):
                x, high, weight = level(x, image)
                highs.append(high if settings.hf_skip else None)
                weights.append(weight)
            else:
                x = level(x)
                highs.append(None)
        x = self.trunk(x)
        for shallower, stage in zip(reversed(range(-1, settings.n_down - 1)), self.decoder, strict=True):
            high = highs[shallower] if shallower >= 0 else None
            x, weight = stage(x, mask, high, encoded[shallower + 1])
            weights.append(weight)
        return x, [weight for weight in weights if weight is not None]

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
