"""What a note says, the same in the report and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from dicom_node.derive.origin import ascii_text
from dicom_node.dicom.companion_labels import NOT_PROCESSED
from dicom_node.dicom.refusal_words import ABSENCE, figure_lines, words_for
from dicom_node.dicom.text_page import Line

DESCRIPTION: Final = "NOT PROCESSED - no synthetic series (AI) - RESEARCH"


@dataclass(frozen=True, slots=True)
class NoteText:
    """The parts of a note, ASCII.

    Attributes
    ----------
    headline, software, series : str
        What happened, by which software, to which series.
    why, detail, advice : str
        In plain words; in the words of the node, with numbers; what to do.
    code : str
        Reason code.
    figures : tuple of str
        Numbers behind it.
    """

    headline: str
    software: str
    series: str
    why: str
    detail: str
    advice: str
    code: str
    figures: tuple[str, ...]

    @classmethod
    def of(cls, code: str, reason: str, figures: Mapping[str, object], series_number: int | None) -> NoteText:
        """Text of a refusal."""
        words = words_for(code)
        series = "this CT series" if series_number is None else f"CT series {series_number}"
        return cls(
            headline=NOT_PROCESSED,
            software="RESEARCH SOFTWARE jmmda-node - not for diagnosis",
            series=f"No synthetic series for {series}.",
            why=words.why,
            detail=ascii_text(reason)[:400],
            advice=words.advice,
            code=ascii_text(code)[:64],
            figures=figure_lines(figures),
        )

    def page(self) -> tuple[Line, ...]:
        """Lines of the page."""
        return tuple(self._page())

    def _page(self) -> Iterator[Line]:
        gap = Line("")
        yield from (Line(self.headline, 6), Line(self.software, 3), gap, Line(self.series, 4), gap)
        yield from (Line(f"Why: {self.why}"), gap, Line(f"What to do: {self.advice}"), gap)
        yield from (Line(ABSENCE), gap, Line(f"Reason code: {self.code}"))
        # What falls off a full page comes last.
        yield from (Line(f"Seen: {self.detail}"), *(Line(figure) for figure in self.figures))
