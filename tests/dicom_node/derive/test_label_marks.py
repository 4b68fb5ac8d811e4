"""The label check on encoded bytes: every mark, removed one by one, stops the object, and no other mark is blamed.

The objects are real ones of the writer, changed with pydicom and encoded again. Left out: that the sender calls the
check (delivery tests) and the texts of the labels (`tests/dicom_node/dicom/test_labels.py`).
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.derive.writer import derive_series
from dicom_node.dicom.labels import IMAGE_COMMENTS, MARKS, LabelFacts, check_encoded, missing_marks
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.errors import Permanent
from tests.dicom_node.derive.derive_cases import PATIENT_BUNDLE, PHANTOM_BUNDLE, UNTRAINED_BUNDLE, request_for


def _encode(ds) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _set(keyword, value):
    def change(ds):
        setattr(ds, keyword, value)

    return change


def _drop(keyword):
    def change(ds):
        del ds[keyword]

    return change


def _other_hash_in_derivation(ds):
    ds.DerivationDescription = ds.DerivationDescription.replace("ab" * 32, "ef" * 32)


def _other_hash_in_equipment(ds):
    ds.ContributingEquipmentSequence[1].ContributionDescription = f"model sha256 {'ef' * 32}"


def _no_synthesizing_equipment(ds):
    del ds.ContributingEquipmentSequence[1]


def _faint_watermark(ds):
    ds.PixelData = (ds.pixel_array // 2).astype("<u2").tobytes()


def _one_dot_less(ds):
    pixels = ds.pixel_array.copy()
    row, column = np.argwhere(pixels == 4095)[0]
    pixels[row, column] = 0
    ds.PixelData = pixels.astype("<u2").tobytes()


def _shortened_pixels(ds):
    ds.Rows = ds.Rows - 1


def _no_own_source(ds):
    ds.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue = "121329"


def _nested_b_value(ds):
    ds.SourceImageSequence[0].DiffusionBValue = 1000.0


def _source_of_another_image(ds):
    """Everything agrees with everything, except that this instance was made for another slice."""
    for item in (ds.SourceImageSequence[0], ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]):
        item.ReferencedSOPInstanceUID = "1.2.3.4.5.1"


def _another_frame(ds):
    ds.SourceImageSequence[0].ReferencedFrameNumber = 2


def _not_in_place(ds):
    del ds.SourceImageSequence[0].SpatialLocationsPreserved


def _other_series_list(ds):
    ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2.3.4.5.1"


def _other_step(ds):
    ds.DerivationCodeSequence[1].CodeValue = "113072"


def _measured(ds):
    if ds.Modality == "MR":
        ds.ScanningSequence = "EP"
    else:
        ds.ConversionType = "DI"


def _too_bright(ds):
    """A 13th bit outside the corner of the text."""
    pixels = ds.pixel_array.copy()
    pixels[-1, -1] = 4096
    ds.PixelData = pixels.astype("<u2").tobytes()


def _private(element, value):
    def change(ds):
        ds[0x0071, element].value = value

    return change


def _no_private_block(ds):
    for element in (0x0010, 0x1001, 0x1002, 0x1003):
        del ds[0x0071, element]


def _other_hash_in_record(ds):
    ds[0x0071, 0x1003].value = ds[0x0071, 0x1003].value.replace("ab" * 32, "ef" * 32)


def _no_training_in_record(ds):
    ds[0x0071, 0x1003].value = ds[0x0071, 0x1003].value.replace('"PHANTOM-TRAINED"', "null")


def _own_windows(ds):
    ds.WindowCenter, ds.WindowWidth = 1200, 800


def _siemens_b_value(ds):
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")


def _foreign_creator(ds):
    ds[0x00710010].value = "SOMEBODY ELSE"


def _diffusion_image_type(ds):
    ds.add_new(0x00189075, "CS", "ISOTROPIC")


def _untold_in(keyword):
    def change(ds):
        text = getattr(ds, keyword)
        for words in ("Trained on a digital phantom.", " - PHANTOM-TRAINED"):
            text = text.replace(words, "")
        setattr(ds, keyword, text)

    return change


REMOVALS = [
    ("image_class", _set("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2")),
    ("image_class", _set("Modality", "CT")),
    ("synthetic_data", _drop("SyntheticData")),
    ("synthetic_data", _set("SyntheticData", "NO")),
    ("image_type", _drop("ImageType")),
    ("image_type", _set("ImageType", ["ORIGINAL", "PRIMARY", "OTHER", "SYNTHETIC"])),
    ("image_type", _set("ImageType", ["DERIVED", "SECONDARY", "OTHER"])),
    ("content_qualification", _drop("ContentQualification")),
    ("content_qualification", _set("ContentQualification", "PRODUCT")),
    ("series_description", _set("SeriesDescription", "DWI b1000 SYNTHETIC - PHANTOM-TRAINED")),
    ("image_comments", _set("ImageComments", "Fine image. Trained on a digital phantom.")),
    ("image_comments", _set("ImageComments", IMAGE_COMMENTS[:-20] + " Trained on a digital phantom.")),
    ("derivation_description", _other_hash_in_derivation),
    ("contributing_equipment", _drop("ContributingEquipmentSequence")),
    ("contributing_equipment", _no_synthesizing_equipment),
    ("contributing_equipment", _other_hash_in_equipment),
    ("source_image", _drop("SourceImageSequence")),
    ("source_image", _no_own_source),
    ("source_image", _source_of_another_image),
    ("source_image", _another_frame),
    ("source_image", _not_in_place),
    ("source_image", _set("SOPInstanceUID", "2.25.5")),
    ("referenced_series", _drop("ReferencedSeriesSequence")),
    ("referenced_series", _other_series_list),
    ("frame_of_reference", _drop("FrameOfReferenceUID")),
    ("derivation_code", _drop("DerivationCodeSequence")),
    ("derivation_code", _other_step),
    ("derivation_code", _drop("CodingSchemeIdentificationSequence")),
    ("own_equipment", _set("Manufacturer", "Scanner Works")),
    ("own_equipment", _set("ManufacturerModelName", "Model S")),
    ("own_equipment", _set("SoftwareVersions", ["0.1.0", "model builtin"])),
    ("own_equipment", _drop("SoftwareVersions")),
    ("image_plane", _drop("ImagePositionPatient")),
    ("image_plane", _drop("ImageOrientationPatient")),
    ("image_plane", _drop("PixelSpacing")),
    ("pixel_format", _set("BitsStored", 16)),
    ("pixel_format", _set("PixelRepresentation", 1)),
    ("pixel_format", _set("PhotometricInterpretation", "MONOCHROME1")),
    ("pixel_format", _too_bright),
    ("fixed_scale", _own_windows),
    ("fixed_scale", _drop("WindowCenter")),
    ("fixed_scale", _set("RescaleIntercept", "-1024")),
    ("fixed_scale", _set("RescaleType", "HU")),
    ("fixed_scale", _set("PresentationLUTShape", "INVERSE")),
    ("burned_in_annotation", _drop("BurnedInAnnotation")),
    ("burned_in_annotation", _set("BurnedInAnnotation", "YES")),
    ("recognizable_visual_features", _drop("RecognizableVisualFeatures")),
    ("recognizable_visual_features", _set("RecognizableVisualFeatures", "YES")),
    ("not_an_acquisition", _measured),
    ("no_acquisition_parameters", _set("EchoTime", "85")),
    ("no_acquisition_parameters", _set("RepetitionTime", "4000")),
    ("no_acquisition_parameters", _set("MagneticFieldStrength", "3")),
    ("no_acquisition_parameters", _set("InversionTime", "100")),
    ("private_record", _no_private_block),
    ("private_record", _private(0x1001, "ef" * 32)),
    ("private_record", _private(0x1002, "")),
    ("private_record", _private(0x1003, "no record")),
    ("private_record", _private(0x1003, "[]")),
    ("private_record", _other_hash_in_record),
    ("private_record", _no_training_in_record),
    ("watermark", _faint_watermark),
    ("watermark", _one_dot_less),
    ("watermark", _shortened_pixels),
    ("watermark", _drop("PixelData")),
    ("no_diffusion_attributes", _set("DiffusionBValue", 1000.0)),
    ("no_diffusion_attributes", _nested_b_value),
    ("no_diffusion_attributes", _diffusion_image_type),
    ("no_foreign_private_elements", _siemens_b_value),
    ("no_foreign_private_elements", _foreign_creator),
    ("training_in_series_description", _untold_in("SeriesDescription")),
    ("training_in_image_comments", _untold_in("ImageComments")),
    ("training_in_derivation_description", _untold_in("DerivationDescription")),
]


@pytest.fixture(params=["mr", "sc"])
def series(request, derived, derived_sc):
    return derived if request.param == "mr" else derived_sc


@pytest.fixture
def good(series):
    return series.instances[1].path.read_bytes(), series.label_facts


def test_every_mark_has_a_removal():
    assert {mark for mark, _ in REMOVALS} == set(MARKS)


def test_what_the_writer_makes_passes(series):
    for instance in series.instances:
        check_encoded(instance.path.read_bytes(), series.label_facts)


def test_the_class_has_to_be_the_one_that_the_job_promised(derived, derived_sc):
    promised = {"mr": derived.label_facts, "sc": derived_sc.label_facts}
    for made, other in ((derived, "sc"), (derived_sc, "mr")):
        missing = missing_marks(made.instances[0].path.read_bytes(), promised[other])
        assert missing == ("image_class", "source_image", "not_an_acquisition")


def test_a_job_record_that_is_older_than_the_choice_means_mr(derived):
    record = derived.label_facts.to_json()
    assert record.pop("object_kind") == "mr"
    check_encoded(derived.instances[0].path.read_bytes(), LabelFacts.from_json(record))


@pytest.mark.parametrize(("mark", "remove"), REMOVALS, ids=[f"{mark}-{n}" for n, (mark, _) in enumerate(REMOVALS)])
def test_removed_mark_is_the_one_that_is_named(good, mark, remove):
    data, facts = good
    ds = dcmread(BytesIO(data))
    remove(ds)
    changed = _encode(ds)
    assert missing_marks(changed, facts) == (mark,)
    with pytest.raises(Permanent) as caught:
        check_encoded(changed, facts)
    assert caught.value.code == "label_missing"
    assert mark in caught.value.reason
    assert caught.value.figures == {"missing": [mark]}


def test_encoding_the_object_again_keeps_it_valid(good):
    data, facts = good
    check_encoded(_encode(dcmread(BytesIO(data))), facts)


def test_implicit_vr_on_the_wire_keeps_it_valid(good):
    data, facts = good
    ds = dcmread(BytesIO(data))
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    check_encoded(_encode(ds), facts)


def test_a_measured_ct_lacks_nearly_every_mark(ct_paths, derived):
    missing = missing_marks(ct_paths[0].read_bytes(), derived.label_facts)
    assert {"synthetic_data", "image_type", "watermark", "source_image", "image_class"} <= set(missing)


def test_the_label_of_another_bundle_does_not_do(good):
    data, facts = good
    other = replace(facts, bundle_sha256="ef" * 32)
    assert missing_marks(data, other) == (
        *("derivation_description", "own_equipment", "contributing_equipment", "private_record"),
    )


def test_an_untrained_bundle_may_not_pass_as_a_phantom_one(ct_paths, out_folder):
    phantom = derive_series(request_for(ct_paths, PHANTOM_BUNDLE), out_folder)
    facts = LabelFacts.from_rules(UNTRAINED_BUNDLE, OutputSettings())
    missing = missing_marks(phantom.instances[0].path.read_bytes(), facts)
    assert set(missing) == {
        *("watermark", "private_record", "training_in_series_description"),
        *("training_in_image_comments", "training_in_derivation_description"),
    }


def test_a_bundle_of_patients_needs_no_training_mark(ct_paths, out_folder):
    derived = derive_series(request_for(ct_paths, PATIENT_BUNDLE), out_folder)
    assert missing_marks(derived.instances[0].path.read_bytes(), derived.label_facts) == ()


def test_watermark_is_not_asked_for_where_the_site_switched_it_off(ct_paths, out_folder):
    derived = derive_series(request_for(ct_paths, output=OutputSettings(watermark=False)), out_folder)
    data = derived.instances[0].path.read_bytes()
    check_encoded(data, derived.label_facts)
    assert missing_marks(data, LabelFacts.from_rules(PHANTOM_BUNDLE, OutputSettings())) == ("watermark",)


@pytest.mark.parametrize("data", [b"", b"DICM", bytes(128) + b"DICM", bytes(4096)])
def test_bytes_that_are_no_object_are_stopped(good, data):
    with pytest.raises(Permanent) as caught:
        check_encoded(data, good[1])
    assert caught.value.code in ("label_unreadable", "label_missing")


def test_cut_off_object_is_stopped(good):
    data, facts = good
    for end in (200, 900, len(data) - 100):
        with pytest.raises(Permanent):
            check_encoded(data[:end], facts)


def test_a_recompressed_object_is_stopped(good):
    data, facts = good
    changed = data.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1)
    assert changed != data
    assert missing_marks(changed, facts) == ("image_class",)
