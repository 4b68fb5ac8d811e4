"""A table of an experiment before and after printing: rows with their scores, and a grid of cells with a caption."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from train.evaluation.targets import MEASURED
from train.experiments.pooling import Pooled, RowScores, lower_is_better
from train.experiments.records import Table
from train.experiments.statistics import Comparison, Family

DASH = "-"
_ORACLE_WORDS = {"brain_of_dwi": "brain of the measured DWI", "lesion": "true lesion"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, and the heading that it shares with its neighbours."""

    name: str
    group: str = ""

    @property
    def heading(self) -> str:
        """Both in one line."""
        return f"{self.group} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as printed.

    Attributes
    ----------
    key : str
        Within its experiment, for labels and links.
    title : str
        Caption; names the data, oracle masks and the mark of the budget.
    columns, rows
        Every row has a cell a column; the first is what the row is called.
    notes : tuple of str
        Sentences below the table.
    best : frozenset of (int, int)
        Cells (row, column) that stand out as the best of their column.
    ours : int or None
        Row of ours.
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    best: frozenset[tuple[int, int]] = frozenset()
    ours: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TableScores:
    """A table with what its rows scored.

    Attributes
    ----------
    table : Table
        What was asked for.
    rows : tuple of RowScores
        In its order.
    data : str
        ``Phantom``, or ``Patients`` with the archive.
    mark : str
        What the budget has to say of every table; empty where rows may be ranked.
    families : Mapping[str, Family]
        ``brain``, ``frame`` and ``superpixel`` -> ours against every other row; empty when there is a mark.
    """

    table: Table
    rows: tuple[RowScores, ...]
    data: str
    mark: str
    families: Mapping[str, Family] = field(default_factory=dict)

    @property
    def scored(self) -> tuple[RowScores, ...]:
        """Rows with scores."""
        return tuple(row for row in self.rows if row.scores)

    @property
    def ours(self) -> int | None:
        """Number of the row that the others are compared with."""
        return next((index for index, row in enumerate(self.rows) if row.row.label == self.table.ours), None)

    def comparison(self, family: str, row: RowScores, metric: str) -> Comparison | None:
        """Ours against a row in one metric; None where there is none."""
        found = self.families[family].comparisons if family in self.families else ()
        return next((c for c in found if (c.method, c.metric) == (row.row.label, metric)), None)

    def caption(self, part: str) -> str:
        """Title of one part of the table, with all that a reader must not overlook."""
        sentences = (self.data, self.table.title, part, self._oracles(), self.mark)
        return " ".join(f"{words[0].upper()}{words[1:].rstrip('.')}." for words in sentences if words)

    def _oracles(self) -> str:
        """Rows whose mask knows the answer."""
        oracles = [(row.label, _ORACLE_WORDS[row.test.mask]) for row in self.table.rows if row.test.is_oracle]
        rows = [label if words in label else f"{label}: {words}" for label, words in oracles]
        return f"Masks that know what is to be predicted (oracles): {'; '.join(rows)}" if rows else ""

    def name(self, row: RowScores) -> str:
        """Name of a row, which says so when its mask is an oracle."""
        oracle = row.row.test.is_oracle and "oracle" not in row.row.label.lower()
        return f"{row.row.label} (oracle)" if oracle else row.row.label

    def label(self, row: RowScores) -> str:
        """Name of a row with the sign of its footnote, see `notes`."""
        if len(row.scores) == row.n_wanted:
            return self.name(row)
        return f"{self.name(row)} {'‡' if row.scores else '†'}"

    def notes(self) -> tuple[str, ...]:
        """Footnotes of rows without scores or with too few seeds, what brackets mean, and the table's own."""
        notes = []
        if missing := [_with_reasons(row, row.row.label) for row in self.rows if not row.scores]:
            notes.append(f"† Not trained or not scored: {', '.join(missing)}.")
        partly = [row for row in self.scored if len(row.scores) < row.n_wanted]
        if partly:
            rows = [_with_reasons(row, f"{row.row.label}, {len(row.scores)} of {row.n_wanted}") for row in partly]
            notes.append(f"‡ Fewer seeds than asked for: {'; '.join(rows)}.")
        if any(len(row.scores) > 1 for row in self.rows):
            notes.append("Means over seeds of each seed's figures; in square brackets the deviation of seeds.")
        return (*notes, self.table.note) if self.table.note else tuple(notes)

    def counts(self, name: str) -> str:
        """On how many slices and patients a metric rests."""
        figures = [row.figure(name) for row in self.scored]
        return f"{_range([f.n for f in figures])} slices of {_range([f.n_patients for f in figures])} patients."

    def best(self, columns: Mapping[int, tuple[str, str]]) -> frozenset[tuple[int, int]]:
        """Best cell of columns, each given as metric and attribute of its figure.

        None where rows must not be ranked or have different test sets; the measured DWI and oracles do not compete.
        """
        if self.mark or len({row.row.test for row in self.rows}) > 1:
            return frozenset()
        cells = set()
        for column, (name, key) in columns.items():
            sign = -1.0 if lower_is_better(name) else 1.0
            worth = {
                index: sign * getattr(row.figure(name), key)
                for index, row in enumerate(self.rows)
                if row.row.control != MEASURED and not row.row.test.is_oracle
            }
            known = {index: value for index, value in worth.items() if not math.isnan(value)}
            if len(known) > 1:
                cells.add((max(known, key=lambda index: known[index]), column))
        return frozenset(cells)


def _with_reasons(row: RowScores, words: str) -> str:
    return f"{words} ({'; '.join(row.reasons)})" if row.reasons else words


def _range(numbers: list[int]) -> str:
    low, high = min(numbers, default=0), max(numbers, default=0)
    return f"{low}" if low == high else f"{low} to {high}"


def text(value: float, digits: int) -> str:
    """A number, or a dash for nan."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def mean_sd(mean: float, sd: float, digits: int, seed_sd: float = math.nan) -> str:
    """Mean and deviation; the deviation of seeds follows in square brackets."""
    printed = text(mean, digits)
    if not math.isnan(sd):
        printed += f" ± {text(sd, digits)}"
    return printed if math.isnan(seed_sd) else f"{printed} [{text(seed_sd, digits)}]"


def pooled_text(figure: Pooled, digits: int) -> str:
    """A pooled figure with its interval, or with the deviation of seeds."""
    printed = text(figure.value, digits)
    if not math.isnan(figure.low):
        printed += f" ({text(figure.low, digits)} to {text(figure.high, digits)})"
    return printed if math.isnan(figure.seed_sd) else f"{printed} [{text(figure.seed_sd, digits)}]"
