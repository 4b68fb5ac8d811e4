"""Rules that concern more than one section: routes, duplicate peers, loops.

They run on whatever parts of a file are valid by themselves, so that one misspelt key does not hide a wrong route.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dicom_node.settings.peers import Peer
from dicom_node.settings.positions import KeyPath
from dicom_node.settings.sections import NodeSettings, Role, Route
from dicom_node.settings.spelling import suggestion
from dicom_node.settings.tls import TlsSettings

_UNSPECIFIED = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


@dataclass(frozen=True, slots=True)
class Parts:
    """The valid parts of a settings file.

    Attributes
    ----------
    node : NodeSettings or None
        None when that section has faults of its own.
    tls : TlsSettings or None
        Likewise.
    peers, routes : Mapping[int, ...]
        The valid entries by their index in the file.
    peer_names : frozenset[str]
        Names of all peers, valid or not, so that a faulty peer does not make its routes look wrong too.
    all_peers_valid : bool
        Whether `peers` is complete; rules about something missing only hold then.
    all_routes_valid : bool
        Whether `routes` is complete.
    all_names_known : bool
        Whether `peer_names` is complete: a peer whose name is faulty could be the one that a route means.
    """

    node: NodeSettings | None
    tls: TlsSettings | None
    peers: Mapping[int, Peer]
    routes: Mapping[int, Route]
    peer_names: frozenset[str]
    all_peers_valid: bool
    all_routes_valid: bool
    all_names_known: bool = True


def cross_faults(parts: Parts) -> Iterator[tuple[KeyPath, str]]:
    """Yield the key path and the reason of every fault between sections."""
    yield from _duplicate_peers(parts)
    yield from _committers(parts)
    yield from _route_faults(parts)
    yield from _unrouted_sources(parts)
    if parts.node is not None:
        yield from _loops(parts.node, parts)
    if parts.tls is not None:
        yield from _tls_faults(parts.tls, parts)


def is_loopback(host: str) -> bool:
    """Whether a host is certainly this machine (no name is resolved)."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _duplicate_peers(parts: Parts) -> Iterator[tuple[KeyPath, str]]:
    names: dict[str, int] = {}
    callers: dict[tuple[str, str], str] = {}
    for index, peer in parts.peers.items():
        if peer.name in names:
            yield ("peers", index, "name"), f"peer {peer.name!r} is already defined as peers[{names[peer.name]}]"
            continue
        names[peer.name] = index
        for title in peer.ae_titles:
            for origin in peer.origins:
                other = next(
                    (name for (known, at), name in callers.items() if known == title and _overlap(at, origin)),
                    peer.name,
                )
                callers[title, origin] = peer.name
                if other != peer.name:
                    reason = f"{title!r} at {origin} already belongs to peer {other!r}: calls could not be told apart"
                    yield ("peers", index, "ae_titles"), reason


def _committers(parts: Parts) -> Iterator[tuple[KeyPath, str]]:
    valid = {peer.name: peer for peer in parts.peers.values()}
    for index, peer in parts.peers.items():
        name = peer.committed_by
        if name is None:
            continue
        path = ("peers", index, "committed_by")
        if name not in parts.peer_names:
            yield path, f"unknown peer {name!r}{suggestion(name, parts.peer_names)}"
        elif name in valid and not valid[name].has_role(Role.COMMITMENT):
            yield path, f"peer {name!r} has no role commitment"
        elif not peer.has_role(Role.DESTINATION):
            yield path, f"peer {peer.name!r} has no role destination: nothing is sent there"


def _route_faults(parts: Parts) -> Iterator[tuple[KeyPath, str]]:
    destinations = {peer.name for peer in parts.peers.values() if peer.has_role(Role.DESTINATION)}
    valid_names = {peer.name for peer in parts.peers.values()}
    sources = {title for peer in parts.peers.values() if peer.has_role(Role.SOURCE) for title in peer.ae_titles}
    seen: dict[str, int] = {}
    for index, route in parts.routes.items():
        if route.from_ae in seen:
            yield ("routes", index, "from_ae"), f"{route.from_ae!r} already has a route, routes[{seen[route.from_ae]}]"
        seen.setdefault(route.from_ae, index)
        if route.from_ae not in sources and parts.all_peers_valid:
            reason = f"no peer with role source calls as {route.from_ae!r}{suggestion(route.from_ae, sources)}"
            yield ("routes", index, "from_ae"), reason
        for position, name in enumerate(route.destinations):
            path = ("routes", index, "destinations", position)
            if name not in parts.peer_names:
                if not parts.all_names_known:
                    continue
                yield path, f"unknown peer {name!r}{suggestion(name, parts.peer_names)}"
            elif name in valid_names and name not in destinations:
                yield path, f"peer {name!r} has no role destination"


def _unrouted_sources(parts: Parts) -> Iterator[tuple[KeyPath, str]]:
    if not (parts.all_peers_valid and parts.all_routes_valid):
        return
    has_destination = any(peer.has_role(Role.DESTINATION) for peer in parts.peers.values())
    routed = {route.from_ae for route in parts.routes.values()}
    for index, peer in parts.peers.items():
        if not peer.has_role(Role.SOURCE):
            continue
        if not parts.routes and not has_destination:
            yield ("peers", index, "roles"), f"source {peer.name!r} has no route: no peer has role destination"
        missing = [title for title in peer.ae_titles if parts.routes and title not in routed]
        if missing:
            reason = f"source {peer.name!r} has no route for {', '.join(map(repr, missing))}: add a [[routes]] entry"
            yield ("peers", index, "ae_titles"), reason
    if parts.routes and parts.node is not None and parts.node.accept_any_calling_ae:
        yield (
            ("node", "accept_any_calling_ae"),
            "unknown AE titles would have no route: remove it, or remove [[routes]]",
        )


def _loops(node: NodeSettings, parts: Parts) -> Iterator[tuple[KeyPath, str]]:
    for index, peer in parts.peers.items():
        own_ports = {node.port, parts.tls.port if parts.tls is not None else None}
        if not peer.has_role(Role.DESTINATION) or peer.port is None or peer.port not in own_ports:
            continue
        same_host = peer.host == node.host or (is_loopback(peer.host) and _listens_on_loopback(node.host))
        if same_host or node.ae_title == peer.called_ae_title:
            yield ("peers", index, "port"), f"destination {peer.name!r} is this node itself: results would go in a loop"


def _listens_on_loopback(host: str) -> bool:
    return host in _UNSPECIFIED or is_loopback(host)


def _overlap(one: str, other: str) -> bool:
    """Whether two hosts, addresses or networks have an address in common; no name is resolved."""
    if one == other:
        return True
    try:
        first, second = ipaddress.ip_network(one), ipaddress.ip_network(other)
    except ValueError:
        return False
    return first.version == second.version and first.overlaps(second)


def _tls_faults(tls: TlsSettings, parts: Parts) -> Iterator[tuple[KeyPath, str]]:
    """Yield what TLS needs and lacks: files to call with, files to listen with, a port to be called on."""
    secure = [(index, peer) for index, peer in parts.peers.items() if peer.tls]
    if tls.certificate is None and (tls.port is not None or secure):
        why = "port is set" if tls.port is not None else f"peer {secure[0][1].name!r} has tls = true"
        yield ("tls", "certificate"), f"required, because {why}"
    has_authority = tls.ca is not None or any(peer.tls_ca is not None for peer in parts.peers.values())
    if tls.port is not None and tls.require_client_certificate and not has_authority and parts.all_peers_valid:
        yield ("tls", "ca"), "required, because require_client_certificate is true: whose certificates are good?"
    for index, peer in secure:
        if peer.tls_ca is None and tls.ca is None and peer.port is not None:
            yield ("peers", index, "tls"), "needs tls_ca here or ca in [tls]: whose certificate does the peer show?"
        if tls.port is None and (peer.has_role(Role.SOURCE) or peer.has_role(Role.COMMITMENT)):
            yield ("peers", index, "tls"), "the peer could not call us: set port in [tls]"
    for index, peer in parts.peers.items():
        for key in ("tls_ca", "tls_name"):
            if getattr(peer, key) is not None and not peer.tls:
                yield ("peers", index, key), "has no effect without tls = true"
