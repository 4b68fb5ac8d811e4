"""``train evaluate`` and ``train segmenter`` at their border: what a wrong call says, and prepared data end to end.

Phantom volumes are not generated here; the report itself is tested in test_evaluate.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from training_cases import CONTRACT, drawn_case, tiny_recipe
from typer.testing import CliRunner

from train.commands.evaluate import evaluate
from train.commands.segmenter import segmenter
from train.data.cache import write_case, write_index
from train.evaluation.cases import EvaluationError, open_cases
from train.recipe import DataRecipe
from train.segmenter import load_segmenter

app = typer.Typer()
app.command()(evaluate)
app.command()(segmenter)
runner = CliRunner()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A prepared folder of drawn cases without clean target: two centres, one without a lesion label."""
    folder = tmp_path_factory.mktemp("prepared")
    write_index(folder, CONTRACT, "nifti")
    for number, (split, centre) in enumerate(
        [("train", "A"), ("train", "A"), ("validation", "A"), ("test", "A"), ("test", "B"), ("test", "B")]
    ):
        case = drawn_case(number, centre=centre, split=split)
        labelled = number != 5
        facts = replace(
            case.facts, source="nifti", lesion_kind=None, hu_drop=None, lesion_ml=20.0 if labelled else None
        )
        arrays = {"hu": case.hu, "target": case.target, "brain": case.brain}
        if labelled:
            arrays["lesion"] = np.asarray(case.lesion)
        write_case(folder / facts.patient, facts, arrays)
    return folder


def test_bundle_without_recipe_and_unknown_bundle_say_what_to_do(tmp_path: Path) -> None:
    assert runner.invoke(app, ["evaluate", str(tmp_path / "nothing")]).exit_code == 1
    result = runner.invoke(app, ["evaluate", "builtin"])
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output


def test_run_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    values = tiny_recipe().to_json()
    values["data"]["shuffle"] = True
    (tmp_path / "recipe.json").write_text(json.dumps(values), encoding="utf-8")
    result = runner.invoke(app, ["evaluate", str(tmp_path)])
    assert result.exit_code == 1
    told = " ".join(result.stderr.split())
    assert "was trained by another version of the program; use that one, or train anew" in told
    assert "data.shuffle: unknown key" in told


def test_prepared_cases_are_opened_by_centre_and_number(prepared) -> None:
    data = DataRecipe(source="prepared", folder=str(prepared))
    found = open_cases(data, CONTRACT, prepared)
    assert (len(found.test), len(found.training), found.trained_centres, found.source) == (3, 2, ("A",), "nifti")
    assert [case.facts.patient for case in open_cases(data, CONTRACT, prepared, centres=["B"]).test] == ["B-4", "B-5"]
    assert len(open_cases(data, CONTRACT, prepared, volumes=1).test) == 2
    with pytest.raises(EvaluationError) as caught:
        open_cases(data, CONTRACT, prepared, centres=["Z"])
    assert caught.value.code == "no_cases"
    with pytest.raises(EvaluationError) as caught:
        open_cases(data, replace(CONTRACT, target_scale=2.0), prepared)
    assert caught.value.code == "contract"
    assert "target_scale" in caught.value.reason


def test_segmenter_is_trained_on_prepared_data_from_the_command_line(tmp_path: Path, prepared, monkeypatch) -> None:
    monkeypatch.setattr("train.recipe.contract_of", lambda _: CONTRACT)  # recipes have no grid of 32 pixels
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=prepared.as_posix()), encoding="utf-8")
    out = tmp_path / "s.safetensors"
    result = runner.invoke(app, ["segmenter", str(recipe), "--out", str(out), "--steps", "2", "--json"])
    assert result.exit_code == 0, result.output
    card = json.loads(result.output)
    assert (card["source"], card["n_cases"], card["steps"]) == ("nifti", 2, 2)
    assert set(card["dice"]) == {"lesion", "brain"}
    assert load_segmenter(out).card.sha256 == card["sha256"]


RECIPE = """
name = "prepared"
description = "for tests"
seed = 0
[data]
source = "prepared"
folder = "{folder}"
[generator]
size = "tiny"
[[stages]]
name = "pixel"
grid_px = 256
steps = 1
batch = 2
learning_rate = 1e-3
"""
