"""The table of every series of a study with its reason: one for `series show` and for `synthesize --explain`.

Both print verdicts of `dicom_node.dicom.choice`; the node has kept them as events of the ledger, a folder is judged on
the spot. Series are named by number and UID, never by their description, where anything may stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.table import Table

from dicom_node.dicom.choice import CHOSEN, SeriesVerdict, in_order

if TYPE_CHECKING:
    from dicom_node.ledger.verdicts import VerdictView

_NOT_JUDGED: Final = "not_judged"
#: More columns than any row needs.
_ANY_WIDTH: Final = 10_000


@dataclass(frozen=True, slots=True)
class Judged:
    """One row: a verdict, and where the series stands now (empty for a folder)."""

    verdict: SeriesVerdict
    state: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {**self.verdict.to_json(), **({"state": self.state} if self.state else {})}


def judged_in_ledger(views: Sequence[VerdictView]) -> list[Judged]:
    """Make rows of what the ledger remembers of the series of one study, in the order of `in_order`."""
    rows = {view.series_instance_uid: Judged(_verdict_of(view), view.state) for view in views}
    return [rows[verdict.series_instance_uid] for verdict in in_order(row.verdict for row in rows.values())]


def _verdict_of(view: VerdictView) -> SeriesVerdict:
    if view.verdict is None:
        code, reason = view.code or _NOT_JUDGED, view.reason or f"the series is {view.state}"
        return SeriesVerdict(view.series_instance_uid, False, False, 0.0, code, reason, instances=view.instances)
    verdict = SeriesVerdict.from_json({**view.verdict, "chosen": view.chosen})
    if verdict.code == CHOSEN and not view.chosen:
        # Chosen once, and then refused or replaced: the present reason says why it is the chosen one no more.
        verdict = replace(verdict, code=view.code or verdict.code, reason=view.reason or verdict.reason)
    return verdict


@dataclass(frozen=True, slots=True)
class _OneLineEach:
    """A table whose rows are never broken to the width of the console, so that a search finds a series whole."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield from console.render(self.table, options.update(width=_ANY_WIDTH))


def choice_table(rows: Sequence[Judged]) -> Table:
    """Table of the series of one study; the chosen one first, marked by an arrow."""
    with_state = any(row.state for row in rows)
    table = Table(title="Series of the study", title_justify="left", box=None, padding=(0, 2, 0, 0))
    headings = ["", "series", "images", "mm", "coverage mm", "score", *(["state"] if with_state else []), "code"]
    for heading in [*headings, "reason"]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        one = row.verdict
        table.add_row(
            "=>" if one.chosen else "",
            "?" if one.series_number is None else str(one.series_number),
            str(one.instances) if one.images == one.instances else f"{one.images} of {one.instances}",
            _number(one.thickness_mm),
            _number(one.coverage_mm),
            f"{one.score:.2f}" if one.eligible else "-",
            *([row.state] if with_state else []),
            one.code,
            one.reason,
        )
    return table


def print_choice(console: Console, study_instance_uid: str, rows: Sequence[Judged]) -> None:
    """Print the table, what each score is the sum of, and the UID that belongs to each number."""
    console.print(f"study {study_instance_uid}", highlight=False)
    console.print(_OneLineEach(choice_table(rows)), soft_wrap=True)
    for row in rows:
        one = row.verdict
        number = "?" if one.series_number is None else str(one.series_number)
        points = ", ".join(f"{name} {value:+g}" for name, value in one.points.items() if value)
        text = f"  series {number}: {one.series_instance_uid}" + (f" ({one.score:g} = {points})" if points else "")
        console.print(text, highlight=False)


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
