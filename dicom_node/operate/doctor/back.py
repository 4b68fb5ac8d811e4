"""Checks from the peers to us: the address they have to call, our own door at that address, and when they last came."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from pynetdicom import build_context
from pynetdicom.sop_class import CTImageStorage, Verification

from dicom_node.errors import NodeError
from dicom_node.ledger.refusals import read_refusals
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.net.certificates import certificate_facts
from dicom_node.net.contexts import DECODABLE_SYNTAXES
from dicom_node.net.remote import Remote
from dicom_node.net.requestor import associate, finish
from dicom_node.net.tls import TlsCall
from dicom_node.operate.doctor.findings import NETWORK, US, Finding, administrator_of, failed, passed, warned
from dicom_node.operate.doctor.peers import address_towards
from dicom_node.settings import Peer, Role, Settings
from dicom_node.settings.checks import is_loopback

_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound
#: A port to look up the way to a peer that has none; no packet is sent there.
_ANY_PORT: Final = 104
#: Refusals that are told in full.
_MOST: Final = 3


def address(peer: Peer, settings: Settings) -> tuple[Finding, str | None]:
    """Find the address by which a peer has to call us, and whether we listen there."""
    host, port, ours = settings.node.host, port_for(peer, settings), settings.node.ae_title
    towards = address_towards(peer.host, peer.port or _ANY_PORT)
    if towards is None:
        seen = f"no address of this machine leads to {peer.host}"
        return warned(
            "back.address", seen, NETWORK, f"see host of peer {peer.name!r} and the route", peer=peer.name
        ), None
    if is_loopback(host) and not is_loopback(towards):
        seen = f"we listen on {host} alone, but {peer.name} would have to call {towards}"
        return failed("back.address", seen, US, f'set host = "{towards}" or "0.0.0.0" in [node]', peer=peer.name), None
    if host not in _EVERY_ADDRESS and not is_loopback(host) and host != towards:
        seen = f"we listen on {host} alone; our address towards {peer.name} is {towards}"
        remedy = f"make sure that {peer.name} can reach {host}, or set another host in [node]"
        return warned("back.address", seen, NETWORK, remedy, peer=peer.name), host
    door = towards if host in _EVERY_ADDRESS or is_loopback(towards) else host
    return passed("back.address", f"it has to call {ours} at {door} port {port}", peer=peer.name), door


def port_for(peer: Peer, settings: Settings) -> int:
    """Return the port on which a peer has to call us."""
    return settings.tls.port if peer.tls and settings.tls.port is not None else settings.node.port


def door(settings: Settings, at: str, timeout_s: float) -> Finding:
    """Call our own node at an address, as a peer that may call from there.

    Where no peer may call from this machine, the node has to answer that it does not know the caller: it looks at the
    called title first, so that this answer proves the rest.
    """
    caller = _caller(settings, at)
    title = caller.ae_titles[0] if caller is not None else settings.node.ae_title
    secure = caller.tls if caller is not None else settings.tls.port == settings.node.port
    port = settings.tls.port if secure and settings.tls.port is not None else settings.node.port
    contexts = [build_context(Verification), build_context(CTImageStorage, list(DECODABLE_SYNTAXES))]
    where = f"{settings.node.ae_title} at {at}:{port}{' by TLS' if secure else ''}"
    try:
        us = Remote("this node", settings.node.ae_title, at, port, _own_call(settings, at) if secure else None)
        assoc = associate(us, title, contexts, timeout_s)
    except NodeError as error:
        return _refused(error, where, title, expected=caller is None and not settings.node.accept_any_calling_ae)
    try:
        accepted = {str(context.abstract_syntax) for context in assoc.accepted_contexts}
        answered = bool(accepted) and assoc.send_c_echo().get("Status") == 0
    except (RuntimeError, ValueError):  # pynetdicom, when the association ended in between
        answered = False
    finally:
        finish(assoc)
    if not answered:
        return failed("back.door", f"{where} took the association of {title!r}, but no C-ECHO", US, "see its log")
    if caller is not None and caller.has_role(Role.SOURCE) and CTImageStorage not in accepted:
        seen = f"{where} answered {title!r}, but accepts no CT from it"
        return failed("back.door", seen, US, "reload or restart the node, so that it works by this file")
    return passed("back.door", f"{where} answered the C-ECHO of {title!r}")


def _own_call(settings: Settings, at: str) -> TlsCall | None:
    """Call ourselves by TLS: our certificate is its own authority then, and its own name.

    Raises
    ------
    Transient
        ``tls_files`` when it cannot be read.
    """
    certificate = settings.tls.certificate
    files = settings.tls.files([certificate] if certificate is not None else [])
    if certificate is None or files is None:
        return None
    return TlsCall(files, next(iter(certificate_facts(certificate).san), at))


def refused(settings: Settings, silent_days: float) -> Finding:
    """Say whom the front door turned away lately, by the journal of the receivers."""
    since = (datetime.now(UTC) - timedelta(days=silent_days)).isoformat()
    lately = [one for one in read_refusals(SpoolPaths(settings.node.data_dir).run) if one.last_at >= since]
    if not lately:
        return passed("back.refused", f"nobody in {silent_days:g} days")
    told = "; ".join(f"{one.refusal.reason} ({one.count} times, last at {one.last_at[:16]})" for one in lately[:_MOST])
    more = f"; and {len(lately) - _MOST} others, see: jmmda-node status" if len(lately) > _MOST else ""
    return warned("back.refused", told + more, "us or who called", "as each line says, where the caller is welcome")


def seen(
    peer: Peer,
    settings: Settings,
    last: Mapping[str, datetime],
    silent_days: float,
    *,
    at: str | None,
    offers: Sequence[str] = (),
) -> Finding:
    """Say when a source last sent to us.

    Parameters
    ----------
    peer : Peer
        With role source.
    settings : Settings
        Say who we are.
    last : Mapping
        Last association by calling AE title, from the ledger.
    silent_days : float
        A longer silence is worth a warning.
    at : str or None
        Address by which it has to call us.
    offers : sequence of str
        Services by which it would call us in turn.
    """
    them = administrator_of(peer.name)
    moments = [last[title] for title in peer.ae_titles if title in last]
    tls = " by TLS" if peer.tls else ""
    how = f"{settings.node.ae_title} at {at or 'this machine'} port {port_for(peer, settings)}{tls}"
    hint = f"; it offers {' and '.join(offers)}, by which it can be made to call us for a test" if offers else ""
    if not moments:
        remedy = f"add {how} as a destination and route head CT to it; open the firewall on the way{hint}"
        return warned("back.seen", "it has never sent an image to us", them, remedy, peer=peer.name)
    days = (datetime.now(UTC) - max(moments)).total_seconds() / 86400
    when = f"{max(moments).astimezone():%Y-%m-%d %H:%M}"
    if days > silent_days:
        remedy = f"see whether it still routes head CT to {how}{hint}"
        return warned("back.seen", f"not seen since {when} ({days:.0f} days)", them, remedy, peer=peer.name)
    return passed("back.seen", f"last sent at {when}", peer=peer.name)


def _caller(settings: Settings, at: str) -> Peer | None:
    """Return a peer that may call from this machine, a source if there is one, and one without TLS first.

    A peer that has to call by TLS is known by its own certificate, which we do not have.
    """
    able = [
        peer for peer in settings.peers if peer.any_host or any(at in _addresses(origin) for origin in peer.origins)
    ]
    able.sort(key=lambda peer: peer.tls)
    return next((peer for peer in able if peer.has_role(Role.SOURCE)), next(iter(able), None))


def _addresses(host: str) -> set[str]:
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _refused(error: NodeError, where: str, title: str, *, expected: bool) -> Finding:
    diagnostic = error.figures.get("diagnostic")
    if error.code == "peer_rejected" and diagnostic == 3 and expected:
        return passed("back.door", f"{where} answered, and refuses callers of this machine as the settings want")
    if error.code == "peer_rejected" and diagnostic == 3:
        seen_there = f"{where} does not let {title!r} call from this machine, although the file lists it"
        return failed("back.door", seen_there, US, "reload or restart the node, so that it works by this file")
    if error.code == "peer_rejected" and diagnostic == 7:
        seen_there = f"what answers there has another AE title than {where.split(' at ')[0]!r}"
        return failed("back.door", seen_there, US, "restart the node, or stop what holds its port")
    if error.code == "peer_busy":
        remedy = "raise max_associations in [node], or find out who keeps associations open"
        return warned("back.door", f"{where} serves as many associations as it may", US, remedy)
    if error.code == "tls_refused" or (error.code == "peer_rejected" and " by TLS" in where):
        # It answered by TLS with a certificate that is ours; only peers have one that it lets in.
        return passed("back.door", f"{where} answered, and lets in nobody with our own certificate")
    remedy = "see the firewall of this machine, host and port in [node], and the log of the node"
    return failed("back.door", f"{where}: {error.reason}", US, remedy)
