"""Orthanc as a PACS that speaks TLS alone: it routes a CT to a node that does, and the result comes back by TLS.

Covers C-ECHO, C-STORE and C-FIND in either direction with certificates demanded by both sides, `jmmda-node echo`, and a
certificate that is replaced while both run (SIGHUP). Without TLS: `test_orthanc_route`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicom_node.demo.throwaway import NODE_AE, ThrowawayNode, ThrowawaySettings, free_port
from dicom_node.net.find import FindSession
from dicom_node.net.remote import Remote
from dicom_node.settings import load_settings
from tests.dicom_node.net.associations import wait_until
from tests.dicom_node.net.tls_cases import Authority, Identity
from tests.peers.orthanc import ROUTE_CT_SERIES, Orthanc, running_orthanc

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("orthanc")]


class TlsNode(ThrowawayNode):
    """A throwaway node whose only port speaks TLS, and whose peers do."""

    identity: Identity
    authority: Authority

    @property
    def remote(self) -> Remote:
        """As Orthanc calls it."""
        pacs = self.authority.folder
        call = Identity(pacs / "pacs.pem", pacs / "pacs.key").call(self.authority.certificate)
        return Remote("node", NODE_AE, "127.0.0.1", self.port, tls_call=call)

    def write_config(self) -> None:
        """Write node.toml and switch TLS on in it."""
        super().write_config()
        text = self.config.read_text().replace("\nroles = ", "\ntls = true\nroles = ")
        text += f'\n[tls]\nport = {self.port}\ncertificate = "node.pem"\nkey = "node.key"\nca = "authority.pem"\n'
        self.config.write_text(text)
        (self.folder / "authority.pem").write_bytes(self.authority.certificate.read_bytes())
        self.use(self.identity)

    def use(self, identity: Identity) -> None:
        """Put a certificate and its key in place."""
        for source, name in ((identity.certificate, "node.pem"), (identity.key, "node.key")):
            (self.folder / name).write_bytes(source.read_bytes())
            (self.folder / name).chmod(0o600)


@dataclass
class Site:
    """A node and an Orthanc that speak TLS with each other."""

    node: TlsNode
    orthanc: Orthanc
    stranger: Identity


@pytest.fixture(scope="module")
def site(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority(folder / "ours", "rsa"), Authority(folder / "theirs", "rsa")
    identity, pacs_identity = ours.issue("node"), ours.issue("pacs")
    pacs = Remote("orthanc", "ORTHANC", "127.0.0.1", free_port())
    chosen = ThrowawaySettings((pacs,), bundle=str(tiny_bundle), device="cpu", query=True)
    node = TlsNode(folder / "node", chosen)
    node.identity, node.authority = identity, ours
    modality = {"AET": NODE_AE, "Host": "127.0.0.1", "Port": node.port, "UseDicomTls": True}
    changes = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(pacs_identity.certificate),
        "DicomTlsPrivateKey": str(pacs_identity.key),
        "DicomTlsTrustedCertificates": str(ours.certificate),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomModalities": {"jmmda": modality},
    }
    places = {"http_port": free_port(), "dicom_port": pacs.port, "node_port": node.port}
    with (
        running_orthanc(folder / "pacs", **places, lua=ROUTE_CT_SERIES, changes=changes) as orthanc,
        node.running(),
    ):
        yield Site(node, orthanc, theirs.issue("stranger"))


def orthanc_echoes(site: Site) -> bool:
    try:
        site.orthanc.request("/modalities/jmmda/echo", b"{}", "POST")
    except urllib.error.HTTPError:
        return False
    return True


def command(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "dicom_node.cli", *words, "--config", str(site.node.config)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_a_ct_comes_and_its_result_goes_back_by_tls(site: Site, phantom_ct: Path) -> None:
    count = site.orthanc.upload(phantom_ct)

    def complete(orthanc: Orthanc) -> bool:
        series = orthanc.series_of_modality("MR")
        return bool(series) and len(orthanc.get(f"/series/{series[0]}")["Instances"]) == count

    site.orthanc.wait_for(f"{count} synthetic instances", complete, 150)
    assert len(site.orthanc.get("/studies")) == 1
    peer = load_settings(site.node.config).peer("orthanc")
    assert peer is not None
    assert peer.tls_call is not None
    with FindSession(peer, NODE_AE) as session:
        assert len(session.find("STUDY", {"StudyInstanceUID": ""})) == 1


def test_echo_in_both_directions(site: Site) -> None:
    assert orthanc_echoes(site)
    done = command(site, "echo", "orthanc", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    without = Remote("orthanc", "ORTHANC", "127.0.0.1", site.orthanc.dicom_port)
    plain = command(site, "echo", f"ORTHANC@127.0.0.1:{without.port}")
    assert plain.returncode == 1
    assert "with or without TLS" in plain.stderr


def test_a_certificate_is_replaced_while_the_node_runs(site: Site) -> None:
    """First by one that Orthanc does not trust, then by the good one again; each time both sides notice at once."""
    assert site.node.process is not None
    log = site.node.log
    try:
        site.node.use(site.stranger)
        site.node.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: not orthanc_echoes(site), 20)
        assert wait_until(lambda: "does not know the authority of our certificate" in log.read_text())
        refused = json.loads(command(site, "status", "--json").stdout)["refused"]
        assert "tls_refused" in [one["code"] for one in refused]
        assert "tls_refused: the peer at 127.0.0.1 refused us" in command(site, "status").stdout

        done = command(site, "echo", "orthanc")
        assert done.returncode == 3
        assert "tls_refused" in done.stderr
        assert "does not know the authority of our certificate" in done.stderr
    finally:
        site.node.use(site.node.identity)
        site.node.process.send_signal(signal.SIGHUP)
    assert wait_until(lambda: orthanc_echoes(site), 20)
    assert command(site, "echo", "orthanc").returncode == 0


def test_a_bad_file_at_a_reload_changes_nothing(site: Site) -> None:
    assert site.node.process is not None
    try:
        (site.node.folder / "node.key").chmod(0o644)
        site.node.process.send_signal(signal.SIGHUP)
        assert wait_until(lambda: "not reloaded: receiver 1: the private key" in site.node.log.read_text(), 20)
        assert orthanc_echoes(site)
    finally:
        (site.node.folder / "node.key").chmod(0o600)
