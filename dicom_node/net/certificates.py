"""Facts about certificate files: how long they hold, for which names, and whether the key belongs to them.

Who a certificate was issued to, or by, is left out. The standard library verifies certificates but does not read them,
so the few elements that are needed are read from their DER encoding here (X.690, RFC 5280 section 4.1).
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dicom_node.errors import Transient
from dicom_node.net.tls import check_key_file, resolved

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SUBJECT_ALT_NAME: Final = bytes((0x55, 0x1D, 0x11))  # 2.5.29.17
_OID, _UTC_TIME = 0x06, 0x17
_VERSION, _EXTENSIONS, _DNS_NAME, _IP_ADDRESS = 0xA0, 0xA3, 0x82, 0x87


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """One certificate, without its subject.

    Attributes
    ----------
    not_before, not_after : datetime
        Its validity, in UTC.
    san : tuple of str
        DNS names and IP addresses that it was made for (SubjectAltName).
    matches_key : bool or None
        Whether the private key belongs to it; None when none was named.
    """

    not_before: datetime
    not_after: datetime
    san: tuple[str, ...]
    matches_key: bool | None = None

    def days_left(self, now: datetime | None = None) -> float:
        """Days until it expires; negative when it has."""
        return (self.not_after - (now or datetime.now(UTC))).total_seconds() / 86400.0

    def valid_at(self, now: datetime | None = None) -> bool:
        """Whether it is neither too old nor too new."""
        return self.not_before <= (now or datetime.now(UTC)) <= self.not_after


def certificate_facts(path: str | Path, key: str | Path | None = None) -> CertificateFacts:
    """Read the first certificate of a PEM file, which is the own one of a chain.

    Parameters
    ----------
    path : path-like
        As in the settings; ``$CREDENTIALS_DIRECTORY/`` is resolved.
    key : path-like, optional
        Private key to compare it with.

    Raises
    ------
    Transient
        ``tls_files``: missing, unreadable or no certificate; for the key also when every user may read it.
    """
    facts = all_certificate_facts(path)[0]
    if key is None:
        return facts
    return CertificateFacts(facts.not_before, facts.not_after, facts.san, _belong_together(path, key))


def all_certificate_facts(path: str | Path) -> tuple[CertificateFacts, ...]:
    """Read every certificate of a PEM file, of authorities for instance, in its order.

    Raises
    ------
    Transient
        ``tls_files``: missing, unreadable, or without any certificate.
    """
    file = resolved(str(path))
    try:
        blocks = _PEM.findall(file.read_bytes())
    except OSError as error:
        raise Transient("tls_files", f"{file} cannot be read: {error.strerror}") from error
    try:
        found = tuple(_facts_of(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))) for block in blocks)
    except (ValueError, IndexError, StopIteration, RuntimeError) as error:
        raise Transient("tls_files", f"{file} holds a certificate that cannot be read") from error
    if not found:
        raise Transient("tls_files", f"{file} holds no certificate in PEM form")
    return found


def _belong_together(certificate: str | Path, key: str | Path) -> bool:
    key_file = resolved(str(key))
    check_key_file(key_file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(resolved(str(certificate)), key_file, password="")
    except ssl.SSLError:
        return False
    except OSError as error:
        raise Transient("tls_files", f"{key_file} cannot be read: {error.strerror}") from error
    return True


def _facts_of(der: bytes) -> CertificateFacts:
    """Read Certificate -> tbsCertificate -> validity and extensions (RFC 5280 section 4.1)."""
    certificate = next(_elements(der))[1]
    fields = list(_elements(next(_elements(certificate))[1]))
    if fields[0][0] == _VERSION:
        fields = fields[1:]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, then the optional ones
    not_before, not_after = (_time(kind, value) for kind, value in _elements(fields[3][1]))
    san = next((_names(value) for kind, value in fields[6:] if kind == _EXTENSIONS), ())
    return CertificateFacts(not_before, not_after, san)


def _names(extensions: bytes) -> tuple[str, ...]:
    for _, extension in _elements(next(_elements(extensions))[1]):
        parts = list(_elements(extension))
        if parts[0] == (_OID, _SUBJECT_ALT_NAME):
            names = next(_elements(parts[-1][1]))[1]
            return tuple(name for kind, value in _elements(names) if (name := _name(kind, value)))
    return ()


def _name(kind: int, value: bytes) -> str:
    if kind == _DNS_NAME:
        return value.decode("ascii", "replace")
    return str(ipaddress.ip_address(value)) if kind == _IP_ADDRESS else ""


def _time(kind: int, value: bytes) -> datetime:
    """Read a UTCTime, whose two-digit years are 1950 to 2049, or a GeneralizedTime."""
    text = value.decode("ascii")
    if kind == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each DER element in a row; ValueError when one does not fit."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("an element is longer than what holds it")
        yield tag, data[at : at + length]
        at += length
