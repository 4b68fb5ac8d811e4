"""docs/bad-input.md is what the tables say, and the tables name ends that the node really has.

Left out: whether the node keeps to them, which the other modules of this folder test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.dicom.choice_rules import RULES
from dicom_node.dicom.gate_codes import CODES
from dicom_node.ledger.states import State
from tests.dicom_node.bad_input.case_table import Case
from tests.dicom_node.bad_input.page import TABLES, main, render

ROOT = Path(__file__).resolve().parents[3]
#: Codes from beyond choice and gate: of the sweep, of ingest, of the worker.
OTHERS = {"not_preferred", "loop_guard", "no_brain", "fov", "thickness", "pixel_data"}


def _cases() -> Iterator[Case]:
    for table in TABLES:
        yield from table.cases.values()


def test_the_page_is_what_the_tables_say(capsys: pytest.CaptureFixture[str]) -> None:
    """To write it anew: make docs."""
    main()
    assert (ROOT / "docs" / "bad-input.md").read_text("utf-8") == capsys.readouterr().out == render()


def test_every_end_is_a_state_and_a_code_of_the_node() -> None:
    codes = {code for rule in RULES for code in rule.codes} | set(CODES) | OTHERS
    for case in _cases():
        for end in case.ends.values():
            state, _, code = end.partition(" ")
            assert State(state) in (State.QUEUED, State.SKIPPED, State.REFUSED, State.FAILED), case.arrives
            assert not code or code in codes, case.arrives


def test_no_case_is_named_twice_and_no_cell_breaks_its_row() -> None:
    names = [case.arrives for case in _cases()]
    assert len(names) == len(set(names)) > 90
    for line in render().splitlines():
        if line.startswith("|"):
            assert line.count("|") in {5, 6}, line
