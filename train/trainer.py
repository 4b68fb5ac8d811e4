"""The training loop: stages of rising resolution, pixel loss first, a short adversarial stage last; resumable.

Plain torch on one device. The order (pixel warm-up, then adversarial), half of each batch from lesion slices, and the
weight of the lesion are ours, from trials on the phantom; see `train.recipe` for what can be set.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import platform
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from train.data.dataset import Batch, SliceDataset
from train.metrics import ScoreHistogram, pooled_auc, to_unit
from train.objectives import (
    Features,
    adversarial_discriminator_loss,
    adversarial_generator_loss,
    feature_matching_loss,
    gradient_norms,
    pixel_loss,
)
from train.recipe import Recipe, StageRecipe
from train.runlog import Progress, QuietProgress, RunLog, sample_sheet, write_png
from train.state import (
    CHECKPOINT_NAME,
    Networks,
    Position,
    TrainingError,
    load_checkpoint,
    save_checkpoint,
    save_stage_weights,
    stage_of,
)

_log = logging.getLogger(__name__)

#: A run that skips this many steps in a row is broken, not unlucky.
MAX_SKIPPED_IN_A_ROW = 25
_PICTURE_SLICES = 6


@dataclass(frozen=True, slots=True)
class FitResult:
    """How `Trainer.fit` ended: all stages ``finished`` or stopped early, steps done and skipped, minutes."""

    finished: bool
    steps: int
    skipped: int
    minutes: float


def choose_device(name: str) -> torch.device:
    """``auto`` (CUDA where there is one, else CPU), ``cpu`` or ``cuda:N``.

    Raises
    ------
    TrainingError
        When CUDA is asked for and torch sees none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"device {name} was asked for and torch sees no CUDA device")
    return device


def rate_factor(stage: StageRecipe, step: int, progress: float) -> float:
    """Learning rate as a fraction of the stage's: linear warm-up, then half a cosine down to ``final_rate``.

    Parameters
    ----------
    stage : StageRecipe
        Warm-up and final rate.
    step : int
        Steps done in the stage.
    progress : float
        Fraction of the stage that is over, 0..1, by steps or by time, whichever is further.
    """
    warm = min(1.0, (step + 1) / (stage.warm_up_steps + 1))
    fall = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return warm * (stage.final_rate + (1.0 - stage.final_rate) * fall)


class Trainer:
    """Trains one recipe in one run folder.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    run : Path
        Run folder: ``recipe.json``, ``log.jsonl``, ``checkpoint.pt``, ``stage-*.pt``, ``samples/``.
    training, validation : SliceDataset
        Slices of the two splits.
    device : torch.device
        Where to train.
    progress : Progress, optional
        Display.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Path,
        training: SliceDataset,
        validation: SliceDataset,
        device: torch.device,
        progress: Progress | None = None,
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.training = training
        self.validation = validation
        self.device = device
        self.progress: Progress = progress or QuietProgress()
        self.position = Position()
        self.networks = Networks(recipe, device)
        (run / "samples").mkdir(parents=True, exist_ok=True)
        self.log = RunLog(run / "log.jsonl")
        self._stop = False
        self._clock = time.monotonic()
        self._validation_rows = validation.spread(recipe.log.validation_slices)

    def stop(self) -> None:
        """Ask the loop to write a checkpoint after the current step and return (safe in a signal handler)."""
        self._stop = True

    def resume(self) -> None:
        """Go on from the run's checkpoint.

        Raises
        ------
        FileNotFoundError, TrainingError
            When there is none, or it belongs to another recipe.
        """
        self.position = load_checkpoint(self.run, self.recipe, self.networks)
        self.log.write("resumed", step=self.position.total, stage=self.position.stage)

    def fit(self) -> FitResult:
        """Train until the last stage ends, the time limit is reached or `stop` is called.

        Raises
        ------
        TrainingError
            After `MAX_SKIPPED_IN_A_ROW` steps without a finite loss or gradient.
        """
        self._clock = time.monotonic()
        if not (self.run / CHECKPOINT_NAME).exists():
            self._describe()
        # Weights near zero make denormal gradients, on which a CPU is ten times slower.
        torch.set_flush_denormal(True)
        try:
            with ThreadPoolExecutor(1) as loader:
                while (stage := stage_of(self.recipe, self.position)) is not None and not self._stop:
                    self._run_stage(stage, loader)
        finally:
            torch.set_flush_denormal(False)
        save_checkpoint(self.run, self.recipe, self.position, self.networks)
        finished = stage_of(self.recipe, self.position) is None
        minutes = self.position.elapsed_s / 60.0
        self.log.write("ended", finished=finished, step=self.position.total, minutes=minutes)
        return FitResult(finished, self.position.total, self.position.skipped, minutes)

    def _describe(self) -> None:
        (self.run / "recipe.json").write_text(json.dumps(self.recipe.to_json(), indent=1), encoding="utf-8")
        self.log.write(
            "started",
            recipe=self.recipe.name,
            seed=self.recipe.seed,
            device=str(self.device),
            threads=torch.get_num_threads(),
            processor=platform.machine(),
            torch=torch.__version__,
            training_slices=len(self.training),
            training_lesion_slices=len(self.training.lesion_rows),
        )

    def _run_stage(self, stage: StageRecipe, loader: ThreadPoolExecutor) -> None:
        position = self.position
        if position.step == 0:
            self._tick()
            position.stage_started_s = position.elapsed_s
            self.networks.start_stage()
            self.log.write("stage", name=stage.name, grid_px=stage.grid_px, adversarial=stage.adversarial)
        pending = self._load(stage, loader)
        while position.step < stage.steps and self._time_progress() < 1.0 and not self._stop:
            batch = pending.result().to(self.device)
            position.step += 1  # the next batch is drawn for the next step
            pending = self._load(stage, loader)
            position.step -= 1
            self._step(stage, batch)
            self._after_step(stage)
        pending.result()
        if self._stop:
            return
        if position.step % self.recipe.log.validate_every:  # else it was done after the last step
            self._validate(stage)
        save_stage_weights(self.run, stage.name, self.networks)
        position.stage += 1
        position.step = 0
        save_checkpoint(self.run, self.recipe, position, self.networks)

    def _load(self, stage: StageRecipe, loader: ThreadPoolExecutor) -> Future[Batch]:
        seed = (self.recipe.seed, self.position.stage, self.position.step)
        return loader.submit(self.training.training_batch, stage.batch, stage.grid_px, self.recipe.augment, seed)

    def _tick(self) -> None:
        now = time.monotonic()
        self.position.elapsed_s += now - self._clock
        self._clock = now

    def _time_progress(self) -> float:
        """Fraction of the stage's time that is over; time that earlier stages left belongs to the later ones."""
        self._tick()
        if self.recipe.max_minutes is None:
            return 0.0
        shares = sum(stage.time_share for stage in self.recipe.stages[: self.position.stage + 1])
        ends_s = shares * self.recipe.max_minutes * 60.0
        length_s = max(ends_s - self.position.stage_started_s, 1e-9)
        return (self.position.elapsed_s - self.position.stage_started_s) / length_s

    def _step(self, stage: StageRecipe, batch: Batch) -> None:
        """One update of the generator and, in an adversarial stage, one of the discriminator."""
        networks, position = self.networks, self.position
        progress = max(position.step / stage.steps, self._time_progress())
        rate = stage.learning_rate * rate_factor(stage, position.step, progress)
        for group in networks.generator_optimiser.param_groups:
            group["lr"] = rate
        logged = position.step % self.recipe.log.every == 0
        fake, terms = self._generator_terms(stage, batch)
        gradients = gradient_norms(terms, fake) if logged else {}
        loss = torch.stack(list(terms.values())).sum()
        networks.generator_optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_grad_norm_(networks.generator.parameters(), self.recipe.optimiser.clip_norm)
        if self._skips(loss, norm):
            return
        networks.generator_optimiser.step()
        networks.average.update(networks.generator, position.step)
        values = {name: float(term.detach()) for name, term in terms.items()} if logged else {}
        if stage.adversarial:
            on_discriminator = self._discriminator_step(stage, batch, fake.detach())
            values |= {"discriminator": on_discriminator} if logged else {}
        if logged:
            self.log.write(
                "step",
                stage=stage.name,
                step=position.total,
                minutes=position.elapsed_s / 60.0,
                rate=rate,
                loss=float(loss.detach()),
                terms=values,
                gradient_at_output=gradients,
                gradient_norm=float(norm.detach()),
                skipped=position.skipped,
            )

    def _generator_terms(self, stage: StageRecipe, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.recipe.loss
        with self._autocast(stage):
            fake = self.networks.generator(batch.ct, batch.mask)
        fake = fake.float()
        pixel = pixel_loss(fake, batch.target, batch.brain, batch.lesion, loss)
        terms = {"pixel": loss.pixel_weight * pixel}
        if stage.adversarial:
            self.networks.discriminator.requires_grad_(requires_grad=False)
            on_fake, on_real = self._judge(stage, batch, fake), self._judge(stage, batch, batch.target)
            self.networks.discriminator.requires_grad_(requires_grad=True)
            terms["gan"] = loss.gan_weight * adversarial_generator_loss(on_fake)
            terms["feature_matching"] = loss.feature_matching_weight * feature_matching_loss(on_real, on_fake)
        return fake, terms

    def _discriminator_step(self, stage: StageRecipe, batch: Batch, fake: Tensor) -> float:
        optimiser = self.networks.discriminator_optimiser
        loss = adversarial_discriminator_loss(self._judge(stage, batch, batch.target), self._judge(stage, batch, fake))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if bool(torch.isfinite(loss)):
            optimiser.step()
        return float(loss.detach())

    def _judge(self, stage: StageRecipe, batch: Batch, image: Tensor) -> Features:
        with self._autocast(stage):
            judged = self.networks.discriminator(torch.cat([batch.ct, image], dim=1))
        return [[feature.float() for feature in scale] for scale in judged]

    def _autocast(self, stage: StageRecipe) -> contextlib.AbstractContextManager[object]:
        if stage.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _skips(self, loss: Tensor, norm: Tensor) -> bool:
        """Count a step whose loss or gradient is not finite; it changes no weight."""
        position = self.position
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            position.skipped_in_a_row = 0
            return False
        position.skipped += 1
        position.skipped_in_a_row += 1
        _log.warning("step %d skipped: loss or gradient is not finite", position.total)
        if position.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(f"{MAX_SKIPPED_IN_A_ROW} steps in a row without a finite loss or gradient")
        return True

    def _after_step(self, stage: StageRecipe) -> None:
        position, log = self.position, self.recipe.log
        position.step += 1
        position.total += 1
        self.progress.update(position.step, stage.steps, f"{stage.name} ({stage.grid_px} px)")
        if position.step % log.validate_every == 0:
            self._validate(stage)
        if position.step % log.checkpoint_every == 0:
            self._tick()
            save_checkpoint(self.run, self.recipe, position, self.networks)

    @torch.no_grad()
    def _validate(self, stage: StageRecipe) -> None:
        """Log brain MSE and lesion AUC of the averaged weights on fixed validation slices, and write a picture."""
        predictions, batches = [], []
        for rows in np.array_split(self._validation_rows, max(1, len(self._validation_rows) // 4)):
            batch = self.validation.fixed_batch(rows, stage.grid_px)
            on_device = batch.to(self.device)
            with self._autocast(stage):
                output = self.networks.average.network(on_device.ct, on_device.mask)
            predictions.append(output.float().cpu())
            batches.append(batch)
        prediction = to_unit(torch.cat(predictions).numpy())
        target = to_unit(torch.cat([batch.target for batch in batches]).numpy())
        brain = torch.cat([batch.brain for batch in batches]).numpy() > 0.5
        lesion = torch.cat([batch.lesion for batch in batches]).numpy() > 0.5
        self._tick()
        self.log.write(
            "validation",
            stage=stage.name,
            step=self.position.total,
            minutes=self.position.elapsed_s / 60.0,
            brain_mse=float(((prediction - target)[brain] ** 2).mean()),
            lesion_auc=pooled_auc([ScoreHistogram.of(prediction, lesion, brain)]),
        )
        ct = torch.cat([batch.ct for batch in batches]).numpy()
        shown = np.linspace(0, len(ct) - 1, min(_PICTURE_SLICES, len(ct))).round().astype(int)
        sheet = sample_sheet(
            {
                "ct": (ct[shown, 0] + 1.0) / 2.0,
                "brain": brain[shown, 0].astype(np.float64),
                "prediction": prediction[shown, 0],
                "truth": target[shown, 0],
                "lesion": lesion[shown, 0].astype(np.float64),
            },
            low=0.0,
        )
        write_png(self.run / "samples" / f"{stage.name}-{self.position.total:06d}.png", sheet)
