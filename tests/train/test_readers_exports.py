"""Exports of a cache for other programs: pix2pix's aligned PNG and SelfRDB's npy.

Covers values, names, splits, geometry, the way back through `AlignedPngReader`, and that an export is whole or not
there. Leaves out the programs that read them.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.cache import CaseFacts, encode_hu, encode_target, load_split, write_case, write_index
from train.data.readers import LayoutError, ReaderOptions, reader_for
from train.data.readers.exports import export_aligned, export_selfrdb
from train.data.readers.image_files import read_slice

CASES = (("A_1", "A", "train", 3, 5.0), ("B_1", "B", "train", 2, 4.0), ("A_2", "A", "test", 4, 5.0))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Three small phantom-like cases of noise: what matters is that every value arrives where it belongs."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "cache"
    write_index(folder, PreprocessingContract(), "phantom")
    for patient, centre, split, count, step in CASES:
        offsets = tuple(step * index for index in range(count))
        facts = CaseFacts(patient, centre, split, "phantom", 1.0, None, offsets, (0.0, 0.0))
        arrays = {
            "hu": encode_hu(rng.uniform(-100, 200, (count, 12, 12))),
            "target": encode_target(rng.uniform(-1, 1, (count, 12, 12))),
            "brain": np.ones((count, 12, 12), np.uint8),
        }
        write_case(folder / patient, facts, arrays)
    return folder


def test_an_aligned_export_is_read_back(cache: Path, tmp_path: Path) -> None:
    assert export_aligned(cache, tmp_path / "out", window_hu=(-20, 120)) == 9
    reader = reader_for("aligned", ReaderOptions(ct_unit="window", window_hu=(-20, 120)))

    found = {source.patient: source for source in reader.find(tmp_path / "out")}

    assert {name: source.split for name, source in found.items()} == {"A_1": "train", "A_2": "test", "B_1": "train"}
    for split in ("train", "test"):
        for case in load_split(cache, split):
            pair = reader.load(found[case.facts.patient])
            np.testing.assert_allclose(pair.ct.hu, np.clip(case.hu_slices(), -20, 120), atol=140 / 255)
            shown = sitk.GetArrayFromImage(pair.dwi) / 255 * 2 - 1
            np.testing.assert_allclose(shown, case.target_slices(), atol=1.01 / 255)
            np.testing.assert_allclose(np.diff(pair.ct.offsets_mm), np.diff(case.facts.slice_offsets_mm))
            assert pair.ct.spacing_mm == (0.9, 0.9)


def test_the_halves_stand_as_pix2pix_expects_them(cache: Path, tmp_path: Path) -> None:
    export_aligned(cache, tmp_path / "out")
    picture = read_slice(tmp_path / "out" / "test" / "A_2_003.png")

    (case,) = load_split(cache, "test")

    assert picture.shape == (12, 24)
    assert picture.dtype == np.uint8
    hidden = case.hu_slices(3) <= 0
    assert hidden.any()
    assert not picture[:, :12][hidden].any()


def test_slices_for_selfrdb_run_on_over_patients(cache: Path, tmp_path: Path) -> None:
    assert export_selfrdb(cache, tmp_path / "out") == 9

    subjects = json.loads((tmp_path / "out" / "subjects.json").read_text())
    assert subjects == {"train": ["A_1"] * 3 + ["B_1"] * 2, "test": ["A_2"] * 4}
    cases = load_split(cache, "train")
    hu, target = (
        np.concatenate([part(case) for case in cases])
        for part in (type(cases[0]).hu_slices, type(cases[0]).target_slices)
    )
    for index in range(5):
        ct, dwi = (np.load(tmp_path / "out" / kind / "train" / f"slice_{index}.npy") for kind in ("ct", "dwi"))
        np.testing.assert_allclose(ct, np.clip(hu[index] / 80, 0, 1), atol=1e-6)
        np.testing.assert_allclose(dwi, (target[index] + 1) / 2, atol=1e-6)


@pytest.mark.parametrize("export", [export_aligned, export_selfrdb])
def test_an_export_is_whole_or_not_there(cache: Path, tmp_path: Path, export) -> None:
    with pytest.raises(LayoutError, match=r"^missing: "):
        export(cache, tmp_path / "out", centres=["nowhere"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]

    (cache / "B_1" / "target.npy").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="pickled"):
        export(cache, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]

    (tmp_path / "out").mkdir()
    with pytest.raises(LayoutError, match=r"^duplicate: "):
        export(cache, tmp_path / "out")


def test_only_the_wanted_centres_are_exported(cache: Path, tmp_path: Path) -> None:
    assert export_aligned(cache, tmp_path / "out", centres=["B"]) == 2
    with pytest.raises(LayoutError, match=r"^option: "):
        export_aligned(cache, tmp_path / "other", window_hu=(80, 0))
