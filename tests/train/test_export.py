"""From a run to a bundle: recalibration, probes of trained and untrained modules, what the card tells.

Saving and loading of bundles themselves are tested with jmmda_model.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import CONTRACT, drawn_case, tiny_recipe

from jmmda_model.bundle import load_bundle
from jmmda_model.network.generator import build_generator
from jmmda_model.network.settings import GeneratorSettings
from train import export as export_module
from train.data.cache import write_case
from train.data.dataset import SliceDataset
from train.data.phantom_cache import cache_folder, case_keys
from train.export import export_run, fit_affine, probe_modules
from train.predict import NetworkPredictor, bundle_predictor, weights_predictor
from train.recipe import Recipe
from train.state import averaged_weights
from train.trainer import Trainer


class Contrasted:
    """Predicts the clean target with too much contrast and a shift."""

    def predict_case(self, case) -> np.ndarray:
        return (1.5 * case.target_slices(clean=True) + 0.2).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A finished tiny run whose cache holds drawn cases."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    recipe = tiny_recipe()
    cache = cache_folder(folder / "cache", recipe.data, CONTRACT)
    splits: dict[str, list] = {"train": [], "validation": [], "test": []}
    for key in case_keys(recipe.data):
        drawn = drawn_case(key.seed, split=key.split)
        splits[key.split].append(drawn)
        cache.mkdir(parents=True, exist_ok=True)
        names = ("hu", "target", "brain", "lesion", "clean")
        arrays = {name: np.asarray(getattr(drawn, name)) for name in names}
        write_case(cache / key.name, dataclasses.replace(drawn.facts, patient=key.name), arrays)
    (folder / "data.json").write_text(json.dumps({"cache": str(cache), "contract": CONTRACT.to_json()}))
    training, validation = (SliceDataset(splits[name], CONTRACT) for name in ("train", "validation"))
    Trainer(recipe, folder, training, validation, torch.device("cpu")).fit()
    torch.set_flush_denormal(False)
    return folder, recipe


def predictor(run: tuple[Path, Recipe]) -> NetworkPredictor:
    network = build_generator(GeneratorSettings.for_size("tiny"))
    return weights_predictor(network, averaged_weights(run[0]), CONTRACT, "test")


def test_affine_takes_contrast_and_shift_back() -> None:
    gain, offset = fit_affine(Contrasted(), [drawn_case(1), drawn_case(2)])
    assert gain == pytest.approx(1 / 1.5, rel=0.02)
    assert offset == pytest.approx(-0.2 / 1.5, abs=0.02)


def test_affine_of_a_constant_prediction_is_refused() -> None:
    class Constant:
        def predict_case(self, case) -> np.ndarray:
            return np.zeros(case.brain.shape, np.float32)

    with pytest.raises(ValueError, match="constant"):
        fit_affine(Constant(), [drawn_case(1)])
    with pytest.raises(ValueError, match="constant"):
        fit_affine(Constant(), [])


def test_untrained_modules_are_seen_as_untrained() -> None:
    torch.manual_seed(0)
    fresh = NetworkPredictor(build_generator(GeneratorSettings.for_size("tiny")), CONTRACT)
    facts = probe_modules(fresh, [drawn_case(1), drawn_case(2)])
    assert facts.mgff_relative_rms == 0.0
    assert max(facts.afw_deviation) == pytest.approx(0.0, abs=1e-7)
    assert facts.ones_mask_change == pytest.approx(0.0, abs=1e-6)


def test_trained_modules_have_moved(run) -> None:
    facts = probe_modules(predictor(run), [drawn_case(1), drawn_case(2)])
    assert facts.mgff_relative_rms > 1e-3
    assert max(facts.afw_deviation) > 1e-5
    assert facts.ones_mask_change > 1e-4
    with pytest.raises(ValueError, match="no validation case"):
        probe_modules(predictor(run), [])


def test_bundle_says_phantom_and_predicts_like_the_run(tmp_path: Path, run) -> None:
    folder, recipe = run
    bundle = export_run(folder, tmp_path / "bundle", name="trial")
    card = load_bundle(tmp_path / "bundle").card
    assert bundle.is_phantom
    assert card.name == "trial"
    assert card.trained
    assert "phantom" in card.training_data
    assert card.metrics["run"]["seed"] == recipe.seed
    assert card.metrics["run"]["steps"] == 7
    assert card.metrics["modules"]["ones_mask_change"] > 0
    assert card.metrics["held_out"]["data"] == "phantom"
    case = drawn_case(5)
    gain, offset = card.output_affine
    brain = np.asarray(case.brain) > 0
    ours = np.clip(predictor(run).predict_case(case) * gain + offset, -1, 1)
    theirs = bundle_predictor(tmp_path / "bundle").predict_case(case)
    np.testing.assert_allclose(theirs[brain], ours[brain], atol=5e-3)  # fp16 weights
    assert (theirs[~brain] == -1).all()


def test_report_goes_on_the_card_with_what_it_misses(tmp_path: Path, run) -> None:
    from train.evaluate import evaluate_cases, groups_of, summarise

    scores = evaluate_cases(predictor(run).predict_case, [drawn_case(8), drawn_case(9)])
    groups = {group: summarise(chosen, resamples=5) for group, chosen in groups_of(scores)}
    report = {"data": "phantom", "conventions": "c", "methods": {"jmmda": groups, "constant_in_mask": groups}}
    card = export_run(run[0], tmp_path / "bundle", report=report).card
    assert set(card.metrics["held_out"]["methods"]) == {"jmmda", "constant_in_mask"}
    assert set(card.metrics["held_out"]["methods"]["constant_in_mask"]) == {"all", "centre A"}
    value = groups["kind spot"]["lesion_auc_per_volume"]["value"]
    assert f"spot {value:.2f} (n = 2)" in card.description
    assert "Not for diagnosis" in card.description


def test_weights_of_an_earlier_stage_can_be_exported(tmp_path: Path, run) -> None:
    newest = export_run(run[0], tmp_path / "a")
    earlier = export_run(run[0], tmp_path / "b", stage="pixel")
    assert newest.card.sha256 != earlier.card.sha256
    assert earlier.card.metrics["run"]["weights"] == "end of stage pixel"
    with pytest.raises(FileNotFoundError):
        export_run(run[0], tmp_path / "c", stage="none")


def test_a_bundle_of_patients_does_not_say_phantom() -> None:
    cases = [
        dataclasses.replace(c, facts=dataclasses.replace(c.facts, source="aisd"))
        for c in (drawn_case(1), drawn_case(2))
    ]
    recipe = tiny_recipe()
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source="prepared", folder="cache"))
    words = export_module.training_words(recipe, cases)
    assert words == "2 paired CT/DWI volumes prepared from aisd (2 of centre A)"
    assert export_module.report_summary(None, "prepared")["data"] == "prepared"
    phantoms = [drawn_case(1), drawn_case(2)]  # prepared from an archive of phantoms: the mark is not lost on the way
    assert export_module.training_words(recipe, phantoms).startswith("digital phantom only, no patient data")
    mixed = export_module.training_words(recipe, [*cases, phantoms[0]])
    assert "aisd, phantom" in mixed


def test_flip_average_is_symmetric(run) -> None:
    even = predictor(run)
    even.flip_average = True
    ct, mask = even.inputs(drawn_case(4), np.array([1, 2]))
    np.testing.assert_allclose(even.raw(ct, mask), even.raw(ct.flip(-1), mask.flip(-1))[..., ::-1], atol=1e-6)


def test_run_words_survive_an_empty_log(tmp_path: Path) -> None:
    words = export_module.run_words(tmp_path, tiny_recipe())
    assert words["minutes"] == 0.0
    assert words["device"] is None
