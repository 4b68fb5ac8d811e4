"""JMMDA-GAN (our reconstruction): one generator, one multi-scale discriminator, the objective of the recipe.

A step is one update of the generator, then one of the discriminator. In 3 G + 8 D forward equivalents: the
discriminator judges the truth once, for feature matching and for its own update; its weights get no gradient while it
steers the generator.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.generator import Generator, build_generator
from train.data.dataset import Batch
from train.devices import Devices
from train.guard import StepGuard
from train.methods.average import MovingAverage
from train.methods.base import Moment, StepReport
from train.methods.compiled import Answer, as_asked
from train.methods.optimisers import build_adam, set_rate
from train.methods.perceptual import perceptual_term
from train.methods.twins import frozen_twin
from train.objectives import (
    Features,
    GeneratorObjective,
    adversarial_discriminator_loss,
    gradient_norms,
    r1_penalty,
)
from train.recipe import Recipe, StageRecipe, discriminator_settings, generator_settings, stage_loss
from train.state import HasState


class GeneratorForward(nn.Module):
    """The generator with one way to call it: the mean, and the log-scale where the network predicts one."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, ct: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (B, 1, H, W): the mean, and the log-scale or None."""
        if getattr(self.generator.settings, "heteroscedastic", False):
            mean, log_scale = self.generator.forward_with_scale(ct, mask)
            return mean, log_scale
        return self.generator(ct, mask), None


class JmmdaMethod:
    """Networks, optimisers and the step of JMMDA-GAN.

    Parameters
    ----------
    recipe : Recipe
        Sizes, losses, rates and the seed of the initial weights.
    devices : Devices
        Where everything lives.
    guard : StepGuard
        Decides whether an optimiser takes its step.
    """

    def __init__(self, recipe: Recipe, devices: Devices, guard: StepGuard) -> None:
        self.recipe, self.devices, self.guard = recipe, devices, guard
        torch.manual_seed(recipe.seed)
        self.generator: Generator = self._placed(build_generator(generator_settings(recipe.generator)))
        self.discriminator = self._placed(build_discriminator(discriminator_settings(recipe)))
        self.average: MovingAverage[Generator] = MovingAverage(self.generator, recipe.optimiser.ema_decay)
        perceptual = perceptual_term(recipe.loss, devices.device)
        self.objective = GeneratorObjective(recipe.loss, perceptual=perceptual).to(devices.device)
        # Stages differ in weights alone; what the loss learns belongs to the run.
        self._objectives = {
            stage.name: GeneratorObjective(
                stage_loss(recipe, stage), perceptual=perceptual, adaptive=self.objective.adaptive
            )
            for stage in recipe.stages
        }
        answer = Answer(recipe.run.compile, devices.device)
        self._generate = devices.setup(as_asked(GeneratorForward(self.generator), answer))
        self._judge = devices.setup(as_asked(self.discriminator, answer))
        # A second network on the same weights, frozen: nothing toggles requires_grad, so nothing is compiled again.
        self._judge_frozen = as_asked(frozen_twin(self.discriminator), answer)
        self._new_optimisers()

    def _placed(self, network: Any) -> Any:  # noqa: ANN401  (returns the type it is given)
        layout = torch.channels_last if self.recipe.run.channels_last else torch.preserve_format
        return network.to(self.devices.device, memory_format=layout)

    def _new_optimisers(self) -> None:
        """Forget the optimisers' moments, as at the start of a stage."""
        optimiser, device = self.recipe.optimiser, self.devices.device
        self.generator_optimiser = build_adam(
            optimiser, device, list(self.generator.parameters()), list(self.objective.parameters())
        )
        self.discriminator_optimiser = build_adam(optimiser, device, list(self.discriminator.parameters()))

    def parts(self) -> dict[str, HasState]:
        """Everything with a state, by name."""
        return {
            "generator": self.generator,
            "average": self.average.network,
            "discriminator": self.discriminator,
            "objective": cast(HasState, self.objective),
            "generator_optimiser": cast(HasState, self.generator_optimiser),
            "discriminator_optimiser": cast(HasState, self.discriminator_optimiser),
        }

    def networks(self) -> dict[str, nn.Module]:
        """The two networks."""
        return {"generator": self.generator, "discriminator": self.discriminator}

    def start_stage(self, stage: StageRecipe) -> None:
        """Go on from the averaged weights with fresh optimisers: moments of another resolution would mislead."""
        self.generator.load_state_dict(self.average.network.state_dict())
        self._new_optimisers()

    def step(self, batch: Batch, moment: Moment) -> StepReport:
        """One update of the generator and, in an adversarial stage, one of the discriminator."""
        stage, recipe = moment.stage, self.recipe
        set_rate(self.generator_optimiser, stage.learning_rate * moment.rate)
        fall = moment.rate if recipe.optimiser.discriminator_decay else 1.0
        set_rate(self.discriminator_optimiser, recipe.optimiser.discriminator_learning_rate * fall)
        batch = self._laid_out(batch)
        with self._autocast(stage):
            fake, log_scale = self._generate(batch.ct, batch.mask)
        fake = fake.float()
        on_real = self._judged(self._judge, stage, batch, batch.target) if stage.adversarial else None
        on_fake = self._judged(self._judge_frozen, stage, batch, fake) if stage.adversarial else None
        terms = self._objectives[stage.name].terms(
            fake, batch, log_scale=log_scale, on_real=_detached(on_real) if on_real else None, on_fake=on_fake
        )
        pull = gradient_norms(terms, fake) if moment.logged else {}
        loss, norm, taken = self._update_generator(terms)
        if taken:
            self.average.update(self.generator, moment.step)
        figures = {name: term.detach() for name, term in terms.items()}
        if on_real is not None and taken:
            figures |= self._update_discriminator(batch, moment, on_real, fake.detach())
        return StepReport(loss.detach(), figures, norm.detach(), pull)

    def _update_generator(self, terms: dict[str, Tensor]) -> tuple[Tensor, Tensor, bool]:
        """Backward and, where finite, the step; returns the loss, the gradient's norm and whether it was taken."""
        loss = torch.stack(list(terms.values())).sum()
        self.generator_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.objective.parameters():  # not part of a network whose gradients are averaged already
            if parameter.grad is not None and self.devices.world > 1:
                parameter.grad.copy_(self.devices.mean(parameter.grad))
        parameters = [parameter for parameter in self.generator.parameters() if parameter.grad is not None]
        clip = self.recipe.optimiser.clip_norm
        if clip > 0.0:
            norm = clip_grad_norm_(parameters, clip)
        else:
            norm = get_total_norm([cast(Tensor, parameter.grad) for parameter in parameters])
        finite = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        return loss, norm, self.guard.step(self.generator_optimiser, finite)

    def _update_discriminator(self, batch: Batch, moment: Moment, on_real: Features, fake: Tensor) -> dict[str, Tensor]:
        size, stage = self.recipe.discriminator, moment.stage
        on_fake = self._judged(self._judge, stage, batch, fake)
        loss = adversarial_discriminator_loss(on_real, on_fake, self.recipe.loss.gan)
        figures = {"discriminator": loss.detach()}
        if size.r1_gamma > 0.0 and moment.step % size.r1_every == 0:
            # Differentiated twice: through the plain network in fp32, which compiled code cannot do.
            real = batch.target.detach().requires_grad_()
            penalty = r1_penalty(self.discriminator(self._seen(batch, real)), real, size.r1_gamma, every=size.r1_every)
            figures["r1"] = penalty.detach()
            loss = loss + penalty
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = get_total_norm([p.grad for p in self.discriminator.parameters() if p.grad is not None])
        finite = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        self.guard.step(self.discriminator_optimiser, finite, counts=False)
        return figures

    def _judged(self, judge: nn.Module, stage: StageRecipe, batch: Batch, image: Tensor) -> Features:
        with self._autocast(stage):
            judged = judge(self._seen(batch, image))
        return [[feature.float() for feature in scale] for scale in judged]

    def _seen(self, batch: Batch, image: Tensor) -> Tensor:
        """What the discriminator sees: all input slices, the mask if asked for, and the image."""
        given = [batch.ct, batch.mask] if self.recipe.discriminator.mask else [batch.ct]
        return torch.cat([*given, image], dim=1)

    def _laid_out(self, batch: Batch) -> Batch:
        if not self.recipe.run.channels_last:
            return batch
        ct, mask = (plane.contiguous(memory_format=torch.channels_last) for plane in (batch.ct, batch.mask))
        return dataclasses.replace(batch, ct=ct, mask=mask)

    def _autocast(self, stage: StageRecipe) -> contextlib.AbstractContextManager[object]:
        if stage.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.devices.device.type, dtype=torch.bfloat16)

    @torch.no_grad()
    def predict(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image of the averaged weights, in fp32: (B, 1, H, W) in [-1, 1]."""
        image: Tensor = self.average.network(ct, mask)
        return image.float()

    @torch.no_grad()
    def fusion_weights(self, ct: Tensor, mask: Tensor) -> list[list[float]]:
        """Mean weight of each input of each adaptive fusion, from the input to the output."""
        _, weights = self.average.network.forward_with_weights(ct, mask)
        return [[float(value) for value in level.mean(dim=(0, 2, 3, 4))] for level in weights]

    def evaluated_weights(self) -> dict[str, Any]:
        """Averaged weights of the generator."""
        return dict(self.average.network.state_dict())


def _detached(features: Features) -> Features:
    return [[feature.detach() for feature in scale] for scale in features]
