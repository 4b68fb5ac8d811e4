"""The training loop on drawn cases.

Covers: a stopped and resumed run has the same next losses, stages follow each other, the time limit ends a run, the
best validation is kept, a tiny network learns to paint the lesion, and only torch, NumPy and SciPy are needed.

Leaves out what one step does (test_jmmda_method.py), kills (test_training_killed.py), several processes
(test_devices.py), CUDA (no device in CI) and image quality, which docs/results.md measures.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_cases import CONTRACT, drawn_case, tiny_recipe

from train import schedule
from train.data.dataset import SliceDataset
from train.recipe import Recipe
from train.schedule import StageClock
from train.state import (
    BEST_NAME,
    CHECKPOINT_NAME,
    Position,
    TrainingError,
    averaged_weights,
    load_stage_weights,
    stage_of,
)
from train.trainer import Trainer

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
    before = [parameter.clone() for parameter in run.method.discriminator.parameters()]
    stopper = StopAfter(4)
    run.progress, stopper.trainer = stopper, run
    run.fit()
    assert all(map(torch.equal, before, run.method.discriminator.parameters()))
    again = trainer(tiny_recipe(), tmp_path, data)
    again.resume()
    again.fit()
    assert not all(map(torch.equal, before, again.method.discriminator.parameters()))


def test_tiny_network_learns_to_paint_the_lesion(tmp_path: Path, data) -> None:
    stage = {"name": "pixel", "grid_px": 32, "steps": 120, "batch": 4, "learning_rate": 3e-3, "warm_up_steps": 5}
    recipe = tiny_recipe(stages=[stage], log={"every": 10, "validate_every": 60, "checkpoint_every": 1000})
    trainer(recipe, tmp_path, data).fit()
    scores = lines(tmp_path, "validation")
    assert scores[-1]["lesion_auc"] > 0.85
    assert scores[-1]["brain_mse"] < 0.02
    assert lines(tmp_path, "step")[-1]["loss"] < 0.5 * lines(tmp_path, "step")[0]["loss"]


def test_time_limit_ends_every_stage_and_the_rate_falls_with_it(
    tmp_path: Path, data, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) * 0.02)  # every look at the clock takes 20 ms
    monkeypatch.setattr(schedule, "time", clock)
    stages = [{"name": name, "grid_px": 16, "steps": 100_000, "batch": 1, "time_share": 0.5} for name in ("one", "two")]
    recipe = tiny_recipe(stages=stages, max_minutes=0.02)
    result = trainer(recipe, tmp_path, data).fit()
    assert result.finished
    assert 0.02 <= result.minutes < 0.025
    rates = [line["rate"] for line in lines(tmp_path, "step") if line["stage"] == "one"]
    assert 5 < len(rates) < 40
    assert rates[-1] < 0.2 * rates[0]


def test_checkpoint_of_another_recipe_is_refused_and_log_settings_may_change(tmp_path: Path, data) -> None:
    trainer(tiny_recipe(), tmp_path, data).fit()
    with pytest.raises(TrainingError, match=r"another recipe, which differs in seed; .* or start a new run folder"):
        trainer(tiny_recipe(seed=4), tmp_path, data).resume()
    stages = [*tiny_recipe().to_json()["stages"], {"name": "third", "grid_px": 32, "steps": 1}]
    with pytest.raises(TrainingError, match="another recipe, which differs in stages,"):
        trainer(tiny_recipe(stages=stages), tmp_path, data).resume()
    patient = dataclasses.replace(tiny_recipe(log={"every": 5}), max_minutes=9.0)
    trainer(patient, tmp_path, data).resume()


def without_a_key(values: dict) -> None:
    del values["recipe"]["input"]["grid_px"]


def without_a_table(values: dict) -> None:
    del values["recipe"]["options"]


def with_a_key_of_old(values: dict) -> None:
    values["recipe"]["data"]["shuffle"] = True


def of_a_finished_experiment(values: dict) -> None:
    values["parts"] = {"average": values["parts"]["average"]}


def of_another_network(values: dict) -> None:
    values["parts"]["generator"].popitem()


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (without_a_key, "other_recipe", "another version of the program: its recipe does not know input.grid_px; "),
        (without_a_table, "other_recipe", "another version of the program: its recipe does not know options; "),
        (with_a_key_of_old, "other_recipe", "its recipe has data.shuffle, which is not known here; "),
        (of_a_finished_experiment, "checkpoint", "that of a finished experiment"),
        (of_another_network, "checkpoint", "does not fit the networks"),
    ],
)
def test_checkpoint_of_another_version_is_refused_and_says_what_to_do(
    tmp_path: Path, data, change: Callable[[dict], None], code: str, reason: str
) -> None:
    trainer(tiny_recipe(), tmp_path, data).fit()
    values = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    change(values)
    torch.save(values, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(TrainingError) as raised:
        trainer(tiny_recipe(), tmp_path, data).resume()
    assert raised.value.code == code
    assert reason in raised.value.reason
    assert "start a new run folder" in raised.value.reason


@pytest.mark.parametrize("selection", ["last", "best"])
def test_run_stands_for_its_last_or_its_best_weights(tmp_path: Path, data, selection: str) -> None:
    log = {"every": 50, "validate_every": 1, "validation_slices": 4, "tensorboard": False, "selection": selection}
    # The rate of the second half is absurd: what comes after the best validation is worse.
    stage = {"name": "only", "grid_px": 16, "steps": 12, "batch": 2, "learning_rate": 3e-3}
    run = trainer(tiny_recipe(stages=[stage], log=log), tmp_path, data)
    stopper = StopAfter(6)
    run.progress, stopper.trainer = stopper, run
    run.fit()
    worse = dataclasses.replace(run.recipe, stages=(dataclasses.replace(run.recipe.stages[0], learning_rate=1.0),))
    run.recipe = worse
    run.clock = StageClock(worse, run.position, run.devices)
    run.fit()
    scores = {line["step"]: line["brain_psnr_db"] for line in lines(tmp_path, "validation")}
    best = max(scores, key=scores.__getitem__)
    assert best < 12
    last = run.method.evaluated_weights()
    chosen = averaged_weights(tmp_path)
    assert all(torch.equal(chosen[name], last[name]) for name in last) is (selection == "last")
    assert (tmp_path / BEST_NAME).exists() is (selection == "best")
    if selection == "best":
        run.method.average.network.load_state_dict(chosen)
        again = run.validator.run(run.method, 16, CPU)
        assert again.brain_psnr_db == pytest.approx(scores[best], abs=1e-5)


def test_damaged_checkpoint_is_refused_and_a_half_written_one_is_never_read(tmp_path: Path, data) -> None:
    trainer(tiny_recipe(), tmp_path, data).fit()
    whole = (tmp_path / CHECKPOINT_NAME).read_bytes()
    (tmp_path / f".{CHECKPOINT_NAME}.part").write_bytes(whole[: len(whole) // 2])  # as a kill while writing leaves it
    again = trainer(tiny_recipe(), tmp_path, data)
    again.resume()
    assert again.position.total == 7
    (tmp_path / CHECKPOINT_NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match="damaged"):
        trainer(tiny_recipe(), tmp_path, data).resume()


def test_epochs_are_steps_over_the_training_slices(tmp_path: Path, data) -> None:
    stage = {"name": "only", "grid_px": 16, "epochs": 2, "batch": 4}
    result = trainer(tiny_recipe(stages=[stage]), tmp_path, data).fit()
    assert len(data[0]) == 18
    assert result.steps == 9


def test_samples_may_be_drawn_more_often_than_figures(tmp_path: Path, data) -> None:
    log = {"every": 50, "validate_every": 4, "samples_every": 2, "validation_slices": 2, "tensorboard": False}
    stage = {"name": "only", "grid_px": 16, "steps": 7, "batch": 1}
    trainer(tiny_recipe(stages=[stage], log=log), tmp_path, data).fit()
    names = sorted(path.name for path in (tmp_path / "samples").glob("*.png"))
    assert names == [f"only-{step:06d}.png" for step in (2, 4, 6, 7)]
    assert [line["step"] for line in lines(tmp_path, "validation")] == [4, 7]


def test_stage_after_the_last_is_none() -> None:
    recipe = tiny_recipe()
    assert stage_of(recipe, Position(stage=1)) is recipe.stages[1]
    assert stage_of(recipe, Position(stage=2)) is None


BARE = """
import sys
for name in ("typer", "rich", "pydantic", "skimage", "SimpleITK", "matplotlib", "safetensors", "cv2", "cc3d", "pydicom",
             "pytorch_wavelets", "pywt", "highdicom", "sqlalchemy", "pandas", "nibabel", "PIL", "lightning_fabric",
             "tensorboard", "torchmetrics", "jinja2"):
    sys.modules[name] = None  # importing it raises ImportError
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import torch
from training_cases import CONTRACT, drawn_case, tiny_recipe
from train import controls, evaluate, export, fit, report  # noqa: F401
from train.data import cache, phantom  # noqa: F401
from train.data.dataset import SliceDataset
from train.devices import open_devices
from train.runlog import progress_bar
from train.trainer import Trainer
data = SliceDataset([drawn_case(1)], CONTRACT)
recipe = tiny_recipe(log={"every": 2, "validate_every": 100, "validation_slices": 2})  # wants TensorBoard, too
with progress_bar("x") as bar:
    print(Trainer(recipe, Path(sys.argv[1]), data, data, open_devices("cpu"), bar).fit().steps)
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
