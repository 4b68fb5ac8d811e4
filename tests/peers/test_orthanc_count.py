"""Orthanc as the source that is asked by C-FIND: what it answers, and a series that is complete because it said so.

Covers the verb against Orthanc, and a node that waits for what Orthanc still holds although the part that came looks
quiet. Left out: answers that make no sense (`tests/dicom_node/assemble/test_source`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicom_node.assemble.source import BY_COUNT, HeldSeries, ask_for_study
from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.find import FindSession
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession
from tests.peers.orthanc import Orthanc, running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("orthanc")]


@pytest.fixture(scope="module")
def pacs() -> Remote:
    return Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())


@pytest.fixture(scope="module")
def node(pacs: Remote, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayNode]:
    settings = ThrowawaySettings((pacs,), bundle=str(tiny_bundle), device="cpu", query=True)
    made = ThrowawayNode(tmp_path_factory.mktemp("node"), settings)
    with made.running():
        yield made


@pytest.fixture(scope="module")
def orthanc(
    pacs: Remote, node: ThrowawayNode, tmp_path_factory: pytest.TempPathFactory, phantom_ct: Path
) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("pacs")
    assert pacs.port is not None
    with running_orthanc(folder, http_port=free_port(), dicom_port=pacs.port, node_port=node.port) as made:
        assert made.upload(phantom_ct) == 24
        yield made


@pytest.fixture(scope="module")
def files(phantom_ct: Path) -> list[Path]:
    def height(path: Path) -> float:
        return float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])

    return sorted(phantom_ct.rglob("*.dcm"), key=height)


def _uids(files: list[Path]) -> tuple[str, str]:
    ds = pydicom.dcmread(files[0], stop_before_pixels=True)
    return str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID)


def _story(node: ThrowawayNode, uid: str) -> dict[str, Any]:
    (story,) = node.ask("series", "show", uid, "--json")
    return dict(story)


def _send(node: ThrowawayNode, files: list[Path]) -> None:
    """Send as Orthanc would, over one association."""
    instances = [EncodedInstance.read(path) for path in files]
    with StoreSession(node.remote, "ORTHANC", {one.need for one in instances}) as session:
        assert {session.send_encoded(one).status for one in instances} == {0}


def test_orthanc_counts_and_lists(pacs: Remote, orthanc: Orthanc, files: list[Path]) -> None:
    study, series = _uids(files)
    with FindSession(pacs, "JMMDA_NODE", timeout_s=10.0) as session:
        assert ask_for_study(session, study, {series}) == {series: HeldSeries(24, BY_COUNT, "CT")}
        assert ask_for_study(session, "1.2.3.4.5", set()) == {}
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
        listed = session.find("IMAGE", keys)
    assert {str(one.SOPInstanceUID) for one in listed} == {
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files
    }


def test_what_orthanc_still_holds_is_waited_for_and_its_arrival_completes_the_series(
    node: ThrowawayNode, orthanc: Orthanc, files: list[Path]
) -> None:
    """The first sixteen slices are a stack without a gap, which the timers of this node close within three seconds."""
    _, series = _uids(files)
    _send(node, files[:16])
    end = time.monotonic() + 60
    while time.monotonic() < end and not _awaited(node, series):
        time.sleep(0.3)
    time.sleep(node.settings.quiet_s + 1.0)
    story = _story(node, series)
    assert story["state"] == "RECEIVING"
    assert (story["expected"]["source"], story["expected"]["peer"]) == (24, "orthanc")
    _send(node, files[16:])
    while time.monotonic() < end and _story(node, series)["state"] == "RECEIVING":
        time.sleep(0.3)
    story = _story(node, series)
    assert "source_count" in story["signs"]
    assert "quiet" not in story["signs"]
    assert len(story["jobs"]) == 1
    assert any(event["kind"] == "study_whole" for event in story["history"])


def _awaited(node: ThrowawayNode, series: str) -> bool:
    listed = node.ask("series", "list", "--json")["series"]
    return any(one["series_instance_uid"] == series and one["expected"] for one in listed)
