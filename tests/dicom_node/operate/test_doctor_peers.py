"""The doctor calls peers: every seeded fault is named with who has to change what, over real sockets.

Left out: the way back (`test_doctor_node`), Orthanc (`tests/peers/test_doctor_orthanc`), TLS.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from dicom_node.operate.doctor.findings import NETWORK, US, Finding, Mark
from dicom_node.operate.doctor.peers import Called, call
from dicom_node.settings import Peer
from tests.dicom_node.operate.doctor_cases import (
    TIMEOUT_S,
    black_hole,
    marks,
    no_dicom,
    one,
    peer_at,
    scp,
    settings_with,
    sound,
)

THEM = "administrator of pacs"
EVERY_ROLE = ("source", "destination", "query", "commitment")


def examined(peer: Peer, tmp_path: Path, timeout_s: float = TIMEOUT_S, **sections: object) -> Called:
    found = call(peer, settings_with(tmp_path, peer, **sections), timeout_s)
    sound(found.findings)
    assert all(finding.peer == "pacs" for finding in found.findings)
    return found


def only_failure(peer: Peer, tmp_path: Path, timeout_s: float = TIMEOUT_S, **sections: object) -> Finding:
    found = examined(peer, tmp_path, timeout_s, **sections).findings
    bad = [finding for finding in found if finding.mark is not Mark.PASS]
    assert len(bad) == 1, found
    return bad[0]


def test_a_peer_that_does_all_that_its_roles_say(tmp_path: Path) -> None:
    classes = (MRImageStorage, StudyRootQueryRetrieveInformationModelFind, StorageCommitmentPushModel)
    with scp(*classes) as port:
        found = examined(peer_at(port, roles=EVERY_ROLE), tmp_path)
    assert marks(found.findings) == dict.fromkeys(
        (
            "peer.name", "peer.connection", "peer.association", "peer.echo", "peer.store", "peer.query",
            "peer.commitment",
        ),
        "pass",
    )  # fmt: skip
    assert found.offers == ("storage commitment",)
    assert "Explicit VR Little Endian" in one(found.findings, "peer.store").seen


def test_a_peer_that_only_sends_is_not_called(tmp_path: Path) -> None:
    assert call(peer_at(None, roles=("source",)), settings_with(tmp_path), TIMEOUT_S) == Called(())


def test_services_by_which_it_would_call_us(tmp_path: Path) -> None:
    with scp(MRImageStorage, StudyRootQueryRetrieveInformationModelMove) as port:
        assert examined(peer_at(port), tmp_path).offers == ("C-MOVE",)
    with scp(MRImageStorage) as port:
        assert examined(peer_at(port), tmp_path).offers == ()


def test_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    fault = only_failure(peer_at(104, host="no-such-host.invalid"), tmp_path)
    assert (fault.check, fault.who) == ("peer.name", US)
    assert "no-such-host.invalid" in fault.seen


def test_a_closed_port(tmp_path: Path, free_port: int) -> None:
    fault = only_failure(peer_at(free_port), tmp_path)
    assert (fault.check, fault.who) == ("peer.connection", THEM)
    assert f"nobody listens on 127.0.0.1:{free_port}" in fault.seen


def test_a_port_behind_which_everything_vanishes(tmp_path: Path) -> None:
    with black_hole() as port:
        fault = only_failure(peer_at(port), tmp_path, timeout_s=1.0)
    assert (fault.check, fault.who) == ("peer.connection", NETWORK)
    assert f"127.0.0.1:{port}" in fault.remedy
    assert "firewall" in fault.remedy


def test_our_title_is_not_known_there(tmp_path: Path) -> None:
    with scp(MRImageStorage, require_calling_aet=["SOMEBODY"]) as port:
        fault = only_failure(peer_at(port), tmp_path)
    assert (fault.check, fault.who) == ("peer.association", THEM)
    assert "'PACS' does not know our AE title 'JMMDA_NODE' (we come from 127.0.0.1)" in fault.seen
    assert "add AE title 'JMMDA_NODE' with address 127.0.0.1 and port 11112" in fault.remedy


def test_the_peer_has_another_title(tmp_path: Path) -> None:
    with scp(MRImageStorage, title="OTHER", require_called_aet=True) as port:
        fault = only_failure(peer_at(port), tmp_path)
    assert (fault.check, fault.who) == ("peer.association", US)
    assert f"we call it 'PACS', which is not the AE title of 127.0.0.1:{port}" in fault.seen
    assert "ae_titles of peer 'pacs'" in fault.remedy


def test_a_busy_peer_is_a_warning(tmp_path: Path) -> None:
    with scp(MRImageStorage, maximum_associations=1) as port:
        holder = AE("HOLDER")
        holder.add_requested_context(Verification)
        held = holder.associate("127.0.0.1", port)
        assert held.is_established
        fault = only_failure(peer_at(port), tmp_path)
        held.release()
    assert (fault.check, fault.mark, fault.who) == ("peer.association", Mark.WARN, THEM)


@pytest.mark.parametrize("how", ["hangs up", "is silent", "speaks another protocol"])
def test_a_port_that_is_not_dicom(tmp_path: Path, how: str) -> None:
    def script(connection: socket.socket) -> None:
        if how == "hangs up":
            connection.shutdown(socket.SHUT_RDWR)
        elif how != "is silent":
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8)

    with no_dicom(script) as port:
        fault = only_failure(peer_at(port), tmp_path, timeout_s=1.0)
    assert (fault.check, fault.who) == ("peer.association", THEM)
    assert "took the connection but no association" in fault.seen


def test_a_peer_that_aborts_in_the_middle(tmp_path: Path) -> None:
    def abort(event: evt.Event) -> int:
        event.assoc.abort()
        return 0x0000

    with scp(MRImageStorage, handlers=[(evt.EVT_C_ECHO, abort)]) as port:
        fault = only_failure(peer_at(port), tmp_path)
    assert (fault.check, fault.who) == ("peer.echo", THEM)
    assert "ended it" in fault.seen


def test_an_echo_that_is_answered_with_a_failure(tmp_path: Path) -> None:
    with scp(MRImageStorage, handlers=[(evt.EVT_C_ECHO, lambda event: 0x0122)]) as port:
        fault = only_failure(peer_at(port), tmp_path)
    assert (fault.check, fault.who) == ("peer.echo", THEM)
    assert "0x0122" in fault.seen


def test_a_peer_that_accepts_no_context_at_all(tmp_path: Path) -> None:
    with scp(CTImageStorage, verification=False) as port:
        found = examined(peer_at(port, roles=EVERY_ROLE), tmp_path).findings
    assert marks(found) == {
        "peer.name": "pass",
        "peer.connection": "pass",
        "peer.association": "pass",
        "peer.echo": "fail",
        "peer.store": "fail",
        "peer.query": "fail",
        "peer.commitment": "fail",
    }


@pytest.mark.parametrize(
    ("check", "without", "words"),
    [
        ("peer.store", MRImageStorage, "MR Image Storage"),
        ("peer.query", StudyRootQueryRetrieveInformationModelFind, "Study Root C-FIND"),
        ("peer.commitment", StorageCommitmentPushModel, "Storage Commitment"),
    ],
)
def test_a_role_that_the_peer_does_not_fill(tmp_path: Path, check: str, without: str, words: str) -> None:
    every = {MRImageStorage, StudyRootQueryRetrieveInformationModelFind, StorageCommitmentPushModel}
    with scp(*(every - {without})) as port:
        fault = only_failure(peer_at(port, roles=EVERY_ROLE), tmp_path)
    assert (fault.check, fault.who) == (check, THEM)
    assert words in fault.seen
    assert "'JMMDA_NODE'" in fault.remedy


def test_the_class_of_the_results_is_that_of_the_settings(tmp_path: Path) -> None:
    with scp(SecondaryCaptureImageStorage) as port:
        assert marks(examined(peer_at(port), tmp_path, output={"object": "sc"}).findings)["peer.store"] == "pass"
        assert only_failure(peer_at(port), tmp_path).check == "peer.store"
