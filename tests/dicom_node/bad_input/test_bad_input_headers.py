"""Headers with wrong, missing and absurd values, case by case of `header_cases`.

Left out: where exactly the limits of gate and choice lie (`dicom/test_gate*`, `dicom/test_choice`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dicom_node.bad_input.bad_node import BadNode, running
from tests.dicom_node.bad_input.case_table import hold
from tests.dicom_node.bad_input.header_cases import HEADERS


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BadNode]:
    with running(tmp_path_factory.mktemp("node")) as made:
        yield made


@pytest.mark.parametrize("arrives", HEADERS.cases)
def test_it_ends_as_documented_and_a_good_study_gets_through(node: BadNode, arrives: str) -> None:
    hold(HEADERS.cases[arrives], node)
