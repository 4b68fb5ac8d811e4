"""The generic layouts: nifti, csv, folder, aligned, dicom; splits, centres, detection.

Covers finding and loading on look-alike folders of small phantoms, every fault of a tree or list, and that a bad case
leaves the others alone. Leaves out AISD, ISLES'24 and APIS (test_readers_public), exports (test_readers_exports) and
the choice among DICOM series (the diffusion tests).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from tests.train.lookalikes import (
    WINDOW_HU,
    aligned_patient,
    dicom_patient,
    folder_patient,
    nifti_patient,
    small_case,
    write_nifti,
    write_png,
)
from train.data.phantom_headers import PhantomPatient
from train.data.phantom_mr import write_dwi_series
from train.data.readers import (
    READERS,
    CaseRefusedError,
    LayoutError,
    PairSource,
    ReaderOptions,
    detect_layout,
    expected_layouts,
    reader_for,
)
from train.data.readers.base import case_name
from train.data.readers.slice_names import parse_slice_name
from train.data.readers.split_files import no_leak, split_of_word

WINDOW = ReaderOptions(ct_unit="window", window_hu=WINDOW_HU)


def refusal(code: str):
    return pytest.raises(CaseRefusedError, match=rf"^{code}: ")


def layout_error(code: str, *words: str):
    return pytest.raises(LayoutError, match=rf"(?s)^{code}: " + "".join(f".*{word}" for word in words))


def values(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def only(found: tuple[PairSource, ...]) -> PairSource:
    (source,) = found
    return source


@pytest.fixture
def case():
    return small_case()


@pytest.fixture
def other():
    return small_case(4, "B")


# --- nifti -------------------------------------------------------------------------------------------------------


def test_nifti_patients_are_found_and_read(case, other, tmp_path: Path) -> None:
    nifti_patient(tmp_path / "p02", other)
    nifti_patient(tmp_path / "p01", case, half_dwi=True)
    (tmp_path / "p01" / "centre.txt").write_text("north\n")
    (tmp_path / "notes").mkdir()
    reader = READERS["nifti"]

    first, second = reader.find(tmp_path)
    pair = reader.load(first)

    assert [(s.patient, s.centre, s.split) for s in (first, second)] == [("p01", "north", None), ("p02", "site", None)]
    np.testing.assert_array_equal(pair.ct.hu, case.ct_hu)
    np.testing.assert_array_equal(values(pair.dwi), case.dwi[:, ::2, ::2])
    np.testing.assert_array_equal(values(pair.lesion), case.lesion[:, ::2, ::2])
    np.testing.assert_array_equal(values(pair.brain), case.brain)
    assert (pair.lesion_space, pair.same_space, pair.target_kind) == ("dwi", False, "dwi")
    assert reader.load(second).same_space


def test_an_adc_file_is_the_target_where_there_is_no_dwi(case, tmp_path: Path) -> None:
    folder = nifti_patient(tmp_path / "p01", case)
    (folder / "dwi.nii.gz").unlink()
    write_nifti(folder / "adc.nii", case.adc, case)

    pair = READERS["nifti"].load(only(READERS["nifti"].find(tmp_path)))

    assert pair.target_kind == "adc"
    np.testing.assert_array_equal(values(pair.dwi), case.adc)


def test_the_wanted_one_of_dwi_and_adc_is_taken(case, tmp_path: Path) -> None:
    folder = nifti_patient(tmp_path / "p01", case)
    write_nifti(folder / "adc.nii.gz", case.adc, case)
    source = only(READERS["nifti"].find(tmp_path))

    assert READERS["nifti"].load(source).target_kind == "dwi"
    assert reader_for("nifti", ReaderOptions(target="adc")).load(source).target_kind == "adc"


@pytest.mark.parametrize(("gone", "code"), [("ct", "no_ct"), ("dwi", "no_dwi")])
def test_a_patient_without_ct_or_dwi_is_refused_by_name(case, other, tmp_path: Path, gone, code) -> None:
    (nifti_patient(tmp_path / "p01", case) / f"{gone}.nii.gz").unlink()
    nifti_patient(tmp_path / "p02", other)
    bad, good = READERS["nifti"].find(tmp_path)

    with refusal(code):
        READERS["nifti"].load(bad)
    assert READERS["nifti"].load(good).lesion is not None


def test_a_ct_in_grey_values_is_refused_until_the_window_is_stated(case, tmp_path: Path) -> None:
    folder = nifti_patient(tmp_path / "p01", case)
    shown = np.clip(case.ct_hu, 0, 80).astype(np.float32) * (255 / 80)
    write_nifti(folder / "ct.nii.gz", shown, case)
    source = only(READERS["nifti"].find(tmp_path))

    with refusal("ct_window"):
        READERS["nifti"].load(source)
    pair = reader_for("nifti", WINDOW).load(source)

    np.testing.assert_allclose(pair.ct.hu, np.clip(case.ct_hu, 0, 80), atol=1e-3)


# --- splits and centres ------------------------------------------------------------------------------------------


def write_splits(root: Path, content: object) -> None:
    (root / "splits.json").write_text(json.dumps(content))


@pytest.fixture
def two_patients(case, other, tmp_path: Path) -> Path:
    nifti_patient(tmp_path / "p01", case)
    nifti_patient(tmp_path / "p02", other)
    return tmp_path


def test_splits_and_centres_of_a_file_are_taken(two_patients: Path) -> None:
    write_splits(two_patients, {"val": ["p01"], "test": ["p02"], "centres": {"north": ["p02"]}})

    found = READERS["nifti"].find(two_patients)

    assert [(s.split, s.centre) for s in found] == [("validation", "site"), ("test", "north")]


def test_a_patient_in_two_splits_is_a_leak(two_patients: Path) -> None:
    write_splits(two_patients, {"train": ["p01", "p02"], "test": ["p02"]})

    with layout_error("leak", "p02"):
        READERS["nifti"].find(two_patients)


@pytest.mark.parametrize(
    "content",
    [
        ["p01"],
        {"train": "p01"},
        {"train": [1]},
        {"holdout": ["p01"]},
        {"": ["p01"]},
        {"test": ["p10"]},
        {"centres": ["p01"]},
        {"centres": {"north": ["p01"], "south": ["p01"]}},
    ],
)
def test_a_faulty_split_file_is_never_guessed(two_patients: Path, content) -> None:
    write_splits(two_patients, content)

    with layout_error("splits"):
        READERS["nifti"].find(two_patients)


def test_a_split_file_that_is_no_json_is_named(two_patients: Path) -> None:
    (two_patients / "splits.json").write_text("{")

    with layout_error("splits", "splits.json"):
        READERS["nifti"].find(two_patients)


patients = st.text("ab1_", min_size=1, max_size=3)
splits = st.sampled_from(["train", "validation", "test"])


@given(st.lists(st.tuples(patients, splits), max_size=12))
def test_a_table_of_splits_has_each_patient_once_or_leaks(pairs) -> None:
    contradicts = any(a == b and one != two for a, one in pairs for b, two in pairs)

    if contradicts:
        with layout_error("leak"):
            no_leak(pairs)
    else:
        assert no_leak(pairs) == dict(pairs)


@given(st.text(max_size=20))
def test_a_word_is_a_split_or_an_error(word) -> None:
    if word.strip().lower() in ("", "train", "training", "val", "valid", "validation", "test"):
        assert split_of_word(word) in (None, "train", "validation", "test")
    else:
        with layout_error("splits"):
            split_of_word(word)


@given(st.text(max_size=30))
def test_every_name_becomes_one_that_a_cache_accepts(text) -> None:
    from train.data.cache import CaseFacts

    name = case_name(text)
    CaseFacts(name, "c", "train", "nifti", 1.0, None, (0.0, 5.0), (0.0, 0.0))
    assert case_name(name) == name


@given(st.text(min_size=1, max_size=20), st.integers(0, 10**6), st.integers(0, 4))
def test_a_slice_name_is_parted_at_its_last_underscore(patient, number, zeros) -> None:
    assert parse_slice_name(f"{patient}_{'0' * zeros}{number}") == (patient, number)


@given(st.text("a_1٣ ", max_size=8))
def test_a_slice_name_parses_or_is_an_error(stem) -> None:
    """Only ASCII digits count: other scripts' digits would make two names of one slice."""
    if re.fullmatch(r".+_[0-9]+", stem, re.DOTALL):
        patient, number = parse_slice_name(stem)
        assert stem.startswith(f"{patient}_")
        assert int(stem.rpartition("_")[2]) == number
    else:
        with layout_error("layout"):
            parse_slice_name(stem)


# --- csv ---------------------------------------------------------------------------------------------------------


def write_table(root: Path, *lines: str, header: str = "patient,centre,ct,dwi,brain,lesion,split") -> Path:
    path = root / "pairs.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_rows_of_a_table_are_found_and_read(two_patients: Path, case) -> None:
    table = write_table(
        two_patients,
        "a 1,north,p01/ct.nii.gz,p01/dwi.nii.gz,p01/brain.nii.gz,p01/lesion.nii.gz,val",
        "b,, p02/ct.nii.gz,p02/dwi.nii.gz,,,",
    )
    reader = READERS["csv"]

    first, second = reader.find(two_patients)

    assert (first.patient, first.centre, first.split) == ("a-1", "north", "validation")
    assert (second.patient, second.centre, second.split) == ("b", "site", None)
    assert second.notes == ("pairs.csv:3",)
    np.testing.assert_array_equal(values(reader.load(first).lesion), case.lesion)
    assert reader.load(second).lesion is None
    assert reader.find(table) == (first, second)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("p02,,x,y,,,holdout", "csv", ["pairs.csv:3", "holdout"]),
        (",,x,y,,,", "csv", ["pairs.csv:3", "patient is missing"]),
        ("p02,,x,y", "csv", ["pairs.csv:3", "cells"]),
        ("p02,,x,y,,,,,", "csv", ["pairs.csv:3", "cells"]),
        ("p02,,/x,y,,,", "csv", ["pairs.csv:3", "relative"]),
        ("p01,,x,y,,,train", "csv", ["pairs.csv:3", "p01 is in line 2"]),
        ("p01,,x,y,,,test", "leak", ["pairs.csv:3", "p01"]),
        ('p02,,"x,y,,,', "csv", []),
    ],
)
def test_a_faulty_row_is_named_by_its_line(tmp_path: Path, line, code, words) -> None:
    write_table(tmp_path, "p01,,a,b,,,train", line)

    with layout_error(code, *words):
        READERS["csv"].find(tmp_path)


@pytest.mark.parametrize(
    "header", ["patient,dwi", "ct,dwi,split", "patient,ct", "patient,ct,dwi,age", "patient,ct,dwi,ct"]
)
def test_a_faulty_header_is_named(tmp_path: Path, header) -> None:
    write_table(tmp_path, header=header)

    with layout_error("csv", "pairs.csv:1"):
        READERS["csv"].find(tmp_path)


def test_a_file_that_a_table_names_wrongly_is_that_cases_fault(two_patients: Path) -> None:
    write_table(two_patients, "a,,p01/nothing.nii.gz,p01/dwi.nii.gz,,,", "b,,p02/ct.nii.gz,p02/dwi.nii.gz,,,")
    bad, good = READERS["csv"].find(two_patients)

    with refusal("unreadable"):
        READERS["csv"].load(bad)
    READERS["csv"].load(good)


# --- folder of slices --------------------------------------------------------------------------------------------


def test_slices_are_stacked_by_patient(case, other, tmp_path: Path) -> None:
    folder_patient(tmp_path, "train", "centre_A_1", case)
    folder_patient(tmp_path, "val", "centre_B_1", other)
    reader = READERS["folder"]

    first, second = reader.find(tmp_path)
    pair = reader.load(first)

    assert [(s.patient, s.split) for s in (first, second)] == [("centre_A_1", "train"), ("centre_B_1", "validation")]
    np.testing.assert_array_equal(pair.ct.hu, case.ct_hu)
    np.testing.assert_array_equal(values(pair.dwi), case.dwi)
    np.testing.assert_array_equal(values(pair.lesion), case.lesion)
    np.testing.assert_array_equal(values(pair.brain), case.brain)
    assert pair.same_space
    assert pair.ct.spacing_mm == pytest.approx(case.spacing_mm[1:])
    assert np.diff(pair.ct.offsets_mm) == pytest.approx(case.spacing_mm[0])


def test_png_ct_needs_its_window(case, tmp_path: Path) -> None:
    folder_patient(tmp_path, "test", "p_1", case, suffix=".png")
    source = only(READERS["folder"].find(tmp_path))

    with refusal("ct_window"):
        READERS["folder"].load(source)
    pair = reader_for("folder", WINDOW).load(source)

    np.testing.assert_allclose(pair.ct.hu, np.clip(case.ct_hu, *WINDOW_HU), atol=0.16)


def test_a_patient_in_two_folders_is_a_leak(case, tmp_path: Path) -> None:
    folder_patient(tmp_path, "train", "p_1", case)
    (tmp_path / "test" / "ct").mkdir(parents=True)
    shutil.copy(tmp_path / "train/ct/p_1_003.npy", tmp_path / "test/ct/p_1_003.npy")

    with layout_error("leak", "p_1"):
        READERS["folder"].find(tmp_path)


def test_slices_without_spacing_are_no_volume(case, tmp_path: Path) -> None:
    folder_patient(tmp_path, "train", "p_1", case)
    for wrong in (None, "{", "{}", '{"spacing_mm": [5, 1]}', '{"spacing_mm": [5, 1, 0]}', '{"spacing_mm": 5}', "[]"):
        (tmp_path / "geometry.json").unlink(missing_ok=True)
        if wrong is not None:
            (tmp_path / "geometry.json").write_text(wrong)
        with layout_error("geometry", "geometry.json"):
            READERS["folder"].find(tmp_path)

    reader = reader_for("folder", ReaderOptions(spacing_mm=(4.0, 0.5, 0.6)))
    source = only(reader.find(tmp_path))
    assert reader.load(source).ct.spacing_mm == (0.5, 0.6)
    with refusal("geometry"):
        READERS["folder"].load(source)


def test_a_source_names_no_folder_that_holds_other_cases(case, other, tmp_path: Path) -> None:
    """What a case was made from is digested; files of others must not be among it."""
    for patient, one in (("p_1", case), ("p_2", other)):
        folder_patient(tmp_path / "folder", "train", patient, one)
        aligned_patient(tmp_path / "aligned", "train", patient, one)

    for name in ("folder", "aligned"):
        for source in READERS[name].find(tmp_path / name):
            files = [path for part in source.paths for path in source.files(part)]
            assert all(path.is_file() for path in files)
            assert {path.stem.rpartition("_")[0] for path in files} == {source.patient, ""}


def test_the_spacing_of_one_patient_may_differ(case, other, tmp_path: Path) -> None:
    for patient, one in (("p_1", case), ("p_2", other)):
        folder_patient(tmp_path, "train", patient, one)
    content = {"spacing_mm": [5, 0.5, 0.5], "patients": {"p_2": [2.5, 0.4, 0.4]}}
    (tmp_path / "geometry.json").write_text(json.dumps(content))
    reader = READERS["folder"]

    found = [reader.load(source).ct for source in reader.find(tmp_path)]

    assert [(ct.spacing_mm, np.diff(ct.offsets_mm)[0]) for ct in found] == [((0.5, 0.5), 5), ((0.4, 0.4), 2.5)]
    (tmp_path / "geometry.json").write_text(json.dumps({**content, "patients": {"p_2": [1]}}))
    with layout_error("geometry"):
        reader.find(tmp_path)


@pytest.mark.parametrize(
    ("gone", "code"),
    [
        (["ct/p_1_004"], "geometry"),
        (["dwi/p_1_004"], "geometry"),
        (["lesion/p_1_009"], "geometry"),
        (["ct/p_1_004", "dwi/p_1_004", "mask/p_1_004", "lesion/p_1_004"], "geometry"),
        ([f"dwi/p_1_{index:03d}" for index in range(10)], "no_dwi"),
        ([f"ct/p_1_{index:03d}" for index in range(10)], "no_ct"),
    ],
)
def test_missing_slices_refuse_the_case(case, tmp_path: Path, gone, code) -> None:
    folder_patient(tmp_path, "train", "p_1", case)
    for name in gone:
        (tmp_path / "train" / f"{name}.npy").unlink()
    source = only(READERS["folder"].find(tmp_path))

    with refusal(code):
        READERS["folder"].load(source)


def test_slices_of_other_sizes_refuse_the_case(case, tmp_path: Path) -> None:
    folder_patient(tmp_path, "train", "p_1", case)
    source = only(READERS["folder"].find(tmp_path))
    np.save(tmp_path / "train/ct/p_1_002.npy", case.ct_hu[2, 1:])
    with refusal("geometry"):
        READERS["folder"].load(source)
    np.save(tmp_path / "train/ct/p_1_002.npy", case.ct_hu[2])
    for index in range(10):
        np.save(tmp_path / f"train/dwi/p_1_{index:03d}.npy", case.dwi[index, ::2, ::2])
    with refusal("geometry"):
        READERS["folder"].load(source)


def test_names_of_slices_are_checked(case, tmp_path: Path) -> None:
    folder_patient(tmp_path, "train", "p_1", case)
    extra = tmp_path / "train" / "ct" / "p_1_3.npy"
    np.save(extra, case.ct_hu[3])
    with layout_error("duplicate", "p_1_003", "p_1_3"):
        READERS["folder"].find(tmp_path)
    extra.rename(extra.with_name("middle.npy"))
    with layout_error("layout", "middle"):
        READERS["folder"].find(tmp_path)


# --- aligned -----------------------------------------------------------------------------------------------------


def test_aligned_pairs_are_parted(case, tmp_path: Path) -> None:
    aligned_patient(tmp_path, "train", "p_1", case)
    source = only(READERS["aligned"].find(tmp_path))

    with refusal("ct_window"):
        READERS["aligned"].load(source)
    pair = reader_for("aligned", WINDOW).load(source)

    np.testing.assert_allclose(pair.ct.hu, np.clip(case.ct_hu, *WINDOW_HU), atol=0.16)
    np.testing.assert_allclose(values(pair.dwi), case.dwi / case.dwi.max() * 255, atol=0.51)
    assert pair.lesion is None


def test_an_odd_width_and_a_leak_are_found(case, tmp_path: Path) -> None:
    for index in range(3):
        write_png(tmp_path / "train" / f"p_{index}.png", np.zeros((8, 15), np.uint8))
    (tmp_path / "geometry.json").write_text('{"spacing_mm": [5, 1, 1]}')
    reader = reader_for("aligned", WINDOW)

    with refusal("geometry"):
        reader.load(only(reader.find(tmp_path)))
    write_png(tmp_path / "val" / "p_9.png", np.zeros((8, 16), np.uint8))
    with layout_error("leak", "patient p "):
        reader.find(tmp_path)


# --- dicom -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["standard", "ge"])
def test_series_of_a_folder_are_paired_by_their_headers(case, tmp_path: Path, vendor) -> None:
    dicom_patient(tmp_path / "Case 7", case, vendor=vendor)
    write_splits(tmp_path, {"test": ["Case 7"]})
    reader = READERS["dicom"]

    source = only(reader.find(tmp_path))
    pair = reader.load(source)

    assert (source.patient, source.split) == ("Case-7", "test")
    np.testing.assert_array_equal(pair.ct.hu, case.ct_hu)
    np.testing.assert_array_equal(values(pair.lesion), case.lesion)
    assert (pair.b_value, pair.same_space, pair.lesion_space) == (1000, False, "ct")
    assert pair.b0 is not None


def test_a_ct_and_a_dwi_of_different_patients_are_refused(case, tmp_path: Path) -> None:
    folder = dicom_patient(tmp_path / "p1", case)
    shutil.rmtree(folder / "deep")
    write_dwi_series(case, folder / "deep", patient=PhantomPatient(name="Somebody^Else", patient_id="SECRET-42"))

    with refusal("different_patients") as caught:
        READERS["dicom"].load(only(READERS["dicom"].find(tmp_path)))
    assert "SECRET" not in str(caught.value)
    assert "Somebody" not in str(caught.value)


def test_a_folder_without_dwi_is_refused_and_the_next_goes_on(case, other, tmp_path: Path) -> None:
    shutil.rmtree(dicom_patient(tmp_path / "p1", case) / "deep")
    dicom_patient(tmp_path / "p2", other)
    bad, good = READERS["dicom"].find(tmp_path)

    with refusal("no_dwi"):
        READERS["dicom"].load(bad)
    assert READERS["dicom"].load(good).dwi is not None


def test_a_lesion_off_the_grids_is_refused(case, tmp_path: Path) -> None:
    folder = dicom_patient(tmp_path / "p1", case)
    write_nifti(folder / "lesion.nii.gz", case.lesion[:-1], case)

    with refusal("lesion_grid"):
        READERS["dicom"].load(only(READERS["dicom"].find(tmp_path)))


def test_dicom_files_in_the_root_itself_are_explained(case, tmp_path: Path) -> None:
    dicom_patient(tmp_path, case)
    for path in (tmp_path / "S0001").iterdir():
        path.rename(tmp_path / path.name)
    shutil.rmtree(tmp_path / "S0001")
    shutil.rmtree(tmp_path / "deep")

    with layout_error("layout", "give each patient a folder"):
        READERS["dicom"].find(tmp_path)


# --- all readers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_an_empty_root_is_told_the_expected_tree(tmp_path: Path, name) -> None:
    reader = READERS[name]
    assert reader.expected.startswith("<root>/")

    with pytest.raises(LayoutError) as caught:
        reader.find(tmp_path)

    assert caught.value.code == "layout"
    assert reader.expected in caught.value.reason


def test_layouts_are_told_from_each_other(case, other, tmp_path: Path) -> None:
    roots = {name: tmp_path / name for name in ("nifti", "csv", "folder", "aligned", "dicom")}
    nifti_patient(roots["nifti"] / "p1", case)
    nifti_patient(roots["csv"] / "p1", case)
    write_table(roots["csv"], "p1,,p1/ct.nii.gz,p1/dwi.nii.gz,,,")
    folder_patient(roots["folder"], "train", "p_1", case)
    aligned_patient(roots["aligned"], "train", "p_1", case)
    dicom_patient(roots["dicom"] / "p1", other)

    assert {name: detect_layout(root).name for name, root in roots.items()} == {name: name for name in roots}
    assert detect_layout(roots["csv"] / "pairs.csv").name == "csv"


def test_options_reach_the_detected_reader(case, tmp_path: Path) -> None:
    aligned_patient(tmp_path, "train", "p_1", case)
    reader = detect_layout(tmp_path, WINDOW)

    assert reader.load(only(reader.find(tmp_path))).ct.hu.max() <= 80


def test_an_unknown_root_is_told_all_trees(tmp_path: Path) -> None:
    with layout_error("layout") as caught:
        detect_layout(tmp_path)

    assert expected_layouts() in caught.value.reason
    assert all(reader.expected in expected_layouts() for reader in READERS.values())
    with layout_error("missing"):
        detect_layout(tmp_path / "nowhere")
    with layout_error("layout", "no layout"):
        reader_for("bids")


def test_a_root_of_two_layouts_is_ambiguous(case, tmp_path: Path) -> None:
    nifti_patient(tmp_path / "p1", case)
    dicom_patient(tmp_path / "p2", case)

    with layout_error("ambiguous", "dicom", "nifti"):
        detect_layout(tmp_path)


def test_a_fault_of_the_fitting_layout_is_not_hidden(two_patients: Path) -> None:
    write_splits(two_patients, {"train": ["p01"], "test": ["p01"]})

    with layout_error("leak", "p01"):
        detect_layout(two_patients)


def test_two_folders_of_one_name_are_refused(case, tmp_path: Path) -> None:
    nifti_patient(tmp_path / "p 1", case)
    nifti_patient(tmp_path / "p-1", case)

    with layout_error("duplicate", "p-1"):
        READERS["nifti"].find(tmp_path)


def test_listing_layouts_needs_no_heavy_package() -> None:
    """Training imports these modules where SimpleITK, pydicom and Pillow are not installed."""
    code = (
        "import sys, train.data.readers, train.data.readers.exports;"
        "print([m for m in ('SimpleITK', 'pydicom', 'PIL', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())

    assert done.stdout.strip() == "[]"
