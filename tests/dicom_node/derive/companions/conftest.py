"""Companions and notes of the made-up CT series, written once and only read."""

from __future__ import annotations

import pytest

from dicom_node.derive.companions.writer import write_companions, write_note
from tests.dicom_node.derive.companions.companion_cases import by_kind, companion_request, note_request


@pytest.fixture(scope="session")
def written(ct_paths, tmp_path_factory):
    """Every kind of companion and both notes by kind."""
    folder = tmp_path_factory.mktemp("companions")
    outcomes = [*write_companions(companion_request(ct_paths), folder)]
    outcomes += [write_note(note_request(ct_paths, form), folder) for form in ("sr", "sc")]
    return by_kind(outcomes)
