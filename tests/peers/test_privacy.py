"""A poisoned header leaves no value in any log, file name, ledger, journal or status of the node.

A CT whose identity and free-text attributes all carry one marker word goes through the whole journey of a real node,
others are refused or cut off, then everything the node wrote outside the DICOM files is searched.
Left out: retention, which deletes the DICOM files themselves.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid

from dicom_node.demo.throwaway import ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.remote import Remote
from tests.peers.orthanc import running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("orthanc")]

POISON = "Zyxwvut"
POISONED = (
    "PatientName", "PatientID", "PatientComments", "AccessionNumber", "ReferringPhysicianName", "StudyDescription",
    "InstitutionName", "OperatorsName", "StudyID", "OtherPatientIDs", "PatientAddress", "RequestingPhysician",
)  # fmt: skip


def _poison(source: Path, target: Path, *, keep: int | None = None, broken: bool = False) -> None:
    """Copy a series under new UIDs with the marker in every text; `broken` adds values that do not parse."""
    target.mkdir()
    study, series = generate_uid(), generate_uid()
    for path in sorted(source.glob("*.dcm"))[:keep]:
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword in POISONED:
            setattr(ds, keyword, POISON)
        ds.SeriesDescription = f"head {POISON}"
        if broken:
            # Illegal for their value representation, which makes libraries print what they found.
            for keyword, vr in (("PatientBirthDate", "DA"), ("StudyTime", "TM"), ("PatientWeight", "DS")):
                ds.add(pydicom.DataElement(pydicom.datadict.tag_for_keyword(keyword), "LO", POISON))
                ds[keyword].VR = vr
        ds.save_as(target / path.name)


@pytest.fixture(scope="module")
def node(tiny_bundle: Path, phantom_ct: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayNode]:
    """A node that has delivered one poisoned series, refused a second and set aside a third."""
    folder = tmp_path_factory.mktemp("privacy")
    pacs = Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())
    made = ThrowawayNode(folder / "node", ThrowawaySettings((pacs,), bundle=str(tiny_bundle), device="cpu"))
    made.write_config()
    made.config.write_text(made.config.read_text().replace("[node]", '[node]\nlog_level = "DEBUG"', 1))
    _poison(phantom_ct, folder / "good")
    _poison(phantom_ct, folder / "broken", broken=True)
    _poison(phantom_ct, folder / "short", keep=3)
    _poison(phantom_ct, folder / "cut")
    for path in (folder / "cut").glob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-4000])
    with (
        running_orthanc(folder / "pacs", http_port=free_port(), dicom_port=pacs.port, node_port=made.port) as orthanc,
        made.running(),
    ):
        for name in ("good", "broken", "short", "cut"):
            send = ["storescu", "-aet", "ORTHANC", "-aec", "JMMDA_NODE", "+sd", "127.0.0.1", str(made.port)]
            subprocess.run([*send, str(folder / name)], check=name != "cut")
        orthanc.wait_for("two results", lambda one: len(one.get("/instances")) >= 48, 150)
        time.sleep(2)
        yield made


def _searchable(node: ThrowawayNode) -> list[Path]:
    files = [path for path in node.folder.rglob("*") if path.is_file()]
    return [path for path in files if path.suffix not in {".dcm", ".part"}]


def test_the_marker_is_in_the_images_so_the_search_can_fail(node: ThrowawayNode) -> None:
    images = [path for path in node.folder.rglob("*.dcm") if POISON.encode() in path.read_bytes()]
    assert len(images) > 40


def test_no_log_ledger_journal_or_file_name_holds_the_marker(node: ThrowawayNode) -> None:
    files = _searchable(node)
    assert any(path.name == "node.log" for path in files)
    assert any(path.suffix == ".sqlite" for path in files)
    found = [path.name for path in files if POISON.lower() in path.read_bytes().decode("latin-1").lower()]
    assert found == []
    assert not [path for path in node.folder.rglob("*") if POISON.lower() in str(path).lower()]


def test_no_command_prints_the_marker(node: ThrowawayNode) -> None:
    for arguments in (("status", "--json"), ("series", "list", "--json"), ("dead-letter", "list", "--json")):
        assert POISON.lower() not in str(node.ask(*arguments)).lower()
