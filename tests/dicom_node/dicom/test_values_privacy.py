"""A poisoned header: no value of it may reach a log record, a warning, an exception text, a reason or a repr.

The poison stands in every text attribute of the header, in numbers and in the character set. The libraries are driven
at debug level in a process of their own, since the set-up under test belongs to a whole process. Left out: logs of
network code, which its own tests search after a full run.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from dicom_node.dicom.choice import choose_series
from dicom_node.dicom.gate import check_stack
from dicom_node.dicom.pixels import read_hu
from dicom_node.dicom.reading import quiet_pydicom, reduce_message
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings
from dicom_node.dicom.values import read_header
from dicom_node.errors import NodeError
from tests.dicom_node.dicom.builders import ct_dataset, set_dirty, write

POISON = "POISON^PATIENT"

KEYWORDS = (
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "StudyDate",
    "ContentDate",
    "ContentTime",
    "Modality",
    "ImageType",
    "SeriesNumber",
    "InstanceNumber",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "PatientPosition",
    "FrameOfReferenceUID",
    "RescaleSlope",
    "RescaleIntercept",
    "PhotometricInterpretation",
    "Rows",
    "BitsStored",
    "PixelPaddingValue",
)

SCRIPT = """
import logging, sys, warnings
from pathlib import Path
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
warnings.simplefilter("always")
from dicom_node.dicom.reading import install_pydicom_privacy
install_pydicom_privacy()
install_pydicom_privacy()
import pydicom
pydicom.config.debug(True, default_handler=False)
dataset = pydicom.dcmread(Path(sys.argv[1]))
for element in dataset.keys():
    try:
        str(dataset[element])
    except Exception as error:
        logging.getLogger("pydicom").exception("while reading %s: %s", dataset.get_item(element), error)
logging.getLogger("pynetdicom.events").error("Exception raised in user's handler: %s", sys.argv[2])
logging.getLogger("pynetdicom.dimse").debug(sys.argv[2])
logging.getLogger("highdicom.base").warning(sys.argv[2])
warnings.warn(f"The value length (70) of {sys.argv[2]} exceeds the maximum length of 64 allowed for VR LO")
"""


def _poisoned(folder: Path) -> list[Path]:
    paths = []
    for index, keyword in enumerate(KEYWORDS):
        dataset = ct_dataset(index, position=(0, 0, 5 * index))
        set_dirty(dataset, keyword, POISON)
        paths.append(write(dataset, folder / f"{index:03d}.dcm"))
    return paths


def test_our_own_texts_hold_no_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[object] = []
    headers = []
    for path in _poisoned(tmp_path):
        header = read_header(path)
        headers.append(header)
        said += [header, header.issues]
        try:
            read_hu(path)
        except NodeError as error:
            said += [error, error.reason, error.figures, error.__cause__, error.__context__ is None]
    thresholds = GeometrySettings(min_slices=1, min_coverage_mm=0)
    for stack in ([header] for header in headers):
        said.append(_without_headers(check_stack(stack, thresholds, pixel_digest=lambda header: "")))
    said.append(_without_headers(check_stack(headers, thresholds, pixel_digest=lambda header: "")))
    said.append(choose_series({"1.2": headers}, SelectionSettings(min_slices=1)))
    said += [choose_series({"1.2": [header]}, SelectionSettings(min_slices=1)) for header in headers]
    assert "POISON" not in repr(said).upper()
    assert "POISON" not in caplog.text.upper()


def _without_headers(outcome: object) -> tuple[object, ...]:
    return tuple(getattr(outcome, name) for name in ("code", "reason", "notes", "repairs", "figures"))


def test_the_poison_is_there_and_pydicom_alone_would_tell_it(tmp_path: Path) -> None:
    # Without this the other tests of this module could pass on clean files.
    import pydicom

    for path in (paths := _poisoned(tmp_path)):
        assert POISON.encode() in path.read_bytes()
    with pytest.warns(UserWarning, match="POISON"):
        str(pydicom.dcmread(paths[KEYWORDS.index("SpecificCharacterSet")]).PatientName)


@pytest.mark.parametrize("keyword", ["SpecificCharacterSet", "PatientBirthDate", "ImagePositionPatient", "Rows"])
def test_libraries_at_debug_level_tell_rules_only(tmp_path: Path, keyword: str) -> None:
    path = _poisoned(tmp_path)[KEYWORDS.index(keyword)]
    arguments = [sys.executable, "-c", SCRIPT, str(path), POISON]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=root, check=True)
    output = done.stdout + done.stderr
    assert "POISON" not in output.upper()
    assert "pynetdicom.events:exception in an event handler" in output
    assert "highdicom.base:text withheld" in output
    assert "UserWarning: VR LO: value too long" in output
    # Debug records of pynetdicom dump whole data sets, so they are switched off rather than reduced.
    assert "pynetdicom.dimse" not in output


@pytest.mark.parametrize(
    ("text", "reduced"),
    [
        ("Invalid value for VR UI: 'POISON'.", "VR UI: value not allowed by its VR"),
        ("(0010,0010) POISON: end of file", "PatientName: end of file reached too early"),
        ("POISON", "text withheld"),
    ],
)
def test_reduce_message(text: str, reduced: str) -> None:
    assert reduce_message(text) == reduced


def test_quiet_pydicom_collects_each_rule_once() -> None:
    with quiet_pydicom() as told:
        warnings.warn("Invalid value for VR DA: 'POISON'", UserWarning, stacklevel=1)
        warnings.warn("Invalid value for VR DA: 'POISON 2'", UserWarning, stacklevel=1)
    assert told == ["VR DA: value not allowed by its VR"]
