"""Slices that come late, twice or not at all, case by case of `late_cases`.

Left out: what late slices do to a result in each of its states (`assemble/test_sweep`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dicom_node.bad_input.bad_node import BadNode, running
from tests.dicom_node.bad_input.case_table import hold
from tests.dicom_node.bad_input.late_cases import LATE


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BadNode]:
    with running(tmp_path_factory.mktemp("node")) as made:
        yield made


@pytest.mark.parametrize("arrives", LATE.cases)
def test_it_ends_as_documented_and_a_good_study_gets_through(node: BadNode, arrives: str) -> None:
    hold(LATE.cases[arrives], node)
