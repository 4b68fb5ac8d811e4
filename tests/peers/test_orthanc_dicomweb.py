"""STOW-RS against a real Orthanc with its DICOMweb plugin: a derived series arrives unchanged and is delivered.

Covers the outbox and `jmmda-node send`, instances that Orthanc has already, and one that it cannot take. Left out:
answers of other services (`tests/dicom_node/net/test_net_stow`).
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from benchmarks.viewer.archive import DICOMWEB_PLUGIN, Archive, running_archive
from dicom_node.deliver.sender import send_instances
from dicom_node.ledger.states import State
from dicom_node.net.endpoint import WebEndpoint
from dicom_node.net.part10 import read_head
from dicom_node.net.remote import Remote
from dicom_node.net.status import StoreCategory
from tests.dicom_node.deliver.test_outbox import Case
from tests.dicom_node.deliver.test_outbox_web import _reach
from tests.dicom_node.net.associations import write_series

pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(180),
    pytest.mark.xdist_group("orthanc"),
    pytest.mark.skipif(not DICOMWEB_PLUGIN.exists(), reason="no DICOMweb plugin (apt-get install orthanc-dicomweb)"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with running_archive(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


def _url(archive: Archive) -> str:
    return f"http://127.0.0.1:{archive.http_port}/dicom-web"


def _held(archive: Archive) -> dict[str, bytes]:
    """Data sets of everything it holds, by SOP Instance UID; the group before them Orthanc may write anew."""
    found = {}
    for one in archive.get("/instances"):
        file = archive.read(f"/instances/{one}/file", "*/*")
        found[str(pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID)] = file[read_head(file).data_set_offset :]
    return found


def _data_set(path: Path) -> bytes:
    data = path.read_bytes()
    return data[read_head(data).data_set_offset :]


def test_a_result_is_delivered_and_comes_back_unchanged(archive: Archive, tmp_path: Path):
    case = Case(tmp_path)
    try:
        _reach(case, _url(archive))
        case.outbox.round("pacs")
        assert case.job().state is State.DELIVERED, case.delivery().reason
        assert {(row.stored, row.status) for row in case.delivery().instances} == {(True, 0)}
    finally:
        case.outbox.stop()
        case.room.ledger.close()
    held = _held(archive)
    for one in case.result.instances:
        assert held[one.sop_instance_uid] == _data_set(one.path)


def test_what_is_there_already_counts_as_stored(archive: Archive, tmp_path: Path):
    remote = Remote("archive", "", "127.0.0.1", None, web=WebEndpoint(_url(archive)))
    paths = write_series(tmp_path, 3, SeriesInstanceUID="2.25.31")
    for _ in range(2):
        report = send_instances(remote, "JMMDA_NODE", paths)
        assert report.complete, report
        assert {one.result.category.is_stored for one in report.outcomes} == {True}


def test_an_instance_that_orthanc_cannot_take_fails_alone(archive: Archive, tmp_path: Path):
    remote = Remote("archive", "", "127.0.0.1", None, web=WebEndpoint(_url(archive)))
    paths = write_series(tmp_path, 3, SeriesInstanceUID="2.25.41")
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[: read_head(data).data_set_offset] + b"\xff" * 50)
    report = send_instances(remote, "JMMDA_NODE", paths)
    assert [one.result.category.is_stored for one in report.outcomes] == [True, False, True]
    assert report.outcomes[1].result.category in (StoreCategory.PERMANENT, StoreCategory.TRANSIENT)


def test_a_wrong_address_is_named(archive: Archive, tmp_path: Path):
    url = f"http://127.0.0.1:{archive.http_port}/no-such-service"
    remote = Remote("archive", "", "127.0.0.1", None, web=WebEndpoint(url))
    report = send_instances(remote, "JMMDA_NODE", write_series(tmp_path, 1))
    assert not report.complete
    assert report.error is not None
    assert report.error.code == "web_no_service"


def test_the_command_send_takes_the_web_where_the_peer_has_it(archive: Archive, tmp_path: Path):
    write_series(tmp_path / "ct", 2, SeriesInstanceUID="2.25.51")
    (tmp_path / "node.toml").write_text(
        f'[[peers]]\nname = "archive"\nroles = ["destination"]\ndicomweb_url = "{_url(archive)}"\n'
    )
    command = [sys.executable, "-m", "dicom_node.cli", "send", "archive", "ct", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["stored"], {one["comment"] for one in told["instances"]}) == (2, {"HTTP 200: stored"})
