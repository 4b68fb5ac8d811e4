"""DICOM TLS as acceptor: a real receiver process and callers with certificates of every kind.

Covers what is let in, each refusal with its line in log and journal, TLS and plain ports beside each other, renewal of
certificates while associations are open, and callers that dawdle in the handshake. Our side as requestor:
`test_net_tls`. Foreign peers: `tests/peers/test_tls_dcmtk` and `test_tls_orthanc`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node.errors import NodeError
from dicom_node.ledger.refusals import read_refusals
from dicom_node.net.scu import EncodedInstance, StoreSession, echo
from dicom_node.net.tls import TlsCall
from dicom_node.receive.plan import Caller, TlsDoor
from tests.dicom_node.net.associations import wait_until, write_series
from tests.dicom_node.net.tls_cases import Authority, Identity, careless_client
from tests.dicom_node.receive.receiver_process import PACS, ReceiverProcess

#: What the receivers of these tests know: one peer as it comes, one by TLS alone, one with its own certificate alone.
CALLERS = (
    PACS,
    Caller("secure", ("SECURE",), "127.0.0.1", needs_tls=True),
    Caller("named", ("NAMED",), "127.0.0.1", needs_tls=True, tls_name="ct1.example"),
)


@dataclass(frozen=True)
class World:
    """Two authorities and what they issued."""

    ours: Authority
    theirs: Authority
    node: Identity
    pacs: Identity

    def call(self, who: Identity | None = None) -> TlsCall:
        return (who or self.pacs).call(self.ours.certificate)

    def door(self, node: Identity | None = None, *authorities: Authority) -> TlsDoor:
        return TlsDoor(0, (node or self.node).files(*(one.certificate for one in authorities or (self.ours,))))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    ours, theirs = Authority(folder / "ours"), Authority(folder / "theirs")
    return World(ours, theirs, ours.issue("node"), ours.issue("pacs"))


@pytest.fixture(scope="module")
def receiver(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    folder = tmp_path_factory.mktemp("receiver")
    with ReceiverProcess(folder / "data", tls=world.door(), callers=CALLERS, acse_timeout_s=2.0) as process:
        yield process


def told(receiver: ReceiverProcess, code: str, *words: str) -> None:
    """Log and journal both tell of a refusal in these words."""
    assert wait_until(lambda: code in [one.refusal.code for one in read_refusals(receiver.data_dir / "run")])
    reasons = [one.refusal.reason for one in read_refusals(receiver.data_dir / "run") if one.refusal.code == code]
    for word in words:
        assert any(word in reason for reason in reasons), reasons
    assert all(f"association rejected: {reason}" in receiver.log for reason in reasons)


def handshake(port: int | None, context: ssl.SSLContext) -> str | None:
    """Shake hands, wait for what the other side says then, and return the version that was spoken."""
    with socket.create_connection(("127.0.0.1", port)) as connection, context.wrap_socket(connection) as secure:
        secure.settimeout(5)
        secure.recv(1)
        return secure.version()


def test_both_doors_store(receiver: ReceiverProcess, world: World, tmp_path: Path) -> None:
    instances = [EncodedInstance.read(path) for path in write_series(tmp_path, 3)]
    for peer in (receiver.remote, receiver.by_tls(world.call())):
        with StoreSession(peer, "PACS", {one.need for one in instances}) as session:
            assert [session.send_encoded(one).status for one in instances] == [0, 0, 0]
    stored = receiver.stored()
    assert [len(stored[one.head.sop_instance_uid]) for one in instances] == [2, 2, 2]


def test_a_large_instance_comes_whole_by_tls(receiver: ReceiverProcess, world: World, tmp_path: Path) -> None:
    """Many records in one PDU: what TLS has decrypted already does not show in select()."""
    path = write_series(tmp_path, 1, side_px=1024, SeriesInstanceUID="2.25.77", SOPInstanceUID="2.25.771")[0]
    instance = EncodedInstance.read(path)
    with StoreSession(receiver.by_tls(world.call()), "PACS", {instance.need}) as session:
        assert session.send_encoded(instance).status == 0x0000
    (stored,) = receiver.stored()["2.25.771"]
    assert stored.read_bytes()[-(1024 * 1024 * 2) :] == path.read_bytes()[-(1024 * 1024 * 2) :]


@pytest.mark.parametrize(
    ("dates", "code"),
    [
        ({"ends_in": timedelta(hours=-1)}, "tls_expired"),
        ({"starts_in": timedelta(days=2)}, "tls_not_yet_valid"),
        ({}, "tls_unknown_authority"),
    ],
)
def test_a_bad_certificate_is_refused(
    receiver: ReceiverProcess, world: World, dates: dict[str, timedelta], code: str
) -> None:
    issuer = world.ours if dates else world.theirs
    with pytest.raises(NodeError) as caught:
        echo(receiver.by_tls(world.call(issuer.issue(code, **dates))), "PACS", timeout_s=5)
    assert caught.value.code == "tls_refused"
    told(receiver, code, "the peer at 127.0.0.1 showed a certificate")


def test_no_certificate_is_refused(receiver: ReceiverProcess) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with pytest.raises(OSError, match=r"(?i)certificate.required|handshake.failure"):
            handshake(receiver.tls_port, careless_client(most=version))
    told(receiver, "tls_no_certificate", "the peer at 127.0.0.1 showed no certificate")


def test_older_versions_and_weak_ciphers_are_refused(receiver: ReceiverProcess) -> None:
    for most in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            handshake(receiver.tls_port, careless_client(most=most))
    told(receiver, "tls_version", "TLS 1.1 or older")
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        handshake(receiver.tls_port, careless_client(most=ssl.TLSVersion.TLSv1_2, ciphers="AES128-SHA:@SECLEVEL=0"))
    told(receiver, "tls_cipher", "ECDHE")


def test_a_peer_that_does_not_trust_us_is_named(receiver: ReceiverProcess, world: World) -> None:
    with pytest.raises(NodeError) as caught:
        echo(receiver.by_tls(world.pacs.call(world.theirs.certificate)), "PACS", timeout_s=5)
    assert caught.value.code == "tls_unknown_authority"
    told(receiver, "tls_refused", "does not know the authority of our certificate")


def test_the_wrong_door_is_named(receiver: ReceiverProcess, world: World) -> None:
    with pytest.raises(NodeError):
        echo(receiver.by_tls(None), "PACS", timeout_s=5)
    told(receiver, "tls_not_spoken", "switch TLS on there")
    with pytest.raises(NodeError) as caught:
        echo(replace(receiver.remote, tls_call=world.call()), "PACS", timeout_s=5)
    assert caught.value.code == "tls_not_spoken"
    told(receiver, "tls_on_plain_port", f"spoke TLS on port {receiver.port}, which is a plain one")


def test_a_peer_of_tls_is_not_let_in_without(receiver: ReceiverProcess, world: World) -> None:
    echo(receiver.by_tls(world.call()), "SECURE", timeout_s=5)
    with pytest.raises(NodeError) as caught:
        echo(receiver.remote, "SECURE", timeout_s=5)
    assert caught.value.code == "peer_rejected"
    told(receiver, "tls_required", "'SECURE' at 127.0.0.1 called without TLS", "peer 'secure' has tls = true")


def test_a_peer_with_a_name_needs_the_certificate_of_that_name(receiver: ReceiverProcess, world: World) -> None:
    right = world.ours.issue("ct1", san="DNS:ct1.example,IP:10.0.0.9")
    echo(receiver.by_tls(world.call(right)), "NAMED", timeout_s=5)
    with pytest.raises(NodeError) as caught:
        echo(receiver.by_tls(world.call()), "NAMED", timeout_s=5)
    assert caught.value.code == "peer_rejected"
    told(receiver, "tls_name", "'localhost', '127.0.0.1'", "'ct1.example'")


def test_a_caller_that_dawdles_keeps_nobody_waiting(receiver: ReceiverProcess, world: World) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            dawdler = stack.enter_context(socket.create_connection(("127.0.0.1", receiver.tls_port)))
            dawdler.sendall(b"\x16\x03\x01")
        echo(receiver.by_tls(world.call()), "PACS", timeout_s=5)
        told(receiver, "tls_ended", "said nothing for too long")


def test_nonsense_and_probes_do_no_harm(receiver: ReceiverProcess, world: World) -> None:
    """A probe is no refusal, however it closes."""
    known = len(read_refusals(receiver.data_dir / "run"))
    for _ in range(20):
        socket.create_connection(("127.0.0.1", receiver.tls_port)).close()
    echo(receiver.by_tls(world.call()), "PACS", timeout_s=5)
    assert len(read_refusals(receiver.data_dir / "run")) == known
    for nonsense in (b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 5000, b"\x16\x03\x01\xff\xff" + b"\x00" * 70000):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", receiver.tls_port), timeout=5) as connection,
        ):
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    echo(receiver.by_tls(world.call()), "PACS", timeout_s=5)


def test_certificates_are_renewed_while_associations_are_open(world: World, tmp_path: Path) -> None:
    """The same file names, new content, a new authority for the peers: what `SIGHUP` does."""
    used = Identity(tmp_path / "node.pem", tmp_path / "node.key")
    copy(world.node, used)
    door = TlsDoor(0, used.files(world.ours.certificate))
    paths = write_series(tmp_path / "ct", 2)
    first, second = (EncodedInstance.read(path) for path in paths)
    stranger = world.theirs.issue("stranger")
    with ReceiverProcess(tmp_path / "data", tls=door) as receiver:
        old = receiver.by_tls(world.call())
        new = receiver.by_tls(stranger.call(world.theirs.certificate))
        with StoreSession(old, "PACS", {first.need}) as session:
            assert session.send_encoded(first).status == 0x0000
            copy(world.theirs.issue("node"), used)
            receiver.tell(replace(receiver.plan, tls=TlsDoor(0, used.files(world.theirs.certificate))))
            assert receiver.report() == {"event": "reloaded"}
            assert session.send_encoded(second).status == 0x0000
        echo(new, "PACS", timeout_s=5)
        with pytest.raises(NodeError):
            echo(old, "PACS", timeout_s=5)

        used.key.write_bytes(world.node.key.read_bytes())
        receiver.tell(receiver.plan)
        refused = receiver.report()
        assert (refused["event"], refused["code"]) == ("not_reloaded", "tls_files")
        assert "does not belong to the certificate" in refused["reason"]
        echo(new, "PACS", timeout_s=5)  # the old context stays

        receiver.tell(replace(receiver.plan, tls=None))
        assert receiver.report()["code"] == "needs_restart"
        assert len(receiver.stored()) == 2


def copy(source: Identity, target: Identity) -> None:
    target.certificate.write_bytes(source.certificate.read_bytes())
    target.key.write_bytes(source.key.read_bytes())
    target.key.chmod(0o600)


def test_tls_may_be_the_only_door_and_a_certificate_optional(world: World, tmp_path: Path) -> None:
    ending = world.ours.issue("ending", ends_in=timedelta(days=5))
    door = replace(world.door(ending), require_certificate=False)
    with ReceiverProcess(tmp_path / "data", tls=door, tls_only=True, callers=CALLERS) as receiver:
        assert receiver.port == receiver.tls_port
        echo(receiver.by_tls(world.call()), "PACS", timeout_s=5)
        context = careless_client(most=ssl.TLSVersion.TLSv1_3)
        with (
            socket.create_connection(("127.0.0.1", receiver.tls_port)) as connection,
            context.wrap_socket(connection) as secure,
        ):
            assert secure.version() == "TLSv1.3"
        with pytest.raises(NodeError) as caught:
            echo(receiver.by_tls(world.call(world.theirs.issue("unknown"))), "PACS", timeout_s=5)
        assert caught.value.code == "tls_refused"  # one that is shown has to be good
        assert "our certificate" in receiver.log
        assert "renew it, then reload" in receiver.log


def test_a_receiver_without_usable_files_does_not_start(world: World, tmp_path: Path) -> None:
    exposed = world.ours.issue("exposed")
    exposed.key.chmod(0o644)
    receiver = ReceiverProcess(tmp_path / "data", tls=world.door(exposed))
    with pytest.raises(AssertionError, match="end of output"):
        receiver.__enter__()
    receiver.process.communicate(timeout=30)
    assert receiver.process.returncode == 1
    assert "is open to every user of this machine: chmod 600" in receiver.log
