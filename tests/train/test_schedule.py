"""Length and learning rate of a stage, by steps, epochs and time.

Leaves out processes that agree on them (test_devices.py).
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from training_cases import tiny_recipe

from train import schedule
from train.devices import SingleDevice
from train.recipe import StageRecipe
from train.schedule import StageClock, rate_factor, stage_steps
from train.state import Position


def test_rate_warms_up_and_falls_to_its_final_value() -> None:
    stage = StageRecipe(name="x", grid_px=8, steps=100, warm_up_steps=9, final_rate=0.1)
    assert rate_factor(stage, 0, 0.0) == pytest.approx(0.1)
    assert rate_factor(stage, 50, 0.0) == pytest.approx(1.0)
    assert rate_factor(stage, 50, 0.5) == pytest.approx(0.55)
    assert rate_factor(stage, 50, 1.0) == rate_factor(stage, 50, 7.0) == pytest.approx(0.1)


def test_rate_is_held_and_then_falls_linearly_as_pix2pixhd_s_100_and_100_epochs() -> None:
    stage = StageRecipe(name="x", grid_px=8, epochs=200, decay="linear", hold=0.5, final_rate=0.0)
    factors = [rate_factor(stage, 10, epoch / 200) for epoch in (0, 50, 100, 150, 175, 200)]
    assert factors == pytest.approx([1.0, 1.0, 1.0, 0.5, 0.25, 0.0])


def test_rate_that_is_always_held_never_falls() -> None:
    stage = StageRecipe(name="x", grid_px=8, steps=1, hold=1.0, final_rate=0.0)
    assert rate_factor(stage, 0, 1.0) == 1.0


def test_epochs_are_shared_by_the_processes() -> None:
    stage = StageRecipe(name="x", grid_px=8, epochs=3, batch=4)
    assert stage_steps(stage, 100) == 75
    assert stage_steps(stage, 100, world=2) == 38
    assert stage_steps(StageRecipe(name="x", grid_px=8, steps=9), 100, world=2) == 9


def test_time_that_a_stage_left_belongs_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(schedule, "time", SimpleNamespace(monotonic=lambda: now))
    stages = [{"name": name, "grid_px": 16, "steps": 9, "time_share": 0.5} for name in ("one", "two")]
    position = Position()
    clock = StageClock(tiny_recipe(stages=stages, max_minutes=1.0), position, SingleDevice(torch.device("cpu")))
    now += 15.0
    clock.look()
    assert clock.timed == pytest.approx(0.5)
    position.stage, position.stage_started_s = 1, position.elapsed_s  # the first stage ended after 15 of its 30 s
    now += 15.0
    clock.look()
    assert clock.timed == pytest.approx(1 / 3)
    position.step = 3
    assert clock.left_s(9) == pytest.approx(30.0)  # six more steps of 5 s, and the limit leaves 30 s
    assert clock.left_s(100) == pytest.approx(30.0)
    clock.ask_stop()
    assert not clock.stopping
    clock.look()
    assert clock.stopping
