"""When a series is complete: several signs that must agree, and timers for when they cannot.

One quiet timer alone is paid for with waiting or with torn series. Here the usual series is complete two seconds after
its association closed, because its source says that this is all, or else because its slices lie without a gap and cover
a head. The quiet timer serves those that cannot show this, longer patience those of which the source holds more, and
the hard cap the sender that never stops. What fired is stored with the series; docs/completion.md has the whole table.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from dicom_node.settings import GeometrySettings, IntakeSettings


class Sign(Enum):
    """One sign that a series is complete; the value is what `series show` prints."""

    ASSOCIATION_CLOSED = "no association of this peer is open, and the last one was released"
    OWN_ASSOCIATIONS_CLOSED = "no association that brought any of it is open"
    CONTIGUOUS = "the positions have no gap"
    SUFFICIENT = "number and coverage of the slices suffice"
    EXPECTED_COUNT = "ImagesInAcquisition is reached"
    HEADER_COUNT = "NumberOfSeriesRelatedInstances of the header is reached"
    SOURCE_COUNT = "all that its source holds is here (C-FIND)"
    NOT_A_CANDIDATE = "nothing of this kind is processed, so there is nothing to wait for"
    SETTLED = "settle_s without a new instance"
    QUIET = "quiet_s without a new instance"
    PATIENCE = "expected_patience_s without a new instance"
    HARD_CAP = "hard_cap_s since the first instance"


#: A step this much longer than it should be is a gap for the purpose of waiting (the gate judges for itself).
_GAP_FACTOR: Final = 1.5
#: Positions closer than this are the same.
_SAME_MM: Final = 0.01


class Slice(NamedTuple):
    """Where a slice lies along its normal, and its nominal thickness where the header tells it, mm."""

    offset_mm: float
    thickness_mm: float | None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many instances a series should have, by whoever says so; None where nobody does.

    Attributes
    ----------
    acquisition : int or None
        ImagesInAcquisition (0020,1002), which counts an acquisition, not a series: it may only ask for patience.
    header : int or None
        NumberOfSeriesRelatedInstances (0020,1209) of the instances, as some archives write it when they send.
    source : int or None
        What the source answered to a C-FIND.
    source_is_fresh : bool
        Whether it was asked after the last instance came. A count that is reached may grow until then.
    """

    acquisition: int | None = None
    header: int | None = None
    source: int | None = None
    source_is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a series that is being received.

    Attributes
    ----------
    slices : sequence of Slice
        Its slices, in any order; those without a position are left out.
    instances : int
        Number of its instances.
    counts : Counts
        How many there should be.
    candidate : bool
        False when its first instance already tells that such a series is never processed.
    association_open : bool
        Whether the peer that sent it has an open association.
    own_association_open : bool
        Whether an association is open that brought some of it.
    interrupted : bool
        Whether the last association that brought some of it was aborted, and the peer has not released one since.
    quiet_s, age_s : float
        Seconds since the last and the first instance.
    """

    slices: Sequence[Slice]
    instances: int
    counts: Counts
    candidate: bool
    association_open: bool
    own_association_open: bool
    interrupted: bool
    quiet_s: float
    age_s: float

    @property
    def awaited(self) -> bool:
        """Whether the source holds more than has come."""
        return self.counts.source is not None and self.instances < self.counts.source


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
    if Sign.HARD_CAP in seen or Sign.NOT_A_CANDIDATE in seen:
        complete = Sign.HARD_CAP in seen or _closed_and_settled(seen) or Sign.QUIET in seen
    elif evidence.awaited:
        complete = Sign.PATIENCE in seen
    elif Sign.SOURCE_COUNT in seen:
        own = seen & {Sign.ASSOCIATION_CLOSED, Sign.OWN_ASSOCIATIONS_CLOSED}
        complete = (Sign.SETTLED in seen and bool(own)) or Sign.QUIET in seen
    else:
        complete = (_closed_and_settled(seen) and _looks_whole(evidence, seen)) or Sign.QUIET in seen
    return Completion(complete, tuple(sign for sign in Sign if sign in seen))


def _closed_and_settled(seen: set[Sign]) -> bool:
    return {Sign.ASSOCIATION_CLOSED, Sign.SETTLED} <= seen


def _looks_whole(evidence: Evidence, seen: set[Sign]) -> bool:
    """Judge without the source. Fewer than a header announces may be all there is, so that only asks for patience."""
    if evidence.counts.header is not None:
        return Sign.HEADER_COUNT in seen
    if evidence.counts.acquisition is not None and Sign.EXPECTED_COUNT not in seen:
        return False
    return {Sign.CONTIGUOUS, Sign.SUFFICIENT} <= seen


def _signs(evidence: Evidence, intake: IntakeSettings, geometry: GeometrySettings) -> set[Sign]:
    steps = _steps(evidence.slices)
    counts, closed = evidence.counts, not evidence.association_open and not evidence.interrupted
    checks = {
        Sign.ASSOCIATION_CLOSED: closed,
        Sign.OWN_ASSOCIATIONS_CLOSED: not closed and not evidence.own_association_open,
        Sign.CONTIGUOUS: _contiguous(steps),
        Sign.SUFFICIENT: len(steps) + 1 >= geometry.min_slices and _coverage_mm(steps) >= geometry.min_coverage_mm,
        Sign.EXPECTED_COUNT: counts.acquisition is not None and evidence.instances >= counts.acquisition,
        Sign.HEADER_COUNT: counts.header is not None and evidence.instances >= counts.header,
        # More than the source holds means that it is still being filled itself, which says nothing.
        Sign.SOURCE_COUNT: counts.source_is_fresh and evidence.instances == counts.source,
        Sign.NOT_A_CANDIDATE: not evidence.candidate,
        Sign.SETTLED: evidence.quiet_s >= intake.settle_s,
        Sign.QUIET: evidence.quiet_s >= intake.quiet_s,
        Sign.PATIENCE: evidence.awaited and evidence.quiet_s >= max(intake.quiet_s, intake.expected_patience_s),
        Sign.HARD_CAP: evidence.age_s >= intake.hard_cap_s,
    }
    return {sign for sign, seen in checks.items() if seen}


def _steps(slices: Sequence[Slice]) -> list[tuple[float, float | None]]:
    """Return for each pair of neighbouring positions their distance and the larger thickness, mm."""
    ordered = sorted(slices, key=lambda one: one.offset_mm)
    steps: list[tuple[float, float | None]] = []
    for one, other in itertools.pairwise(ordered):
        if other.offset_mm - one.offset_mm > _SAME_MM:
            known = [thickness for thickness in (one.thickness_mm, other.thickness_mm) if thickness is not None]
            steps.append((other.offset_mm - one.offset_mm, max(known, default=None)))
    return steps


def _contiguous(steps: Sequence[tuple[float, float | None]]) -> bool:
    """Tell whether no slice is missing inside.

    Heads are often scanned in two thicknesses, so a step is measured by the thickness of its own two slices. Stacks
    with planned distances between the slices show it by even steps.
    """
    if not steps:
        return False
    distances = sorted(distance for distance, _ in steps)
    if all(thickness is not None and distance <= _GAP_FACTOR * thickness for distance, thickness in steps):
        return True
    unknown = any(thickness is None for _, thickness in steps)
    return distances[-1] <= _GAP_FACTOR * distances[len(distances) // 2 if unknown else 0]


def _coverage_mm(steps: Sequence[tuple[float, float | None]]) -> float:
    """Return the length covered with one usual step at the ends, mm."""
    distances = sorted(distance for distance, _ in steps)
    return sum(distances) + distances[len(distances) // 2] if distances else 0.0
