"""An Orthanc with DICOMweb for one occasion: its own folder, free loopback ports, filled by C-STORE."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from dicom_node.demo.throwaway import child_process, free_port
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession
from dicom_node.net.status import StoreCategory

#: Where Debian's package orthanc-dicomweb puts the plugin.
DICOMWEB_PLUGIN: Final = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_CALLING_AE: Final = "VIEWERDEMO"
_START_TIMEOUT_S: Final = 60.0


def orthanc_program() -> str | None:
    """Path of Orthanc, or None; Debian puts it where only root looks."""
    return shutil.which("Orthanc", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


class Archive:
    """A running Orthanc."""

    def __init__(self, http_port: int, dicom_port: int) -> None:
        self.http_port = http_port
        self.remote = Remote("orthanc", "ORTHANC", "127.0.0.1", dicom_port)

    def read(self, path: str, media_type: str) -> bytes:
        """Return a resource in one representation."""
        address = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(
            urllib.request.Request(address, headers={"Accept": media_type}), timeout=30
        ) as answer:
            body: bytes = answer.read()
        return body

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return a JSON resource."""
        return json.loads(self.read(path, "application/json"))

    def store(self, paths: Sequence[Path]) -> None:
        """Send files by C-STORE, as the node does."""
        instances = [EncodedInstance.read(path) for path in paths]
        with StoreSession(self.remote, _CALLING_AE, {one.need for one in instances}) as session:
            for one in instances:
                result = session.send_encoded(one)
                if result.category is not StoreCategory.SUCCESS:
                    raise SystemExit(f"Orthanc did not take an image: {result.comment}")


@contextmanager
def running_archive(folder: Path) -> Iterator[Archive]:
    """Run Orthanc with its DICOMweb plugin, everything it writes below `folder`."""
    program = orthanc_program()
    if program is None or not DICOMWEB_PLUGIN.exists():
        raise SystemExit("Orthanc or its DICOMweb plugin is not installed (Debian: apt-get install orthanc-dicomweb)")
    folder.mkdir(parents=True, exist_ok=True)
    archive = Archive(free_port(), free_port())
    config = {
        "Name": "jmmda-node viewer pictures",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": archive.remote.called_ae_title,
        "DicomPort": archive.remote.port,
        "HttpPort": archive.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(DICOMWEB_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config))
    log = folder / "orthanc.log"
    with child_process([program, str(path)], log) as child:
        end = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                archive.get("/dicom-web/studies")
                break
            except (urllib.error.URLError, ConnectionError):
                if child.poll() is not None or time.monotonic() > end:
                    raise SystemExit("Orthanc did not start:\n" + log.read_text(errors="replace")[-2000:]) from None
                time.sleep(0.2)
        yield archive
