"""The commands of the training side through Typer: help with examples, exit codes, a whole tiny journey on the phantom.

What the commands call is tested on its own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from train.cli import app

RECIPE = """name = "journey"
description = "test journey"

[data]
train = { A = 1 }
validation = { A = 1 }
test = { A = 1 }
matrix = 64
fov_mm = 230.4
n_slices = 14
slice_mm = 8.0
workers = 1

[generator]
size = "tiny"

[discriminator]
ndf = 4
n_layers = 1
num_scales = 1

[log]
every = 1
validation_slices = 2

[[stages]]
name = "pixel"
grid_px = 32
steps = 2
batch = 2
"""


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("command", ["phantom", "prepare", "references", "fit", "segmenter", "evaluate", "export"])
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"jmmda-node train {command}" in " ".join(result.output.split())


def test_faulty_recipe_is_named_by_line_with_exit_code_2(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE.replace("steps = 2", "steppes = 2"))
    result = run("fit", str(recipe), "--out", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert f"{recipe}:29: stages[0].steppes: unknown key" in result.stderr
    assert run("fit", str(tmp_path / "none.toml"), "--out", str(tmp_path / "run")).exit_code == 2


def test_evaluate_of_nothing_fails_with_a_reason(tmp_path: Path) -> None:
    result = run("evaluate", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "failed:" in result.stderr


def test_journey_from_recipe_to_bundle(tmp_path: Path) -> None:
    recipe, folder = tmp_path / "r.toml", tmp_path / "run"
    recipe.write_text(RECIPE)
    result = run("fit", str(recipe), "--out", str(folder), "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "finished after 2 steps" in result.output
    assert "phantom volumes: 2 of 2" in result.output, "where there is no terminal, progress is told in lines"
    assert re.search(r"pixel \(32 px\) .*: 2 of 2", result.output)

    again = run("fit", str(recipe), "--out", str(folder), "--device", "cpu")
    assert again.exit_code == 1
    assert "resume" in again.stderr
    assert run("fit", str(recipe), "--out", str(folder), "--device", "cpu", "--resume").exit_code == 0

    report = tmp_path / "report.json"
    result = run("evaluate", str(folder), "--out", str(report), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["data"] == "phantom"

    result = run("export", str(folder), "--out", str(tmp_path / "bundle"), "--report", str(report))
    assert result.exit_code == 0, result.output
    assert "phantom" in result.output
    result = run("evaluate", str(tmp_path / "bundle"), "--recipe", str(recipe), "--cache", str(folder / "cache"))
    assert result.exit_code == 0, result.output
    assert "Phantom" in result.output
    assert "polynomial" in result.output


def test_phantom_set_is_written(tmp_path: Path) -> None:
    result = run("phantom", "--out", str(tmp_path / "set"), "--n", "1", "--matrix", "64", "--workers", "1")
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "set").rglob("*.npz"))
