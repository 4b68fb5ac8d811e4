"""Settings and peers for the doctor's tests."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_node.operate.doctor.findings import CHECKS, US, Finding, Mark
from dicom_node.settings import Peer, Role, Settings

TIMEOUT_S = 5.0


def settings_with(data_dir: Path, *peers: Peer, **sections: object) -> Settings:
    values: dict[str, object] = {"node": {"data_dir": data_dir}, "peers": peers, **sections}
    return Settings.model_validate(values)


def peer_at(port: int | None, *, host: str = "127.0.0.1", title: str = "PACS", roles: Sequence[str] = ()) -> Peer:
    chosen = tuple(Role(role) for role in roles) or (Role.DESTINATION,)
    return Peer(name="pacs", ae_titles=(title,), host=host, port=port, roles=chosen)


@contextlib.contextmanager
def scp(*sop_classes: str, title: str = "PACS", verification: bool = True, **options: object) -> Iterator[int]:
    """A pynetdicom acceptor of some classes on a free port; `options` are attributes of its AE or event handlers."""
    entity = AE(title)
    for sop_class in (Verification, *sop_classes) if verification else sop_classes:
        entity.add_supported_context(sop_class)
    handlers = options.pop("handlers", [])
    for name, value in options.items():
        setattr(entity, name, value)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        for assoc in server.active_associations:
            assoc.abort()


@contextlib.contextmanager
def no_dicom(script: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that does what a script says with every connection, one after the other."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                script(connection)
                while connection.recv(4096):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose queue of connections is full: the kernel drops every further request, as a firewall does."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(("127.0.0.1", port))
        yield port


def one(findings: Iterable[Finding], check: str) -> Finding:
    """The only finding of a check."""
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, (check, found)
    return found[0]


def marks(findings: Iterable[Finding]) -> dict[str, str]:
    """Mark of every check."""
    return {finding.check: finding.mark.value for finding in findings}


def sound(findings: Iterable[Finding]) -> None:
    """Every finding is of a known check, and who has to do what is said whenever something is not as it should be."""
    for finding in findings:
        assert finding.check in CHECKS
        assert finding.seen
        if finding.mark is Mark.PASS:
            assert not finding.who
            assert not finding.remedy
        else:
            assert finding.remedy
            assert finding.who in (US, "network", "us or who called") or "administrator of" in finding.who
