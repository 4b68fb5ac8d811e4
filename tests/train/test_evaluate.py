"""The held-out report on drawn cases: groups, intervals, ratios, targets, worker processes, JSON, CSV, Markdown, HTML.

Single metrics and the score of a volume have their own tests; a trained network is measured in docs/results.md.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_cases import CONTRACT, drawn_case, tiny_recipe

from train.data.cache import CachedCase
from train.evaluate import Evaluation, EvaluationOptions, evaluate, evaluate_cases, groups_of, summarise
from train.evaluation.cases import EvaluationCases
from train.evaluation.targets import MEASURED, NETWORK, OTHER_PREFIX, ratio_to_best_control, targets_of
from train.pictures import draw_examples, pick_examples, shown_slice
from train.report import group_names, markdown_report, report_lines, write_csv, write_report
from train.report_html import html_report


def truth(case) -> np.ndarray:
    return case.target_slices()


def flat(case) -> np.ndarray:
    return np.where(np.asarray(case.brain) > 0, np.float32(-0.3), np.float32(-1.0))


class Halfway:
    """Predicts the mean of truth and flat brain."""

    description = "halfway"

    def predict_case(self, case) -> np.ndarray:
        return (truth(case) + flat(case)) / 2


class Flat:
    description = "flat"

    def predict_case(self, case) -> np.ndarray:
        return flat(case)


def as_patient(case: CachedCase, *, labelled: bool = False) -> CachedCase:
    """The case as prepared patient data: no clean target, no kind or HU drop, and the lesion unknown or not."""
    facts = replace(
        case.facts,
        source="nifti",
        seed=None,
        lesion_kind=None,
        hu_drop=None,
        onset_h=None,
        mask_dice=None,
        lesion_ml=case.facts.lesion_ml if labelled else None,
    )
    return replace(case, facts=facts, clean=None, lesion=case.lesion if labelled else None)


@pytest.fixture(scope="module")
def cases():
    return tuple(drawn_case(seed, centre="AB"[seed % 2], lesion=seed != 3) for seed in range(6))


@pytest.fixture(scope="module")
def training():
    return tuple(drawn_case(seed) for seed in range(20, 23))


@pytest.fixture(scope="module")
def evaluation(cases, training) -> Evaluation:
    found = EvaluationCases(cases, training, ("A",))
    return evaluate(tiny_recipe(), CONTRACT, found, Halfway(), EvaluationOptions(resamples=40), others=[Flat()])


@pytest.fixture(scope="module")
def patients(cases, training) -> Evaluation:
    test = (as_patient(cases[0]), as_patient(cases[1]))
    found = EvaluationCases(test, tuple(as_patient(case) for case in training), ("A",))
    return evaluate(tiny_recipe(), CONTRACT, found, Halfway(), EvaluationOptions(resamples=10))


def test_perfect_prediction_has_no_error_and_the_lesion_stands_out(cases) -> None:
    figures = summarise(evaluate_cases(truth, cases), resamples=20)
    assert figures["n_volumes"] == 6
    assert figures["n_lesion_volumes"] == 5
    for region in ("frame", "brain", "lesion"):
        assert figures[f"dwi.{region}"]["mse"]["value"] == 0.0
        assert figures[f"dwi.{region}"]["psnr_db"]["value"] == 100.0
        assert figures[f"dwi.{region}"]["ssim"]["value"] == pytest.approx(1.0)
        assert figures[f"dwi.{region}"]["ms_ssim"]["value"] == pytest.approx(1.0)
    assert figures["lesion_auc_pooled"]["value"] > 0.99
    assert figures["dwi_clean.brain"]["mse"]["value"] == pytest.approx((0.05 / 2) ** 2, rel=0.15)
    assert figures["contrast"]["difference"]["value"] == 0.0


def test_constant_prediction_has_an_auc_of_one_half_and_a_high_frame_ssim(cases) -> None:
    figures = summarise(evaluate_cases(flat, cases), resamples=20)
    assert figures["lesion_auc_pooled"]["value"] == pytest.approx(0.5)
    assert figures["lesion_auc_per_volume"]["value"] == pytest.approx(0.5)
    assert figures["contrast"]["prediction"]["value"] == pytest.approx(1.0, abs=1e-5)
    assert figures["contrast"]["measured"]["value"] > 1.5
    # Why the brain stands beside the frame everywhere: black background is easy to get right.
    assert figures["dwi.frame"]["mse"]["value"] < figures["dwi.brain"]["mse"]["value"]
    assert figures["mse_paper_convention"] == pytest.approx(3 * figures["dwi.frame"]["mse"]["value"], abs=1e-5)


def test_mean_and_sd_over_images_and_over_patients(cases) -> None:
    scores = evaluate_cases(flat, cases[:3])
    part = summarise(scores, resamples=5)["dwi.brain"]
    images = [score.against["dwi"]["brain"].metric("psnr_db") for score in scores]
    assert part["per_image"]["psnr_db"] == {
        "mean": pytest.approx(np.concatenate(images).mean(), abs=1e-5),
        "sd": pytest.approx(np.concatenate(images).std(ddof=1), abs=1e-5),
        "n": 9,
    }
    assert part["per_patient"]["psnr_db"]["n"] == 3
    assert part["per_patient"]["psnr_db"]["sd"] == pytest.approx(np.std([i.mean() for i in images], ddof=1), abs=1e-5)
    assert "per_image" not in summarise(scores, resamples=5, detail=False)["dwi.brain"]


def test_groups_are_all_centres_and_strata_that_exist(cases) -> None:
    groups = dict(groups_of(evaluate_cases(flat, cases)))
    assert set(groups) == {
        "all",
        "centre A",
        "centre B",
        "drop > 4 HU",
        "drop >= 3 HU",
        "drop >= 3 HU, centre A",
        "drop >= 3 HU, centre B",
        "lesion > 10 ml",
        "kind spot",
    }
    assert len(groups["drop > 4 HU"]) == 5  # the case without a lesion is in no stratum
    assert len(groups["centre A"]) + len(groups["centre B"]) == len(groups["all"])


def test_interval_holds_the_value_and_narrows_with_equal_volumes(cases) -> None:
    def noisy(case) -> np.ndarray:
        return truth(case) + np.float32(0.05 * (case.facts.seed + 1)) * (np.asarray(case.brain) > 0)

    mse = summarise(evaluate_cases(noisy, cases), resamples=200)["dwi.brain"]["mse"]
    assert mse["low"] < mse["value"] < mse["high"]
    equal = summarise(evaluate_cases(truth, cases[:1] * 5), resamples=50)["dwi.brain"]["mse"]
    assert equal["low"] == equal["high"] == 0.0


def test_ratio_is_to_the_best_control_under_the_same_draws(cases) -> None:
    bad = evaluate_cases(lambda case: np.where(np.asarray(case.brain) > 0, 1, -1).astype(np.float32), cases)
    half, flat_scores = evaluate_cases(Halfway().predict_case, cases), evaluate_cases(flat, cases)
    methods = {NETWORK: half, MEASURED: evaluate_cases(truth, cases), "bad": bad, "flat": flat_scores}
    ratio = ratio_to_best_control(methods)
    assert ratio is not None
    assert (ratio["control"], ratio["truth"]) == ("flat", "dwi_clean")
    clean = [[s.against["dwi_clean"]["brain"].squared.sum() for s in scores] for scores in (half, flat_scores)]
    assert ratio["value"] == pytest.approx(np.sum(clean[0]) / np.sum(clean[1]), abs=1e-5)
    same = ratio_to_best_control({NETWORK: flat_scores, "flat": flat_scores}, "A")
    assert same is not None
    assert same["low"] == same["high"] == 1.0  # paired: equal methods never differ
    assert ratio_to_best_control({NETWORK: half}) is None


def test_targets_ask_more_of_a_trained_centre_than_of_an_unseen_one() -> None:
    figure = {"value": 0.9, "low": 0.88, "high": 0.95}
    groups = {name: {"lesion_auc_pooled": figure} for name in ("drop >= 3 HU, centre A", "centre B")}
    ratio = {"value": 0.78, "low": 0.7, "high": 0.8, "control": "flat", "truth": "dwi_clean"}
    rows = targets_of(groups, {"centre A": ratio, "centre B": ratio}, ("A",), ("A", "B"))
    assert [(row["group"], row["wanted"], row["met"]) for row in rows] == [
        ("drop >= 3 HU, centre A", ">= 0.92", False),
        ("centre A", "<= 0.75", False),
        ("centre B", ">= 0.85", True),
        ("centre B", "<= 0.80", True),
    ]


def test_report_names_its_settings_methods_and_targets(evaluation) -> None:
    report = evaluation.report
    assert report["data"] == "phantom"
    assert list(report["methods"])[:3] == ["jmmda", f"{OTHER_PREFIX}flat", "measured_dwi"]
    assert report["settings"]["ssim"] == {"window": 11, "sigma": 1.5, "data_range": 1, "covariance": "population"}
    assert report["settings"]["bootstrap"]["resamples"] == 40
    assert report["mse_to_best_control"]["all"]["control"] not in ("measured_dwi", f"{OTHER_PREFIX}flat")
    assert {row["group"] for row in report["targets"]} == {"drop >= 3 HU, centre A", "centre A", "centre B"}
    ceiling = report["methods"]["measured_dwi"]["all"]["detection"]["bright"]
    assert ceiling["dice_per_volume"]["value"] > 0.8
    assert ceiling["rate"]["lesion > 10 ml"]["value"] == 1.0
    assert ceiling["false_ml_per_lesion_free_volume"]["n"] == 1
    assert report["methods"][f"{OTHER_PREFIX}flat"]["all"]["detection"]["bright"]["sensitivity"]["value"] == 0.0


def test_worker_processes_score_as_this_process_does(cases, training, evaluation) -> None:
    found = EvaluationCases(cases[:2], training, ("A",))
    options = EvaluationOptions(resamples=5, workers=2)
    pooled = evaluate(tiny_recipe(), CONTRACT, found, Halfway(), options)
    for name, scores in pooled.methods.items():
        for ours, theirs in zip(scores, evaluation.methods[name], strict=False):
            assert ours.facts.patient == theirs.facts.patient
            np.testing.assert_array_equal(
                ours.against["dwi"]["brain"].metric("ssim"), theirs.against["dwi"]["brain"].metric("ssim")
            )
            np.testing.assert_array_equal(ours.histogram.lesion, theirs.histogram.lesion)


def test_report_is_json_and_has_a_row_a_method(tmp_path: Path, evaluation) -> None:
    write_report(evaluation.report, tmp_path / "new" / "r.json")
    again = json.loads((tmp_path / "new" / "r.json").read_text())
    assert again == evaluation.report
    assert group_names(again)[0] == "all"
    rows = {row[0]: row for row in report_lines(again)}
    assert rows["constant_in_mask"][1] == "0.500 (0.500-0.500)"
    assert report_lines(again, "no such group") == []
    page = markdown_report(again)
    assert "not patients" in page
    assert "| control: constant in mask | 0.500 (0.500-0.500) |" in page
    titles = [line for line in page.splitlines() if line.startswith("### ")]
    assert all(title.startswith("### Phantom, ") for title in titles)
    assert sum("unseen volumes" in title for title in titles) == 3  # all, two centres
    assert "### Phantom, all, against the clean DWI (no noise, bias, ghost or misregistration)" in titles


def test_csv_has_a_row_a_slice_and_a_row_a_patient_of_every_method(tmp_path: Path, evaluation) -> None:
    slices, patients = write_csv(evaluation.methods, tmp_path / "csv")
    with slices.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(evaluation.methods) * 6 * 3
    ours = [float(row["dwi.brain.mse"]) for row in rows if row["method"] == "jmmda" and row["patient"] == "A-0"]
    assert ours == pytest.approx(evaluation.methods["jmmda"][0].against["dwi"]["brain"].metric("mse"), rel=1e-5)
    with patients.open(newline="") as stream:
        people = list(csv.DictReader(stream))
    assert len(people) == len(evaluation.methods) * 6
    healthy = next(row for row in people if row["patient"] == "B-3")
    assert (healthy["lesion_auc"], healthy["dwi.lesion.mse"], healthy["lesion_ml"]) == ("", "", "0")


def test_examples_are_chosen_by_rank_and_drawn(tmp_path: Path, cases) -> None:
    def worse_with_the_seed(case) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0.0, 0.2 + 0.4 * case.facts.seed, case.brain.shape)
        return np.clip(truth(case) + noise, -1, 1).astype(np.float32)

    scores = evaluate_cases(worse_with_the_seed, cases[:4])
    chosen = pick_examples(scores)
    assert [example.index for example in chosen] == [0, 1, 2, 3]
    assert [example.words.split(",")[0] for example in chosen] == ["best", "median", "worst", "no lesion"]
    assert shown_slice(cases[0]) == int(np.argmax(np.asarray(cases[0].lesion).sum(axis=(1, 2))))
    path = draw_examples(cases[:4], scores, Halfway(), tmp_path / "new" / "examples.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_page_stands_alone_and_says_phantom_in_every_caption(evaluation) -> None:
    page = html_report(evaluation)
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!data:image/png;base64,)', page)
    assert "url(" not in page
    assert "<script" not in page
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == 5  # best, median, worst, no lesion, box plots
    assert all("phantom" in caption.lower() for caption in captions)
    assert all("phantom" in title.lower() for title in re.findall(r"<h3>(.*?)</h3>", page))
    assert "say nothing about patients" in page


def test_patients_without_labels_get_image_figures_and_other_words(tmp_path: Path, patients) -> None:
    report = patients.report
    assert (report["data"], report["truths"], report["targets"], report["detectors"]) == ("nifti", ["dwi"], [], {})
    assert set(report["methods"]["jmmda"]) == {"all", "centre A", "centre B"}
    assert report["methods"]["jmmda"]["all"]["n_unknown_volumes"] == 2
    assert report["methods"]["jmmda"]["all"]["lesion_auc_pooled"]["value"] is None
    page = markdown_report(report)
    assert "### Patients (nifti), all: 2 unseen volumes, 0 with a lesion, 2 without a lesion label" in page
    assert "Digital phantom" not in page
    html = html_report(patients)
    assert "lesion not labelled" in html
    assert "digital phantom" not in html.lower()
    assert [example.words.split(" ")[1:3] for example in pick_examples(patients.methods["jmmda"])] == [
        ["brain", "PSNR"]
    ] * 3
    write_csv(patients.methods, tmp_path)


def test_labelled_patients_get_lesion_figures_without_strata_of_the_phantom(cases) -> None:
    scores = evaluate_cases(truth, [as_patient(case, labelled=True) for case in cases])
    assert set(dict(groups_of(scores))) == {"all", "centre A", "centre B", "lesion > 10 ml"}
    assert summarise(scores, resamples=5)["lesion_auc_pooled"]["value"] > 0.99
