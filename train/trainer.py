"""The training loop: stages of rising resolution, one method's step after another, resumable at any step.

Which data, which losses and in what order is the recipe's; what a step does is the method's. The loop keeps time,
writes down what happens, validates, and leaves a checkpoint from which the next loss is the same.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from train.data.dataset import Batch, SliceDataset
from train.devices import Devices, SingleDevice, choose_device
from train.feeding import BatchSource, DiskSource, Feeder
from train.guard import MAX_SKIPPED_IN_A_ROW, StepGuard
from train.methods import Method, Moment, StepReport
from train.recipe import Recipe, StageRecipe
from train.recording import Recorder, origin
from train.registry import build_method
from train.runlog import Progress, QuietProgress
from train.schedule import StageClock, rate_factor, stage_steps
from train.state import (
    Position,
    apply_checkpoint,
    read_checkpoint,
    save_best,
    save_checkpoint,
    save_stage_weights,
    stage_of,
)
from train.validation import Validator

__all__ = ["MAX_SKIPPED_IN_A_ROW", "FitResult", "Trainer", "choose_device", "rate_factor"]


@dataclass(frozen=True, slots=True)
class FitResult:
    """How `Trainer.fit` ended: all stages ``finished`` or stopped early, steps done and skipped, minutes, and the
    share of those that was spent waiting for data.
    """  # noqa: D205  (one sentence)

    finished: bool
    steps: int
    skipped: int
    minutes: float
    waiting_share: float = 0.0


class Trainer:
    """Trains one recipe in one run folder.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    run : Path
        Run folder: ``recipe.json``, ``log.jsonl``, ``checkpoint.pt``, ``best.pt``, ``stage-*.pt``, ``samples/``,
        ``tensorboard/``.
    training, validation : SliceDataset
        Slices of the two splits.
    devices : Devices or torch.device
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
        devices: Devices | torch.device,
        progress: Progress | None = None,
    ) -> None:
        self.recipe, self.run = recipe, run
        self.devices: Devices = SingleDevice(devices) if isinstance(devices, torch.device) else devices
        self.device = self.devices.device
        self.progress: Progress = progress or QuietProgress()
        self.position = Position()
        self.training = training
        self.guard = StepGuard(self.devices, self.position)
        self.clock = StageClock(recipe, self.position, self.devices)
        self.method: Method = build_method(recipe, self.devices, self.guard)
        self.validator = Validator(validation, recipe.log.validation_slices)
        self.feeder = Feeder(batch_source(recipe, training, self.device), recipe, self.devices)
        self.recorder = Recorder(run, recipe, active=self.devices.rank == 0)
        self.lengths = [stage_steps(stage, len(training), self.devices.world) for stage in recipe.stages]
        self._pace = Pace()

    def stop(self) -> None:
        """Ask the loop to write a checkpoint after the current step and return (safe in a signal handler)."""
        self.clock.ask_stop()

    def resume(self) -> None:
        """Go on from the run's checkpoint.

        Raises
        ------
        FileNotFoundError
            When there is none.
        TrainingError
            ``checkpoint`` or ``other_recipe``: it is damaged, or belongs to another recipe.
        """
        values = read_checkpoint(self.run) if self.devices.rank == 0 else {}
        values = self.devices.broadcast(values)
        found = apply_checkpoint(values, self.recipe, self.method.parts())
        for item in fields(Position):  # in place: clock and guard hold the same position
            setattr(self.position, item.name, getattr(found, item.name))
        self.guard.follow(self.position)
        self.feeder.waited_s = self.position.waited_s

    def fit(self) -> FitResult:
        """Train until the last stage ends, the time limit is reached or `stop` is called.

        Raises
        ------
        TrainingError
            ``not_finite``: after `MAX_SKIPPED_IN_A_ROW` steps without a finite loss or gradient.
        """
        position = self.position
        self.clock.start()
        self.recorder.open(position.total)
        if position.total:
            self.recorder.write("resumed", step=position.total, stage=position.stage)
        else:
            self._describe()
        # Weights near zero make denormal gradients, on which a CPU is ten times slower.
        torch.set_flush_denormal(True)
        try:
            while (stage := stage_of(self.recipe, position)) is not None and not self.clock.stopping:
                self._run_stage(stage)
        finally:
            torch.set_flush_denormal(False)
            self.recorder.close()
        return self._end()

    def _end(self) -> FitResult:
        position = self.position
        self._save()
        finished = stage_of(self.recipe, position) is None
        minutes = position.elapsed_s / 60.0
        waiting = position.waited_s / max(position.elapsed_s, 1e-9)
        self.recorder.write("ended", finished=finished, step=position.total, minutes=minutes, waiting_share=waiting)
        return FitResult(finished, position.total, position.skipped, minutes, waiting)

    def _describe(self) -> None:
        self.recorder.keep_recipe()
        if self.recorder.active:
            self.recorder.write(
                "started",
                **origin(self.recipe, self.training.cases),
                device=str(self.device),
                processes=self.devices.world,
                training_slices=len(self.training),
                training_lesion_slices=len(self.training.lesion_rows),
                stage_steps=self.lengths,
            )

    def _run_stage(self, stage: StageRecipe) -> None:
        position, length = self.position, self.lengths[self.position.stage]
        if position.step == 0:
            position.stage_started_s = self.clock.tick()
            self.method.start_stage(stage)
            self.recorder.write(
                "stage",
                step=position.total,
                name=stage.name,
                grid_px=stage.grid_px,
                adversarial=stage.adversarial,
                steps=length,
            )
        self._pace.start()
        self.clock.look(force=True)
        with contextlib.closing(self._batches(stage, length)) as batches:
            while position.step < length and self.clock.timed < 1.0 and not self.clock.stopping:
                self._step(stage, next(batches))
                self._after_step(stage)
                self.clock.look()
        if self.clock.stopping:
            return
        if position.step % self.recipe.log.validate_every:  # else it was done after the last step
            self._validate(stage)
        if self.recorder.active:
            save_stage_weights(self.run, stage.name, self.method.evaluated_weights())
        position.stage += 1
        position.step = 0
        self._save()

    def _batches(self, stage: StageRecipe, length: int) -> Generator[Batch, None, None]:
        return self.feeder.batches(self.position.stage, stage, self.position.step, length)

    def _save(self) -> None:
        self.clock.tick()
        self.guard.read()
        self.position.waited_s = self.feeder.waited_s
        if self.recorder.active:
            save_checkpoint(self.run, self.recipe, self.position, self.method.parts())

    def _step(self, stage: StageRecipe, batch: Batch) -> None:
        position, log = self.position, self.recipe.log
        progress = max(position.step / self.lengths[position.stage], self.clock.timed)
        moment = Moment(
            stage=stage,
            step=position.step,
            rate=rate_factor(stage, position.step, progress),
            logged=position.step % log.every == 0,
        )
        report = self.method.step(batch, moment)
        self._pace.images += stage.batch * self.devices.world
        if moment.logged:
            self._log_step(moment, report)

    def _log_step(self, moment: Moment, report: StepReport) -> None:
        """Look at the figures of a step: the only place where the loop waits for a GPU."""
        position = self.position
        self.guard.read()
        loss = self.devices.mean(report.loss)
        terms = {name: float(self.devices.mean(term)) for name, term in report.terms.items()}
        images_per_s, waiting = self._pace.measure(self.feeder.waited_s)
        self._pace.text = f"loss {float(loss):.4f}, {images_per_s:.1f} images/s"
        self.recorder.write(
            "step",
            stage=moment.stage.name,
            step=position.total,
            minutes=position.elapsed_s / 60.0,
            rate=moment.stage.learning_rate * moment.rate,
            loss=float(loss),
            terms=terms,
            gradient_at_output=report.gradient_at_output,
            gradient_norm=float(report.gradient_norm),
            skipped=position.skipped,
            images_per_s=images_per_s,
            waiting_share=waiting,
        )

    def _after_step(self, stage: StageRecipe) -> None:
        position, log, length = self.position, self.recipe.log, self.lengths[self.position.stage]
        position.step += 1
        position.total += 1
        left_min = self.clock.left_s(length) / 60.0
        text = f"{stage.name} ({stage.grid_px} px) {self._pace.text}, {left_min:.1f} min left"
        self.progress.update(position.step, length, text)
        if position.step % log.validate_every == 0:
            self._validate(stage)
        elif log.samples_every and position.step % log.samples_every == 0:
            self._picture(stage)
        if position.step % log.checkpoint_every == 0:
            self._save()

    def _validate(self, stage: StageRecipe) -> None:
        """Log the figures of the evaluated weights, draw a picture, keep the weights if they are the best so far."""
        self._pace.pause()
        if self.recorder.active:
            figures = self.validator.run(self.method, stage.grid_px, self.device)
            self.clock.tick()
            self.recorder.write(
                "validation",
                stage=stage.name,
                step=self.position.total,
                minutes=self.position.elapsed_s / 60.0,
                brain_mse=figures.brain_mse,
                brain_psnr_db=figures.brain_psnr_db,
                lesion_auc=figures.lesion_auc,
                fusion_weights=figures.fusion,
            )
            self._keep_best(figures.brain_psnr_db)
            self._picture(stage)
        self._pace.go_on()

    def _picture(self, stage: StageRecipe) -> None:
        if self.recorder.active:
            sheet = self.validator.picture(self.method, stage.grid_px, self.device)
            self.recorder.picture(stage.name, self.position.total, sheet)

    def _keep_best(self, psnr_db: float) -> None:
        """Every stage starts the contest anew: resolutions do not compare, and an adversarial stage trades PSNR."""
        position = self.position
        if self.recipe.log.selection != "best" or math.isnan(psnr_db):
            return
        if position.stage == position.best_stage and psnr_db <= position.best_psnr_db:
            return
        position.best_stage, position.best_psnr_db, position.best_step = position.stage, psnr_db, position.total
        save_best(self.run, self.method.evaluated_weights(), position.total, psnr_db)


class Pace:
    """Images a second and the share of waiting for data since the last look; validation does not count."""

    def __init__(self) -> None:
        self.images = 0
        self.text = "starting"
        self._waited_s = 0.0
        self.start()

    def start(self) -> None:
        """Count from here."""
        self._began, self._paused, self.images = time.monotonic(), 0.0, 0

    def pause(self) -> None:
        """Stop the clock."""
        self._stopped = time.monotonic()

    def go_on(self) -> None:
        """Let the clock run again."""
        self._paused += time.monotonic() - self._stopped

    def measure(self, waited_s: float) -> tuple[float, float]:
        """Images a second and the share of waiting, given all seconds waited so far; counts anew after that."""
        spent = max(time.monotonic() - self._began - self._paused, 1e-9)
        figures = self.images / spent, min(1.0, max(0.0, waited_s - self._waited_s) / spent)
        self._waited_s = waited_s
        self.start()
        return figures


def batch_source(recipe: Recipe, training: SliceDataset, device: torch.device) -> BatchSource:
    """Batches from the disk, or with ``on_device`` from the device's memory."""
    if not recipe.data.on_device:
        return DiskSource(training, recipe.augment)
    from train.staged import StagedSource

    return StagedSource(training, recipe.augment, device)
