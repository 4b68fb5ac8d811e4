"""The derived MR series, written to bytes, read back and compared attribute by attribute with its rules.

Covers the attribute table, the image plane, references, UIDs, numbering, texts, lossy inheritance, repeatability across
processes, and requests that do not fit. Left out: dirty identities (`test_derive_identity.py`), the label check
(`test_label_marks.py`), real CT and foreign validators (`test_derive_real.py`), crashes while writing (the durable
writing is tested with the ledger).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.derive.sources import read_sources
from dicom_node.derive.writer import derive_series, plan_series_uid
from dicom_node.dicom.labels import IMAGE_COMMENTS
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.dicom.uids import application_version
from dicom_node.errors import Permanent
from tests.dicom_node.derive.derive_cases import (
    CREATED,
    CT_IMAGE_STORAGE,
    PATIENT_BUNDLE,
    PHANTOM_BUNDLE,
    PLANE,
    UNTRAINED_BUNDLE,
    raw_value,
    request_for,
    write_ct_series,
)


def read_back(derived):
    return [dcmread(instance.path) for instance in derived.instances]


def test_one_image_per_slice_with_hashes_of_what_lies_on_disk(derived, ct_paths):
    assert len(derived.instances) == len(ct_paths)
    assert sorted(derived.instances[0].path.parent.iterdir()) == sorted(instance.path for instance in derived.instances)
    for instance, source in zip(derived.instances, ct_paths, strict=True):
        assert hashlib.sha256(instance.path.read_bytes()).hexdigest() == instance.sha256
        ds = dcmread(instance.path)
        assert ds.SOPInstanceUID == instance.sop_instance_uid == ds.file_meta.MediaStorageSOPInstanceUID
        assert ds.SOPClassUID == instance.sop_class_uid == "1.2.840.10008.5.1.4.1.1.4"
        assert ds.SeriesInstanceUID == derived.series_instance_uid
        assert instance.source_sop_instance_uid == dcmread(source).SOPInstanceUID


def test_file_names_hold_nothing_a_peer_sent(derived):
    for instance in derived.instances:
        assert len(instance.path.stem) == 32
        assert set(instance.path.stem) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Modality", "MR"),
        ("SeriesNumber", 9203),
        ("SeriesDescription", "SYNTHETIC DWI from CT (AI) - NOT MR - RESEARCH - PHANTOM-TRAINED"),
        ("Manufacturer", "jmmda-node project"),
        ("ManufacturerModelName", "jmmda-node"),
        ("DeviceSerialNumber", "jmmda-node-1"),
        ("ImageType", ["DERIVED", "SECONDARY", "OTHER", "SYNTHETIC"]),
        ("SyntheticData", "YES"),
        ("ContentQualification", "RESEARCH"),
        ("ImageComments", f"{IMAGE_COMMENTS} Trained on a digital phantom."),
        ("BurnedInAnnotation", "NO"),
        ("RecognizableVisualFeatures", "NO"),
        ("LossyImageCompression", "00"),
        ("ScanningSequence", "RM"),
        ("SequenceVariant", "NONE"),
        ("SamplesPerPixel", 1),
        ("PhotometricInterpretation", "MONOCHROME2"),
        ("BitsAllocated", 16),
        ("BitsStored", 12),
        ("HighBit", 11),
        ("PixelRepresentation", 0),
        ("WindowCenter", 2048),
        ("WindowWidth", 4096),
        ("WindowCenterWidthExplanation", "SYNTHETIC"),
        ("PresentationLUTShape", "IDENTITY"),
        ("SpacingBetweenSlices", 4.96273),
        ("InstanceCreationDate", "20260304"),
        ("InstanceCreationTime", "050607.000089"),
        ("ContentDate", "20260304"),
        ("ContentTime", "050607.000089"),
        ("SeriesDate", "20260304"),
        ("SeriesTime", "050607.000089"),
    ],
)
def test_attribute_has_its_value_in_every_image(derived, keyword, value):
    for ds in read_back(derived):
        assert ds[keyword].value == value


@pytest.mark.parametrize(
    "keyword", ["ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"]
)
def test_acquisition_parameters_are_present_and_empty(derived, keyword):
    assert all(keyword in ds and ds[keyword].is_empty for ds in read_back(derived))


@pytest.mark.parametrize(
    "keyword",
    [
        "InversionTime",
        "MagneticFieldStrength",
        "FlipAngle",
        "RescaleSlope",
        "RescaleIntercept",
        "DiffusionBValue",
        "KVP",
    ],
)
def test_attributes_of_a_measurement_are_absent(derived, keyword):
    assert all(keyword not in ds for ds in read_back(derived))


def test_the_file_is_explicit_little_endian_and_pixels_are_words(derived):
    for ds in read_back(derived):
        assert ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert ds["PixelData"].VR == "OW"


@pytest.mark.parametrize(
    "keyword", [*PLANE, "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition", "AcquisitionTime"]
)
def test_plane_and_acquisition_are_the_bytes_of_the_ct(derived, ct_paths, keyword):
    for instance, source in zip(derived.instances, ct_paths, strict=True):
        assert raw_value(instance.path, keyword) == raw_value(source, keyword) != b""


@pytest.mark.parametrize(
    "keyword",
    [
        *("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientWeight"),
        *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
        "StudyDescription",
    ],
)
def test_identity_is_that_of_the_ct(derived, ct_paths, keyword):
    for instance, source in zip(derived.instances, ct_paths, strict=True):
        assert dcmread(instance.path)[keyword].value == dcmread(source)[keyword].value


def test_pixels_are_stored_as_given_except_under_the_watermark(derived, ct_paths):
    request = request_for(ct_paths)
    for index, ds in enumerate(read_back(derived)):
        stored, given = ds.pixel_array, request.pixels[index]
        changed = np.argwhere(stored != given)
        assert stored.dtype == np.uint16
        assert changed[:, 0].max() < stored.shape[0] // 2
        np.testing.assert_array_equal(stored[stored.shape[0] // 2 :], given[stored.shape[0] // 2 :])


def test_without_watermark_the_pixels_are_exactly_those_given(ct_paths, out_folder):
    request = request_for(ct_paths, output=OutputSettings(watermark=False))
    for index, ds in enumerate(read_back(derive_series(request, out_folder))):
        np.testing.assert_array_equal(ds.pixel_array, request.pixels[index])


def test_real_world_value_maps_the_full_scale_to_one(derived):
    item = read_back(derived)[0].RealWorldValueMappingSequence[0]
    assert (item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped) == (0, 4095)
    assert item.RealWorldValueSlope * 4095 + item.RealWorldValueIntercept == pytest.approx(1.0, abs=1e-12)
    assert item.LUTLabel == "SYNDWI"
    assert item.MeasurementUnitsCodeSequence[0].CodeValue == "1"


def test_source_image_is_the_slice_in_the_same_plane(derived, ct_paths):
    for ds, path in zip(read_back(derived), ct_paths, strict=True):
        source = dcmread(path)
        (item,) = ds.SourceImageSequence
        assert (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) == (CT_IMAGE_STORAGE, source.SOPInstanceUID)
        assert item.SpatialLocationsPreserved == "YES"
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        (series,) = ds.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == source.SeriesInstanceUID
        assert [part.ReferencedSOPInstanceUID for part in series.ReferencedInstanceSequence] == [source.SOPInstanceUID]


def test_slab_means_name_their_neighbours_after_the_own_slice(ct_paths, out_folder):
    request = request_for(ct_paths, source_slices=((0, 1), (0, 1, 2), (1, 2, 3), (2, 3)))
    images = read_back(derive_series(request, out_folder))
    uids = [dcmread(path).SOPInstanceUID for path in ct_paths]
    named = [item.ReferencedSOPInstanceUID for item in images[1].SourceImageSequence]
    assert named == [uids[1], uids[0], uids[2]]
    assert "SpatialLocationsPreserved" not in images[1].SourceImageSequence[1]
    assert len(images[1].ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 3
    assert "means of up to 3 CT slices" in images[0].DerivationDescription


def test_equipment_names_scanner_node_and_library(derived):
    scanner, node, library = read_back(derived)[0].ContributingEquipmentSequence
    codes = [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in (scanner, node, library)]
    assert codes == ["109101", "109100", "109102"]
    assert (scanner.Manufacturer, scanner.InstitutionName) == ("Scanner Works", "H\xf4pital")
    assert scanner.ContributionDateTime == "20260102101500.000000"
    assert node.SoftwareVersions == [application_version(), "model builtin compact 1.0", f"model sha256 {'ab' * 16}"]
    assert PHANTOM_BUNDLE.sha256 in node.ContributionDescription
    assert node.ContributionDateTime == library.ContributionDateTime == "20260304050607.000089"


def test_scanner_without_manufacturer_is_left_out(tmp_path, out_folder):
    def unnamed(ds, index):
        ds.Manufacturer = None

    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", change=unnamed)), out_folder)
    equipment = read_back(derived)[0].ContributingEquipmentSequence
    assert [item.PurposeOfReferenceCodeSequence[0].CodeValue for item in equipment] == ["109100", "109102"]


def test_derivation_has_steps_and_full_hash(derived):
    ds = read_back(derived)[0]
    steps = [(item.CodeValue, item.CodingSchemeDesignator) for item in ds.DerivationCodeSequence]
    assert steps == [("113085", "DCM"), ("CT2DWI", "99JMMDA")]
    assert ds.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99JMMDA"
    assert PHANTOM_BUNDLE.sha256 in ds.DerivationDescription
    assert "Trained on a digital phantom." in ds.DerivationDescription


def test_notes_and_the_replaced_series_are_told(ct_paths, out_folder):
    request = request_for(
        ct_paths, notes=("mixed thickness",), quality_flags=("open_skull",), superseded_series_uid="2.25.99"
    )
    ds = read_back(derive_series(request, out_folder))[0]
    sentence = "Part of the skull vault is missing; the brain's edge under it is estimated."
    assert f"Quality: {sentence} Notes: mixed thickness" in ds.DerivationDescription
    assert ds.ImageComments.endswith(f"Quality: {sentence}")
    assert json.loads(ds[0x0071, 0x1003].value)["quality_flags"] == ["open_skull"]
    assert "Replaces series 2.25.99." in ds.DerivationDescription
    assert json.loads(ds[0x0071, 0x1003].value)["superseded_series_uid"] == "2.25.99"


def test_long_and_foreign_notes_cannot_push_out_the_hash(ct_paths, out_folder):
    request = request_for(ct_paths, notes=("\xe4\\" * 800,))
    ds = read_back(derive_series(request, out_folder))[0]
    assert len(ds.DerivationDescription) <= 1024
    assert ds.DerivationDescription.isascii()
    assert PHANTOM_BUNDLE.sha256 in ds.DerivationDescription


def test_private_block_holds_the_provenance(derived):
    ds = read_back(derived)[0]
    block = ds.private_block(0x0071, "JMMDA-NODE 1.0")
    assert block[0x01].value == PHANTOM_BUNDLE.sha256
    assert block[0x02].value == application_version()
    record = json.loads(block[0x03].value)
    assert record["weights_sha256"] == PHANTOM_BUNDLE.weights_sha256
    assert record["input_digest"] == derived.input_digest
    assert "diffusion" in record["target"]


@pytest.mark.parametrize(
    ("bundle", "mark", "sentence"),
    [
        (PATIENT_BUNDLE, None, None),
        (PHANTOM_BUNDLE, "PHANTOM-TRAINED", "Trained on a digital phantom."),
        (UNTRAINED_BUNDLE, "UNTRAINED", "UNTRAINED network"),
        (replace(UNTRAINED_BUNDLE, is_phantom=True), "UNTRAINED", "UNTRAINED network"),
    ],
)
def test_training_of_the_bundle_is_told_everywhere(ct_paths, out_folder, bundle, mark, sentence):
    for ds in read_back(derive_series(request_for(ct_paths, bundle), out_folder)):
        texts = (ds.ImageComments, ds.DerivationDescription)
        if mark is None:
            assert ds.SeriesDescription == "SYNTHETIC DWI from CT (AI) - NOT MR - RESEARCH"
            assert all("TRAINED" not in text.upper() for text in texts)
        else:
            assert ds.SeriesDescription.endswith(mark)
            assert len(ds.SeriesDescription) <= 64
            assert all(sentence in text for text in texts)


def test_instance_numbers_fall_back_to_the_position(tmp_path, out_folder):
    def twice_two(ds, index):
        ds.InstanceNumber = "2" if index < 2 else str(index + 1)

    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", change=twice_two)), out_folder)
    assert [ds.InstanceNumber for ds in read_back(derived)] == [1, 2, 3, 4]


def test_instance_numbers_of_a_reversed_stack_are_kept(tmp_path, out_folder):
    def reverse(ds, index):
        ds.InstanceNumber = str(40 - index)

    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", change=reverse)), out_folder)
    assert [ds.InstanceNumber for ds in read_back(derived)] == [40, 39, 38, 37]


def test_missing_series_number_gives_the_offset(tmp_path, out_folder):
    def unnumbered(ds, index):
        ds.SeriesNumber = None

    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", change=unnumbered)), out_folder)
    assert read_back(derived)[0].SeriesNumber == 9000


def test_irregular_spacing_is_not_called_a_spacing(tmp_path, out_folder):
    def shift(ds, index):
        ds.ImagePositionPatient = ["-60", "-40", str(index * index * 3.0)]

    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", change=shift)), out_folder)
    assert all("SpacingBetweenSlices" not in ds for ds in read_back(derived))


def test_missing_frame_of_reference_is_made_up_once_and_told(tmp_path, out_folder, caplog):
    def drop(ds, index):
        del ds.FrameOfReferenceUID
        del ds.PositionReferenceIndicator
        del ds.BodyPartExamined

    caplog.set_level(logging.WARNING)
    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", change=drop)), out_folder)
    frames = {ds.FrameOfReferenceUID for ds in read_back(derived)}
    assert len(frames) == 1
    assert frames.pop().startswith("2.25.")
    assert sum("frame of reference" in message for message in caplog.messages) == 1
    assert all(ds.BodyPartExamined == "HEAD" and "PositionReferenceIndicator" in ds for ds in read_back(derived))


def test_lossy_compression_of_the_ct_is_inherited(tmp_path, out_folder):
    def lossy(ds, index):
        ds.LossyImageCompression = "01"
        ds.LossyImageCompressionRatio = "7.50"
        ds.LossyImageCompressionMethod = "ISO_10918_1"

    paths = write_ct_series(tmp_path / "ct", change=lossy)
    derived = derive_series(request_for(paths), out_folder)
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        assert raw_value(derived.instances[0].path, keyword) == raw_value(paths[0], keyword)


def test_second_run_into_the_same_folder_changes_no_byte(ct_paths, out_folder):
    request = request_for(ct_paths)
    first = derive_series(request, out_folder)
    before = {path.name: path.read_bytes() for path in out_folder.iterdir()}
    second = derive_series(request, out_folder)
    assert second == first
    assert {path.name: path.read_bytes() for path in out_folder.iterdir()} == before


_SCRIPT = """
import sys
from pathlib import Path
from tests.dicom_node.derive.derive_cases import request_for
from dicom_node.derive.writer import derive_series
paths = tuple(sorted(Path(sys.argv[1]).iterdir()))
for instance in derive_series(request_for(paths), Path(sys.argv[2])).instances:
    sys.stdout.write(instance.path.name + " " + instance.sha256 + "\\n")
"""


def test_separate_processes_write_identical_bytes(ct_paths, tmp_path):
    listings = []
    for seed in ("1", "2"):
        out = tmp_path / f"out-{seed}"
        out.mkdir()
        root = Path(__file__).parents[3]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root), "TZ": f"UTC{seed}"}
        command = [sys.executable, "-c", _SCRIPT, str(ct_paths[0].parent), str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        listings.append(done.stdout)
    assert listings[0] == listings[1]
    assert len(listings[0].splitlines()) == len(ct_paths)


def test_planned_uid_is_the_written_one(ct_paths, derived):
    assert plan_series_uid(request_for(ct_paths)) == derived.series_instance_uid


@pytest.mark.parametrize(
    "changes",
    [
        {"bundle": replace(PHANTOM_BUNDLE, sha256="12" * 32)},
        {"node_id": "jmmda-node-2"},
        {"output": OutputSettings(watermark_text="SYNTHETIC, NOT MR")},
        {"output": OutputSettings(series_number_offset=8000)},
        {"notes": ("mixed thickness",)},
        {"superseded_series_uid": "2.25.1"},
        {"source_slices": ((0, 1), (1,), (2,), (3,))},
    ],
)
def test_whatever_changes_the_object_changes_its_uid(ct_paths, derived, changes):
    assert plan_series_uid(request_for(ct_paths, **changes)) != derived.series_instance_uid


def test_the_time_of_the_job_does_not_change_the_uid(ct_paths, derived):
    later = request_for(ct_paths, created=CREATED + timedelta(days=400))
    assert plan_series_uid(later) == derived.series_instance_uid


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName", "StudyTime", "ImagePositionPatient"])
def test_a_corrected_header_is_another_input(tmp_path, derived, keyword):
    def correct(ds, index):
        if index == 2:
            ds[keyword].value = ["-60.250", "-40.5", "10.1"] if keyword == "ImagePositionPatient" else "101113"

    paths = write_ct_series(tmp_path / "corrected", change=correct)
    assert read_sources(paths).input_digest != derived.input_digest


def test_one_other_pixel_is_another_input(tmp_path, derived):
    def touch(ds, index):
        if index == 3:
            ds.PixelData = b"\x01\x00" + ds.PixelData[2:]

    assert read_sources(write_ct_series(tmp_path / "touched", change=touch)).input_digest != derived.input_digest


def test_input_digest_does_not_depend_on_the_transfer_syntax(tmp_path, derived):
    def implicit(ds, index):
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    assert read_sources(write_ct_series(tmp_path / "implicit", change=implicit)).input_digest == derived.input_digest


def test_a_created_time_with_offset_keeps_its_wall_clock(ct_paths, out_folder):
    created = datetime.fromisoformat("2026-03-04T23:30:00+02:00")
    ds = read_back(derive_series(request_for(ct_paths, created=created), out_folder))[0]
    assert (ds.ContentDate, ds.ContentTime) == ("20260304", "233000")
    assert ds.ContributingEquipmentSequence[1].ContributionDateTime == "20260304233000.000000+0200"


@pytest.mark.parametrize(
    "changes",
    [
        {"pixels": np.zeros((4, 96, 128), np.int16)},
        {"pixels": np.full((4, 96, 128), 4096, np.uint16)},
        {"pixels": np.zeros((3, 96, 128), np.uint16), "mask": np.zeros((3, 96, 128), bool)},
        {"mask": np.zeros((4, 96, 127), bool)},
        {"source_slices": ((0,), (1,), (2,))},
        {"source_slices": ((0,), (1,), (2,), (4,))},
    ],
)
def test_a_request_that_does_not_fit_is_refused(ct_paths, changes):
    with pytest.raises(Permanent) as caught:
        request_for(ct_paths, **changes)
    assert caught.value.code == "derive_request"


def test_pixels_on_another_grid_than_the_ct_are_refused(ct_paths, out_folder):
    small = np.zeros((4, 64, 128), np.uint16)
    with pytest.raises(Permanent) as caught:
        derive_series(request_for(ct_paths, pixels=small, mask=small.astype(bool)), out_folder)
    assert caught.value.code == "derive_request"
    assert list(out_folder.iterdir()) == []


def test_a_slice_without_position_cannot_be_a_source(tmp_path, out_folder):
    def drop(ds, index):
        del ds.ImagePositionPatient

    with pytest.raises(Permanent) as caught:
        derive_series(request_for(write_ct_series(tmp_path / "ct", change=drop)), out_folder)
    assert caught.value.code == "source_header"
