"""Images to `CtVolume`, single files, and the checks that all readers share.

Covers axis orders, obliqueness, uneven and tilted stacks, HU and windows, grids of labels, 4-D diffusion with b values,
NIfTI without affine, NaN. Leaves out whole archives (the other test_readers modules) and DICOM series (the diffusion
tests).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from jmmda_model.imaging.volume import CtVolume
from tests.train.lookalikes import image_of, small_case, write_nifti
from train.data.readers import CaseRefusedError, LayoutError, PairSource, ReaderOptions
from train.data.readers.image_files import (
    read_ct_file,
    read_diffusion_file,
    read_label_file,
    read_slice,
    read_volume_file,
)
from train.data.readers.pairs import PairParts, make_pair
from train.data.readers.volumes import (
    ct_volume_from_image,
    hounsfield,
    image_from_ct_volume,
    image_on_ct,
    same_grid_as_ct,
    same_grid_as_image,
)

SOURCE = PairSource("p1", "site", None, "nifti", {}, ("from the source",))
HU = ReaderOptions()


def refusal(code: str):
    return pytest.raises(CaseRefusedError, match=rf"^{code}: ")


@pytest.fixture
def case():
    return small_case()


@pytest.fixture
def ct(case) -> CtVolume:
    return case.ct_volume()


def parts_of(case, **changes) -> PairParts:
    lesion = image_of(case.lesion, case)
    return replace(PairParts(ct=case.ct_volume(), dwi=image_of(case.dwi, case), lesion=lesion), **changes)


# --- index order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["LPS", "RAS", "LAS", "RPI", "PIR", "ASL", "SLP"])
def test_a_ct_in_any_axis_order_becomes_the_same_volume(case, ct, code) -> None:
    stored = sitk.DICOMOrient(image_of(case.ct_hu, case), code)

    found = ct_volume_from_image(stored)

    np.testing.assert_array_equal(found.hu, ct.hu)
    np.testing.assert_allclose(found.positions_mm, ct.positions_mm, atol=1e-6)
    np.testing.assert_allclose(found.orientation, ct.orientation, atol=1e-9)
    assert found.spacing_mm == pytest.approx(ct.spacing_mm)


def test_a_left_handed_nifti_keeps_every_voxel_in_its_place(case, tmp_path: Path) -> None:
    marked = np.zeros_like(case.ct_hu)
    marked[7, 11, 50] = 900
    image = sitk.Flip(image_of(marked, case), (True, False, False))
    assert np.linalg.det(np.array(image.GetDirection()).reshape(3, 3)) < 0
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))

    found = ct_volume_from_image(read_volume_file(tmp_path / "ct.nii.gz"))

    (index,) = np.argwhere(found.hu == 900)
    rows_mm, columns_mm = found.spacing_mm
    place = found.positions_mm[index[0]] + index[2] * columns_mm * found.orientation[0]
    expected = image_of(marked, case).TransformIndexToPhysicalPoint((50, 11, 7))
    np.testing.assert_allclose(place + index[1] * rows_mm * found.orientation[1], expected, atol=1e-4)


def test_an_oblique_ct_keeps_its_angle(case) -> None:
    angle = np.deg2rad(12)
    image = image_of(case.ct_hu, case)
    image.SetDirection((1, 0, 0, 0, np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle)))

    found = ct_volume_from_image(image)

    assert np.degrees(np.arccos(found.normal[2])) == pytest.approx(12)
    for row, column, index in ((0, 0, 0), (20, 30, 7)):
        place = found.positions_mm[index] + column * found.spacing_mm[1] * found.orientation[0]
        place = place + row * found.spacing_mm[0] * found.orientation[1]
        np.testing.assert_allclose(place, image.TransformIndexToPhysicalPoint((column, row, index)), atol=1e-6)


def test_slices_that_are_not_axial_are_refused(case) -> None:
    image = image_of(case.ct_hu, case)
    angle = np.deg2rad(40)
    image.SetDirection((1, 0, 0, 0, np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle)))

    with refusal("geometry") as caught:
        ct_volume_from_image(image)

    assert caught.value.figures["tilt_deg"] == pytest.approx(40)


def test_one_slice_is_no_volume(case) -> None:
    with refusal("one_slice"):
        ct_volume_from_image(image_of(case.ct_hu[:1], case))


def test_a_ct_goes_to_an_image_and_back(ct) -> None:
    back = ct_volume_from_image(image_from_ct_volume(ct))

    np.testing.assert_array_equal(back.hu, ct.hu)
    np.testing.assert_allclose(back.positions_mm, ct.positions_mm, atol=1e-9)


def test_a_stack_of_two_thicknesses_becomes_an_even_image() -> None:
    heights = np.array([0.0, 4.0, 8.0, 16.0, 24.0])
    hu = np.broadcast_to(heights[:, None, None], (5, 6, 7)).astype(np.float32)
    positions = np.stack([np.zeros(5), np.zeros(5), heights], axis=1)
    uneven = CtVolume(hu, positions, np.eye(3)[:2], (1.0, 2.0), np.diff(heights, append=32.0))

    image = image_from_ct_volume(uneven)

    assert image.GetSpacing() == (2.0, 1.0, 4.0)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image)[:, 2, 3], np.arange(0, 25, 4), atol=1e-5)


def test_a_tilted_stack_is_straightened_in_its_own_plane() -> None:
    """A point along the table axis must lie on one line along the image's slice axis in the world."""
    tilt = np.deg2rad(20)
    orientation = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)]])
    heights = np.arange(6) * 5.0
    rows_mm = 1.0
    hu = np.zeros((6, 80, 8), np.float32)
    positions = np.stack([np.zeros(6), np.full(6, -40.0), heights], axis=1)
    target = np.array([3.0, 0.0, 12.0])
    for index in range(6):
        # A rod along the slices' normal through the target.
        normal = np.cross(*orientation)
        along = (positions[index] - target) @ normal
        row = (target + along * normal - positions[index]) @ orientation[1] / rows_mm
        below = int(np.floor(row))
        hu[index, below, 3], hu[index, below + 1, 3] = 100 * (below + 1 - row), 100 * (row - below)
    sheared = CtVolume(hu, positions, orientation, (rows_mm, 1.0), np.full(6, 5.0))

    values = sitk.GetArrayFromImage(image_from_ct_volume(sheared))[:, :, 3]

    centre = (values * np.arange(80)).sum(axis=1) / values.sum(axis=1)
    np.testing.assert_allclose(centre, centre[0], atol=1e-3)


# --- Hounsfield units --------------------------------------------------------------------------------------------


def test_hounsfield_units_pass_unchanged(case) -> None:
    np.testing.assert_array_equal(hounsfield(case.ct_hu, HU), case.ct_hu)


@pytest.mark.parametrize(
    ("low", "high", "code"), [(0, 255, "ct_window"), (-400, 1200, "ct_unit"), (0, 4095, "ct_unit")]
)
def test_values_without_air_are_refused(low, high, code) -> None:
    with refusal(code) as caught:
        hounsfield(np.array([low, high], np.float32), HU)

    assert caught.value.figures == {"minimum": low, "maximum": high}
    assert "--ct-unit window" in caught.value.reason


def test_a_stated_window_is_undone() -> None:
    options = ReaderOptions(ct_unit="window", window_hu=(-20, 80))

    np.testing.assert_allclose(hounsfield(np.array([0, 51, 255]), options), [-20, 0, 80], atol=1e-5)


def test_values_outside_the_stated_window_are_refused() -> None:
    with refusal("ct_unit"):
        hounsfield(np.array([0, 300]), ReaderOptions(ct_unit="window", window_hu=(0, 80)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"ct_unit": "window"},
        {"window_hu": (80.0, 0.0)},
        {"window_stored": (1.0, 1.0)},
        {"spacing_mm": (5.0, 0.0, 1.0)},
    ],
)
def test_contradictory_options_are_refused(wrong) -> None:
    with pytest.raises(LayoutError, match=r"^option: "):
        ReaderOptions(**wrong)


def test_nan_is_refused_with_its_number(case) -> None:
    hu = case.ct_hu.astype(np.float32)
    hu[2, 3, 4:7] = np.nan

    with refusal("not_finite") as caught:
        hounsfield(hu, HU)

    assert caught.value.figures == {"not_finite_voxels": 3}


# --- files -------------------------------------------------------------------------------------------------------


def test_a_nifti_without_affine_is_refused(case, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "ct.nii", case.ct_hu, case)
    raw = bytearray(path.read_bytes())
    # qform_code and sform_code of the NIfTI-1 header.
    raw[252:256] = bytes(4)
    path.write_bytes(bytes(raw))

    with refusal("geometry"):
        read_ct_file(path, HU)


def test_a_real_ct_of_8_bits_is_refused(shared_data: Path) -> None:
    with refusal("ct_window"):
        read_ct_file(shared_data / "mricrogl_head_ct" / "ct.nii.gz", HU)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_file_that_was_cut_off_is_unreadable(case, tmp_path: Path, name, share) -> None:
    """ITK alone would read it and fill up with zeros."""
    path = write_nifti(tmp_path / name, case.ct_hu, case)
    read_ct_file(path, HU)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])

    with refusal("unreadable"):
        read_ct_file(path, HU)


def test_a_flipped_bit_in_a_gzip_is_found(case, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "ct.nii.gz", case.ct_hu, case)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))

    with refusal("unreadable"):
        read_ct_file(path, HU)


def test_text_under_the_name_of_a_nifti_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "ct.nii").write_text("words " * 200)

    with refusal("unreadable"):
        read_ct_file(tmp_path / "ct.nii", HU)


def four_dimensional(case, path: Path, b_values: str | None) -> Path:
    volumes = [case.b0, case.dwi * 0.5, case.dwi * 1.5, case.b0 * 3]
    sitk.WriteImage(sitk.JoinSeries([image_of(volume, case) for volume in volumes]), str(path))
    if b_values is not None:
        path.with_name("dwi.bval").write_text(b_values)
    return path


def test_the_highest_shell_of_a_4d_file_is_averaged(case, tmp_path: Path) -> None:
    found = read_diffusion_file(four_dimensional(case, tmp_path / "dwi.nii.gz", "0 995 1000 5"))

    np.testing.assert_allclose(sitk.GetArrayFromImage(found.dwi), case.dwi, rtol=1e-5)
    np.testing.assert_allclose(sitk.GetArrayFromImage(found.b0), case.b0 * 2, rtol=1e-5)
    assert found.b_value == 1000


@pytest.mark.parametrize("b_values", [None, "0 1000", "0 1000 what 0", "0 nan 1000 1000"])
def test_a_4d_file_needs_its_b_values(case, tmp_path: Path, b_values) -> None:
    with refusal("no_b_value"):
        read_diffusion_file(four_dimensional(case, tmp_path / "dwi.nii.gz", b_values))


def test_a_4d_file_of_b0_is_no_dwi(case, tmp_path: Path) -> None:
    with refusal("no_dwi"):
        read_diffusion_file(four_dimensional(case, tmp_path / "dwi.nii.gz", "0 0 5 0"))


def test_a_ct_of_several_volumes_is_refused(case, tmp_path: Path) -> None:
    with refusal("geometry"):
        read_ct_file(four_dimensional(case, tmp_path / "ct.nii.gz", None), HU)


def test_fractions_of_a_mask_are_cut_at_one_half(case, tmp_path: Path) -> None:
    values = np.zeros(case.dwi.shape, np.float32)
    values[0, 0, :4] = 0.4999, 0.5, 1.0, 3.7
    labels = sitk.GetArrayFromImage(read_label_file(write_nifti(tmp_path / "m.nii.gz", values, case)))

    np.testing.assert_array_equal(labels[0, 0, :5], [0, 1, 1, 4, 0])


@pytest.mark.parametrize("odd", [-1.0, 256.0])
def test_values_that_are_no_labels_are_refused(case, tmp_path: Path, odd) -> None:
    values = case.lesion.astype(np.float32)
    values[0, 0, 0] = odd

    with refusal("unreadable"):
        read_label_file(write_nifti(tmp_path / "m.nii.gz", values, case))


def test_a_png_in_grey_colours_is_grey_and_a_coloured_one_is_refused(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colours = np.repeat(values[..., None], 3, axis=2)
    Image.fromarray(colours).save(tmp_path / "grey.png")
    colours[0, 0, 0] = 200
    Image.fromarray(colours).save(tmp_path / "colour.png")

    np.testing.assert_array_equal(read_slice(tmp_path / "grey.png"), values)
    with refusal("unreadable"):
        read_slice(tmp_path / "colour.png")


def test_labels_of_a_palette_png_are_its_indices(tmp_path: Path) -> None:
    values = np.array([[0, 1], [4, 5]], np.uint8)
    picture = Image.fromarray(values, mode=None)
    picture = picture.convert("P")
    picture.putdata(values.ravel().tolist())
    picture.putpalette([255 - value // 3 for value in range(768)])
    picture.save(tmp_path / "label.png")

    np.testing.assert_array_equal(read_slice(tmp_path / "label.png"), values)


@pytest.mark.parametrize("name", ["a.npy", "a.png"])
def test_a_damaged_slice_is_unreadable(tmp_path: Path, name) -> None:
    (tmp_path / name).write_bytes(b"not an image")

    with refusal("unreadable"):
        read_slice(tmp_path / name)


def test_a_pickled_npy_is_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)

    with refusal("unreadable"):
        read_slice(tmp_path / "a.npy")


# --- grids and pairs ---------------------------------------------------------------------------------------------


def test_a_label_in_another_axis_order_is_turned_to_the_ct(case, ct) -> None:
    stored = sitk.DICOMOrient(image_of(case.lesion, case), "RAI")

    found, apart_mm = same_grid_as_ct(stored, ct)

    assert found is not None
    assert apart_mm < 1e-6
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), case.lesion)


def test_a_label_follows_a_ct_whose_rows_run_to_anterior(case, ct) -> None:
    """A prone scan keeps its own index order; labels from NIfTI have to join it, not the other way round."""
    far = ct.positions_mm + (ct.hu.shape[1] - 1) * ct.spacing_mm[0] * ct.orientation[1]
    far = far + (ct.hu.shape[2] - 1) * ct.spacing_mm[1] * ct.orientation[0]
    prone = CtVolume(ct.hu[:, ::-1, ::-1], far, -ct.orientation, ct.spacing_mm, ct.thickness_mm)

    found, _ = same_grid_as_ct(image_of(case.lesion, case), prone)

    assert found is not None
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), case.lesion[:, ::-1, ::-1])


@pytest.mark.parametrize(("shift_mm", "there"), [(0.05, True), (0.2, False)])
def test_a_grid_is_the_same_within_a_tenth_of_a_millimetre(case, ct, shift_mm, there) -> None:
    moved = image_of(case.lesion, case)
    moved.SetOrigin([value + shift_mm for value in moved.GetOrigin()])

    assert (same_grid_as_ct(moved, ct)[0] is not None) is there
    assert (same_grid_as_image(moved, image_of(case.dwi, case))[0] is not None) is there


def test_a_pair_is_put_together(case) -> None:
    pair = make_pair(SOURCE, parts_of(case, brain=image_of(case.brain, case)), HU)

    assert pair.same_space
    assert pair.lesion_space == "ct"
    assert pair.lesion is not None
    assert pair.lesion_labels is None
    np.testing.assert_array_equal(sitk.GetArrayFromImage(pair.lesion), case.lesion)
    assert pair.notes == ("from the source",)


def test_a_lesion_on_the_grid_of_the_dwi_stays_there(case) -> None:
    dwi, lesion = (image_of(values, case)[::2, ::2, :] for values in (case.dwi, case.lesion))

    pair = make_pair(SOURCE, parts_of(case, dwi=dwi, lesion=lesion), HU)

    assert pair.lesion_space == "dwi"
    assert not pair.same_space
    assert pair.lesion.GetSize() == pair.dwi.GetSize()


def test_a_lesion_on_no_grid_is_refused_with_figures(case) -> None:
    with refusal("lesion_grid") as caught:
        make_pair(SOURCE, parts_of(case, lesion=image_of(case.lesion, case)[:, :, 1:]), HU)

    assert caught.value.figures["lesion_slices"] == 9


def test_an_empty_lesion_mask_is_known_and_a_missing_one_is_not(case) -> None:
    empty = make_pair(SOURCE, parts_of(case, lesion=image_of(np.zeros_like(case.lesion), case)), HU)
    missing = make_pair(SOURCE, parts_of(case, lesion=None), HU)

    assert empty.lesion is not None
    assert "known to have no" in empty.notes[-1]
    assert missing.lesion is None
    assert "unknown" in missing.notes[-1]


def test_an_empty_brain_mask_and_one_elsewhere_are_refused(case) -> None:
    with refusal("empty_mask"):
        make_pair(SOURCE, parts_of(case, brain=image_of(np.zeros_like(case.brain), case)), HU)
    with refusal("lesion_grid"):
        make_pair(SOURCE, parts_of(case, brain=image_of(case.brain, case)[::2, ::2, :]), HU)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda dwi: dwi[:1], "one_slice"),
        (lambda dwi: dwi * 0, "no_dwi"),
        (lambda dwi: np.where(dwi > dwi.mean(), np.nan, dwi), "not_finite"),
    ],
)
def test_a_dwi_that_shows_nothing_is_refused(case, change, code) -> None:
    with refusal(code):
        make_pair(SOURCE, parts_of(case, dwi=image_of(change(case.dwi).astype(np.float32), case), lesion=None), HU)


def test_a_label_map_is_kept_beside_the_mask(case) -> None:
    labels = case.lesion.astype(np.uint8)
    labels[:, :32] *= 4

    pair = make_pair(SOURCE, parts_of(case, lesion=image_of(labels, case)), HU)

    np.testing.assert_array_equal(sitk.GetArrayFromImage(pair.lesion_labels), labels)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(pair.lesion), labels > 0)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_an_inverted_adc_map_is_bright_where_diffusion_is_low(case, unit) -> None:
    """The phantom's ADC is in 10^-3 mm2/s; the same map in other units gives the same picture."""
    adc = image_of((case.adc * unit).astype(np.float32), case)
    parts = parts_of(case, dwi=adc, target_kind="adc")

    shown = sitk.GetArrayFromImage(make_pair(SOURCE, parts, ReaderOptions(adc="invert")).dwi)
    kept = sitk.GetArrayFromImage(make_pair(SOURCE, parts, HU).dwi)

    there = case.adc > 0
    np.testing.assert_allclose(shown[there], 1000 * np.exp(-case.adc[there]), rtol=1e-4)
    assert not shown[~there].any()
    np.testing.assert_allclose(kept, case.adc * unit, rtol=1e-6)


def test_labels_get_the_geometry_of_their_ct(case, ct) -> None:
    image = image_on_ct(case.lesion.astype(np.uint8), ct)

    found, _ = same_grid_as_ct(image, ct)

    assert found is not None
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), case.lesion)
