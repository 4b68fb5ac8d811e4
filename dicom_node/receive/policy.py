"""Who may call: AE titles and addresses, with a refusal that names the two values that differ.

AE titles are compared as PS3.5 section 6.2 says: surrounding spaces do not matter, case does. A peer that is to speak
TLS is let in by TLS alone, and where the settings say so only with a certificate that was made for its name.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from dicom_node.net.tls import holds_name, names_in
from dicom_node.receive.plan import Caller, ReceiverPlan

#: How long the addresses of a host name are remembered.
RESOLVE_AGAIN_S: Final = 60.0


class Rejection(Enum):
    """Result, source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    CALLING_AE_NOT_RECOGNIZED = (1, 1, 3)
    CALLED_AE_NOT_RECOGNIZED = (1, 1, 7)
    TEMPORARY_CONGESTION = (2, 3, 1)
    LOCAL_LIMIT_EXCEEDED = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to one association request.

    Attributes
    ----------
    rejection : Rejection or None
        None when the association is accepted.
    reason : str
        For the log: which two values differ, and who may change what. Empty when accepted.
    may_store : bool
        Whether storage contexts are offered.
    code : str
        Stable code of the reason: ``called_ae``, ``calling_ae``, ``calling_host``, ``tls_required``, ``tls_name``,
        ``busy``, ``peer_busy``, ``stopping``. Empty when accepted.
    caller : Caller or None
        The peer that was recognised.
    """

    rejection: Rejection | None
    reason: str = ""
    may_store: bool = False
    code: str = ""
    caller: Caller | None = None


@dataclass(frozen=True, slots=True)
class SecureChannel:
    """That a request came by TLS, and the certificate that the peer showed.

    Attributes
    ----------
    certificate : Mapping or None
        As `ssl.SSLSocket.getpeercert` returned it; None or empty when it showed none.
    """

    certificate: Mapping[str, Any] | None


def resolve(host: str) -> frozenset[str]:
    """Addresses of a host name, normalised; empty when it cannot be resolved now."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    return frozenset(normalised(str(entry[4][0])) for entry in found)


def normalised(address: str) -> str:
    """Write an address one way: an IPv4 address that arrived on an IPv6 socket loses its prefix, a scope is dropped."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


class Policy:
    """The allow-list of a plan. Safe to use from many threads.

    Parameters
    ----------
    plan : ReceiverPlan
        Holds the titles and hosts.
    resolver : callable
        From a host name to its addresses.
    """

    def __init__(self, plan: ReceiverPlan, resolver: Callable[[str], frozenset[str]] = resolve) -> None:
        self._plan = plan
        self._resolver = resolver
        self._lock = threading.Lock()
        self._resolved: dict[str, tuple[float, frozenset[str]]] = {}

    def admit(self, calling_ae: str, called_ae: str, address: str, secure: SecureChannel | None = None) -> Admission:
        """Judge an association request.

        Parameters
        ----------
        calling_ae, called_ae : str
            Titles of the request.
        address : str
            Address it came from.
        secure : SecureChannel or None
            None when it came on the plain port.
        """
        calling, called = calling_ae.strip(), called_ae.strip()
        address = normalised(address)
        if called != self._plan.ae_title:
            reason = (
                f"{calling!r} at {address} called AE title {called!r}, but ours is {self._plan.ae_title!r}: "
                "the peer has to call us by that title, or [node] ae_title has to change"
            )
            return Admission(Rejection.CALLED_AE_NOT_RECOGNIZED, reason, code="called_ae")
        titled = [caller for caller in self._plan.callers if calling in caller.ae_titles]
        for caller in titled:
            if caller.any_host or self._comes_from(caller, address):
                return _by_channel(caller, calling, address, secure)
        if self._plan.accept_any_calling_ae:
            return Admission(None, may_store=True)
        reason = self._wrong_host(calling, address, titled) if titled else self._unknown(calling, address)
        code = "calling_host" if titled else "calling_ae"
        return Admission(Rejection.CALLING_AE_NOT_RECOGNIZED, reason, code=code)

    def _comes_from(self, caller: Caller, address: str) -> bool:
        return any(
            _in_network(address, origin) if "/" in origin else address in self._addresses(origin)
            for origin in caller.origins
        )

    def _addresses(self, host: str) -> frozenset[str]:
        now = time.monotonic()
        with self._lock:
            known = self._resolved.get(host)
        if known and now - known[0] < RESOLVE_AGAIN_S:
            return known[1]
        addresses = self._resolver(host)
        if addresses:  # a failure is not remembered, so that a name server that comes back is noticed at once
            with self._lock:
                self._resolved[host] = (now, addresses)
        return addresses

    def _wrong_host(self, calling: str, address: str, titled: list[Caller]) -> str:
        expected = [self._origin_words(origin) for caller in titled for origin in caller.origins]
        return (
            f"AE title {calling!r} called from {address}, but the configuration lists it at {' and '.join(expected)}: "
            "correct host or hosts of that peer, or set any_host"
        )

    def _origin_words(self, origin: str) -> str:
        if "/" in origin:
            return origin
        addresses = self._addresses(origin)
        known = ", ".join(sorted(addresses - {origin})) if addresses else "which does not resolve to an address"
        return f"{origin} ({known})" if known else origin

    def _unknown(self, calling: str, address: str) -> str:
        at_address = [caller for caller in self._plan.callers if self._comes_from(caller, address)]
        if at_address:
            listed = ", ".join(repr(title) for caller in at_address for title in caller.ae_titles)
            return (
                f"AE title {calling!r} from {address} is not in the configuration, which lists {listed} at that "
                f"address (case matters): add it to ae_titles of peer {at_address[0].name!r}, or correct the peer"
            )
        return f"AE title {calling!r} from {address} is not in the configuration: add a [[peers]] entry for it"


def _by_channel(caller: Caller, calling: str, address: str, secure: SecureChannel | None) -> Admission:
    """Judge how a known caller came: by TLS or without, and with whose certificate."""
    if secure is None and caller.needs_tls:
        reason = (
            f"{calling!r} at {address} called without TLS, but peer {caller.name!r} has tls = true: the peer has to "
            "call the TLS port by TLS, or tls of that peer has to change"
        )
        return Admission(Rejection.CALLING_AE_NOT_RECOGNIZED, reason, code="tls_required")
    if secure is not None and caller.tls_name and not holds_name(secure.certificate, caller.tls_name):
        shown = ", ".join(map(repr, names_in(secure.certificate))) or "no name"
        reason = (
            f"{calling!r} at {address} showed a certificate for {shown}, but tls_name of peer {caller.name!r} is "
            f"{caller.tls_name!r}: the peer needs another certificate, or tls_name has to change"
        )
        return Admission(Rejection.CALLING_AE_NOT_RECOGNIZED, reason, code="tls_name")
    return Admission(None, may_store=caller.may_store, caller=caller)


def _in_network(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return False
