"""Foreign peers: present, or the tests skip; where `JMMDA_REQUIRE_PEERS=1` their absence is a failure."""

from __future__ import annotations

import os
import shutil

import pytest

NEEDED = ("Orthanc", "storescu", "echoscu", "dciodvfy")


@pytest.fixture(autouse=True, scope="session")
def _peers_present() -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None and not os.path.exists(f"/usr/sbin/{name}")]
    if not missing:
        return
    message = f"{', '.join(missing)} not found (Debian: apt-get install orthanc dcmtk dicom3tools)"
    if os.environ.get("JMMDA_REQUIRE_PEERS") == "1":
        pytest.fail(message)
    pytest.skip(message)
