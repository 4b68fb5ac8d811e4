"""When a series is complete: several signs that must agree, and timers for when they cannot.

One quiet timer alone is paid for with waiting or with torn series. Here the usual series is complete two seconds after
its association closed, because its slices lie without a gap and cover a head; the quiet timer serves those that cannot
show this, and the hard cap the sender that never stops. What fired is stored with the series.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from dicom_node.settings import GeometrySettings, IntakeSettings


class Sign(Enum):
    """One sign that a series is complete; the value is what `series show` prints."""

    ASSOCIATION_CLOSED = "no association of this peer is open"
    CONTIGUOUS = "the positions have no gap"
    SUFFICIENT = "number and coverage of the slices suffice"
    EXPECTED_COUNT = "ImagesInAcquisition is reached"
    NOT_A_CANDIDATE = "nothing of this kind is processed, so there is nothing to wait for"
    SETTLED = "settle_s without a new instance"
    QUIET = "quiet_s without a new instance"
    HARD_CAP = "hard_cap_s since the first instance"


#: A step this much longer than the usual one is a gap for the purpose of waiting (the gate judges for itself).
_GAP_FACTOR: Final = 1.5
#: Positions closer than this are the same.
_SAME_MM: Final = 0.01


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a series that is being received.

    Attributes
    ----------
    offsets_mm : sequence of float
        Positions of its slices along their normal, in any order; slices without a position are left out.
    instances : int
        Number of its instances.
    expected : int or None
        ImagesInAcquisition (0020,1002), where it is there.
    candidate : bool
        False when its first instance already tells that such a series is never processed.
    association_open : bool
        Whether the peer that sent it has an open association.
    quiet_s, age_s : float
        Seconds since the last and the first instance.
    """

    offsets_mm: Sequence[float]
    instances: int
    expected: int | None
    candidate: bool
    association_open: bool
    quiet_s: float
    age_s: float


@dataclass(frozen=True, slots=True)
class Completion:
    """The verdict: complete or not, and the signs seen."""

    complete: bool
    signs: tuple[Sign, ...]


def judge(evidence: Evidence, intake: IntakeSettings, geometry: GeometrySettings) -> Completion:
    """Tell whether a series is complete.

    Parameters
    ----------
    evidence : Evidence
        What is known.
    intake : IntakeSettings
        The timers.
    geometry : GeometrySettings
        Smallest number of slices and coverage that the geometry gate accepts.

    Returns
    -------
    Completion
        With every sign that was seen, whether or not it was needed.
    """
    seen = _signs(evidence, intake, geometry)
    settled = {Sign.ASSOCIATION_CLOSED, Sign.SETTLED} <= seen
    whole = Sign.NOT_A_CANDIDATE in seen or {Sign.CONTIGUOUS, Sign.SUFFICIENT} <= seen
    # Fewer than ImagesInAcquisition may be all there is (one of two reconstructions), so it only asks for patience.
    patient = evidence.expected is None or Sign.EXPECTED_COUNT in seen or Sign.NOT_A_CANDIDATE in seen
    complete = (settled and whole and patient) or Sign.QUIET in seen or Sign.HARD_CAP in seen
    return Completion(complete, tuple(sign for sign in Sign if sign in seen))


def _signs(evidence: Evidence, intake: IntakeSettings, geometry: GeometrySettings) -> set[Sign]:
    steps, coverage_mm = _steps(evidence.offsets_mm)
    checks = {
        Sign.ASSOCIATION_CLOSED: not evidence.association_open,
        Sign.CONTIGUOUS: bool(steps) and steps[-1] <= _GAP_FACTOR * steps[len(steps) // 2],
        Sign.SUFFICIENT: len(steps) + 1 >= geometry.min_slices and coverage_mm >= geometry.min_coverage_mm,
        Sign.EXPECTED_COUNT: evidence.expected is not None and evidence.instances >= evidence.expected,
        Sign.NOT_A_CANDIDATE: not evidence.candidate,
        Sign.SETTLED: evidence.quiet_s >= intake.settle_s,
        Sign.QUIET: evidence.quiet_s >= intake.quiet_s,
        Sign.HARD_CAP: evidence.age_s >= intake.hard_cap_s,
    }
    return {sign for sign, seen in checks.items() if seen}


def _steps(offsets_mm: Sequence[float]) -> tuple[list[float], float]:
    """Return the sorted steps between neighbouring positions, and the length covered with one step at the ends, mm."""
    ordered = sorted(offsets_mm)
    steps = sorted(b - a for a, b in itertools.pairwise(ordered) if b - a > _SAME_MM)
    if not steps:
        return [], 0.0
    return steps, ordered[-1] - ordered[0] + steps[len(steps) // 2]
