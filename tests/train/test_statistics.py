"""Paired statistics against hand-computed ranks, closed forms, printed worked examples and normal theory.

Leaves out the tables that are made of them, and agreement over superpixels (test_superpixels.py).
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_cases import CONTRACT, drawn_case

from train.evaluation.scoring import METRICS, score_volume
from train.experiments.statistics import (
    MIN_PAIRS,
    Comparison,
    SliceValues,
    adjusted,
    clustered_intervals,
    compare,
    compare_methods,
    holm,
    p_text,
    signed_rank,
)

#: Differences of heights of maize, cross- minus self-fertilised (Darwin's, as SciPy's manual prints them).
MAIZE = np.array([6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75], float)


def normal_p(rank_sum: float, n: int, *, ties: tuple[int, ...] = ()) -> float:
    """Two-sided p of a sum of ranks, from the textbook's mean and variance."""
    variance = n * (n + 1) * (2 * n + 1) / 24 - sum(t**3 - t for t in ties) / 48
    return math.erfc(abs(rank_sum - n * (n + 1) / 4) / math.sqrt(2 * variance))


@pytest.mark.parametrize(("n", "floor"), [(1556, 7.51e-256), (1634, 1.45e-268)])
def test_the_smallest_p_is_the_floor_of_the_number_of_slices(n: int, floor: float) -> None:
    found = signed_rank(np.arange(1.0, n + 1), np.zeros(n))
    assert found.p == pytest.approx(floor, rel=5e-3)
    assert (found.statistic, found.effect, found.n) == (0.0, 1.0, n)


def test_where_the_floor_underflows_a_bound_is_printed() -> None:
    found = signed_rank(np.zeros(3190), np.arange(1.0, 3191))
    assert found.p is not None
    assert found.p < 1e-300
    assert found.to_json()["p_text"] == "<1e-300"
    assert found.effect == -1.0


def test_known_differences() -> None:
    found = signed_rank(MAIZE + 100.0, np.full(15, 100.0))
    # Ranks 10 (of 48) and 14 (of 67) are negative: 24 of 120.
    assert found.statistic == 24.0
    assert found.effect == pytest.approx((96 - 24) / 120)
    assert found.p == pytest.approx(normal_p(96, 15), rel=1e-12)
    assert found.p == pytest.approx(0.0409, abs=5e-5)


def test_ties_share_their_rank_and_zero_differences_have_none() -> None:
    difference = np.array([0, 1, 1, 0, -1, 2, 3, -4, 5], float)
    found = signed_rank(difference, np.zeros(9))
    # Ranks 2, 2, -2, 4, 5, -6, 7 of the seven that differ.
    assert (found.statistic, found.n, found.n_zero, found.n_missing) == (8.0, 9, 2, 0)
    assert found.effect == pytest.approx((20 - 8) / 28)
    assert found.p == pytest.approx(normal_p(20, 7, ties=(3,)), rel=1e-12)


def test_pairs_with_nan_are_left_out_and_counted() -> None:
    ours, theirs = np.append(MAIZE, [np.nan, 1000.0, np.nan]), np.append(np.zeros(15), [0.0, np.nan, np.nan])
    found = signed_rank(ours, theirs)
    assert (found.n, found.n_missing) == (15, 3)
    assert (found.p, found.effect) == (signed_rank(MAIZE, np.zeros(15)).p, pytest.approx(0.6))


@pytest.mark.parametrize(
    ("ours", "reason", "n_missing"),
    [
        ([], "no complete pair", 0),
        ([np.nan] * 8, "no complete pair", 8),
        ([0.0] * 8, "all differences are zero", 0),
        ([0.0] * 8 + [np.nan], "all differences are zero", 1),
    ],
)
def test_without_a_difference_there_is_no_p_but_a_reason(ours: list[float], reason: str, n_missing: int) -> None:
    found = signed_rank(ours, np.zeros(len(ours)))
    assert (found.p, found.effect, found.reason, found.n_missing) == (None, None, reason, n_missing)
    assert found.to_json()["p_text"] == "n/a"


def test_too_few_differences_have_an_effect_but_no_p() -> None:
    few = signed_rank([1.0, 2, 3, 4, -5, 0, 0], np.zeros(7))
    assert few.p is None
    assert few.reason == "only 5 non-zero differences, at least 6 are needed"
    assert few.effect == pytest.approx((10 - 5) / 15)
    enough = signed_rank(np.arange(1.0, MIN_PAIRS + 1), np.zeros(MIN_PAIRS))
    assert enough.reason is None
    assert enough.p == pytest.approx(normal_p(21, 6), rel=1e-12)


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=12, max_size=60))
def test_exchanging_the_methods_turns_the_effect_and_keeps_p(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = np.array(pairs, float).T
    one, other = signed_rank(ours, theirs), signed_rank(theirs, ours)
    assert one.p == pytest.approx(other.p) if one.p is not None else other.p is None
    if one.effect is not None:
        assert -1.0 <= one.effect <= 1.0
        assert one.effect == pytest.approx(-other.effect)
        assert signed_rank(4.0 * ours, 4.0 * theirs) == one  # ranks have no unit


@pytest.mark.parametrize(
    ("ours", "theirs"), [([1.0, 2.0], [1.0]), ([[1.0]], [[2.0]]), ([1.0, math.inf], [0.0, 0.0]), ([0.0], [-math.inf])]
)
def test_values_that_make_no_pairs_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"paired values|infinite"):
        signed_rank(ours, theirs)


@pytest.mark.parametrize(
    ("p", "text"),
    [(1.0, "1.000"), (0.04321, "0.043"), (0.001, "0.001"), (0.00099, "9.9e-04"), (7.51e-256, "7.5e-256"),
     (1e-300, "1.0e-300"), (9.9e-301, "<1e-300"), (0.0, "<1e-300"), (None, "n/a")],
)  # fmt: skip
def test_printed_p(p: float | None, text: str) -> None:
    assert p_text(p) == text


def test_holm_by_a_worked_example() -> None:
    # Sorted: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which may not be below the one before.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(found) == ["a", "b", "c", "d"]
    assert list(found.values()) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_a_comparison_without_p_still_counts_in_its_family() -> None:
    assert holm({"a": 0.01, "b": None, "c": 0.4}) == {"a": pytest.approx(0.03), "b": None, "c": pytest.approx(0.8)}
    assert holm({"a": None}) == {"a": None}
    assert holm({}) == {}


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(values: list[float]) -> None:
    found = list(holm(dict(enumerate(values))).values())
    for p, p_holm in zip(values, found, strict=True):
        assert p <= p_holm <= min(1.0, len(values) * p)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()


@pytest.mark.parametrize("p", [1.2, -0.1, math.nan])
def test_holm_refuses_what_is_no_p(p: float) -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        holm({"a": p})


def test_interval_of_independent_slices_is_the_normal_one() -> None:
    values = np.random.default_rng(4).normal(0.1, 1.0, 1500)
    on_slices, on_patients = clustered_intervals(values, range(1500))
    half = 1.96 * values.std(ddof=1) / math.sqrt(1500)
    assert on_slices.value == pytest.approx(values.mean())
    assert (on_slices.low, on_slices.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.15 * half
    )
    # One slice a patient: both means are the same.
    assert (on_patients.low, on_patients.high) == pytest.approx((on_slices.low, on_slices.high))


def test_interval_is_as_wide_as_patients_differ_however_many_slices_they_have() -> None:
    rng = np.random.default_rng(5)
    patients = np.repeat(np.arange(80), 20)
    values = rng.normal(0.0, 1.0, 80)[patients] + rng.normal(0.0, 0.2, 1600)
    for found in clustered_intervals(values, patients.tolist()):
        means = values.reshape(80, 20).mean(axis=1)
        half = 1.96 * means.std(ddof=1) / math.sqrt(80)
        assert found.n == 80
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
        assert (found.high - found.low) / 2 > 3 * 1.96 * values.std() / math.sqrt(1600)


def test_slices_and_patients_weigh_equally_each_in_its_own_mean() -> None:
    on_slices, on_patients = clustered_intervals([1.0, 0.0, 0.0, 0.0, np.nan], ["a", "b", "b", "b", "c"])
    assert (on_slices.value, on_patients.value) == (0.25, 0.5)
    # Two patients with values: a sample is both of one with chance 1/4 each.
    assert (on_patients.low, on_patients.high, on_patients.n) == (0.0, 1.0, 2)


def test_interval_of_one_or_no_patient_is_unknown() -> None:
    for found in clustered_intervals([0.25, 0.75, np.nan], ["a", "a", "b"]):
        assert (found.value, found.n) == (0.5, 1)
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    for found in clustered_intervals([], []):
        assert found.n == 0
        assert math.isnan(found.value)


def test_draws_follow_the_seed() -> None:
    values, patients = np.random.default_rng(6).normal(size=40), [f"p{number // 4}" for number in range(40)]
    first, again, other = (clustered_intervals(values, patients, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


@pytest.mark.parametrize(("patients", "resamples"), [(["a"], 10), (["a", "b"], 0)])
def test_intervals_refuse_bad_input(patients: list[str], resamples: int) -> None:
    with pytest.raises(ValueError, match=r"patients for values|at least one"):
        clustered_intervals([0.0, 1.0], patients, resamples=resamples)


def test_patients_are_compared_by_means_over_their_complete_pairs() -> None:
    patients = [f"p{number}" for number in range(8) for _ in range(2)]
    ours, theirs = np.zeros(16), np.zeros(16)
    ours[::2] = [1, 2, 3, 4, 5, 6, -7, 8]
    theirs[1] = np.nan  # leaves p0 the pair (1, 0): its mean is 1, not 0.5
    ours[14:] = np.nan  # leaves p7 nothing
    found = compare(ours, theirs, patients)
    test = found.patients.test
    # Means 1, 1, 1.5, 2, 2.5, 3, -3.5: ranks 1.5, 1.5, 3, 4, 5, 6, -7.
    assert (test.n, test.n_missing, test.n_zero, test.statistic) == (7, 1, 0, 7.0)
    assert test.effect == pytest.approx((21 - 7) / 28)
    assert test.p == pytest.approx(normal_p(21, 7, ties=(2,)), rel=1e-12)
    assert found.patients.difference.value == pytest.approx((1 + 1 + 1.5 + 2 + 2.5 + 3 - 3.5) / 7)
    assert found.patients.difference.n == found.slices.difference.n == 7
    assert (found.slices.test.n, found.slices.test.n_zero, found.slices.test.n_missing) == (13, 6, 3)
    assert found.slices.difference.value == pytest.approx(14 / 13)


def table(shift: float, seed: int, *, metrics: tuple[str, ...] = ("mse", "ssim")) -> SliceValues:
    rng = np.random.default_rng(seed)
    return SliceValues.joined(
        (f"p{number}", np.arange(3), {name: rng.normal(shift, 1.0, 3) for name in metrics}) for number in range(10)
    )


def test_a_family_is_adjusted_over_methods_and_metrics_for_slices_and_patients() -> None:
    ours, others = table(0.0, 1), {"near": table(0.1, 2), "far": table(3.0, 3)}
    family = compare_methods(ours, others, resamples=200, seed=7)
    assert [(c.method, c.metric) for c in family.comparisons] == [
        ("near", "mse"), ("near", "ssim"), ("far", "mse"), ("far", "ssim"),
    ]  # fmt: skip
    for level in ("slices", "patients"):
        raw = {number: getattr(c, level).test.p for number, c in enumerate(family.comparisons)}
        assert [getattr(c, level).p_holm for c in family.comparisons] == list(holm(raw).values())
    far = family.comparisons[2]
    assert far.patients.test.n == 10
    assert far.slices.test.n == 30
    assert far.patients.p_holm < 0.05 < family.comparisons[0].patients.p_holm
    assert far.patients.difference.high < 0.0  # ours minus theirs
    alone = compare(ours.values["mse"], others["far"].values["mse"], ours.patients, resamples=200, seed=7)
    assert far.slices.difference == alone.slices.difference
    assert alone.slices.p_holm is None


def test_a_family_as_plain_values() -> None:
    ours = table(0.0, 1)
    family = compare_methods(ours, {"same": ours, "far": table(3e-7, 1)}, metrics=["ssim"], resamples=50)
    read = json.loads(json.dumps(family.to_json(), allow_nan=False))
    same, far = read["comparisons"]
    assert same["patients"]["reason"] == "all differences are zero"
    assert same["patients"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 10}
    assert (same["slices"]["p"], same["slices"]["p_holm"], same["slices"]["p_holm_text"]) == (None, None, "n/a")
    # Small differences keep their digits: an MSE is of this size.
    assert far["slices"]["difference"]["value"] == pytest.approx(-3e-7, rel=1e-6)
    assert far["patients"]["p_holm"] == pytest.approx(2 * far["patients"]["p"])
    assert "2 comparisons" in read["adjustment"]
    assert json.dumps(compare([1.0], [0.0], ["a"]).to_json(), allow_nan=False)  # an unknown interval, too


def test_what_is_not_paired_is_refused() -> None:
    ours = table(0.0, 1)
    turned = SliceValues(ours.patients[::-1], ours.slices, ours.values)
    moved = SliceValues(ours.patients, ours.slices + 1, ours.values)
    for other in (turned, moved):
        with pytest.raises(ValueError, match="far was not scored on the same slices"):
            compare_methods(ours, {"far": other})
    with pytest.raises(ValueError, match="far has no ssim"):
        compare_methods(ours, {"far": table(0.0, 1, metrics=("mse",))})
    with pytest.raises(ValueError, match="ours has no nrmse"):
        compare_methods(ours, {}, metrics=["nrmse"])
    with pytest.raises(ValueError, match="one length"):
        SliceValues(ours.patients[1:], ours.slices, ours.values)
    with pytest.raises(ValueError, match="no volume"):
        SliceValues.joined([])
    with pytest.raises(ValueError, match="different metrics"):
        SliceValues.joined([("a", np.arange(1), {"mse": np.zeros(1)}), ("b", np.arange(1), {"ssim": np.zeros(1)})])
    twice: Comparison = compare([0.0, 1.0], [0.0, 0.0], ["a", "b"], resamples=5)
    with pytest.raises(ValueError, match="once in a family"):
        adjusted([twice, twice])


def test_scores_of_volumes_become_columns() -> None:
    cases = [drawn_case(1), drawn_case(2, centre="B", n_slices=5)]
    scores = [score_volume(case, case.target_slices() * 0.5, spacing_mm=CONTRACT.grid_spacing_mm) for case in cases]
    values = SliceValues.of(scores, region="lesion")
    assert values.patients == ("A/A-1",) * 3 + ("B/B-2",) * 4
    assert values.slices.tolist() == [1, 2, 3, 1, 2, 3, 4]
    assert set(values.values) == set(METRICS)
    assert values.values["mae"][3:].tolist() == scores[1].against["dwi"]["lesion"].metric("mae").tolist()
    one = SliceValues.of(scores, truth="dwi_clean", metrics=["mse"], patient_of=lambda facts: facts.source)
    assert set(one.patients) == {"phantom"}
    assert one.values["mse"][0] == scores[0].against["dwi_clean"]["brain"].metric("mse")[0]
