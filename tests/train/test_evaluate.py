"""The held-out report on drawn cases: perfect and useless predictions, regions, strata, groups, JSON.

The single metrics have their own tests; a trained network on the phantom is measured in docs/results.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from training_cases import drawn_case

from train.evaluate import evaluate_cases, groups_of, score_volume, summarise
from train.pictures import draw_examples, pick_examples, shown_slice
from train.report import group_names, markdown_report, report_lines, write_report


@pytest.fixture(scope="module")
def cases():
    return [drawn_case(seed, centre="AB"[seed % 2], lesion=seed != 3) for seed in range(6)]


def truth(case) -> np.ndarray:
    return case.target_slices()


def flat(case) -> np.ndarray:
    return np.where(np.asarray(case.brain) > 0, np.float32(-0.3), np.float32(-1.0))


def test_perfect_prediction_has_no_error_and_the_lesion_stands_out(cases) -> None:
    figures = summarise(evaluate_cases(truth, cases), resamples=20)
    assert figures["n_volumes"] == 6
    assert figures["n_lesion_volumes"] == 5
    for region in ("frame", "brain", "lesion"):
        assert figures[f"dwi.{region}"]["mse"]["value"] == 0.0
        assert figures[f"dwi.{region}"]["psnr_db"]["value"] == 100.0
        assert figures[f"dwi.{region}"]["ssim"]["value"] == pytest.approx(1.0)
    assert figures["lesion_auc_pooled"]["value"] > 0.99
    assert figures["dwi_clean.brain"]["mse"]["value"] == pytest.approx((0.05 / 2) ** 2, rel=0.15)


def test_constant_prediction_has_an_auc_of_one_half_and_a_high_frame_ssim(cases) -> None:
    figures = summarise(evaluate_cases(flat, cases), resamples=20)
    assert figures["lesion_auc_pooled"]["value"] == pytest.approx(0.5)
    assert figures["lesion_auc_per_volume"]["value"] == pytest.approx(0.5)
    # Why the brain stands beside the frame everywhere: black background is easy to get right.
    assert figures["dwi.frame"]["mse"]["value"] < figures["dwi.brain"]["mse"]["value"]
    assert figures["mse_paper_convention"] == pytest.approx(3 * figures["dwi.frame"]["mse"]["value"], abs=1e-5)


def test_slices_with_little_brain_do_not_count(cases) -> None:
    score = score_volume(cases[0], truth(cases[0]))
    assert score.against["dwi"]["frame"].pixels == 3 * 32 * 32  # the first of four slices has no brain
    assert score.against["dwi"]["lesion"].pixels == int(np.count_nonzero(cases[0].lesion))


def test_groups_are_all_centres_and_strata_that_exist(cases) -> None:
    groups = dict(groups_of(evaluate_cases(flat, cases)))
    assert set(groups) == {"all", "centre A", "centre B", "drop > 4 HU", "lesion > 10 ml", "kind spot"}
    assert len(groups["drop > 4 HU"]) == 5  # the case without a lesion is in no stratum
    assert len(groups["centre A"]) + len(groups["centre B"]) == len(groups["all"])


def test_interval_holds_the_value_and_narrows_with_equal_volumes(cases) -> None:
    def noisy(case) -> np.ndarray:
        return truth(case) + np.float32(0.05 * (case.facts.seed + 1)) * (np.asarray(case.brain) > 0)

    mse = summarise(evaluate_cases(noisy, cases), resamples=200)["dwi.brain"]["mse"]
    assert mse["low"] < mse["value"] < mse["high"]
    equal = summarise(evaluate_cases(truth, cases[:1] * 5), resamples=50)["dwi.brain"]["mse"]
    assert equal["low"] == equal["high"] == 0.0


def test_examples_are_chosen_by_rank_and_drawn(tmp_path: Path, cases) -> None:
    class Truth:
        description = "truth"

        def predict_case(self, case) -> np.ndarray:
            return truth(case)

    def worse_with_the_seed(case) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0.0, 0.2 + 0.4 * case.facts.seed, case.brain.shape)
        return np.clip(truth(case) + noise, -1, 1).astype(np.float32)

    scores = evaluate_cases(worse_with_the_seed, cases[:4])
    chosen = pick_examples(scores)
    assert list(chosen.values()) == [0, 1, 2, 3]
    assert chosen["no lesion"] == 3
    assert shown_slice(cases[0]) == int(np.argmax(np.asarray(cases[0].lesion).sum(axis=(1, 2))))
    path = draw_examples(cases[:4], scores, Truth(), tmp_path / "new" / "examples.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_report_is_json_and_has_a_row_a_method(tmp_path: Path, cases) -> None:
    methods = {"jmmda": evaluate_cases(truth, cases), "constant_in_mask": evaluate_cases(flat, cases)}
    report = {
        "data": "phantom",
        "network": "drawn",
        "conventions": "c",
        "methods": {
            name: {group: summarise(chosen, resamples=5) for group, chosen in groups_of(scores)}
            for name, scores in methods.items()
        },
    }
    write_report(report, tmp_path / "r.json")
    again = json.loads((tmp_path / "r.json").read_text())
    assert again == report
    assert group_names(again)[0] == "all"
    rows = report_lines(again)
    assert [row[0] for row in rows] == ["jmmda", "constant_in_mask"]
    assert rows[1][1] == "0.500 (0.500-0.500)"
    assert report_lines(again, "no such group") == []
    page = markdown_report(again)
    assert "not patients" in page
    assert "| control: constant in mask | 0.500 (0.500-0.500) |" in page
    assert page.count("### Phantom, ") == 5  # all, two centres, clean, strata
    assert "| lesion > 10 ml | 5 | 1.00 (1.00-1.00) | 1.00 (1.00-1.00) | - | 0.00000 |" in page
