"""One TCP connection under pynetdicom, with bounds on time and size and without Nagle's algorithm."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from functools import partial
from typing import Final

from pynetdicom import _config
from pynetdicom.transport import AssociationSocket

from dicom_node.net.tls import close_politely

# pynetdicom's own log handlers format every PDU, and print whole data sets at debug level.
_config.LOG_HANDLER_LEVEL = "none"

#: Largest P-DATA-TF PDU that we ask peers for; twice as fast as pynetdicom's 16 KiB.
MAX_PDU_BYTES: Final = 131_072

#: Association requests carry no pixels; 128 contexts with many transfer syntaxes each stay below this.
_LONGEST_PDU_BYTES: Final = 1_048_576

_PIECE_BYTES: Final = 65_536

#: How a TLS handshake begins: record type and major version (RFC 8446 section 5.1). No PDU does.
_TLS_RECORD: Final = b"\x16\x03"


def bound_connection(connection: AssociationSocket, *, timeout_s: float, max_message_bytes: int) -> None:
    """Bound what the connection of an association may cost.

    Parameters
    ----------
    connection : AssociationSocket
        pynetdicom's wrapper of a TCP socket, connected or not yet.
    timeout_s : float
        Longest time for one PDU to arrive once it has begun.
    max_message_bytes : int
        Largest data set that is taken.
    """
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # pynetdicom constructs its own wrapper of the socket; only its ways of reading and of closing are replaced.
    connection.reader = _BoundedReader(connection, timeout_s, max_message_bytes)
    connection.recv = connection.reader.read
    connection._shutdown_socket = partial(_close, connection)


def set_timeout(connection: AssociationSocket, timeout_s: float) -> None:
    """Change the longest time for one PDU of a connection that `bound_connection` has bounded."""
    connection.reader.timeout_s = timeout_s


def began_with_tls(connection: AssociationSocket) -> bool:
    """Whether the other side tried to speak TLS on a plain connection."""
    return bool(connection.reader.began_with_tls)


def _close(connection: AssociationSocket) -> None:
    """Close a socket even when it is not connected any more, where pynetdicom leaves the descriptor open."""
    if connection.socket is not None:
        if isinstance(connection.socket, ssl.SSLSocket):
            close_politely(connection.socket)
        with contextlib.suppress(OSError):
            connection.socket.shutdown(socket.SHUT_RDWR)
        connection.socket.close()


class _BoundedReader:
    """Reads exactly what pynetdicom asks for, within bounds; any breach ends the connection as a lost one."""

    def __init__(self, connection: AssociationSocket, timeout_s: float, max_message_bytes: int) -> None:
        self.timeout_s = timeout_s
        self.began_with_tls = False
        self._connection = connection
        self._max_message_bytes = max_message_bytes
        self._is_first = True

    def read(self, n_bytes: int) -> bytearray:
        """Return `n_bytes` from the peer, fewer when it closed; OSError when it is too slow or too large."""
        if n_bytes > _LONGEST_PDU_BYTES:
            raise OSError("the announced PDU is longer than any we agreed to")
        message = self._connection.assoc.dimse.message
        if message is not None and message.data_set.tell() > self._max_message_bytes:
            raise OSError("the data set is larger than the limit")
        connection = self._connection.socket
        if connection is None:
            raise OSError("the connection is closed")
        deadline = time.monotonic() + self.timeout_s
        data = bytearray(n_bytes)
        received = 0
        with memoryview(data) as view:
            while received < n_bytes:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                count = connection.recv_into(view[received : received + _PIECE_BYTES])
                if not count:
                    break
                received += count
        connection.settimeout(self.timeout_s)
        del data[received:]
        if self._is_first:
            self._is_first, self.began_with_tls = False, data.startswith(_TLS_RECORD)
        return data
