"""The marks of companions on encoded bytes: each one, removed, stops the object, and no other is blamed.

The objects are real ones of the writer, changed with pydicom and encoded again. Left out: what the writer puts there
(`test_companion_objects.py`, `test_companion_notes.py`).
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.dicom.companion_labels import (
    CLASSES,
    COMPANION_MARKS,
    CompanionFacts,
    check_companion,
    missing_companion_marks,
)
from dicom_node.errors import Permanent

ALL = tuple(CLASSES)


def _encode(ds) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _set(keyword, value):
    return lambda ds: setattr(ds, keyword, value)


def _drop(keyword):
    return lambda ds: ds.__delitem__(keyword)


def _every(keyword, change):
    """Change an attribute at every depth."""

    def apply(ds):
        found = [ds, *(item for element in ds.iterall() if element.VR == "SQ" for item in element.value)]
        for item in found:
            if keyword in item:
                item[keyword].value = change(str(item[keyword].value))

    return apply


def _private(ds):
    ds.private_block(0x0071, "ANYBODY", create=True).add_new(1, "LO", "x")


def _nested_diffusion(ds):
    ds.ContributingEquipmentSequence[1].DiffusionBValue = 1000.0


def _one_dot(ds):
    pixels = bytearray(ds.PixelData)
    pixels[pixels.index(255)] = 0
    ds.PixelData = bytes(pixels)


def _no_reference(ds):
    _every("SeriesInstanceUID", lambda uid: uid)(ds)
    own = ds.SeriesInstanceUID
    for element in ds.iterall():
        if element.keyword == "SeriesInstanceUID" and element.value != own:
            element.value = "1.2.3"
    ds.SeriesInstanceUID = own


COMMON = [
    ("object_class", _set("Modality", "CT")),
    ("object_class", _set("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2")),
    ("series_description", _set("SeriesDescription", "DWI")),
    ("content_qualification", _set("ContentQualification", "PRODUCT")),
    ("content_qualification", _drop("ContentQualification")),
    ("contributing_equipment", lambda ds: ds.ContributingEquipmentSequence.__delitem__(1)),
    ("reference", _no_reference),
    ("no_diffusion_attributes", _set("DiffusionBValue", 1000.0)),
    ("no_diffusion_attributes", _nested_diffusion),
    ("no_private_elements", _private),
]
OWN = {
    "seg": [
        ("no_synthetic_data", _set("SyntheticData", "YES")),
        ("brain_mask", _set("SegmentationType", "FRACTIONAL")),
        ("brain_mask", lambda ds: setattr(ds.SegmentSequence[0], "SegmentAlgorithmType", "MANUAL")),
        (
            "brain_mask",
            lambda ds: setattr(ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0], "CodeValue", "1"),
        ),
    ],
    "sr": [
        ("disclaimer", _every("CodeValue", lambda code: "FINE" if code == "SYNTHETIC" else code)),
        ("preliminary", _set("PreliminaryFlag", "FINAL")),
        ("preliminary", _set("VerificationFlag", "VERIFIED")),
        ("bundle_in_text", _every("TextValue", lambda text: text.replace("ab" * 32, "ef" * 32))),
        ("training_in_text", _every("TextValue", lambda text: text.replace("PHANTOM-TRAINED", ""))),
    ],
    "pm": [
        ("synthetic_data", _drop("SyntheticData")),
        ("synthetic_data", _set("SyntheticData", "NO")),
        ("float_pixels", lambda ds: setattr(ds, "FloatPixelData", ds.FloatPixelData[:-4])),
        ("expected_error", _every("LUTLabel", lambda _: "ADC")),
    ],
    "gsps": [
        ("warning_text", _every("UnformattedTextValue", lambda _: "Fine image. PHANTOM-TRAINED")),
        ("training_in_text", _every("UnformattedTextValue", lambda text: text.replace("PHANTOM-TRAINED", ""))),
    ],
    "ko": [
        ("rejection", lambda ds: setattr(ds.ConceptNameCodeSequence[0], "CodeValue", "113000")),
        ("rejection", _every("CodeValue", lambda code: "OTHER" if code == "SUPERSEDED" else code)),
        ("replacement", _every("TextValue", lambda text: text.replace("2.25.88001", "another"))),
    ],
    "note-sr": [
        ("not_processed", _every("TextValue", lambda text: text.replace("NOT PROCESSED", "PROCESSED"))),
        ("not_processed", _every("TextValue", lambda text: text.replace("RESEARCH", ""))),
        ("not_processed", _every("TextValue", lambda text: text.replace("gap", ""))),
        ("preliminary", _set("PreliminaryFlag", "FINAL")),
    ],
    "note-sc": [
        ("no_synthetic_data", _set("SyntheticData", "YES")),
        ("page_pixels", _one_dot),
        ("page_pixels", _set("Rows", 512)),
        ("page_pixels", _drop("PixelData")),
    ],
}
REMOVALS = [(kind, mark, remove) for kind in ALL for mark, remove in (*COMMON, *OWN[kind])]


def test_every_mark_of_every_kind_has_a_removal():
    for kind, marks in COMPANION_MARKS.items():
        # The words of a page stand in the facts, which another test changes.
        tried = {mark for mark, _ in (*COMMON, *OWN[kind])} | ({"page_text"} if kind == "note-sc" else set())
        assert tried == set(marks), kind


@pytest.mark.parametrize("kind", ALL)
def test_what_the_writer_makes_passes_also_when_encoded_again(written, kind):
    data, facts = written[kind].instances[0].path.read_bytes(), written[kind].facts
    check_companion(data, facts)
    ds = dcmread(BytesIO(data))
    check_companion(_encode(ds), facts)
    ds = dcmread(BytesIO(data))
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    check_companion(_encode(ds), facts)


@pytest.mark.parametrize(
    ("kind", "mark", "remove"), REMOVALS, ids=[f"{kind}-{mark}-{n}" for n, (kind, mark, _) in enumerate(REMOVALS)]
)
def test_removed_mark_is_the_one_that_is_named(written, kind, mark, remove):
    ds = dcmread(written[kind].instances[0].path)
    remove(ds)
    changed = _encode(ds)
    assert missing_companion_marks(changed, written[kind].facts) == (mark,)
    with pytest.raises(Permanent) as caught:
        check_companion(changed, written[kind].facts)
    assert (caught.value.code, caught.value.figures) == ("label_missing", {"missing": [mark]})


@pytest.mark.parametrize("kind", ALL)
def test_the_facts_survive_the_job_record(written, kind):
    facts = written[kind].facts
    assert CompanionFacts.from_json(facts.to_json()) == facts
    assert CompanionFacts.from_json({**facts.to_json(), "of a later version": 1}) == facts


@pytest.mark.parametrize(
    "record",
    [{}, {"kind": "seg"}, {"kind": "movie", "refers_to": "1"}, {"kind": "seg", "refers_to": 3}],
    ids=["empty", "no series", "unknown kind", "number"],
)
def test_a_record_that_is_none_is_refused(record):
    with pytest.raises(Permanent, match="label_facts"):
        CompanionFacts.from_json(record)


def test_the_marks_of_another_result_do_not_do(written):
    for kind, wrong in (
        ("sr", {"bundle_sha256": "ef" * 32}),
        ("gsps", {"refers_to": "1.2.3"}),
        ("ko", {"replaced_by": "1.2.3"}),
        ("note-sr", {"code": "coverage"}),
    ):
        data = written[kind].instances[0].path.read_bytes()
        assert missing_companion_marks(data, replace(written[kind].facts, **wrong)) != ()


def test_a_page_whose_facts_do_not_say_it_is_stopped(written):
    data, facts = written["note-sc"].instances[0].path.read_bytes(), written["note-sc"].facts
    silent = replace(facts, page=facts.page[1:])
    assert missing_companion_marks(data, silent) == ("page_text", "page_pixels")


@pytest.mark.parametrize("kind", ALL)
def test_one_kind_does_not_pass_for_another(written, kind):
    other = ALL[(ALL.index(kind) + 1) % len(ALL)]
    data = written[other].instances[0].path.read_bytes()
    assert missing_companion_marks(data, written[kind].facts) != ()


@pytest.mark.parametrize("data", [b"", b"DICM", bytes(128) + b"DICM", bytes(4096)])
def test_bytes_that_are_no_object_are_stopped(written, data):
    with pytest.raises(Permanent) as caught:
        check_companion(data, written["seg"].facts)
    assert caught.value.code in ("label_unreadable", "label_missing")
