"""Fixtures: the wheel and the quick package, or a skip that says why there can be none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging import packages


@pytest.fixture(scope="session")
def wheel() -> Path:
    return packages.built_wheel()


@pytest.fixture(scope="session")
def quick_package() -> Path:
    reason = packages.why_no_box()
    if reason:
        pytest.skip(reason)
    return packages.quick_package()
