"""DICOM TLS with DCMTK on both sides: its senders against the receiver, our verbs against its storescp.

Covers DCMTK's three BCP 195 profiles, the retired AES profile, which is refused, mutual authentication, and what each
side says when it does not trust the other. Bad certificates of all kinds: `test_receive_tls`, `test_net_tls`. Orthanc:
`test_tls_orthanc`.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node.deliver.sender import send_instances
from dicom_node.demo.throwaway import free_port
from dicom_node.errors import NodeError
from dicom_node.ledger.refusals import read_refusals
from dicom_node.net.remote import Remote
from dicom_node.net.scu import echo
from dicom_node.receive.plan import Caller, TlsDoor
from tests.dicom_node.net.associations import wait_until, write_series
from tests.dicom_node.net.tls_cases import Authority, Identity
from tests.dicom_node.receive.receiver_process import ReceiverProcess

pytestmark = pytest.mark.peers

#: Not a PATH look-up: pynetdicom installs commands of the same names.
DCMTK = Path("/usr/bin")
PROFILES = {"non-downgrading BCP 195": "+py", "BCP 195": "+px", "extended BCP 195": "+pz"}


@dataclass(frozen=True)
class Site:
    """A receiver with both doors, and certificates of two authorities."""

    receiver: ReceiverProcess
    ours: Authority
    theirs: Authority
    node: Identity
    pacs: Identity

    def refused(self) -> dict[str, str]:
        return {one.refusal.code: one.refusal.reason for one in read_refusals(self.receiver.data_dir / "run")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    ours, theirs = Authority(folder / "ours", "rsa"), Authority(folder / "theirs", "rsa")
    node, pacs = ours.issue("node"), ours.issue("pacs")
    callers = (Caller("pacs", ("PACS",), "127.0.0.1", needs_tls=True),)
    door = TlsDoor(0, node.files(ours.certificate))
    with ReceiverProcess(folder / "data", tls=door, callers=callers) as receiver:
        yield Site(receiver, ours, theirs, node, pacs)


def dcmtk(tool: str, site: Site, who: Identity, trusted: Authority, *more: object) -> subprocess.CompletedProcess[str]:
    """Run one of DCMTK's callers against the TLS port of the receiver."""
    command = [DCMTK / tool, "-aet", "PACS", "-aec", "JMMDA_NODE", "+tls", who.key, who.certificate]
    command += ["+cf", trusted.certificate, "127.0.0.1", site.receiver.tls_port, *more]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)


@contextmanager
def storescp(folder: Path, who: Identity, trusted: Authority, *more: str) -> Iterator[int]:
    """DCMTK's storage SCP with TLS; yields its port."""
    folder.mkdir()
    port = free_port()
    command = [DCMTK / "storescp", "-aet", "STORESCP", "-od", folder, "+B", "+tls", who.key, who.certificate]
    command += ["+cf", trusted.certificate, *more, port]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    try:
        assert wait_until(lambda: listens(port))
        yield port
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_echoscu_is_let_in_by_every_profile(site: Site, profile: str) -> None:
    done = dcmtk("echoscu", site, site.pacs, site.ours, profile)
    assert done.returncode == 0, done.stderr


def test_storescu_stores_by_tls(site: Site, tmp_path: Path) -> None:
    paths = write_series(tmp_path, 5, side_px=512)
    done = dcmtk("storescu", site, site.pacs, site.ours, *paths)
    assert done.returncode == 0, done.stderr
    stored = site.receiver.stored()
    assert len(stored) == 5
    assert all(len(copies) == 1 for copies in stored.values())


def test_echoscu_is_refused_for_each_reason(site: Site) -> None:
    for who, trusted, code in (
        (site.theirs.issue("stranger"), site.ours, "tls_unknown_authority"),
        (site.ours.issue("expired", ends_in=timedelta(hours=-1)), site.ours, "tls_expired"),
        (site.pacs, site.theirs, "tls_refused"),
    ):
        done = dcmtk("echoscu", site, who, trusted)
        assert done.returncode != 0
        assert wait_until(lambda code=code: code in site.refused()), (code, site.receiver.log)
    assert "does not know the authority of our certificate" in site.refused()["tls_refused"]


def test_echoscu_without_tls_or_without_certificate_is_refused(site: Site) -> None:
    known = ["-aet", "PACS", "-aec", "JMMDA_NODE", "127.0.0.1"]
    plain = subprocess.run([DCMTK / "echoscu", *known, str(site.receiver.port)], capture_output=True)
    assert plain.returncode != 0
    assert "'PACS' at 127.0.0.1 called without TLS" in site.refused()["tls_required"]
    anonymous = [DCMTK / "echoscu", "+tla", "-ic", *known, str(site.receiver.tls_port)]
    assert subprocess.run(anonymous, capture_output=True).returncode != 0
    assert wait_until(lambda: "tls_no_certificate" in site.refused())
    wrong_door = [DCMTK / "echoscu", *known, str(site.receiver.tls_port)]
    assert subprocess.run(wrong_door, capture_output=True).returncode != 0
    assert wait_until(lambda: "tls_not_spoken" in site.refused())


def test_the_retired_profile_finds_no_cipher(site: Site) -> None:
    """The AES profile (PS3.15 of 2018, section B.3) has no forward secrecy and no AEAD cipher."""
    assert dcmtk("echoscu", site, site.pacs, site.ours, "+pa").returncode != 0
    assert wait_until(lambda: "tls_cipher" in site.refused())


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_our_sender_delivers_to_storescp_by_every_profile(site: Site, tmp_path: Path, profile: str) -> None:
    paths = write_series(tmp_path / "ct", 3, side_px=256)
    with storescp(tmp_path / "got", site.pacs, site.ours, profile) as port:
        peer = Remote("pacs", "STORESCP", "127.0.0.1", port, tls_call=site.node.call(site.ours.certificate))
        echo(peer, "JMMDA_NODE")
        assert send_instances(peer, "JMMDA_NODE", paths).complete
    assert len(list((tmp_path / "got").iterdir())) == 3


def test_our_sender_says_why_storescp_and_we_do_not_agree(site: Site, tmp_path: Path) -> None:
    call = site.node.call(site.ours.certificate)
    for number, (who, trusted, code) in enumerate(
        (
            (site.pacs, site.theirs, "tls_refused"),
            (site.theirs.issue("other"), site.ours, "tls_unknown_authority"),
            (site.ours.issue("late", ends_in=timedelta(hours=-1)), site.ours, "tls_expired"),
            (site.ours.issue("named", san="DNS:pacs.example"), site.ours, "tls_name"),
        )
    ):
        with storescp(tmp_path / str(number), who, trusted) as port, pytest.raises(NodeError) as caught:
            echo(Remote("pacs", "STORESCP", "127.0.0.1", port, tls_call=call), "JMMDA_NODE", timeout_s=5)
        assert caught.value.code == code, caught.value
