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


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a real, untrained network of size `tiny`."""
    from jmmda_model.bundle import make_untrained_bundle

    return Path(make_untrained_bundle(tmp_path_factory.mktemp("bundle") / "tiny", size="tiny").path)


@pytest.fixture(scope="session")
def uncertain_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Folder of a network like that of `tiny_bundle` that also predicts its error, differently from place to place."""
    from dataclasses import replace

    import torch

    from jmmda_model.bundle import load_bundle, load_generator, save_bundle
    from jmmda_model.network.generator import build_generator

    bundle = load_bundle(tiny_bundle)
    card = replace(bundle.card, generator=replace(bundle.card.generator, heteroscedastic=True))
    network = build_generator(card.generator)
    network.load_state_dict(load_generator(bundle).state_dict(), strict=False)
    torch.manual_seed(3)
    torch.nn.init.normal_(network.scale_head[1].weight, 0.0, 0.05)
    folder = tmp_path_factory.mktemp("bundle") / "uncertain"
    return Path(save_bundle(folder, network.state_dict(), card).path)


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
