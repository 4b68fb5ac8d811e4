"""A STOW-RS service in the test's hand (PS3.18 section 10.5): keeps what it gets, answers as it is told to."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dicom_node.net.part10 import read_head

#: HTTP status, headers and body.
Answer = tuple[int, dict[str, str], bytes]


def item(uid: str, **reasons: int) -> dict[str, Any]:
    """An item of a response sequence; `failure` or `warning` is its reason."""
    entry: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    for name, tag in (("failure", "00081197"), ("warning", "00081196")):
        if name in reasons:
            entry[tag] = {"vr": "US", "Value": [reasons[name]]}
    return entry


def answer_json(stored: list[dict[str, Any]] = (), failed: list[dict[str, Any]] = (), status: int = 200) -> Answer:  # type: ignore[assignment]
    """An answer as DICOM JSON."""
    document: dict[str, Any] = {"00081190": {"vr": "UR", "Value": ["http://example/studies/1"]}}
    if stored:
        document["00081199"] = {"vr": "SQ", "Value": list(stored)}
    if failed:
        document["00081198"] = {"vr": "SQ", "Value": list(failed)}
    return status, {"Content-Type": "application/dicom+json"}, json.dumps(document).encode()


def well(uid: str, number: int) -> Answer:
    """Stored."""
    return answer_json([item(uid)])


@dataclass
class WebService:
    """What arrived, and how it answers.

    Attributes
    ----------
    answer : callable
        From the SOP Instance UID and the number of the request (from 1) to the answer.
    arrived : list of (str, bytes)
        SOP Instance UID and bytes of every instance.
    requests : list of (str, dict)
        Path and headers of every request.
    """

    answer: Callable[[str, int], Answer] = well
    arrived: list[tuple[str, bytes]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    @contextmanager
    def listening(self, tls: ssl.SSLContext | None = None) -> Iterator[WebService]:
        """Serve on a free loopback port while the block lasts."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def setup(self) -> None:
                super().setup()
                service.connections += 1

            def do_POST(self) -> None:
                status, headers, body = service.take(self)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass

        server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://localhost:{server.server_address[1]}/dicom-web"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def take(self, request: BaseHTTPRequestHandler) -> Answer:
        """Take one request apart."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.path, headers))
        body = request.rfile.read(int(headers["content-length"]))
        boundary = headers["content-type"].partition("boundary=")[2].encode()
        before, part, after = body.split(b"--" + boundary)
        assert (before, after) == (b"", b"--\r\n")
        head, _, data = part.removeprefix(b"\r\n").removesuffix(b"\r\n").partition(b"\r\n\r\n")
        assert head == b"Content-Type: application/dicom"
        uid = read_head(data).sop_instance_uid
        self.arrived.append((uid, data))
        return self.answer(uid, len(self.requests))
