"""The series choice: which series of a study is processed, and for each other one the reason why not.

Every series is asked the rules of `choice_rules.RULES` in turn; the first that objects rules it out and gives code and
reason. What is left is scored by `choice_score.TERMS`, and the best is chosen. Equal scores are decided by the lower
SeriesNumber, then by the SeriesInstanceUID, so the choice never depends on the order of arrival. The whole of it with
every code and setting is docs/selection.md, which `choice_page` writes from those two tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from typing import Any, Final

from dicom_node.dicom.choice_facts import SeriesFacts, facts_of
from dicom_node.dicom.choice_rules import Case, No, first_no
from dicom_node.dicom.choice_score import Score, score_of
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings
from dicom_node.dicom.values import SliceHeader

__all__ = ["BETTER_LATER", "CHOSEN", "NOT_PREFERRED", "SeriesVerdict", "choose_series", "in_order"]

CHOSEN: Final = "chosen"
NOT_PREFERRED: Final = "not_preferred"
#: Given by the assembler to a series that beats the chosen one, but came after the decision.
BETTER_LATER: Final = "better_series_late"


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """What the choice says of one series.

    Attributes
    ----------
    series_instance_uid : str
        The series.
    eligible : bool
        It could be processed.
    chosen : bool
        It is the one to process; at most one of a study.
    score : float
        0 for a series that is not eligible.
    code : str
        See docs/selection.md.
    reason : str
        One sentence for a person, without patient data and without text of the header.
    series_number : int or None
        As in the header.
    instances, images : int
        All instances, and CT images among them.
    thickness_mm, coverage_mm : float or None
        As measured for the rules; None where the headers do not tell.
    points : Mapping[str, float]
        What the score is the sum of; empty for a series that is not eligible.
    """

    series_instance_uid: str
    eligible: bool
    chosen: bool
    score: float
    code: str
    reason: str
    series_number: int | None = None
    instances: int = 0
    images: int = 0
    thickness_mm: float | None = None
    coverage_mm: float | None = None
    points: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SeriesVerdict:
        """Make a verdict of what `to_json` gave, or of a record of an older version, which has fewer keys.

        Raises
        ------
        TypeError
            When the record lacks one of the keys that every version has written.
        """
        known = {one.name for one in fields(cls)}
        return cls(**{key: value for key, value in record.items() if key in known})


def in_order(verdicts: Iterable[SeriesVerdict]) -> tuple[SeriesVerdict, ...]:
    """Sort verdicts for the eye: the chosen series, then by falling score, then what was ruled out by SeriesNumber."""

    def key(one: SeriesVerdict) -> tuple[bool, bool, float, int, str]:
        number = one.series_number if one.series_number is not None else 2**31
        return not one.chosen, not one.eligible, -one.score, number, one.series_instance_uid

    return tuple(sorted(verdicts, key=key))


def choose_series(
    series: Mapping[str, Sequence[SliceHeader]],
    rules: SelectionSettings,
    *,
    thresholds: GeometrySettings | None = None,
    today: date | None = None,
) -> tuple[SeriesVerdict, ...]:
    """Judge every series of a study and choose one, or none.

    Parameters
    ----------
    series : mapping of SeriesInstanceUID to sequence of SliceHeader
        All instances of the study, in any order.
    rules : SelectionSettings
        Section ``[selection]`` of the configuration.
    thresholds : GeometrySettings, optional
        Section ``[geometry]``: a series that the gate would refuse is chosen only when nothing else is eligible, so
        that the refusal with its numbers reaches the user.
    today : datetime.date, optional
        The present day, for ``max_study_age_days``; without it no study is too old.

    Returns
    -------
    tuple of SeriesVerdict
        One per series: the chosen one first, then by falling score, then by SeriesNumber.
    """
    limits = thresholds if thresholds is not None else GeometrySettings()
    candidates: list[tuple[Score, SeriesFacts]] = []
    verdicts: list[SeriesVerdict] = []
    for uid, headers in series.items():
        facts = facts_of(uid, headers)
        no = first_no(Case(facts, rules, today))
        if no is None:
            candidates.append((score_of(facts, rules, limits), facts))
        else:
            verdicts.append(_ruled_out(facts, no))
    candidates.sort(key=lambda entry: (-entry[0].total, entry[1].sorting_number, entry[1].uid))
    return in_order([*verdicts, *(_ranked(place, candidates) for place in range(len(candidates)))])


def _ruled_out(facts: SeriesFacts, no: No) -> SeriesVerdict:
    return _verdict(facts, eligible=False, chosen=False, score=0.0, code=no.code, reason=no.reason, points={})


def _ranked(place: int, candidates: Sequence[tuple[Score, SeriesFacts]]) -> SeriesVerdict:
    score, facts = candidates[place]
    best, best_facts = candidates[0]
    if place == 0:
        count = len(candidates)
        reason = (
            f"best of {count} eligible series, score {score.total:.1f}" if count > 1 else "the only eligible series"
        )
    else:
        reason = f"score {score.total:.1f}, the chosen series {best_facts.uid} has {best.total:.1f}"
    if score.refused is not None:
        reason += f"; the geometry gate would refuse it ({score.refused})"
    code = NOT_PREFERRED if place else CHOSEN
    return _verdict(
        facts, eligible=True, chosen=not place, score=score.total, code=code, reason=reason, points=score.points
    )


def _verdict(facts: SeriesFacts, **said: Any) -> SeriesVerdict:  # noqa: ANN401 - fields of SeriesVerdict
    return SeriesVerdict(
        series_instance_uid=facts.uid,
        series_number=facts.number,
        instances=len(facts.headers),
        images=len(facts.images),
        thickness_mm=_rounded(facts.thickness_mm),
        coverage_mm=_rounded(facts.coverage_mm),
        **said,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
