"""Sets of phantom patients: plans, parallel equals serial, interruption, manifest, splits, disk and the three formats.

Left out: the training cache, the DICOM objects themselves and the command, which have their own tests.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from train.data import phantom_sets
from train.data.phantom import generate_case
from train.data.phantom_files import case_bytes
from train.data.phantom_plans import TABLE_1, plan_like_table1, plan_patients
from train.data.phantom_sets import (
    PhantomSetError,
    SetFormat,
    SetGeometry,
    bytes_needed,
    check_space,
    load_npz,
    read_manifest,
    save_npz,
    write_plans,
    write_set,
)

SMALL = SetGeometry(matrix=32, n_slices=3)


def test_a_case_survives_the_file(tmp_path: Path) -> None:
    case = generate_case(2, "C", matrix=32, n_slices=3, lesion="mca_whole", tilt_deg=4.0)
    save_npz(case, tmp_path / "case.npz")
    back = load_npz(tmp_path / "case.npz")
    for name in ("ct_hu", "lesion", "brain", "labels", "slice_z_mm"):
        assert np.array_equal(getattr(back, name), getattr(case, name))
        assert getattr(back, name).dtype == getattr(case, name).dtype
    for name in ("dwi", "b0", "adc", "dwi_clean"):
        np.testing.assert_allclose(getattr(back, name), getattr(case, name), rtol=1e-3, atol=1e-4)
    for name in ("seed", "centre", "lesion_kind", "side", "hu_drop", "onset_h", "spacing_mm", "tilt_deg"):
        assert getattr(back, name) == getattr(case, name)


def test_workers_change_nothing(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_set(tmp_path / "one", "A", 3, 5, workers=1, geometry=SMALL, progress=lambda *done: seen.append(done))
    write_set(tmp_path / "two", "A", 3, 5, workers=2, geometry=SMALL)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert (tmp_path / "one/manifest.json").read_bytes() == (tmp_path / "two/manifest.json").read_bytes()
    for entry in read_manifest(tmp_path / "one"):
        assert (tmp_path / "one" / entry.path).read_bytes() == (tmp_path / "two" / entry.path).read_bytes()
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.glob("*.unfinished"))


def test_manifest_tells_what_the_case_holds(tmp_path: Path) -> None:
    manifest = write_set(tmp_path, "B", 2, 40, geometry=SMALL, lesion="mca_whole")
    entries = read_manifest(manifest)
    assert [entry.seed for entry in entries] == [40, 41]
    assert len({entry.patient for entry in entries}) == 2
    for entry in entries:
        case = load_npz(tmp_path / entry.path)
        assert (entry.centre, entry.lesion_kind, entry.side) == ("B", "mca_whole", case.side)
        assert (entry.hu_drop, entry.onset_h, entry.lesion_ml) == pytest.approx(
            (case.hu_drop, case.onset_h, case.lesion_ml), abs=1e-3
        )
    content = json.loads(manifest.read_text())
    assert [shape["matrix"] for shape in content["geometries"]] == [32]
    assert content["lesion_kinds"]["mca_whole"] == {"B": 2}
    assert sum(sum(row.values()) for row in content["lesion_kinds"].values()) == 2
    assert content["centres"]["B"]["slices"] == 6


def test_an_interrupted_set_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path, "A", 3, 1, geometry=SMALL, progress=stop)
    assert not (tmp_path / "manifest.json").exists()
    made: list[int] = []
    original = phantom_sets.generate_case

    def counted(seed: int, *args: object, **options: object) -> object:
        made.append(seed)
        return original(seed, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(phantom_sets, "generate_case", counted)
    write_set(tmp_path, "A", 3, 1, geometry=SMALL)
    assert made == [3]
    assert len(read_manifest(tmp_path)) == 3
    # Another geometry is another set: nothing old is taken for it.
    write_set(tmp_path, "A", 1, 1, geometry=SetGeometry(matrix=24, n_slices=3))
    assert load_npz(tmp_path / "A-000001.npz").ct_hu.shape == (3, 24, 24)


def test_the_split_is_stratified_and_stays_when_the_set_grows(tmp_path: Path) -> None:
    tiny = SetGeometry(matrix=16, n_slices=2)
    write_set(tmp_path, "A", 10, 0, geometry=tiny)
    first = {entry.patient: entry.split for entry in read_manifest(tmp_path)}
    assert sorted(first.values()) == ["test"] * 2 + ["train"] * 7 + ["validation"]
    write_set(tmp_path, ["A", "B"], 14, 0, geometry=tiny)
    entries = read_manifest(tmp_path)
    assert len(entries) == 28
    assert {entry.patient: entry.split for entry in entries if entry.patient in first} == first
    assert {entry.split for entry in entries if entry.centre == "B"} == {"train", "validation", "test"}


def test_nifti_lies_where_the_case_lies(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    write_set(tmp_path, "A", 1, 7, format="nifti", geometry=SMALL)
    case = generate_case(7, "A", matrix=32, n_slices=3)
    image = sitk.ReadImage(str(tmp_path / "A-000007" / "ct.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image), case.ct_hu)
    # SimpleITK speaks LPS, as the case does.
    last = image.TransformIndexToPhysicalPoint((31, 31, 2))
    expected = case.positions_mm[2] + 31 * case.spacing_mm[2] * np.eye(3)[0] + 31 * case.spacing_mm[1] * np.eye(3)[1]
    assert last == pytest.approx(expected, abs=1e-3)
    names = {path.name for path in (tmp_path / "A-000007").glob("*.nii.gz")}
    assert names == {f"{n}.nii.gz" for n in ("ct", "dwi", "b0", "adc", "dwi_clean", "lesion", "brain", "labels")}


def test_dicom_sets_hold_pairs(tmp_path: Path) -> None:
    import pydicom

    write_set(tmp_path, "C", 1, 2, format="dicom", geometry=SMALL)
    folder = tmp_path / "C-000002"
    assert {path.name for path in folder.iterdir()} == {"CT", "DWI", "lesion.nii.gz", "phantom.json"}
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.rglob("*.dcm"))]
    assert sorted(ds.Modality for ds in headers) == ["CT"] * 3 + ["MR"] * 6
    assert len({ds.PatientID for ds in headers}) == 1


def test_splits_and_centres_are_listed_for_readers(tmp_path: Path) -> None:
    write_set(tmp_path, ["A", "C"], 3, 50, geometry=SMALL)
    listed = json.loads((tmp_path / "splits.json").read_text())
    entries = read_manifest(tmp_path)
    assert {entry.centre for entry in entries} == {"A", "C"}
    for split in ("train", "validation", "test"):
        assert listed[split] == [entry.patient for entry in entries if entry.split == split]
    assert listed["centres"]["C"] == ["C-000050", "C-000051", "C-000052"]


def test_wrong_orders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="centre"):
        write_set(tmp_path, "Q", 1, 1)
    with pytest.raises(ValueError, match="at least one"):
        write_set(tmp_path, "A", 0, 1)
    with pytest.raises(ValueError, match="tiff"):
        write_set(tmp_path, "A", 1, 1, format="tiff")  # type: ignore[arg-type]
    manifest = write_set(tmp_path, "A", 1, 1, geometry=SMALL)
    manifest.write_text(manifest.read_text().replace('"version": 2', '"version": 99'))
    with pytest.raises(ValueError, match="version 99"):
        read_manifest(tmp_path)
    with pytest.raises(PhantomSetError, match="lesion") as caught:
        write_set(tmp_path, "A", 1, 1, lesion="tumour")
    assert caught.value.code == "lesion"
    with pytest.raises(PhantomSetError, match="twice"):
        write_set(tmp_path, ["A", "A"], 1, 1)
    with pytest.raises(PhantomSetError, match="none twice"):
        write_plans(tmp_path, plan_patients(["A"], 1, 1) * 2)


def test_a_set_like_table_1_has_its_numbers() -> None:
    plans = plan_like_table1(3)
    for centre, row in TABLE_1.items():
        own = [plan for plan in plans if plan.centre == centre]
        assert len(own) == len({plan.seed for plan in own}) == {"A": 228, "B": 635}[centre]
        assert sum(plan.sex == "M" for plan in own) == {"A": 148, "B": 365}[centre]
        assert sum(plan.geometry.n_slices for plan in own) == {"A": 6222 + 1556, "B": 6533 + 1634}[centre]
        assert max(plan.geometry.n_slices for plan in own) - min(plan.geometry.n_slices for plan in own) == 1
        assert {plan.geometry.slice_mm for plan in own} == {row.slice_mm}
    assert plans == plan_like_table1(3)
    assert [plan.sex for plan in plans] != [plan.sex for plan in plan_like_table1(4)]


def test_a_part_of_table_1_is_written_with_its_sexes(tmp_path: Path) -> None:
    plans = [plan for plan in plan_like_table1(0, matrix=32) if plan.centre == "B"][:2]
    summary = write_plans(tmp_path, plans, workers=2, notes={"like": "table 1"})
    assert (summary.made, summary.kept) == (2, 0)
    assert [entry.sex for entry in read_manifest(tmp_path)] == [plan.sex for plan in plans]
    facts = summary.centres["B"]
    assert facts["men"] + facts["women"] == facts["patients"] == 2
    assert json.loads(summary.manifest.read_text())["notes"] == {"like": "table 1"}


def test_killed_while_it_works_it_goes_on_where_it_was(tmp_path: Path) -> None:
    code = (
        "import sys; from train.data.phantom_sets import SetGeometry, write_set\n"
        "if __name__ == '__main__':\n"
        "    write_set(sys.argv[1], 'A', 40, 0, workers=2, format='nifti', geometry=SetGeometry(48, n_slices=4))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    root = tmp_path / "set"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen([sys.executable, str(script), str(root)], env=environment, start_new_session=True)
    waited_until = time.monotonic() + 120
    while len(list(root.glob("A-*"))) < 2 and time.monotonic() < waited_until:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = {path: path.stat().st_mtime_ns for path in root.glob("A-*/ct.nii.gz")}
    assert 2 <= len(there) < 40
    assert not (root / "manifest.json").exists()
    for path in root.glob("A-*"):
        assert len(list(path.glob("*.nii.gz"))) == 8
    n = len(there) + 1
    shape = SetGeometry(48, n_slices=4)
    summary = write_plans(root, plan_patients(["A"], n, 0, geometry=shape), format="nifti")
    # At most two cases were between their last byte and their note.
    assert n - 3 <= summary.kept <= n - 1 or summary.kept == n
    unchanged = sum(path.stat().st_mtime_ns == before for path, before in there.items())
    assert unchanged >= summary.kept - 1
    assert not list(tmp_path.glob("*.unfinished"))
    write_plans(tmp_path / "whole", plan_patients(["A"], n, 0, geometry=shape), format="nifti")
    assert summary.manifest.read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()


def test_another_recipe_never_passes_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, "A", 1, 1, geometry=SMALL, lesion="none")

    def stop(**_facts: object) -> None:
        raise KeyboardInterrupt

    # Interrupted after the new case is in place and before its note is.
    with monkeypatch.context() as broken:
        broken.setattr(phantom_sets, "SetEntry", stop)
        with pytest.raises(KeyboardInterrupt):
            write_set(tmp_path, "A", 1, 1, geometry=SMALL, lesion="mca_whole")
    write_set(tmp_path, "A", 1, 1, geometry=SMALL, lesion="none")
    assert load_npz(tmp_path / "A-000001.npz").lesion_kind.value == "none"


def test_a_set_larger_than_the_disk_is_refused_before_it_starts(tmp_path: Path) -> None:
    needed = bytes_needed(plan_patients(["A"], 10, 0), SetFormat.NPZ) * 10_000_000
    with pytest.raises(PhantomSetError, match="MiB needed") as caught:
        check_space(tmp_path / "not" / "there", needed)
    assert caught.value.code == "disk_space"
    check_space(tmp_path, 0)


@pytest.mark.parametrize("form", list(SetFormat))
def test_the_estimate_is_above_what_is_written_and_not_far(tmp_path: Path, form: SetFormat) -> None:
    shape = SetGeometry(matrix=128, n_slices=6, slice_mm=5.0)
    plans = plan_patients(["C"], 1, 4, geometry=shape)
    write_plans(tmp_path, plans, format=form)
    files = [path for path in tmp_path.glob("C-*/**/*") if path.is_file()] + list(tmp_path.glob("C-*.npz"))
    used = sum(-(-path.stat().st_size // 4096) * 4096 for path in files)
    assert 0.9 * used < case_bytes(form, 6, 128) < 2.5 * used


@pytest.mark.parametrize("form", list(SetFormat))
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, form: SetFormat) -> None:
    code = (
        "import sys; from train.data.phantom_sets import PhantomSetError, SetGeometry, write_set\n"
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({6000}, {6000}))\n"
        "try:\n"
        f"    write_set(sys.argv[1], 'A', 2, 0, format={str(form)!r}, geometry=SetGeometry(96, n_slices=3))\n"
        "except PhantomSetError as error:\n"
        "    print(error.code, error.reason)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "set")], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("disk_full")
    assert "go on" in said.stdout
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []
    assert errno.EFBIG in phantom_sets._NO_ROOM  # the limit stands for a full disk
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 6000


@pytest.mark.parametrize("form", ["nifti", "dicom"])
def test_the_readers_of_archives_take_the_set(tmp_path: Path, form: str) -> None:
    from train.data.readers import READERS

    shape = SetGeometry(matrix=64)
    plans = plan_patients(["A", "B"], 1, 0, geometry=shape, lesion="mca_whole")
    write_plans(tmp_path / "set", plans, format=form)  # type: ignore[arg-type]
    reader = READERS[form]
    sources = reader.find(tmp_path / "set")
    entries = {entry.patient: entry for entry in read_manifest(tmp_path / "set")}
    assert {source.patient: (source.centre, source.split) for source in sources} == {
        name: (entry.centre, entry.split) for name, entry in entries.items()
    }
    pair = reader.load(sources[0])
    case = generate_case(entries[sources[0].patient].seed, sources[0].centre, matrix=64, lesion="mca_whole")
    assert np.array_equal(pair.ct.hu, case.ct_hu.astype(np.float32))
    # NIfTI keeps the case's own registration; the DICOM pair lies in two frames.
    assert pair.same_space is (form == "nifti")
    assert pair.lesion is not None
    assert pair.lesion_space == "ct"


@pytest.mark.parametrize("form", ["nifti", "dicom"])
def test_a_set_is_recognised_and_a_bundle_made_of_it_would_say_phantom(tmp_path: Path, form: str) -> None:
    """From the set through ``prepare`` with nothing said about it to the facts that labels are made of."""
    from jmmda_model.imaging import PreprocessingContract
    from train.data.cache import load_split
    from train.data.prepare import prepare
    from train.data.prepare_settings import PrepareSettings
    from train.data.readers import detect_layout

    archive = tmp_path / "set"
    write_set(archive, "A", 2, 7, format=form, geometry=SetGeometry(matrix=64, n_slices=12, slice_mm=8.0))
    assert detect_layout(archive).name == form
    contract = PreprocessingContract(grid_px=64, grid_spacing_mm=3.6)
    result = prepare(archive, tmp_path / "cache", PrepareSettings(contract=contract))
    assert result.taken == 2, [outcome.reason for outcome in result.outcomes]
    cases = [case for split in ("train", "validation", "test") for case in load_split(tmp_path / "cache", split)]
    assert {case.facts.source for case in cases} == {"phantom"}
