"""Budgets, the catalogue of experiments and the paper's figures: what would be trained and what is compared.

Nothing is trained here; processes, stops and the command's journey are in test_experiments_runner.py.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode
from training_cases import CONTRACT, drawn_case

from jmmda_model.network.counting import count_parameters
from train.commands.experiment import NAMES
from train.data.cache import write_case, write_index
from train.experiments.budgets import BUDGETS, ArchiveData, Budget, levels_of, recipe_for
from train.experiments.catalogue import EXPERIMENTS, WAVELETS, all_experiments, all_trainings, experiment
from train.experiments.paper import TABLES
from train.experiments.records import Experiment, Row, TestSet, Training
from train.experiments.rows import METHODS, OURS, PLAIN
from train.recipe import Recipe, generator_settings, load_recipe
from train.registry import build_translator, method_names
from train.state import TrainingError

PAPER_RECIPE = Path(__file__).resolve().parents[2] / "config" / "train" / "paper.toml"
QUICK, FULL = BUDGETS["quick"], BUDGETS["full"]


@functools.cache
def every(budget: Budget) -> dict[str, Experiment]:
    return {one.name: one for one in all_experiments(budget)}


def rows_of(one: Experiment) -> list[Row]:
    return [row for table in one.tables for row in table.rows]


def keys_of(*experiments: Experiment) -> set[str]:
    return {training.key for training in all_trainings(experiments)}


def parameters(recipe: Recipe) -> int:
    with FakeTensorMode():
        return count_parameters(build_translator(recipe))


def write_archive(folder: Path, *centres: str) -> Path:
    """A prepared folder with a drawn case of each centre in each split."""
    write_index(folder, CONTRACT, "nifti")
    for number, (centre, split) in enumerate((c, s) for c in centres for s in ("train", "validation", "test")):
        case = drawn_case(number, centre=centre, split=split)  # type: ignore[arg-type]
        arrays = {name: getattr(case, name) for name in ("hu", "target", "brain", "lesion")}
        write_case(folder / case.facts.patient, case.facts, arrays)
    return folder


# The paper's figures.


def test_the_papers_figures_are_those_of_its_tables(request: pytest.FixtureRequest) -> None:
    file = request.getfixturevalue("shared_data").parent / "paper" / "tables.json"
    if not file.is_file():
        pytest.skip("the transcribed tables are not there")
    names = ("clinical_1", "clinical_2", "train_1_test_2", "train_2_test_1", "mixed", "ablation_clinical_2")
    printed = json.loads(file.read_text(encoding="utf-8"))
    for number, name in enumerate(names, start=2):
        rows = [
            {"method": method, **{k: v for k, v in dataclasses.asdict(row).items() if v is not None}}
            for method, row in TABLES[f"table{number}"].items()
        ]
        assert rows == printed[f"table{number}_{name}"]


def test_the_papers_psnr_fits_a_third_of_its_mse_in_every_row() -> None:
    rows = [row for number in range(2, 8) for row in TABLES[f"table{number}"].values()]
    assert len(rows) == 34
    for row in rows:
        jensen_db = math.log(10.0) * row.psnr_sd**2 / 20.0
        assert row.psnr_db == pytest.approx(-10.0 * math.log10(row.mse / 3.0) + jensen_db, abs=0.4)


# Budgets.


@pytest.mark.parametrize(("grid_px", "levels"), [(512, 4), (256, 4), (128, 3), (96, 3), (64, 2), (32, 1)])
def test_depth_keeps_the_field_of_view_of_the_innermost_map(grid_px: int, levels: int) -> None:
    assert levels_of(grid_px) == levels


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_a_budget_gives_every_method_the_same_data_and_the_same_number_of_images(budget: Budget) -> None:
    recipes = [recipe_for(method, ("A",), budget, 0) for method in method_names()]
    for recipe in recipes:
        (stage,) = recipe.stages
        assert (recipe.data, recipe.input, recipe.augment) == (recipes[0].data, recipes[0].input, recipes[0].augment)
        assert stage.grid_px == budget.grid_px
        if budget.images is not None:
            assert stage.steps is not None
            assert stage.steps * stage.batch == budget.images
        else:
            assert stage.epochs is not None
        if recipe.options:
            assert recipe.options["width"] == budget.width
            assert not recipe.options["mask"]
        assert recipe.to_json() == Recipe.from_json(recipe.to_json()).to_json()


def test_at_the_full_budget_jmmda_is_trained_as_the_recipe_of_the_paper_says() -> None:
    recipe, paper = recipe_for("jmmda", ("A",), FULL, 0), load_recipe(PAPER_RECIPE)
    assert generator_settings(recipe.generator) == generator_settings(paper.generator)
    for name in ("discriminator", "loss", "optimiser", "augment"):
        assert getattr(recipe, name) == getattr(paper, name), name
    assert recipe.stages[0] == dataclasses.replace(paper.stages[0], name="all")
    assert recipe.data.train == paper.data.train


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_the_ablations_base_is_the_pix2pixhd_of_the_comparison(budget: Budget) -> None:
    base = recipe_for("jmmda", ("B",), budget, 0, generator=PLAIN)
    assert parameters(base) == parameters(recipe_for("pix2pixhd", ("B",), budget, 0))


def test_one_network_that_is_asked_for_in_two_ways_is_one_training() -> None:
    plain = Training(recipe_for("jmmda", ("B",), FULL, 0))
    spelt = Training(recipe_for("jmmda", ("B",), FULL, 0, generator={"wavelet": "haar", "heads": 4}))
    other = Training(recipe_for("jmmda", ("B",), FULL, 0, generator={"heads": 2}))
    assert plain.key == spelt.key != other.key


def test_only_what_trains_without_a_discriminator_is_not_adversarial() -> None:
    assert recipe_for("jmmda", ("B",), QUICK, 0).stages[0].adversarial
    loss = {"gan_weight": 0.0, "feature_matching_weight": 0.0}
    assert not recipe_for("jmmda", ("B",), QUICK, 0, loss=loss).stages[0].adversarial


# The catalogue.


def test_the_command_names_every_experiment() -> None:
    assert EXPERIMENTS == NAMES
    assert tuple(every(QUICK)) == NAMES
    with pytest.raises(KeyError):
        experiment("table1", QUICK)


@pytest.mark.parametrize("budget", [QUICK, FULL], ids=["quick", "full"])
def test_tables_are_complete_and_their_names_unique(budget: Budget) -> None:
    keys = [table.key for one in every(budget).values() for table in one.tables]
    assert len(set(keys)) == len(keys)
    for one in every(budget).values():
        for table in one.tables:
            labels = [row.label for row in table.rows]
            assert len(set(labels)) == len(labels), table.key
            assert table.ours in labels
            beside = [row.paper for row in table.rows if row.paper is not None]
            if table.paper:
                assert set(beside) == set(TABLES[table.paper]), "every row of the paper's table has ours beside it"


@pytest.mark.parametrize("budget", [QUICK, FULL], ids=["quick", "full"])
def test_every_row_can_be_scored(budget: Budget) -> None:
    for row in (row for one in every(budget).values() for row in rows_of(one)):
        if row.control is not None:
            assert not row.trainings
            assert row.centres == row.test.centres, "scores of a control are kept by its name alone"
        else:
            assert len(row.trainings) == len(budget.seeds)
        for training in row.trainings:
            assert set(row.test.centres) <= set(training.recipe.data.test)
            assert tuple(training.recipe.data.train) == row.centres
        if row.test.is_oracle:
            assert "oracle" in row.label


def test_experiments_share_their_networks() -> None:
    found = every(QUICK)
    in_centre = keys_of(found["table2"], found["table3"])
    for name in ("table4", "table5", "superpixel", "detection"):
        assert keys_of(found[name]) <= in_centre, name
    assert keys_of(found["robustness"]) <= keys_of(found["table7"])
    full = found["table7"].tables[0]
    assert full.rows[-1].trainings == found["table3"].tables[0].rows[-1].trainings
    assert keys_of(*found.values()) == {training.key for one in found.values() for training in one.trainings()}
    assert len(keys_of(*found.values())) <= 66, "more do not fit in an hour on two cores"


def test_crossing_tests_what_was_trained_on_the_other_centre() -> None:
    for name, trained, tested in (("table4", "A", "B"), ("table5", "B", "A")):
        crossing, drop = every(QUICK)[name].tables
        assert {(row.centres, row.test) for row in crossing.rows} == {((trained,), TestSet((tested,)))}
        assert [row.label for row in crossing.rows] == list(METHODS)
        assert [row.centres for row in drop.rows] == [(tested,), (trained,)]
        assert {row.test for row in drop.rows} == {TestSet((tested,))}


def test_the_rows_of_table_7_differ_in_their_modules_and_its_two_parts_in_the_pixel_loss() -> None:
    full, base = every(QUICK)["table7"].tables
    modules = [("none", False), ("residual_gate", False), ("none", True), ("residual_gate", True)]
    for table in (full, base):
        recipes = [row.trainings[0].recipe for row in table.rows]
        assert [(recipe.generator["mgff"], recipe.generator["mfab"]) for recipe in recipes] == modules
        assert {recipe.loss.pixel for recipe in recipes} == {"robust" if table is full else "none"}
    for ours, theirs in zip(full.rows, base.rows, strict=True):
        a, b = ours.trainings[0].recipe, theirs.trainings[0].recipe
        assert dataclasses.replace(a, loss=b.loss) == b


def test_the_ablations_are_different_networks_and_a9_has_as_many_weights_as_the_whole_one() -> None:
    rows = {row.label.partition(" ")[0]: row for row in rows_of(every(QUICK)["ablation"])}
    assert set(rows) == {"A3", "A4", "A4b", "A4c", "A5", "A6", "A7", "A9"}
    assert len(keys_of(every(QUICK)["ablation"])) == len(rows_of(every(QUICK)["ablation"])) == 11
    wide, whole, plain = (parameters(rows[name].trainings[0].recipe) for name in ("A9", "A3", "A4"))
    assert plain < 0.95 * whole
    assert wide == pytest.approx(whole, rel=0.06)


def test_sensitivity_changes_one_setting_at_a_time_and_says_how_long_it_was_trained() -> None:
    wavelets, heads = every(QUICK)["sensitivity"].tables
    settings = [row.trainings[0].recipe.generator for row in (*wavelets.rows, *heads.rows)]
    assert [(g["wavelet"], g["heads"]) for g in settings] == [
        *((wavelet, 4) for wavelet in WAVELETS),
        *(("haar", number) for number in (1, 2, 4, 8)),
    ]
    assert "0.5 times as long" in wavelets.note
    steps = wavelets.rows[0].trainings[0].recipe.stages[0].steps
    assert steps == rows_of(every(QUICK)["table3"])[-1].trainings[0].recipe.stages[0].steps // 2  # type: ignore[operator]
    assert len(every(FULL)["sensitivity"].tables[2].rows) == 9
    ours = {row.label: row for row in rows_of(every(FULL)["sensitivity"])}["haar, 4 heads"]
    assert ours.trainings == rows_of(every(FULL)["table3"])[-1].trainings


def test_masked_methods_see_the_mask_and_are_otherwise_those_of_the_table() -> None:
    masked = {row.label.removesuffix("+mask"): row for row in every(QUICK)["masks"].tables[0].rows}
    for row in rows_of(every(QUICK)["table3"]):
        given, plain = masked[row.label].trainings[0].recipe, row.trainings[0].recipe
        if row.label == OURS:
            assert given == plain
        else:
            assert given == dataclasses.replace(plain, options={**plain.options, "mask": True})


def test_each_seed_is_a_network() -> None:
    several = dataclasses.replace(QUICK, seeds=(0, 5))
    for row in rows_of(experiment("table2", several)):
        assert [training.recipe.seed for training in row.trainings] == [0, 5]
        assert len({training.key for training in row.trainings}) == 2


def test_the_mark_of_a_budget_that_ranks_nothing() -> None:
    assert QUICK.mark == "pipeline check: no ranking, no p values"
    assert [budget.mark for budget in BUDGETS.values() if budget is not QUICK] == ["", ""]


# Archives.


def test_an_archive_takes_the_place_of_the_phantom(tmp_path: Path) -> None:
    data = ArchiveData.open(write_archive(tmp_path / "archive", "north", "south"), ("south", "north"))
    assert (data.grid_px, data.source) == (CONTRACT.grid_px, "nifti")
    one = experiment("table4", QUICK, data=data)
    assert "trained on centre south, tested on centre north" in one.title
    for row in one.tables[0].rows:
        recipe = row.trainings[0].recipe
        assert (recipe.data.source, recipe.data.folder) == ("prepared", str(data.folder))
        assert (recipe.data.centres_train, row.test.centres) == (("south",), ("north",))
        assert recipe.stages[0].grid_px == CONTRACT.grid_px
        assert not recipe.data.train


@pytest.mark.parametrize(
    ("centres", "reason"),
    [(("north", "north"), "two different centres"), (("north", "west"), "no case of west")],
)
def test_centres_that_an_archive_cannot_give(tmp_path: Path, centres: tuple[str, str], reason: str) -> None:
    folder = write_archive(tmp_path / "archive", "north", "south")
    with pytest.raises(TrainingError, match=reason):
        ArchiveData.open(folder, centres)
    with pytest.raises(TrainingError, match="is no cache"):
        ArchiveData.open(tmp_path, ("north", "south"))
