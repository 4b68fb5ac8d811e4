"""Fixtures of the derive tests: a made-up CT series and what is derived from it, made once and only read."""

from __future__ import annotations

import pytest

from dicom_node.derive.writer import derive_series
from dicom_node.dicom.output_rules import OutputSettings
from tests.dicom_node.derive.derive_cases import request_for, write_ct_series


@pytest.fixture(scope="session")
def ct_paths(tmp_path_factory):
    return write_ct_series(tmp_path_factory.mktemp("made-up") / "ct")


@pytest.fixture(scope="session")
def derived(ct_paths, tmp_path_factory):
    return derive_series(request_for(ct_paths), tmp_path_factory.mktemp("derived"))


@pytest.fixture(scope="session")
def derived_sc(ct_paths, tmp_path_factory):
    """The same as Secondary Capture."""
    request = request_for(ct_paths, output=OutputSettings(object="sc"))
    return derive_series(request, tmp_path_factory.mktemp("derived-sc"))


@pytest.fixture
def out_folder(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
