"""The verb store over the web: STOW-RS (PS3.18 section 10.5), instance by instance, bytes as they are in the file.

urllib3 carries the requests. Client libraries for DICOMweb were weighed: they encode a data set anew, so that what was
checked is not what leaves, repeat requests by themselves beside the retries of the outbox, and throw away the answer
with the status of each instance when the HTTP status is an error. A request holds one instance: its size is bounded by
the instance, and what was stored is known before the next one leaves. Redirects are not followed and no proxy is taken
from the environment, so that images and credentials go to the configured address alone.
"""

from __future__ import annotations

import base64
import http.client
import logging
import secrets
import ssl
import time
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse

from dicom_node.errors import NodeError, Transient
from dicom_node.net.endpoint import WebEndpoint
from dicom_node.net.scu import EncodedInstance, StoreResult
from dicom_node.net.status import StoreCategory
from dicom_node.net.stow_answer import judge, read_answer

# Its warnings quote addresses and headers of the peer.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

#: Longest answer that is read; the answer to one instance has a few hundred bytes.
_LONGEST_ANSWER_BYTES: Final = 1024**2
_PIECE_BYTES: Final = 65_536
#: Tokens and passwords are short; a longer file is not one.
_LONGEST_SECRET_BYTES: Final = 16_384

#: Answers that the next instance would get as well: HTTP status, code, who must change what.
_FOR_ALL: Final = {
    401: ("web_unauthorised", "does not accept our credentials: renew the token, the password or the certificate"),
    403: ("web_forbidden", "does not let us store: ask its administrator for the right to store instances"),
    404: ("web_no_service", "has no STOW-RS service there: correct dicomweb_url"),
    405: ("web_no_service", "takes no POST there: correct dicomweb_url, or switch on storing at the service"),
    407: ("web_proxy", "wants credentials of a proxy, which are not supported"),
    410: ("web_no_service", "has no STOW-RS service there any more: correct dicomweb_url"),
    429: ("web_busy", "asks us to slow down"),
    502: ("web_unavailable", "is a gateway whose archive does not answer"),
    503: ("web_unavailable", "is not available at present"),
    504: ("web_unavailable", "is a gateway whose archive does not answer in time"),
}


class StowSession:
    """One connection over which instances are stored, one after the other.

    Parameters
    ----------
    name : str
        Our own name of the peer.
    endpoint : WebEndpoint
        Where it is; its files are read when the session is opened, so that a renewed token counts at once.
    timeout_s : float
        Longest wait for each step.

    Examples
    --------
    >>> with StowSession("archive", endpoint) as session:  # doctest: +SKIP
    ...     result = session.send_encoded(instance)
    """

    def __init__(self, name: str, endpoint: WebEndpoint, *, timeout_s: float = 30.0) -> None:
        self._name = name
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._pool: urllib3.PoolManager | None = None
        self._headers: dict[str, str] = {}
        self._lost: NodeError | None = None

    def open(self) -> None:
        """Read token, credentials and certificates; ``with`` does so too. The connection is made when it is needed.

        Raises
        ------
        Transient
            ``web_credentials``, ``web_certificate`` when a file cannot be used; it says which. A secret that is being
            renewed may be missing for a moment.
        """
        self._headers = {
            "Accept": "application/dicom+json",
            "User-Agent": "jmmda-node",
            **_authorisation(self._endpoint),
        }
        self._pool = urllib3.PoolManager(
            num_pools=1,
            maxsize=1,
            retries=False,
            timeout=urllib3.Timeout(connect=self._timeout_s, read=self._timeout_s),
            ssl_context=_tls_context(self._endpoint) if self._endpoint.url.startswith("https:") else None,
        )

    def __enter__(self) -> Self:
        if self._pool is None:
            self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        if self._pool is not None:
            self._pool.clear()

    @property
    def lost(self) -> NodeError | None:
        """Why the next instance would fail as well; None while all is well."""
        return self._lost

    def send_encoded(self, instance: EncodedInstance) -> StoreResult:
        """Store one instance and wait for its status; a failure is a result, not an exception.

        Parameters
        ----------
        instance : EncodedInstance
            What to send; the very bytes leave.
        """
        uid = instance.head.sop_instance_uid
        if self._lost is None:
            try:
                status, body = self._post(instance)
            except NodeError as error:
                self._lost = error
            else:
                self._lost = self._trouble_for_all(status)
                if self._lost is None:
                    return judge(status, read_answer(body), uid)
        return StoreResult(uid, None, StoreCategory.TRANSIENT, self._lost.reason)

    def _post(self, instance: EncodedInstance) -> tuple[int, bytes]:
        """Send one request and return HTTP status and body of the answer.

        Raises
        ------
        Transient
            When there is no whole answer.
        """
        assert self._pool is not None
        boundary, body = _multipart(instance.data)
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        headers = {**self._headers, "Content-Type": content_type, "Content-Length": str(len(body))}
        try:
            answer = self._pool.request(
                "POST",
                f"{self._endpoint.url}/studies",
                # As a stream, so that the time limit holds for each piece and not for the whole.
                body=BytesIO(body),
                headers=headers,
                redirect=False,
                preload_content=False,
            )
            return answer.status, self._read(answer, time.monotonic() + self._timeout_s)
        except (HTTPError, http.client.HTTPException, OSError) as error:
            raise self._broken(error) from error

    def _read(self, answer: BaseHTTPResponse, deadline: float) -> bytes:
        body = bytearray()
        try:
            while piece := answer.read1(_PIECE_BYTES):
                body += piece
                if len(body) > _LONGEST_ANSWER_BYTES:
                    raise Transient("web_answer", f"{self._words()} gave an answer without end")
                if time.monotonic() > deadline:
                    raise Transient("peer_silent", f"{self._words()} did not answer within {self._timeout_s:g} s")
        except BaseException:
            answer.close()
            raise
        answer.release_conn()
        return bytes(body)

    def _trouble_for_all(self, http_status: int) -> NodeError | None:
        if 300 <= http_status < 400:
            reason = f"{self._words()} redirects us (HTTP {http_status}): put the final address into dicomweb_url"
            return Transient("web_redirect", reason, {"http_status": http_status})
        if http_status not in _FOR_ALL:
            return None
        code, what = _FOR_ALL[http_status]
        return Transient(code, f"{self._words()} {what} (HTTP {http_status})", {"http_status": http_status})

    def _broken(self, error: Exception) -> Transient:
        """Name what kept the answer from coming; the library's own text may quote what the peer sent."""
        who = self._words()
        if isinstance(error, SSLError | ssl.SSLError):
            return Transient("web_tls", f"{who}: no TLS connection: {_tls_words(error)}")
        if isinstance(error, NameResolutionError):
            return Transient("peer_unreachable", f"{who}: its host name does not resolve")
        if isinstance(error, ConnectTimeoutError | NewConnectionError):
            return Transient("peer_unreachable", f"{who}: no connection; is it running?")
        if isinstance(error, ReadTimeoutError | TimeoutError):
            return Transient("peer_silent", f"{who} did not answer within {self._timeout_s:g} s")
        return Transient("peer_aborted", f"{who} ended the connection in the middle, or does not speak HTTP")

    def _words(self) -> str:
        return f"peer {self._name!r} ({self._endpoint.url})"


def _multipart(data: bytes) -> tuple[str, bytes]:
    """Wrap one instance as multipart/related (RFC 2387); the boundary is a new one that does not occur in it."""
    boundary = secrets.token_hex(16)
    while boundary.encode() in data:
        boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return boundary, b"".join((head, data, f"\r\n--{boundary}--\r\n".encode()))


def _authorisation(endpoint: WebEndpoint) -> dict[str, str]:
    if endpoint.token_file is not None:
        return {"Authorization": f"Bearer {_secret(endpoint.token_file, 'dicomweb_token_file')}"}
    if endpoint.credentials_file is not None:
        secret = _secret(endpoint.credentials_file, "dicomweb_credentials_file")
        if ":" not in secret:
            raise Transient("web_credentials", f"{endpoint.credentials_file} does not hold user:password in one line")
        return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
    return {}


def _secret(path: Path, key: str) -> str:
    """Read a one-line secret; no error quotes it."""
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_SECRET_BYTES + 1).decode("utf-8").strip()
    except OSError as error:
        raise Transient("web_credentials", f"{key} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Transient("web_credentials", f"{key} {path} is not text") from error
    is_token = key == "dicomweb_token_file"
    if not text or len(text) > _LONGEST_SECRET_BYTES or not text.isprintable() or (is_token and not text.isascii()):
        raise Transient("web_credentials", f"{key} {path} does not hold one line with a secret")
    return text


def _tls_context(endpoint: WebEndpoint) -> ssl.SSLContext:
    """Make a client context: TLS 1.2 and later, the server's name and certificate are checked (BCP 195)."""
    at = endpoint.ca_file
    try:
        context = ssl.create_default_context(cafile=None if at is None else str(at))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        at = endpoint.certificate_file
        if at is not None:
            # An encrypted key would make OpenSSL ask on the terminal; an empty password is an error instead.
            context.load_cert_chain(at, endpoint.key_file, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = (
            error.strerror
            if isinstance(error, FileNotFoundError | PermissionError)
            else "no certificate and key in PEM"
        )
        raise Transient("web_certificate", f"{at} or the key beside it cannot be used: {why}") from error
    return context


def _tls_words(error: Exception) -> str:
    """Say why TLS failed in words of our own and of OpenSSL, which quote no more than the host name."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ssl.SSLError):
        inner = next((one for one in inner.args if isinstance(one, ssl.SSLError)), inner.__cause__ or inner.__context__)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({inner.verify_message}); see dicomweb_ca_file"
    reason = (getattr(inner, "reason", None) or "handshake failed").lower().replace("_", " ")
    return f"{reason}; does it speak TLS 1.2 or later, and does it want dicomweb_certificate_file?"
