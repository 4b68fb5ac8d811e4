"""2000 slices in one series: all kept, none processed, and a good study beside them gets through."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dicom_node.bad_input.bad_node import running
from tests.dicom_node.bad_input.case_table import hold
from tests.dicom_node.bad_input.long_cases import LONG


@pytest.mark.slow
@pytest.mark.parametrize("arrives", LONG.cases)
def test_it_ends_as_documented_and_a_good_study_gets_through(tmp_path: Path, arrives: str) -> None:
    with running(tmp_path) as node:
        hold(LONG.cases[arrives], node)
