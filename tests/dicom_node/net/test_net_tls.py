"""DICOM TLS as requestor, against pynetdicom acceptors with certificates of every kind, and the files it needs.

Covers each way in which a handshake fails and whose fault the error names, TLS 1.2 and 1.3, bad files of our own, and
names in certificates. As acceptor: `test_receive_tls`. Foreign peers: `tests/peers/test_tls_dcmtk` and
`test_tls_orthanc`.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicom_node.errors import NodeError, Permanent, Transient
from dicom_node.net.find import FindSession
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession, echo
from dicom_node.net.tls import TlsCall, client_context, holds_name, names_in, resolved, server_context
from dicom_node.settings import Peer, Role
from tests.dicom_node.net.associations import raw_server, write_series
from tests.dicom_node.net.tls_cases import Authority, Identity, careless_server

TLS_1_1, TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@dataclass(frozen=True)
class World:
    """Two authorities, and who has a certificate of which."""

    ours: Authority
    theirs: Authority
    node: Identity
    pacs: Identity


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    ours, theirs = Authority(folder / "ours"), Authority(folder / "theirs")
    return World(ours, theirs, ours.issue("node"), ours.issue("pacs"))


@contextmanager
def pacs_with(context: ssl.SSLContext | None) -> Iterator[int]:
    """A PACS that answers echo, find and store; yields its port."""
    entity = AE("PACS")
    for sop_class in (Verification, CTImageStorage, StudyRootQueryRetrieveInformationModelFind):
        entity.add_supported_context(sop_class)
    answers = [(evt.EVT_C_STORE, lambda _: 0x0000), (evt.EVT_C_FIND, lambda _: iter(()))]
    server = entity.start_server(("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=answers)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def remote(port: int, call: TlsCall | None) -> Remote:
    return Remote("pacs", "PACS", "127.0.0.1", port, tls_call=call)


def failure_of(port: int, call: TlsCall, timeout_s: float = 5.0) -> NodeError:
    with pytest.raises(NodeError) as caught:
        echo(remote(port, call), "JMMDA_NODE", timeout_s=timeout_s)
    return caught.value


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_every_verb_goes_by_tls(world: World, version: ssl.TLSVersion, tmp_path: Path) -> None:
    spoken: list[str | None] = []

    def opened(event: evt.Event) -> None:
        spoken.append(event.assoc.dul.socket.socket.version())

    context = careless_server(world.pacs, world.ours.certificate, most=version)
    context.minimum_version = version
    entity = AE("PACS")
    for sop_class in (Verification, CTImageStorage, StudyRootQueryRetrieveInformationModelFind):
        entity.add_supported_context(sop_class)
    answers = [
        (evt.EVT_C_STORE, lambda _: 0x0000),
        (evt.EVT_C_FIND, lambda _: iter(())),
        (evt.EVT_ESTABLISHED, opened),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, ssl_context=context, evt_handlers=answers)
    try:
        peer = remote(server.server_address[1], world.node.call(world.ours.certificate))
        echo(peer, "JMMDA_NODE")
        with FindSession(peer, "JMMDA_NODE") as session:
            assert session.find("STUDY", {"StudyInstanceUID": "2.25.1"}) == []
        instance = EncodedInstance.read(write_series(tmp_path, 1, side_px=512)[0])
        with StoreSession(peer, "JMMDA_NODE", {instance.need}) as session:
            assert session.send_encoded(instance).status == 0x0000
    finally:
        server.shutdown()
    assert spoken == [version.name.replace("_", ".")] * 3


def test_our_certificate_of_another_authority_is_refused_by_the_peer(world: World) -> None:
    for version in (TLS_1_2, TLS_1_3):  # in 1.3 the refusal comes after the handshake
        with pacs_with(careless_server(world.pacs, world.theirs.certificate, most=version)) as port:
            error = failure_of(port, world.node.call(world.ours.certificate))
        assert isinstance(error, Transient)
        assert error.code == "tls_refused"
        assert "peer 'pacs' (PACS at 127.0.0.1:" in error.reason
        assert "does not know the authority of our certificate" in error.reason


def test_an_older_version_is_refused(world: World) -> None:
    with pacs_with(careless_server(world.pacs, most=TLS_1_1)) as port:
        error = failure_of(port, world.node.call(world.ours.certificate))
    assert error.code == "tls_version"
    assert "TLS 1.1 or older" in error.reason


def test_ciphers_outside_the_profile_are_refused(world: World) -> None:
    with pacs_with(careless_server(world.pacs, most=TLS_1_2, ciphers="ECDHE+AES+SHA384:AES128-SHA")) as port:
        error = failure_of(port, world.node.call(world.ours.certificate))
    assert error.code == "tls_refused"
    assert "no version, cipher or certificate in common" in error.reason


@pytest.mark.parametrize(
    ("dates", "code", "words"),
    [
        ({"ends_in": timedelta(hours=-1)}, "tls_expired", "has expired"),
        ({"starts_in": timedelta(days=2)}, "tls_not_yet_valid", "not valid yet"),
    ],
)
def test_a_certificate_out_of_date_is_refused(world: World, dates: dict[str, timedelta], code: str, words: str) -> None:
    with pacs_with(careless_server(world.ours.issue(code, **dates), most=TLS_1_3)) as port:
        error = failure_of(port, world.node.call(world.ours.certificate))
    assert error.code == code
    assert words in error.reason


def test_a_certificate_of_an_unknown_authority_is_refused(world: World) -> None:
    with pacs_with(careless_server(world.theirs.issue("alien"), most=TLS_1_3)) as port:
        error = failure_of(port, world.node.call(world.ours.certificate))
    assert error.code == "tls_unknown_authority"
    assert "tls_ca" in error.reason


def test_a_certificate_may_be_trusted_itself(world: World) -> None:
    """Where there is no authority: the two sides have exchanged certificates."""
    alien = world.theirs.issue("exchanged")
    with pacs_with(careless_server(alien, most=TLS_1_3)) as port:
        echo(remote(port, world.node.call(alien.certificate)), "JMMDA_NODE")


def test_a_certificate_for_another_name_is_refused(world: World) -> None:
    with pacs_with(careless_server(world.pacs, most=TLS_1_3)) as port:
        error = failure_of(port, world.node.call(world.ours.certificate, name="pacs.example"))
        echo(remote(port, world.node.call(world.ours.certificate, name="127.0.0.1")), "JMMDA_NODE")
    assert error.code == "tls_name"
    assert "'pacs.example'" in error.reason
    assert "tls_name" in error.reason


def test_a_weak_key_is_refused(world: World, tmp_path: Path) -> None:
    weak = Authority(tmp_path / "weak", kind="weak")
    with pacs_with(careless_server(weak.issue("pacs"), most=TLS_1_3)) as port:
        error = failure_of(port, world.node.call(weak.certificate))
    assert error.code == "tls_weak"


def test_a_plain_port_is_told_apart(world: World) -> None:
    with pacs_with(None) as port:
        error = failure_of(port, world.node.call(world.ours.certificate))
    assert error.code == "tls_not_spoken"
    assert "remove tls = true" in error.reason


def test_nobody_and_somebody_silent_or_gone(world: World, free_port: int) -> None:
    call = world.node.call(world.ours.certificate)
    assert failure_of(free_port, call).code == "peer_unreachable"
    with raw_server(lambda connection: None) as silent:
        assert silent.port is not None
        assert failure_of(silent.port, call, timeout_s=0.3).code == "tls_ended"

    def hang_up(connection: socket.socket) -> None:
        connection.recv(10)
        connection.close()

    with raw_server(hang_up) as gone:
        assert gone.port is not None
        assert failure_of(gone.port, call).code == "tls_ended"


def test_a_renewed_certificate_is_used_by_the_next_association(world: World) -> None:
    alien = world.theirs.issue("before")
    used = Identity(world.ours.folder / "used.pem", world.ours.folder / "used.key")
    for source in (alien, world.node):
        used.certificate.write_bytes(source.certificate.read_bytes())
        used.key.write_bytes(source.key.read_bytes())
        used.key.chmod(0o600)
        with pacs_with(careless_server(world.pacs, world.ours.certificate, most=TLS_1_3)) as port:
            call = used.call(world.ours.certificate)
            if source is alien:
                assert failure_of(port, call).code == "tls_refused"
            else:
                echo(remote(port, call), "JMMDA_NODE")


def test_bad_files_of_our_own_are_named(world: World, tmp_path: Path) -> None:
    good = world.node.files(world.ours.certificate)
    nothing, words, exposed, locked = (tmp_path / name for name in ("no.pem", "words.pem", "exposed.key", "locked.key"))
    words.write_text("not a certificate\n")
    words.chmod(0o600)
    exposed.write_bytes(world.node.key.read_bytes())
    exposed.chmod(0o644)
    command = ["openssl", "pkey", "-in", world.node.key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(command, check=True)
    locked.chmod(0o600)
    for files, expected in (
        (replace(good, certificate=str(nothing)), "No such file"),
        (replace(good, key=str(nothing)), f"{nothing} cannot be read"),
        (replace(good, certificate=str(words)), "in PEM form"),
        (replace(good, key=str(words)), "in PEM form"),
        (replace(good, key=str(world.pacs.key)), "does not belong to the certificate"),
        (replace(good, key=str(exposed)), f"chmod 600 (or 640) {exposed}"),
        (replace(good, key=str(locked)), "is encrypted"),
        (replace(good, authorities=(str(nothing),)), f"{nothing} cannot be read"),
        (replace(good, authorities=(str(words),)), "no certificate of an authority"),
    ):
        for make in (
            partial(client_context, TlsCall(files, "x")),
            partial(server_context, files, require_certificate=True),
        ):
            with pytest.raises(Transient) as caught:
                make()
            assert caught.value.code == "tls_files"
            assert expected in caught.value.reason


def test_key_and_certificate_may_stand_in_one_file_that_a_group_reads(world: World, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(world.node.certificate.read_bytes() + world.node.key.read_bytes())
    both.chmod(0o640)
    files = replace(world.node.files(world.ours.certificate), certificate=str(both), key="")
    assert client_context(TlsCall(files, "x")).check_hostname


def test_a_credential_of_systemd_is_found(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(Transient, match="LoadCredential"):
        resolved("$CREDENTIALS_DIRECTORY/node.key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert resolved("$CREDENTIALS_DIRECTORY/node.key") == tmp_path / "node.key"
    (tmp_path / "node.key").write_bytes(world.node.key.read_bytes())
    (tmp_path / "node.key").chmod(0o440)
    files = replace(world.node.files(world.ours.certificate), key="$CREDENTIALS_DIRECTORY/node.key")
    client_context(TlsCall(files, "x"))


def test_contexts_are_those_of_the_profile(world: World) -> None:
    """PS3.15 section B.12 by way of RFC 9325: no older version, and ECDHE with an AEAD cipher alone."""
    files = world.node.files(world.ours.certificate)
    for context in (client_context(TlsCall(files, "x")), server_context(files, require_certificate=True)):
        assert context.minimum_version is TLS_1_2
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.options & ssl.OP_NO_COMPRESSION
        for cipher in context.get_ciphers():
            assert cipher["aead"], cipher["name"]
            assert cipher["protocol"] == "TLSv1.3" or cipher["kea"] == "kx-ecdhe", cipher["name"]


def test_a_peer_that_wants_tls_is_never_called_without() -> None:
    peer = Peer(name="p", ae_titles=("P",), host="127.0.0.1", port=1, roles=(Role.DESTINATION,), tls=True)
    with pytest.raises(Permanent, match="section \\[tls\\]"):
        echo(peer, "JMMDA_NODE")


def test_names_of_a_certificate() -> None:
    names = (("DNS", "Pacs.Example"), ("DNS", "*.clinic.example"), ("IP Address", "10.0.0.1"), ("email", "a@b"))
    certificate = {"subjectAltName": names}
    assert names_in(certificate) == ("Pacs.Example", "*.clinic.example", "10.0.0.1")
    for good in ("pacs.example", "pacs.example.", "ct.clinic.example", "10.0.0.1"):
        assert holds_name(certificate, good), good
    for bad in ("example", "clinic.example", "a.ct.clinic.example", "10.0.0.2", "::1", "", "a@b"):
        assert not holds_name(certificate, bad), bad
    assert not holds_name(None, "pacs.example")
    assert not holds_name({}, "localhost")
