"""Grids of experiments as LaTeX tables with the rules of booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from train.experiments.layout import Column, Grid

#: What a document has to load.
PACKAGES = ("booktabs", "adjustbox")
#: Characters that LaTeX would take for commands, or that not every font has.
_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
    "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}",
    "†": r"\ensuremath{\dagger}",
    "‡": r"\ensuremath{\ddagger}",
    "[": "{[}",  # after \\ a bare bracket would be its argument
    "]": "{]}",
    "–": "--",
}
#: Powers of ten as p-values have them, and minus signs of numbers.
_POWER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)e([+-]?\d+)(?![\w.])")
_MINUS = re.compile(r"(?<![\w)-])-(?=\d)")


def escape(text: str) -> str:
    """Text for LaTeX; ``1.2e-05`` becomes a power of ten, and the minus of a number a minus sign."""
    parts, end = [], 0
    for found in _POWER.finditer(text):
        parts.append(_plain(text[end : found.start()]))
        parts.append(rf"\ensuremath{{{found[1]}\times10^{{{int(found[2])}}}}}")
        end = found.end()
    return "".join([*parts, _plain(text[end:])])


def _plain(text: str) -> str:
    numbers = _MINUS.split(text)
    return r"\ensuremath{-}".join("".join(_CHARACTERS.get(sign, sign) for sign in part) for part in numbers)


def latex_table(grid: Grid) -> str:
    """A grid as a floating table, scaled down where it is wider than the page.

    Parameters
    ----------
    grid : Grid
        Its title becomes the caption, its notes stand below the rows, its best cells are bold.
    """
    body = []
    for index, row in enumerate(grid.rows):
        cells = [escape(cell) for cell in row]
        bold = {column for line, column in grid.best if line == index} | ({0} if index == grid.ours else set())
        body.append(_line([rf"\textbf{{{cell}}}" if n in bold else cell for n, cell in enumerate(cells)]))
    lines = [
        f"% needs {' and '.join(PACKAGES)}",
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escape(grid.title)}}}",
        rf"\label{{tab:{grid.key}}}",
        r"\footnotesize",
        r"\begin{adjustbox}{max width=\linewidth}",
        rf"\begin{{tabular}}{{l{'r' * (len(grid.columns) - 1)}}}",
        r"\toprule",
        *_headings(grid.columns),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
        *([rf"\par\smallskip\parbox{{\linewidth}}{{{escape(' '.join(grid.notes))}}}"] if grid.notes else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _headings(columns: Sequence[Column]) -> list[str]:
    """One line of headings, or two where columns share one."""
    names = _line([escape(column.name) for column in columns])
    if not any(column.group for column in columns):
        return [names]
    cells, rules, start = [], [], 1
    for group, members in groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        cells.append(rf"\multicolumn{{{count}}}{{c}}{{{escape(group)}}}" if group else " & ".join([""] * count))
        if group:
            rules.append(rf"\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    return [_line(cells), "".join(rules), names]
