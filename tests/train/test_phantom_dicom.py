"""Phantom as DICOM: geometry in every patient position, HU, UIDs, validity, and the clutter of a whole study.

Left out: what the node makes of these files (its own tests) and compressed transfer syntaxes (real files cover them).
"""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest

from train.data.phantom import PhantomCase, Tissue, generate_case
from train.data.phantom_dicom import (
    BONE_LOOK,
    Orientation,
    PhantomPatient,
    SeriesLook,
    phantom_uid,
    write_ct_series,
    write_study,
)


@cache
def case_of(tilt_deg: float = 0.0) -> PhantomCase:
    """A small slab with a lesion on the left."""
    return generate_case(3, "A", matrix=48, n_slices=5, lesion="mca_whole", side="left", tilt_deg=tilt_deg)


def hu_of(ds: pydicom.Dataset) -> np.ndarray:
    return ds.pixel_array.astype(int) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)


def position_of(ds: pydicom.Dataset, row: int, column: int) -> np.ndarray:
    """Centre of a pixel in patient coordinates (PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1)."""
    rows, columns = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(value) for value in ds.PixelSpacing)
    return np.array(ds.ImagePositionPatient, float) + rows * column_mm * column + columns * row_mm * row


@pytest.mark.parametrize("tilt_deg", [0.0, -18.5])
@pytest.mark.parametrize("orientation", list(Orientation))
def test_every_pixel_is_where_the_case_has_it(tmp_path: Path, orientation: Orientation, tilt_deg: float) -> None:
    case = case_of(tilt_deg)
    paths = write_ct_series(case, tmp_path, orientation=orientation)
    assert len(paths) == 5
    row_way, column_way = case.orientation
    rng = np.random.default_rng(1)
    for path in paths:
        ds = pydicom.dcmread(path)
        hu = hu_of(ds)
        for row, column in rng.integers(0, 48, (20, 2)):
            point = position_of(ds, row, column)
            s = int(np.argmin(np.abs((case.positions_mm - point) @ np.cross(row_way, column_way))))
            offset = point - case.positions_mm[s]
            r, c = offset @ column_way / case.spacing_mm[1], offset @ row_way / case.spacing_mm[2]
            assert (r, c) == pytest.approx((round(r), round(c)), abs=1e-3)
            assert hu[row, column] == case.ct_hu[s, round(r), round(c)]


@pytest.mark.parametrize(
    ("orientation", "rows", "position", "first_is_lowest"),
    [
        ("HFS", [1, 0, 0, 0, 1, 0], "HFS", True),
        ("FFS", [-1, 0, 0, 0, 1, 0], "FFS", False),
        ("HFP", [-1, 0, 0, 0, -1, 0], "HFP", True),
        ("FFP", [1, 0, 0, 0, -1, 0], "FFP", False),
        ("HFS_FLIPPED", [-1, 0, 0, 0, 1, 0], "HFS", True),
    ],
)
def test_orientation_as_a_scanner_writes_it(
    tmp_path: Path, orientation: str, rows: list[int], position: str, first_is_lowest: bool
) -> None:
    paths = write_ct_series(case_of(), tmp_path, orientation=orientation)  # type: ignore[arg-type]
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    assert [float(value) for value in headers[0].ImageOrientationPatient] == rows
    assert headers[0].PatientPosition == position
    heights = [float(ds.ImagePositionPatient[2]) for ds in headers]
    assert heights == sorted(heights, reverse=not first_is_lowest)
    assert [int(ds.InstanceNumber) for ds in headers] == [1, 2, 3, 4, 5]


def test_a_tilted_stack_moves_along_the_table(tmp_path: Path) -> None:
    headers = [pydicom.dcmread(path) for path in write_ct_series(case_of(-18.5), tmp_path)]
    steps = np.diff([[float(v) for v in ds.ImagePositionPatient] for ds in headers], axis=0)
    assert steps == pytest.approx(np.tile([0, 0, 5.0], (4, 1)), abs=1e-4)
    assert float(headers[0].GantryDetectorTilt) == -18.5


def test_pixels_are_twelve_bits_unsigned_with_the_usual_rescale(tmp_path: Path) -> None:
    ds = pydicom.dcmread(write_ct_series(case_of(), tmp_path)[2])
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation) == (16, 12, 11, 0)
    assert (float(ds.RescaleSlope), float(ds.RescaleIntercept), ds.RescaleType) == (1, -1024, "HU")
    assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
    assert np.array_equal(hu_of(ds), case_of().ct_hu[2])


def test_files_say_that_they_are_a_phantom(tmp_path: Path) -> None:
    ds = pydicom.dcmread(write_ct_series(case_of(), tmp_path)[0])
    assert ds.QualityControlImage == "YES"
    assert str(ds.PatientName) == "Phantom^Head"
    assert ds.PatientID.startswith("PHANTOM-")
    assert "phantom" in ds.ImageComments.lower()


def test_uids_depend_on_the_case_and_on_nothing_else(tmp_path: Path) -> None:
    def uids(folder: str, case: PhantomCase, **options: object) -> list[tuple[str, str, str, str]]:
        paths = write_ct_series(case, tmp_path / folder, **options)  # type: ignore[arg-type]
        found = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
        return [(d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID, d.SOPInstanceUID) for d in found]

    first = uids("a", case_of())
    assert first == uids("b", case_of())
    assert all(len(uid) <= 64 and uid.startswith("2.25.") for row in first for uid in row)
    assert len({row[3] for row in first}) == 5
    other = generate_case(4, "A", matrix=48, n_slices=5, lesion="mca_whole", side="left")
    assert not {uid for row in first for uid in row} & {uid for row in uids("c", other) for uid in row}
    turned = uids("d", case_of(), orientation="FFS")
    assert turned[0][0] == first[0][0]
    assert turned[0][1] != first[0][1]
    assert {row[0] for row in uids("e", case_of(), study_instance_uid="1.2.3")} == {"1.2.3"}
    assert phantom_uid(case_of(), "x") != phantom_uid(case_of(), "y")


def test_the_same_case_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_study(case_of(), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in one.paths] == [path.read_bytes() for path in two.paths]
    assert not list(tmp_path.rglob("*.part"))


def test_a_given_patient_is_written(tmp_path: Path) -> None:
    who = PhantomPatient("Other^Name", "ID7", "19500203", "F", "ACC9", "S5")
    ds = pydicom.dcmread(
        write_ct_series(case_of(), tmp_path, patient=who, series_description="X", look=SeriesLook(7))[0]
    )
    found = (str(ds.PatientName), ds.PatientID, ds.PatientBirthDate, ds.PatientSex, ds.AccessionNumber, ds.StudyID)
    assert found == ("Other^Name", "ID7", "19500203", "F", "ACC9", "S5")
    assert (ds.SeriesDescription, ds.SeriesNumber) == ("X", 7)


def test_a_larger_matrix_keeps_field_and_content(tmp_path: Path) -> None:
    ds = pydicom.dcmread(write_ct_series(case_of(), tmp_path, matrix=192)[2])
    assert (ds.Rows, ds.Columns) == (192, 192)
    assert float(ds.PixelSpacing[0]) * 192 == pytest.approx(230.4)
    # The field's corner, half a pixel outside the first pixel's centre, has not moved.
    corner = np.array(ds.ImagePositionPatient, float)[:2] - float(ds.PixelSpacing[0]) / 2
    assert corner == pytest.approx([-115.2, -115.2], abs=1e-4)
    shrunk = hu_of(ds).reshape(48, 4, 48, 4).mean(axis=(1, 3))
    assert np.corrcoef(shrunk.ravel(), case_of().ct_hu[2].ravel())[0, 1] > 0.98


def test_a_study_holds_what_a_scanner_sends(tmp_path: Path) -> None:
    study = write_study(case_of(), tmp_path)
    headers = [pydicom.dcmread(path) for path in study.paths]
    assert {ds.StudyInstanceUID for ds in headers} == {study.study_instance_uid}
    assert len({ds.SeriesInstanceUID for ds in headers}) == 4
    assert {ds.Modality for ds in headers} == {"CT"}
    assert [len(part) for part in (study.localizer, study.head, study.bone, study.dose)] == [1, 5, 5, 1]
    head, bone = (pydicom.dcmread(paths[1]) for paths in (study.head, study.bone))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
        assert head[keyword].value == bone[keyword].value
    assert head.ConvolutionKernel != bone.ConvolutionKernel == BONE_LOOK.kernel
    localizer, dose = headers[0], headers[-1]
    assert "LOCALIZER" in localizer.ImageType
    assert [float(v) for v in localizer.ImageOrientationPatient] == [0, 1, 0, 0, 0, -1]
    assert dose.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert "ImagePositionPatient" not in dose
    assert dose.pixel_array.max() > 3000


def test_the_bone_kernel_sharpens_edges_and_noise(tmp_path: Path) -> None:
    fine = generate_case(3, "A", matrix=192, n_slices=2)
    study = write_study(fine, tmp_path)
    soft, sharp = (hu_of(pydicom.dcmread(paths[0])) for paths in (study.head, study.bone))
    inside = fine.labels[0] == Tissue.WHITE_MATTER
    assert np.abs(np.diff(sharp, axis=1)).mean() > 1.2 * np.abs(np.diff(soft, axis=1)).mean()
    assert sharp[inside].std() > 1.2 * soft[inside].std()
    assert sharp[inside].mean() == pytest.approx(soft[inside].mean(), abs=2)


@pytest.mark.peers
@pytest.mark.parametrize("tilt_deg", [0.0, -18.5])
def test_an_independent_checker_finds_no_fault(tmp_path: Path, tilt_deg: float) -> None:
    checker = shutil.which("dciodvfy")
    if checker is None:
        pytest.skip("dicom3tools is not installed")
    study = write_study(case_of(tilt_deg), tmp_path, orientation="FFP")
    for path in (study.localizer[0], study.head[0], study.bone[-1], study.dose[0]):
        said = subprocess.run([checker, str(path)], capture_output=True, text=True, check=False).stderr
        assert "Error" not in said, said
        assert "Warning" not in said, said
