"""Orthanc as the PACS: it routes a CT to the node, and the node's result comes back into the same study.

Covers the whole journey over real associations between real processes: auto-routing by a Lua rule, byte-identity of
what Orthanc gives back, conformance by dciodvfy beside the CT, the loop guard, and the wait for a PACS that is down.
Left out: TLS (`test_tls_orthanc`), storage commitment, laterality (`test_laterality`).
"""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest

from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.remote import Remote
from tests.peers.orthanc import ROUTE_CT_SERIES, Orthanc, running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("orthanc")]

#: The dictionary of Debian's dicom3tools is older than this attribute.
UNKNOWN_TO_DCIODVFY = "(0x0008,0x001c)"


@dataclass
class Site:
    """A node and an Orthanc that know each other."""

    node: ThrowawayNode
    orthanc: Orthanc


@pytest.fixture(scope="module")
def site(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("orthanc")
    pacs = Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())
    node = ThrowawayNode(folder / "node", ThrowawaySettings((pacs,), bundle=str(tiny_bundle), device="cpu"))
    with (
        running_orthanc(
            folder / "pacs", http_port=free_port(), dicom_port=pacs.port, node_port=node.port, lua=ROUTE_CT_SERIES
        ) as orthanc,
        node.running(),
    ):
        yield Site(node, orthanc)


@pytest.fixture(scope="module")
def result(site: Site, shared_data: Path) -> list[bytes]:
    """The synthetic series that came back for the real head CT, as Orthanc gives it out."""
    assert site.orthanc.upload(shared_data / "ge_head_ct") == 28

    def complete(orthanc: Orthanc) -> str | None:
        for series in orthanc.series_of_modality("MR"):
            if len(orthanc.get(f"/series/{series}")["Instances"]) == 28:
                return series
        return None

    return site.orthanc.files_of_series(site.orthanc.wait_for("28 synthetic instances", complete, 150))


def _data_set(file: bytes) -> bytes:
    """Bytes after the file meta information, whose group Orthanc writes anew."""
    stream = io.BytesIO(file)
    meta = pydicom.filereader.read_preamble(stream, force=False) and pydicom.filereader._read_file_meta_info(stream)
    assert meta
    return file[stream.tell() :]


def _errors(file: Path) -> set[str]:
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    return {line for line in lines if line.startswith("Error") and UNKNOWN_TO_DCIODVFY not in line}


def test_the_result_lies_in_the_study_of_the_ct(site: Site, result: list[bytes]) -> None:
    studies = site.orthanc.get("/studies")
    assert len(studies) == 1
    assert len(site.orthanc.get(f"/studies/{studies[0]}")["Series"]) == 2
    assert all(pydicom.dcmread(io.BytesIO(file)).SyntheticData == "YES" for file in result)


def test_orthanc_gives_back_the_data_sets_byte_for_byte(site: Site, result: list[bytes]) -> None:
    written = {_data_set(path.read_bytes()) for path in (site.node.folder / "data" / "jobs").rglob("*.dcm")}
    given_back = {_data_set(file) for file in result}
    assert len(given_back) == 28
    # On a slow machine the last slices may come late and the result of the first ones lies there too, superseded.
    assert given_back <= written


def test_every_slice_lies_exactly_on_its_ct_slice(result: list[bytes], shared_data: Path) -> None:
    originals = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, (shared_data / "ge_head_ct").glob("*.dcm"))}
    for ds in (pydicom.dcmread(io.BytesIO(file)) for file in result):
        original = originals.pop(ds.SourceImageSequence[0].ReferencedSOPInstanceUID)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
            assert ds[keyword].value == original[keyword].value
    assert not originals


def test_dciodvfy_finds_no_error_that_the_ct_does_not_have(
    result: list[bytes], shared_data: Path, tmp_path: Path
) -> None:
    inherited = _errors(shared_data / "ge_head_ct" / "01.dcm")
    for number, file in enumerate(result):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(file)
        assert _errors(path) <= inherited


def test_the_whole_study_sent_again_makes_nothing_new(site: Site, result: list[bytes]) -> None:
    """As auto-routing does: CT and result come together, the result must be kept out and the CT not done twice."""
    study = site.orthanc.get("/studies")[0]
    site.orthanc.request("/modalities/jmmda/store", study.encode(), "POST")
    end = time.monotonic() + 12
    while time.monotonic() < end:
        listed = site.node.ask("series", "list", "--json")["series"]
        states = sorted((one["modality"], one["state"]) for one in listed)
        if ("MR", "SKIPPED") in states:
            break
        time.sleep(0.5)
    assert states == [("CT", "DELIVERED"), ("MR", "SKIPPED")]
    assert len(site.orthanc.series_of_modality("MR")) == 1
    assert len(site.orthanc.get("/instances")) == 56


def test_status_shows_the_time_of_every_stage(site: Site, result: list[bytes]) -> None:
    stages = site.node.status()["stages"]
    assert {"receive", "synthesize", "derive", "deliver", "total"} <= set(stages)
    assert all(0 <= stages[name]["p50_s"] <= stages[name]["p95_s"] for name in ("synthesize", "total"))


def test_dcmtk_echoes_and_stores_and_a_stranger_is_turned_away(
    tiny_bundle: Path, phantom_ct: Path, tmp_path: Path
) -> None:
    """On a node of its own: what it stores would be a second study at the Orthanc of the other tests."""
    pacs = Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())
    node = ThrowawayNode(tmp_path / "node", ThrowawaySettings((pacs,), bundle=str(tiny_bundle), device="cpu"))
    with node.running():
        address = ["127.0.0.1", str(node.port)]
        known = ["-aet", "ORTHANC", "-aec", "JMMDA_NODE"]
        assert subprocess.run(["echoscu", *known, *address]).returncode == 0
        assert subprocess.run(["storescu", *known, "+sd", *address, str(phantom_ct)]).returncode == 0
        stranger = subprocess.run(["echoscu", "-aet", "STRANGER", "-aec", "JMMDA_NODE", *address], capture_output=True)
        assert stranger.returncode != 0
        assert "STRANGER" in node.log.read_text()


def test_a_result_waits_for_a_pacs_that_is_down(tiny_bundle: Path, phantom_ct: Path, tmp_path: Path) -> None:
    pacs = Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())
    node = ThrowawayNode(tmp_path / "node", ThrowawaySettings((pacs,), bundle=str(tiny_bundle), device="cpu"))
    with node.running():
        send = ["storescu", "-aet", "ORTHANC", "-aec", "JMMDA_NODE", "+sd", "127.0.0.1", str(node.port)]
        assert subprocess.run([*send, str(phantom_ct)]).returncode == 0
        end = time.monotonic() + 90
        while time.monotonic() < end and not _failed_tries(node):
            time.sleep(0.5)
        assert _failed_tries(node), json.dumps(node.status())
        with running_orthanc(
            tmp_path / "pacs", http_port=free_port(), dicom_port=pacs.port, node_port=node.port
        ) as orthanc:
            orthanc.wait_for("24 synthetic instances", lambda one: len(one.get("/instances")) == 24, 60)


def _failed_tries(node: ThrowawayNode) -> int:
    listed = node.ask("series", "list", "--json")["series"]
    deliveries = [delivery for series in listed for job in series["jobs"] for delivery in job["deliveries"]]
    return max((one["attempts"] for one in deliveries if one["state"] == "PENDING"), default=0)
