"""Open and end associations as requestor, with errors that say who must change what."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket

from dicom_node.errors import Permanent, Transient
from dicom_node.net.connection import MAX_PDU_BYTES, bound_connection
from dicom_node.net.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.net.remote import RemoteEntity
from dicom_node.net.tls import ClientContext, client_context
from dicom_node.net.tls_words import calling_failure

#: Answers of a peer are short; nothing that it sends us as a requestor is longer.
_LONGEST_ANSWER_BYTES: Final = 16 * 1024**2


class _Requestor(AE):  # type: ignore[misc]  # pynetdicom is untyped for us
    """An application entity for one outgoing association, whose connection is bounded."""

    tcp_socket: socket.socket | None = None
    longest_answer_bytes: int = _LONGEST_ANSWER_BYTES

    def _create_socket(self, *args: Any) -> AssociationSocket:  # noqa: ANN401 - passed on
        connection = super()._create_socket(*args)
        bound_connection(connection, timeout_s=self.acse_timeout, max_message_bytes=self.longest_answer_bytes)
        self.tcp_socket = connection.socket
        return connection


def associate(
    peer: RemoteEntity,
    calling_ae: str,
    contexts: Sequence[PresentationContext],
    timeout_s: float,
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
    longest_answer_bytes: int = _LONGEST_ANSWER_BYTES,
) -> Association:
    """Open an association or say why not.

    Parameters
    ----------
    peer : RemoteEntity
        Whom to call.
    calling_ae : str
        Our AE title.
    contexts : sequence of PresentationContext
        What to propose.
    timeout_s : float
        Longest wait for each step.
    roles : sequence of SCP_SCU_RoleSelectionNegotiation
        Roles proposed besides the default, in which we are the SCU, for requests that come from the peer over this
        association (PS3.7 section D.3.3.4).
    handlers : sequence of (event, callable)
        pynetdicom event handlers for such requests.
    longest_answer_bytes : int
        Largest data set that the peer may send us.

    Returns
    -------
    Association
        Established; or ended, without any accepted context, when the peer took nothing of what we proposed.

    Raises
    ------
    Transient
        ``peer_unreachable``, ``peer_rejected``, ``peer_busy``, ``peer_aborted``; ``tls_files`` when our own are bad,
        and the codes of `dicom_node.net.tls_words` when no secure connection came about.
    Permanent
        ``peer_without_port``.
    """
    if peer.port is None:
        hint = "; results go to it by DICOMweb" if peer.web is not None else ""
        raise Permanent("peer_without_port", f"peer {peer.name!r} has no port: it cannot be called{hint}")
    entity = _Requestor(calling_ae)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = timeout_s
    entity.network_timeout = max(timeout_s, 60.0)
    entity.longest_answer_bytes = longest_answer_bytes
    connected: list[bool] = []
    secure = client_context(peer.tls_call) if peer.tls_call is not None else None

    try:
        assoc = entity.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.called_ae_title,
            max_pdu=peer.pdu_bytes or MAX_PDU_BYTES,
            ext_neg=list(roles),
            tls_args=(secure, peer.tls_call.name) if secure is not None and peer.tls_call is not None else None,
            evt_handlers=[(evt.EVT_CONN_OPEN, lambda _event: connected.append(True)), *handlers],
        )
    except OSError as error:  # the host name does not resolve
        raise Transient("peer_unreachable", f"peer unreachable {peer.host}:{peer.port}: {error.strerror}") from error
    if assoc.is_established:
        assoc._serve_request = partial(_serve, assoc, assoc._serve_request)
        return assoc
    _forget(entity, secure)
    if assoc.is_rejected:
        raise _rejection(peer, calling_ae, assoc.acceptor.primitive)
    if assoc.acceptor.primitive is not None and assoc.acceptor.primitive.result == 0:
        # Accepted, but without any context: every instance then fails by itself.
        return assoc
    raise _no_association(peer, secure, connected=bool(connected))


def _no_association(peer: RemoteEntity, secure: ClientContext | None, *, connected: bool) -> Transient:
    """Say why an association that was not rejected did not come about: TLS, no connection, or no DICOM behind it."""
    if secure is not None and secure.failures and peer.tls_call is not None:
        return calling_failure(peer, peer.tls_call.name, secure.failures[0])
    if not connected:
        return Transient("peer_unreachable", f"peer unreachable {peer.host}:{peer.port}: no connection; is it running?")
    hint = (
        "is this a DICOM port, does it accept our certificate?"
        if secure
        else "is this a DICOM port, with or without TLS?"
    )
    return Transient("peer_aborted", f"{words(peer)} took the connection but no association: {hint}")


def _forget(entity: _Requestor, secure: ClientContext | None) -> None:
    """Close what pynetdicom leaves open on some ways out of an association that did not come about."""
    for connection in (entity.tcp_socket, secure.connection if secure is not None else None):
        if connection is not None:
            connection.close()


def _serve(assoc: Association, serve: Callable[[Any, int], None], message: Any, context_id: int) -> None:  # noqa: ANN401 - a pynetdicom primitive
    """Give an answer back to the thread that waits for it; only requests are for the reactor to serve.

    pynetdicom's reactor says that it is paused before it waits. On a busy machine it may be passing that wait when the
    next exchange begins, and then takes the answer of the peer off the queue and drops it.
    """
    exchanging = not assoc._reactor_checkpoint.is_set()
    if exchanging and not message.is_valid_request:
        assoc.dimse.msg_queue.put((context_id, message))
    else:
        serve(message, context_id)


def _rejection(peer: RemoteEntity, calling_ae: str, answer: A_ASSOCIATE) -> Transient:
    """Put an A-ASSOCIATE-RJ (PS3.8 table 9-21) into words that name who must change what."""
    source, diagnostic = answer.result_source, answer.diagnostic
    figures = {"result": answer.result, "source": source, "diagnostic": diagnostic}
    if (source, diagnostic) == (1, 3):
        reason = (
            f"peer rejected our AE title: {words(peer)} does not know {calling_ae!r}; ask the PACS administrator to "
            "add it with the address of this host"
        )
        return Transient("peer_rejected", reason, figures)
    if (source, diagnostic) == (1, 7):
        reason = (
            f"peer rejected its own AE title: {peer.host}:{peer.port} is not {peer.called_ae_title!r}; correct the "
            f"first of ae_titles of peer {peer.name!r}"
        )
        return Transient("peer_rejected", reason, figures)
    if source == 3:
        return Transient("peer_busy", f"{words(peer)} is busy (too many associations)", figures)
    reason = f"{words(peer)} rejected the association of {calling_ae!r} without a reason we know; ask its administrator"
    return Transient("peer_rejected", reason, figures)


def no_answer(peer: RemoteEntity, waited_s: float, timeout_s: float) -> Transient:
    """Return the error of a peer that owes us an answer: silent, or gone."""
    if waited_s >= timeout_s:
        return Transient("peer_silent", f"{words(peer)} did not answer within {timeout_s:g} s")
    return Transient("peer_aborted", f"{words(peer)} ended the association in the middle")


def words(peer: RemoteEntity) -> str:
    """Name a peer the way an administrator finds it in both configurations."""
    return f"peer {peer.name!r} ({peer.called_ae_title} at {peer.host}:{peer.port})"


def finish(assoc: Association, *, abort: bool = False) -> None:
    """Release an association that is open, or abort it."""
    if abort:
        assoc.abort()
    elif assoc.is_established:
        assoc.release()
