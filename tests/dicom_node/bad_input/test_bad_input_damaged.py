"""Objects that arrive damaged, case by case of `damaged_cases`, against the real receiver and the rooms behind it.

Left out: a worker and what it makes of pixels (test_bad_input_pixels), and a killed or filled-up node
(`receive/test_receive_durability`, `test_node_recovery`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dicom_node.bad_input.bad_node import BadNode, running
from tests.dicom_node.bad_input.case_table import hold
from tests.dicom_node.bad_input.damaged_cases import DAMAGED


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BadNode]:
    with running(tmp_path_factory.mktemp("node")) as made:
        yield made


@pytest.mark.parametrize("arrives", DAMAGED.cases)
def test_it_ends_as_documented_and_a_good_study_gets_through(node: BadNode, arrives: str) -> None:
    hold(DAMAGED.cases[arrives], node)
