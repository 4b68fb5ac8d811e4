"""The generator's whole objective, built from a recipe: the weighted terms that are switched on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from train.objectives.adversarial import Features, adversarial_generator_loss, feature_matching_loss
from train.objectives.errors import ObjectiveError
from train.objectives.perceptual import PerceptualTerm
from train.objectives.pixel import known_lesion, likelihood_weights, pixel_loss
from train.objectives.regional import regional_loss
from train.objectives.robust import AdaptiveRobust
from train.objectives.structure import (
    centroid_lines,
    gradient_difference_loss,
    lesion_contrast_loss,
    ms_ssim_loss,
)
from train.objectives.uncertainty import heteroscedastic_loss
from train.objectives.wavelet import wavelet_loss

if TYPE_CHECKING:
    from train.recipe import LossRecipe


class LabelledBatch(Protocol):
    """What the objective reads of a batch (`train.data.dataset.Batch`); B slices of H x W."""

    @property
    def target(self) -> Tensor:
        """(B, 1, H, W) in [-1, 1]."""
        ...

    @property
    def brain(self) -> Tensor:
        """(B, 1, H, W), 0 or 1."""
        ...

    @property
    def lesion(self) -> Tensor:
        """(B, 1, H, W), 0 or 1."""
        ...

    @property
    def lesion_known(self) -> Tensor:
        """(B,): 0 where no lesion label exists."""
        ...


class GeneratorObjective:
    """Weighted terms of the generator's loss.

    Term -> switch in the recipe's ``[loss]`` table: ``pixel`` (pixel, pixel_weight), ``gan`` (gan_weight),
    ``feature_matching`` (feature_matching_weight, or perceptual = disc), ``perceptual`` (vgg or seg), ``regional``,
    ``wavelet``, ``ms_ssim``, ``gradient_difference``, ``lesion_contrast`` (their weights), ``heteroscedastic``.

    With ``normalise = "brain"`` wavelet, MS-SSIM and gradient difference are means over the brain too; with ``frame``
    over the frame.

    ``heteroscedastic`` beside a pixel term fits the predicted scale to the residuals and leaves the prediction alone
    (weight 1): as a full likelihood it is an L1 loss that trusts the pixels it already predicts well, and paints
    uncertain lesions as normal brain. With ``pixel = "none"`` it is the full likelihood with weight ``pixel_weight``.

    Parameters
    ----------
    loss : LossRecipe
        Kinds and weights.
    perceptual : PerceptualTerm, optional
        From `train.objectives.build_perceptual`; needed for ``perceptual = "vgg"`` and ``"seg"``.
    adaptive : AdaptiveRobust, optional
        For ``pixel = "adaptive"``; made here, from the recipe's alpha and scale_c, when it is not given.

    Raises
    ------
    ObjectiveError
        When nothing is switched on, a perceptual term is missing, or ``perceptual = "disc"`` stands beside a feature
        matching weight: they are the same term, and counting it twice would pass one novelty off as two; or the
        adaptive loss cannot start at the recipe's alpha and scale_c.
    """

    def __init__(
        self, loss: LossRecipe, *, perceptual: PerceptualTerm | None = None, adaptive: AdaptiveRobust | None = None
    ) -> None:
        self.loss = loss
        self.perceptual = perceptual
        self.adaptive: AdaptiveRobust | None = None
        if _pixel_is_on(loss) and loss.pixel == "adaptive":
            self.adaptive = adaptive or AdaptiveRobust(loss.alpha, loss.scale_c)
        self._matching_weight = _matching_weight(loss)
        if loss.perceptual in {"vgg", "seg"} and loss.perceptual_weight > 0.0 and perceptual is None:
            raise ObjectiveError("no_network", f"perceptual = {loss.perceptual} was built without its network")
        if not any([_pixel_is_on(loss), loss.heteroscedastic, *_plain_weights(loss)]):
            raise ObjectiveError("no_term", "every term of the loss is switched off")

    def to(self, device: torch.device) -> GeneratorObjective:
        """Move the adaptive loss's parameters; returns itself."""
        if self.adaptive is not None:
            self.adaptive.to(device)
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """Learnt parameters of the loss itself (adaptive shape and scale); give them no weight decay."""
        return iter(()) if self.adaptive is None else self.adaptive.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """Learnt parameters by name, for a checkpoint; empty when there are none."""
        return {} if self.adaptive is None else dict(self.adaptive.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave.

        Raises
        ------
        RuntimeError
            When the names are not those of this objective.
        """
        if self.adaptive is not None:
            self.adaptive.load_state_dict(dict(state))
        elif state:
            raise RuntimeError(f"this objective has no parameters, and was given {', '.join(sorted(state))}")

    def learnt(self) -> dict[str, float]:
        """Adaptive shape ``alpha`` and ``scale_c`` now, for the log; empty when the loss learns nothing."""
        if self.adaptive is None:
            return {}
        return {"alpha": float(self.adaptive.alpha().detach()), "scale_c": float(self.adaptive.scale_c().detach())}

    def terms(
        self,
        prediction: Tensor,
        batch: LabelledBatch,
        *,
        log_scale: Tensor | None = None,
        on_real: Features | None = None,
        on_fake: Features | None = None,
        mirror_lines: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Weighted terms; their sum is the loss. Computed in float32 (or float64) under autocast too.

        Parameters
        ----------
        prediction : Tensor
            (B, 1, H, W) in [-1, 1].
        batch : LabelledBatch
            Truth, brain and lesion.
        log_scale : Tensor, optional
            (B, 1, H, W) natural logarithm of the predicted Laplace scale; needed by ``heteroscedastic``.
        on_real, on_fake : Features, optional
            The discriminator's answers to truth and prediction; without them (a stage without discriminator) the
            adversarial and feature matching terms are left out.
        mirror_lines : Tensor, optional
            (B, 2) mid-sagittal lines for the lesion contrast; without them upright lines through the brain's centroid.

        Returns
        -------
        dict[str, Tensor]
            Name -> scalar.

        Raises
        ------
        ObjectiveError
            When no term is left, a scale is missing, or the image is too small for a term.
        """
        with torch.autocast(prediction.device.type, enabled=False):
            prediction = _full(prediction)
            terms = self._pixel_terms(prediction, batch, log_scale)
            terms |= self._regional_term(prediction, batch)
            terms |= self._image_terms(prediction, batch, mirror_lines)
            terms |= self._adversarial_terms(on_real, on_fake)
        if not terms:
            raise ObjectiveError("no_term", "no term is left: every term that is switched on needs a discriminator")
        return terms

    def _pixel_terms(self, prediction: Tensor, batch: LabelledBatch, log_scale: Tensor | None) -> dict[str, Tensor]:
        loss = self.loss
        terms: dict[str, Tensor] = {}
        with_pixel = _pixel_is_on(loss)
        if with_pixel:
            value = pixel_loss(
                prediction,
                batch.target,
                batch.brain,
                batch.lesion,
                loss,
                lesion_known=batch.lesion_known,
                adaptive=self.adaptive,
            )
            terms["pixel"] = loss.pixel_weight * value
        if loss.heteroscedastic:
            if log_scale is None:
                raise ObjectiveError("no_log_scale", "heteroscedastic needs a network that predicts a scale")
            weights = likelihood_weights(batch.brain, batch.lesion, loss, batch.lesion_known)
            mean = prediction.detach() if with_pixel else prediction
            value = heteroscedastic_loss(mean, _full(log_scale), batch.target, weights)
            terms["heteroscedastic"] = value if with_pixel else loss.pixel_weight * value
        return terms

    def _regional_term(self, prediction: Tensor, batch: LabelledBatch) -> dict[str, Tensor]:
        loss = self.loss
        if loss.regional_weight == 0.0:
            return {}
        value = regional_loss(
            prediction,
            batch.target,
            batch.brain,
            batch.lesion,
            blocks=loss.regional_blocks,
            lesion_weight=loss.lesion_weight,
            lesion_known=batch.lesion_known,
        )
        return {"regional": loss.regional_weight * value}

    def _image_terms(self, prediction: Tensor, batch: LabelledBatch, mirror_lines: Tensor | None) -> dict[str, Tensor]:
        loss, target = self.loss, batch.target
        brain = batch.brain if loss.normalise == "brain" else None
        terms: dict[str, Tensor] = {}
        if loss.wavelet_weight > 0.0:
            value = wavelet_loss(prediction, target, brain, levels=loss.wavelet_levels)
            terms["wavelet"] = loss.wavelet_weight * value
        if loss.ms_ssim_weight > 0.0:
            terms["ms_ssim"] = loss.ms_ssim_weight * ms_ssim_loss(prediction, target, brain)
        if loss.gradient_difference_weight > 0.0:
            value = gradient_difference_loss(prediction, target, brain)
            terms["gradient_difference"] = loss.gradient_difference_weight * value
        if loss.lesion_contrast_weight > 0.0:
            lesion = known_lesion(batch.lesion, batch.lesion_known)
            lines = centroid_lines(batch.brain) if mirror_lines is None else mirror_lines
            value = lesion_contrast_loss(prediction, target, batch.brain, lesion, lines)
            terms["lesion_contrast"] = loss.lesion_contrast_weight * value
        if self.perceptual is not None and loss.perceptual_weight > 0.0:
            terms["perceptual"] = loss.perceptual_weight * self.perceptual(prediction, target)
        return terms

    def _adversarial_terms(self, on_real: Features | None, on_fake: Features | None) -> dict[str, Tensor]:
        if on_real is None or on_fake is None:
            return {}
        terms: dict[str, Tensor] = {}
        real, fake = _full_features(on_real), _full_features(on_fake)
        if self.loss.gan_weight > 0.0:
            terms["gan"] = self.loss.gan_weight * adversarial_generator_loss(fake, self.loss.gan)
        if self._matching_weight > 0.0:
            terms["feature_matching"] = self._matching_weight * feature_matching_loss(real, fake)
        return terms


def _pixel_is_on(loss: LossRecipe) -> bool:
    return loss.pixel != "none" and loss.pixel_weight > 0.0


def _plain_weights(loss: LossRecipe) -> tuple[float, ...]:
    """Weights of the terms that need nothing but a weight above zero."""
    return (
        loss.gan_weight,
        _matching_weight(loss),
        loss.perceptual_weight if loss.perceptual in {"vgg", "seg"} else 0.0,
        loss.regional_weight,
        loss.wavelet_weight,
        loss.ms_ssim_weight,
        loss.gradient_difference_weight,
        loss.lesion_contrast_weight,
    )


def _matching_weight(loss: LossRecipe) -> float:
    """Weight of feature matching, which ``perceptual = "disc"`` is another name for."""
    if loss.perceptual != "disc" or loss.perceptual_weight == 0.0:
        return loss.feature_matching_weight
    if loss.feature_matching_weight > 0.0:
        raise ObjectiveError(
            "disc_counted_twice",
            "perceptual = disc is feature matching under another name: set feature_matching_weight = 0 beside it, "
            "or raise feature_matching_weight and set perceptual = none",
        )
    return loss.perceptual_weight


def _full(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _full_features(features: Features) -> Features:
    return [[_full(feature) for feature in scale] for scale in features]


def gradient_norms(terms: Mapping[str, Tensor], prediction: Tensor) -> dict[str, float]:
    """Norm of the gradient of each (weighted) term at the generator's output.

    The values of the terms do not say which one steers the generator; their gradients at the output do, and they drift.

    Parameters
    ----------
    terms : Mapping[str, Tensor]
        Name -> scalar.
    prediction : Tensor
        (B, 1, H, W), part of the graph of the terms.

    Returns
    -------
    dict[str, float]
        Name -> Euclidean norm over the whole batch, 0 for a term that does not depend on ``prediction`` (the
        uncertainty beside a pixel term). The graph is kept for the backward pass that follows.
    """
    norms = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, prediction, retain_graph=True, materialize_grads=True)
        norms[name] = float(gradient.norm())
    return norms
