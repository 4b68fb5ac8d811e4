"""Checks from us to a peer: name, port, association, echo, and the presentation contexts that its roles need."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from dicom_node.dicom.label_facts import OBJECT_CLASSES
from dicom_node.errors import NodeError
from dicom_node.net.requestor import associate, finish
from dicom_node.net.scu import contexts_for
from dicom_node.operate.doctor.findings import NETWORK, US, Finding, administrator_of, failed, passed, warned
from dicom_node.settings import Peer, Role, Settings

_CALLED_AE_NOT_RECOGNIZED: Final = 7
_CALLING_AE_NOT_RECOGNIZED: Final = 3

#: Services that make a peer call us: proposed to every peer, as a hint for the way back, and used by no check.
_CALLING_BACK: Final = {
    StudyRootQueryRetrieveInformationModelMove: "C-MOVE",
    StorageCommitmentPushModel: "storage commitment",
}


@dataclass(frozen=True, slots=True)
class Called:
    """What came of calling a peer.

    Attributes
    ----------
    findings : tuple of Finding
        The checks, up to the first that failed.
    offers : tuple of str
        Services that it accepted and by which it would call us in turn.
    """

    findings: tuple[Finding, ...]
    offers: tuple[str, ...] = ()


def call(peer: Peer, settings: Settings, timeout_s: float) -> Called:
    """Call a peer step by step.

    Parameters
    ----------
    peer : Peer
        Whom; one without port is not called.
    settings : Settings
        Say who we are and what we send.
    timeout_s : float
        Longest wait for each step.
    """
    if peer.port is None:
        return Called(())
    found: list[Finding] = []
    named, addresses = _resolved(peer)
    found.append(named)
    if not addresses:
        return Called(tuple(found))
    our_address = address_towards(peer.host, peer.port) or "this machine"
    reached = passed("peer.connection", f"{peer.host}:{peer.port} reached from {our_address}", peer=peer.name)
    try:
        assoc = associate(peer, settings.node.ae_title, _wanted(peer, settings), timeout_s)
    except NodeError as error:
        if error.code == "tls_files":  # ours, before anybody was called
            return Called((*found, _not_associated(peer, settings, error, our_address)))
        if error.code != "peer_unreachable":
            return Called((*found, reached, _not_associated(peer, settings, error, our_address)))
        return Called((*found, *_not_connected(peer, our_address, timeout_s, error)))
    try:
        found.append(reached)
        found.append(passed("peer.association", f"accepted by {peer.called_ae_title}", peer=peer.name))
        found += [_echoed(peer, assoc), *_contexts(peer, settings, assoc)]
        return Called(tuple(found), tuple(name for uid, name in _CALLING_BACK.items() if _accepted(assoc, uid)))
    finally:
        finish(assoc)


def address_towards(host: str, port: int) -> str | None:
    """Address under which a host sees this machine, by the routing table alone; None when there is no way."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # of a datagram socket: no packet leaves
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _resolved(peer: Peer) -> tuple[Finding, list[str]]:
    try:
        entries = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except OSError as error:
        seen = f"{peer.host} does not resolve: {error.strerror}"
        remedy = f"correct host of peer {peer.name!r}, or have the name server know it"
        return failed("peer.name", seen, US, remedy, peer=peer.name), []
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    return passed("peer.name", f"{peer.host} is {', '.join(addresses)}", peer=peer.name), addresses


def _not_connected(peer: Peer, our_address: str, timeout_s: float, error: NodeError) -> list[Finding]:
    """Say why there is no connection.

    A connection without an association is only tried where there is none anyway: many systems keep a place for it until
    their patience with a silent caller ends.
    """
    where = f"{peer.host}:{peer.port}"
    try:
        socket.create_connection((peer.host, peer.port), timeout=timeout_s).close()
    except ConnectionRefusedError:
        remedy = f"start the DICOM service there, or tell us its port (ours for it is {peer.port})"
        who = administrator_of(peer.name)
        return [failed("peer.connection", f"nobody listens on {where}", who, remedy, peer=peer.name)]
    except TimeoutError:
        seen = f"{where} gave no answer in {timeout_s:g} s"
        remedy = f"let TCP through from {our_address} to {where}; a firewall drops it, or the machine is off"
        return [failed("peer.connection", seen, NETWORK, remedy, peer=peer.name)]
    except OSError as trouble:
        remedy = f"see the route from this machine to {peer.host}"
        return [failed("peer.connection", f"{where}: {trouble.strerror}", NETWORK, remedy, peer=peer.name)]
    remedy = "ask again; if it comes and goes, see the machines on the way"
    return [failed("peer.connection", f"{error.reason}, then it was reached", NETWORK, remedy, peer=peer.name)]


def _wanted(peer: Peer, settings: Settings) -> list[PresentationContext]:
    contexts = [build_context(Verification)]
    if peer.has_role(Role.DESTINATION):
        contexts += contexts_for([(_class_of_results(settings), str(ExplicitVRLittleEndian))])
    if peer.has_role(Role.QUERY):
        contexts.append(build_context(StudyRootQueryRetrieveInformationModelFind))
    return [*contexts, *map(build_context, _CALLING_BACK)]


def _class_of_results(settings: Settings) -> str:
    return str(OBJECT_CLASSES[settings.output.object].sop_class_uid)


def _not_associated(peer: Peer, settings: Settings, error: NodeError, our_address: str) -> Finding:
    ours, theirs = settings.node.ae_title, peer.called_ae_title
    them = administrator_of(peer.name)
    diagnostic = error.figures.get("diagnostic")
    if error.code == "peer_rejected" and diagnostic == _CALLING_AE_NOT_RECOGNIZED:
        seen = f"rejected: {theirs!r} does not know our AE title {ours!r} (we come from {our_address})"
        port = settings.tls.port if peer.tls and settings.tls.port is not None else settings.node.port
        remedy = f"add AE title {ours!r} with address {our_address} and port {port}"
        return failed("peer.association", seen, them, remedy, peer=peer.name)
    if error.code == "peer_rejected" and diagnostic == _CALLED_AE_NOT_RECOGNIZED:
        seen = f"rejected: we call it {theirs!r}, which is not the AE title of {peer.host}:{peer.port}"
        remedy = f"correct the first of ae_titles of peer {peer.name!r}; its administrator knows the title"
        return failed("peer.association", seen, US, remedy, peer=peer.name)
    if error.code == "peer_busy":
        remedy = "allow more associations if this goes on"
        return warned("peer.association", error.reason, them, remedy, peer=peer.name)
    if error.code == "peer_aborted":
        remedy = f"see the log there for a call of {ours!r}; is {peer.port} the DICOM port, with TLS as we have it?"
        return failed("peer.association", error.reason, them, remedy, peer=peer.name)
    who = US if error.code == "tls_files" else f"us or {them}"
    return failed("peer.association", error.reason, who, "as the line says; docs/tls.md", peer=peer.name)


def _echoed(peer: Peer, assoc: Association) -> Finding:
    them = administrator_of(peer.name)
    if not _accepted(assoc, Verification):
        remedy = "allow Verification (C-ECHO) for us"
        return failed("peer.echo", "it accepts no Verification context", them, remedy, peer=peer.name)
    try:
        status = assoc.send_c_echo()
    except (RuntimeError, ValueError):  # pynetdicom, when the association ended in between
        status = {}
    if "Status" not in status:
        seen = "it accepted the association and then ended it, or did not answer"
        return failed("peer.echo", seen, them, "see its log for our call", peer=peer.name)
    if status.Status != 0:
        return failed("peer.echo", f"answered with status 0x{status.Status:04X}", them, "see its log", peer=peer.name)
    implementation = str(assoc.acceptor.implementation_version_name or "no name")
    return passed("peer.echo", f"answered (implementation {implementation})", peer=peer.name)


def _contexts(peer: Peer, settings: Settings, assoc: Association) -> Iterator[Finding]:
    them, ours = administrator_of(peer.name), settings.node.ae_title
    if peer.has_role(Role.DESTINATION):
        sop_class = UID(_class_of_results(settings))
        syntaxes = _accepted(assoc, sop_class)
        if syntaxes:
            names = ", ".join(UID(syntax).name for syntax in syntaxes)
            yield passed("peer.store", f"accepts {sop_class.name} in {names}", peer=peer.name)
        else:
            remedy = f"accept {sop_class.name} ({sop_class}) in Explicit or Implicit VR Little Endian from {ours!r}"
            yield failed("peer.store", f"it accepts no context for {sop_class.name}", them, remedy, peer=peer.name)
    needs = (
        (Role.QUERY, "peer.query", StudyRootQueryRetrieveInformationModelFind, "Study Root C-FIND"),
        (Role.COMMITMENT, "peer.commitment", StorageCommitmentPushModel, "Storage Commitment (push model)"),
    )
    for role, check, sop_class_uid, name in needs:
        if not peer.has_role(role):
            continue
        if _accepted(assoc, sop_class_uid):
            yield passed(check, f"accepts {name}", peer=peer.name)
        else:
            remedy = f"allow {name} for {ours!r}; otherwise we have to take the role {role.value} from the peer"
            yield failed(check, f"it accepts no context for {name}", them, remedy, peer=peer.name)


def _accepted(assoc: Association, sop_class_uid: str) -> list[str]:
    """Transfer syntaxes that were accepted for a class."""
    return [
        str(context.transfer_syntax[0])
        for context in assoc.accepted_contexts
        if context.abstract_syntax == sop_class_uid
    ]
