"""Storage commitment with Orthanc, both ways: it confirms our result, and it asks us for what it sent.

The node runs as its own processes; Orthanc loses the first image of the result on purpose, so that the way over a
failure, a second sending and a second request is the real one. Left out: reports that make no sense
(`tests/dicom_node/deliver/test_commitment_failures`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid

from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.commit import ask_for_commitment
from dicom_node.net.commitment_values import CommitmentRequest, Reference
from dicom_node.net.remote import Remote
from tests.peers.orthanc import Orthanc, running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("orthanc")]

#: An archive that acknowledges an image and loses it.
LOSES_ONE = """
lost = false
function OnStoredInstance(instanceId, tags, metadata)
   if tags['Modality'] == 'MR' and not lost then
      lost = true
      Delete(instanceId)
   end
end
"""
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="module")
def pacs() -> Remote:
    return Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())


@pytest.fixture(scope="module")
def node(pacs: Remote, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayNode]:
    settings = ThrowawaySettings((pacs,), bundle=str(tiny_bundle), device="cpu", commitment=True)
    made = ThrowawayNode(tmp_path_factory.mktemp("node"), settings)
    with made.running():
        yield made


@pytest.fixture(scope="module")
def orthanc(
    pacs: Remote, node: ThrowawayNode, tmp_path_factory: pytest.TempPathFactory, phantom_ct: Path
) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("pacs")
    assert pacs.port is not None
    with running_orthanc(
        folder, http_port=free_port(), dicom_port=pacs.port, node_port=node.port, lua=LOSES_ONE
    ) as made:
        assert made.upload(phantom_ct) == 24
        (series,) = made.series_of_modality("CT")
        made.request("/modalities/jmmda/store", series.encode(), "POST")
        yield made


@pytest.fixture(scope="module")
def ct_uids(phantom_ct: Path) -> list[str]:
    return [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in phantom_ct.rglob("*.dcm")]


def _wait(node: ThrowawayNode, what: str, condition: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen; log:\n{node.log.read_text()[-3000:]}")


def _asked(orthanc: Orthanc, instances: list[tuple[str, str]]) -> dict[str, Any]:
    """Have Orthanc ask the node, and return the outcome that it was told."""
    body = json.dumps({"DicomInstances": [list(one) for one in instances], "Timeout": 30}).encode()
    path = json.loads(orthanc.request("/modalities/jmmda/storage-commitment", body, "POST"))["Path"]

    def outcome(_: Orthanc) -> Any:
        told = orthanc.get(path)
        return told if told["Status"] != "Pending" else None

    return dict(orthanc.wait_for("the report of the node", outcome))


def test_orthanc_confirms_the_result_once_it_has_what_it_had_lost(node: ThrowawayNode, orthanc: Orthanc) -> None:
    def committed() -> Any:
        listed = node.ask("series", "list", "--json")["series"]
        return next((one for one in listed if one["state"] == "COMMITTED"), None)

    series = _wait(node, "COMMITTED", committed)
    (delivery,) = series["jobs"][0]["deliveries"]
    assert (delivery["commitment"], delivery["committed"], delivery["commitment_asked"]) == ("COMMITTED", 24, 2)
    (story,) = node.ask("series", "show", series["series_instance_uid"], "--json")
    failed = [event for event in story["history"] if event["code"] == "commitment_failed"]
    assert len(failed) == 1
    assert "1 of 24 instances are not kept: no such object instance (0x0112)" in failed[0]["reason"]
    (result,) = orthanc.series_of_modality("MR")
    assert len(orthanc.files_of_series(result)) == 24
    assert node.ask("status", "--json")["commitments"] == {"WAITING": 0, "COMMITTED": 1, "UNCONFIRMED": 0}


def test_orthanc_is_told_that_we_hold_what_it_sent(orthanc: Orthanc, ct_uids: list[str]) -> None:
    told = _asked(orthanc, [(CT_IMAGE_STORAGE, uid) for uid in ct_uids])
    assert (told["Status"], told["RemoteAET"]) == ("Success", "JMMDA_NODE")
    assert {one["SOPInstanceUID"] for one in told["Success"]} == set(ct_uids)
    assert told["Failures"] == []


def test_orthanc_is_told_what_we_do_not_hold(orthanc: Orthanc, ct_uids: list[str]) -> None:
    unknown, other_class = "1.2.3.4", "1.2.840.10008.5.1.4.1.1.4"
    told = _asked(orthanc, [(CT_IMAGE_STORAGE, ct_uids[0]), (CT_IMAGE_STORAGE, unknown), (other_class, ct_uids[1])])
    assert told["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in told["Success"]] == [ct_uids[0]]
    assert {one["SOPInstanceUID"]: one["FailureReason"] for one in told["Failures"]} == {
        unknown: 0x0112,
        ct_uids[1]: 0x0119,
    }


def test_a_report_of_orthanc_for_a_transaction_of_nobody_is_taken_and_logged(
    pacs: Remote, node: ThrowawayNode, orthanc: Orthanc
) -> None:
    request = CommitmentRequest(str(generate_uid()), (Reference(CT_IMAGE_STORAGE, "1.2.3.4"),))
    ask_for_commitment(pacs, "JMMDA_NODE", request, on_report=lambda report: None, wait_s=0.0)
    told = f"reported transaction {request.transaction_uid}, which nobody here began"
    _wait(node, "the line in the log", lambda: told in node.log.read_text(), 30.0)
    assert not list((node.folder / "data" / "commitment").iterdir())
