"""From frames of Enhanced CT to the derived series: planes, references by frame number, UIDs, lossy inheritance.

The series derived from the classic slices is the reference. Left out: reading the frames
(`tests/dicom_node/dicom/test_enhanced.py`), and objects of the classic kind (`test_derive_series.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.derive.writer import derive_series
from dicom_node.dicom.slices import read_headers
from dicom_node.errors import Permanent
from tests.dicom_node.derive.derive_cases import PLANE, raw_value, request_for
from tests.dicom_node.dicom.builders import ct_dataset, write
from tests.dicom_node.dicom.encoders import with_jpeg_2000
from tests.dicom_node.dicom.enhanced_cases import ENHANCED_CT, classic_stack, converted, enhanced_ct, stored

COUNT = 4


def _slices() -> list[Dataset]:
    return classic_stack(COUNT, pixels=np.arange(96 * 128, dtype=np.uint16).reshape(96, 128) % 2000)


@pytest.fixture
def enhanced(tmp_path):
    return write(enhanced_ct(_slices()), tmp_path / "enhanced.dcm")


@pytest.fixture
def classic(tmp_path):
    return tuple(write(one, tmp_path / f"{k}.dcm") for k, one in enumerate(_slices()))


def _derive(path: Path, out: Path, frames: tuple[int, ...] = (1, 2, 3, 4), **changes):
    return derive_series(request_for((path,) * len(frames), source_frames=frames, **changes), out)


def test_each_image_lies_where_its_frame_lies(enhanced, classic, out_folder, tmp_path):
    (tmp_path / "other").mkdir()
    derived, reference = _derive(enhanced, out_folder), derive_series(request_for(classic), tmp_path / "other")
    assert len({instance.sop_instance_uid for instance in derived.instances}) == COUNT
    for instance, wanted in zip(derived.instances, reference.instances, strict=True):
        for keyword in PLANE:
            if keyword in dcmread(wanted.path):
                assert raw_value(instance.path, keyword) == raw_value(wanted.path, keyword)
        ds, other = dcmread(instance.path), dcmread(wanted.path)
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientPosition"):
            assert ds[keyword].value == other[keyword].value
        np.testing.assert_array_equal(ds.pixel_array, other.pixel_array)
        assert "PerFrameFunctionalGroupsSequence" not in ds
        assert "NumberOfFrames" not in ds


def test_each_image_names_its_frame(enhanced, out_folder):
    source = dcmread(enhanced)
    derived = _derive(enhanced, out_folder, (4, 2, 1, 3))
    assert [instance.source_frame for instance in derived.instances] == [4, 2, 1, 3]
    for instance, number in zip(derived.instances, (4, 2, 1, 3), strict=True):
        ds = dcmread(instance.path)
        (image,) = ds.SourceImageSequence
        assert (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID) == (ENHANCED_CT, source.SOPInstanceUID)
        assert image.ReferencedFrameNumber == number
        assert image.SpatialLocationsPreserved == "YES"
        assert ds.InstanceNumber == number
        frame = source.PerFrameFunctionalGroupsSequence[number - 1]
        assert ds.ImagePositionPatient == frame.PlanePositionSequence[0].ImagePositionPatient
        assert (ds.AcquisitionDate, ds.AcquisitionTime) == ("20240102", f"101{number}12.5")


def test_neighbours_are_frames_too_and_the_instance_is_listed_once(enhanced, out_folder):
    slabs = ((0, 1), (0, 1, 2), (1, 2, 3), (2, 3))
    derived = _derive(enhanced, out_folder, source_slices=slabs)
    ds = dcmread(derived.instances[1].path)
    assert [item.ReferencedFrameNumber for item in ds.SourceImageSequence] == [2, 1, 3]
    assert ["SpatialLocationsPreserved" in item for item in ds.SourceImageSequence] == [True, False, False]
    (series,) = ds.ReferencedSeriesSequence
    assert len(series.ReferencedInstanceSequence) == 1
    assert "ReferencedFrameNumber" not in series.ReferencedInstanceSequence[0]


def test_the_uids_follow_from_the_frames(enhanced, out_folder):
    first = _derive(enhanced, out_folder)
    assert _derive(enhanced, out_folder) == first
    fewer = _derive(enhanced, out_folder, (1, 2, 3))
    assert fewer.series_instance_uid != first.series_instance_uid


def test_frames_beside_classic_slices(enhanced, tmp_path, out_folder):
    classic = write(
        ct_dataset(9, position=(-120.0, -130.0, 20.0), rows=96, columns=128, series="classic"), tmp_path / "classic.dcm"
    )
    request = request_for((enhanced, enhanced, classic), source_frames=(3, 4, None))
    derived = derive_series(request, out_folder)
    images = [dcmread(instance.path).SourceImageSequence[0] for instance in derived.instances]
    assert [image.get("ReferencedFrameNumber") for image in images] == [3, 4, None]


def test_a_lossy_object_is_declared_with_the_ratio_over_all_frames(tmp_path, out_folder):
    dataset = enhanced_ct(_slices())
    plain = len(dataset.PixelData)
    path = with_jpeg_2000(dataset, stored(dataset), tmp_path / "lossy.dcm", 16, ratio=8)
    for instance in _derive(path, out_folder).instances:
        ds = dcmread(instance.path)
        assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
        assert float(ds.LossyImageCompressionRatio) == pytest.approx(plain / len(dataset.PixelData), rel=0.1)


@pytest.mark.parametrize("frames", [(1, 2, 3), (1, 2, 3, 9), (1, 2, 3, 0)])
def test_frames_that_do_not_fit_are_refused(enhanced, out_folder, frames):
    with pytest.raises(Permanent) as caught:
        derive_series(request_for((enhanced,) * COUNT, source_frames=frames), out_folder)
    assert caught.value.code in {"derive_request", "unreadable"}
    assert list(out_folder.iterdir()) == []


def test_a_converted_real_series_gives_the_planes_of_the_ct(shared_data, tmp_path, out_folder):
    paths = tuple(sorted((shared_data / "ge_head_ct").iterdir()))[:6]
    frames = read_headers(converted(paths, tmp_path / "converted.dcm"))
    placed = {frame.image_position_patient: frame.frame_number for frame in frames}
    order = tuple(placed[tuple(float(v) for v in dcmread(path).ImagePositionPatient)] for path in paths)
    derived = _derive(tmp_path / "converted.dcm", out_folder, order)
    for instance, source in zip(derived.instances, paths, strict=True):
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
            np.testing.assert_allclose(
                np.atleast_1d(dcmread(instance.path)[keyword].value).astype(float),
                np.atleast_1d(dcmread(source)[keyword].value).astype(float),
                atol=1e-9,
            )
        assert raw_value(instance.path, "PatientName") == raw_value(source, "PatientName")
