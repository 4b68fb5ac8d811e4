"""Terms that need the discriminator: least-squares and hinge losses, feature matching, and the R1 penalty.

Sources: LSGAN (Mao et al., ICCV 2017) and feature matching as in pix2pixHD (Wang et al., CVPR 2018); hinge loss (Lim
and Ye 2017; Miyato et al., ICLR 2018); R1 (Mescheder et al., ICML 2018), every few steps as in StyleGAN2 (Karras et
al., CVPR 2020).

Everything here is a mean over scales and layers, so that a weight means the same for any discriminator. pix2pixHD's
code sums its adversarial losses over the ``num_D`` scales, and scales the L1 of each of the ``n_layers + 1``
intermediate activations by 4 / (n_layers + 1) / num_D before summing them. Its weights 1 (adversarial) and 10 (feature
matching) are therefore ``num_D`` and 40 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

#: What a discriminator returns: for each scale its features in order, the last being the logits.
Features = Sequence[Sequence[Tensor]]

GanKind = Literal["lsgan", "hinge"]


def adversarial_generator_loss(fake: Features, kind: GanKind = "lsgan") -> Tensor:
    """Loss of the generator, mean over the scales.

    Parameters
    ----------
    fake : Features
        The discriminator's answer to the prediction.
    kind : {"lsgan", "hinge"}
        ``lsgan``: (D - 1)^2. ``hinge``: -D.

    Returns
    -------
    Tensor
        Scalar.
    """
    if kind == "hinge":
        return torch.stack([-scale[-1].mean() for scale in fake]).mean()
    return torch.stack([((scale[-1] - 1.0) ** 2).mean() for scale in fake]).mean()


def _apart(real: Tensor, fake: Tensor, kind: GanKind) -> Tensor:
    if kind == "hinge":
        return 0.5 * (functional.relu(1.0 - real).mean() + functional.relu(1.0 + fake).mean())
    return 0.5 * (((real - 1.0) ** 2).mean() + (fake**2).mean())


def adversarial_discriminator_loss(real: Features, fake: Features, kind: GanKind = "lsgan") -> Tensor:
    """Loss of the discriminator: half of real plus fake, mean over the scales.

    Parameters
    ----------
    real, fake : Features
        Its answers to the truth and to the detached prediction.
    kind : {"lsgan", "hinge"}
        ``lsgan``: (D(real) - 1)^2 and D(fake)^2. ``hinge``: max(0, 1 - D(real)) and max(0, 1 + D(fake)).

    Returns
    -------
    Tensor
        Scalar.
    """
    terms = [_apart(on_real[-1], on_fake[-1], kind) for on_real, on_fake in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def feature_matching_loss(real: Features, fake: Features) -> Tensor:
    """L1 between the discriminator's features of truth (detached) and prediction, mean over all layers.

    Four times this is pix2pixHD's feature matching (see the module's text).

    Parameters
    ----------
    real, fake : Features
        Same number of scales and layers; the logits, last of each scale, are left out.

    Returns
    -------
    Tensor
        Scalar.
    """
    terms = [
        functional.l1_loss(ours, theirs.detach())
        for on_real, on_fake in zip(real, fake, strict=True)
        for theirs, ours in zip(on_real[:-1], on_fake[:-1], strict=True)
    ]
    return torch.stack(terms).mean()


def r1_penalty(on_real: Features, real: Tensor, gamma: float, *, every: int = 1) -> Tensor:
    """R1 penalty: gamma / 2 times the squared gradient of the discriminator at real images, times ``every``.

    The discriminator's verdict on one image is the mean of its logits over patches and scales, the mean that its
    losses take too.

    Parameters
    ----------
    on_real : Features
        The discriminator's answer to ``real``, in a graph from it.
    real : Tensor
        (B, 1, H, W) true images that require a gradient; the CT beside them is a condition and is not differentiated.
    gamma : float
        Strength.
    every : int
        Steps between two applications; scaling by it keeps the mean strength (Karras et al., CVPR 2020, appendix B).

    Returns
    -------
    Tensor
        Scalar, mean over the images; differentiable once more, for the discriminator's weights.
    """
    verdicts = torch.stack([scale[-1].flatten(1).mean(dim=1) for scale in on_real]).mean(dim=0)
    (gradient,) = torch.autograd.grad(verdicts.sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean() * (gamma / 2.0 * every)
