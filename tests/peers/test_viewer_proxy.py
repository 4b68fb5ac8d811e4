"""OHIF's queries through the server of the pictures to a real Orthanc: QIDO-RS, metadata, frames.

Left out: the browser (`make screenshots`).
"""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import pytest
from pydicom import dcmread

from benchmarks.viewer.archive import DICOMWEB_PLUGIN, running_archive
from benchmarks.viewer.packages import HERE
from benchmarks.viewer.serving import ViewerSite, serving
from train.data.phantom import generate_case
from train.data.phantom_dicom import write_ct_series

pytestmark = pytest.mark.peers


@pytest.fixture(autouse=True)
def _plugin_present() -> None:
    if DICOMWEB_PLUGIN.exists():
        return
    message = f"{DICOMWEB_PLUGIN} not found (Debian: apt-get install orthanc-dicomweb)"
    if os.environ.get("JMMDA_REQUIRE_PEERS") == "1":
        pytest.fail(message)
    pytest.skip(message)


def test_a_stored_series_is_found_and_read_through_the_viewers_host(tmp_path: Path) -> None:
    paths = write_ct_series(generate_case(5, "A", matrix=64, n_slices=12), tmp_path / "ct")
    first = dcmread(paths[0])
    (tmp_path / "index.html").write_text("viewer")
    with running_archive(tmp_path / "orthanc") as archive:
        archive.store(paths)
        with serving(ViewerSite(tmp_path, HERE / "app-config.js", archive.http_port)) as base:
            root = f"{base}/dicom-web/studies/{first.StudyInstanceUID}/series"

            def get(address: str, accept: str = "application/dicom+json") -> tuple[str, bytes]:
                request = urllib.request.Request(address, headers={"Accept": accept})
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return answer.headers["Content-Type"], answer.read()

            (series,) = json.loads(get(root)[1])
            assert series["0020000E"]["Value"] == [first.SeriesInstanceUID]
            metadata = json.loads(get(f"{root}/{first.SeriesInstanceUID}/metadata")[1])
            assert len(metadata) == len(paths)
            # Addresses in the answers lead back to the viewer's host, not to Orthanc's own port.
            assert base.removeprefix("http://") in json.dumps(series)
            assert f":{archive.http_port}/" not in json.dumps([series, *metadata])
            kind, frame = get(
                f"{root}/{first.SeriesInstanceUID}/instances/{first.SOPInstanceUID}/frames/1",
                "multipart/related; type=application/octet-stream; transfer-syntax=*",
            )
            assert kind.startswith("multipart/related")
            assert first.PixelData in frame
