"""What each companion holds, written to bytes and read back with pydicom and highdicom.

Covers SEG, quality report, expected error, warning and withdrawal over a tilted stack: content, references, numbers,
dates, repeatability across processes, UIDs that follow the content. Left out: dirty headers and failures
(`test_companion_headers.py`), notes (`test_companion_notes.py`), marks (`test_companion_marks.py`), foreign tools
(`tests/peers/test_companions.py`).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes

from dicom_node.derive.companions.request import CompanionFailure, SeriesReference
from dicom_node.derive.companions.writer import write_companions
from dicom_node.dicom.companion_labels import CLASSES, WARNING
from dicom_node.dicom.companion_rules import CompanionKind, CompanionSettings, NoteForm
from dicom_node.dicom.labels import IMAGE_COMMENTS
from dicom_node.errors import Permanent
from tests.dicom_node.derive.companions.companion_cases import (
    KINDS,
    OLD_SERIES,
    by_kind,
    companion_request,
    evaluations,
    read,
    texts,
)
from tests.dicom_node.derive.derive_cases import PATIENT_BUNDLE, UNTRAINED_BUNDLE, raw_value, write_ct_series

PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")


def frames_of(ds):
    """Each frame's source UID with its plane, its own or the shared one."""
    shared = ds.SharedFunctionalGroupsSequence[0]
    for group in ds.PerFrameFunctionalGroupsSequence:
        uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        measures = (group if "PixelMeasuresSequence" in group else shared).PixelMeasuresSequence[0]
        turned = (group if "PlaneOrientationSequence" in group else shared).PlaneOrientationSequence[0]
        yield uid, group.PlanePositionSequence[0], turned, measures


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_a_series_of_its_own_in_the_study_of_the_ct(written, ct_paths, kind):
    ds, source, series = read(written[kind]), dcmread(ct_paths[0]), written[kind]
    assert (ds.SOPClassUID, ds.Modality) == CLASSES[kind]
    assert ds.StudyInstanceUID == source.StudyInstanceUID
    assert ds.SeriesInstanceUID == series.series_instance_uid != source.SeriesInstanceUID
    assert ds.SOPInstanceUID == series.instances[0].sop_instance_uid == ds.file_meta.MediaStorageSOPInstanceUID
    assert hashlib.sha256(series.instances[0].path.read_bytes()).hexdigest() == series.instances[0].sha256
    number = {"pm": 19203, "seg": 29203, "sr": 39203, "gsps": 49203, "ko": 59203}[kind]
    assert ds.SeriesNumber == number
    assert len(ds.SeriesDescription) <= 64


def test_no_two_companions_share_a_name(written):
    assert len({one.series_instance_uid for one in written.values()}) == len(written)
    assert len({one.instances[0].path for one in written.values()}) == len(written)


@pytest.mark.parametrize("kind", [*KINDS, "note-sr", "note-sc"])
def test_every_date_is_that_of_the_job(written, kind):
    ds = read(written[kind])
    dates = [
        e.value for e in ds.iterall() if e.VR == "DA" and e.keyword.startswith(("Inst", "Cont", "Ser", "Presentation"))
    ]
    assert len(dates) >= 3
    assert set(dates) == {"20260304"}
    assert {ds.InstanceCreationTime, ds.SeriesTime} == {"050607.000089"}
    # The second item is the node, the third highdicom.
    assert [str(i.ContributionDateTime) for i in ds.ContributingEquipmentSequence[1:]] == ["20260304050607.000089"] * 2


@pytest.mark.parametrize("kind", [*KINDS, "note-sr", "note-sc"])
def test_no_stand_in_is_left_and_no_value_of_another_day(written, kind):
    from dicom_node.derive.companions.sources import FRAME_OF_REFERENCE, SERIES, STUDY

    data = written[kind].instances[0].path.read_bytes()
    assert not any(name.encode() in data for name in (FRAME_OF_REFERENCE, SERIES, STUDY))
    assert f"{datetime.now():%Y%m%d}".encode() not in data


def test_the_mask_comes_back_equal_on_the_planes_of_the_ct(written, ct_paths):
    request = companion_request(ct_paths)
    seg = highdicom.seg.segread(written["seg"].instances[0].path)
    uids = [str(dcmread(path).SOPInstanceUID) for path in ct_paths]
    pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(pixels[..., 0].astype(bool), request.mask)
    assert seg.NumberOfFrames == 3, "the slice without brain has no frame"
    assert (seg.SegmentationType, seg.SegmentSequence[0].SegmentAlgorithmType) == ("BINARY", "AUTOMATIC")
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Brain"
    assert "SyntheticData" not in seg


@pytest.mark.parametrize("kind", ["seg", "pm"])
def test_every_frame_lies_where_its_slice_lies_to_the_byte(written, ct_paths, kind, tmp_path):
    ds = read(written[kind])
    sources = {dcmread(path).SOPInstanceUID: path for path in ct_paths}
    assert ds.FrameOfReferenceUID == dcmread(ct_paths[0]).FrameOfReferenceUID
    for uid, position, orientation, measures in frames_of(ds):
        for keyword, item in zip(PLANE, (position, orientation, measures, measures), strict=True):
            wanted = raw_value(sources[uid], keyword).decode().split("\\")
            found = item[keyword].value
            found = [found] if keyword == "SliceThickness" else list(found)
            assert [one.original_string for one in found] == wanted


def test_mixed_thickness_is_kept_frame_by_frame(tmp_path, out_folder):
    def thinner_half(ds, index):
        ds.SliceThickness = "5.000" if index < 2 else "2.50"

    paths = write_ct_series(tmp_path / "ct", change=thinner_half)
    seg = read(by_kind(write_companions(companion_request(paths, kinds=(CompanionKind.SEG,)), out_folder))["seg"])
    wanted = {dcmread(path).SOPInstanceUID: dcmread(path).SliceThickness for path in paths}
    found = {uid: measures.SliceThickness for uid, _, _, measures in frames_of(seg)}
    assert found == {uid: wanted[uid] for uid in found}
    assert set(found.values()) == {5.0, 2.5}


def test_the_expected_error_comes_back_equal(written, ct_paths):
    request = companion_request(ct_paths)
    ds = read(written["pm"])
    stored = np.frombuffer(ds.FloatPixelData, "<f4").reshape(ds.NumberOfFrames, ds.Rows, ds.Columns)
    order = [dcmread(path).SOPInstanceUID for path in ct_paths]
    for frame, (uid, *_) in zip(stored, frames_of(ds), strict=True):
        np.testing.assert_array_equal(frame, request.expected_error[order.index(uid)])
    assert (ds.SyntheticData, ds.ContentQualification) == ("YES", "RESEARCH")
    assert request.expected_error.max() > 0


def test_the_report_tells_figures_outcome_flags_and_disclaimer(written):
    report = highdicom.sr.srread(written["sr"].instances[0].path)
    groups = report.content.get_image_measurement_groups()
    assert len(groups) == 2
    measured = {one.name.meaning: (one.value, one.unit.value) for one in groups[0].get_measurements()}
    assert measured == {
        "brain volume ml": (1234.5, "mL"),
        "median hu": (33.25, "[hnsf'U]"),
        "slices with brain": (3.0, "1"),
    }
    said = evaluations(read(written["sr"]))
    assert said["GATE"] == ["GATE_NOTE"]
    assert said["GATE_FINDING"] == ["tilt"]
    assert said["QUALITY"] == ["open_skull"]
    assert said["DISCLAIMER"] == ["SYNTHETIC"]
    assert said["TRAINING"] == ["PHANTOM-TRAINED"]
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")


def test_the_report_tells_where_the_result_comes_from(written):
    told = texts(read(written["sr"]))
    for wanted in (
        "bundle builtin compact",
        f"bundle sha256 {'ab' * 32}",
        f"weights sha256 {'cd' * 32}",
        f"input digest {'12' * 32}",
        f"highdicom {highdicom.__version__}",
        "device cpu fp32",
        IMAGE_COMMENTS,
        "20 slices fed as slab means of 5 mm",
    ):
        assert wanted in told


def test_the_report_refers_to_ct_and_result(written, ct_paths):
    report = highdicom.sr.srread(written["sr"].instances[0].path)
    series = {str(uid) for _, uid in report.get_evidence_series()}
    assert series == {str(dcmread(ct_paths[0]).SeriesInstanceUID), "2.25.88001"}
    assert len(report.get_evidence()) == 2 * len(ct_paths)


def test_a_clean_mask_is_said_to_be_clean(ct_paths, out_folder):
    request = companion_request(ct_paths, kinds=(CompanionKind.SR,), quality_flags=(), gate="pass", notes=())
    said = evaluations(read(by_kind(write_companions(request, out_folder))["sr"]))
    assert (said["QUALITY"], said["GATE"]) == (["NO_FLAGS"], ["GATE_PASS"])
    assert "GATE_FINDING" not in said


@pytest.mark.parametrize(
    ("bundle", "mark"), [(PATIENT_BUNDLE, "PATIENTS"), (UNTRAINED_BUNDLE, "UNTRAINED")], ids=["patients", "untrained"]
)
def test_report_and_warning_say_what_the_model_was_trained_on(ct_paths, out_folder, bundle, mark):
    request = companion_request(ct_paths, kinds=(CompanionKind.SR, CompanionKind.GSPS), bundle=bundle)
    found = by_kind(write_companions(request, out_folder))
    assert evaluations(read(found["sr"]))["TRAINING"] == [mark]
    text = read(found["gsps"]).GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue
    assert ("UNTRAINED" in text) == (mark == "UNTRAINED")


def test_the_warning_lies_over_every_image_of_the_result(written, ct_paths):
    ds = read(written["gsps"])
    (series,) = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "2.25.88001"
    assert len(series.ReferencedImageSequence) == len(ct_paths)
    (annotation,) = ds.GraphicAnnotationSequence
    assert annotation.TextObjectSequence[0].UnformattedTextValue.startswith(WARNING)
    area = ds.DisplayedAreaSelectionSequence[0]
    assert list(area.DisplayedAreaBottomRightHandCorner) == [128, 96]
    assert [v.original_string for v in area.PresentationPixelSpacing] == ["0.4882810", "0.48828100"]


def test_the_withdrawal_names_the_old_images_the_reason_and_the_heir(written):
    document = highdicom.ko.KeyObjectSelectionDocument.from_dataset(read(written["ko"]))
    assert document.ConceptNameCodeSequence[0].CodeValue == codes.DCM.RejectedForQualityReasons.value
    assert evaluations(document)["113011"] == ["SUPERSEDED"]
    for number in (1, 2, 3):
        study, series, _ = document.resolve_reference(f"{OLD_SERIES}.{number}")
        assert (str(study), str(series)) == (document.StudyInstanceUID, OLD_SERIES)
    (told,) = [text for text in texts(document) if "withdrawn" in text]
    assert OLD_SERIES in told
    assert "2.25.88001" in told


def test_a_report_of_the_old_result_is_withdrawn_as_a_document(ct_paths, out_folder, written):
    old = written["sr"]
    reference = SeriesReference.from_record(old.to_json())
    request = companion_request(ct_paths, kinds=(), withdrawn=(reference,))
    ds = read(by_kind(write_companions(request, out_folder))["ko"])
    (item,) = [i for i in ds.ContentSequence if i.ValueType == "COMPOSITE"]
    assert item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old.instances[0].sop_instance_uid


def test_the_same_request_gives_the_same_bytes_in_another_process(ct_paths, out_folder, written):
    program = (
        "import sys; from pathlib import Path\n"
        "from tests.dicom_node.derive.companions.companion_cases import *\n"
        "from dicom_node.derive.companions.writer import write_companions, write_note\n"
        "paths = tuple(Path(p) for p in sys.argv[2:]); out = Path(sys.argv[1])\n"
        "write_companions(companion_request(paths), out)\n"
        "for form in ('sr', 'sc'): write_note(note_request(paths, form), out)\n"
    )
    root = Path(__file__).resolve().parents[4]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}
    arguments = [sys.executable, "-c", program, str(out_folder), *map(str, ct_paths)]
    subprocess.run(arguments, check=True, env=environment, cwd=root, timeout=120)
    for series in written.values():
        first = series.instances[0].path
        assert (out_folder / first.name).read_bytes() == first.read_bytes(), series.kind


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"input_digest": "34" * 32}, KINDS),
        ({"node_id": "other"}, KINDS),
        ({"figures": {"brain_volume_ml": 1.0}}, ("sr",)),
        ({"device": "cuda:0"}, ("sr",)),
        ({"notes": ()}, ("sr",)),
    ],
    ids=["input", "node", "figures", "device", "notes"],
)
def test_what_an_object_says_is_part_of_its_name(ct_paths, out_folder, written, changes, kinds):
    other = by_kind(write_companions(companion_request(ct_paths, **changes), out_folder))
    changed = {kind for kind in KINDS if other[kind].series_instance_uid != written[kind].series_instance_uid}
    assert changed == set(kinds)


def test_another_mask_and_another_map_are_other_objects(ct_paths, out_folder, written):
    request = companion_request(ct_paths)
    mask, error = request.mask.copy(), request.expected_error.copy()
    mask[2, 0, 0], error[2, 0, 0] = True, 0.5
    other = by_kind(write_companions(replace(request, mask=mask, expected_error=error), out_folder))
    changed = {kind for kind in KINDS if other[kind].series_instance_uid != written[kind].series_instance_uid}
    assert changed == {"seg", "pm"}


def test_only_what_is_asked_for_is_written(ct_paths, out_folder):
    request = companion_request(ct_paths, kinds=(CompanionKind.PM, CompanionKind.SEG), withdrawn=())
    assert [one.kind for one in write_companions(request, out_folder)] == ["seg", "pm"]
    assert len(list(out_folder.iterdir())) == 2
    assert write_companions(companion_request(ct_paths, kinds=(), withdrawn=()), out_folder) == ()


def test_a_bundle_without_expected_error_gives_no_map_and_no_failure(ct_paths, out_folder):
    request = companion_request(ct_paths, expected_error=None)
    assert set(by_kind(write_companions(request, out_folder))) == {"seg", "sr", "gsps", "ko"}


def test_one_slice_is_enough(tmp_path, out_folder):
    paths = write_ct_series(tmp_path / "ct", count=1)
    found = by_kind(write_companions(companion_request(paths), out_folder))
    assert set(found) == set(KINDS)
    assert read(found["seg"]).NumberOfFrames == 1
    assert "SpacingBetweenSlices" not in read(found["seg"]).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def test_the_record_of_the_job_names_the_instances_again(written):
    series = SeriesReference.from_record(written["seg"].to_json())
    assert series.series_instance_uid == written["seg"].series_instance_uid
    assert series.instances[0].sop_instance_uid == written["seg"].instances[0].sop_instance_uid
    for broken in ({}, {"series_instance_uid": "1.2", "instances": [{}]}, {"series_instance_uid": "1", "instances": 3}):
        with pytest.raises(Permanent, match="companion_request"):
            SeriesReference.from_record(broken)


def test_the_settings_are_off_unless_asked_for_and_name_each_kind_once():
    settings = CompanionSettings()
    assert (settings.companions, settings.not_processed_note) == ((), NoteForm.NONE)
    assert CompanionSettings(companions=["sr", "seg"]).companions == (CompanionKind.SR, CompanionKind.SEG)
    for wrong in ({"companions": ["seg", "seg"]}, {"companions": ["mask"]}, {"not_processed_note": "pdf"}, {"seg": 1}):
        with pytest.raises(ValueError, match="validation error"):
            CompanionSettings(**wrong)
    assert all(field.description for field in CompanionSettings.model_fields.values())


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"mask": np.zeros((4, 96, 128), bool)}, {"seg"}),
        ({"mask": np.ones((3, 96, 128), bool)}, {"seg", "pm"}),
        ({"expected_error": np.full((4, 96, 128), np.nan, np.float32)}, {"pm"}),
        ({"expected_error": np.full((4, 96, 128), 1.5, np.float32)}, {"pm"}),
        ({"expected_error": np.zeros((4, 96, 128))}, {"pm"}),
        ({"withdrawn": (SeriesReference(OLD_SERIES, ()),)}, {"ko"}),
    ],
    ids=["empty mask", "mask of other slices", "not finite", "above one", "double", "nothing to withdraw"],
)
def test_what_does_not_fit_fails_alone_and_by_name(ct_paths, out_folder, changes, failing):
    outcomes = write_companions(companion_request(ct_paths, **changes), out_folder)
    failures = {one.kind: one for one in outcomes if isinstance(one, CompanionFailure)}
    assert set(failures) == failing
    assert all(one.code == "companion_request" and one.reason for one in failures.values())
    assert len(outcomes) == 5
    assert len(list(out_folder.iterdir())) == 5 - len(failing)
