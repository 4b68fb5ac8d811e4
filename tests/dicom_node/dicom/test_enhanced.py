"""Enhanced CT and Legacy Converted Enhanced CT as input: header, choice, gate and Hounsfield units of every frame.

The classic slices are the reference: highdicom converts real series, and a made-up Enhanced CT object is taken apart
again. Left out: what is derived (`tests/dicom_node/derive/test_derive_enhanced.py`).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from dicom_node.dicom.choice import choose_series
from dicom_node.dicom.gate import check_stack
from dicom_node.dicom.pixels import load_volume, pixel_digest, read_hu
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings
from dicom_node.dicom.slices import read_headers, read_slices
from dicom_node.dicom.values import InstanceKind, SliceHeader, read_header
from dicom_node.errors import Permanent
from tests.dicom_node.dicom.builders import ct_dataset, write
from tests.dicom_node.dicom.encoders import with_jpeg_2000
from tests.dicom_node.dicom.enhanced_cases import (
    LEGACY_CONVERTED_CT,
    classic_stack,
    code,
    converted,
    enhanced_ct,
    item,
    stored,
)


def _gate(headers):
    return check_stack(headers, GeometrySettings(), pixel_digest=pixel_digest)


def _verdict(headers):
    return choose_series({"1": headers}, SelectionSettings())[0]


# --- made by hand ------------------------------------------------------------------------------------------------


def test_every_frame_is_the_slice_that_it_would_have_been(tmp_path: Path) -> None:
    slices = classic_stack()
    frames = read_headers(write(enhanced_ct(slices), tmp_path / "a.dcm"))
    assert len(frames) == len(slices)
    own = {"path", "sop_instance_uid", "sop_class_uid", "series_instance_uid", "number_of_frames", "frame_number"}
    for number, (frame, dataset) in enumerate(zip(frames, slices, strict=True), start=1):
        classic = read_header(write(dataset, tmp_path / "classic.dcm"))
        assert (frame.frame_number, frame.number_of_frames, frame.kind) == (number, 24, InstanceKind.IMAGE)
        for name in SliceHeader.__dataclass_fields__:
            wanted = (*classic.image_type, "NONE") if name == "image_type" else getattr(classic, name)
            assert name in own or getattr(frame, name) == wanted, name


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_hounsfield_units_with_the_rescale_of_each_frame(tmp_path: Path, syntax) -> None:
    slices = classic_stack(6)
    expected = np.stack([read_hu(one) for one in slices])
    dataset = enhanced_ct(slices)
    if syntax == RLELossless:
        dataset.compress(syntax)
    elif syntax is not None:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    path = write(dataset, tmp_path / "a.dcm")
    headers = read_headers(path)
    np.testing.assert_array_equal(load_volume(headers).hu, expected)
    np.testing.assert_array_equal(read_hu(path, 4), expected[3])
    assert len({pixel_digest(header) for header in headers}) == 6


def test_frames_in_any_order_and_a_signed_code_stream(tmp_path: Path) -> None:
    slices = classic_stack(8, rows=40, columns=32)
    dataset = enhanced_ct([slices[k] for k in (3, 0, 7, 1, 2, 6, 5, 4)])
    samples = stored(dataset).astype(np.int16) - 500
    path = with_jpeg_2000(dataset, samples, tmp_path / "a.dcm", 16)
    outcome = check_stack(read_headers(path), GeometrySettings(min_coverage_mm=30), pixel_digest=pixel_digest)
    assert [header.frame_number for header in outcome.headers] == [2, 4, 5, 1, 8, 7, 6, 3]
    expected = np.stack([read_hu(one) - 500 for one in slices])
    np.testing.assert_array_equal(load_volume(outcome.headers).hu, expected)


def test_choice_and_gate_take_it_for_a_head(tmp_path: Path) -> None:
    headers = read_headers(write(enhanced_ct(classic_stack()), tmp_path / "a.dcm"))
    assert _verdict(headers).code == "chosen"
    outcome = _gate(headers)
    assert (outcome.code, outcome.figures["slice_count"], outcome.figures["coverage_mm"]) == (None, 24, 120.0)


def test_two_objects_of_one_series_are_one_stack(tmp_path: Path) -> None:
    slices = classic_stack()
    headers: list[SliceHeader] = []
    for name, part in (("first", slices[:12]), ("second", slices[12:])):
        dataset = enhanced_ct(part, name=name)
        dataset.SeriesInstanceUID = "1.2.3"
        dataset.ConcatenationFrameOffsetNumber = 0 if name == "first" else 12
        headers += read_headers(write(dataset, tmp_path / f"{name}.dcm"))
    assert [header.instance_number for header in headers] == list(range(1, 25))
    outcome = _gate(headers)
    assert outcome.figures["slice_count"] == 24
    np.testing.assert_array_equal(load_volume(outcome.headers).hu, np.stack([read_hu(one) for one in slices]))


def test_a_localizer_among_the_frames_is_dropped(tmp_path: Path) -> None:
    def scout(dataset: Dataset) -> None:
        frame = dataset.PerFrameFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0]
        frame.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]

    headers = read_headers(write(enhanced_ct(classic_stack(26), scout), tmp_path / "a.dcm"))
    assert headers[0].kind is InstanceKind.LOCALIZER
    outcome = _gate(headers)
    assert outcome.figures["slice_count"] == 25
    assert outcome.figures["dropped_non_images"] == 1


def test_contrast_and_another_region_are_told_from_codes(tmp_path: Path) -> None:
    def contrast(dataset: Dataset) -> None:
        dataset.ContrastBolusAgentSequence = [code("C-B0317", "SRT", "Iohexol")]

    def before_contrast(dataset: Dataset) -> None:
        contrast(dataset)
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.ContrastBolusUsageSequence = [item(ContrastBolusAgentNumber=1, ContrastBolusAgentAdministered="NO")]

    def chest(dataset: Dataset) -> None:
        anatomy = dataset.SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0]
        anatomy.AnatomicRegionSequence = [code("51185008", "SCT", "Chest")]

    codes = {}
    for change in (contrast, before_contrast, chest):
        path = write(enhanced_ct(classic_stack(), change), tmp_path / f"{change.__name__}.dcm")
        codes[change.__name__] = _verdict(read_headers(path)).code
    assert codes == {"contrast": "contrast", "before_contrast": "chosen", "chest": "not_head"}


def _fewer_groups(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[-1]


def _no_groups(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence


def _more_frames(dataset: Dataset) -> None:
    dataset.NumberOfFrames = 2000


@pytest.mark.parametrize("change", [_fewer_groups, _no_groups, _more_frames])
def test_frames_that_cannot_be_told_apart_are_kept_and_named(tmp_path: Path, change) -> None:
    (header,) = read_headers(write(enhanced_ct(classic_stack(), change), tmp_path / "a.dcm"))
    assert header.kind is InstanceKind.ENHANCED
    assert header.issues[-1].startswith("PerFrameFunctionalGroupsSequence: ")
    assert _verdict([header]).code == "enhanced_not_processed"


def test_frames_without_a_plane_are_refused_by_the_gate(tmp_path: Path) -> None:
    def drop(dataset: Dataset) -> None:
        for group in dataset.PerFrameFunctionalGroupsSequence:
            del group.PlanePositionSequence

    headers = read_headers(write(enhanced_ct(classic_stack(), drop), tmp_path / "a.dcm"))
    assert _gate(headers).code == "no_position"


def test_a_frame_without_rescale_is_named(tmp_path: Path) -> None:
    def drop(dataset: Dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence

    headers = read_headers(write(enhanced_ct(classic_stack(6), drop), tmp_path / "a.dcm"))
    assert headers[0].issues == ()
    assert headers[2].issues == ("RescaleIntercept: missing, 0 assumed", "RescaleSlope: missing, 1 assumed")


def test_broken_functional_groups_are_named(tmp_path: Path) -> None:
    path = write(enhanced_ct(classic_stack(6)), tmp_path / "a.dcm")
    whole = bytearray(path.read_bytes())
    start = whole.index(struct.pack("<HH", 0x5200, 0x9230) + b"SQ")
    (length,) = struct.unpack_from("<I", whole, start + 8)
    whole[start + 12 : start + 12 + length] = b"\xff" * length
    path.write_bytes(whole)
    (header,) = read_headers(path)
    assert header.kind is InstanceKind.ENHANCED
    assert header.issues


def test_truncated_frames_tell_how_many_bytes_are_there(tmp_path: Path) -> None:
    path = write(enhanced_ct(classic_stack(6)), tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Permanent) as caught:
        read_hu(path, 6)
    assert caught.value.figures == {"expected_bytes": 6 * 512, "actual_bytes": 6 * 512 - 100}


@pytest.mark.parametrize("number", [0, 7])
def test_a_frame_that_is_not_there(tmp_path: Path, number: int) -> None:
    path = write(enhanced_ct(classic_stack(6)), tmp_path / "a.dcm")
    with pytest.raises(Permanent, match="no such frame"):
        read_hu(path, number)
    with pytest.raises(Permanent, match="no such frame"):
        read_slices([path], [number])
    with pytest.raises(Permanent, match="single-frame"):
        read_hu(path)


def test_slices_are_read_by_file_and_frame(tmp_path: Path) -> None:
    enhanced = write(enhanced_ct(classic_stack(6)), tmp_path / "a.dcm")
    classic = write(ct_dataset(), tmp_path / "b.dcm")
    headers = read_slices([enhanced, enhanced, classic], [5, 2, None])
    assert [header.frame_number for header in headers] == [5, 2, None]
    assert read_slices([classic]) == (read_header(classic),)


# --- converted by highdicom --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["ge_head_ct", "philips_study"])
def legacy(request, shared_data, tmp_path_factory):
    """Every second slice of a real series, and the object that highdicom makes of these."""
    headers = [read_header(path) for path in sorted((shared_data / request.param).iterdir())]
    images = [header for header in headers if header.kind is InstanceKind.IMAGE][::2]
    path = converted([header.path for header in images], tmp_path_factory.mktemp("legacy") / "a.dcm")
    return images, read_headers(path)


def test_a_converted_series_has_the_gate_and_the_pixels_of_the_original(legacy) -> None:
    classic, frames = legacy
    assert {frame.sop_class_uid for frame in frames} == {LEGACY_CONVERTED_CT}
    wide = GeometrySettings(max_gap_factor=4.0)
    one, other = (check_stack(headers, wide, pixel_digest=pixel_digest) for headers in (classic, frames))
    assert one.code is None
    assert (other.status, other.notes, other.figures) == (one.status, one.notes, one.figures)
    expected, found = load_volume(one.headers), load_volume(other.headers)
    np.testing.assert_array_equal(found.hu, expected.hu)
    np.testing.assert_array_equal(found.positions_mm, expected.positions_mm)
    np.testing.assert_array_equal(found.thickness_mm, expected.thickness_mm)


def test_a_converted_series_keeps_what_the_choice_asks(legacy) -> None:
    classic, frames = legacy
    for name in ("convolution_kernel", "body_part_examined", "contrast_bolus", "patient_position", "patient_key"):
        assert {getattr(frame, name) for frame in frames} == {getattr(one, name) for one in classic}, name


def test_a_converted_contrast_series_is_still_one(tmp_path: Path) -> None:
    paths = [
        write(one, tmp_path / f"{k}.dcm")
        for k, one in enumerate(classic_stack(12, ContrastBolusAgent="Iomeron 400", StudyDate="20240102"))
    ]
    frames = read_headers(converted(paths, tmp_path / "converted.dcm"))
    assert len(frames) == 12
    assert all(frame.contrast_bolus for frame in frames)
