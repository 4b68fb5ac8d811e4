"""DICOM TLS: contexts of the BCP 195 secure transport connection profile (PS3.15 section B.12), both ways.

TLS 1.2 and 1.3 alone, with the suites that RFC 9325 section 4.2 recommends (ECDHE with an AEAD cipher), without
compression, renegotiation and session tickets. Contexts are made from plain file names, so that the receiver process
can make its own; a context is made anew for every association that we open and at every reload for those that we
accept, which is how a renewed certificate comes into use without a restart.

Certificates are not compared with revocation lists; a certificate that must not be used any more is taken out of the
file of authorities, or its authority is.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dicom_node.errors import Transient

#: Suites of TLS 1.2 (RFC 9325 section 4.2); those of TLS 1.3 are all good. Keys below 112 bits of strength are refused.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"

#: How a file that systemd hands over is written in the settings (``LoadCredential=`` of the unit).
CREDENTIALS: Final = "$CREDENTIALS_DIRECTORY"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of one side.

    Attributes
    ----------
    certificate : str
        Our certificate and what leads from it to its authority, PEM, ours first.
    key : str
        Its private key, PEM; empty when it stands in the file of the certificate.
    authorities : tuple of str
        PEM files of what we trust: authorities, or certificates of peers themselves.
    """

    certificate: str
    key: str
    authorities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TlsCall:
    """How a peer is called by TLS.

    Attributes
    ----------
    files : TlsFiles
        Ours.
    name : str
        DNS name or IP address that the certificate of the peer must hold.
    """

    files: TlsFiles
    name: str


class ClientContext(ssl.SSLContext):
    """A context for one association, which remembers what went wrong; pynetdicom only logs it.

    In TLS 1.3 the peer judges our certificate after the handshake has ended for us, so that its refusal comes with the
    first byte that is read.

    Attributes
    ----------
    failures : list of OSError
        Of the handshake, and what ended the reading.
    connection : ssl.SSLSocket or None
        The connection that was made.
    """

    failures: list[OSError]
    connection: ssl.SSLSocket | None


class _WatchedSocket(ssl.SSLSocket):
    context: ClientContext

    def do_handshake(self, block: bool = False) -> None:
        self.context.connection = self
        try:
            super().do_handshake(block)
        except OSError as error:
            self.context.failures.append(error)
            raise

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:  # noqa: ANN401 - any buffer
        try:
            return super().recv_into(buffer, nbytes, flags)
        except (ssl.SSLError, ConnectionError) as error:
            self.context.failures.append(error)
            raise


def client_context(call: TlsCall) -> ClientContext:
    """Make the context for one association that we open.

    Raises
    ------
    Transient
        ``tls_files``: a file is missing, unreadable, exposed or no PEM, or key and certificate do not belong together.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.failures, context.connection = [], None
    context.sslsocket_class = _WatchedSocket
    _set_up(context, call.files)
    return context


def server_context(files: TlsFiles, *, require_certificate: bool) -> ssl.SSLContext:
    """Make the context for associations that we accept.

    Parameters
    ----------
    files : TlsFiles
        Ours; `authorities` are those of the peers.
    require_certificate : bool
        Whether a peer has to show a certificate of one of them.

    Raises
    ------
    Transient
        ``tls_files``, as `client_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED if require_certificate else ssl.CERT_OPTIONAL
    context.num_tickets = 0
    _set_up(context, files)
    return context


def _set_up(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    # A file of authorities may hold the certificate of a peer itself: hospitals exchange these.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for authority in files.authorities:
        _load_authorities(context, authority)
    _load_own(context, files)


def _load_authorities(context: ssl.SSLContext, authority: str) -> None:
    path = resolved(authority)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise _bad_file(f"{path} holds no certificate of an authority in PEM form") from error
    except OSError as error:
        raise _bad_file(f"{path} cannot be read: {error.strerror}") from error


def _load_own(context: ssl.SSLContext, files: TlsFiles) -> None:
    certificate = resolved(files.certificate)
    key = resolved(files.key) if files.key else certificate
    check_key_file(key)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise _bad_file(_own_words(error, certificate, key)) from error
    except _PasswordWantedError as error:
        reason = f"the private key {key} is encrypted: store it without a password, readable by the node alone"
        raise _bad_file(reason) from error
    except OSError as error:
        raise _bad_file(f"{certificate} or {key} cannot be read: {error.strerror}") from error


def _own_words(error: ssl.SSLError, certificate: Path, key: Path) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the private key {key} does not belong to the certificate {certificate}: one of the two was not renewed"
    if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        return f"the certificate {certificate} is too weak: use RSA of 2048 bits or more, or P-256, and SHA-256"
    return f"{certificate} holds no certificate, or {key} no private key, in PEM form"


def check_key_file(path: Path) -> None:
    """Refuse a private key that is missing, unreadable, or readable by every user of the machine.

    A group may read it: systemd's credentials and Debian's group ssl-cert are given out so.

    Raises
    ------
    Transient
        ``tls_files``
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _bad_file(f"{path} cannot be read: {error.strerror}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise _bad_file(f"the private key {path} is open to every user of this machine: chmod 600 (or 640) {path}")
    if not os.access(path, os.R_OK):
        raise _bad_file(f"the private key {path} cannot be read by this user: chown it to the user of the node")


def resolved(name: str) -> Path:
    """Return the path that a name of the settings stands for; ``$CREDENTIALS_DIRECTORY/`` is systemd's folder.

    Raises
    ------
    Transient
        ``tls_files`` when systemd has set no such folder for this process.
    """
    if not name.startswith(CREDENTIALS + "/"):
        return Path(name)
    folder = os.environ.get(CREDENTIALS[1:])
    if not folder:
        reason = (
            f"{name} is a credential of the systemd unit, which this process is not part of; LoadCredential= of the "
            "unit hands it to the node"
        )
        raise _bad_file(reason)
    return Path(folder) / name.removeprefix(CREDENTIALS + "/")


def names_in(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Names and addresses of a certificate that `ssl.SSLSocket.getpeercert` returned (its SubjectAltName)."""
    found: tuple[tuple[str, str], ...] = (certificate or {}).get("subjectAltName", ())
    return tuple(name for kind, name in found if kind in ("DNS", "IP Address"))


def holds_name(certificate: Mapping[str, Any] | None, name: str) -> bool:
    """Whether a certificate was made for a name (RFC 6125 section 6.4.3) or an address."""
    names = names_in(certificate)
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        wanted = name.rstrip(".").lower()
        rest = wanted.partition(".")[2]
        return any(one.lower() in (wanted, f"*.{rest}" if rest else wanted) for one in names)
    return any(_as_address(one) == address for one in names)


def _as_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip())
    except ValueError:
        return None


def close_politely(connection: ssl.SSLSocket) -> None:
    """Say that no more will come (close_notify, RFC 8446 section 6.1) without waiting for the same of the peer."""
    try:
        connection.settimeout(0)
        connection.unwrap()
    except (OSError, ValueError):
        # It wants to read the answer, or there is nobody left to tell.
        return


def turn_away(connection: socket.socket) -> None:
    """Close a connection whose handshake failed, so that the peer can read the alert that says why.

    A socket that is closed with unread bytes resets the connection, and the alert may be lost with it.
    """
    try:
        connection.settimeout(_LAST_WORDS_S)
        socket.socket.shutdown(connection, socket.SHUT_WR)
        for _ in range(_LAST_WORDS_READS):
            if not socket.socket.recv(connection, 4096):
                break
    except (OSError, ValueError):
        pass
    finally:
        connection.close()


_LAST_WORDS_S: Final = 0.5
_LAST_WORDS_READS: Final = 16


class _PasswordWantedError(Exception):
    """The private key is encrypted, and nobody is there to type."""


def _no_password() -> str:
    raise _PasswordWantedError


def _bad_file(reason: str) -> Transient:
    # Not permanent: while a certificate is being renewed, its files are incomplete for a moment.
    return Transient("tls_files", reason)
