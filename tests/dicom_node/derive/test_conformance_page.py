"""docs/conformance.md is what the code says, and what the code writes is in it.

The page is compared with its file; series from different CTs, models and settings are compared with its tables. Left
out: whether modules and types are those of the standard, for which highdicom's tables are trusted here
(`tests/peers/test_object_conformance.py` asks dciodvfy).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.derive.conformance_page import example, render
from dicom_node.derive.conformance_rules import RULES
from dicom_node.derive.writer import derive_series
from dicom_node.dicom.identity import ACQUISITION, IDENTITY, IMAGE_PLANE
from dicom_node.dicom.labels import MARKS, OBJECT_CLASSES
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.net.contexts import CT_CLASSES, accepted_syntaxes
from tests.dicom_node.derive.derive_cases import PATIENT_BUNDLE, UNTRAINED_BUNDLE, request_for, write_ct_series

ROOT = Path(__file__).resolve().parents[3]
COPIED = {*IDENTITY, *ACQUISITION, *IMAGE_PLANE}


def _told() -> dict[str, list[str]]:
    """Rows of the tables of attributes by keyword."""
    rows = (line.strip("| \n").split(" | ") for line in render().splitlines() if re.match(r"\| `[A-Z]\w+` \| \(", line))
    return {row[0].strip("`"): row for row in rows}


def test_the_page_is_what_the_code_says():
    """To write it anew: make docs."""
    assert (ROOT / "docs" / "conformance.md").read_text("utf-8") == render()


def _other_ct(ds, index):
    """A CT with other values of nearly everything, some of them missing."""
    ds.Manufacturer, ds.SoftwareVersions, ds.InstitutionName = "Other Works", "9", "Elsewhere"
    ds.PatientName, ds.PatientSex, ds.StudyDescription = "Other^Person", "M", "Stroke"
    ds.TimezoneOffsetFromUTC, ds.InstanceNumber, ds.SeriesNumber = "+0200", 40 - index, 7
    ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "9.5"
    ds.LossyImageCompressionMethod = "ISO_10918_1"
    ds.PatientIdentityRemoved, ds.QualityControlImage = "YES", "NO"
    ds.ImageOrientationPatient = ["0", "1", "0", "-1", "0", "0"]
    ds.ImagePositionPatient = ["-60", "-40", str(index * index * 3.0)]
    del ds.FrameOfReferenceUID, ds.BodyPartExamined, ds.SpecificCharacterSet, ds.PositionReferenceIndicator


@pytest.fixture(scope="module")
def various(ct_paths, tmp_path_factory):
    """Images of every kind: two CTs, three bundles, other settings."""
    folder = tmp_path_factory.mktemp("various")
    other = write_ct_series(folder / "ct", count=3, change=_other_ct)
    requests = []
    for kind in OBJECT_CLASSES:
        odd = OutputSettings(
            object=kind,
            series_description="SYNTHETIC",
            series_number_offset=5,
            watermark=False,
            time_zone="Europe/Berlin",
        )
        requests += [
            (kind, request_for(ct_paths, output=OutputSettings(object=kind))),
            (kind, request_for(ct_paths, PATIENT_BUNDLE, output=odd, source_slices=((0, 1), (1,), (2,), (2, 3)))),
            (kind, request_for(other, UNTRAINED_BUNDLE, output=odd, node_id="another", notes=("a note",))),
        ]
    images = []
    for number, (kind, request) in enumerate(requests):
        (folder / str(number)).mkdir()
        made = derive_series(request, folder / str(number))
        images += [(kind, dcmread(instance.path)) for instance in made.instances]
    return images


def test_every_attribute_of_every_image_is_in_the_tables(various):
    told = _told()
    for kind, ds in various:
        column = 2 + list(OBJECT_CLASSES).index(kind)
        written = {element.keyword for element in ds if not element.tag.is_private}
        assert written <= set(told)
        assert not [keyword for keyword in written if told[keyword][column] == "-"], kind


def test_what_has_no_rule_never_changes(various):
    for kind, ds in various:
        model = example(kind)
        for element in ds:
            if not element.tag.is_private and element.keyword not in COPIED | set(RULES):
                assert element == model[element.tag], element.keyword


def test_every_rule_is_of_an_attribute_that_is_written(various):
    written = {element.keyword for _, ds in various for element in ds}
    assert set(RULES) - written - {"DeidentificationMethod"} == set()


def test_marks_classes_and_syntaxes_are_told():
    page = render()
    for name in MARKS:
        assert f"| `{name}` | " in page
        assert f"| `{name}` |  |" not in page, "a rule without a word of its own"
    for one in (*OBJECT_CLASSES.values(),):
        assert f"`{one.sop_class_uid}`" in page
    accepted = page.split("## What is accepted")[1]
    for sop_class in CT_CLASSES:
        assert f"`{sop_class}`" in accepted
        for syntax in accepted_syntaxes(sop_class):
            assert f"(`{syntax}`)" in accepted
