"""The two kinds of object side by side: what the Secondary Capture option shares with the MR object, and what not.

Covers the attributes of Secondary Capture, PatientOrientation, repeatability across processes, clocks, time zones and
hash seeds, slices without brain, and dirty headers with their warnings, each for both kinds. Left out: the attribute
table of the MR object (`test_derive_series.py`), the label check (`test_label_marks.py`), foreign validators
(`tests/peers/test_object_conformance.py`).
"""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from highdicom.spatial import get_closest_patient_orientation
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from scipy.spatial.transform import Rotation

from dicom_node.derive.sc_image import patient_orientation
from dicom_node.derive.writer import derive_series
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.dicom.reading import open_dataset
from dicom_node.dicom.values import InstanceKind, read_header
from dicom_node.dicom.watermark import plan_watermark
from tests.dicom_node.derive.derive_cases import PLANE, raw_value, request_for, save, write_ct_series
from tests.dicom_node.derive.derive_cases import ct_dataset as made_up_slice

KINDS = ("mr", "sc")
#: Every attribute in which the two may differ; whatever else is written is equal to the byte.
ONLY_MR = {
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType"),
    *("RepetitionTime", "EchoTime", "EchoTrainLength"),
}
ONLY_SC = {
    *("ConversionType", "PatientOrientation", "RescaleIntercept", "RescaleSlope", "RescaleType"),
    *("DateOfSecondaryCapture", "TimeOfSecondaryCapture", "SecondaryCaptureDeviceManufacturer"),
    *("SecondaryCaptureDeviceManufacturerModelName", "SecondaryCaptureDeviceSoftwareVersions"),
}
DIFFERENT = {"SOPClassUID", "Modality", "SOPInstanceUID", "SeriesInstanceUID"}


def _of_kind(kind, paths, out, **changes):
    return derive_series(request_for(paths, output=OutputSettings(object=kind), **changes), out)


def test_the_kinds_share_every_other_element_to_the_byte(derived, derived_sc):
    for mr, sc in zip(derived.instances, derived_sc.instances, strict=True):
        first, second = dcmread(mr.path), dcmread(sc.path)
        of_mr, of_sc = ({element.keyword or str(element.tag) for element in ds} for ds in (first, second))
        assert of_mr - of_sc == ONLY_MR
        assert of_sc - of_mr == ONLY_SC
        differing = {
            element.keyword for element in first if element.keyword in of_sc and element != second[element.tag]
        }
        assert differing == DIFFERENT
        for keyword in (*PLANE, "PixelData", "FrameOfReferenceUID", "PatientName", "StudyInstanceUID"):
            assert raw_value_with_pixels(mr.path, keyword) == raw_value_with_pixels(sc.path, keyword) != b""


def raw_value_with_pixels(path: Path, keyword: str) -> bytes:
    return bytes(open_dataset(path, pixels=True).get_item(keyword).value or b"")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"),
        ("Modality", "OT"),
        ("ConversionType", "SYN"),
        ("PatientOrientation", ["L", "P"]),
        ("DateOfSecondaryCapture", "20260304"),
        ("TimeOfSecondaryCapture", "050607.000089"),
        ("SecondaryCaptureDeviceManufacturer", "jmmda-node project"),
        ("RescaleIntercept", 0),
        ("RescaleSlope", 1),
        ("RescaleType", "US"),
        ("BitsAllocated", 16),
        ("BitsStored", 12),
        ("HighBit", 11),
        ("SyntheticData", "YES"),
        ("SeriesDescription", "SYNTHETIC DWI from CT (AI) - NOT MR - RESEARCH - PHANTOM-TRAINED"),
        ("StudyDescription", "Head"),
        ("BodyPartExamined", "HEAD"),
    ],
)
def test_secondary_capture_has_its_value_in_every_image(derived_sc, keyword, value):
    for instance in derived_sc.instances:
        ds = dcmread(instance.path)
        assert ds[keyword].value == value
        assert instance.sop_class_uid == ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID


def test_the_kinds_are_two_series(derived, derived_sc):
    assert derived.series_instance_uid != derived_sc.series_instance_uid
    uids = {instance.sop_instance_uid for made in (derived, derived_sc) for instance in made.instances}
    assert len(uids) == 2 * len(derived.instances)
    assert derived.input_digest == derived_sc.input_digest


def test_a_secondary_capture_of_ours_is_known_when_it_comes_back(derived_sc):
    header = read_header(derived_sc.instances[0].path)
    assert header.synthetic
    assert header.kind is not InstanceKind.IMAGE


@pytest.mark.parametrize(
    ("row", "column", "letters"),
    [
        ((1, 0, 0), (0, 1, 0), ("L", "P")),
        ((-1, 0, 0), (0, -1, 0), ("R", "A")),
        ((0, 1, 0), (0, 0, -1), ("P", "F")),
        ((1, 0, 0), (0, 0.95, -0.31), ("L", "P")),
        ((0, 0, 1), (-1, 0, 0), ("H", "R")),
    ],
)
def test_patient_orientation_names_the_nearest_axis(row, column, letters):
    assert patient_orientation(np.array([row, column], float)) == letters


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.floats(-180, 180))
def test_patient_orientation_agrees_with_highdicom(axis, degrees):
    if np.linalg.norm(axis) < 0.1:
        return
    turned = Rotation.from_rotvec(np.array(axis) / np.linalg.norm(axis) * degrees, degrees=True).as_matrix()
    letters = patient_orientation(turned[:, [2, 1]].T)
    assert sum(bool(set(pair) & set(letters)) for pair in ("LR", "PA", "HF")) == 2, "two different axes"
    if np.abs(turned).max(axis=0).min() < 0.75:
        return  # so oblique that two axes are about equally near
    affine = np.eye(4)
    affine[:3, :3] = turned  # slices, rows, columns
    wanted = get_closest_patient_orientation(affine)
    assert letters == (wanted[2].value, wanted[1].value)


# --- to the byte -------------------------------------------------------------------------------------------------

_SCRIPT = """
import sys
from pathlib import Path
from tests.dicom_node.derive.derive_cases import request_for
from dicom_node.derive.writer import derive_series
from dicom_node.dicom.output_rules import OutputSettings
paths = tuple(sorted(Path(sys.argv[1]).iterdir()))
output = OutputSettings(object=sys.argv[3], time_zone="Europe/Berlin")
for instance in derive_series(request_for(paths, output=output), Path(sys.argv[2])).instances:
    sys.stdout.write(instance.path.name + " " + instance.sha256 + "\\n")
"""


@pytest.mark.parametrize("kind", KINDS)
def test_processes_in_other_places_write_identical_bytes(ct_paths, tmp_path, kind):
    """Another hash seed, time zone, locale, folder of the CT and name of its files, and another moment."""
    root = Path(__file__).parents[3]
    listings = []
    for seed, zone, language in (("1", "Asia/Tokyo", "C"), ("77", "America/New_York", "C.UTF-8")):
        ct, out = tmp_path / f"ct-{seed}", tmp_path / f"out-{seed}"
        ct.mkdir()
        out.mkdir()
        for index, path in enumerate(ct_paths):
            (ct / f"{seed}-{index}").write_bytes(path.read_bytes())
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root), "TZ": zone, "LC_ALL": language}
        command = [sys.executable, "-c", _SCRIPT, str(ct), str(out), kind]
        done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, timeout=60, check=True)
        listings.append(done.stdout)
    assert listings[0] == listings[1]
    assert len(listings[0].splitlines()) == len(ct_paths)


# --- pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_without_brain_is_black_but_for_the_watermark(ct_paths, out_folder, kind):
    plain = request_for(ct_paths)
    mask = plain.mask.copy()
    mask[[0, 3]] = False
    pixels = np.where(mask, plain.pixels, 0).astype(np.uint16)
    made = _of_kind(kind, ct_paths, out_folder, pixels=pixels, mask=mask)
    mark = plan_watermark(made.label_facts.watermark_lines, mask)
    rows, columns = mark.window(pixels.shape[1:])
    for index, instance in enumerate(made.instances):
        stored = dcmread(instance.path).pixel_array
        np.testing.assert_array_equal(stored[rows, columns], mark.plate)
        stored[rows, columns] = 0
        assert (stored.max() == 0) == (index in (0, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_about_the_scale_differs_between_slices(derived, derived_sc, kind):
    """A slice with a bright lesion and one with none are shown by one window: no flicker when scrolling."""
    made = derived if kind == "mr" else derived_sc
    keywords = ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PresentationLUTShape", "BitsStored")
    images = [dcmread(instance.path) for instance in made.instances]
    scales = {tuple(str(ds.get(keyword)) for keyword in keywords) for ds in images}
    assert len({ds.RealWorldValueMappingSequence[0].RealWorldValueSlope for ds in images}) == 1
    assert len(scales) == 1
    assert {dcmread(instance.path).pixel_array.max() for instance in made.instances} == {4095}


# --- dirty headers -----------------------------------------------------------------------------------------------

#: Attribute, VR, bytes in the CT, and what the warning says of them. The sixteen of the specification and others.
DIRTY = {
    "sex_unknown": ("PatientSex", "CS", b"U", "PatientSex: not one of its enumerated values"),
    "sex_lower_case": ("PatientSex", "CS", b"m", "PatientSex: not a legal CS"),
    "time_with_colons": ("StudyTime", "TM", b"10:11:12", "StudyTime: not a legal TM"),
    "time_out_of_day": ("StudyTime", "TM", b"256100", "StudyTime: not a legal TM"),
    "impossible_birth_date": ("PatientBirthDate", "DA", b"19500230", "PatientBirthDate: not a legal DA"),
    "date_with_dots": ("StudyDate", "DA", b"2026.01.02", "StudyDate: not a legal DA"),
    "words_for_a_date": ("StudyDate", "DA", b"yesterday", "StudyDate: not a legal DA"),
    "long_accession_number": ("AccessionNumber", "SH", b"A" * 40, "AccessionNumber: longer than SH may be"),
    "long_patient_id": ("PatientID", "LO", b"I" * 80, "PatientID: longer than LO may be"),
    "long_name": ("PatientName", "PN", b"N" * 70 + b"^X", "PatientName: longer than PN may be"),
    "several_patient_ids": ("PatientID", "LO", b"one\\two", "PatientID: several values where one is allowed"),
    "study_uid_leading_zero": ("StudyInstanceUID", "UI", b"1.2.03.4", "StudyInstanceUID: not a legal UI"),
    "frame_uid_leading_zero": ("FrameOfReferenceUID", "UI", b"1.2.00.7", "FrameOfReferenceUID: not a legal UI"),
    "weight_in_words": ("PatientWeight", "DS", b"about 60", "PatientWeight: not a legal DS"),
    "weight_with_comma": ("PatientWeight", "DS", b"60,5", "PatientWeight: not a legal DS"),
    "location_too_long": ("SliceLocation", "DS", b"1.00000000000000001", "SliceLocation: not a legal DS"),
    "age_in_words": ("PatientAge", "AS", b"sixty", "PatientAge: not a legal AS"),
    "body_part_lower_case": ("BodyPartExamined", "CS", b"cranium", "BodyPartExamined: not a legal CS"),
    "japanese": ("SpecificCharacterSet", "CS", b"\\ISO 2022 IR 87", None),
    "korean": ("SpecificCharacterSet", "CS", b"\\ISO 2022 IR 149", None),
    "chinese": ("SpecificCharacterSet", "CS", b"\\ISO 2022 IR 58", None),
    "single_extension": ("SpecificCharacterSet", "CS", b"ISO 2022 IR 100", "code extension as the only value"),
    "set_misspelt": ("SpecificCharacterSet", "CS", b"ISO-IR 100", "SpecificCharacterSet: misspelt term"),
    "set_unknown": ("SpecificCharacterSet", "CS", b"NO_SUCH_SET", "SpecificCharacterSet: no defined term"),
    "set_empty": ("SpecificCharacterSet", "CS", b"", None),
}


def _with_bytes(folder: Path, keyword: str, vr: str, value: bytes) -> tuple[Path, ...]:
    """A series whose element holds these bytes, put in behind the encoder's back."""
    place = "7" * (len(value) + len(value) % 2)
    head = struct.pack("<HH", *divmod(tag_for_keyword(keyword), 0x10000)) + vr.encode() + struct.pack("<H", len(place))
    written = value.ljust(len(place), b"\0" if vr == "UI" else b" ")

    def hold_the_place(ds, index):
        if keyword == "SpecificCharacterSet":
            ds.InstitutionName = "Hospital"
        ds[keyword] = DataElement(keyword, vr, place, validation_mode=IGNORE)

    if keyword == "SpecificCharacterSet":  # pydicom would not encode a set that is none
        folder.mkdir(parents=True)
        paths = []
        for index in range(2):
            ds = made_up_slice(index)
            ds.InstitutionName = "Hospital"
            path = save(ds, folder / f"{index}.dcm")
            data = path.read_bytes()
            old = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"
            assert old in data
            path.write_bytes(data.replace(old, head + written))
            paths.append(path)
        return tuple(paths)
    return write_ct_series(folder, count=2, change=hold_the_place, substitutes={head + place.encode(): head + written})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", DIRTY)
def test_a_dirty_header_is_written_unrepaired_with_a_warning(tmp_path, out_folder, caplog, kind, case):
    caplog.set_level(logging.WARNING)
    keyword, vr, value, warning = DIRTY[case]
    paths = _with_bytes(tmp_path / "ct", keyword, vr, value)
    made = _of_kind(kind, paths, out_folder)
    for instance, source in zip(made.instances, paths, strict=True):
        for path in (source, instance.path):
            element = open_dataset(path).get_item(keyword)
            stored = element.value if isinstance(element.value, bytes) else value
            assert bytes(stored).rstrip(b" \0") == value
            assert vr.encode() + struct.pack("<H", len(value) + len(value) % 2) + value in path.read_bytes()
    if warning is None:
        assert made.warnings == ()
        assert caplog.text == ""
    else:
        assert any(warning in one for one in made.warnings)
        assert warning in caplog.text
        # A value may be a piece of a word of our own ("m", "U"); longer ones must not be quoted.
        assert len(value) < 3 or value.decode() not in caplog.text + "".join(made.warnings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keyword", ["PatientSex", "PatientBirthDate", "StudyDate", "FrameOfReferenceUID"])
def test_a_missing_attribute_is_told(tmp_path, out_folder, kind, keyword):
    def drop(ds, index):
        del ds[keyword]

    made = _of_kind(kind, write_ct_series(tmp_path / "ct", count=2, change=drop), out_folder)
    (warning,) = made.warnings
    assert warning.startswith(f"{keyword}: missing")
    assert keyword in dcmread(made.instances[0].path)


def test_a_clean_header_gives_no_warning(derived, derived_sc):
    assert derived.warnings == derived_sc.warnings == ()


def test_every_copied_element_of_the_ct_keeps_its_bytes(derived_sc, ct_paths):
    for instance, source in zip(derived_sc.instances, ct_paths, strict=True):
        for keyword in (*PLANE, "PatientID", "PatientBirthDate", "AccessionNumber", "StudyTime", "PatientWeight"):
            assert raw_value(instance.path, keyword) == raw_value(source, keyword) != b""
