"""Damage to test volumes, scores of networks and controls against by-hand values, and their store.

Networks of two steps on drawn volumes: what they score is meaningless, that it is scored right is the point. Leaves out
single metrics (test_evaluation_scoring.py), superpixels themselves (test_superpixels.py) and phantoms that look alive.
"""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from training_cases import CONTRACT, drawn_case

from jmmda_model.imaging.symmetry import mirror_slices
from train.controls import fit_controls
from train.data.cache import CachedCase, encode_hu, encode_target, write_case, write_index
from train.data.phantom_cache import cache_folder, case_keys
from train.evaluate import open_subject
from train.evaluation.cases import EvaluationError
from train.evaluation.lesions import fit_bright_level
from train.evaluation.methods import evaluate_cases
from train.evaluation.summary import summarise
from train.evaluation.superpixels import CaseSuperpixels
from train.experiments import store
from train.experiments.perturb import brain_of_dwi, moved, noisy, seen_case, with_mask
from train.experiments.records import Experiment, Row, Scores, Table, TestSet, Training
from train.experiments.scoring import control_key, example_cases, open_bench, score_control, score_training
from train.experiments.store import is_finished, load_scores, save_scores, score_all
from train.experiments.tables import gather, grids
from train.fit import fit_recipe
from train.metrics import to_unit
from train.recipe import Recipe, contract_of, parse_recipe
from train.registry import BASELINES
from train.state import CHECKPOINT_NAME

GRID_PX, SPACING_MM = 64, 3.6
CONTRACT64 = replace(
    CONTRACT, grid_px=GRID_PX, grid_spacing_mm=SPACING_MM, windows_hu=((0.0, 80.0),), mask_channels=("brain",)
)
ROWS, COLUMNS = np.mgrid[:GRID_PX, :GRID_PX] - (GRID_PX - 1) / 2
PLAIN = TestSet(("A",))
ARRAYS = ("hu", "target", "brain", "lesion", "clean")


def large_case(seed: int, **changes: object) -> CachedCase:
    """A drawn case of 64 pixels: large enough for superpixels."""
    case = drawn_case(seed, **changes)  # type: ignore[arg-type]
    return replace(case, **{name: getattr(case, name).repeat(2, axis=1).repeat(2, axis=2) for name in ARRAYS})


def disc(radius: float, row: float = 0.0, column: float = 0.0) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 < radius**2


# Damage


def test_noise_has_its_strength_and_is_the_patients_own() -> None:
    case = large_case(1)
    weak, strong = (noisy(case, sd).hu_slices() - case.hu_slices() for sd in (2.0, 4.0))
    inside = np.asarray(case.brain) > 0
    assert weak[inside].std() == pytest.approx(2.0, rel=0.05)
    assert abs(weak[inside].mean()) < 0.1
    np.testing.assert_allclose(strong[inside], 2.0 * weak[inside], atol=0.1)
    other = replace(case, facts=replace(case.facts, patient="A-2"))
    assert abs(np.corrcoef(weak[inside], (noisy(other, 2.0).hu_slices() - case.hu_slices())[inside])[0, 1]) < 0.05
    for name in ("target", "brain", "lesion", "clean", "facts"):
        assert getattr(noisy(case, 2.0), name) is getattr(case, name)
    assert noisy(case, 0.0) is case


def test_a_moved_ct_is_shifted_and_turned_by_what_was_asked_and_its_line_with_it() -> None:
    spot, brain = disc(3.0, -10.0, 6.0), disc(20.0)
    case = large_case(3, n_slices=2)
    hu = encode_hu(np.stack([30.0 + 30.0 * spot] * 2))
    case = replace(case, hu=hu, brain=np.stack([brain] * 2).astype(np.uint8))

    shifted = moved(case, 7.2, 0.0, SPACING_MM)
    centre = np.array(ndimage.center_of_mass(shifted.brain[0])) - (GRID_PX - 1) / 2
    assert math.hypot(*centre) == pytest.approx(2.0, abs=0.15)
    assert (shifted.hu_slices() == -1024.0).any(), "air comes in from outside"

    turned = moved(case, 0.0, 10.0, SPACING_MM)
    before, after = (
        np.array(ndimage.center_of_mass(np.clip(c.hu_slices(0) - 30.0, 0.0, 30.0))) - (GRID_PX - 1) / 2
        for c in (case, turned)
    )
    angles = [math.degrees(math.atan2(row, column)) for row, column in (before, after)]
    assert abs(angles[1] - angles[0]) == pytest.approx(10.0, abs=0.3)
    assert math.degrees(turned.facts.symmetry[0]) == pytest.approx(angles[1] - angles[0], abs=0.3)

    for name in ("target", "lesion", "clean"):
        assert getattr(turned, name) is getattr(case, name)
    assert moved(case, 0.0, 0.0, SPACING_MM) is case
    again = moved(case, 7.2, 10.0, SPACING_MM)
    np.testing.assert_array_equal(again.hu, moved(case, 7.2, 10.0, SPACING_MM).hu)


def test_a_symmetric_head_stays_symmetric_about_its_moved_line() -> None:
    line = (math.radians(8.0), 1.0)
    image = 30.0 + 20.0 * np.exp(-((ROWS + 6) ** 2 + (COLUMNS - 9) ** 2) / 50.0) + 0.3 * ROWS
    image = (image + mirror_slices(image[None], line)[0]) / 2.0
    case = large_case(4, n_slices=2)
    case = replace(
        case,
        facts=replace(case.facts, symmetry=line),
        hu=encode_hu(np.stack([image] * 2)),
        brain=np.stack([disc(18.0)] * 2).astype(np.uint8),
    )
    away = moved(case, 7.2, 9.0, SPACING_MM)
    middle = disc(8.0)
    hu = away.hu_slices()
    assert np.abs(mirror_slices(hu, away.facts.symmetry) - hu)[:, middle].max() < 0.3
    assert np.abs(mirror_slices(hu, line) - hu)[:, middle].max() > 2.0


def test_masks_of_every_source() -> None:
    case = large_case(5)
    brain = np.asarray(case.brain) > 0
    assert with_mask(case, "ct", SPACING_MM) is case
    assert not with_mask(case, "zeros", SPACING_MM).brain.any()
    np.testing.assert_array_equal(with_mask(case, "lesion", SPACING_MM).brain, case.lesion)
    dilated = with_mask(case, "dilated", SPACING_MM).brain > 0
    assert not dilated[0].any(), "a slice without brain has nothing to grow"
    to_brain_mm = SPACING_MM * (ndimage.distance_transform_edt(~brain[1]) - 0.5)
    np.testing.assert_array_equal(dilated[1], brain[1] | (to_brain_mm <= 5.0))
    assert (dilated & ~brain).any()
    for source in ("zeros", "dilated", "lesion", "brain_of_dwi"):
        given = with_mask(case, source, SPACING_MM)  # type: ignore[arg-type]
        assert (given.hu is case.hu, given.target is case.target, given.facts) == (True, True, case.facts)
    with pytest.raises(ValueError, match="no lesion label"):
        with_mask(replace(case, lesion=None), "lesion", SPACING_MM)


def test_brain_of_the_dwi_ignores_a_dark_rim_and_closes_ventricles_and_sulci() -> None:
    ventricle = disc(5.0, 3.0, 2.0)
    sulcus = (np.abs(COLUMNS) < 1.2) & (ROWS < -9.0)
    bright = disc(18.0) & ~ventricle & ~sulcus
    value = np.where(disc(23.0), np.where(bright, -1.0 / 3.0, -0.9), -1.0)
    case = large_case(6, n_slices=2)
    case = replace(case, target=encode_target(np.stack([value, np.full_like(value, -1.0)])))
    found = brain_of_dwi(case, SPACING_MM)
    assert found[0][disc(15.0)].all()
    assert found[0][bright].all()
    assert not found[0][~disc(18.5)].any()
    assert not found[1].any()


# Scores


def recipe_of(folder: Path, centre: str = "A", seed: int = 0) -> Recipe:
    entry = BASELINES["unet_l1"]
    options = entry.method.adapted(replace(entry.options, width=0.125, mask=True), GRID_PX)
    values = {
        "name": "scores",
        "description": "for tests",
        "method": "unet_l1",
        "seed": seed,
        "data": {"source": "prepared", "folder": str(folder), "centres_train": [centre]},
        "input": {"windows_hu": [[0.0, 80.0]], "mask_channels": ["brain"]},
        "options": asdict(options),
        "log": {"every": 1, "validate_every": 100, "validation_slices": 2, "tensorboard": False},
        "stages": [{"name": "all", "grid_px": GRID_PX, "steps": 2, "batch": 2, "learning_rate": 1e-3}],
    }
    return parse_recipe(values, "test")


@pytest.fixture(scope="module")
def cases() -> dict[str, list[CachedCase]]:
    return {
        "train": [large_case(0), large_case(1, centre="B"), large_case(8)],
        "validation": [large_case(2, split="validation"), large_case(7, split="validation", centre="B")],
        "test": [
            large_case(3, split="test"),
            large_case(4, split="test", lesion=False),
            large_case(5, split="test", centre="B"),
        ],
    }


@pytest.fixture(scope="module")
def folder(cases: dict[str, list[CachedCase]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder and, in ``out/runs``, two finished networks: one of centre A and one of centre B."""
    root = tmp_path_factory.mktemp("scores")
    write_index(root / "prepared", CONTRACT64, "nifti")
    for case in (case for split in cases.values() for case in split):
        write_case(root / "prepared" / case.facts.patient, case.facts, {name: getattr(case, name) for name in ARRAYS})
    for centre in "AB":
        recipe = recipe_of(root / "prepared", centre)
        fit_recipe(recipe, root / "out" / "runs" / Training(recipe).key, device="cpu", show_progress=False)
    return root


@pytest.fixture(scope="module")
def training(folder: Path) -> Training:
    return Training(recipe_of(folder / "prepared"))


def run_of(folder: Path, training: Training) -> Path:
    return folder / "out" / "runs" / training.key


class Told:
    """A progress display that keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.notes: list[str] = []

    def update(self, done: int, total: int, text: str) -> None:
        self.seen.append((done, total))

    def note(self, line: str) -> None:
        self.notes.append(line)


def score(folder: Path, training: Training, test: TestSet = PLAIN) -> Scores:
    return score_training(training, test, run=run_of(folder, training), cache_root=folder / "unused")


def brain_errors(cases: list[CachedCase], images: list[np.ndarray]) -> list[float]:
    """Mean squared error in the brain of every slice with brain, by hand."""
    return [
        float(((to_unit(image[row]) - to_unit(case.target_slices(row)))[case.brain[row] > 0] ** 2).mean())
        for case, image in zip(cases, images, strict=True)
        for row in range(1, len(image))
    ]


def test_scores_of_a_run_are_those_of_its_predictor(
    folder: Path, training: Training, cases: dict[str, list[CachedCase]]
) -> None:
    found = score(folder, training)
    test = [case for case in cases["test"] if case.facts.centre == "A"]
    predictor = open_subject(str(run_of(folder, training))).predictor
    images = [predictor.predict_case(case) for case in test]
    level = fit_bright_level([case for case in cases["train"] if case.facts.centre == "A"])
    volumes = evaluate_cases(predictor.predict_case, test, spacing_mm=SPACING_MM, bright_level=level)

    assert found.key == training.key
    assert found.patients == ("A/A-3",) * 3 + ("A/A-4",) * 3
    assert found.slices.tolist() == [1, 2, 3] * 2
    np.testing.assert_allclose(found.values["brain.mse"], brain_errors(test, images), rtol=1e-5)
    np.testing.assert_allclose(found.values["brain.psnr_db"], -10 * np.log10(found.values["brain.mse"]), rtol=1e-9)
    clean = np.concatenate([volume.against["dwi_clean"]["frame"].metric("ssim") for volume in volumes])
    np.testing.assert_array_equal(found.values["clean.frame.ssim"], clean)
    assert np.isnan(found.values["lesion.mae"]).tolist() == [False] * 3 + [True] * 3
    figures = summarise(volumes)
    assert {name: found.summary[name] for name in figures} == figures
    assert found.summary["detection"]["bright"]["rate"]["lesion > 10 ml"]["lesions"] == 1

    superpixels = CaseSuperpixels(test[0], 50).score(images[0])
    np.testing.assert_array_equal(found.values["superpixel.r"][:3], superpixels.metrics["r"])
    assert np.isfinite(found.values["superpixel.r"]).all()
    assert found.summary["superpixels"]["segments"] == 50
    np.testing.assert_array_equal(found.superpixels[: len(superpixels.measured), 1], superpixels.synthetic)

    shown = found.pictures["A/A-3"]
    assert list(found.pictures) == ["A/A-3"], "the only test volume of A with a lesion"
    assert (shown.shape, shown.dtype) == ((4, GRID_PX, GRID_PX), np.uint8)
    row = int(np.argmax(np.count_nonzero(test[0].lesion, axis=(1, 2))))
    for plane, expected in (
        (0, np.clip(test[0].hu_slices(row) / 80.0, 0.0, 1.0)),
        (1, to_unit(test[0].target_slices(row))),
        (2, to_unit(images[0][row])),
        (3, test[0].lesion_slices(row)),
    ):
        np.testing.assert_allclose(shown[plane], expected * 255.0, atol=0.51)


def test_another_mask_changes_the_mask_channels_alone_and_the_ct_still_cuts_the_output(
    folder: Path, training: Training, cases: dict[str, list[CachedCase]]
) -> None:
    predictor = open_subject(str(run_of(folder, training))).predictor
    test = [case for case in cases["test"] if case.facts.centre == "A"]
    rows = np.arange(1, 4)
    for source in ("zeros", "dilated"):
        images = []
        for case in test:
            ct, own = predictor.inputs(case, rows)  # type: ignore[attr-defined]
            given = torch.zeros_like(own)
            if source == "dilated":
                given = torch.from_numpy(with_mask(case, "dilated", SPACING_MM).brain[rows, None]).float()
            raw = predictor.raw(ct, given)  # type: ignore[attr-defined]
            images.append(np.where(case.brain > 0, np.concatenate([raw[:1], raw]), -1.0))
        found = score(folder, training, replace(PLAIN, mask=source))  # type: ignore[arg-type]
        np.testing.assert_allclose(found.values["brain.mse"], brain_errors(test, images), rtol=1e-4)
        np.testing.assert_allclose(
            found.values["frame.mse"], found.values["brain.mse"] * (test[0].brain[1] > 0).mean(), rtol=1e-4
        )
        assert not np.allclose(found.values["brain.mse"], score(folder, training).values["brain.mse"], rtol=1e-3)


def test_a_moved_and_noisy_ct_is_predicted_from_and_the_truth_stays(
    folder: Path, training: Training, cases: dict[str, list[CachedCase]]
) -> None:
    damaged = TestSet(("A",), noise_hu=3.0, shift_mm=7.2, rotation_deg=5.0)
    test = [case for case in cases["test"] if case.facts.centre == "A"]
    predictor = open_subject(str(run_of(folder, training))).predictor
    seen = [noisy(moved(case, 7.2, 5.0, SPACING_MM), 3.0) for case in test]
    found, plain = score(folder, training, damaged), score(folder, training)
    images = [predictor.predict_case(case) for case in seen]
    np.testing.assert_allclose(found.values["brain.mse"], brain_errors(test, images), rtol=1e-5)
    assert (found.patients, found.slices.tolist()) == (plain.patients, plain.slices.tolist())
    assert not np.array_equal(found.pictures["A/A-3"][0], plain.pictures["A/A-3"][0])
    np.testing.assert_array_equal(found.pictures["A/A-3"][1], plain.pictures["A/A-3"][1])
    np.testing.assert_array_equal(seen_case(test[0], damaged, SPACING_MM).hu, seen[0].hu)


def test_controls_and_the_measured_dwi(folder: Path, training: Training, cases: dict[str, list[CachedCase]]) -> None:
    recipe, unused = training.recipe, folder / "unused"
    measured = score_control("measured_dwi", recipe, replace(PLAIN, shift_mm=7.2), unused)
    assert (measured.values["frame.mse"] == 0.0).all()
    np.testing.assert_allclose(measured.values["superpixel.r"], 1.0)
    assert measured.summary["lesion_auc_pooled"]["value"] > 0.99

    mean = fit_controls([case for case in cases["train"] if case.facts.centre == "A"], CONTRACT64)["constant_in_mask"]
    found = score_control("constant_in_mask", recipe, TestSet(("A", "B")), unused)
    test = cases["test"]
    images = [np.where(case.brain > 0, mean.mean, -1.0) for case in test]  # type: ignore[attr-defined]
    np.testing.assert_allclose(found.values["brain.mse"], brain_errors(test, images), rtol=1e-4)
    assert set(found.patients) == {"A/A-3", "A/A-4", "B/B-5"}
    other = score_control("constant_in_mask", recipe_of(folder / "prepared", "B"), TestSet(("A", "B")), unused)
    assert other.key != found.key
    assert not np.array_equal(other.values["brain.mse"], found.values["brain.mse"])

    blind = score_control("constant_in_mask", recipe, replace(PLAIN, mask="zeros"), unused)
    black = [np.full(case.brain.shape, -1.0) for case in test[:2]]
    np.testing.assert_allclose(blind.values["brain.mse"], brain_errors(test[:2], black), rtol=1e-5)
    wide = score_control("constant_in_mask", recipe, replace(PLAIN, mask="dilated"), unused)
    np.testing.assert_array_equal(wide.values["frame.mse"], found.values["frame.mse"][:6])
    with pytest.raises(ValueError, match="no control magic: choose of measured_dwi, hu_polynomial"):
        score_control("magic", recipe, PLAIN, unused)


def phantom_recipe(**test: int) -> Recipe:
    values = {
        "name": "phantom",
        "description": "for tests",
        "data": {"train": {"A": 1}, "validation": {"A": 1}, "test": test},
        "input": {"grid_px": 32},
        "generator": {"size": "tiny"},
        "stages": [{"name": "all", "grid_px": 32, "steps": 2}],
    }
    return parse_recipe(values, "test")


@pytest.fixture
def phantoms(tmp_path: Path) -> Path:
    """A cache of drawn cases in the place of the phantoms of centre A and of two of centre B."""
    recipe = phantom_recipe(A=2, B=2)
    cache = cache_folder(tmp_path, recipe.data, contract_of(recipe))
    for number, key in enumerate(case_keys(recipe.data)):
        case = drawn_case(number, centre=key.centre, split=key.split)
        facts = replace(case.facts, patient=key.name)
        write_case(cache / key.name, facts, {name: getattr(case, name) for name in ARRAYS})
    return tmp_path


def test_phantoms_of_the_centres_asked_for_and_a_grid_too_coarse_for_superpixels(phantoms: Path) -> None:
    recipe = phantom_recipe(A=2, B=1)
    found = score_control("mean_image", recipe, TestSet(("B",)), phantoms)
    assert set(found.patients) == {"B/B-31000000"}
    assert found.summary["asked"] == {"B": 1}
    assert found.summary["data"] == "phantom"
    assert np.isnan(found.values["superpixel.r"]).all()
    assert "too large" in found.summary["superpixels"]["left_out"]
    assert found.superpixels.shape == (0, 2)
    with pytest.raises(EvaluationError, match="no test volume of C"):
        score_control("mean_image", recipe, TestSet(("B", "C")), phantoms)


def test_scores_are_made_again_when_more_test_volumes_are_asked_for(phantoms: Path) -> None:
    patients = []
    for recipe in (phantom_recipe(B=1), phantom_recipe(B=1), phantom_recipe(A=1, B=2)):
        rows = (
            Row("ours", (Training(recipe),), TestSet(("B",))),
            Row("mean", (), TestSet(("B",)), control="mean_image", centres=("A",)),
            Row("untested", (), TestSet(("C",)), control="mean_image", centres=("A",)),
            Row("unknown", (), TestSet(("B",)), control="magic", centres=("A",)),
        )
        told = Told()
        experiment = Experiment("e", "E", (Table("t", "T", rows, "ours"),))
        book = score_all([experiment], phantoms / "out", phantoms, progress=told)
        assert set(book.missing) == {(Training(recipe).key, "B"), ("mean_image@A", "C"), ("magic@A", "B")}
        assert set(book) == {("mean_image", "B"), ("mean_image@A", "B")}
        patients.append((told.seen[0][0], len(set(book["mean_image", "B"].patients))))
    assert patients == [(0, 1), (1, 1), (0, 2)]


def test_a_control_that_fails_has_its_reason_below_the_table_and_borrows_no_other_ones_scores(phantoms: Path) -> None:
    recipe = phantom_recipe(A=2, B=1)
    test = TestSet(("B",))
    rows = (
        Row("ours", (Training(recipe),), test),
        Row("mean of A", (), test, control="mean_image", centres=("A",)),
        Row("mean of C", (), test, control="mean_image", centres=("C",)),
        Row("unknown", (), test, control="magic", centres=("A",)),
    )
    table = Table("t", "T", rows, "ours")
    book = score_all([Experiment("e", "E", (table,))], phantoms / "out", phantoms)
    assert ("mean_image", "B") in book, "there is one of that name, of another centre"
    scored = gather(table, book, data="Phantom", mark="check")
    assert [len(row.scores) for row in scored.rows] == [0, 1, 0, 0]
    for grid in grids(scored):
        assert [row[0] for row in grid.rows] == ["ours †", "mean of A", "mean of C †", "unknown †"]
        (note,) = [note for note in grid.notes if note.startswith("†")]
        assert "ours (the network was not trained to its end)" in note
        assert "mean of C (no network of these experiments is trained on its centres" in note
        assert "unknown (there is no control magic: choose of measured_dwi" in note


def test_without_scikit_image_superpixels_are_left_out_with_a_note(
    folder: Path, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_bench.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    found = score_control("measured_dwi", training.recipe, PLAIN, folder / "unused")
    assert np.isnan(found.values["superpixel.r"]).all()
    assert "pip install 'jmmda-node[train]'" in found.summary["superpixels"]["left_out"]
    assert (found.values["brain.mse"] == 0.0).all()


def test_examples_are_small_middle_and_large_lesions_whatever_was_predicted() -> None:
    sizes = (5.0, None, 90.0, 0.0, 30.0, 1.0, 60.0)
    cases = [replace(c := drawn_case(n), facts=replace(c.facts, lesion_ml=ml)) for n, ml in enumerate(sizes)]
    assert example_cases(cases, 3) == {5, 4, 2}
    assert example_cases(cases, 1) == {4}
    assert example_cases(cases, 50) == {0, 2, 4, 5, 6}
    assert example_cases(cases[3:4], 3) == {0}
    assert example_cases(cases, 0) == frozenset()


# Store


def made_up() -> Scores:
    rng = np.random.default_rng(0)
    return Scores(
        key="unet_l1-St. Mary/2-s0-abc",
        test=TestSet(("St. Mary/2", "B"), noise_hu=2.5, mask="zeros"),
        patients=("B/p1", "B/p1", "B/p2"),
        slices=np.array([3, 4, 9]),
        values={"brain.mse": rng.random(3), "lesion.mse": np.array([0.1, np.nan, 0.0])},
        summary={"n_volumes": 2, "contrast": {"value": None}},
        superpixels=rng.random((7, 2)),
        pictures={"B/p2": rng.integers(0, 255, (4, 5, 6)).astype(np.uint8), "B/p1": np.zeros((4, 5, 6), np.uint8)},
    )


def test_stored_scores_come_back_the_same(tmp_path: Path) -> None:
    scores = made_up()
    file = save_scores(tmp_path, scores)
    found = load_scores(tmp_path, scores.key, scores.test)
    assert found is not None
    assert found.to_json() == scores.to_json()
    assert found.test == scores.test
    for name in ("slices", "superpixels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(scores, name))
    for name in ("values", "pictures"):
        ours, theirs = getattr(found, name), getattr(scores, name)
        assert list(ours) == list(theirs)
        for key, value in ours.items():
            np.testing.assert_array_equal(value, theirs[key])
            assert value.dtype == theirs[key].dtype
    assert load_scores(tmp_path, scores.key, replace(scores.test, mask="ct")) is None
    assert len(list(file.parent.iterdir())) == 2, "nothing else is left behind"
    bare = replace(scores, pictures={}, superpixels=np.empty((0, 2)))
    save_scores(tmp_path, bare)
    again = load_scores(tmp_path, scores.key, scores.test)
    assert again is not None
    assert (again.pictures, again.superpixels.shape) == ({}, (0, 2))


def test_scores_that_are_half_written_of_another_layout_or_older_than_the_run_count_as_missing(tmp_path: Path) -> None:
    scores = replace(made_up(), key="net")
    file = save_scores(tmp_path, scores)
    arrays, good = file.with_suffix(".npz"), file.read_bytes()
    kept = arrays.read_bytes()

    save_scores(tmp_path, replace(scores, slices=scores.slices + 1))
    file.write_bytes(good)  # as if killed before the JSON of the new arrays
    assert load_scores(tmp_path, "net", scores.test) is None
    arrays.write_bytes(kept)
    assert load_scores(tmp_path, "net", scores.test) is not None
    arrays.unlink()
    assert load_scores(tmp_path, "net", scores.test) is None
    arrays.write_bytes(kept)
    file.write_bytes(good[:50])
    assert load_scores(tmp_path, "net", scores.test) is None
    file.write_text(json.dumps({**json.loads(good), "layout": store.SCORES_LAYOUT + 1}))
    assert load_scores(tmp_path, "net", scores.test) is None

    file.write_bytes(good)
    weights = tmp_path / "runs" / "net" / CHECKPOINT_NAME
    weights.parent.mkdir(parents=True)
    weights.touch()
    then = file.stat().st_mtime_ns
    for later, holds in ((-1, True), (1, False)):
        os.utime(weights, ns=(then + later * 10**9,) * 2)
        assert (load_scores(tmp_path, "net", scores.test) is not None) is holds


def experiment_of(folder: Path) -> Experiment:
    ours, theirs = (Training(recipe_of(folder / "prepared", centre)) for centre in "AB")
    never = Training(recipe_of(folder / "prepared", seed=9))
    rows = (
        Row("ours", (ours, never), PLAIN),
        Row("cross", (theirs,), PLAIN),
        Row("constant", (), PLAIN, control="constant_in_mask", centres=("A",)),
        Row("constant of B", (), PLAIN, control="constant_in_mask", centres=("B",)),
        Row("identity", (), PLAIN, control="identity_window", centres=("A",)),
        Row("ceiling", (), PLAIN, control="measured_dwi"),
        Row("nobody's", (), PLAIN, control="mean_image", centres=("Z",)),
    )
    return Experiment("table", "Table", (Table("table", "Table", rows, "ours"),))


def test_all_scores_of_an_experiment_in_two_processes_then_from_the_disk(
    folder: Path, training: Training, caplog: pytest.LogCaptureFixture
) -> None:
    out, experiment = folder / "out", experiment_of(folder)
    told, again_told = Told(), Told()
    book = score_all([experiment], out, folder / "unused", 2, told)
    assert told.seen == [(done, 7) for done in range(8)]
    never = Training(recipe_of(folder / "prepared", seed=9)).key
    assert book.missing == {
        (never, "A"): "the network was not trained to its end",
        ("mean_image@Z", "A"): "no network of these experiments is trained on its centres and tested on these",
    }
    assert "not trained to its end" in caplog.text
    direct = score(folder, training)
    for name in ("brain.mse", "frame.ssim", "lesion.mae", "clean.brain.ms_ssim", "superpixel.r"):
        np.testing.assert_allclose(book[training.key, "A"].values[name], direct.values[name], rtol=1e-4, err_msg=name)
    assert (Training(recipe_of(folder / "prepared", "B")).key, "A") in book
    one, other = book["constant_in_mask@A", "A"], book["constant_in_mask@B", "A"]
    assert not np.array_equal(one.values["brain.mse"], other.values["brain.mse"])
    assert ("constant_in_mask", "A") not in book, "which of the two would it be?"
    assert book["identity_window", "A"] is book["identity_window@A", "A"]
    assert (book["measured_dwi", "A"].values["brain.mse"] == 0.0).all()

    assert sum(": scored after " in note for note in told.notes) == 6
    (failed,) = [note for note in told.notes if ": not scored after " in note]
    assert failed.startswith(f"{never} on A: ")
    assert [note.rpartition(", ")[2] for note in told.notes] == [f"{done} of 7" for done in range(1, 8)]

    times = {file: file.stat().st_mtime_ns for file in (out / "scores").rglob("*.*")}
    again = score_all([experiment], out, folder / "unused", 1, again_told)
    assert again_told.seen == [(6, 7), (7, 7)], "only the one that is missing is tried again"
    assert set(again) == set(book)
    assert times == {file: file.stat().st_mtime_ns for file in (out / "scores").rglob("*.*")}


def test_a_network_that_is_newer_than_its_scores_is_scored_again_and_one_that_broke_is_named(
    folder: Path, tmp_path: Path
) -> None:
    training = Training(recipe_of(folder / "prepared"))
    experiment = Experiment("e", "E", (Table("t", "T", (Row("ours", (training,), PLAIN),), "ours"),))
    run = tmp_path / "runs" / training.key
    run.mkdir(parents=True)
    for file in run_of(folder, training).iterdir():
        if file.is_file():
            (run / file.name).write_bytes(file.read_bytes())
    assert is_finished(run)
    first = score_all([experiment], tmp_path, tmp_path)[training.key, "A"]
    checkpoint = torch.load(run / CHECKPOINT_NAME, weights_only=True)
    weights = checkpoint["parts"]["average"]
    name = next(name for name, value in weights.items() if name.endswith("weight"))

    weights[name] = weights[name] * 1.5
    torch.save(checkpoint, run / CHECKPOINT_NAME)
    second = score_all([experiment], tmp_path, tmp_path)[training.key, "A"]
    assert not np.array_equal(first.values["brain.mse"], second.values["brain.mse"])

    weights[name] = weights[name] * float("nan")
    torch.save(checkpoint, run / CHECKPOINT_NAME)
    book = score_all([experiment], tmp_path, tmp_path)
    assert dict(book) == {}
    assert "is not finite" in book.missing[training.key, "A"]

    lines = (run / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["event"] == "ended"
    (run / "log.jsonl").write_text("\n".join([*lines[:-1], lines[-1].replace("true", "false")]))
    assert not is_finished(run)


def test_a_control_of_another_grid_or_other_volumes_is_another_one() -> None:
    recipe = phantom_recipe(A=2)
    data = recipe.data
    same = replace(recipe, seed=4, data=replace(data, test={"B": 9}, workers=7, lesion_share=0.1))
    assert control_key("x", same) == control_key("x", recipe)
    assert control_key("x", recipe).startswith("x-A-")
    for other in (
        replace(recipe, data=replace(data, train={"A": 2})),
        replace(recipe, input=replace(recipe.input, grid_px=64)),
        replace(recipe, data=replace(data, n_slices=12)),
    ):
        assert control_key("x", other) != control_key("x", recipe)
