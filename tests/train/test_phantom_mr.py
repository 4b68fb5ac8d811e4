"""Diffusion MR of the phantom as DICOM: geometry against the CT, pixels, b values as vendors store them, validity.

Left out: how readers of archives find and read such pairs (their own tests).
"""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest

from train.data.phantom import PhantomCase, generate_case
from train.data.phantom_mr import PairMotion, Vendor, pair_motion, write_dwi_series, write_pair


@cache
def case_of() -> PhantomCase:
    """A small slab with a lesion on the left."""
    return generate_case(3, "A", matrix=64, n_slices=4, lesion="mca_whole", side="left")


def read(paths: list[Path] | tuple[Path, ...]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in paths]


def test_every_pixel_is_where_the_motion_puts_it(tmp_path: Path) -> None:
    case, moved = case_of(), pair_motion(case_of())
    for ds, s in zip(read(write_dwi_series(case, tmp_path, matrix=64)), [0, 1, 2, 3] * 2, strict=True):
        rows, columns = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        step_r, step_c = (float(value) for value in ds.PixelSpacing)
        volume = case.b0 if ds.DiffusionBValue == 0 else case.dwi
        assert np.array_equal(ds.pixel_array, np.rint(volume[s]))
        for r, c in ((0, 0), (10, 50), (63, 63)):
            mr = np.array(ds.ImagePositionPatient, float) + columns * step_r * r + rows * step_c * c
            true = case.positions_mm[s] + case.spacing_mm[1] * (case.orientation[1] * r + case.orientation[0] * c)
            assert moved.to_ct(mr) == pytest.approx(true, abs=1e-3)
            assert mr == pytest.approx(moved.rotation @ true + moved.translation_mm, abs=1e-3)


def test_the_tables_differ_by_a_small_true_rotation() -> None:
    moved = [pair_motion(generate_case(seed, "B", matrix=16, n_slices=2)) for seed in range(6)]
    for motion in moved:
        assert motion.rotation @ motion.rotation.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(motion.rotation) == pytest.approx(1)
        angle = np.rad2deg(np.arccos((np.trace(motion.rotation) - 1) / 2))
        assert 0.2 < angle < 9
        assert np.abs(motion.translation_mm).max() <= 10
    assert len({motion.translation_mm.tobytes() for motion in moved}) == 6


def test_a_coarser_matrix_keeps_the_field(tmp_path: Path) -> None:
    still = PairMotion(np.eye(3), np.zeros(3))
    ds = read(write_dwi_series(case_of(), tmp_path, motion=still))[-1]
    assert (ds.Rows, ds.Columns) == (40, 40)
    pixel = float(ds.PixelSpacing[0])
    assert pixel * 40 == pytest.approx(230.4)
    assert np.array(ds.ImagePositionPatient, float)[:2] - pixel / 2 == pytest.approx([-115.2, -115.2], abs=1e-4)
    ours = ds.pixel_array.astype(float)
    expected = case_of().dwi[3].astype(float)
    # Means over the 8 x 8 blocks that both matrices share.
    blocks = ours.reshape(8, 5, 8, 5).mean(axis=(1, 3)), expected.reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert np.corrcoef(blocks[0].ravel(), blocks[1].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("vendor", list(Vendor))
def test_the_b_value_stands_only_where_the_vendor_puts_it(tmp_path: Path, vendor: Vendor) -> None:
    headers = read(write_dwi_series(case_of(), tmp_path, vendor=vendor))
    low, high = headers[:4], headers[4:]
    standard = [("DiffusionBValue" in ds) for ds in (low[0], high[0])]
    assert (
        standard
        == {
            Vendor.STANDARD: [True, True],
            Vendor.GE: [False, False],
            Vendor.SIEMENS: [False, False],
            Vendor.TOSHIBA: [False, True],
        }[vendor]
    )
    private = {(e.tag.group, e.tag.element): e.value for e in high[0] if e.tag.is_private}
    if vendor is Vendor.GE:
        assert private[(0x0043, 0x0010)] == "GEMS_PARM_01"
        assert [int(v) for v in private[(0x0043, 0x1039)]] == [1_000_001_000, 8, 0, 0]
    elif vendor is Vendor.SIEMENS:
        assert private[(0x0019, 0x0010)] == "SIEMENS MR HEADER"
        assert int(private[(0x0019, 0x100C)]) == 1000
        assert int(low[0][0x0019, 0x100C].value) == 0
    else:
        assert private == {}
        assert high[0].DiffusionBValue == 1000.0


def test_one_series_or_two(tmp_path: Path) -> None:
    one = read(write_dwi_series(case_of(), tmp_path / "one"))
    two = read(write_dwi_series(case_of(), tmp_path / "two", series="two"))
    assert [len({ds.SeriesInstanceUID for ds in headers}) for headers in (one, two)] == [1, 2]
    assert [int(ds.InstanceNumber) for ds in one] == list(range(1, 9))
    assert [int(ds.InstanceNumber) for ds in two] == [1, 2, 3, 4] * 2
    assert len({ds.SOPInstanceUID for ds in one + two}) == 16
    assert len({ds.FrameOfReferenceUID for ds in one + two}) == 1


def test_a_pair_is_one_patient_in_two_frames(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    pair = write_pair(case_of(), tmp_path)
    ct, dwi = read(pair.ct)[0], read(pair.dwi)[0]
    assert ct.PatientID == dwi.PatientID
    assert (ct.Modality, dwi.Modality) == ("CT", "MR")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert ct[keyword].value != dwi[keyword].value
    mask = sitk.ReadImage(str(pair.lesion))
    assert np.array_equal(sitk.GetArrayFromImage(mask).astype(bool), case_of().lesion)
    # The mask lies on the CT: its origin is the first pixel of the lowest CT slice.
    assert mask.GetOrigin() == pytest.approx([float(v) for v in ct.ImagePositionPatient], abs=1e-4)
    again = write_pair(case_of(), tmp_path / "again")
    assert [path.read_bytes() for path in pair.dwi] == [path.read_bytes() for path in again.dwi]


def test_files_say_that_they_are_a_phantom(tmp_path: Path) -> None:
    for vendor in Vendor:
        ds = read(write_dwi_series(case_of(), tmp_path / vendor, vendor=vendor))[0]
        assert str(ds.PatientName) == "Phantom^Head"
        assert "phantom" in ds.ImageComments.lower()
        assert "phantom" in ds.ManufacturerModelName.lower()
        assert ds.QualityControlImage == "YES"


def test_wrong_orders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="philips"):
        write_dwi_series(case_of(), tmp_path, vendor="philips")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="series"):
        write_dwi_series(case_of(), tmp_path, series="three")  # type: ignore[arg-type]
    tilted = generate_case(3, "A", matrix=16, n_slices=2, tilt_deg=10.0)
    with pytest.raises(ValueError, match="tilt"):
        write_dwi_series(tilted, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.peers
@pytest.mark.parametrize("vendor", list(Vendor))
def test_an_independent_checker_finds_no_error(tmp_path: Path, vendor: Vendor) -> None:
    checker = shutil.which("dciodvfy")
    if checker is None:
        pytest.skip("dicom3tools is not installed")
    paths = write_dwi_series(case_of(), tmp_path, vendor=vendor)
    for path in (paths[0], paths[-1]):
        said = subprocess.run([checker, str(path)], capture_output=True, text=True, check=False).stderr
        assert "MRImage" in said
        assert "Error" not in said, said
