"""Fixtures that need the model: an untrained tiny bundle and a small phantom CT series, made once per test run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a real, untrained network of size `tiny`."""
    from jmmda_model.bundle import make_untrained_bundle

    return Path(make_untrained_bundle(tmp_path_factory.mktemp("bundle") / "tiny", size="tiny").path)


@pytest.fixture(scope="session")
def phantom_case():
    """A phantom patient with a large lesion on the left, 24 slices of 192 x 192."""
    from train.data.phantom import generate_case

    return generate_case(11, "A", matrix=192, lesion="mca_division", side="left")


@pytest.fixture(scope="session")
def phantom_ct(tmp_path_factory: pytest.TempPathFactory, phantom_case) -> Path:
    """Folder with the phantom's CT series, head first and supine."""
    from train.data.phantom_dicom import write_ct_series

    folder = tmp_path_factory.mktemp("phantom") / "ct"
    write_ct_series(phantom_case, folder)
    return folder
