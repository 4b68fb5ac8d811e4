"""Values in unusual notation reach Hounsfield units unchanged: compared with what the worker would read.

Left out: every transfer syntax (`dicom/test_pixels`, `dicom/test_stored`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dicom_node.bad_input.bad_node import BadNode, running
from tests.dicom_node.bad_input.case_table import hold
from tests.dicom_node.bad_input.pixel_cases import PIXELS


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BadNode]:
    with running(tmp_path_factory.mktemp("node")) as made:
        yield made


@pytest.mark.parametrize("arrives", PIXELS.cases)
def test_the_values_are_read_as_documented(node: BadNode, arrives: str) -> None:
    hold(PIXELS.cases[arrives], node)
