"""Why a TLS handshake failed, in words that name who must change what.

OpenSSL's reasons are terse (``sslv3 alert bad certificate``) and do not say whose certificate is meant. The words here
tell apart what we refused and what the peer refused. They hold nothing of a certificate but the names that it was made
for.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

from dicom_node.errors import Transient
from dicom_node.net.remote import RemoteEntity

#: OpenSSL's reasons of a version that only one side speaks.
_VERSION: Final = frozenset(
    {"UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION", "VERSION_TOO_LOW", "TLSV1_ALERT_PROTOCOL_VERSION"}
)
_NO_CIPHER: Final = frozenset(
    {
        "NO_SHARED_CIPHER",
        "NO_CIPHERS_AVAILABLE",
        "NO_PROTOCOLS_AVAILABLE",
        "NO_SHARED_GROUP",
        "NO_SHARED_SIGNATURE_ALGORITHMS",
        "NO_SUITABLE_SIGNATURE_ALGORITHM",
        "TLSV1_ALERT_INSUFFICIENT_SECURITY",
    }
)
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
_NO_CERTIFICATE: Final = frozenset({"PEER_DID_NOT_RETURN_A_CERTIFICATE"})
#: Alerts of RFC 8446 section 6.2 by OpenSSL's names, and what the peer says with them.
_ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the authority of our certificate: give it the authority's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it says that our certificate has expired: renew ours, or correct its clock",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate (name or date): see its log",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "it does not accept the kind or the purpose of our certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it says that our certificate is revoked: get another one",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate (authority, name or date): see its log",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate of us and got none",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it found no version, cipher or certificate in common with us: see its log",
    "TLSV1_ALERT_ACCESS_DENIED": "it does not let the owner of our certificate in: see its log",
    "TLSV1_ALERT_DECRYPT_ERROR": "it could not verify the signature of our certificate",
    "TLSV1_UNRECOGNIZED_NAME": "it does not know the name by which we call it: set tls_name of the peer",
}


@dataclass(frozen=True, slots=True)
class TlsFailure:
    """Why no secure connection came about.

    Attributes
    ----------
    code : str
        We refused the peer's certificate: ``tls_expired``, ``tls_not_yet_valid``, ``tls_unknown_authority``,
        ``tls_name``, ``tls_purpose``, ``tls_weak``, ``tls_untrusted`` (any other reason), ``tls_no_certificate`` (it
        showed none). The peer refused us: ``tls_refused``. Nobody came so far: ``tls_version``, ``tls_cipher``,
        ``tls_not_spoken`` (the other side speaks no TLS), ``tls_ended`` (it went away or was silent), ``tls_failed``
        (anything else).
    reason : str
        The rest of a sentence about the other side.
    """

    code: str
    reason: str


#: Results of X509_verify_cert (openssl-verification-options(1), X509_V_ERR_*) and what they mean.
_UNTRUSTED: Final = (
    (
        {10, 14},
        TlsFailure(
            "tls_expired",
            "showed a certificate that has expired: renew it there (or correct the clock of this machine)",
        ),
    ),
    (
        {9, 13},
        TlsFailure(
            "tls_not_yet_valid", "showed a certificate that is not valid yet: compare the clocks of both machines"
        ),
    ),
    (
        {2, 18, 19, 20, 21, 27},
        TlsFailure(
            "tls_unknown_authority",
            "showed a certificate of an authority that we do not know: add the authority to ca in [tls] or to tls_ca",
        ),
    ),
    ({62, 64}, TlsFailure("tls_name", "showed a certificate that was made for another name")),
    (
        {26, 79, 86},
        TlsFailure("tls_purpose", "showed a certificate that was not made for this purpose (extended key usage)"),
    ),
    (
        {66, 67, 68},
        TlsFailure(
            "tls_weak",
            "showed a certificate that is too weak: it takes RSA of 2048 bits or more, or P-256, and SHA-256",
        ),
    ),
)


def explain(error: OSError) -> TlsFailure:
    """Put the failure of a handshake into words about the other side, whichever side it is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _untrusted(error)
    if isinstance(error, TimeoutError):
        return TlsFailure("tls_ended", "said nothing for too long during the TLS handshake")
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return TlsFailure("tls_ended", "ended the connection during the TLS handshake without saying why: see its log")
    return _of_reason(error.reason or "")


def _of_reason(reason: str) -> TlsFailure:
    if reason in _VERSION:
        text = "speaks TLS 1.1 or older, which is broken: it has to speak TLS 1.2 or 1.3"
        return TlsFailure("tls_version", text)
    if reason in _NO_CIPHER:
        text = "has no cipher in common with us: it has to offer ECDHE with AES-GCM or ChaCha20 (BCP 195 profile)"
        return TlsFailure("tls_cipher", text)
    if reason in _NOT_TLS:
        return TlsFailure("tls_not_spoken", "does not speak TLS on this connection")
    if reason in _NO_CERTIFICATE:
        return TlsFailure("tls_no_certificate", "showed no certificate, and ours demands one: give it one")
    if reason in _ALERTS:
        return TlsFailure("tls_refused", f"refused us: {_ALERTS[reason]}")
    if reason in ("UNEXPECTED_EOF_WHILE_READING", "SSL_HANDSHAKE_FAILURE"):
        return TlsFailure("tls_ended", "ended the connection during the TLS handshake without saying why: see its log")
    return TlsFailure("tls_failed", f"and we found no common ground (OpenSSL: {reason.lower().replace('_', ' ')})")


def _untrusted(error: ssl.SSLCertVerificationError) -> TlsFailure:
    for codes, failure in _UNTRUSTED:
        if error.verify_code in codes:
            return failure
    return TlsFailure("tls_untrusted", f"showed a certificate that we do not accept ({error.verify_message})")


def calling_failure(peer: RemoteEntity, name: str, error: OSError) -> Transient:
    """Return the error of a peer with which no secure connection came about.

    It is transient like every refusal that an administrator ends by a change at either side: results wait for it.
    """
    failure = explain(error)
    who = f"peer {peer.name!r} ({peer.called_ae_title} at {peer.host}:{peer.port})"
    reason = f"{who} {failure.reason}"
    if failure.code == "tls_name":
        reason += f" than {name!r}: correct host of the peer, or set tls_name to a name that the certificate holds"
    if failure.code == "tls_not_spoken":
        reason += ": is this its TLS port? Otherwise remove tls = true"
    return Transient(failure.code, reason)
