"""The scanner that finds the line of every key, compared with `tomllib` on what keys there are.

Covers tables, arrays of tables, dotted and quoted keys, inline tables and strings of all four kinds. Text that is not
TOML is left out: the scanner is only ever given what `tomllib` has accepted.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.settings.positions import KeyPath, key_lines, line_of

TEXT = '''\
# a comment with [brackets] and = signs
top = 1
[a]
x = "quote \\" and # hash"   # comment
y = [
  1,   # one
  2,
]
'literal [key]' = 'it\\'
[[p]]
n = """
[not.a.table]
z = 1 \\""" still inside """"
d.e."f g" = { i = 1, j = [ { k = 2 } ] }
[[p]]
n = \'\'\'
n = 2\'\'\'
[p.sub]
m = 2026-01-01
[[p.list]]
q = true
[[p.list]]
q = false
'''


def test_every_key_has_its_line() -> None:
    lines = key_lines(TEXT)
    expected: dict[KeyPath, int] = {
        ("top",): 2,
        ("a",): 3,
        ("a", "x"): 4,
        ("a", "y"): 5,
        ("a", "y", 0): 6,
        ("a", "y", 1): 7,
        ("a", "literal [key]"): 9,
        ("p", 0): 10,
        ("p", 0, "n"): 11,
        ("p", 0, "d", "e", "f g", "i"): 14,
        ("p", 0, "d", "e", "f g", "j", 0, "k"): 14,
        ("p", 1): 15,
        ("p", 1, "n"): 16,
        ("p", 1, "sub"): 18,
        ("p", 1, "sub", "m"): 19,
        ("p", 1, "list", 0, "q"): 21,
        ("p", 1, "list", 1): 22,
        ("p", 1, "list", 1, "q"): 23,
    }
    assert {path: lines.get(path) for path in expected} == expected


def paths_of(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    """Paths of all keys and array elements of parsed TOML."""
    items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    found = {path} if path else set()
    for key, inner in items:
        found |= paths_of(inner, (*path, key))
    return found


def test_no_key_is_missed_or_invented() -> None:
    assert set(key_lines(TEXT)) == paths_of(tomllib.loads(TEXT))


@pytest.mark.parametrize("text", ["", "# only\n", "x=1", "[a]\n[b]\r\nc = 1\r\n", "a = {}\nb = []\n"])
def test_small_texts(text: str) -> None:
    assert set(key_lines(text)) == paths_of(tomllib.loads(text))


@given(
    st.dictionaries(
        st.text("abc_-", min_size=1, max_size=4),
        st.one_of(
            st.integers(),
            st.booleans(),
            st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12),
            st.lists(st.integers(), max_size=3),
        ),
        max_size=6,
    )
)
def test_written_values_are_found_on_the_line_they_were_written_on(table: dict[str, Any]) -> None:
    text = "[t]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
    assert tomllib.loads(text)["t"] == table
    lines = key_lines(text)
    for number, key in enumerate(table):
        assert lines["t", key] == number + 2


def test_a_key_that_is_not_written_has_the_line_of_its_table() -> None:
    lines = key_lines("[a]\nx = 1\n[b]\n")
    assert line_of(lines, ("b", "missing")) == 3
    assert line_of(lines, ("c",)) == 0
