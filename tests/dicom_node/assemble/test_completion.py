"""When a series counts as complete: each sign, and each combination that matters.

Left out: where the evidence comes from (`test_sweep`).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from dicom_node.assemble.completion import Evidence, Sign, judge
from dicom_node.settings import GeometrySettings, IntakeSettings

INTAKE = IntakeSettings()
GEOMETRY = GeometrySettings()
WHOLE = Evidence(
    offsets_mm=[5.0 * k for k in range(28)],
    instances=28,
    expected=None,
    candidate=True,
    association_open=False,
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
        {"offsets_mm": [5.0 * k for k in range(28) if k != 13]},
        {"offsets_mm": [5.0 * k for k in range(7)], "instances": 7},
        {"offsets_mm": [1.0 * k for k in range(60)], "instances": 60},
        {"offsets_mm": [], "instances": 28},
        {"expected": 30},
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
    assert _complete(offsets_mm=list(reversed(WHOLE.offsets_mm)))


def test_more_than_announced_is_no_reason_to_wait():
    assert _complete(expected=28)
    assert _complete(expected=14)


def test_what_can_never_be_chosen_need_not_be_whole():
    assert _complete(candidate=False, offsets_mm=[], instances=1, expected=5)
    assert not _complete(candidate=False, offsets_mm=[], instances=1, association_open=True)


def test_a_sender_that_never_stops_meets_the_hard_cap():
    assert not _complete(quiet_s=0.0, association_open=True, age_s=599.0)
    assert judge(replace(WHOLE, quiet_s=0.0, association_open=True, age_s=600.0), INTAKE, GEOMETRY).complete


def test_repeated_positions_are_no_gap():
    assert _complete(offsets_mm=[*WHOLE.offsets_mm, *WHOLE.offsets_mm[:3]], instances=31)
