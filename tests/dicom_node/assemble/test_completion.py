"""When a series counts as complete: each sign, and each combination that matters.

Left out: where the evidence comes from (`test_sweep`).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicom_node.assemble.completion import Counts, Evidence, Sign, Slice, judge
from dicom_node.settings import GeometrySettings, IntakeSettings

INTAKE = IntakeSettings()
GEOMETRY = GeometrySettings()
WHOLE = Evidence(
    slices=[Slice(5.0 * k, 5.0) for k in range(28)],
    instances=28,
    counts=Counts(),
    candidate=True,
    association_open=False,
    own_association_open=False,
    interrupted=False,
    quiet_s=2.1,
    age_s=5.0,
)


def _complete(**changes: object) -> bool:
    return judge(replace(WHOLE, **changes), INTAKE, GEOMETRY).complete  # type: ignore[arg-type]


def test_a_whole_head_is_complete_two_seconds_after_its_association_closed():
    verdict = judge(WHOLE, INTAKE, GEOMETRY)
    assert verdict.complete
    assert verdict.signs == (Sign.ASSOCIATION_CLOSED, Sign.CONTIGUOUS, Sign.SUFFICIENT, Sign.SETTLED)


@pytest.mark.parametrize(
    "changes",
    [
        {"quiet_s": 1.9},
        {"association_open": True},
        {"slices": [Slice(5.0 * k, 5.0) for k in range(28) if k != 13]},
        {"slices": [Slice(5.0 * k, 5.0) for k in range(7)], "instances": 7},
        {"slices": [Slice(1.0 * k, 1.0) for k in range(60)], "instances": 60},
        {"slices": [], "instances": 28},
        {"counts": Counts(acquisition=30)},
    ],
    ids=[
        "still moving",
        "association open",
        "gap",
        "few slices",
        "short stack",
        "no positions",
        "fewer than announced",
    ],
)
def test_anything_missing_waits_for_the_quiet_timer(changes: dict[str, object]):
    assert not _complete(**changes)
    assert _complete(**{**changes, "quiet_s": 10.0})


def test_the_order_of_arrival_does_not_matter():
    assert _complete(slices=list(reversed(WHOLE.slices)))


def test_more_than_announced_is_no_reason_to_wait():
    assert _complete(counts=Counts(acquisition=28))
    assert _complete(counts=Counts(acquisition=14))


def test_what_can_never_be_chosen_need_not_be_whole():
    assert _complete(candidate=False, slices=[], instances=1, counts=Counts(acquisition=5))
    assert not _complete(candidate=False, slices=[], instances=1, association_open=True)


def test_a_sender_that_never_stops_meets_the_hard_cap():
    assert not _complete(quiet_s=0.0, association_open=True, age_s=599.0)
    assert judge(replace(WHOLE, quiet_s=0.0, association_open=True, age_s=600.0), INTAKE, GEOMETRY).complete


def test_repeated_positions_are_no_gap():
    assert _complete(slices=[*WHOLE.slices, *WHOLE.slices[:3]], instances=31)


GAPPED = {"slices": [Slice(5.0 * k, 5.0) for k in range(30) if k not in (11, 12)]}


@pytest.mark.parametrize(
    "changes", [GAPPED, {"slices": [], "instances": 28}, {"slices": [Slice(0.0, 5.0)], "instances": 1}]
)
def test_what_the_source_confirms_is_complete_whatever_it_looks_like(changes: dict[str, object]):
    evidence = replace(WHOLE, **changes)  # type: ignore[arg-type]
    counts = Counts(source=evidence.instances, source_is_fresh=True)
    assert _complete(**changes, counts=counts)
    assert not _complete(**changes, counts=counts, quiet_s=1.9)
    assert not _complete(**changes, counts=replace(counts, source_is_fresh=False))
    assert not _complete(**changes, counts=counts, association_open=True, own_association_open=True)
    assert _complete(**changes, counts=counts, association_open=True)
    assert _complete(**changes, counts=counts, interrupted=True)


@pytest.mark.parametrize("fresh", [True, False])
def test_what_the_source_still_holds_is_waited_for_beyond_the_quiet_timer(fresh: bool):
    counts = Counts(source=29, source_is_fresh=fresh)
    assert not _complete(counts=counts, quiet_s=119.9)
    verdict = judge(replace(WHOLE, counts=counts, quiet_s=120.0), INTAKE, GEOMETRY)
    assert verdict.complete
    assert {Sign.PATIENCE, Sign.QUIET} <= set(verdict.signs)
    assert _complete(counts=counts, age_s=600.0)
    assert _complete(counts=counts, candidate=False)


def test_patience_is_never_shorter_than_the_quiet_timer():
    intake = IntakeSettings(quiet_s=30.0, expected_patience_s=1.0)
    waiting = replace(WHOLE, counts=Counts(source=29), quiet_s=29.0)
    assert not judge(waiting, intake, GEOMETRY).complete
    assert judge(replace(waiting, quiet_s=30.0), intake, GEOMETRY).complete


def test_a_source_that_holds_less_is_not_believed():
    counts = Counts(source=27, source_is_fresh=True)
    assert Sign.SOURCE_COUNT not in judge(replace(WHOLE, counts=counts), INTAKE, GEOMETRY).signs
    assert _complete(counts=counts)
    assert not _complete(counts=counts, **GAPPED)


def test_the_count_of_the_headers_confirms_or_asks_for_the_quiet_timer():
    assert _complete(counts=Counts(header=28), **GAPPED)
    assert _complete(counts=Counts(header=28, acquisition=40))
    assert not _complete(counts=Counts(header=29))
    assert _complete(counts=Counts(header=29), quiet_s=10.0)
    assert _complete(counts=Counts(header=29, source=28, source_is_fresh=True))


def test_an_aborted_association_is_no_end():
    assert not _complete(interrupted=True)
    assert not _complete(interrupted=True, candidate=False)
    assert _complete(interrupted=True, quiet_s=10.0)


def _mixed() -> list[Slice]:
    """Fourteen slices of 4 mm through the base, one step of overlap, fourteen of 7 mm above: an everyday head."""
    base = [Slice(4.0 * k, 4.0) for k in range(14)]
    return [*base, *(Slice(53.0 + 7.0 * k, 7.0) for k in range(14))]


def test_two_thicknesses_are_no_gap_but_a_slice_missing_in_either_part_is():
    assert _complete(slices=_mixed())
    for missing in range(1, 27):
        if missing not in (13, 14):  # where the parts overlap the neighbour fills in
            assert not _complete(slices=[one for k, one in enumerate(_mixed()) if k != missing]), missing


def test_planned_distances_between_the_slices_are_no_gap():
    spaced = [Slice(10.0 * k, 5.0) for k in range(15)]
    assert _complete(slices=spaced)
    assert not _complete(slices=[one for k, one in enumerate(spaced) if k != 7])


def test_without_thickness_the_usual_step_is_the_measure():
    bare = [Slice(5.0 * k, None) for k in range(28)]
    assert _complete(slices=bare)
    assert not _complete(slices=[one for k, one in enumerate(bare) if k != 7])
