"""Where audit events go: a file that is rotated, or syslog (RFC 5424) over UDP, TCP or a local socket.

A sink may block and may raise `OSError`; only the thread of `dicom_node.operate.audit` uses it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from dicom_node.ledger.durable import FILE_MODE, FOLDER_MODE, fsync_folder, write_all
from dicom_node.settings import AuditTo, Settings

#: Facility 10 (security), severity 5 (notice): RFC 5424 section 6.2.1.
_PRIORITY: Final = 10 * 8 + 5
#: Names the payload (PS3.15 section A.6).
_MESSAGE_ID: Final = "DICOM+RFC3881"
_APPLICATION: Final = "jmmda-node"
_CONNECT_S: Final = 5.0
_SEND_S: Final = 5.0


class Sink(Protocol):
    """Takes events, one after the other."""

    def send(self, at: str, xml: bytes) -> None:
        """Deliver one event; raises OSError when the target does not take it."""

    def close(self) -> None:
        """Give back what is open."""


def make_sink(settings: Settings, host: str, process_id: int) -> Sink | None:
    """Return the sink that the settings ask for, None for none."""
    audit = settings.audit
    match audit.to:
        case AuditTo.NONE:
            return None
        case AuditTo.FILE:
            return FileSink(settings.audit_file, audit.file_max_mib * 1024**2, audit.file_keep)
        case AuditTo.UDP:
            connect, framed = (lambda: _datagram((audit.host, audit.port))), False
        case AuditTo.TCP:
            connect, framed = (lambda: socket.create_connection((audit.host, audit.port), _CONNECT_S)), True
        case AuditTo.UNIX:
            connect, framed = (lambda: _local(audit.socket)), False
    return SyslogSink(connect, host, process_id, framed=framed)


class FileSink:
    """A file with one event a line; a full one gets the number 1, older ones move up, the oldest goes.

    Parameters
    ----------
    path : Path
        The file; its folder is made.
    max_bytes : int
        Size at which the next one is begun.
    keep : int
        How many full ones are kept.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor = -1

    def send(self, at: str, xml: bytes) -> None:
        """Append one line and wait until it is on disk."""
        if self._descriptor < 0:
            self._path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, FILE_MODE)
            fsync_folder(self._path.parent)
        try:
            write_all(self._descriptor, xml + b"\n")
            os.fsync(self._descriptor)
            full = os.fstat(self._descriptor).st_size >= self._max_bytes
        except OSError:
            self.close()
            raise
        if full:
            self._rotate()

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep, 0, -1):
            older = self._numbered(number)
            newer = self._numbered(number - 1) if number > 1 else self._path
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class SyslogSink:
    """A syslog server.

    Parameters
    ----------
    connect : callable
        Opens a connected socket.
    host : str
        Our own name in the messages.
    process_id : int
        In the messages.
    framed : bool
        Put the length before each message (RFC 6587 section 3.4.1), as a stream needs it.
    """

    def __init__(self, connect: Callable[[], socket.socket], host: str, process_id: int, *, framed: bool) -> None:
        self._connect = connect
        self._head = f"{host[:255]} {_APPLICATION} {process_id} {_MESSAGE_ID} -"
        self._framed = framed
        self._socket: socket.socket | None = None

    def send(self, at: str, xml: bytes) -> None:
        """Send one message; the connection is made anew when it broke."""
        message = f"<{_PRIORITY}>1 {at} {self._head} ".encode() + b"\xef\xbb\xbf" + xml
        if self._framed:
            message = f"{len(message)} ".encode() + message
        if self._socket is not None and self._framed and _hung_up(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._connect()
            self._socket.settimeout(_SEND_S)
        try:
            self._socket.sendall(message)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _hung_up(connection: socket.socket) -> bool:
    """Whether a syslog server, which never says anything, has closed: the next message would be lost unnoticed."""
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(_SEND_S)


def _datagram(address: tuple[str, int]) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
    return _connected(socket.socket(family, kind, protocol), where)


def _local(path: Path) -> socket.socket:
    return _connected(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), str(path))


def _connected(made: socket.socket, where: str | tuple[object, ...]) -> socket.socket:
    try:
        made.settimeout(_CONNECT_S)
        made.connect(where)
    except OSError:
        made.close()
        raise
    return made
