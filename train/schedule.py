"""Length and learning rate of the stages: by steps or epochs, cut by time, agreed on by all processes."""

from __future__ import annotations

import math
import time

import torch

from train.devices import Devices
from train.recipe import Recipe, StageRecipe
from train.state import Position

#: Processes that train together compare their clocks this often (in steps): each time costs a wait for the device.
AGREE_EVERY = 10


def stage_steps(stage: StageRecipe, slices: int, world: int = 1) -> int:
    """Steps of a stage: those it names, or those that ``epochs`` over ``slices`` take with ``world`` processes."""
    if stage.epochs is None:
        return stage.steps or 0
    return math.ceil(stage.epochs * slices / (stage.batch * world))


def rate_factor(stage: StageRecipe, step: int, progress: float) -> float:
    """Learning rate as a fraction of the stage's: linear warm-up, constant for ``hold``, then down to ``final_rate``.

    Parameters
    ----------
    stage : StageRecipe
        Warm-up, hold, decay and final rate.
    step : int
        Steps done in the stage.
    progress : float
        Fraction of the stage that is over, 0..1, by steps or by time, whichever is further.
    """
    warm = min(1.0, (step + 1) / (stage.warm_up_steps + 1))
    over = min(max(progress, 0.0), 1.0)
    falling = (over - stage.hold) / (1.0 - stage.hold) if over > stage.hold else 0.0
    left = 1.0 - falling if stage.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * falling))
    return warm * (stage.final_rate + (1.0 - stage.final_rate) * left)


class StageClock:
    """How far a stage is by steps and by time, and whether to stop; the same in every process.

    Parameters
    ----------
    recipe : Recipe
        Its time limit and the shares of its stages.
    position : Position
        Its ``elapsed_s`` is kept up to date.
    devices : Devices
        Who has to agree.
    """

    def __init__(self, recipe: Recipe, position: Position, devices: Devices) -> None:
        self.recipe = recipe
        self.position = position
        self.devices = devices
        self.stopping = False
        self.timed = 0.0
        self._asked = False
        self._last = time.monotonic()

    def ask_stop(self) -> None:
        """End the run as soon as all processes know (safe in a signal handler)."""
        self._asked = True

    def tick(self) -> float:
        """Add the time since the last call to the position, and return all seconds so far."""
        now = time.monotonic()
        self.position.elapsed_s += now - self._last
        self._last = now
        return self.position.elapsed_s

    def start(self) -> None:
        """Forget the time before now."""
        self._last = time.monotonic()

    def look(self, *, force: bool = False) -> None:
        """Update `timed` (fraction of the stage's time that is over) and `stopping`."""
        self.tick()
        alone = self.devices.world == 1
        if not (alone or force or self.position.step % AGREE_EVERY == 0):
            return
        timed, asked = self._time_progress(), float(self._asked)
        if not alone:
            ours = torch.tensor([timed, asked], dtype=torch.float64, device=self.devices.device)
            timed, asked = self.devices.largest(ours).tolist()
        self.timed, self.stopping = timed, asked > 0.0

    def _time_progress(self) -> float:
        """Fraction of the stage's time that is over; time that earlier stages left belongs to the later ones."""
        if self.recipe.max_minutes is None:
            return 0.0
        return (self.position.elapsed_s - self.position.stage_started_s) / max(self._length_s(), 1e-9)

    def _length_s(self) -> float:
        shares = sum(stage.time_share for stage in self.recipe.stages[: self.position.stage + 1])
        return shares * (self.recipe.max_minutes or 0.0) * 60.0 - self.position.stage_started_s

    def left_s(self, steps: int) -> float:
        """Seconds to the end of the stage of ``steps`` steps, from its pace so far and its time limit."""
        done_s = self.position.elapsed_s - self.position.stage_started_s
        left = done_s / max(self.position.step, 1) * max(0, steps - self.position.step)
        return left if self.recipe.max_minutes is None else max(0.0, min(left, self._length_s() - done_s))
