"""The training loop on drawn cases.

Covers: a resumed run has the same next losses, stages follow each other, non-finite steps change nothing, the time
limit ends a run, a tiny network learns to paint the lesion.

Leaves out CUDA (no device in CI) and image quality, which docs/results.md measures.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_cases import CONTRACT, drawn_case, tiny_recipe

from train.data.dataset import SliceDataset
from train.recipe import Recipe, StageRecipe
from train.state import (
    MovingAverage,
    Position,
    TrainingError,
    averaged_weights,
    load_stage_weights,
    stage_of,
)
from train.trainer import MAX_SKIPPED_IN_A_ROW, Trainer, choose_device, rate_factor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> tuple[SliceDataset, SliceDataset]:
    training = SliceDataset([drawn_case(seed, lesion=seed % 2 == 0) for seed in range(6)], CONTRACT)
    return training, SliceDataset([drawn_case(50), drawn_case(51)], CONTRACT)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def trainer(recipe: Recipe, run: Path, data: tuple[SliceDataset, SliceDataset]) -> Trainer:
    run.mkdir(exist_ok=True)
    return Trainer(recipe, run, *data, CPU)


def lines(run: Path, event: str) -> list[dict]:
    return [line for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if line["event"] == event]


class StopAfter:
    """A progress display that stops its trainer after a number of steps, like a signal would."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.trainer: Trainer | None = None

    def update(self, done: int, total: int, text: str) -> None:
        self.left -= 1
        if self.left == 0 and self.trainer is not None:
            self.trainer.stop()


@pytest.mark.parametrize("steps", [1, 3, 4, 5])
def test_resumed_run_has_the_same_next_losses(tmp_path: Path, data, steps: int) -> None:
    straight = trainer(tiny_recipe(), tmp_path / "straight", data)
    straight.fit()

    stopper = StopAfter(steps)
    first = trainer(tiny_recipe(), tmp_path / "cut", data)
    first.progress, stopper.trainer = stopper, first
    assert not first.fit().finished
    second = trainer(tiny_recipe(), tmp_path / "cut", data)
    second.resume()
    result = second.fit()

    assert result.finished
    wanted = [(line["step"], line["loss"]) for line in lines(tmp_path / "straight", "step")]
    assert [(line["step"], line["loss"]) for line in lines(tmp_path / "cut", "step")] == wanted
    assert len(wanted) == 7
    ours, theirs = averaged_weights(tmp_path / "straight"), averaged_weights(tmp_path / "cut")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_run_leaves_log_pictures_and_weights_of_each_stage(tmp_path: Path, data) -> None:
    result = trainer(tiny_recipe(), tmp_path, data).fit()
    assert (result.finished, result.steps, result.skipped) == (True, 7, 0)
    assert [line["name"] for line in lines(tmp_path, "stage")] == ["pixel", "gan"]
    pixel, gan = lines(tmp_path, "step")[0], lines(tmp_path, "step")[-1]
    assert set(pixel["gradient_at_output"]) == {"pixel"}
    assert set(gan["gradient_at_output"]) == {"pixel", "gan", "feature_matching"}
    assert "discriminator" in gan["terms"]
    assert all(0 <= line["lesion_auc"] <= 1 for line in lines(tmp_path, "validation"))
    pictures = sorted((tmp_path / "samples").glob("*.png"))
    assert [picture.name for picture in pictures] == ["gan-000007.png", "pixel-000004.png"]
    assert pictures[0].read_bytes().startswith(b"\x89PNG")
    assert load_stage_weights(tmp_path, "pixel").keys() == averaged_weights(tmp_path).keys()


def test_discriminator_learns_only_in_the_adversarial_stage(tmp_path: Path, data) -> None:
    run = trainer(tiny_recipe(), tmp_path, data)
    before = [parameter.clone() for parameter in run.networks.discriminator.parameters()]
    stopper = StopAfter(4)
    run.progress, stopper.trainer = stopper, run
    run.fit()
    assert all(map(torch.equal, before, run.networks.discriminator.parameters()))
    again = trainer(tiny_recipe(), tmp_path, data)
    again.resume()
    again.fit()
    assert not all(map(torch.equal, before, again.networks.discriminator.parameters()))


def test_tiny_network_learns_to_paint_the_lesion(tmp_path: Path, data) -> None:
    stage = {"name": "pixel", "grid_px": 32, "steps": 120, "batch": 4, "learning_rate": 3e-3, "warm_up_steps": 5}
    recipe = tiny_recipe(stages=[stage], log={"every": 10, "validate_every": 60, "checkpoint_every": 1000})
    trainer(recipe, tmp_path, data).fit()
    scores = lines(tmp_path, "validation")
    assert scores[-1]["lesion_auc"] > 0.85
    assert scores[-1]["brain_mse"] < 0.02
    assert lines(tmp_path, "step")[-1]["loss"] < 0.5 * lines(tmp_path, "step")[0]["loss"]


def test_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path: Path, data) -> None:
    run = trainer(tiny_recipe(), tmp_path, data)
    stage = run.recipe.stages[0]
    batch = data[0].training_batch(2, stage.grid_px, run.recipe.augment, (0,))
    broken = dataclasses.replace(batch, target=torch.full_like(batch.target, float("nan")))
    before = {name: value.clone() for name, value in run.networks.generator.state_dict().items()}
    run._step(stage, broken)
    assert all(torch.equal(before[name], value) for name, value in run.networks.generator.state_dict().items())
    assert run.position.skipped == 1
    run._step(stage, batch)
    assert run.position.skipped_in_a_row == 0
    assert not all(torch.equal(before[name], value) for name, value in run.networks.generator.state_dict().items())
    for _ in range(MAX_SKIPPED_IN_A_ROW - 1):
        run._step(stage, broken)
    with pytest.raises(TrainingError, match="in a row"):
        run._step(stage, broken)


def test_time_limit_ends_every_stage_and_the_rate_falls_with_it(tmp_path: Path, data) -> None:
    stages = [{"name": name, "grid_px": 16, "steps": 100_000, "batch": 1, "time_share": 0.5} for name in ("one", "two")]
    recipe = tiny_recipe(stages=stages, max_minutes=0.05)
    result = trainer(recipe, tmp_path, data).fit()
    assert result.finished
    assert result.minutes < 0.15
    rates = [line["rate"] for line in lines(tmp_path, "step") if line["stage"] == "one"]
    assert rates[-1] < 0.2 * rates[0]


def test_checkpoint_of_another_recipe_is_refused_and_log_settings_may_change(tmp_path: Path, data) -> None:
    trainer(tiny_recipe(), tmp_path, data).fit()
    with pytest.raises(TrainingError, match="another recipe"):
        trainer(tiny_recipe(seed=4), tmp_path, data).resume()
    patient = dataclasses.replace(tiny_recipe(log={"every": 5}), max_minutes=9.0)
    trainer(patient, tmp_path, data).resume()


def test_rate_warms_up_and_falls_to_its_final_value() -> None:
    stage = StageRecipe(name="x", grid_px=8, steps=100, warm_up_steps=9, final_rate=0.1)
    assert rate_factor(stage, 0, 0.0) == pytest.approx(0.1)
    assert rate_factor(stage, 50, 0.0) == pytest.approx(1.0)
    assert rate_factor(stage, 50, 0.5) == pytest.approx(0.55)
    assert rate_factor(stage, 50, 1.0) == rate_factor(stage, 50, 7.0) == pytest.approx(0.1)


def test_average_follows_fast_at_first_and_slowly_later(tmp_path: Path, data) -> None:
    network = trainer(tiny_recipe(), tmp_path, data).networks.generator
    average = MovingAverage(network, 0.999)
    parameter, mean = next(network.parameters()), next(average.network.parameters())
    with torch.no_grad():
        parameter.add_(1.0)
    start = mean.clone()
    average.update(network, 0)
    torch.testing.assert_close(mean - start, torch.full_like(mean, 0.9))
    start = mean.clone()
    average.update(network, 10_000_000)
    torch.testing.assert_close(mean - start, torch.full_like(mean, 0.1 * 0.001), rtol=1e-2, atol=1e-6)
    assert not mean.requires_grad


def test_device_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(TrainingError, match="no CUDA"):
        choose_device("cuda:0")


def test_stage_after_the_last_is_none() -> None:
    recipe = tiny_recipe()
    assert stage_of(recipe, Position(stage=1)) is recipe.stages[1]
    assert stage_of(recipe, Position(stage=2)) is None


BARE = """
import sys
for name in ("typer", "rich", "pydantic", "skimage", "SimpleITK", "matplotlib", "safetensors", "cv2", "cc3d", "pydicom",
             "pytorch_wavelets", "pywt", "highdicom", "sqlalchemy", "pandas", "nibabel", "PIL"):
    sys.modules[name] = None  # importing it raises ImportError
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import torch
from training_cases import CONTRACT, drawn_case, tiny_recipe
from train import controls, evaluate, export, fit, report  # noqa: F401
from train.data import cache, phantom  # noqa: F401
from train.data.dataset import SliceDataset
from train.runlog import progress_bar
from train.trainer import Trainer
data = SliceDataset([drawn_case(1)], CONTRACT)
with progress_bar("x") as bar:
    print(Trainer(tiny_recipe(), Path(sys.argv[1]), data, data, torch.device("cpu"), bar).fit().steps)
"""


def test_training_runs_where_only_torch_numpy_and_scipy_exist(tmp_path: Path) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path), str(here)],
        cwd=here.parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "7"
