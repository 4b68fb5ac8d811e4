"""`splits.json` and `centre.txt`: what an archive says of splits and hospitals.

``splits.json`` in the root::

    {"train": ["p01", "p02"], "validation": ["p03"], "test": ["p04"], "centres": {"north": ["p01", "p04"]}}

Every key may be absent; "val" is read as "validation". ``centre.txt`` holds the name of a hospital, in a patient's
folder or in the root for all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from train.data.cache import Split
from train.data.readers.base import DEFAULT_CENTRE, LayoutError, case_name

__all__ = ["SPLIT_WORDS", "SplitTable", "centre_of", "no_leak", "read_split_table", "split_of_word"]

#: How splits are called in archives.
SPLIT_WORDS: Final[Mapping[str, Split]] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
FILE_NAME: Final = "splits.json"


@dataclass(frozen=True, slots=True)
class SplitTable:
    """Split and centre by case; empty when the archive has no `splits.json`."""

    splits: Mapping[str, Split] = field(default_factory=dict)
    centres: Mapping[str, str] = field(default_factory=dict)


def split_of_word(word: str) -> Split | None:
    """Split that a word of a table means; None for no word.

    Raises
    ------
    LayoutError
        ``splits`` for any other word.

    Examples
    --------
    >>> split_of_word(" Val "), split_of_word("")
    ('validation', None)
    """
    known = SPLIT_WORDS.get(word.strip().lower())
    if known is None and word.strip():
        raise LayoutError("splits", f"{word!r} is no split; write train, validation or test")
    return known


def no_leak(pairs: Iterable[tuple[str, Split]]) -> dict[str, Split]:
    """Make a table of patient and split.

    Raises
    ------
    LayoutError
        ``leak``: a patient in two splits, which would let a network be tested on a patient it was trained on.
    """
    table: dict[str, Split] = {}
    for patient, split in pairs:
        if table.setdefault(patient, split) != split:
            raise LayoutError(
                "leak", f"patient {patient} is in {table[patient]} and in {split}; a patient belongs to one split"
            )
    return table


def read_split_table(root: Path, patients: Collection[str]) -> SplitTable:
    """Read `splits.json` of a root.

    Parameters
    ----------
    root : Path
        Folder that may hold it.
    patients : collection of str
        The cases there are: a name that is none of them is an error, since a misspelt test patient would be trained on.

    Raises
    ------
    LayoutError
        ``splits`` for a file of another form or an unknown patient; ``leak`` for a patient in two splits.
    """
    path = root / FILE_NAME
    if not path.is_file():
        return SplitTable()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LayoutError("splits", f"{FILE_NAME} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise LayoutError("splits", f"{FILE_NAME} must hold an object with lists of patients by split")
    centres = content.pop("centres", {})
    splits = no_leak(
        (patient, split) for word, split in _split_keys(content) for patient in _names(content[word], word)
    )
    table = _centre_table(centres)
    unknown = sorted((splits.keys() | table.keys()) - set(patients))
    if unknown:
        raise LayoutError("splits", f"{FILE_NAME} names patients that are not there: {', '.join(unknown[:5])}")
    return SplitTable(splits, table)


def _split_keys(content: Mapping[str, object]) -> list[tuple[str, Split]]:
    keys = []
    for word in content:
        split = split_of_word(word)
        if split is None:
            raise LayoutError("splits", f"{FILE_NAME} has a list without a name")
        keys.append((word, split))
    return keys


def _names(value: object, key: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise LayoutError("splits", f"{FILE_NAME}: {key} must be a list of patients")
    return [case_name(name) for name in value]


def _centre_table(centres: object) -> dict[str, str]:
    if not isinstance(centres, dict):
        raise LayoutError("splits", f"{FILE_NAME}: centres must be an object with lists of patients by centre")
    table: dict[str, str] = {}
    for centre, names in centres.items():
        for patient in _names(names, f"centres.{centre}"):
            if table.setdefault(patient, centre) != centre:
                raise LayoutError("splits", f"{FILE_NAME}: patient {patient} has two centres")
    return table


def centre_of(folder: Path, root: Path) -> str:
    """Centre that `centre.txt` of the patient's folder or of the root names, else a common one."""
    for place in (folder, root):
        path = place / "centre.txt"
        if path.is_file():
            return case_name(path.read_text(encoding="utf-8").strip())
    return DEFAULT_CENTRE
