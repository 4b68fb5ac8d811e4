"""The terms of the training loss and the generator's objective made of them.

With the paper's method section unpublished, which terms are used and how they are weighted is our reconstruction; the
source of each term stands in its module.
"""

from __future__ import annotations

from train.objectives.adversarial import (
    Features,
    GanKind,
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    feature_matching_loss,
    r1_penalty,
)
from train.objectives.errors import ObjectiveError
from train.objectives.objective import GeneratorObjective, LabelledBatch, gradient_norms
from train.objectives.perceptual import (
    FeatureExtractor,
    PerceptualTerm,
    SegmenterPerceptual,
    Vgg19Perceptual,
    build_perceptual,
)
from train.objectives.pixel import pixel_cost, pixel_loss, pixel_weights
from train.objectives.regional import regional_loss
from train.objectives.robust import AdaptiveRobust, partition, robust_rho
from train.objectives.structure import (
    gradient_difference_loss,
    lesion_contrast_loss,
    mirrored,
    ms_ssim,
    ms_ssim_loss,
    smallest_ms_ssim_side,
)
from train.objectives.uncertainty import heteroscedastic_loss, laplace_nll
from train.objectives.wavelet import sub_bands, wavelet_loss

__all__ = [
    "AdaptiveRobust",
    "FeatureExtractor",
    "Features",
    "GanKind",
    "GeneratorObjective",
    "LabelledBatch",
    "ObjectiveError",
    "PerceptualTerm",
    "SegmenterPerceptual",
    "Vgg19Perceptual",
    "adversarial_discriminator_loss",
    "adversarial_generator_loss",
    "build_perceptual",
    "feature_matching_loss",
    "gradient_difference_loss",
    "gradient_norms",
    "heteroscedastic_loss",
    "laplace_nll",
    "lesion_contrast_loss",
    "mirrored",
    "ms_ssim",
    "ms_ssim_loss",
    "partition",
    "pixel_cost",
    "pixel_loss",
    "pixel_weights",
    "r1_penalty",
    "regional_loss",
    "robust_rho",
    "smallest_ms_ssim_side",
    "sub_bands",
    "wavelet_loss",
]
