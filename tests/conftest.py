"""Fixtures that every test may use: where the public test data lie, and a free TCP port."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Test modules import each other's helpers as ``tests.dicom_node.dicom.builders``, whichever way pytest was started.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

# The same examples in every run, and no deadline: a shared machine may stall for a second.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public test data: JMMDA_TEST_DATA, else ../shared/data; without it a test skips, or fails where required."""
    override = os.environ.get("JMMDA_TEST_DATA")
    folder = Path(override) if override else ROOT.parent / "shared" / "data"
    if folder.is_dir():
        return folder
    message = "the public test data are not there; set JMMDA_TEST_DATA to their folder"
    if os.environ.get("JMMDA_REQUIRE_DATA") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
