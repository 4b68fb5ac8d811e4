"""DCMTK as a foreign peer on both sides: its senders against the receiver, our sender against its storescp.

Covers every transfer syntax of the public CT samples, byte for byte. Needs Debian's dcmtk and the public test data;
Orthanc is tested in tests/peers.
"""

from __future__ import annotations

import os
import socket
import subprocess
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.uid import UID, JPEGLSLossless

from dicom_node.deliver.sender import send_instances
from dicom_node.net.contexts import DECODABLE_SYNTAXES
from dicom_node.net.part10 import read_head
from dicom_node.net.remote import Remote
from dicom_node.net.scu import echo
from tests.dicom_node.net.associations import wait_until, write_series
from tests.dicom_node.receive.receiver_process import ReceiverProcess

pytestmark = pytest.mark.peers

#: Not a PATH look-up: pynetdicom installs commands of the same names.
DCMTK = Path("/usr/bin")

#: What storescu has to be told to propose, so that it sends a file as it is; the default covers uncompressed files.
PROPOSE = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}


@pytest.fixture(autouse=True)
def _dcmtk_present() -> None:
    if (DCMTK / "storescu").exists():
        return
    if os.environ.get("JMMDA_REQUIRE_PEERS") == "1":
        pytest.fail("DCMTK is not installed")
    pytest.skip("DCMTK is not installed (Debian: apt-get install dcmtk)")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def dcmtk(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(DCMTK / tool), *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_echoscu_is_answered_or_told_why_not(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data") as receiver:
        port = str(receiver.port)
        assert dcmtk("echoscu", "-aet", "PACS", "-aec", "JMMDA_NODE", "127.0.0.1", port).returncode == 0
        unknown = dcmtk("echoscu", "-aet", "NOBODY", "-aec", "JMMDA_NODE", "127.0.0.1", port)
        assert "Calling AE Title Not Recognized" in unknown.stderr
        wrong = dcmtk("echoscu", "-aet", "PACS", "-aec", "ANY-SCP", "127.0.0.1", port)
        assert "Called AE Title Not Recognized" in wrong.stderr
        assert "'NOBODY' from 127.0.0.1" in receiver.log
        assert "'ANY-SCP', but ours is 'JMMDA_NODE'" in receiver.log


def test_storescu_sends_every_encoding_and_the_bytes_stay(tmp_path: Path, shared_data: Path) -> None:
    sent: dict[str, bytes] = {}
    with ReceiverProcess(tmp_path / "data") as receiver:
        for path in sorted((shared_data / "ct_transfer_syntaxes").glob("*.dcm")):
            data = path.read_bytes()
            head = read_head(data)
            if head.transfer_syntax_uid not in DECODABLE_SYNTAXES:
                continue
            option = PROPOSE.get(head.transfer_syntax_uid)
            if option is None and head.transfer_syntax_uid.startswith("1.2.840.10008.1.2.4"):
                continue  # storescu cannot propose JPEG process 14 other than SV1
            arguments = [option] if option else []
            done = dcmtk("storescu", "-R", "-aec", "JMMDA_NODE", *arguments, "127.0.0.1", str(receiver.port), str(path))
            assert done.returncode == 0, (path.name, done.stderr)
            sent[head.transfer_syntax_uid] = data[head.data_set_offset :]
        received = {}
        for path in receiver.data_dir.rglob("*.dcm"):
            data = path.read_bytes()
            head = read_head(data)
            received[head.transfer_syntax_uid] = data[head.data_set_offset :]
    assert len(sent) >= 9
    assert set(received) == set(sent)
    for syntax in sent:
        if UID(syntax).is_encapsulated:  # DCMTK writes everything around the frames anew
            assert frames(received[syntax]) == frames(sent[syntax]), UID(syntax).name


def frames(data_set: bytes) -> list[bytes]:
    """Compressed frames of an encapsulated data set, undecoded."""
    dataset = read_dataset(BytesIO(data_set), is_implicit_VR=False, is_little_endian=True)
    return list(generate_frames(dataset.PixelData, number_of_frames=1))


def test_a_sender_that_prefers_jpeg_ls_need_not_decompress(tmp_path: Path, shared_data: Path) -> None:
    [path] = (shared_data / "ct_transfer_syntaxes").glob("*JPEGLSLossless*")
    with ReceiverProcess(tmp_path / "data") as receiver:
        # -xt proposes JPEG-LS first and the uncompressed encodings behind it, in one context
        done = dcmtk("storescu", "-aec", "JMMDA_NODE", "-xt", "127.0.0.1", str(receiver.port), str(path))
        assert done.returncode == 0, done.stderr
        [stored] = receiver.data_dir.rglob("*.dcm")
        assert read_head(stored.read_bytes()).transfer_syntax_uid == JPEGLSLossless


def test_a_whole_study_with_other_modalities(tmp_path: Path, shared_data: Path) -> None:
    with ReceiverProcess(tmp_path / "data") as receiver:
        folders = [str(shared_data / "ge_head_ct"), str(shared_data / "siemens_mosaic")]
        done = dcmtk("storescu", "-aec", "JMMDA_NODE", "+sd", "+r", "127.0.0.1", str(receiver.port), *folders)
        assert done.returncode == 0, done.stderr
        [association] = receiver.associations()
    assert association.calling_ae == "STORESCU"
    assert association.outcome == "closed"
    assert len(association.files) == 33


def test_our_sender_against_storescp(tmp_path: Path, free_port: int) -> None:
    paths = write_series(tmp_path / "ct", 5, side_px=64)
    out = tmp_path / "out"
    out.mkdir()
    server = subprocess.Popen([str(DCMTK / "storescp"), "+B", "-od", str(out), str(free_port)])
    try:
        assert wait_until(lambda: listens(free_port))
        peer = Remote("dcmtk", "ANY-SCP", "127.0.0.1", free_port)
        assert "OFFIS" in echo(peer, "JMMDA_NODE").implementation
        report = send_instances(peer, "JMMDA_NODE", paths)
        assert report.complete
    finally:
        server.terminate()
        server.wait(5)
    received = {pydicom.dcmread(path).SOPInstanceUID: path for path in out.iterdir()}
    for path in paths:
        dataset = pydicom.dcmread(path)
        data, again = path.read_bytes(), received[dataset.SOPInstanceUID].read_bytes()
        assert data[read_head(data).data_set_offset :] == again[read_head(again).data_set_offset :]
