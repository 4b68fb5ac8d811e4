"""Splits: shares, strata, official and kept splits, no leakage (as properties), and the paper's split on slices.

Left out: that a cache keeps to them (test_prepare).
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.splits import SplitCase, SplitError, assign_splits, leaking_patients, slice_splits

CASES = st.lists(
    st.builds(
        SplitCase,
        patient=st.sampled_from([f"p{number}" for number in range(40)]),
        centre=st.sampled_from("AB"),
        lesion_ml=st.one_of(st.none(), st.floats(0, 300, allow_nan=False)),
    ),
    max_size=60,
)


def cohort(n: int, centre: str = "A") -> list[SplitCase]:
    return [SplitCase(f"{centre}{number:03d}", centre, float(number % 37)) for number in range(n)]


@given(CASES, st.randoms(use_true_random=False))
def test_no_patient_is_in_two_splits_and_the_order_of_cases_does_not_matter(cases, random) -> None:
    splits = assign_splits(cases)
    assert set(splits) == {case.patient for case in cases}
    # Every case of a patient gets the patient's one split.
    assert leaking_patients((case.patient, splits[case.patient]) for case in cases) == ()
    shuffled = list(cases)
    random.shuffle(shuffled)
    assert assign_splits(shuffled) == splits


def test_shares_hold_in_every_centre_and_every_tercile() -> None:
    cases = cohort(90) + cohort(60, "B")
    splits = assign_splits(cases)
    for centre, n in (("A", 90), ("B", 60)):
        own = sorted((case for case in cases if case.centre == centre), key=lambda case: case.lesion_ml)
        counts = Counter(splits[case.patient] for case in own)
        assert [counts[name] / n for name in ("train", "validation", "test")] == pytest.approx(
            [0.7, 0.1, 0.2], abs=0.02
        )
        for first in range(0, n, n // 3):
            # Within one of what the share is, and ties in volume may lie on either side of a tercile's border.
            part = Counter(splits[case.patient] for case in own[first : first + n // 3])
            assert part["test"] == pytest.approx(0.2 * n / 3, abs=2.01)
            assert part["train"] == pytest.approx(0.7 * n / 3, abs=3.01)


def test_the_seed_decides_and_the_default_never_changes() -> None:
    cases = cohort(30)
    assert assign_splits(cases) == assign_splits(cases, seed=2025) != assign_splits(cases, seed=1)
    # A changed rule would silently move patients of existing caches between training and test.
    tests = sorted(name for name, split in assign_splits(cases).items() if split == "test")
    assert tests == GOLDEN


#: Test patients of thirty cases under the rule as it is.
GOLDEN = ["A005", "A006", "A013", "A019", "A025", "A026"]


def test_an_official_test_list_stands_and_gets_nobody_else() -> None:
    cases = cohort(20)
    cases = [
        SplitCase(case.patient, case.centre, case.lesion_ml, official="test") if number < 5 else case
        for number, case in enumerate(cases)
    ]
    splits = assign_splits(cases)
    assert {name for name, split in splits.items() if split == "test"} == {case.patient for case in cases[:5]}
    assert Counter(splits.values())["validation"] == 2


def test_a_cache_that_grows_moves_nobody() -> None:
    first = assign_splits(cohort(15))
    grown = [SplitCase(case.patient, "A", case.lesion_ml, kept=first.get(case.patient)) for case in cohort(40)]
    second = assign_splits(grown)
    assert {name: second[name] for name in first} == first
    assert Counter(second.values())["train"] == pytest.approx(28, abs=1)


def test_a_run_that_was_cut_between_two_moves_decides_as_it_would_have() -> None:
    whole = assign_splits(cohort(25))
    half = [
        SplitCase(case.patient, "A", case.lesion_ml, kept=whole[case.patient] if number % 2 else None)
        for number, case in enumerate(cohort(25))
    ]
    assert assign_splits(half) == whole


def test_a_patient_wanted_in_two_splits_is_refused() -> None:
    cases = [SplitCase("p", "A", 1.0, official="train"), SplitCase("p", "A", 1.0, official="test")]
    with pytest.raises(SplitError, match="p is wanted in the splits test, train") as caught:
        assign_splits(cases)
    assert caught.value.code == "leak"


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.integers(0, 40), unique=True), max_size=6))
def test_the_split_on_slices_is_80_20_of_all_slices(slices) -> None:
    shares = slice_splits(slices)
    n = sum(map(len, slices.values()))
    assert sum(len(share.train) for share in shares.values()) == int(0.8 * n)
    for name, indices in slices.items():
        assert sorted(shares[name].train + shares[name].test) == sorted(indices)


def test_the_split_on_slices_leaks_and_matches_the_paper_s_counts() -> None:
    shares = slice_splits({f"p{number}": range(34) for number in range(228)} | {"last": range(26)})
    train = sum(len(share.train) for share in shares.values())
    test = sum(len(share.test) for share in shares.values())
    assert (train, test) == (6222, 1556)  # data set 1 of JEIT250643
    members = [(name, "train") for name, share in shares.items() if share.train]
    members += [(name, "test") for name, share in shares.items() if share.test]
    assert len(leaking_patients(members)) > 220
