"""Agreement over superpixels against SciPy on scikit-image's regions with the specified settings, and closed forms.

Leaves out the tests that compare methods (test_statistics.py), but for their pairing.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from training_cases import drawn_case

from train.data.cache import CachedCase, encode_target
from train.evaluation.superpixels import (
    METRICS,
    CaseSuperpixels,
    CorrelationSpread,
    Scatter,
    SuperpixelScore,
    agreement,
    segment,
    summarise_superpixels,
)
from train.experiments.statistics import SliceValues, compare_methods
from train.metrics import unit32

SIDE = 96
SEGMENTS = 250  # about 20 pixels each, so that some have fewer than 16


def disc(radius: float, side: int = SIDE) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    return rows**2 + columns**2 < radius**2


def textured(seed: int, side: int = SIDE) -> np.ndarray:
    """Smooth grey in [-1, 1], (side, side)."""
    rows, columns = np.mgrid[:side, :side] / side
    rng = np.random.default_rng(seed)
    a, b, c = rng.uniform(2, 9, 3)
    return 0.4 * np.sin(a * rows + b * columns) * np.cos(c * columns) - 0.2 + rng.normal(0, 0.03, (side, side))


def textured_case(name: str = "A-1") -> CachedCase:
    """Slices: no brain, texture, texture, a brain too small for 20 superpixels, and one of constant grey."""
    brain = np.stack([disc(0), disc(40), disc(36), disc(13), disc(40)])
    grey = np.stack([textured(seed) for seed in range(5)])
    grey[4] = -0.3
    target = encode_target(np.where(brain, grey, -1.0))
    facts = replace(drawn_case(1).facts, patient=name, slice_offsets_mm=tuple(5.0 * number for number in range(5)))
    return CachedCase(facts, hu=np.zeros(brain.shape, np.int16), target=target, brain=brain.astype(np.uint8))


def noisy(case: CachedCase, seed: int = 9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = case.target_slices() * 0.7 + rng.normal(0, 0.5, case.target.shape)
    return np.clip(image, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def case() -> CachedCase:
    return textured_case()


@pytest.fixture(scope="module")
def cut(case: CachedCase) -> CaseSuperpixels:
    return CaseSuperpixels(case, SEGMENTS)


def test_figures_are_those_of_the_specified_regions_one_by_one(case: CachedCase, cut: CaseSuperpixels) -> None:
    from skimage.segmentation import slic

    prediction = noisy(case)
    score = cut.score(prediction)
    assert score.slices.tolist() == [1, 2, 3, 4]
    pooled = []
    for row, number in enumerate((1, 2)):
        measured = unit32(case.target_slices(number)).astype(float)
        synthetic = unit32(prediction[number]).astype(float)
        labels = slic(
            measured, n_segments=SEGMENTS, compactness=0.1, sigma=1, mask=case.brain[number] > 0,
            channel_axis=None, start_label=1,
        )  # fmt: skip
        regions = [labels == label for label in range(1, labels.max() + 1)]
        assert any(0 < region.sum() < 16 for region in regions)  # the rule matters
        x, y = (
            np.array([image[region].mean() for region in regions if region.sum() >= 16])
            for image in (measured, synthetic)
        )
        assert len(x) >= 20
        line = stats.linregress(x, y)
        covariance = np.cov(x, y, bias=True)[0, 1]
        expected = {
            "r": stats.pearsonr(x, y).statistic,
            "spearman": stats.spearmanr(x, y).statistic,
            "ccc": 2 * covariance / (np.var(x) + np.var(y) + (x.mean() - y.mean()) ** 2),
            "slope": line.slope,
        }
        assert 0.3 < expected["r"] < 0.999
        for name in METRICS:
            assert score.metrics[name][row] == pytest.approx(expected[name], abs=1e-9), name
        pooled.append(np.stack([x, y]))
    assert np.stack([score.measured, score.synthetic]) == pytest.approx(np.concatenate(pooled, axis=1), abs=1e-9)


def test_slices_are_skipped_for_a_reason_and_stay_in_their_place(case: CachedCase, cut: CaseSuperpixels) -> None:
    prediction = noisy(case)
    score = cut.score(prediction)
    assert score.skipped == {"few": 1, "flat_measured": 1, "flat_synthetic": 0}
    for name in METRICS:
        assert np.isnan(score.metrics[name]).tolist() == [False, False, True, True]
    prediction[1] = 0.1
    flat = cut.score(prediction)
    assert flat.skipped == {"few": 1, "flat_measured": 1, "flat_synthetic": 1}
    assert np.isnan(flat.metrics["r"]).tolist() == [True, False, True, True]
    assert len(flat.measured) < len(score.measured)


def test_without_a_slice_that_counts_everything_is_empty(cut: CaseSuperpixels) -> None:
    score = cut.score(np.full((5, SIDE, SIDE), -1.0, np.float32))
    assert score.skipped["flat_synthetic"] == 2
    assert len(score.measured) == len(score.synthetic) == 0
    summary = summarise_superpixels([score])
    assert (summary.per_slice.mean, summary.per_patient.n, summary.scatter.r) == (None, 0, None)
    assert json.loads(json.dumps(summary.to_json(), allow_nan=False))["scatter"]["n"] == 0


def test_a_linear_change_of_grey_keeps_r_and_shows_in_slope_and_concordance(
    case: CachedCase, cut: CaseSuperpixels
) -> None:
    itself = cut.score(case.target_slices())
    for name in METRICS:
        assert itself.metrics[name][:2] == pytest.approx([1.0, 1.0]), name
    dimmed = cut.score((2 * (0.5 * unit32(case.target_slices()) + 0.2) - 1).astype(np.float32))
    assert dimmed.metrics["r"][:2] == pytest.approx([1.0, 1.0])
    assert dimmed.metrics["spearman"][:2] == pytest.approx([1.0, 1.0])
    assert dimmed.metrics["slope"][:2] == pytest.approx([0.5, 0.5], rel=1e-5)
    assert (dimmed.metrics["ccc"][:2] < 0.9).all()


def test_what_lies_outside_the_brain_does_not_count(case: CachedCase, cut: CaseSuperpixels) -> None:
    prediction = noisy(case)
    outside = np.where(case.brain > 0, prediction, 0.9).astype(np.float32)
    assert not np.array_equal(prediction, outside)
    assert cut.score(prediction).metrics["r"][:2].tolist() == cut.score(outside).metrics["r"][:2].tolist()


def test_a_brain_at_256_pixels_has_the_superpixels_asked_for_each_like_a_small_infarct() -> None:
    brain = disc(84, 256)  # 22 000 pixels
    labels = segment(np.where(brain, (textured(3, 256) + 1) / 2, 0.0), brain)
    sizes = np.bincount(labels.ravel())[1:]
    assert 180 <= len(sizes) <= 200
    assert sizes.min() >= 16
    assert 90 < np.median(sizes) < 130
    assert (labels[~brain] == 0).all()
    assert (labels[brain] > 0).mean() > 0.999


@pytest.mark.parametrize(
    ("measured", "synthetic", "expected"),
    [
        ([1, 2, 3, 4], [2, 4, 6, 8], {"r": 1.0, "spearman": 1.0, "ccc": 0.4, "slope": 2.0, "intercept": 0.0}),
        ([0, 1, 2], [1, 0, 2], {"r": 0.5, "spearman": 0.5, "ccc": 0.5, "slope": 0.5, "intercept": 0.5}),
        ([0, 1, 2], [2, 1, 0], {"r": -1.0, "spearman": -1.0, "ccc": -1.0, "slope": -1.0, "intercept": 2.0}),
        # Growing, but not in a line: deviations -1, 0, 1 and -3, -2, 5, means 1 and 3.
        ([0, 1, 2], [0, 1, 8], {"r": 8 / 76**0.5, "spearman": 1.0, "ccc": 16 / 52, "slope": 4.0, "intercept": -1}),
    ],
)  # fmt: skip
def test_agreement_by_hand(measured: list[float], synthetic: list[float], expected: dict[str, float]) -> None:
    found = agreement(np.array(measured, float), np.array(synthetic, float))
    assert found == pytest.approx(expected)


def test_correlations_are_averaged_as_fisher_z() -> None:
    # (1 + r) / (1 - r) is 3 and 19, and e^2z of the mean their geometric mean.
    found = CorrelationSpread.of(np.array([0.5, np.nan, 0.9]))
    ratio = math.sqrt(3 * 19)
    assert found.mean == pytest.approx((ratio - 1) / (ratio + 1))
    assert found.mean_plain == pytest.approx(0.7)
    assert found.sd == pytest.approx(0.4 / math.sqrt(2))
    assert found.sd_z == pytest.approx(math.log(19 / 3) / 2 / math.sqrt(2))
    assert found.n == 2
    single = CorrelationSpread.of(np.array([1.0]))
    assert single.mean == pytest.approx(1.0, abs=2e-6)
    assert (single.sd, single.sd_z) == (None, None)


def drawn_score(name: str, r: list[float], *, n_segments: int = 200, points: int = 0) -> SuperpixelScore:
    """A score with given r in all metrics, and points on the line 0.5 x + 0.1."""
    measured = np.linspace(0.2, 0.8, points)
    return SuperpixelScore(
        facts=replace(drawn_case(1).facts, patient=name),
        n_segments=n_segments,
        slices=np.arange(len(r)),
        metrics={metric: np.array(r) for metric in METRICS},
        skipped={"few": int(np.isnan(r).sum()), "flat_measured": 0, "flat_synthetic": 0},
        measured=measured,
        synthetic=0.5 * measured + 0.1,
    )


def test_summary_over_slices_and_over_patients() -> None:
    scores = [drawn_score("a", [0.5, 0.9, math.nan], points=40), drawn_score("b", [0.0]), drawn_score("c", [math.nan])]
    summary = summarise_superpixels(scores)
    ratio = 57**0.25
    assert summary.per_slice.n == 3
    assert summary.per_patient.n == 2
    assert summary.per_patient.mean == pytest.approx((ratio - 1) / (ratio + 1))
    assert summary.others["ccc"]["per_patient"]["mean"] == pytest.approx(0.35)
    assert summary.others["slope"]["per_slice"]["mean"] == pytest.approx(1.4 / 3, abs=1e-6)
    assert summary.skipped == {"few": 2, "flat_measured": 0, "flat_synthetic": 0}
    read = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert read["scatter"] == {
        "n": 40,
        "r": pytest.approx(1.0),
        "slope": pytest.approx(0.5),
        "intercept": pytest.approx(0.1),
    }
    assert (read["n_segments"], read["compactness"], read["r"]["per_slice"]["n"]) == (200, 0.1, 3)


def test_a_scatter_is_thinned_alike_for_every_method() -> None:
    scores = [drawn_score("a", [0.5], points=30), drawn_score("b", [0.5], points=50)]
    scatter = Scatter.of(scores)
    assert len(scatter.measured) == 80
    x, y = scatter.thinned(25)
    assert len(x) == 25
    assert y == pytest.approx(0.5 * x + 0.1)
    assert np.array_equal(x, Scatter.of(scores).thinned(25)[0])
    assert len(scatter.thinned(80)[0]) == 80


def test_methods_are_compared_by_r_of_the_slices_that_both_have() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = [], []
    for number in range(8):
        r = rng.uniform(0.5, 0.9, 3)
        ours.append(drawn_score(f"p{number}", r.tolist()))
        theirs.append(drawn_score(f"p{number}", [*(r[:2] - 0.1), math.nan]))
    columns = [
        SliceValues.joined((score.facts.patient, score.slices, score.metrics) for score in scores)
        for scores in (ours, theirs)
    ]
    (found,) = compare_methods(columns[0], {"theirs": columns[1]}, metrics=["r"]).comparisons
    assert (found.slices.test.n, found.slices.test.n_missing, found.patients.test.n) == (16, 8, 8)
    assert found.patients.test.effect == 1.0
    assert found.patients.difference.value == pytest.approx(0.1)


def test_without_scikit_image_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"pip install 'jmmda-node\[train\]'"):
        segment(np.zeros((SIDE, SIDE)), disc(40))


def test_bad_input_is_refused(case: CachedCase, cut: CaseSuperpixels) -> None:
    with pytest.raises(ValueError, match="fewer than 20"):
        CaseSuperpixels(case, 19)
    with pytest.raises(ValueError, match="shape"):
        cut.score(np.zeros((4, SIDE, SIDE), np.float32))
    prediction = noisy(case)
    prediction[2, 50, 50] = np.nan
    with pytest.raises(ValueError, match="finite"):
        cut.score(prediction)
    for scores in ([], [drawn_score("a", [0.5]), drawn_score("b", [0.5], n_segments=100)]):
        with pytest.raises(ValueError, match="same number"):
            summarise_superpixels(scores)
