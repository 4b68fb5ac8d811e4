"""The poke: a datagram by which the receiver wakes the service. Standard library only.

Losing one costs a second at most, because the service also looks into the spool by itself.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from dicom_node.ledger.durable import FILE_MODE


@contextlib.contextmanager
def _short_address(path: Path) -> Iterator[str]:
    """Yield an address of the socket within the kernel's 107 bytes, however deep its folder is."""
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def poke(service_socket: Path) -> None:
    """Tell the service that something arrived; never blocks and never fails."""
    try:
        with (
            _short_address(service_socket) as address,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(b"poke", address)
    except OSError:
        return


def bind_poke_socket(service_socket: Path) -> socket.socket:
    """Open the service's end of the poke socket, replacing what a killed service left.

    Call it only while holding the service lock, so that no living service loses its socket.
    """
    service_socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        with _short_address(service_socket) as address:
            listener.bind(address)
    except OSError:
        listener.close()
        raise
    service_socket.chmod(FILE_MODE)
    return listener
