"""A small web server on the loopback interface: OHIF's files, its settings, and Orthanc's DICOMweb on the same host.

A browser lets a page talk to the host it came from; Orthanc sends no CORS headers. So everything under `/dicom-web` is
passed on to Orthanc and everything else is a file of the viewer.
"""

from __future__ import annotations

import http.client
import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

CONFIG_PATH: Final = "/app-config.js"
DICOMWEB_PATH: Final = "/dicom-web"
_TIMEOUT_S: Final = 60.0
#: Headers that describe one hop and not the content (RFC 9110, 7.6.1), and those the server writes itself.
_NOT_PASSED_ON: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})


@dataclass(frozen=True, slots=True)
class ViewerSite:
    """What the server offers.

    Attributes
    ----------
    dist : pathlib.Path
        Folder of the built viewer, with its `index.html`.
    config : pathlib.Path
        File served instead of the viewer's own `app-config.js`.
    orthanc_port : int
        HTTP port of Orthanc on the loopback interface.
    """

    dist: Path
    config: Path
    orthanc_port: int

    def file_of(self, path: str) -> Path | None:
        """File behind the path of a request, or None; a path of the viewer's own router is its `index.html`."""
        if path == CONFIG_PATH:
            return self.config
        root = self.dist.resolve()
        found = (root / unquote(path).lstrip("/")).resolve()
        if not found.is_relative_to(root):
            return None
        if found.is_file():
            return found
        return None if found.suffix else root / "index.html"


class _Handler(BaseHTTPRequestHandler):
    """One request; the site hangs on the server."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == DICOMWEB_PATH or path.startswith(DICOMWEB_PATH + "/"):
            self._pass_on()
            return
        file = self.server.site.file_of(path)
        if file is None:
            self._answer(HTTPStatus.NOT_FOUND, {"Content-Type": "text/plain"}, b"not found\n")
            return
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._answer(HTTPStatus.OK, {"Content-Type": kind, "Cache-Control": "no-store"}, file.read_bytes())

    def _pass_on(self) -> None:
        # Orthanc builds the addresses in its answers from Host, so the browser's own stays.
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.site.orthanc_port, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", self.path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            self._answer(HTTPStatus.BAD_GATEWAY, {"Content-Type": "text/plain"}, b"Orthanc does not answer\n")
            return
        finally:
            connection.close()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in _NOT_PASSED_ON}
        self._answer(answer.status, kept, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        """Say nothing: the paths hold UIDs, and the pictures are what counts."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, site: ViewerSite) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.site = site

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a browser that hung up."""


@contextmanager
def serving(site: ViewerSite) -> Iterator[str]:
    """Serve a site on a free loopback port for as long as the block runs, and yield its address."""
    server = _Server(site)
    thread = threading.Thread(target=server.serve_forever, name="viewer-site", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
