"""Who may call: AE titles and addresses, with a refusal that names the two values that differ.

AE titles are compared as PS3.5 section 6.2 says: surrounding spaces do not matter, case does.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

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
    """

    rejection: Rejection | None
    reason: str = ""
    may_store: bool = False


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

    def admit(self, calling_ae: str, called_ae: str, address: str) -> Admission:
        """Judge an association request.

        Parameters
        ----------
        calling_ae, called_ae : str
            Titles of the request.
        address : str
            Address it came from.
        """
        calling, called = calling_ae.strip(), called_ae.strip()
        address = normalised(address)
        if called != self._plan.ae_title:
            reason = (
                f"{calling!r} at {address} called AE title {called!r}, but ours is {self._plan.ae_title!r}: "
                "the peer has to call us by that title, or [node] ae_title has to change"
            )
            return Admission(Rejection.CALLED_AE_NOT_RECOGNIZED, reason)
        titled = [caller for caller in self._plan.callers if calling in caller.ae_titles]
        for caller in titled:
            if caller.any_host or address in self._addresses(caller.host):
                return Admission(None, may_store=caller.may_store)
        if self._plan.accept_any_calling_ae:
            return Admission(None, may_store=True)
        reason = self._wrong_host(calling, address, titled) if titled else self._unknown(calling, address)
        return Admission(Rejection.CALLING_AE_NOT_RECOGNIZED, reason)

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
        expected = []
        for caller in titled:
            addresses = self._addresses(caller.host)
            known = (
                ", ".join(sorted(addresses - {caller.host})) if addresses else "which does not resolve to an address"
            )
            expected.append(f"{caller.host} ({known})" if known else caller.host)
        return (
            f"AE title {calling!r} called from {address}, but the configuration lists it at {' and '.join(expected)}: "
            "correct host of that peer, or set any_host"
        )

    def _unknown(self, calling: str, address: str) -> str:
        at_address = [caller for caller in self._plan.callers if address in self._addresses(caller.host)]
        if at_address:
            listed = ", ".join(repr(title) for caller in at_address for title in caller.ae_titles)
            return (
                f"AE title {calling!r} from {address} is not in the configuration, which lists {listed} at that "
                f"address (case matters): add it to ae_titles of peer {at_address[0].name!r}, or correct the peer"
            )
        return f"AE title {calling!r} from {address} is not in the configuration: add a [[peers]] entry for it"
