"""What became of each case of a run of ``train prepare``: the record that resumes it, and the report about it."""

from __future__ import annotations

import csv
import html
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from train.data.cache import Split

REPORT_FOLDER: Final = "report"
QC_FOLDER: Final = "qc"
COLUMNS: Final = (
    "case",
    "centre",
    "outcome",
    "split",
    "brain ml",
    "lesion ml",
    "MI",
    "moved mm",
    "turned deg",
    "reason",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case.

    Attributes
    ----------
    name, centre, layout : str
        Case as the cache calls it, hospital, layout it was read from.
    code : str
        "taken", or the code of the refusal.
    reason : str
        Why it was refused; empty for a case that was taken.
    digest : str
        Of the inputs and settings it was made from.
    figures : Mapping[str, float]
        Numbers of the refusal.
    registration : Mapping[str, float]
        Figures of the registration, as far as it went.
    brain_ml, lesion_ml : float or None
        Volumes; a lesion of 0 is known to be none, None is not known.
    notes : tuple of str
        What was seen and did not forbid the case.
    official : str or None
        Split that the archive prescribes.
    split : str or None
        Split that the case got.
    picture : bool
        Whether there is a mosaic.
    """

    name: str
    centre: str
    layout: str
    code: str
    reason: str
    digest: str
    figures: Mapping[str, float] = field(default_factory=dict)
    registration: Mapping[str, float] = field(default_factory=dict)
    brain_ml: float | None = None
    lesion_ml: float | None = None
    notes: tuple[str, ...] = ()
    official: Split | None = None
    split: Split | None = None
    picture: bool = False

    @property
    def taken(self) -> bool:
        """Whether the case is in the cache."""
        return self.code == TAKEN

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome | None:
        """Read `to_json`'s form back; None when it is of another version."""
        if set(values) != {item.name for item in fields(cls)}:
            return None
        return cls(**{**values, "notes": tuple(values["notes"])})


TAKEN: Final = "taken"


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all, and flush it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_record(path: Path) -> Outcome | None:
    """Read the record of a case; None when there is none that can be used."""
    try:
        return Outcome.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def write_record(path: Path, outcome: Outcome) -> None:
    """Write the record of a case."""
    write_atomically(path, json.dumps(outcome.to_json(), indent=1))


def table_row(outcome: Outcome) -> tuple[str, ...]:
    """Texts of `COLUMNS` for one case."""
    numbers = outcome.registration
    return (
        outcome.name,
        outcome.centre,
        outcome.code,
        outcome.split or "",
        _number(outcome.brain_ml, 0),
        "unknown" if outcome.taken and outcome.lesion_ml is None else _number(outcome.lesion_ml, 1),
        _number(numbers.get("metric_after"), 3),
        _number(numbers.get("translation_mm"), 1),
        _number(numbers.get("rotation_deg"), 1),
        outcome.reason,
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts for the head of a report: taken by split, refused by code."""
    return {
        "cases": len(outcomes),
        "taken": sum(outcome.taken for outcome in outcomes),
        "splits": dict(sorted(Counter(outcome.split or "slice" for outcome in outcomes if outcome.taken).items())),
        "refused": dict(sorted(Counter(outcome.code for outcome in outcomes if not outcome.taken).items())),
    }


def write_report(folder: Path, outcomes: Sequence[Outcome], head: Mapping[str, Any]) -> None:
    """Write ``report.json``, ``report.csv`` and ``report.html``; ``head`` is JSON about the run.

    Raises
    ------
    OSError
        When one cannot be written; the earlier one of its name then stands.
    """
    content = {**head, **summary(outcomes), "outcomes": [outcome.to_json() for outcome in outcomes]}
    write_atomically(folder / "report.json", json.dumps(content, indent=1))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow([*COLUMNS, "figures", "notes"])
    for outcome in outcomes:
        figures = "; ".join(f"{name}={value:g}" for name, value in outcome.figures.items())
        writer.writerow([*table_row(outcome), figures, "; ".join(outcome.notes)])
    write_atomically(folder / "report.csv", table.getvalue())
    write_atomically(folder / "report.html", _page(outcomes, head))


_STYLE: Final = (
    "body{font:14px sans-serif;margin:2em}table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:3px 8px;"
    "text-align:left;vertical-align:top}.refused{background:#fdd}.warning{background:#fe9;padding:.5em}"
    "img{width:220px;display:block}small{color:#555}"
)


def _page(outcomes: Sequence[Outcome], head: Mapping[str, Any]) -> str:
    counts = summary(outcomes)
    warning = f'<p class="warning">{html.escape(str(head["warning"]))}</p>' if head.get("warning") else ""
    titles = "".join(f"<th>{html.escape(name)}</th>" for name in (*COLUMNS, "picture"))
    rows = "\n".join(_row(outcome) for outcome in outcomes)
    refused = ", ".join(f"{count} {code}" for code, count in counts["refused"].items()) or "none"
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>Prepared cases</title>"
        f"<style>{_STYLE}</style></head><body>\n<h1>Prepared cases</h1>\n{warning}"
        f"<p>{counts['taken']} of {counts['cases']} cases taken; refused: {html.escape(refused)}. MI is the mutual "
        "information of CT and diffusion volume (nats) after registration. Look at the pictures before training.</p>\n"
        f"<table><tr>{titles}</tr>\n{rows}\n</table></body></html>\n"
    )


def _row(outcome: Outcome) -> str:
    cells = [html.escape(text) for text in table_row(outcome)]
    if outcome.notes:
        cells[-1] += "".join(f"<br><small>{html.escape(note)}</small>" for note in outcome.notes)
    picture = f"{QC_FOLDER}/{html.escape(outcome.name)}.png"
    cells.append(
        f'<a href="{picture}"><img src="{picture}" alt="mosaic" loading="lazy"></a>' if outcome.picture else ""
    )
    return f'<tr class="{"taken" if outcome.taken else "refused"}">' + "".join(f"<td>{c}</td>" for c in cells) + "</tr>"
