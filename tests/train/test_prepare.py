"""``train prepare``: from phantoms on disk to batches, refusals with their codes, resuming, a kill, a full disk.

All data are digital phantoms. Left out: the layouts themselves (test_readers) and the accuracy of the registration
(test_registration).
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import typer
from typer.testing import CliRunner

from jmmda_model.imaging import PreprocessingContract, brain_mask, resample_to_grid, to_grid_stack
from tests.conftest import ROOT
from tests.train.lookalikes import dicom_patient, image_of, nifti_patient, small_case, write_nifti
from tests.train.test_registration import moved, voxel_positions
from train.commands.prepare import prepare as prepare_command
from train.data.cache import CacheError, load_case, load_split, read_index
from train.data.dataset import SliceDataset
from train.data.nifti_finite import nonfinite_voxels
from train.data.phantom_headers import PhantomPatient
from train.data.prepare import PrepareError, prepare
from train.data.prepare_case import grid_affine
from train.data.prepare_settings import PrepareSettings
from train.data.prepared import open_prepared
from train.data.readers import LayoutError, PairSource
from train.data.registration import TransformKind
from train.recipe import AugmentRecipe

CONTRACT = PreprocessingContract(grid_px=64, grid_spacing_mm=3.6)
SETTINGS = PrepareSettings(contract=CONTRACT, layout="nifti", keep_names=True)

#: Runs prepare in a process of its own: root, cache, and a limit for the size of a file in bytes (0: none).
CHILD = """
import resource, sys
from pathlib import Path
from jmmda_model.imaging import PreprocessingContract
from train.data.nifti_finite import nonfinite_voxels
from train.data.phantom_headers import PhantomPatient
from train.data.prepare import PrepareError, prepare
from train.data.prepare_settings import PrepareSettings
root, cache, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
contract = PreprocessingContract(grid_px=64, grid_spacing_mm=3.6)
settings = PrepareSettings(contract=contract, layout="nifti", keep_names=True)
try:
    prepare(root, cache, settings, progress=lambda done, total: print(done, flush=True))
except PrepareError as error:
    print(error)
    sys.exit(1)
"""


def child(root: Path, cache: Path, limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(root), str(cache), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantom patients as NIfTI; the DWI of the third lies where another scanner's table would put it."""
    root = tmp_path_factory.mktemp("archive")
    for number, seed in enumerate((3, 4, 5, 6)):
        nifti_patient(root / f"p{number}", small_case(seed, lesion="mca_division" if number else "none"))
    case = small_case(5)
    for name, values in (("dwi", case.dwi), ("lesion", case.lesion)):
        image, _ = moved(image_of(values, case), (5.0, -2.0, 4.0), (30.0, -60.0, 200.0))
        sitk.WriteImage(image, str(root / "p2" / f"{name}.nii.gz"))
    return root


@pytest.fixture(scope="module")
def cache(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "cache"
    assert prepare(archive, folder, SETTINGS).taken == 4
    return folder


def complete_cases(cache: Path) -> list[str]:
    """Names of the cases that a trainer would see; each must open and be whole."""
    names = [file.parent.name for file in sorted(cache.glob("[!.]*/case.json"))]
    for name in names:
        case = load_case(cache / name)
        assert case.hu.shape == case.target.shape == case.brain.shape
        assert np.asarray(case.target).any()
    return names


def test_phantoms_become_batches(cache: Path) -> None:
    opened = open_prepared(cache, CONTRACT)
    cases = [case for split in ("train", "validation", "test") for case in opened.cases(split)]
    assert sorted(case.facts.patient for case in cases) == ["p0", "p1", "p2", "p3"]
    batch = SliceDataset(cases, CONTRACT).training_batch(4, 64, AugmentRecipe(probability=0.0), (1, 2))
    assert batch.ct.shape == (4, CONTRACT.ct_channel_count, 64, 64)
    assert batch.target.shape == (4, 1, 64, 64)
    assert batch.lesion.sum() > 0
    assert batch.lesion_known.tolist() == [1.0] * 4


def test_the_cache_holds_what_the_node_would_feed(archive: Path, cache: Path) -> None:
    made, case = load_case(cache / "p1"), small_case(4)
    volume = case.ct_volume()
    stack = to_grid_stack(volume, brain_mask(volume), CONTRACT)
    np.testing.assert_allclose(made.hu_slices(), stack.hu, atol=0.2)
    np.testing.assert_array_equal(made.brain, stack.brain)
    assert made.facts.lesion_ml == pytest.approx(case.lesion_ml, rel=0.02)
    assert made.facts.symmetry == pytest.approx(stack.symmetry(), abs=0.05)


def test_a_registered_pair_ends_where_the_aligned_one_does(cache: Path) -> None:
    made, case = load_case(cache / "p2"), small_case(5)
    volume = case.ct_volume()
    stack = to_grid_stack(volume, brain_mask(volume), CONTRACT)
    aligned = resample_to_grid(case.dwi, stack.placement)
    inside = np.asarray(made.brain, bool)
    assert np.corrcoef(made.target_slices()[inside], aligned[inside])[0, 1] > 0.95
    lesion = resample_to_grid(case.lesion, stack.placement, nearest=True) & inside
    both = np.count_nonzero(lesion & made.lesion_slices())
    assert 2 * both / (np.count_nonzero(lesion) + np.count_nonzero(made.lesion_slices())) > 0.85
    assert made.facts.registration["translation_mm"] > 150
    assert made.facts.registration["metric_after"] > made.facts.registration["metric_before"] + 0.2


def test_the_report_names_every_case_and_links_its_picture(cache: Path) -> None:
    report = json.loads((cache / "report" / "report.json").read_text())
    assert (report["taken"], report["refused"], report["layout"]) == (4, {}, "nifti")
    rows = list(csv.DictReader((cache / "report" / "report.csv").read_text().splitlines()))
    assert [row["case"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert rows[0]["lesion ml"] == "0.0"
    page = (cache / "report" / "report.html").read_text()
    for picture in re.findall(r'src="([^"]+)"', page):
        assert (cache / "report" / picture).stat().st_size > 5000
    assert page.count("<img") == 4


def test_a_second_run_does_nothing_again(archive: Path, cache: Path) -> None:
    times = {file: file.stat().st_mtime_ns for file in cache.glob("p*/*.npy")}
    again = prepare(archive, cache, SETTINGS)
    assert again.finished_before == again.taken == 4
    assert {file: file.stat().st_mtime_ns for file in cache.glob("p*/*.npy")} == times


def test_several_processes_give_the_same_arrays_and_splits(archive: Path, cache: Path, tmp_path: Path) -> None:
    prepare(archive, tmp_path / "cache", replace(SETTINGS, workers=2))
    for name in complete_cases(cache):
        one, other = load_case(cache / name), load_case(tmp_path / "cache" / name)
        assert one.facts == other.facts
        np.testing.assert_allclose(one.target, other.target, atol=1)


def test_a_changed_file_is_made_again_and_keeps_its_split(archive: Path, cache: Path, tmp_path: Path) -> None:
    root, copy = tmp_path / "archive", tmp_path / "cache"
    shutil.copytree(archive, root)
    shutil.copytree(cache, copy)
    nifti_patient(root / "p1", small_case(9))
    # copytree keeps the times of files, so only the changed case differs.
    result = prepare(root, copy, SETTINGS)
    assert result.finished_before == 3
    assert load_case(copy / "p1").facts.lesion_ml == pytest.approx(small_case(9).lesion_ml, rel=0.02)
    for name in ("p0", "p1", "p2", "p3"):
        assert load_case(copy / name).facts.split == load_case(cache / name).facts.split


def spoil(folder: Path, how: str) -> None:
    """Make one fault in a good case."""
    case = small_case(4)
    nifti_patient(folder, case)
    hu = case.ct_hu.astype(np.float32)
    if how == "not_finite":
        hu[3, 5, 5] = np.nan
    elif how == "one_slice":
        hu = hu[:1]
    elif how == "ct_unit":
        hu = np.clip((hu + 0) / 80 * 255, 0, 255)
    elif how == "no_brain":
        hu = np.full_like(hu, -1000)
        hu[0, 0, 0] = 40.0
    write_nifti(folder / "ct.nii.gz", hu, case)
    if how == "empty_mask":
        write_nifti(folder / "brain.nii.gz", 0 * case.brain, case)
    elif how == "lesion_grid":
        image = image_of(case.lesion, case)
        image.SetOrigin([value + 20 for value in image.GetOrigin()])
        sitk.WriteImage(image, str(folder / "lesion.nii.gz"))
    elif how == "no_dwi":
        (folder / "dwi.nii.gz").unlink()
    elif how == "unreadable":
        (folder / "dwi.nii.gz").write_bytes(b"not a volume")
    elif how == "registration":
        noise = np.random.default_rng(0).rayleigh(9, case.dwi.shape).astype(np.float32)
        write_nifti(folder / "dwi.nii.gz", noise, case)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A cache made of one good case and one of every fault; outcome codes by case."""
    root = tmp_path_factory.mktemp("spoilt") / "archive"
    nifti_patient(root / "good", small_case(3))
    for how in ("not_finite", "one_slice", "ct_unit", "no_brain", "empty_mask", "lesion_grid", "no_dwi", "unreadable"):
        spoil(root / how.replace("_", "-"), how)
    spoil(root / "registration", "registration")
    result = prepare(root, root.parent / "cache", SETTINGS)
    return root.parent / "cache", {outcome.name: outcome.code for outcome in result.outcomes}


@pytest.mark.parametrize(
    "how",
    ["not_finite", "one_slice", "no_brain", "empty_mask", "lesion_grid", "no_dwi", "unreadable", "registration"],
)
def test_a_fault_ends_with_its_code(spoilt, how: str) -> None:
    assert spoilt[1][how.replace("_", "-")] == how


def test_ct_in_a_window_is_refused(spoilt) -> None:
    assert spoilt[1]["ct-unit"] in ("ct_unit", "ct_window")


def test_bad_cases_leave_the_good_one_and_nothing_else(spoilt) -> None:
    cache, codes = spoilt
    assert codes["good"] == "taken"
    assert complete_cases(cache) == ["good"]
    report = json.loads((cache / "report" / "report.json").read_text())
    reasons = {outcome["name"]: outcome["reason"] for outcome in report["outcomes"]}
    assert all(reasons[name] for name in codes if name != "good")
    # A refused registration can be looked at.
    assert (cache / "report" / "qc" / "registration.png").stat().st_size > 5000


def test_a_case_that_turns_bad_leaves_the_cache(archive: Path, cache: Path, tmp_path: Path) -> None:
    root, copy = tmp_path / "archive", tmp_path / "cache"
    shutil.copytree(archive, root)
    shutil.copytree(cache, copy)
    spoil(root / "p1", "not_finite")
    prepare(root, copy, SETTINGS)
    assert complete_cases(copy) == ["p0", "p2", "p3"]


def test_a_pair_of_dicom_series_is_taken_and_nothing_of_its_header_is_kept(tmp_path: Path) -> None:
    root, cache = tmp_path / "in", tmp_path / "cache"
    dicom_patient(root / "Doe_Jane", small_case(3))
    result = prepare(root, cache, PrepareSettings(contract=CONTRACT, layout="dicom", centre="north"))
    (outcome,) = result.outcomes
    assert outcome.taken, outcome.reason
    assert re.fullmatch(r"dicom-\d{8}", outcome.name)
    assert load_case(cache / outcome.name).facts.centre == "north"
    assert_nothing_of(("Doe", "Jane", *PhantomPatient().name.split("^"), "PHANTOM-A"), cache)


def assert_nothing_of(words: tuple[str, ...], cache: Path) -> None:
    """No word in a file's name, nor in any text of a cache."""
    texts = [file.read_text() for file in cache.rglob("*") if file.suffix in (".json", ".csv", ".html")]
    assert len(texts) >= 4
    for word in words:
        assert not any(word in file.name for file in cache.rglob("*"))
        assert not any(word in text for text in texts)


def test_a_refusal_does_not_tell_the_name_of_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "in"
    spoil(root / "Doe_Jane", "not_finite")
    nifti_patient(root / "Roe_Richard", small_case(3))
    prepare(root, tmp_path / "cache", replace(SETTINGS, keep_names=False))
    assert "not_finite" in (tmp_path / "cache" / "report" / "report.html").read_text()
    assert_nothing_of(("Doe", "Jane", "Roe", "Richard"), tmp_path / "cache")


def test_names_stay_when_cases_are_added() -> None:
    settings = replace(SETTINGS, keep_names=False)
    source = PairSource("Study-12", "site", None, "nifti", {})
    assert settings.name_of(source) == settings.name_of(source)
    assert settings.name_of(source) != replace(settings, centre="north").name_of(source)
    public = PairSource("sub-stroke0001", "site", None, "isles24", {})
    assert settings.name_of(public) == "sub-stroke0001"
    assert replace(settings, centre="north").name_of(public) == "north-sub-stroke0001"


def test_the_split_on_slices_is_flagged_and_read_back(archive: Path, tmp_path: Path) -> None:
    result = prepare(archive, tmp_path / "cache", replace(SETTINGS, split="slice"))
    assert result.warning is not None
    assert "say nothing about new patients" in (tmp_path / "cache" / "report" / "report.html").read_text()
    opened = open_prepared(tmp_path / "cache", CONTRACT)
    assert opened.leaky
    train, test = opened.cases("train"), opened.cases("test")
    assert {case.facts.patient for case in train} & {case.facts.patient for case in test}
    n = {
        split: sum(int(case.brain.any(axis=(1, 2)).sum()) for case in cases)
        for split, cases in (("a", train), ("b", test))
    }
    assert n["a"] == int(0.8 * (n["a"] + n["b"]))
    for case in test:
        partner = next((other for other in train if other.facts.patient == case.facts.patient), None)
        if partner is not None:
            assert not (partner.brain.any(axis=(1, 2)) & case.brain.any(axis=(1, 2))).any()
    # Who does not know about slices finds no test case at all, instead of a leaking one.
    assert load_split(tmp_path / "cache", "test") == ()
    with pytest.raises(PrepareError, match="split by slice"):
        prepare(archive, tmp_path / "cache", SETTINGS)


def test_a_cache_is_opened_only_for_what_it_was_made_for(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="target_scale"):
        open_prepared(cache, replace(CONTRACT, target_scale=2.0))
    assert open_prepared(cache, replace(CONTRACT, windows_hu=((0.0, 100.0),))).index.source == "prepared"
    with pytest.raises(CacheError, match="no case of elsewhere"):
        open_prepared(cache).cases("train", ["elsewhere"])
    with pytest.raises(CacheError, match="no cache"):
        open_prepared(tmp_path)
    nifti_patient(tmp_path / "p9", small_case(3))
    with pytest.raises(PrepareError, match="grid_px"):
        prepare(tmp_path, cache, replace(SETTINGS, contract=PreprocessingContract()))


def test_a_killed_run_leaves_complete_cases_and_is_continued(archive: Path, cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "cache"
    process = child(archive, target)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "2":
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert complete_cases(target) == []  # nothing is settled yet, so nothing can be read
    with pytest.raises(CacheError):
        read_index(target)
    result = prepare(archive, target, SETTINGS)
    assert result.finished_before >= 2
    for name in ("p0", "p1", "p2", "p3"):
        one, other = load_case(cache / name), load_case(target / name)
        assert one.facts == other.facts
        # One step of the stored target: sums of floats may round otherwise in another process.
        np.testing.assert_allclose(one.target, other.target, atol=1)
    assert not list(target.rglob("*.part"))


def test_a_file_limit_ends_the_run_with_a_word_and_no_half_case(archive: Path, tmp_path: Path) -> None:
    process = child(archive, tmp_path / "cache", limit=60_000)  # hu.npy has 82 kB, the record less
    output, _ = process.communicate()
    assert process.returncode == 1
    assert "storage: the cache cannot be written" in output
    assert complete_cases(tmp_path / "cache") == []
    assert prepare(archive, tmp_path / "cache", SETTINGS).taken == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_ends_the_run_and_the_run_goes_on_with_room(archive: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this system does not let root mount a small disk")
    try:
        process = child(archive, disk / "cache")
        output, _ = process.communicate()
        assert process.returncode == 1
        assert "ENOSPC" in output or "short write" in output
        assert "run the same command again" in output
        assert complete_cases(disk / "cache") == []
        assert not list(disk.rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        result = prepare(archive, disk / "cache", SETTINGS)
        assert result.taken == 4
        assert complete_cases(disk / "cache") == ["p0", "p1", "p2", "p3"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_slices_that_the_diffusion_volume_does_not_cover_are_left_out(tmp_path: Path) -> None:
    case = small_case(4)
    nifti_patient(tmp_path / "in" / "p", case)
    sitk.WriteImage(image_of(case.dwi, case)[:, :, :9], str(tmp_path / "in" / "p" / "dwi.nii.gz"))
    result = prepare(tmp_path / "in", tmp_path / "cache", replace(SETTINGS, transform=TransformKind.NONE))
    (outcome,) = result.outcomes
    assert outcome.taken, outcome.reason
    made = load_case(tmp_path / "cache" / "p")
    assert not made.brain[9].any()
    assert made.brain[8].any()
    assert any("slices left out" in note for note in outcome.notes)


def test_the_affine_of_the_grid_names_true_positions() -> None:
    volume = small_case(4).ct_volume()
    mask = brain_mask(volume)
    stack = to_grid_stack(volume, mask, CONTRACT)
    affine = np.array(grid_affine(volume, stack.placement))
    points = voxel_positions(volume, np.ones(volume.hu.shape, bool), 1).reshape(*volume.hu.shape, 3)
    index = np.argwhere(stack.brain)[::37]
    for axis in range(3):
        # Shifted to be positive inside, since the resampling continues a slice by zeros.
        on_grid = resample_to_grid(points[..., axis] + 1000, stack.placement) - 1000
        expected = [on_grid[slice_, row, column] for slice_, row, column in index]
        got = [(affine @ (column, row, slice_, 1))[axis] for slice_, row, column in index]
        np.testing.assert_allclose(got, expected, atol=0.05)


def test_a_wrong_layout_names_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"ct\.nii\.gz"):
        prepare(tmp_path, tmp_path / "cache", SETTINGS)


def invoke(*words: object):
    app = typer.Typer()
    app.command()(prepare_command)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_ends_with_0_2_or_3(tmp_path: Path) -> None:
    root = tmp_path / "in"
    spoil(root / "bad", "not_finite")
    nothing = invoke(root, "--out", tmp_path / "none", "--layout", "nifti", "--workers", "1")
    assert nothing.exit_code == 3, nothing.output
    assert "not_finite" in nothing.output
    assert invoke(tmp_path / "absent", "--out", tmp_path / "c").exit_code == 2
    assert invoke(root, "--out", tmp_path / "c", "--centre", "no/name").exit_code == 2
    nifti_patient(root / "good", small_case(3))
    listed = invoke(root, "--out", tmp_path / "c", "--layout", "nifti", "--dry-run", "--json")
    assert [row["source"] for row in json.loads(listed.stdout)["cases"]] != []
    assert not (tmp_path / "c").exists()
    done = invoke(root, "--out", tmp_path / "c", "--layout", "nifti", "--workers", "1", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["taken"] == 1


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
def test_values_that_are_no_numbers_are_counted_in_the_bytes(tmp_path: Path, suffix: str, kind: type) -> None:
    values = np.zeros((30, 100, 101), dtype=kind)  # more than one chunk
    if kind is not np.int16:
        values[2, 3, 4], values[29, 99, 100] = np.nan, np.inf
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / f"ct{suffix}"))
    assert nonfinite_voxels(tmp_path / f"ct{suffix}") == (0 if kind is np.int16 else 2)
