"""Readers of AISD, ISLES'24 and APIS on generated look-alikes: their names, and every trap that users report.

Covers both packings and namings, the order of AISD's mask slices, slices without a mask, stray files, cases of dicom-3,
test lists, masks on the wrong grid, worlds that do not fit. Leaves out the archives themselves, which no test has read,
and b values and mosaics (the diffusion tests).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from tests.train.lookalikes import (
    aisd_case,
    apis_case,
    grey,
    image_of,
    isles_subject,
    small_case,
    write_nifti,
    write_png,
    write_series,
)
from train.data.diffusion import find_series, read_diffusion
from train.data.phantom_headers import PhantomPatient
from train.data.phantom_mr import write_dwi_series
from train.data.readers import (
    READERS,
    CaseRefusedError,
    LayoutError,
    PairSource,
    ReaderOptions,
    detect_layout,
    reader_for,
)
from train.data.readers.aisd import official_test_cases
from train.data.readers.aisd_slices import match_slices, turned
from train.data.readers.dicom_pairs import load_ct_series
from train.data.readers.image_files import read_slice
from train.data.readers.isles24 import NOTE_DAYS

AISD, ISLES, APIS = (READERS[name] for name in ("aisd", "isles24", "apis"))


def refusal(code: str):
    return pytest.raises(CaseRefusedError, match=rf"^{code}: ")


def values(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def only(found: tuple[PairSource, ...]) -> PairSource:
    (source,) = found
    return source


@pytest.fixture
def case():
    return small_case()


# --- AISD --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("descending", "nested", "dwi"), [(False, False, "DWI"), (True, True, "MRI")])
def test_an_aisd_case_is_read_whatever_its_packing(case, tmp_path: Path, descending, nested, dwi) -> None:
    aisd_case(tmp_path / "aisd", "0010001", case, descending=descending, nested=nested, dwi=dwi)

    source = only(AISD.find(tmp_path))
    pair = AISD.load(source)

    assert (source.patient, source.centre, source.layout) == ("0010001", "aisd", "aisd")
    np.testing.assert_array_equal(pair.ct.hu, case.ct_hu)
    np.testing.assert_array_equal(values(pair.lesion), case.lesion)
    assert set(np.unique(values(pair.lesion_labels))) == {0, 1, 4}
    assert (pair.lesion_space, pair.same_space, pair.b_value) == ("ct", False, 1000)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("without_png", [(0, 1), (8, 9), (0, 9)])
def test_ct_slices_without_png_are_cut_off(case, tmp_path: Path, descending, without_png) -> None:
    aisd_case(tmp_path, "0010001", case, descending=descending, without_png=without_png)

    pair = AISD.load(only(AISD.find(tmp_path)))

    kept = [index for index in range(10) if index not in without_png]
    np.testing.assert_array_equal(pair.ct.hu, case.ct_hu[kept])
    np.testing.assert_array_equal(values(pair.lesion), case.lesion[kept])
    np.testing.assert_allclose(pair.ct.positions_mm, case.positions_mm[kept], atol=1e-5)
    assert any("8 of 10 CT slices have a mask" in note for note in pair.notes)


def test_a_hole_in_the_png_is_refused(case, tmp_path: Path) -> None:
    """A slice missing in the middle makes two runs; neither order fits both."""
    aisd_case(tmp_path, "0010001", case, without_png=(5,))

    with refusal("lesion_grid") as caught:
        AISD.load(only(AISD.find(tmp_path)))
    assert caught.value.figures["pictures"] == 9


def test_masks_of_another_patient_are_refused(case, tmp_path: Path) -> None:
    aisd_case(tmp_path, "0010001", case)
    for index, hu in enumerate(small_case(4, "B").ct_hu):
        write_png(tmp_path / "image" / "0010001" / f"{index:03d}.png", grey(np.roll(hu, 9, axis=0)))

    with refusal("lesion_grid"):
        AISD.load(only(AISD.find(tmp_path)))


def test_more_masks_than_ct_slices_pass_only_where_they_are_empty(case, tmp_path: Path) -> None:
    aisd_case(tmp_path, "0010001", case)
    for path in sorted((tmp_path / "dicom-0" / "0010001" / "CT").glob("*.dcm")):
        if round(float(pydicom.dcmread(path).ImagePositionPatient[2])) == -28:
            path.unlink()
    source = only(AISD.find(tmp_path))
    first = tmp_path / "mask" / "0010001" / "000.png"
    write_png(first, np.zeros((64, 64), np.uint8))

    np.testing.assert_array_equal(values(AISD.load(source).lesion), case.lesion[1:])

    write_png(first, np.eye(64, dtype=np.uint8))
    with refusal("lesion_grid"):
        AISD.load(source)


@pytest.mark.parametrize("damage", ["no_images", "one_image_less", "other_size"])
def test_png_that_do_not_agree_are_refused(case, tmp_path: Path, damage) -> None:
    aisd_case(tmp_path, "0010001", case)
    images = tmp_path / "image" / "0010001"
    if damage == "no_images":
        shutil.rmtree(images)
    elif damage == "one_image_less":
        (images / "004.png").unlink()
    else:
        write_png(tmp_path / "mask" / "0010001" / "004.png", np.zeros((32, 32), np.uint8))

    with refusal("lesion_grid"):
        AISD.load(only(AISD.find(tmp_path)))


def test_a_case_without_masks_has_an_unknown_lesion(case, tmp_path: Path) -> None:
    aisd_case(tmp_path, "0010001", case)
    aisd_case(tmp_path, "0010002", case)
    shutil.rmtree(tmp_path / "mask" / "0010002")

    pair = AISD.load(AISD.find(tmp_path)[1])

    assert pair.lesion is None
    np.testing.assert_array_equal(pair.ct.hu, case.ct_hu)


def test_damaged_cases_are_taken_from_dicom_3_or_refused(case, tmp_path: Path) -> None:
    for name in ("0091465", "0091468", "0073366"):
        aisd_case(tmp_path, name, case, part="dicom-0")
    for name in ("0091465", "0010001"):
        aisd_case(tmp_path, name, case, part="dicom-3")
    aisd_case(tmp_path, "0010001", case, part="dicom-1")
    found = {source.patient: source for source in AISD.find(tmp_path)}

    parts = {name: source.path("dicom").parent.name for name, source in found.items()}

    assert parts == {"0091465": "dicom-3", "0091468": "dicom-0", "0073366": "dicom-0", "0010001": "dicom-1"}
    AISD.load(found["0073366"])
    with refusal("unreadable") as caught:
        AISD.load(found["0091468"])
    assert "dicom-3" in caught.value.reason


@pytest.mark.parametrize(("gone", "code"), [("CT", "no_ct"), ("DWI", "no_dwi"), ("", "no_ct")])
def test_missing_parts_are_refused(case, tmp_path: Path, gone, code) -> None:
    aisd_case(tmp_path, "0010001", case)
    aisd_case(tmp_path, "0010002", case)
    shutil.rmtree(tmp_path / "dicom-0" / "0010002" / gone)
    good, bad = AISD.find(tmp_path)

    with refusal(code):
        AISD.load(bad)
    assert AISD.load(good).lesion is not None


def test_without_b_values_the_volume_with_dark_fluid_is_taken(case, tmp_path: Path) -> None:
    aisd_case(tmp_path, "0010001", case)
    folder = tmp_path / "dicom-0" / "0010001" / "DWI"
    for path in folder.glob("*.dcm"):
        ds = pydicom.dcmread(path)
        for keyword in ("DiffusionBValue", "DiffusionDirectionality"):
            if keyword in ds:
                del ds[keyword]
        ds.SeriesDescription, ds.SequenceName = "AX", ""
        ds.save_as(path)

    pair = AISD.load(only(AISD.find(tmp_path)))

    with_b = tmp_path / "b"
    write_series(with_b, case, "standard")
    np.testing.assert_array_equal(values(pair.dwi), values(read_diffusion(find_series(with_b)[0]).dwi))
    assert any("darkest fluid" in note for note in pair.notes)


def test_two_dwi_series_leave_a_note(case, tmp_path: Path) -> None:
    aisd_case(tmp_path, "0010001", case)
    folder = tmp_path / "dicom-0" / "0010001" / "DWI"
    shutil.rmtree(folder)
    write_dwi_series(case, folder / "a", matrix=40)
    write_dwi_series(case, folder / "b", matrix=48)

    assert any("2 diffusion series" in note for note in AISD.load(only(AISD.find(tmp_path))).notes)


def test_other_identities_of_ct_and_dwi_are_noted_without_naming_them(case, tmp_path: Path) -> None:
    aisd_case(tmp_path, "0010001", case)
    folder = tmp_path / "dicom-0" / "0010001" / "DWI"
    shutil.rmtree(folder)
    write_dwi_series(case, folder, patient=PhantomPatient(patient_id="SECRET-42"))

    notes = AISD.load(only(AISD.find(tmp_path))).notes

    assert any("PatientID of CT and DWI differ" in note for note in notes)
    assert "SECRET" not in "".join(notes)


def test_the_test_list_is_read_and_never_made_up(case, tmp_path: Path) -> None:
    for name in ("0010001", "0010002"):
        aisd_case(tmp_path, name, case)
    first, _ = AISD.find(tmp_path)
    assert first.split is None
    assert "official test list not found" in first.notes[0]

    listed = ", ".join(f"{number:07d}" for number in range(10002, 10054))
    (tmp_path / "README.md").write_text(f"397 scans of 2021, 20210927.\nThe test set: {listed}.\n")
    assert [source.split for source in AISD.find(tmp_path)] == [None, "test"]
    assert "52 cases of README.md" in AISD.find(tmp_path)[0].notes[0]

    (tmp_path / "test_list.txt").write_text("0010001\n")
    assert [source.split for source in AISD.find(tmp_path)] == ["test", None]
    assert "not the official 52" in AISD.find(tmp_path)[0].notes[0]

    (tmp_path / "test_list.txt").write_text("0099999\n")
    with pytest.raises(LayoutError, match=r"^splits: "):
        AISD.find(tmp_path)


def test_a_readme_that_mentions_other_cases_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("Cases 0091519, 0091551 and 0091580 have extra slices; see 10.1234567.89.")

    assert official_test_cases(tmp_path)[0] == frozenset()


def test_aisd_is_not_taken_for_a_folder_of_patients(case, tmp_path: Path) -> None:
    aisd_case(tmp_path, "0010001", case)

    assert detect_layout(tmp_path).name == "aisd"


@pytest.mark.parametrize("window", [(0.0, 80.0), (-100.0, 200.0), (-5.0, 75.0)])
def test_slices_are_matched_whatever_window_the_png_show(case, window) -> None:
    match = match_slices([grey(hu, window) for hu in case.ct_hu[::-1]], case.ct_hu.astype(np.float32))

    assert match.pairs == tuple((9 - index, index) for index in range(10))
    assert match.misfits == 0


@pytest.mark.parametrize("hole", [1, 6, 12])
def test_a_hole_is_found_even_among_slices_that_are_much_alike(case, hole) -> None:
    """Thin slices: neighbours correlate far above any threshold, and only one half of the order is one off."""
    hu = case.ct_hu.astype(np.float32)
    between = np.arange(14) / 14 * 9
    thin = np.stack([hu[int(z)] * (1 - z % 1) + hu[int(z) + 1] * (z % 1) for z in between])
    pictures = [grey(plane) for plane in thin]
    assert match_slices(pictures, thin).correlation > 0.99

    with refusal("lesion_grid") as caught:
        match_slices(pictures[:hole] + pictures[hole + 1 :], thin)

    assert caught.value.figures["misfits"] >= 1


@pytest.mark.parametrize("turn", range(8))
def test_pictures_that_lie_otherwise_are_turned_with_their_masks(case, tmp_path: Path, turn) -> None:
    """Converters that go through NIfTI libraries write transposed or mirrored pictures."""
    aisd_case(tmp_path, "0010001", case)
    for kind in ("image", "mask"):
        for path in (tmp_path / kind / "0010001").iterdir():
            write_png(path, np.ascontiguousarray(turned(read_slice(path), turn)))

    pair = AISD.load(only(AISD.find(tmp_path)))

    np.testing.assert_array_equal(values(pair.lesion), case.lesion)
    assert any("were turned" in note for note in pair.notes) is (turn > 0)


def test_a_real_head_ct_finds_its_slices_and_a_hole(shared_data: Path) -> None:
    """28 slices of a person at 512 x 512: neighbours correlate so highly that a mean alone would hide the hole."""
    (series,) = find_series(shared_data / "ge_head_ct")
    hu = load_ct_series(series, ReaderOptions()).hu
    pictures = [grey(plane) for plane in hu]

    down = match_slices(pictures[::-1], hu)
    cut = match_slices(pictures[3:], hu)

    assert down.pairs == tuple((27 - index, index) for index in range(28))
    assert cut.pairs == tuple((index, index + 3) for index in range(25))
    assert (down.turn, cut.turn) == (0, 0)
    with refusal("lesion_grid") as caught:
        match_slices(pictures[:14] + pictures[15:], hu)
    assert caught.value.figures["correlation"] > 0.9


def test_slices_of_air_do_not_spoil_the_order(case) -> None:
    hu = np.concatenate([case.ct_hu, np.full_like(case.ct_hu[:3], -1000)]).astype(np.float32)

    match = match_slices([grey(plane) for plane in hu], hu)

    assert match.pairs == tuple((index, index) for index in range(13))


# --- ISLES'24 ----------------------------------------------------------------------------------------------------

NAMINGS = [
    ("sub-stroke0001", ("ses-01", "ses-02"), "raw_data", "train"),
    ("sub-strokecase0001", ("ses-0001", "ses-0002"), "rawdata", ""),
]


@pytest.mark.parametrize(("subject", "sessions", "raw", "above"), NAMINGS)
def test_both_namings_of_isles24_are_read(case, tmp_path: Path, subject, sessions, raw, above) -> None:
    isles_subject(tmp_path / above, subject, case, sessions=sessions, raw=raw)

    source = only(ISLES.find(tmp_path))
    pair = ISLES.load(source)

    assert source.patient == subject
    assert source.path("target_on_ct").name == f"{subject}_{sessions[1]}_space-ncct_dwi.nii.gz"
    np.testing.assert_array_equal(pair.ct.hu, case.ct_hu)
    np.testing.assert_array_equal(values(pair.dwi), case.dwi)
    np.testing.assert_array_equal(values(pair.lesion), case.lesion)
    assert pair.same_space
    assert NOTE_DAYS in pair.notes
    assert detect_layout(tmp_path).name == "isles24"


@pytest.fixture
def isles(case, tmp_path: Path) -> Path:
    isles_subject(tmp_path, "sub-stroke0142", case, sessions=("ses-01", "ses-02"), raw="raw_data")
    return tmp_path


def test_a_stray_mask_without_space_ncct_is_not_taken(isles: Path, case) -> None:
    session = isles / "derivatives" / "sub-stroke0142" / "ses-02"
    write_nifti(session / "sub-stroke0142_ses-02_lesion-msk.nii.gz", ~case.lesion, case)
    write_nifti(session / "a_sub-stroke0142_ses-02_space-ncct_lesion-msk.nii.gz", ~case.lesion, case)

    np.testing.assert_array_equal(values(ISLES.load(only(ISLES.find(isles))).lesion), case.lesion)

    (session / "sub-stroke0142_ses-02_space-ncct_lesion-msk.nii.gz").unlink()
    assert ISLES.load(only(ISLES.find(isles))).lesion is None


def test_without_a_registered_dwi_the_raw_one_is_left_to_registration(isles: Path, case) -> None:
    (isles / "derivatives/sub-stroke0142/ses-02/sub-stroke0142_ses-02_space-ncct_dwi.nii.gz").unlink()

    pair = ISLES.load(only(ISLES.find(isles)))

    assert not pair.same_space
    assert pair.lesion_space == "ct"
    np.testing.assert_array_equal(values(pair.dwi), case.dwi[:, ::2, ::2])


@pytest.mark.parametrize(
    ("gone", "code"), [("raw_data/{0}/ses-01", "no_ct"), ("raw_data/{0}", "no_ct"), ("{1}/{0}/ses-02", "no_dwi")]
)
def test_a_subject_with_missing_files_is_refused(isles: Path, gone, code) -> None:
    shutil.rmtree(isles / gone.format("sub-stroke0142", "derivatives"))
    if code == "no_dwi":
        shutil.rmtree(isles / "raw_data" / "sub-stroke0142" / "ses-02")

    with refusal(code):
        ISLES.load(only(ISLES.find(isles)))


def test_the_adc_map_is_the_target_where_it_is_wanted(isles: Path, case) -> None:
    reader = reader_for("isles24", ReaderOptions(target="adc"))

    pair = reader.load(only(reader.find(isles)))

    assert pair.target_kind == "adc"
    np.testing.assert_array_equal(values(pair.dwi), case.adc)


def test_a_lesion_of_another_grid_is_refused(isles: Path, case) -> None:
    session = isles / "derivatives" / "sub-stroke0142" / "ses-02"
    write_nifti(session / "sub-stroke0142_ses-02_space-ncct_lesion-msk.nii.gz", case.lesion[2:], case)

    with refusal("lesion_grid"):
        ISLES.load(only(ISLES.find(isles)))


# --- APIS --------------------------------------------------------------------------------------------------------


def test_apis_cases_are_read_by_parts_of_names(case, tmp_path: Path) -> None:
    apis_case(tmp_path / "APIS" / "train_000", case)

    source = only(APIS.find(tmp_path))
    pair = APIS.load(source)

    assert source.patient == "train_000"
    np.testing.assert_array_equal(pair.ct.hu, case.ct_hu)
    np.testing.assert_array_equal(values(pair.dwi), case.adc[:, ::2, ::2])
    np.testing.assert_array_equal(values(pair.lesion), case.lesion[:, ::2, ::2])
    assert (pair.target_kind, pair.lesion_space, pair.same_space) == ("adc", "dwi", False)
    assert detect_layout(tmp_path).name == "apis"


@pytest.mark.parametrize(
    ("how", "combine"), [("first", None), ("union", np.logical_or), ("intersection", np.logical_and)]
)
def test_masks_of_two_readers_become_one(case, tmp_path: Path, how, combine) -> None:
    second = np.roll(case.lesion, 4, axis=2)
    apis_case(tmp_path / "train_000", case, second_reader=second)
    reader = reader_for("apis", ReaderOptions(apis_mask=how))

    pair = reader.load(only(reader.find(tmp_path)))

    expected = case.lesion if combine is None else combine(case.lesion, second)
    np.testing.assert_array_equal(values(pair.lesion), expected[:, ::2, ::2])
    assert any(f"{how}; their Dice is 0." in note for note in pair.notes)


def test_adc_on_the_grid_of_the_ct_counts_as_registered(case, tmp_path: Path) -> None:
    apis_case(tmp_path / "train_000", case)
    write_nifti(tmp_path / "train_000" / "train_000_Adc.nii.gz", case.adc, case)
    for name in ("r1", "r2"):
        write_nifti(tmp_path / "train_000" / "masks" / f"train_000_{name}.nii.gz", case.lesion, case)

    assert APIS.load(only(APIS.find(tmp_path))).same_space


def test_a_mask_off_the_adc_grid_is_refused(case, tmp_path: Path) -> None:
    apis_case(tmp_path / "train_000", case)
    write_nifti(tmp_path / "train_000" / "masks" / "train_000_r2.nii.gz", case.lesion, case)

    with refusal("lesion_grid") as caught:
        APIS.load(only(APIS.find(tmp_path)))
    assert "train_000_r2" in caught.value.reason


def test_ct_and_adc_of_different_worlds_are_refused(case, tmp_path: Path) -> None:
    apis_case(tmp_path / "train_000", case)
    moved = image_of(case.adc, case)
    moved.SetOrigin([value + 400 for value in moved.GetOrigin()])
    sitk.WriteImage(moved, str(tmp_path / "train_000" / "train_000_Adc.nii.gz"))

    with refusal("geometry") as caught:
        APIS.load(only(APIS.find(tmp_path)))
    assert caught.value.figures["centres_apart_mm"] == pytest.approx(400 * 3**0.5, rel=0.01)


@pytest.mark.parametrize(("name", "code"), [("NCCT", "no_ct"), ("Adc", "no_dwi")])
def test_a_missing_or_doubled_file_is_refused(case, tmp_path: Path, name, code) -> None:
    for folder in ("train_000", "train_001"):  # the second stays whole: a root without any ncct is no APIS
        apis_case(tmp_path / folder, case)
    path = tmp_path / "train_000" / f"train_000_{name}.nii.gz"
    shutil.copy(path, path.with_name(f"copy_{name}.nii.gz"))
    with refusal(code) as caught:
        APIS.load(APIS.find(tmp_path)[0])
    assert caught.value.figures == {"files": 2}

    path.unlink()
    path.with_name(f"copy_{name}.nii.gz").unlink()
    with refusal(code):
        APIS.load(APIS.find(tmp_path)[0])


def test_a_case_without_masks_is_unknown(case, tmp_path: Path) -> None:
    apis_case(tmp_path / "train_000", case)
    shutil.rmtree(tmp_path / "train_000" / "masks")

    assert APIS.load(only(APIS.find(tmp_path))).lesion is None
