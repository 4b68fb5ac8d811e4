"""Recipes: the shipped ones load, and every kind of mistake is reported with file, line, key and reason.

Leaves out what the values do in training (test_trainer.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from train.recipe import Recipe, RecipeError, generator_settings, load_recipe

RECIPES = Path(__file__).parents[2] / "config" / "train"

GOOD = """name = "x"
description = "y"

[data]
train = { A = 2 }
validation = { A = 1 }
test = { A = 1, C = 1 }

[generator]
size = "tiny"

[[stages]]
name = "one"
grid_px = 64
steps = 5

[[stages]]
name = "two"
grid_px = 128
steps = 5
adversarial = true
"""


def faults(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return [str(fault).removeprefix(f"{path}:") for fault in caught.value.faults]


@pytest.mark.parametrize("name", ["compact-phantom.toml", "quick.toml"])
def test_shipped_recipe_loads_and_survives_json(name: str) -> None:
    recipe = load_recipe(RECIPES / name)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.stages[-1].adversarial
    assert not recipe.stages[0].adversarial


def test_shipped_bundle_recipe_is_compact_and_leaves_centre_c_unseen() -> None:
    recipe = load_recipe(RECIPES / "compact-phantom.toml")
    settings = generator_settings(recipe.generator)
    assert (settings.ngf, settings.n_down) == (24, 3)
    assert settings.mask_output
    assert set(recipe.data.train) == {"A", "B"}
    assert "C" in recipe.data.test


def test_good_recipe_has_defaults(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(GOOD, encoding="utf-8")
    recipe = load_recipe(path)
    assert [stage.name for stage in recipe.stages] == ["one", "two"]
    assert recipe.loss.lesion_weight == 4.0
    assert recipe.max_minutes is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps = 5\n\n", "stepps = 5\n\n", "15: stages[0].stepps: unknown key"),
        ('size = "tiny"', 'syze = "tiny"', "10: generator.syze: unknown key"),
        ('size = "tiny"', 'size = "huge"', "9: generator: size must be one of"),
        ("grid_px = 128", 'grid_px = "128"', "19: stages[1].grid_px: must be of type int"),
        ("grid_px = 64", "grid_px = 0", "14: stages[0].grid_px: must be at least 8"),
        ("{ A = 2 }", "{ D = 2 }", "5: data.train: unknown centre D"),
        ("{ A = 2 }", "{ A = -2 }", "5: data.train: number of volumes"),
        ('name = "two"', 'name = "one"', "18: stages[1].name: one is used twice"),
        ('name = "x"\n', "", "1: name: is missing"),
        ("adversarial = true", "adversarial = 1", "21: stages[1].adversarial: must be of type bool"),
        ('description = "y"\n', 'description = "y"\nmax_minutes = true\n', "3: max_minutes: must be of type float"),
    ],
)
def test_fault_names_line_key_and_reason(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = faults(tmp_path, GOOD.replace(old, new, 1))
    assert any(fault.startswith(expected) for fault in found), found


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("steps = 5", "steps = 0", 1) + '\n[loss]\npixel = "cubic"\nscale_c = 0.001\n'
    found = faults(tmp_path, text)
    assert len(found) == 3


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, GOOD.replace("steps = 5", "steps =", 1))
    assert fault.startswith("15: (file): not TOML")


def test_shares_above_one_are_refused_when_time_is_limited(tmp_path: Path) -> None:
    found = faults(tmp_path, GOOD.replace('name = "x"', 'name = "x"\nmax_minutes = 3'))
    assert "add up to 2" in found[0]
