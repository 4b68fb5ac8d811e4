"""The benchmark of all methods: its table and ratios, what it leaves out, and that it measures what the recipes say.

Left out: the figures themselves (no test asserts a time), CUDA, and full width, which takes hours on a CPU.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest

from benchmarks import methods
from jmmda_model.network.counting import count_parameters
from train.commands.methods import _facts
from train.recipe import generator_settings
from train.registry import BASELINES, build_translator, comparison_options

WIDTH, GRID_PX = 0.125, 32


def _table(text: str) -> dict[str, dict[str, str]]:
    """Rows of the one Markdown table by their first cell, each by the heading's cells."""
    heading, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {row[0]: dict(zip(heading, row, strict=True)) for row in rows}


@pytest.mark.slow
def test_two_methods_in_one_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "figures.json"
    words = ["--methods", "jmmda-compact", "pix2pix", "--width", str(WIDTH), "--grid", str(GRID_PX), "--rounds", "1"]
    methods.main([*words, "--json", str(kept)])
    rows = _table(capfd.readouterr().out)
    assert list(rows) == ["jmmda-compact", "pix2pix"]
    result = json.loads(kept.read_text())
    assert result["reference"] == "jmmda-compact"
    for name, row in rows.items():
        assert tuple(row) == methods.COLUMNS
        figures = result["methods"][name]
        predicted, trained = figures["prediction"], figures["training"]
        assert float(row["parameters, M"]) == pytest.approx(figures["parameters"] / 1e6, abs=5e-4)
        assert float(row["s a series"]) == pytest.approx(predicted["seconds"], abs=5e-4)
        assert float(row["training images/s"]) == pytest.approx(1.0 / trained["seconds"], abs=5e-4)
        assert figures["gmac"] > 0.0
        assert (predicted["batch"], trained["batch"], row["batch"]) == (4, 1, "1")
        # A training step holds weights, gradients, two moments and the average; a prediction the weights alone.
        assert trained["peak_mib"] > 4 * 5 * figures["parameters"] / 2**20
        assert predicted["peak_mib"] > 4 * figures["parameters"] / 2**20
        for phase in ("prediction", "training"):
            ours, theirs = (result["methods"][which][phase]["seconds"] for which in (name, "jmmda-compact"))
            assert figures[phase]["over_jmmda"] == pytest.approx(ours / theirs)

    described = _facts(dataclasses.replace(BASELINES["pix2pix"], options=_options("pix2pix", WIDTH, GRID_PX)))
    assert result["methods"]["pix2pix"]["parameters"] == described["parameters"]
    assert result["methods"]["pix2pix"]["companions"] == sum(described["companions"].values())
    network = build_translator(methods.subject_recipe("jmmda-compact", WIDTH, GRID_PX))
    assert result["methods"]["jmmda-compact"]["parameters"] == count_parameters(network)


def _options(name: str, width: float, grid_px: int) -> object:
    return comparison_options(methods.subject_recipe(name, width, grid_px))


def test_at_full_width_every_method_is_the_one_that_train_methods_lists() -> None:
    assert set(methods.NAMES) == {*methods.JMMDA_RECIPES, *BASELINES}
    for name, entry in BASELINES.items():
        assert _options(name, 1.0, 256) == entry.options, name


@pytest.mark.parametrize(
    ("name", "size", "ngf", "n_down"),
    [("jmmda-base", "base", 64, 3), ("jmmda-compact", "compact", 12, 4)],
)
def test_at_full_width_jmmda_is_that_of_its_recipe(name: str, size: str, ngf: int, n_down: int) -> None:
    recipe = methods.subject_recipe(name, 1.0, 256)
    settings = generator_settings(recipe.generator)
    assert (settings.size, settings.ngf, settings.n_down) == (size, ngf, n_down)
    (stage,) = recipe.stages
    assert (stage.adversarial, stage.precision, stage.batch, stage.grid_px) == (True, "fp32", 1, 256)


def test_what_does_not_fit_is_left_out_with_the_reason() -> None:
    measured, refused = methods.subjects(["unet_l1", "hisgan"], WIDTH, 48)
    assert [subject.name for subject in measured] == ["unet_l1"]
    assert "must be a multiple of 32 for hisgan" in refused["hisgan"]
    task = dataclasses.replace(measured[0].task("training", "cpu", cores=2), needs_mib=2.0**40)
    found = methods.reading(task)
    assert found.reason.startswith("needs about 1073741824.0 GiB, and ")
    assert not found.failed
    measured[0].reasons["training"] = found
    arguments = methods.parsed(["--grid", "48", "--rounds", "1"])
    shown = methods.report(methods.result_of(measured, refused, arguments, 1))
    row = _table(shown)["unet_l1"]
    assert float(row["parameters, M"]) > 0.0
    assert {row[column] for column in methods.COLUMNS[4:]} == {"-"}
    assert "- unet_l1, training: needs about" in shown
    assert "- hisgan: " in shown


@pytest.mark.parametrize(
    ("task", "given", "reason", "failed"),
    [(os._exit, 9, "the kernel ended the process", False), (math.sqrt, -1.0, "failed with ValueError", True)],
)
def test_a_child_that_ends_or_fails_is_a_reason(task, given, reason, failed, monkeypatch) -> None:
    monkeypatch.setattr(methods, "_child", task)
    found = methods.reading_of_child(given)
    assert reason in found.reason
    assert found.failed is failed


def test_the_batch_is_the_smallest_that_a_method_takes(monkeypatch) -> None:
    def seconds(recipe, device, batch: int) -> float:
        if batch < 2:
            raise ValueError("Expected more than 1 value per channel when training, got input size [1, 8, 1, 1]")
        return 3.0

    monkeypatch.setattr(methods, "_step_seconds", seconds)
    assert methods.train_images(None, None) == (1.5, 2)

    def broken(recipe, device, batch: int) -> float:
        raise ValueError("another fault")

    monkeypatch.setattr(methods, "_step_seconds", broken)
    with pytest.raises(ValueError, match="another fault"):
        methods.train_images(None, None)
