"""Checks of TLS certificates: readable, belonging to their keys, and days to expiry; ours and those that we trust."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dicom_node.errors import NodeError
from dicom_node.net.certificates import CertificateFacts, all_certificate_facts, certificate_facts
from dicom_node.operate.doctor.findings import US, Finding, administrator_of, failed, passed, warned
from dicom_node.settings import Settings

_CHECK: Final = "tls.certificates"


def certificates(settings: Settings) -> list[Finding]:
    """Examine every certificate that the settings name."""
    tls = settings.tls
    if tls.certificate is None:
        return [passed(_CHECK, "none: nobody is called by TLS, and nobody can call us by TLS")]
    found = [_ours(tls.certificate, tls.key or tls.certificate, tls.warn_days)]
    if tls.ca is not None:
        found += _trusted(tls.ca, "", US, tls.warn_days)
    for peer in settings.peers:
        if peer.tls_ca is not None:
            found += _trusted(peer.tls_ca, peer.name, administrator_of(peer.name), tls.warn_days)
    return found


def _ours(certificate: Path, key: Path, warn_days: float) -> Finding:
    try:
        facts = certificate_facts(certificate, key)
    except NodeError as error:
        return failed(_CHECK, error.reason, US, "correct certificate and key in [tls], then: jmmda-node config reload")
    if not facts.matches_key:
        seen = f"{key} does not belong to {certificate}"
        return failed(_CHECK, seen, US, "put certificate and key of one renewal there, then: jmmda-node config reload")
    return _dated(facts, f"ours, {certificate}, for {', '.join(facts.san) or 'no name'}", US, "", warn_days)


def _trusted(file: Path, peer: str, who: str, warn_days: float) -> Iterator[Finding]:
    try:
        found = all_certificate_facts(file)
    except NodeError as error:
        yield failed(_CHECK, error.reason, US, "correct ca in [tls], or tls_ca of the peer", peer=peer)
        return
    # One that has expired beside one that replaces it is how authorities are changed.
    yield _dated(max(found, key=lambda facts: facts.not_after), f"trusted, {file}", who, peer, warn_days)


def _dated(facts: CertificateFacts, what: str, who: str, peer: str, warn_days: float) -> Finding:
    days = facts.days_left()
    seen = f"{what}: valid until {facts.not_after:%Y-%m-%d} ({days:.0f} days)"
    if not facts.valid_at():
        when = "has expired" if days < 0 else f"is not valid before {facts.not_before:%Y-%m-%d %H:%M} UTC"
        return failed(_CHECK, f"{what}: {when}", who, "renew it, or set the clock of this machine", peer=peer)
    if days < warn_days:
        return warned(_CHECK, seen, who, "renew it, then: jmmda-node config reload", peer=peer)
    return passed(_CHECK, seen, peer=peer)
