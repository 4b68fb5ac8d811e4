"""Recipes: the shipped ones load, every option can be set, and every kind of mistake is reported with its place.

Leaves out what the values do in training (test_trainer.py, test_jmmda_method.py).
"""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from jmmda_model.network.settings import GeneratorSettings
from train.recipe import (
    JMMDA,
    AugmentRecipe,
    DataRecipe,
    DiscriminatorRecipe,
    InputRecipe,
    LogRecipe,
    LossRecipe,
    OptimiserRecipe,
    Recipe,
    RecipeError,
    RuntimeRecipe,
    StageRecipe,
    contract_of,
    discriminator_settings,
    generator_settings,
    load_recipe,
    stage_loss,
)

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


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipe_loads_and_survives_json(path: Path) -> None:
    recipe = load_recipe(path)
    assert Recipe.from_json(recipe.to_json()) == recipe
    if recipe.method == JMMDA:
        assert recipe.stages[-1].adversarial
        assert "our reconstruction" in recipe.description


def test_paper_recipe_is_the_paper_s_base() -> None:
    recipe = load_recipe(RECIPES / "paper.toml")
    (stage,) = recipe.stages
    assert (stage.epochs, stage.hold, stage.decay, stage.batch, stage.learning_rate) == (200, 0.5, "linear", 8, 2e-4)
    assert (recipe.optimiser.beta1, recipe.optimiser.beta2, recipe.optimiser.ema_decay) == (0.5, 0.999, 0.0)
    assert contract_of(recipe).windows_hu == ((0.0, 80.0),)
    settings = generator_settings(recipe.generator)
    assert (settings.ngf, settings.n_down, settings.wavelet, settings.heads) == (64, 4, "haar", 4)
    assert recipe.loss.pixel_weight * recipe.loss.scale_c == pytest.approx(50.0)


def test_plus_recipe_shows_the_discriminator_all_that_the_generator_sees() -> None:
    recipe = load_recipe(RECIPES / "plus.toml")
    assert contract_of(recipe).ct_channel_count == 3 + 4 + 1 + 2
    assert discriminator_settings(recipe).in_channels == 10 + 1
    assert not recipe.stages[0].adversarial
    assert recipe.log.selection == "best"


def test_shipped_bundle_recipe_is_compact_and_leaves_centre_c_unseen() -> None:
    recipe = load_recipe(RECIPES / "compact-phantom.toml")
    settings = generator_settings(recipe.generator)
    assert (settings.ngf, settings.n_down) == (12, 4)
    assert recipe.input.mirror
    assert recipe.input.neighbours == 1
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


#: A value other than the default for every option; what belongs together is set together.
OPTIONS: dict[str, dict[str, object]] = {
    "data": {
        "source": "prepared", "folder": "prepared", "centres_train": ["A"], "centres_test": ["B"], "matrix": 128,
        "fov_mm": 200.0, "n_slices": 12, "slice_mm": 4.0, "workers": 3, "balance": "centre", "lesion_share": 0.25,
        "on_device": True,
    },
    "input": {
        "windows_hu": [[0, 80], [20.0, 60.0]], "neighbours": 1, "mirror": True,
        "asymmetry_mm": [8.0, 16.0],
        "context_window_hu": [0, 70], "mask_channels": ["brain"],
    },
    "generator": {
        "size": "tiny", "ngf": 16, "n_down": 3, "n_blocks": 2, "mgff": "spade", "mfab": True, "mfab_paths": "high",
        "wavelet": "db2", "heads": 2, "afw": "mean", "hf_skip": True, "decoder": "resize", "mask_output": False,
        "image_pyramid": True, "unet_skips": True, "heteroscedastic": True,
    },
    "discriminator": {
        "ndf": 8, "n_layers": 2, "num_scales": 1, "spectral_norm": True, "mask": True, "r1_gamma": 1.0, "r1_every": 4,
    },
    "augment": {
        "probability": 0.9, "flip": False, "rotation_deg": 10, "scale": 0.1, "shift": 0.05, "noise_hu": 1.0,
        "offset_hu": 1.0, "gamma": 0.1, "blur_px": 0.5,
    },
    "loss": {
        "pixel": "robust", "alpha": float("-inf"), "scale_c": 0.1, "pixel_weight": 50, "lesion_weight": 2.0,
        "brain_weight": 2.0, "background_weight": 0.1, "normalise": "frame", "gan": "hinge", "gan_weight": 1.0,
        "feature_matching_weight": 10.0, "perceptual": "seg", "perceptual_weight": 1.0, "perceptual_file": "FILE",
        "regional_weight": 3.0, "regional_blocks": 8,
        "wavelet_weight": 10.0, "wavelet_levels": 2, "ms_ssim_weight": 1.0, "gradient_difference_weight": 1.0,
        "lesion_contrast_weight": 1.0, "heteroscedastic": True,
    },
    "optimiser": {
        "beta1": 0.9, "beta2": 0.99, "discriminator_learning_rate": 2e-4, "discriminator_decay": True, "clip_norm": 1.0,
        "ema_decay": 0.99, "weight_decay": 0.01, "fused": False,
    },
    "run": {"channels_last": True, "compile": True},
    "log": {
        "every": 5, "validate_every": 10, "validation_slices": 7, "checkpoint_every": 9, "samples_every": 3,
        "tensorboard": False, "selection": "best",
    },
}  # fmt: skip
STAGE = {
    "name": "one", "grid_px": 128, "steps": 7, "batch": 3, "learning_rate": 1e-3, "decay": "linear", "hold": 0.5,
    "final_rate": 0.1, "warm_up_steps": 3, "time_share": 0.5, "adversarial": True, "precision": "bf16",
    "loss": {"lesion_weight": 2.0, "regional_weight": 30},
}  # fmt: skip
TABLES: dict[str, type] = {
    "data": DataRecipe, "input": InputRecipe, "discriminator": DiscriminatorRecipe, "augment": AugmentRecipe,
    "loss": LossRecipe, "optimiser": OptimiserRecipe, "run": RuntimeRecipe, "log": LogRecipe,
}  # fmt: skip
#: Counted only with the other source of data, instead of ``steps``, or derived from [input].
ELSEWHERE = {"train", "validation", "test", "epochs", "in_channels"}


def as_toml(table: dict[str, object]) -> str:
    def value(item: object) -> str:
        if isinstance(item, dict):
            return "{ " + ", ".join(f"{key} = {value(inner)}" for key, inner in item.items()) + " }"
        return repr(item).lower() if isinstance(item, bool) else repr(item).replace("'", '"')

    return "".join(f"{key} = {value(item)}\n" for key, item in table.items())


def test_the_grid_of_phantoms_can_be_coarser_over_the_same_field_of_view(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    coarse = GOOD.replace("[generator]", "[input]\ngrid_px = 64\n[generator]").replace("grid_px = 128", "grid_px = 64")
    path.write_text(coarse, encoding="utf-8")
    contract = contract_of(load_recipe(path))
    assert contract.grid_px == 64
    assert contract.grid_px * contract.grid_spacing_mm == pytest.approx(256 * 0.9)
    prepared = re.sub(r"(?s)\[data\].*?\n\[", '[data]\nsource = "prepared"\nfolder = "x"\n[', coarse, count=1)
    assert any("input.grid_px: belongs to source = phantom" in fault for fault in faults(tmp_path, prepared))


def test_every_option_is_reachable_from_a_file(tmp_path: Path) -> None:
    """Walk all fields of all tables: each is set to a value other than its default and arrives."""
    (tmp_path / "network.safetensors").write_bytes(b"")
    options = {name: dict(table) for name, table in OPTIONS.items()}
    options["loss"]["perceptual_file"] = str(tmp_path / "network.safetensors")
    text = 'name = "all"\ndescription = "d"\nmethod = "jmmda"\nseed = 4\nmax_minutes = 3.5\n'
    text += "".join(f"[{name}]\n{as_toml(table)}" for name, table in options.items())
    path = tmp_path / "r.toml"
    path.write_text(text + f"[[stages]]\n{as_toml(STAGE)}", encoding="utf-8")
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.max_minutes, recipe.method) == (4, 3.5, "jmmda")
    for name, kind in TABLES.items():
        usual = kind()
        for item in dataclasses.fields(kind):
            if item.name not in ELSEWHERE and (name, item.name) != ("input", "grid_px"):
                assert item.name in options[name], f"{name}.{item.name} is not walked"
                assert getattr(getattr(recipe, name), item.name) != getattr(usual, item.name), f"{name}.{item.name}"
    assert {item.name for item in dataclasses.fields(StageRecipe)} - ELSEWHERE == set(STAGE)
    assert all(getattr(recipe.stages[0], name) == value for name, value in STAGE.items())
    settings = generator_settings(recipe.generator)
    walked = set(options["generator"]) | {"mask_channels"}
    assert {item.name for item in dataclasses.fields(GeneratorSettings)} - ELSEWHERE == walked
    assert all(getattr(settings, name) == value for name, value in options["generator"].items())
    assert (settings.in_channels, settings.mask_channels) == (2 + 2 + 1 + 2, 1)


def test_a_stage_may_weigh_the_loss_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(GOOD.replace("steps = 5", "steps = 5\nloss = { lesion_weight = 6, regional_weight = 30.0 }", 1))
    recipe = load_recipe(path)
    first, second = (stage_loss(recipe, stage) for stage in recipe.stages)
    assert (first.lesion_weight, first.regional_weight) == (6.0, 30.0)
    assert second == recipe.loss
    assert dataclasses.replace(first, lesion_weight=4.0, regional_weight=0.0) == recipe.loss


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("{ lesion_wieght = 6 }", "is no weight of [loss]; did you mean lesion_weight"),
        ("{ scale_c = 0.3 }", "is no weight of [loss]"),
        ("{ lesion_weight = -1 }", "at least 0"),
        ("{ lesion_weight = true }", "must be a finite number"),
        ("{ pixel_weight = 0 }", "no term of [loss] steers"),
    ],
)
def test_faulty_weights_of_a_stage_are_named(tmp_path: Path, table: str, reason: str) -> None:
    found = faults(tmp_path, GOOD.replace("steps = 5", f"steps = 5\nloss = {table}", 1))
    assert any(reason in fault and "stages[0]" in fault for fault in found), found


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        ("wavelet_weight = 1.0\nwavelet_levels = 6", "must be a multiple of 64 for the wavelet term"),
        ("regional_weight = 1.0\nregional_blocks = 64", "must be at least 128 for the regional term"),
        ("ms_ssim_weight = 1.0", "for the MS-SSIM term"),
        ('pixel = "adaptive"\nalpha = 2.0', "the adaptive loss starts at an alpha between"),
    ],
)
def test_terms_that_a_stage_or_a_start_cannot_have_are_named(tmp_path: Path, loss: str, reason: str) -> None:
    text = GOOD.replace("grid_px = 64", "grid_px = 32")
    found = faults(tmp_path, f"{text}\n[loss]\n{loss}\n")
    assert any(reason in fault for fault in found), found


def test_every_named_choice_of_a_table_is_accepted(tmp_path: Path) -> None:
    for table, kind in (("augment", AugmentRecipe), ("loss", LossRecipe), ("log", LogRecipe)):
        for name, hint in typing.get_type_hints(kind).items():
            for choice in typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ():
                if name == "perceptual" and choice != "none":
                    continue  # these need a file or an adversarial weight, see the tests of contradictions
                path = tmp_path / "r.toml"
                path.write_text(f'{GOOD}[{table}]\n{name} = "{choice}"\nWAVELET', encoding="utf-8")
                path.write_text(path.read_text().replace("WAVELET", "wavelet_weight = 1.0" if name == "pixel" else ""))
                assert getattr(getattr(load_recipe(path), table), name) == choice


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("[loss]\nlesion_wieght = 4\n", "23: loss.lesion_wieght: unknown key; did you mean lesion_weight?"),
        ("[input]\nwindows_hu = [[80, 0]]\n", "22: input: every CT window needs an upper bound"),
        ("[input]\nwindows_hu = [[0, 80, 90]]\n", "23: input.windows_hu[0]: must have 2 values"),
        ('[input]\nmask_channels = ["skull"]\n', "22: input: mask channels lack 'brain'"),
        ('[loss]\nperceptual = "vgg"\nperceptual_weight = 1\n', "22: loss.perceptual_file: is missing"),
        ('[loss]\nperceptual = "disc"\nperceptual_weight = 1\n', "22: loss.feature_matching_weight: must be 0"),
        ('[loss]\nperceptual_file = "x"\n', "23: loss.perceptual_file: is only read with"),
        ('[loss]\npixel = "none"\n', "12: stages[0]: no term of [loss] steers"),
        ("[loss]\nalpha = nan\n", "23: loss.alpha: must be a finite number"),
        ("[loss]\npixel_weight = inf\n", "23: loss.pixel_weight: must be a finite number"),
        ("[loss]\nheteroscedastic = true\n", "23: loss.heteroscedastic: must be set in [generator] and [loss]"),
    ],
)
def test_contradiction_names_its_place(tmp_path: Path, more: str, expected: str) -> None:
    found = faults(tmp_path, GOOD + more)
    assert any(fault.startswith(expected) for fault in found), found


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("grid_px = 64", "grid_px = 96", "14: stages[0].grid_px: must divide the grid of 256"),
        ('size = "tiny"', 'size = "tiny"\nin_channels = 5', "11: generator.in_channels: [input] makes 3 channels"),
        ("steps = 5\n\n", "steps = 5\nepochs = 2\n\n", "15: stages[0].steps: and epochs exclude each other"),
        ("steps = 5\n\n", "\n", "12: stages[0].steps: is missing"),
        ("train = { A = 2 }", 'source = "prepared"', "4: data.folder: is missing"),
        ("train = { A = 2 }", 'train = { A = 2 }\nfolder = "x"', "6: data.folder: belongs to source = prepared"),
        ("train = { A = 2 }\n", "", "4: data.train: is missing"),
        ("train = { A = 2 }", "train = { A = 0 }", "5: data.train: must name some volumes"),
    ],
)
def test_contradiction_of_single_keys_names_its_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = faults(tmp_path, GOOD.replace(old, new, 1))
    assert any(fault.startswith(expected) for fault in found), found


def test_file_that_is_not_utf8_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b'name = "\xff"\n')
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "r.toml")


def test_lines_are_right_after_a_text_of_several_lines(tmp_path: Path) -> None:
    text = GOOD.replace('description = "y"', 'description = """\nname = 1\n[loss]\n"""')
    found = faults(tmp_path, text.replace("steps = 5", "steps = 0", 1))
    assert found == ["18: stages[0].steps: must be at least 1"]
