"""docs/eligibility.md and section ``[eligibility]`` of node.toml say what the code says.

Left out: whether codes and figures occur (`test_eligibility`).
"""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

from dicom_node.settings import EligibilitySettings
from jmmda_model.eligibility_codes import CODES, FIGURES, EligibilityLimits
from jmmda_model.imaging import eligibility
from jmmda_model.imaging.eligibility_page import _FIXED, main, render

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_code_says(capsys):
    """To write it anew: make docs."""
    main()
    assert (ROOT / "docs" / "eligibility.md").read_text("utf-8") == capsys.readouterr().out == render()


def test_the_page_tells_every_code_figure_and_limit():
    page = render()
    for name in (*CODES, *FIGURES, *(one.name for one in fields(EligibilityLimits)), *_FIXED):
        assert f"| `{name}` |" in page, name
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.count("|") in {3, 4, 7}, line


def test_codes_name_limits_and_figures_that_exist():
    limits = {name for code in CODES.values() for name in code.limits}
    assert limits == {one.name for one in fields(EligibilityLimits)}
    assert {name for code in CODES.values() for name in code.figures} <= set(FIGURES)


def test_every_fixed_threshold_of_the_check_is_on_the_page():
    tree = ast.parse(Path(eligibility.__file__).read_text("utf-8"))
    names = {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
    assert names - {"BLOCK_MM", "BLOCK_HEIGHT_MM", "WHOLE_BRAIN_MM", "SECTION_WITHIN_MM"} == set(_FIXED)


def test_the_section_of_the_settings_mirrors_the_limits():
    section = EligibilitySettings.model_fields
    assert list(section) == [one.name for one in fields(EligibilityLimits)]
    for one in fields(EligibilityLimits):
        assert section[one.name].default == one.default, one.name
        assert section[one.name].description == one.metadata["meaning"], one.name
    assert EligibilityLimits(**EligibilitySettings().model_dump()) == EligibilityLimits()
