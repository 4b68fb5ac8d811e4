"""STOW-RS as client against services in the test's hand: bytes, credentials, TLS, every answer and every breakdown.

Left out: a real archive (`tests/peers/test_orthanc_dicomweb`), retries and the ledger (`test_outbox_web`).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.errors import NodeError, Transient
from dicom_node.net.endpoint import WebEndpoint
from dicom_node.net.scu import EncodedInstance, StoreResult
from dicom_node.net.status import StoreCategory
from dicom_node.net.stow import StowSession
from dicom_node.net.stow_answer import Named, read_answer
from tests.dicom_node.net.associations import raw_server, write_series
from tests.dicom_node.net.web_service import Answer, WebService, answer_json, item, well

STORED, WARNED, PASSING, FOR_GOOD = (
    StoreCategory.SUCCESS, StoreCategory.WARNING, StoreCategory.TRANSIENT, StoreCategory.PERMANENT,
)  # fmt: skip


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> list[EncodedInstance]:
    return [EncodedInstance.read(path) for path in write_series(tmp_path_factory.mktemp("ct"), 3)]


def _send(
    endpoint: WebEndpoint, instances: list[EncodedInstance], timeout_s: float = 5.0
) -> tuple[list[StoreResult], NodeError | None]:
    with StowSession("archive", endpoint, timeout_s=timeout_s) as session:
        return [session.send_encoded(one) for one in instances], session.lost


def test_the_bytes_of_the_files_arrive_over_one_connection(instances: list[EncodedInstance]) -> None:
    with WebService().listening() as service:
        results, lost = _send(WebEndpoint(service.url), instances)
    assert [data for _, data in service.arrived] == [one.data for one in instances]
    assert [(one.category, one.status) for one in results] == [(STORED, 0)] * 3
    assert lost is None
    assert service.connections == 1
    path, headers = service.requests[0]
    assert path == "/dicom-web/studies"
    assert headers["accept"] == "application/dicom+json"
    assert headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    assert "transfer-encoding" not in headers
    assert "authorization" not in headers


def test_token_and_credentials_come_from_files_and_are_read_anew(
    instances: list[EncodedInstance], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    with WebService().listening() as service:
        for text in ("first-token\n", "second-token"):
            secret.write_text(text)
            _send(WebEndpoint(service.url, token_file=secret), instances[:1])
        secret.write_text("node:pässword")
        _send(WebEndpoint(service.url, credentials_file=secret), instances[:1])
    sent = [headers["authorization"] for _, headers in service.requests]
    assert sent == ["Bearer first-token", "Bearer second-token", "Basic bm9kZTpww6Rzc3dvcmQ="]


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff\xfe", b"x" * 20_000, "tökén".encode()])
def test_a_secret_that_cannot_be_used_is_named_and_not_quoted(tmp_path: Path, content: bytes | None) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(Transient) as caught:
        StowSession("archive", WebEndpoint("http://localhost:1", token_file=secret)).open()
    assert caught.value.code == "web_credentials"
    assert f"dicomweb_token_file {secret}" in caught.value.reason
    assert "two" not in caught.value.reason


# --- answers -----------------------------------------------------------------------------------------------------

NATIVE = (
    '<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
    '<DicomAttribute tag="{sequence}" vr="SQ"><Item number="1"><DicomAttribute tag="00081155" vr="UI">'
    '<Value number="1">{uid}</Value></DicomAttribute><DicomAttribute tag="00081197" vr="US">'
    '<Value number="1">272</Value></DicomAttribute></Item></DicomAttribute></NativeDicomModel>'
)


def _xml(uid: str, sequence: str) -> Answer:
    return 200, {"Content-Type": "application/dicom+xml"}, NATIVE.format(uid=uid, sequence=sequence).encode()


def _plain(status: int, body: bytes = b"", **headers: str) -> Callable[[str, int], Answer]:
    return lambda uid, number: (status, headers, body)


CASES: dict[str, tuple[Callable[[str, int], Answer], StoreCategory, int | None, str]] = {
    "coerced": (lambda uid, n: answer_json([item(uid, warning=0xB000)], status=202), WARNED, 0xB000, "coerced"),
    "strange warning": (lambda uid, n: answer_json([item(uid, warning=0x1234)]), WARNED, 0x1234, "0x1234"),
    "resources": (lambda uid, n: answer_json([], [item(uid, failure=0xA700)], 409), PASSING, 0xA700, "resources"),
    "processing": (lambda uid, n: answer_json([], [item(uid, failure=0x0110)], 202), PASSING, 0x0110, "failure"),
    "wrong class": (lambda uid, n: answer_json([], [item(uid, failure=0x0122)], 409), FOR_GOOD, 0x0122, "SOP class"),
    "already there": (lambda uid, n: answer_json([], [item(uid, failure=0x0111)], 409), WARNED, 0x0111, "already"),
    "no reason": (lambda uid, n: answer_json([], [item(uid)], 409), FOR_GOOD, None, "without a reason"),
    "reason success": (lambda uid, n: answer_json([], [item(uid, failure=0)], 200), FOR_GOOD, 0, "means success"),
    "both": (lambda uid, n: answer_json([item(uid)], [item(uid, failure=0xA700)], 202), PASSING, 0xA700, "resources"),
    "a list": (lambda uid, n: (200, {}, b"[" + well(uid, n)[2] + b"]"), STORED, 0, "stored"),
    "xml stored": (lambda uid, n: _xml(uid, "00081199"), STORED, 0, "stored"),
    "xml failed": (lambda uid, n: _xml(uid, "00081198"), PASSING, 0x0110, "processing failure"),
    "another instance": (lambda uid, n: answer_json([item("1.2.3")]), PASSING, None, "does not name the instance"),
    "stored, says an error": (lambda uid, n: answer_json([item(uid)], status=500), PASSING, None, "HTTP 500"),
    "empty": (_plain(200), PASSING, None, "does not name the instance"),
    "no content": (_plain(204), PASSING, None, "does not name the instance"),
    "a login page": (_plain(200, b"<!DOCTYPE html><html>log in"), PASSING, None, "is this the address of a STOW-RS"),
    "bad request": (_plain(400), FOR_GOOD, None, "HTTP 400"),
    "conflict without words": (_plain(409, b"no"), FOR_GOOD, None, "HTTP 409"),
    "too large": (_plain(413), FOR_GOOD, None, "larger"),
    "media type": (_plain(415), FOR_GOOD, None, "transfer syntax"),
    "server error": (_plain(500, b"Traceback GEHEIM^NAME"), PASSING, None, "HTTP 500"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_answer_has_one_meaning_and_the_next_instance_is_sent(
    instances: list[EncodedInstance], case: str
) -> None:
    answer, category, status, words = CASES[case]
    with WebService(
        lambda uid, number: answer(uid, number) if number == 1 else well(uid, number)
    ).listening() as service:
        results, lost = _send(WebEndpoint(service.url), instances[:2])
    first, second = results
    assert (first.category, first.status) == (category, status)
    assert words in first.comment
    assert "GEHEIM" not in first.comment
    assert (second.category, lost) == (STORED, None)


@pytest.mark.parametrize(("status", "code", "words"), [
    (301, "web_redirect", "put the final address into dicomweb_url"), (308, "web_redirect", "redirects us"),
    (401, "web_unauthorised", "renew the token"), (403, "web_forbidden", "right to store"),
    (404, "web_no_service", "correct dicomweb_url"), (405, "web_no_service", "takes no POST"),
    (407, "web_proxy", "proxy"), (429, "web_busy", "slow down"), (503, "web_unavailable", "not available"),
])  # fmt: skip
def test_what_would_meet_every_instance_ends_the_session(instances, status, code, words) -> None:
    with WebService(_plain(status, Location="http://localhost:1/elsewhere")).listening() as service:
        results, lost = _send(WebEndpoint(service.url), instances)
    assert len(service.requests) == 1, "the others are not tried, and no redirect is followed"
    assert lost is not None
    assert (type(lost), lost.code) == (Transient, code)
    assert words in lost.reason
    assert {one.category for one in results} == {PASSING}


@pytest.mark.parametrize("body", [
    b"{", b"[[[[", b"null", b"7", b'"00081199"', b'{"00081199": 7}',
    b'{"00081199": {"Value": [7, null, {"00081155": 3}]}}',
    b'{"00081199": {"Value": [{"00081155": {"Value": [{"x": 1}]}}]}}', b"[" * 100_000, b"<a", b"<a/>", b"\xff\xfe<",
    b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', b'{"00081199": {"Value": [{"00081155": {"Value": []}}]}}',
])  # fmt: skip
def test_nonsense_names_no_instance(body: bytes) -> None:
    assert read_answer(body) == {}


def test_reasons_may_be_text_and_nonsense_is_no_reason() -> None:
    def reason(value: str) -> int | None:
        text = '{"00081198":{"Value":[{"00081155":{"Value":["1.2"]},"00081197":{"Value":[VALUE]}}]}}'
        text = text.replace("VALUE", value)
        return read_answer(text.encode())["1.2"].reason

    assert [reason(value) for value in ('"42752"', "42752", "-1", "70000", '"x"', "null")] == [42752, 42752] + [
        None
    ] * 4
    assert read_answer(b"\xef\xbb\xbf\n" + answer_json([item("1.2")])[2]) == {"1.2": Named(True, None)}


# --- breakdowns --------------------------------------------------------------------------------------------------


def _said(text: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        with contextlib.suppress(OSError):  # who has read enough hangs up
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            # Closing with a request half read would reset the connection, and take back what was said.
            while connection.recv(65536):
                pass

    return script


def _drip(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    connection.settimeout(0.1)
    for _ in range(60):
        connection.sendall(b" ")
        try:
            if not connection.recv(65536):
                return
        except TimeoutError:
            continue


@pytest.mark.parametrize(("script", "code"), [
    (lambda connection: None, "peer_silent"),
    (lambda connection: connection.shutdown(socket.SHUT_RDWR), "peer_aborted"),
    (_said(b"SSH-2.0-OpenSSH_9\r\n"), "peer_aborted"),
    (_said(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"), "peer_aborted"),
    (_said(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "peer_aborted"),
    (_said(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 2_000_000), "web_answer"),
    (_drip, "peer_silent"),
], ids=["silent", "hangs up", "no HTTP", "cut off", "bad chunk", "endless", "drip"])  # fmt: skip
def test_a_service_that_breaks_down_costs_the_session_and_nothing_else(instances, script, code) -> None:
    with raw_server(script) as peer:
        timeout_s = 0.6 if code == "peer_silent" else 10.0
        results, lost = _send(WebEndpoint(f"http://127.0.0.1:{peer.port}"), instances, timeout_s=timeout_s)
    assert lost is not None
    assert lost.code == code
    assert {(one.category, one.status) for one in results} == {(PASSING, None)}


def test_nobody_there_and_no_such_name(instances, free_port: int) -> None:
    for url in (f"http://127.0.0.1:{free_port}", "http://no-such-host.invalid/dicom-web"):
        lost = _send(WebEndpoint(url), instances[:1])[1]
        assert lost is not None
        assert lost.code == "peer_unreachable"


# --- TLS ---------------------------------------------------------------------------------------------------------


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a certificate for localhost, and one for the node."""
    folder = tmp_path_factory.mktemp("pki")
    for name in ("ca", "localhost", "node"):
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / f"{name}.key")
    _openssl("req", "-x509", "-key", folder / "ca.key", "-subj", "/CN=Test authority", "-days", "2",
             "-addext", "keyUsage=critical,keyCertSign", "-out", folder / "ca.pem")  # fmt: skip
    for name in ("localhost", "node"):
        (folder / "ext").write_text(f"subjectAltName=DNS:{name}\n")
        _openssl("req", "-new", "-key", folder / f"{name}.key", "-subj", f"/CN={name}", "-out", folder / "csr")
        _openssl("x509", "-req", "-in", folder / "csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
                 "-CAcreateserial", "-days", "2", "-extfile", folder / "ext",
                 "-out", folder / f"{name}.pem")  # fmt: skip
    return folder


def _server_context(pki: Path, *, client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "localhost.pem", pki / "localhost.key")
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pki / "ca.pem")
    return context


def test_tls_with_our_own_certificate(instances: list[EncodedInstance], pki: Path) -> None:
    with WebService().listening(_server_context(pki, client=True)) as service:
        ours = {"certificate_file": pki / "node.pem", "key_file": pki / "node.key"}
        results, lost = _send(WebEndpoint(service.url, ca_file=pki / "ca.pem", **ours), instances)
        assert ([one.category for one in results], lost) == ([STORED] * 3, None)
        refused = _send(WebEndpoint(service.url, ca_file=pki / "ca.pem"), instances)[1]
    assert refused is not None
    assert refused.code in ("web_tls", "peer_aborted")


def test_a_certificate_that_is_not_trusted_is_named(instances: list[EncodedInstance], pki: Path) -> None:
    with WebService().listening(_server_context(pki)) as service:
        lost = _send(WebEndpoint(service.url), instances)[1]
        other_name = WebEndpoint(service.url.replace("localhost", "127.0.0.1"), ca_file=pki / "ca.pem")
        wrong = _send(other_name, instances)[1]
        plain = _send(WebEndpoint(service.url.replace("https", "http")), instances, timeout_s=1.0)[1]
    assert lost is not None
    assert lost.code == "web_tls"
    assert "not trusted" in lost.reason
    assert "dicomweb_ca_file" in lost.reason
    assert wrong is not None
    assert "IP address mismatch" in wrong.reason
    assert plain is not None
    assert service.arrived == []


def test_an_old_version_of_tls_is_refused(instances: list[EncodedInstance], pki: Path) -> None:
    context = _server_context(pki)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with WebService().listening(context) as service:
        lost = _send(WebEndpoint(service.url, ca_file=pki / "ca.pem"), instances)[1]
    assert lost is not None
    assert lost.code == "web_tls"
    assert "TLS 1.2 or later" in lost.reason


def test_files_that_are_no_certificates_are_named(pki: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    for files in (
        {"ca_file": tmp_path / "absent.pem"},
        {"ca_file": tmp_path / "bad.pem"},
        {"certificate_file": tmp_path / "bad.pem"},
        {"certificate_file": pki / "node.pem", "key_file": pki / "localhost.key"},
    ):
        with pytest.raises(Transient) as caught:
            StowSession("archive", WebEndpoint("https://localhost:1", **files)).open()
        assert caught.value.code == "web_certificate"
