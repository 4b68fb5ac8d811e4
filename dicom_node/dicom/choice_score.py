"""The score of an eligible series: a sum of points whose weights are settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from dicom_node.dicom.choice_facts import SeriesFacts
from dicom_node.dicom.choice_words import matching_word
from dicom_node.dicom.gate import GateOutcome, GateStatus, check_stack
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings

__all__ = ["TERMS", "Score", "Term", "score_of"]


@dataclass(frozen=True, slots=True)
class Score:
    """Points of one series by term, and the code with which the geometry gate would refuse it (None: it would not)."""

    points: Mapping[str, float]
    refused: str | None

    @property
    def total(self) -> float:
        """The sum."""
        return round(sum(self.points.values()), 3)


@dataclass(frozen=True, slots=True)
class Term:
    """One term of the sum: its points, what they are for, and the settings that weigh it."""

    points: Callable[[SeriesFacts, GateOutcome, SelectionSettings], float]
    meaning: str
    settings: tuple[str, ...]


def score_of(facts: SeriesFacts, settings: SelectionSettings, thresholds: GeometrySettings) -> Score:
    """Score a series that no rule objects to.

    Parameters
    ----------
    facts : SeriesFacts
        The series.
    settings : SelectionSettings
        Weights and preferences.
    thresholds : GeometrySettings
        Section ``[geometry]``, by which the gate would judge.
    """
    # Pixels are not read for a score: slices at one position are taken for copies here, and the gate looks later.
    outcome = check_stack(facts.headers, thresholds, pixel_digest=lambda header: "")
    points = {name: round(term.points(facts, outcome, settings), 3) + 0.0 for name, term in TERMS.items()}
    return Score(points, outcome.code if outcome.status is GateStatus.REFUSE else None)


def _geometry(facts: SeriesFacts, outcome: GateOutcome, settings: SelectionSettings) -> float:
    return 0.0 if outcome.status is GateStatus.REFUSE else settings.score_geometry


def _thickness(facts: SeriesFacts, outcome: GateOutcome, settings: SelectionSettings) -> float:
    if facts.thickness_mm is None:
        return 0.0
    return -settings.score_thickness_per_mm * abs(facts.thickness_mm - settings.preferred_thickness_mm)


def _coverage(facts: SeriesFacts, outcome: GateOutcome, settings: SelectionSettings) -> float:
    return min(settings.score_coverage_per_mm * (facts.coverage_mm or 0.0), settings.score_coverage_most)


def _description(facts: SeriesFacts, outcome: GateOutcome, settings: SelectionSettings) -> float:
    return settings.score_description if matching_word(facts.descriptions, settings.prefer_description) else 0.0


def _body_part(facts: SeriesFacts, outcome: GateOutcome, settings: SelectionSettings) -> float:
    return settings.score_body_part if any(header.body_part_examined for header in facts.images) else 0.0


def _kernel(facts: SeriesFacts, outcome: GateOutcome, settings: SelectionSettings) -> float:
    return settings.score_kernel if all(header.convolution_kernel for header in facts.images) else 0.0


#: The terms in the order in which they are shown.
TERMS: Final[Mapping[str, Term]] = {
    "geometry": Term(_geometry, "the geometry gate would let the series pass", ("score_geometry",)),
    "thickness": Term(
        _thickness,
        "taken off for each mm between the median slice thickness and the preferred one",
        ("score_thickness_per_mm", "preferred_thickness_mm"),
    ),
    "coverage": Term(
        _coverage, "for each mm covered along the normal", ("score_coverage_per_mm", "score_coverage_most")
    ),
    "description": Term(
        _description, "a preferred word in the description", ("score_description", "prefer_description")
    ),
    "body_part": Term(_body_part, "BodyPartExamined names the head", ("score_body_part",)),
    "kernel": Term(_kernel, "ConvolutionKernel is known, and soft", ("score_kernel",)),
}
