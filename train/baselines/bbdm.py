"""Brownian-bridge diffusion (Li et al., CVPR 2023) from the CT's first channel to the DWI, in pixel space.

From the article: the bridge, the answer (noised image minus image) and a largest variance of s / 2. Ours: pixels for
the latent space of an autoencoder, the CT beside the noised image (as conditional variants for brain CT to MR have
it: with a variance of 0.5 the CT drowns in the middle of the bridge), and few deterministic steps in place of 200
random ones. Style keys and the consistency of slices that those variants add are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from train.baselines.base import Channels, Entry, Schedule, Translator
from train.baselines.diffusion_unet import (
    DiffusionMethod,
    DiffusionOptions,
    DiffusionTranslator,
    NoisePath,
    build_core,
    sampling_times,
)


@dataclass(frozen=True, slots=True)
class BbdmOptions(DiffusionOptions):
    """Options of the bridge: ``variance``, twice the largest variance of the noise (s in the article)."""

    variance: float = field(default=1.0, metadata={"low": 0.0})


def bridge_path(steps: int, variance: float) -> NoisePath:
    """Brownian bridge from the image at time 0 to the source at T; variance 2 s (m - m^2) at the share m of T."""
    shares = np.arange(steps + 1) / steps
    return NoisePath(image=1.0 - shares, source=shares, noise=np.sqrt(2.0 * variance * shares * (1.0 - shares)))


class BbdmTranslator(DiffusionTranslator):
    """The core answers the noised image minus the image."""

    def wanted(self, image: Tensor, noised: Tensor, noise: Tensor) -> Tensor:
        """Noised image minus image."""
        return noised - image

    def image_of(self, answer: Tensor, noised: Tensor, time: int) -> Tensor:
        """Noised image minus answer."""
        return noised - answer


class Bbdm(DiffusionMethod[BbdmOptions]):
    """Brownian-bridge diffusion."""

    @classmethod
    def translator(cls, options: BbdmOptions, channels: Channels) -> Translator:
        """U-Net and sampler."""
        path = bridge_path(options.train_steps, options.variance)
        times = sampling_times(path.steps, options.sampling_steps)
        return BbdmTranslator(build_core(options, channels), path, times, with_mask=options.mask)


ENTRIES = (
    Entry(
        "bbdm",
        "BBDM",
        "Li et al., CVPR 2023, in pixel space with the CT as condition and few steps",
        Bbdm,
        BbdmOptions(),
        Schedule(learning_rate=1e-4, beta1=0.9),
    ),
)
