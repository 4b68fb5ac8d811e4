"""Library messages lose every value before they reach the log.

Covers pydicom's and pynetdicom's loggers and warnings, in a process of its own, because the reduction is for a whole
process. What the receiver logs in operation is looked at in `test_receive_process`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dicom_node.net.quiet import reduced

ROOT = Path(__file__).resolve().parents[3]

SCRIPT = """
import logging, sys, warnings
from io import BytesIO
from dicom_node.net.quiet import quiet_libraries
logging.basicConfig(stream=sys.stderr, level=logging.DEBUG)
quiet_libraries()
from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import C_STORE
ds = Dataset()
ds.PatientBirthDate = "GEHEIM"
ds.PatientID = "SECRET-4711" * 9
try:
    C_STORE().AffectedSOPInstanceUID = "SECRET-4711" * 9
except ValueError:
    logging.getLogger("pynetdicom.dul").exception("SECRET-4711")
logging.getLogger("pydicom").warning("Invalid value for VR DA: 'GEHEIM'")
"""


def test_no_value_survives_in_any_message() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "SECRET" not in done.stderr
    assert "GEHEIM" not in done.stderr
    assert "VR DA" in done.stderr
    assert "VR LO" in done.stderr
    assert "ValueError in pynetdicom.dul" in done.stderr
    assert "warning in pydicom" in done.stderr


def test_tags_and_vrs_are_kept() -> None:
    assert reduced("'X^Y' has a bad VR of 'PN' at (0010, 0010) and (0010,0010)") == "(0010,0010) VR PN"
    assert reduced("X^Y") == ""
