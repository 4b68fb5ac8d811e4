"""``train fit`` from the command line: a phantom run, a prepared folder, the plan of a dry run, and every refusal.

Leaves out the loop itself (test_trainer.py) and processes (test_devices.py, test_training_killed.py).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import typer
from training_cases import CONTRACT, drawn_case
from typer.testing import CliRunner

from jmmda_model.network.counting import count_gmac, count_parameters
from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.generator import build_generator
from train.commands.fit import EPILOG, fit
from train.data.cache import CachedCase, write_case, write_index
from train.dryrun import plan_lines, plan_run
from train.fit import read_run
from train.recipe import discriminator_settings, generator_settings, load_recipe
from train.state import CHECKPOINT_NAME, averaged_weights

app = typer.Typer()
app.command(epilog=EPILOG)(fit)
RUNNER = CliRunner()

PREPARED = """name = "prepared"
description = "for tests"
[data]
source = "prepared"
folder = "FOLDER"
[generator]
size = "tiny"
[discriminator]
ndf = 4
n_layers = 1
num_scales = 1
[log]
tensorboard = false
every = 2
[[stages]]
name = "pixel"
grid_px = 16
epochs = 1
batch = 2
[[stages]]
name = "gan"
grid_px = 32
steps = 3
batch = 2
adversarial = true
"""


def keep(folder: Path, case: CachedCase) -> None:
    arrays = {name: getattr(case, name) for name in ("hu", "target", "brain", "lesion", "clean")}
    write_case(folder / case.facts.patient, case.facts, arrays)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "prepared"
    write_index(folder, CONTRACT, "nifti")
    for seed, split, centre in ((0, "train", "A"), (1, "train", "B"), (2, "validation", "A"), (3, "test", "B")):
        keep(folder, drawn_case(seed, split=split, centre=centre))
    path = tmp_path / "recipe.toml"
    path.write_text(PREPARED.replace("FOLDER", str(folder)), encoding="utf-8")
    return path


def test_prepared_folder_is_trained_on_and_the_run_can_be_read(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = RUNNER.invoke(app, [str(recipe), "--out", str(out), "--device", "cpu", "--seed", "2", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["finished"], result["steps"], result["skipped"]) == (True, 3 + 3, 0)
    assert 0.0 <= result["waiting_share"] <= 1.0
    kept, data = read_run(out)
    assert kept.seed == 2
    assert data.contract == CONTRACT
    assert averaged_weights(out)
    again = RUNNER.invoke(app, [str(recipe), "--out", str(out), "--seed", "2"])
    assert again.exit_code == 1
    assert "holds a run already" in again.stderr
    resumed = RUNNER.invoke(app, [str(recipe), "--out", str(out), "--seed", "2", "--resume"])
    assert resumed.exit_code == 0
    assert "finished after 6 steps" in resumed.stdout
    other = RUNNER.invoke(app, [str(recipe), "--out", str(out), "--seed", "3", "--resume"])
    assert "made from another recipe, which differs in seed;" in other.stderr.replace("\n", " ")


def test_centres_of_a_prepared_folder_can_be_left_out(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text()
    recipe.write_text(text.replace("[generator]", 'centres_train = ["A"]\n[generator]'), encoding="utf-8")
    plan = plan_run(load_recipe(recipe), cache_root=tmp_path, device=torch.device("cpu"))
    assert plan.splits["train"].cases == 1
    recipe.write_text(text.replace("[generator]", 'centres_train = ["Z"]\n[generator]'), encoding="utf-8")
    done = RUNNER.invoke(app, [str(recipe), "--out", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert "Z" in done.stderr
    assert not (tmp_path / "run" / CHECKPOINT_NAME).exists()


def test_dry_run_tells_what_the_networks_really_cost_and_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [str(recipe), "--out", str(out), "--device", "cpu", "--dry-run", "--measure", "--json"]
    done = RUNNER.invoke(app, words)
    assert done.exit_code == 0, done.output
    assert not out.exists()
    plan = json.loads(done.stdout)
    loaded = load_recipe(recipe)
    generator = build_generator(generator_settings(loaded.generator))
    discriminator = build_discriminator(discriminator_settings(loaded))
    assert plan["generator"]["parameters"] == count_parameters(generator)
    gmac = [
        count_gmac(generator, torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 32, 32)),
        count_gmac(discriminator, torch.zeros(1, 4, 32, 32)),
    ]
    pixel, gan = plan["stages"]
    assert gan["gflop_per_image"] == pytest.approx(2 * (3 * gmac[0] + 8 * gmac[1]), rel=1e-6)
    assert (pixel["steps"], pixel["images"], gan["steps"], gan["images"]) == (3, 6, 3, 6)
    assert plan["splits"]["train"] == {"cases": 2, "slices": 6, "lesion_slices": 6, "exact": True}
    assert gan["seconds_per_step"] > 0
    assert plan["minutes"] == pytest.approx(sum(stage["minutes"] for stage in plan["stages"]))
    copies = 5 * count_parameters(generator) + 4 * count_parameters(discriminator)
    assert plan["weights_mib"] == pytest.approx(4 * copies / 2**20)
    assert plan["peak_mib"] > plan["weights_mib"]


def test_dry_run_of_phantoms_that_do_not_exist_yet_says_at_most(tmp_path: Path) -> None:
    quick = load_recipe(Path(__file__).parents[2] / "config" / "train" / "quick.toml")
    plan = plan_run(quick, cache_root=tmp_path, device=torch.device("cpu"), processes=2)
    assert plan.splits["train"].slices == 6 * 24
    assert not plan.splits["train"].exact
    assert plan.minutes is None
    said = dict(plan_lines(plan))
    assert said["expected time"] == "not measured"
    assert "at most 144 slices" in said["data"]
    assert said["device"] == "cpu, 2 processes"
    assert not list(tmp_path.iterdir())


def test_plan_is_printed_as_a_table(recipe: Path) -> None:
    done = RUNNER.invoke(app, [str(recipe), "--dry-run"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    for word in ("pixel", "gan", "GFLOP/image", "GMAC a slice", "train: 2 cases, 6 slices"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (("ndf = 4", "nfd = 4"), 2, "9: discriminator.nfd: unknown key; did you mean ndf?"),
        (("FOLDER", "nowhere"), 1, "is no cache"),
        (("grid_px = 16", "grid_px = 64"), 1, "does not divide 32 pixels"),
    ],
)
def test_refusals_say_why(recipe: Path, tmp_path: Path, change: tuple[str, str], code: int, reason: str) -> None:
    folder = str(tmp_path / "prepared")
    text = recipe.read_text().replace(folder, "FOLDER").replace(*change).replace("FOLDER", folder)
    recipe.write_text(text, encoding="utf-8")
    done = RUNNER.invoke(app, [str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"])
    assert done.exit_code == code
    assert reason in done.stderr.replace("\n", "")


def test_usage_is_checked(recipe: Path, tmp_path: Path) -> None:
    assert RUNNER.invoke(app, [str(recipe)]).exit_code == 2
    assert RUNNER.invoke(app, [str(recipe), "--out", str(tmp_path / "x"), "--measure"]).exit_code == 2
    assert RUNNER.invoke(app, [str(tmp_path / "none.toml"), "--out", str(tmp_path / "x")]).exit_code == 2


def test_set_without_brain_is_refused(recipe: Path, tmp_path: Path) -> None:
    case = drawn_case(0, split="train")
    for patient in ("A-0", "B-1"):
        facts = dataclasses.replace(case.facts, patient=patient, centre=patient[0])
        keep(tmp_path / "prepared", dataclasses.replace(case, facts=facts, brain=case.brain * 0))
    done = RUNNER.invoke(app, [str(recipe), "--out", str(tmp_path / "run")])
    assert done.exit_code == 1
    assert "no slice with brain" in done.stderr.replace("\n", " ")
