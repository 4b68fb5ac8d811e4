"""A real Orthanc, started on free ports in a folder of its own, and the few REST calls that the tests need."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 40.0

#: Routes every CT series to the node once it has been quiet for StableAge. Orthanc 1.10 cannot use SendToModality with
#: a series from this callback, hence the REST call.
ROUTE_CT_SERIES = """
function OnStableSeries(seriesId, tags, metadata)
   if tags['Modality'] == 'CT' then
      RestApiPost('/modalities/jmmda/store', seriesId)
   end
end
"""


class Orthanc:
    """Handle of a running Orthanc."""

    def __init__(self, http_port: int, dicom_port: int) -> None:
        self.http_port = http_port
        self.dicom_port = dicom_port

    def request(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        """Send one REST request and return the body."""
        call = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=data, method=method)
        with urllib.request.urlopen(call, timeout=30) as answer:
            body: bytes = answer.read()
        return body

    def get(self, path: str) -> Any:
        """Return a JSON resource."""
        return json.loads(self.request(path))

    def upload(self, folder: Path) -> int:
        """Import every file of a folder through REST and return how many."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            self.request("/instances", path.read_bytes(), "POST")
        return len(files)

    def series_of_modality(self, modality: str) -> list[str]:
        """Orthanc identifiers of all series of one modality."""
        found = self.request(
            "/tools/find", json.dumps({"Level": "Series", "Query": {"Modality": modality}}).encode(), "POST"
        )
        return list(json.loads(found))

    def files_of_series(self, series: str) -> list[bytes]:
        """Every instance of a series as the bytes of its Part-10 file."""
        instances = self.get(f"/series/{series}")["Instances"]
        return [self.request(f"/instances/{instance}/file") for instance in instances]

    def wait_for(self, what: str, condition: Callable[[Orthanc], Any], timeout_s: float = 90.0) -> Any:
        """Wait until a condition is true and return its value."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            value = condition(self)
            if value:
                return value
            time.sleep(0.5)
        raise AssertionError(f"Orthanc never showed: {what} (waited {timeout_s:.0f} s)")


@contextmanager
def running_orthanc(
    folder: Path,
    *,
    http_port: int,
    dicom_port: int,
    node_port: int,
    lua: str = "",
    node_ae: str = "JMMDA_NODE",
    changes: Mapping[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """Run Orthanc as AE title ORTHANC with the node as modality `jmmda`; `changes` replace keys of its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "route.lua"
    script.write_text(lua)
    config = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"jmmda": [node_ae, "127.0.0.1", node_port]},
        "StableAge": 2,
        "LuaScripts": [str(script)] if lua else [],
        "Plugins": [],
        "ConcurrentJobs": 2,
        **(changes or {}),
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(path)], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        orthanc = Orthanc(http_port, dicom_port)
        _wait_started(orthanc, process, folder)
        yield orthanc
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_started(orthanc: Orthanc, process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        try:
            orthanc.get("/system")
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                break
            time.sleep(0.2)
        else:
            return
    raise AssertionError("Orthanc did not start:\n" + (folder / "orthanc.log").read_text(errors="replace")[-2000:])
