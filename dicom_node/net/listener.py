"""The listening side: a pynetdicom association server with the edges that a hospital network needs.

What pynetdicom 3.0.4 leaves open and this module closes:

- several processes can share the port (SO_REUSEPORT), and Nagle's algorithm is off;
- a PDU is read in large pieces, has to arrive within a time limit and may not announce an absurd length, and a
  message may not grow without end, so that neither a slow nor a boundless sender holds memory or a thread for ever;
- a connection that is opened and closed without a word (a load balancer's probe) frees its thread at once, instead of
  after the ACSE time-out;
- connections beyond a ceiling are closed before they cost a thread.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_P_ABORT
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AssociationServer, RequestHandler

from dicom_node.net.connection import MAX_PDU_BYTES, bound_connection
from dicom_node.net.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_SPARE_CONNECTIONS: Final = 32

Handlers = Sequence[tuple[Any, Callable[..., Any]]]


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
    """

    max_associations: int
    network_timeout_s: float
    acse_timeout_s: float
    max_message_bytes: int


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

    Raises
    ------
    OSError
        When the address is taken or does not exist.
    """

    def __init__(
        self, ae_title: str, address: tuple[str, int], handlers: Handlers, limits: Limits, *, share_port: bool
    ) -> None:
        entity = AE(ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_pdu_size = MAX_PDU_BYTES
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

    def close(self) -> None:
        """Stop accepting; associations that are open go on."""
        socketserver.BaseServer.shutdown(self._server)
        self._server.server_close()
        self._thread.join()


class _Server(AssociationServer):  # type: ignore[misc]  # pynetdicom is untyped for us
    request_queue_size = 128

    def __init__(self, *args: Any, limits: Limits, share_port: bool, **kwargs: Any) -> None:  # noqa: ANN401 - passed on
        self.limits = limits
        self._share_port = share_port
        super().__init__(*args, request_handler=_BoundedHandler, **kwargs)

    def server_bind(self) -> None:
        if self._share_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    def verify_request(self, request: object, client_address: object) -> bool:
        return len(self.active_associations) < self.limits.max_associations + _SPARE_CONNECTIONS


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
