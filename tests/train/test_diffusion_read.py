"""Reading diffusion series: which frames make which volume, their mean, and where they lie in the patient.

Covers generated series (mean over directions, missing and damaged slices, repetitions, Enhanced MR, Philips' scale,
mosaics with either normal, series without b value, bad geometry). Leaves out real series (`test_diffusion_real`), the
choice of a series and CT (`test_diffusion_pair`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from diffusion_cases import (
    SIZE,
    STEP_MM,
    csa_bytes,
    enhanced_dataset,
    expected,
    mosaic_dataset,
    mr_dataset,
    pattern,
    private,
    read,
    refused,
    values,
    write_volumes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from tests.dicom_node.dicom.builders import write
from train.data.diffusion import DiffusionError, find_series, read_diffusion

X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


# --- averages ----------------------------------------------------------------------------------------------------


def test_highest_b_value_is_averaged_and_b0_kept_apart(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(0, None, 200), (500, X, 90), (1000, X, 30), (1005, Y, 40), (995, Z, 80), (0, None, 220)])
    found = read(tmp_path)
    np.testing.assert_allclose(values(found.dwi), (expected(30) + expected(40) + expected(80)) / 3, rtol=1e-6)
    np.testing.assert_allclose(values(found.b0), expected(210))
    assert (found.b_value, found.n_directions, found.target_kind) == (1000.0, 3, "dwi")
    assert found.dwi.GetPixelID() == sitk.sitkFloat32
    assert found.dwi.GetSpacing() == pytest.approx((3.0, 2.0, STEP_MM))
    assert found.dwi.GetOrigin() == pytest.approx((-14.0, -16.0, 0.0))


def test_another_b_value_can_be_asked_for(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(0, None, 200), (1000, X, 90), (3000, X, 30)])
    found = read(tmp_path, b_value=1000.0)
    np.testing.assert_allclose(values(found.dwi), expected(90))
    error = refused(tmp_path, b_value=2000.0)
    assert (error.code, "0, 1000, 3000" in error.reason) == ("no_b_value", True)


def test_missing_b_value_beside_others_is_b0(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(None, None, 200), (1000, X, 30)])
    found = read(tmp_path)
    np.testing.assert_allclose(values(found.b0), expected(200))
    assert any("taken as b = 0" in note for note in found.notes)


def test_direction_with_a_missing_slice_is_left_out(tmp_path: Path) -> None:
    paths = write_volumes(tmp_path, [(0, None, 200), (1000, X, 30), (1000, Y, 500)])
    paths[-2].unlink()
    found = read(tmp_path)
    np.testing.assert_allclose(values(found.dwi), expected(30))
    assert found.n_directions == 1
    assert any("1 weighted volumes left out: a slice is missing" in note for note in found.notes)


def test_direction_with_damaged_pixels_is_left_out(tmp_path: Path) -> None:
    paths = write_volumes(tmp_path, [(0, None, 200), (1000, X, 30), (1000, Y, 500)])
    paths[-1].write_bytes(paths[-1].read_bytes()[:-40])
    found = read(tmp_path)
    np.testing.assert_allclose(values(found.dwi), expected(30))
    assert any("pixels could not be read" in note for note in found.notes)


def test_series_without_a_readable_volume_is_refused(tmp_path: Path) -> None:
    for path in write_volumes(tmp_path, [(1000, X, 30)]):
        path.write_bytes(path.read_bytes()[:-40])
    assert refused(tmp_path).code == "unreadable"


def test_scanner_average_goes_before_single_directions(tmp_path: Path) -> None:
    frames = [(STEP_MM * k, 0.0, "NONE", None, 200 + 10 * k) for k in range(3)]
    frames += [(STEP_MM * k, 1000.0, "DIRECTIONAL", X, 30 + 10 * k) for k in range(3)]
    frames += [(STEP_MM * k, 1000.0, "ISOTROPIC", None, 60 + 10 * k) for k in range(3)]
    write(enhanced_dataset(frames), tmp_path / "one")
    found = read(tmp_path)
    # Enhanced frames have slope 2 and intercept 1.
    np.testing.assert_allclose(values(found.dwi), 2 * expected(60) + 1)
    np.testing.assert_allclose(values(found.b0), 2 * expected(200) + 1)
    assert found.n_directions == 1
    assert found.dwi.GetSpacing() == pytest.approx((3.0, 2.0, STEP_MM))
    assert any("own average" in note for note in found.notes)


@settings(max_examples=8)
@given(st.permutations(range(12)))
def test_order_of_files_does_not_matter(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    folder = tmp_path_factory.mktemp("shuffled")
    paths = write_volumes(folder, [(0, None, 200), (1000, X, 30), (1000, None, 50), (1000, None, 70)])
    for path, place in zip(paths, order, strict=True):
        path.rename(folder / f"{place:02d}")
    found = read(folder)
    assert found.n_directions == 3
    np.testing.assert_allclose(values(found.dwi), expected(50))


def test_philips_signal_does_not_depend_on_the_rescale_of_an_image(tmp_path: Path) -> None:
    # One signal stored in two ways: (stored * slope + intercept) = signal * slope * scale, with intercept = 2 slope.
    signal = 4 * pattern(60)
    for k in range(3):
        for number, (slope, scale) in enumerate(((2.0, 0.5), (4.0, 0.25))):
            stored = (signal * scale).astype(np.uint16) - 2
            ds = mr_dataset(10 * number + k, z_mm=STEP_MM * k, b_value=1000, direction=(X, Y)[number], pixels=stored)
            ds.RescaleSlope, ds.RescaleIntercept = f"{slope:g}", f"{2 * slope:g}"
            private(ds, 0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", scale)
            write(ds, tmp_path / f"{number}-{k}")
    found = read(tmp_path)
    np.testing.assert_array_equal(values(found.dwi), np.stack([signal] * 3))
    assert found.n_directions == 2


def test_philips_enhanced_scale_stands_in_the_frame(tmp_path: Path) -> None:
    ds = enhanced_dataset([(STEP_MM * k, 1000.0, "DIRECTIONAL", X, 30 + 10 * k) for k in range(3)])
    for group in ds.PerFrameFunctionalGroupsSequence:
        inner = private(Dataset(), 0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", 0.25)
        private(group, 0x2005, "Philips MR Imaging DD 005", 0x0F, "SQ", [inner])
    write(ds, tmp_path / "one")
    # Slope 2, intercept 1: signal = (2 * stored + 1) / (2 * 0.25).
    np.testing.assert_allclose(values(read(tmp_path).dwi), (2 * expected(30) + 1) / 0.5)


def test_maps_inside_a_weighted_series_are_not_averaged(tmp_path: Path) -> None:
    write_volumes(tmp_path / "dwi", [(0, None, 200), (1000, X, 30)])
    adc = {"image_type": ("DERIVED", "PRIMARY", "DIFFUSION", "ADC"), "b_value": 1000}
    for k in range(3):
        write(mr_dataset(50 + k, z_mm=STEP_MM * k, level=900, **adc), tmp_path / "adc" / str(k))
    np.testing.assert_allclose(values(read(tmp_path).dwi), expected(30))


def test_incomplete_b0_is_left_out(tmp_path: Path) -> None:
    paths = write_volumes(tmp_path, [(0, None, 200), (1000, X, 30)], n_slices=4)
    paths[1].unlink()
    found = read(tmp_path)
    assert found.b0 is None
    assert "no b = 0 volume (geometry)" in found.notes


def test_files_lost_after_they_were_found(tmp_path: Path) -> None:
    paths = write_volumes(tmp_path, [(1000, X, 30), (1000, Y, 500)])
    (series,) = find_series(tmp_path)
    paths[4].unlink()
    found = read_diffusion(series)
    np.testing.assert_allclose(values(found.dwi), expected(30))
    assert "1 files could not be read" in found.notes
    for path in paths:
        path.unlink(missing_ok=True)
    with pytest.raises(DiffusionError, match="unreadable: no image"):
        read_diffusion(series)


def test_two_adc_maps_in_one_series_are_refused(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(None, None, 700), (None, None, 800)], image_type=("DERIVED", "PRIMARY", "ADC"))
    assert refused(tmp_path).code == "geometry"


def test_adc_map_is_read_in_its_own_units(tmp_path: Path) -> None:
    write_volumes(
        tmp_path,
        [(None, None, 700)],
        image_type=("DERIVED", "PRIMARY", "ADC"),
        RescaleSlope="0.5",
        RescaleIntercept="0",
    )
    found = read(tmp_path)
    assert (found.target_kind, found.b_value, found.b0) == ("adc", None, None)
    np.testing.assert_allclose(values(found.dwi), 0.5 * expected(700))


# --- no b value --------------------------------------------------------------------------------------------------


def head(*, fluid: float, tissue: float) -> np.ndarray:
    """A head of 4 x 6 px of tissue with two pixels of fluid, on an empty ground."""
    image = np.zeros((SIZE, SIZE), dtype=np.uint16)
    image[2:6, 1:7] = int(tissue)
    image[3, 3:5] = int(fluid)
    return image


def write_unlabelled(folder: Path, contrasts: list[tuple[float, float]]) -> None:
    for v, (fluid, tissue) in enumerate(contrasts):
        for k in range(3):
            ds = mr_dataset(10 * v + k, z_mm=STEP_MM * k, pixels=head(fluid=fluid, tissue=tissue + k))
            write(ds, folder / f"{v}-{k}")


def test_mixed_volumes_without_b_value_need_leave(tmp_path: Path) -> None:
    write_unlabelled(tmp_path, [(900, 300), (60, 150)])
    error = refused(tmp_path)
    assert error.code == "no_b_value"
    assert "2 mixed volumes and no b value" in error.reason
    found = read(tmp_path, guess_without_b_value=True)
    assert values(found.dwi)[0, 3, 3] == 60
    assert values(found.b0)[0, 3, 3] == 900
    assert (found.b_value, found.n_directions) == (None, 1)
    assert any("darkest fluid" in note for note in found.notes)
    # Whoever names the b value vouches that a weighted volume is there.
    assert read(tmp_path, b_value=1000.0).b_value == 1000.0


def test_volumes_that_look_alike_are_not_guessed(tmp_path: Path) -> None:
    write_unlabelled(tmp_path, [(900, 300), (880, 310)])
    assert "looks diffusion weighted" in refused(tmp_path, guess_without_b_value=True).reason


def test_one_volume_without_b_value_takes_a_given_one(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(None, None, 30)])
    assert refused(tmp_path).code == "no_b_value"
    assert refused(tmp_path, guess_without_b_value=True).code == "no_b_value"
    found = read(tmp_path, b_value=1000.0)
    assert (found.b_value, found.n_directions) == (1000.0, 1)
    np.testing.assert_allclose(values(found.dwi), expected(30))


def test_series_of_b0_only_is_refused(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(0, None, 200)])
    assert refused(tmp_path).code == "no_b_value"


# --- geometry and values -----------------------------------------------------------------------------------------


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(0, None, 200), (1000, X, 30)], n_slices=1)
    assert refused(tmp_path).code == "one_slice"


def test_slice_missing_in_every_volume_is_a_gap(tmp_path: Path) -> None:
    for path in write_volumes(tmp_path, [(0, None, 200), (1000, X, 30)], n_slices=5):
        if path.name.endswith("s2"):
            path.unlink()
    error = refused(tmp_path)
    assert (error.code, error.figures["largest_mm"]) == ("geometry", 2 * STEP_MM)


@pytest.mark.parametrize(
    "change",
    [
        {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"PixelSpacing": [1, 1]},
        {"ImagePositionPatient": None},
    ],
    ids=["coronal", "no axes", "spacing", "no position"],
)
def test_frames_that_make_no_stack_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    paths = write_volumes(tmp_path, [(1000, X, 30)])
    ds = pydicom.dcmread(paths[0])
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    ds.save_as(paths[0])
    assert refused(tmp_path).code == "geometry"


def test_sheared_stack_is_refused(tmp_path: Path) -> None:
    for k, path in enumerate(write_volumes(tmp_path, [(1000, X, 30)])):
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient = [-14, -16 + 2 * k, STEP_MM * k]
        ds.save_as(path)
    assert refused(tmp_path).code == "geometry"


def test_signal_beyond_single_precision_is_not_finite(tmp_path: Path) -> None:
    for k in range(3):
        ds = mr_dataset(k, z_mm=STEP_MM * k, b_value=1000)
        write(private(ds, 0x2005, "Philips MR Imaging DD 001", 0x0E, "FL", 1e-44), tmp_path / str(k))
    assert refused(tmp_path).code == "not_finite"


def test_empty_images_are_refused(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(1000, X, 30)], PixelData=bytes(2 * SIZE * SIZE))
    assert refused(tmp_path).code == "unreadable"


def test_feet_first_stack_ascends_along_its_normal(tmp_path: Path) -> None:
    write_volumes(tmp_path, [(1000, X, 30)], ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    found = read(tmp_path)
    np.testing.assert_allclose(values(found.dwi), expected(30)[::-1])
    assert found.dwi.GetOrigin() == pytest.approx((-14.0, -16.0, 2 * STEP_MM))
    assert found.dwi.GetDirection()[8] == pytest.approx(-1.0)


# --- mosaics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1], ids=["along the normal", "against it"])
def test_mosaic_is_unfolded(sign: int, tmp_path: Path) -> None:
    tiles = [pattern(100 + 50 * k) for k in range(5)]
    mosaic = np.zeros((3 * SIZE, 3 * SIZE), dtype=np.uint16)
    for k, tile in enumerate(tiles):
        row, column = divmod(k, 3)
        mosaic[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE] = tile
    csa = csa_bytes(
        {"B_value": ["1000"], "NumberOfImagesInMosaic": ["5"], "SliceNormalVector": ["0", "0", str(float(sign))]}
    )
    # The true first pixel is at (-14, -16, 8); the header gives the corner of a slice as large as the mosaic.
    position = (-14.0 - 3.0 * SIZE, -16.0 - 2.0 * SIZE, 8.0)
    write(mosaic_dataset(5, csa=csa, position=position, pixels=mosaic), tmp_path / "one")
    found = read(tmp_path)
    assert found.dwi.GetSize() == (SIZE, SIZE, 5)
    for k, tile in enumerate(tiles):
        index = found.dwi.TransformPhysicalPointToIndex((-14.0, -16.0, 8.0 + sign * STEP_MM * k))
        assert index[:2] == (0, 0)
        np.testing.assert_allclose(values(found.dwi)[index[2]], tile)


def test_mosaic_of_unknown_count_is_skipped_as_broken(tmp_path: Path) -> None:
    pixels = np.zeros((3 * SIZE, 3 * SIZE), dtype=np.uint16)
    csa = csa_bytes({"B_value": ["1000"]})
    write(mosaic_dataset(5, csa=csa, position=(0, 0, 0), pixels=pixels), tmp_path / "one")
    assert find_series(tmp_path) == ()
