"""The listening side: a pynetdicom association server with the edges that a hospital network needs.

What pynetdicom 3.0.4 leaves open and this module closes:

- several processes can share the port (SO_REUSEPORT), and Nagle's algorithm is off;
- a PDU is read in large pieces, has to arrive within a time limit and may not announce an absurd length, and a
  message may not grow without end, so that neither a slow nor a boundless sender holds memory or a thread for ever;
- a connection that is opened and closed without a word (a load balancer's probe) frees its thread at once, instead of
  after the ACSE time-out;
- connections beyond a ceiling are closed before they cost a thread;
- a TLS handshake has its own thread and time limit, where pynetdicom lets one slow peer keep all others waiting.
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_P_ABORT
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AssociationServer, RequestHandler

from dicom_node.net.connection import MAX_PDU_BYTES, began_with_tls, bound_connection, set_timeout
from dicom_node.net.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.net.tls import turn_away

_SPARE_CONNECTIONS: Final = 32

Handlers = Sequence[tuple[Any, Callable[..., Any]]]

#: Told of the address of a peer with which no secure connection came about, and why.
OnTlsFailure = Callable[[str, OSError], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost.

    Attributes
    ----------
    max_associations : int
        Associations served at once; a few more connections are tolerated so that they can be told "busy".
    network_timeout_s : float
        Longest silence within an association, and longest time for one PDU to arrive.
    acse_timeout_s : float
        Longest wait for the association request after the connection was opened.
    max_message_bytes : int
        Largest data set.
    max_pdu_bytes : int
        Largest P-DATA-TF PDU that we ask for.
    """

    max_associations: int
    network_timeout_s: float
    acse_timeout_s: float
    max_message_bytes: int
    max_pdu_bytes: int = MAX_PDU_BYTES


@dataclass(frozen=True, slots=True)
class Secure:
    """What makes a listener one of DICOM TLS.

    Attributes
    ----------
    context : ssl.SSLContext
        For connections to come.
    on_failure : callable
        Called, in a thread of its own, with the peer's address and the error of a handshake.
    """

    context: ssl.SSLContext
    on_failure: OnTlsFailure


class Listener:
    """Accepts associations on one address until closed.

    Parameters
    ----------
    ae_title : str
        Our title, as it stands in our association responses.
    address : tuple of str and int
        Where to listen; port 0 picks a free one.
    handlers : sequence of (event, callable)
        pynetdicom event handlers.
    limits : Limits
        See there.
    share_port : bool
        Let other processes listen on the same port.
    secure : Secure or None
        Speak TLS alone on this port.

    Raises
    ------
    OSError
        When the address is taken or does not exist.
    """

    def __init__(
        self,
        ae_title: str,
        address: tuple[str, int],
        handlers: Handlers,
        limits: Limits,
        *,
        share_port: bool,
        secure: Secure | None = None,
    ) -> None:
        entity = AE(ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_pdu_size = limits.max_pdu_bytes
        entity.network_timeout = limits.network_timeout_s
        entity.acse_timeout = limits.acse_timeout_s
        entity.dimse_timeout = limits.network_timeout_s
        entity.maximum_associations = limits.max_associations + _SPARE_CONNECTIONS
        # pynetdicom wants one context to start; those of an association are set when its request is known.
        entity.add_supported_context(Verification)
        self._server: _Server = entity.make_server(
            address,
            evt_handlers=[*handlers, (evt.EVT_CONN_CLOSE, _wake_unrequested)],
            server_class=_Server,
            limits=limits,
            share_port=share_port,
            secure=secure,
        )
        self._thread = threading.Thread(target=self._server.serve_forever, name="listener", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port we listen on."""
        host, port, *_ = self._server.server_address
        return str(host), int(port)

    @property
    def associations(self) -> list[Association]:
        """Associations and connections that are alive now."""
        return list(self._server.active_associations)

    def set_limits(self, limits: Limits) -> None:
        """Apply new limits to connections to come."""
        self._server.limits = limits
        self._server.ae.maximum_associations = limits.max_associations + _SPARE_CONNECTIONS
        self._server.ae.maximum_pdu_size = limits.max_pdu_bytes
        self._server.ae.network_timeout = self._server.ae.dimse_timeout = limits.network_timeout_s
        self._server.ae.acse_timeout = limits.acse_timeout_s

    def set_secure(self, secure: Secure) -> None:
        """Use another context for connections to come; those that are open, or in their handshake, keep theirs."""
        self._server.secure = secure

    def close(self) -> None:
        """Stop accepting; associations that are open go on."""
        socketserver.BaseServer.shutdown(self._server)
        self._server.server_close()
        self._thread.join()


class _Server(AssociationServer):  # type: ignore[misc]  # pynetdicom is untyped for us
    request_queue_size = 128

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - passed on
        limits: Limits,
        share_port: bool,
        secure: Secure | None,
        **kwargs: Any,  # noqa: ANN401 - passed on
    ) -> None:
        self.limits = limits
        self.secure = secure
        self._share_port = share_port
        self._handshakes: set[threading.Thread] = set()
        super().__init__(*args, request_handler=_BoundedHandler, **kwargs)

    def server_bind(self) -> None:
        if self._share_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def verify_request(self, request: object, client_address: object) -> bool:
        connections = len(self.active_associations) + len(self._handshakes)
        return connections < self.limits.max_associations + _SPARE_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as socketserver's
        if self.secure is None:
            super().process_request(request, client_address)
            return
        thread = threading.Thread(
            target=self._shake_hands, args=(request, client_address, self.secure), name="tls-handshake", daemon=True
        )
        self._handshakes.add(thread)
        thread.start()

    def _shake_hands(self, request: socket.socket, client_address: Any, secure: Secure) -> None:  # noqa: ANN401
        connection = request
        try:
            request.settimeout(self.limits.acse_timeout_s)
            if not request.recv(1, socket.MSG_PEEK):
                request.close()  # the probe of a load balancer
                return
            connection = secure.context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            connection.do_handshake()
            self.finish_request(connection, client_address)
        except OSError as error:
            turn_away(connection)
            secure.on_failure(str(client_address[0]), error)
        finally:
            self._handshakes.discard(threading.current_thread())


class _BoundedHandler(RequestHandler):  # type: ignore[misc]  # pynetdicom is untyped for us
    def _create_association(self) -> Association:
        assoc = super()._create_association()
        limits = self.server.limits
        bound_connection(
            assoc.dul.socket, timeout_s=limits.network_timeout_s, max_message_bytes=limits.max_message_bytes
        )
        return assoc


def _wake_unrequested(event: Any) -> None:  # noqa: ANN401 - a pynetdicom event
    """Wake a thread that still waits for the association request of a connection that is gone."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(A_P_ABORT())


def was_requested(assoc: Association) -> bool:
    """Whether the connection brought an association request; if not, mark it as ended.

    To be asked first thing by a handler of ``EVT_REQUESTED``, which pynetdicom also triggers for a connection that
    closed without a request.
    """
    if isinstance(assoc.requestor.primitive, A_ASSOCIATE):
        return True
    assoc.is_aborted = True
    return False


def apply_to(assoc: Association, *, network_timeout_s: float | None, max_pdu_bytes: int | None) -> None:
    """Give one association limits of its own, before it is answered; None leaves one as it is.

    Parameters
    ----------
    assoc : Association
        Whose request has just come.
    network_timeout_s : float or None
        Longest silence, and longest time for one PDU to arrive.
    max_pdu_bytes : int or None
        Largest P-DATA-TF PDU that we ask for in the answer (PS3.8 section D.1).
    """
    if network_timeout_s is not None:
        assoc.network_timeout = assoc.dimse_timeout = network_timeout_s
        set_timeout(assoc.dul.socket, network_timeout_s)
    if max_pdu_bytes is not None:
        assoc.acceptor.maximum_length = max_pdu_bytes


def secure_connection(assoc: Association) -> ssl.SSLSocket | None:
    """Return the TLS connection of an association; None when it has no such, or none any more."""
    connection = assoc.dul.socket.socket if assoc.dul.socket is not None else None
    return connection if isinstance(connection, ssl.SSLSocket) else None


def tried_tls(assoc: Association) -> bool:
    """Whether a connection that brought no association request began a TLS handshake on a plain port."""
    return assoc.dul.socket is not None and began_with_tls(assoc.dul.socket)
