"""The doctor between a running node and a real Orthanc: both directions pass, and a stranger's port does not.

Left out: each fault by itself (`tests/dicom_node/operate/test_doctor_*`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.remote import Remote
from tests.peers.orthanc import Orthanc, running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("orthanc")]


@pytest.fixture(scope="module")
def pacs() -> Remote:
    return Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())


@pytest.fixture(scope="module")
def node(pacs: Remote, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayNode]:
    settings = ThrowawaySettings((pacs,), bundle=str(tiny_bundle), device="cpu", query=True)
    made = ThrowawayNode(tmp_path_factory.mktemp("node"), settings)
    made.write_config()
    made.config.write_text(made.config.read_text().replace(', "query"]', ', "query", "commitment"]'))
    with made.running():
        yield made


@pytest.fixture(scope="module")
def orthanc(pacs: Remote, node: ThrowawayNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("pacs")
    assert pacs.port is not None
    with running_orthanc(folder, http_port=free_port(), dicom_port=pacs.port, node_port=node.port) as made:
        yield made


def doctor(node: ThrowawayNode) -> tuple[int, dict[str, dict[str, Any]]]:
    command = [sys.executable, "-m", "dicom_node.cli", "doctor", "--config", str(node.config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, {one["check"]: one for one in json.loads(done.stdout)["findings"]}


def test_before_the_first_study_everything_passes_but_what_is_said(
    orthanc: Orthanc, node: ThrowawayNode, phantom_ct: Path
) -> None:
    code, found = doctor(node)
    assert code == 0, found
    passing = {check for check, one in found.items() if one["mark"] == "pass"}
    assert {
        "peer.name", "peer.connection", "peer.association", "peer.echo", "peer.store", "peer.query", "peer.commitment",
        "back.address", "back.door", "node.running", "node.port", "model.bundle", "model.device",
    } <= passing  # fmt: skip
    assert found["back.seen"]["mark"] == "warn"
    assert "C-MOVE" in found["back.seen"]["remedy"], "Orthanc can be told to send"
    assert found["model.phantom"]["mark"] == "warn"

    # The PACS echoes back and sends, as its administrator would do it.
    orthanc.request("/modalities/jmmda/echo", b"{}", "POST")
    assert orthanc.upload(phantom_ct) == 24
    [series] = orthanc.series_of_modality("CT")
    orthanc.request("/modalities/jmmda/store", series.encode(), "POST")
    code, found = doctor(node)
    assert code == 0, found
    assert found["back.seen"]["mark"] == "pass"


def test_a_stopped_orthanc_is_named(orthanc: Orthanc, node: ThrowawayNode, pacs: Remote) -> None:
    text = node.config.read_text()
    try:
        node.config.write_text(text.replace(f"port = {pacs.port}\n", f"port = {free_port()}\n"))
        code, found = doctor(node)
    finally:
        node.config.write_text(text)
    assert code == 1
    assert found["peer.connection"]["who"] == "administrator of orthanc"
    assert "peers.orthanc.port" in found["settings.in_force"]["seen"]
