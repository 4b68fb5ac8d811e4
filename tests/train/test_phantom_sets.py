"""Sets of phantom patients: parallel equals serial, interruption, manifest, splits and the three formats.

Left out: the training cache, which has its own tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from train.data import phantom_sets
from train.data.phantom import generate_case
from train.data.phantom_sets import (
    SetGeometry,
    load_npz,
    read_manifest,
    save_npz,
    split_of,
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
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert (tmp_path / "one/manifest.json").read_bytes() == (tmp_path / "two/manifest.json").read_bytes()
    for entry in read_manifest(tmp_path / "one"):
        assert (tmp_path / "one" / entry.path).read_bytes() == (tmp_path / "two" / entry.path).read_bytes()
    assert not list(tmp_path.rglob("*.part"))


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
    assert json.loads(manifest.read_text())["geometry"]["matrix"] == 32


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


def test_a_patients_split_is_its_own() -> None:
    splits = [split_of(seed, "A") for seed in range(600)]
    shares = [splits.count(name) / 600 for name in ("train", "val", "test")]  # type: ignore[arg-type]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.05)
    assert splits == [split_of(seed, "A") for seed in range(600)]
    assert splits != [split_of(seed, "B") for seed in range(600)]


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
    names = {path.name for path in (tmp_path / "A-000007").iterdir()}
    assert names == {f"{n}.nii.gz" for n in ("ct", "dwi", "b0", "adc", "dwi_clean", "lesion", "brain", "labels")}


def test_dicom_sets_hold_studies(tmp_path: Path) -> None:
    import pydicom

    write_set(tmp_path, "C", 1, 2, format="dicom", geometry=SMALL)
    files = sorted((tmp_path / "C-000002").rglob("*.dcm"))
    assert len(files) == 8
    assert {pydicom.dcmread(path, stop_before_pixels=True).Modality for path in files} == {"CT"}


def test_wrong_orders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="centre"):
        write_set(tmp_path, "Q", 1, 1)
    with pytest.raises(ValueError, match="at least one"):
        write_set(tmp_path, "A", 0, 1)
    with pytest.raises(ValueError, match="tiff"):
        write_set(tmp_path, "A", 1, 1, format="tiff")  # type: ignore[arg-type]
    manifest = write_set(tmp_path, "A", 1, 1, geometry=SMALL)
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(ValueError, match="version 99"):
        read_manifest(tmp_path)
