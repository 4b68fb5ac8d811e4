"""Conditional diffusion in pixel space (Peng et al., Medical Physics 2023): the source beside the noisy target.

From the article: a U-Net with time, residual and attention blocks that tells the noise. Ours: the cosine schedule
(Nichol and Dhariwal, ICML 2021), and few deterministic steps of DDIM for the many random ones, so that validation
takes seconds. A prediction is one sample of many, not their mean, and pays for that in MSE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor, nn

from train.baselines.base import Channels, Entry, Schedule, Translator
from train.baselines.diffusion_unet import (
    DiffusionMethod,
    DiffusionOptions,
    DiffusionTranslator,
    NoisePath,
    build_core,
    sampling_times,
)

#: Offset of the cosine and largest variance of a step (Nichol and Dhariwal, section 3.2).
_OFFSET, _MOST_VARIANCE = 0.008, 0.999
#: Where sampling starts, as a share of T. The image weighs 6 % there and nothing at T, and the error of the noise is
#: divided by that weight in the first estimate of the image.
_FIRST = 0.96

Predicts = Literal["noise", "image"]


@dataclass(frozen=True, slots=True)
class CddpmOptions(DiffusionOptions):
    """Options of conditional diffusion: ``predicts``, what the U-Net answers (the article: the noise)."""

    predicts: Predicts = "noise"


def cosine_path(steps: int) -> NoisePath:
    """Variance-preserving path of the cosine schedule: the product of (1 - variance of a step) is a squared cosine."""
    shares = (np.arange(steps + 1) / steps + _OFFSET) / (1.0 + _OFFSET)
    signal = np.cos(0.5 * np.pi * shares) ** 2
    variances = np.minimum(1.0 - signal[1:] / signal[:-1], _MOST_VARIANCE)
    kept = np.concatenate([[1.0], np.cumprod(1.0 - variances)])
    return NoisePath(image=np.sqrt(kept), source=np.zeros(steps + 1), noise=np.sqrt(1.0 - kept))


class CddpmTranslator(DiffusionTranslator):
    """The core answers the noise or, where ``predicts`` says so, the image."""

    def __init__(
        self, core: nn.Module, path: NoisePath, times: Sequence[int], *, with_mask: bool, predicts: Predicts
    ) -> None:
        super().__init__(core, path, times, with_mask=with_mask)
        self.predicts = predicts

    def wanted(self, image: Tensor, noised: Tensor, noise: Tensor) -> Tensor:
        """Noise or image."""
        return noise if self.predicts == "noise" else image

    def image_of(self, answer: Tensor, noised: Tensor, time: int) -> Tensor:
        """What is left of the noised image without the noise, at full weight."""
        if self.predicts == "image":
            return answer
        of_image, _, of_noise = self.path.at(time)
        return (noised - of_noise * answer) / of_image


class Cddpm(DiffusionMethod[CddpmOptions]):
    """Conditional denoising diffusion."""

    @classmethod
    def translator(cls, options: CddpmOptions, channels: Channels) -> Translator:
        """U-Net and sampler."""
        path = cosine_path(options.train_steps)
        times = sampling_times(round(_FIRST * path.steps), options.sampling_steps)
        core = build_core(options, channels)
        return CddpmTranslator(core, path, times, with_mask=options.mask, predicts=options.predicts)


ENTRIES = (
    Entry(
        "cddpm",
        "cDDPM",
        "Peng et al., Med Phys 2023; cosine schedule and few-step DDIM",
        Cddpm,
        CddpmOptions(),
        Schedule(learning_rate=1e-4, beta1=0.9),
    ),
)
