"""A table with one row per volume pair.

::

    <root>/
      pairs.csv        patient,centre,ct,dwi,brain,lesion,split
                       p01,north,a/ct.nii.gz,a/dwi.nii.gz,,a/lesion.nii.gz,train
                       p02,south,b/ct.nii.gz,b/dwi.nii.gz,,,test

Paths are relative to the table; ``patient``, ``ct`` and ``dwi`` (or ``adc``) are needed, the other columns and cells
may be empty or absent. A patient has one row: two pairs of one patient could fall into two splits. The root may also be
the table itself.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from train.data.readers.base import (
    AS_STORED,
    DEFAULT_CENTRE,
    LayoutError,
    PairSource,
    PairVolumes,
    ReaderOptions,
    case_name,
    checked_sources,
    tree_of,
)
from train.data.readers.nifti_layout import load_nifti_pair
from train.data.readers.split_files import split_of_word

__all__ = ["CsvReader"]

_EXPECTED: Final = tree_of(__doc__)
_TABLE: Final = "pairs.csv"
_FILES: Final = ("ct", "dwi", "adc", "brain", "lesion", "b0")
_COLUMNS: Final = frozenset({"patient", "centre", "split", *_FILES})


@dataclass(frozen=True, slots=True)
class CsvReader:
    """Reader of a table of volumes."""

    options: ReaderOptions = AS_STORED
    name: str = "csv"
    description: str = "a table pairs.csv: patient, centre, ct, dwi, brain, lesion, split"
    expected: str = _EXPECTED

    def find(self, root: Path) -> tuple[PairSource, ...]:
        """Read the table; every fault names its line.

        Raises
        ------
        LayoutError
            ``layout`` without a table, ``csv`` for a faulty one, ``leak`` for a patient in two splits.
        """
        table = root if root.is_file() else root / _TABLE
        if not table.is_file():
            raise LayoutError("layout", f"there is no {_TABLE} in {root}; expected\n{self.expected}")
        try:
            with table.open(newline="", encoding="utf-8-sig") as stream:
                rows = csv.DictReader(stream, strict=True, skipinitialspace=True)
                _check_columns(table, [name.strip() for name in rows.fieldnames or ()])
                numbered = [(rows.line_num, _cells(table, rows.line_num, row)) for row in rows]
        except (UnicodeDecodeError, csv.Error) as error:
            raise LayoutError("csv", f"{table.name} cannot be read as UTF-8 CSV: {error}") from None
        _check_patients(table, numbered)
        return checked_sources(root, _sources(table, numbered, self.name), self.expected)

    def load(self, source: PairSource) -> PairVolumes:
        """Read one row; see `train.data.readers.nifti_layout.load_nifti_pair`."""
        return load_nifti_pair(source, self.options)


def _check_columns(table: Path, columns: Sequence[str]) -> None:
    lacking = [name for name in ("patient", "ct") if name not in columns]
    if not {"dwi", "adc"} & set(columns):
        lacking.append("dwi")
    unknown = sorted(set(columns) - _COLUMNS)
    if lacking or unknown or len(set(columns)) != len(columns):
        fault = (
            f"missing {', '.join(lacking)}" if lacking else f"unknown {', '.join(unknown)}" if unknown else "doubled"
        )
        raise LayoutError("csv", f"{table.name}:1: columns: {fault}; known are {', '.join(sorted(_COLUMNS))}")


def _cells(table: Path, line: int, row: Mapping[str | None, object]) -> dict[str, str]:
    """The cells of a row without blanks; a row of another length than the header is a fault."""
    if None in row or None in row.values():
        raise LayoutError("csv", f"{table.name}:{line}: the row has not as many cells as the header")
    cells = {str(key).strip(): str(value).strip() for key, value in row.items()}
    if not cells["patient"]:
        raise LayoutError("csv", f"{table.name}:{line}: the patient is missing")
    try:
        split_of_word(cells.get("split", ""))
    except LayoutError as error:
        raise LayoutError("csv", f"{table.name}:{line}: {error.reason}") from None
    outside = [cells[part] for part in _FILES if Path(cells.get(part, "")).is_absolute()]
    if outside:
        raise LayoutError("csv", f"{table.name}:{line}: paths must be relative to the table")
    return cells


def _check_patients(table: Path, numbered: Iterable[tuple[int, Mapping[str, str]]]) -> None:
    seen: dict[str, tuple[int, str]] = {}
    for line, cells in numbered:
        name, split = case_name(cells["patient"]), cells.get("split", "").lower()
        first, other = seen.setdefault(name, (line, split))
        if first == line:
            continue
        if split_of_word(split) != split_of_word(other):
            raise LayoutError("leak", f"{table.name}:{line}: patient {name} is in another split than in line {first}")
        raise LayoutError("csv", f"{table.name}:{line}: patient {name} is in line {first} already; keep one pair")


def _sources(table: Path, numbered: Iterable[tuple[int, Mapping[str, str]]], layout: str) -> Iterator[PairSource]:
    for line, cells in numbered:
        yield PairSource(
            patient=case_name(cells["patient"]),
            centre=case_name(cells["centre"]) if cells.get("centre") else DEFAULT_CENTRE,
            split=split_of_word(cells.get("split", "")),
            layout=layout,
            paths={part: table.parent / cells[part] for part in _FILES if cells.get(part)},
            notes=(f"{table.name}:{line}",),
        )
