"""docs/selection.md is what the code generates, and leaves out no code and no setting.

Left out: whether the rules do what the page says (test_choice, and `assemble/test_better_series` for what comes late).
"""

from __future__ import annotations

from pathlib import Path

from dicom_node.assemble.late import LOOP_GUARD, TOOK_OVER
from dicom_node.dicom.choice_page import render
from dicom_node.dicom.choice_rules import RULES
from dicom_node.dicom.choice_score import TERMS
from dicom_node.dicom.rules import BetterSeriesLater, SelectionSettings

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_what_the_code_says() -> None:
    """To write it anew: make docs."""
    assert (ROOT / "docs" / "selection.md").read_text("utf-8") == render()


def test_every_code_is_explained() -> None:
    text = render()
    codes = [code for rule in RULES for code in rule.codes]
    assert len(codes) == len(set(codes)), "a code belongs to one rule"
    for code in [*codes, "chosen", "not_preferred", "not_judged", "better_series_late", TOOK_OVER, LOOP_GUARD]:
        assert f"| `{code}` |" in text, code
    for policy in BetterSeriesLater:
        assert f"| `{policy.value}`" in text, policy


def test_every_setting_belongs_to_a_rule_a_term_of_the_score_or_the_policy() -> None:
    used = {name for part in (*RULES, *TERMS.values()) for name in part.settings}
    assert used | {"better_series_later"} == set(SelectionSettings.model_fields)


def test_a_table_row_has_as_many_cells_as_its_head() -> None:
    blocks = [block.splitlines() for block in render().split("\n\n") if block.startswith("| ")]
    assert len(blocks) == 4
    for block in blocks:
        assert {line.replace("\\|", "").count("|") for line in block} == {block[0].count("|")}
