"""Every key of node.toml, wrong in turn: one fault with file, line, key and reason, and never a traceback.

The keys come from the models and their limits from the JSON schema, so a new key is covered without a word here. Left
out: rules between keys and sections (`test_settings`), and values that only their own rule knows to be wrong (AE
titles, hosts, patterns), which are tested beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.settings import Fault, Settings, SettingsError, parse_settings
from dicom_node.settings.schema import json_schema
from dicom_node.settings.template import _toml

SCHEMA = json_schema()
PEER = {"name": "pacs", "ae_titles": ["PACS"], "host": "192.0.2.10", "port": 104, "roles": ["source", "destination"]}
ROUTE = {"from_ae": "PACS", "destinations": ["pacs"]}
ARRAYS = {"peers": PEER, "routes": ROUTE}
#: One literal of every kind that TOML has, by the JSON types that would take it; a date is none of them.
LITERALS = {
    '"3"': {"string"},
    "3": {"integer", "number"},
    "3.5": {"number"},
    "true": {"boolean"},
    "[[[3]]]": set(),
    "{ zzz = 3 }": set(),
    "2026-11-24": set(),
    "2026-11-24T12:00:00Z": set(),
    "12:00:00": set(),
}


class Table:
    """One table of a file with all that it needs around it, whose lines can be changed one by one."""

    def __init__(self, section: str) -> None:
        self.section = section
        entry = SCHEMA["properties"][section]
        self.keys: dict[str, Any] = _definition(entry.get("items", entry))["properties"]
        self.path = f"{section}[0]" if section in ARRAYS else section
        written = ARRAYS.get(section) or getattr(Settings(), section).model_dump(mode="json")
        self.lines = {key: _toml(value) for key, value in written.items() if value is not None}

    def text(self, **changed: str) -> tuple[str, dict[str, int]]:
        """The file with other values for some keys, and the line on which each key begins."""
        parts = [_table(name, {key: _toml(value) for key, value in entry.items()}) for name, entry in ARRAYS.items()]
        others = [part for name, part in zip(ARRAYS, parts, strict=True) if name != self.section]
        before = "# The rest comes first.\n" + "".join(others)
        mine = {**self.lines, **changed}
        begins, line = {}, before.count("\n") + 2
        for key, value in mine.items():
            begins[key] = line
            line += value.count("\n") + 1
        return before + _table(self.section, mine), begins

    def without(self, key: str) -> Table:
        other = Table(self.section)
        other.lines.pop(key, None)
        return other


def _table(section: str, lines: dict[str, str]) -> str:
    header = f"[[{section}]]" if section in ARRAYS else f"[{section}]"
    return "\n".join([header, *(f"{key} = {value}" for key, value in lines.items()), ""])


def _definition(entry: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in entry:
        entry = SCHEMA["$defs"][entry["$ref"].rpartition("/")[2]]
    return entry


def _branches(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """What a key may be, without null, which TOML does not have."""
    options = [_definition(option) for option in _definition(entry).get("anyOf", [_definition(entry)])]
    return [option for option in options if option.get("type") != "null"]


def _out_of_range(entry: dict[str, Any]) -> Iterator[str]:
    """Literals of the right kind beyond each limit that the schema states."""
    for option in _branches(entry):
        step = 1 if option.get("type") == "integer" else 0.001
        if "minimum" in option:
            yield repr(option["minimum"] - step)
        if "exclusiveMinimum" in option:
            yield repr(option["exclusiveMinimum"])
        if "maximum" in option:
            yield repr(option["maximum"] + step)
        if "exclusiveMaximum" in option:
            yield repr(option["exclusiveMaximum"])
        if option.get("type") == "number":
            yield from ("nan", "-inf") if {"minimum", "exclusiveMinimum"} & set(option) else ()
        if "enum" in option or "pattern" in option or "const" in option:
            # A control character stands in no name of this file; TOML has an escape for it.
            yield '"no such value\\u0007"'
        if "maxLength" in option:
            yield json.dumps("SYNTHETIC NOT MR" + "X" * option["maxLength"])
        if option.get("minLength") or option.get("minItems"):
            yield '""' if option.get("minLength") else "[]"


def faults_of(text: str) -> tuple[Fault, ...]:
    try:
        parse_settings(text, file="node.toml", base=Path("/base"))
    except SettingsError as error:
        return error.faults
    return ()


def check_one(text: str, key: str, line: int, words: str = "") -> None:
    """Exactly one fault, at this key (or an element of it) and line."""
    faults = faults_of(text)
    assert len(faults) == 1, (text, faults)
    [fault] = faults
    assert fault.file == "node.toml"
    assert fault.key == key or fault.key.startswith((f"{key}[", f"{key}.")), fault
    assert fault.line == line, fault
    assert fault.reason
    assert words in fault.reason, fault
    assert "pydantic" not in fault.reason
    assert "Settings" not in fault.reason, "a word of the code, not of the file"


SECTIONS = list(Settings.model_fields)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_starting_point_is_good(section: str) -> None:
    assert faults_of(Table(section).text()[0]) == ()


@pytest.mark.parametrize("section", SECTIONS)
def test_a_value_of_the_wrong_kind(section: str) -> None:
    table = Table(section)
    for key, entry in table.keys.items():
        takes = {kind for option in _branches(entry) for kind in _kinds(option)}
        for literal, kinds in LITERALS.items():
            if not kinds & takes:
                text, begins = table.text(**{key: literal})
                check_one(text, f"{table.path}.{key}", begins[key])


def _kinds(option: dict[str, Any]) -> set[str]:
    return {option["type"]} if "type" in option else {"string"}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_value_out_of_range(section: str) -> None:
    table = Table(section)
    for key, entry in table.keys.items():
        for literal in _out_of_range(entry):
            text, begins = table.text(**{key: literal})
            check_one(text, f"{table.path}.{key}", begins[key])


def test_most_keys_have_a_range() -> None:
    """Otherwise the test above would be empty."""
    tables = [Table(section) for section in SECTIONS]
    ranged = [key for table in tables for key, entry in table.keys.items() if list(_out_of_range(entry))]
    assert len(ranged) > 0.5 * sum(len(table.keys) for table in tables)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_misspelt_key_is_recognised(section: str) -> None:
    table = Table(section)
    for key in table.keys:
        wrong = f"{key[:-1]}{key[-1]}{key[-1]}"
        value = table.lines.get(key, "3")
        text, begins = table.without(key).text(**{wrong: value})
        check_one(text, f"{table.path}.{wrong}", begins[wrong], f"did you mean '{key}'?")


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_key_in_every_table(section: str) -> None:
    text, begins = Table(section).text(zzz_unknown="3")
    check_one(text, f"{Table(section).path}.zzz_unknown", begins["zzz_unknown"], "unknown key")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_misspelt_section_and_a_key_above_all_sections(section: str) -> None:
    if section not in ARRAYS:
        text = Table(section).text()[0].replace(f"[{section}]", f"[{section}{section[-1]}]")
        line = text.splitlines().index(f"[{section}{section[-1]}]") + 1
        check_one(text, f"{section}{section[-1]}", line, f"did you mean '{section}'?")
    text = Table(section).text()[0]
    check_one("zzz_unknown = 3\n" + text, "zzz_unknown", 1, "unknown key")


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("literal", ["3", '"x"', "[3]", "true", "1979-05-27"])
def test_something_else_in_place_of_a_section(section: str, literal: str) -> None:
    faults = faults_of(f"{section} = {literal}\n")
    assert len(faults) == 1, faults
    assert faults[0].line == 1
    assert "table" in faults[0].reason


@pytest.mark.parametrize("section", SECTIONS)
def test_brackets_of_the_other_kind(section: str) -> None:
    one, other = (f"[[{section}]]", f"[{section}]") if section in ARRAYS else (f"[{section}]", f"[[{section}]]")
    [fault, *rest] = faults_of(f"{other}\n")
    assert not rest
    assert (fault.line, fault.key) == (1, section)
    assert f"write {one}" in fault.reason


VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20),
        st.sampled_from(["PACS", "pacs", "source", "auto", "2026-11-24", "/", "x" * 70]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["name", "port", "zzz"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def literal_of(value: object) -> str:
    """Any value as TOML on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case float() if not math.isfinite(value):
            return str(value)
        case float() | int():
            return repr(value)
        case list():
            return f"[{', '.join(map(literal_of, value))}]"
        case dict():
            return f"{{ {', '.join(f'{key} = {literal_of(one)}' for key, one in value.items())} }}"
        case _:
            return json.dumps(value, ensure_ascii=False)


@given(data=st.data(), section=st.sampled_from(SECTIONS))
@settings(max_examples=200)
def test_any_value_anywhere_is_taken_or_named_with_its_place(data: st.DataObject, section: str) -> None:
    table = Table(section)
    keys = st.sampled_from([*table.keys, "zzz_unknown"])
    changed = {key: literal_of(value) for key, value in data.draw(st.dictionaries(keys, VALUES, max_size=3)).items()}
    text, begins = table.text(**changed)
    for fault in faults_of(text):
        assert fault.file == "node.toml"
        assert 0 < fault.line <= text.count("\n")
        assert fault.key
        assert fault.reason
        own = fault.key.removeprefix(f"{table.path}.").partition(".")[0].partition("[")[0]
        if fault.key.startswith(f"{table.path}.") and own in begins:
            assert fault.line == begins[own], fault
