"""The judge of the demonstration says FAIL where it has to, and the demonstration deletes only what it made.

Results are made by the offline pipeline with an untrained network; left out is the journey over the network, which the
demonstration itself shows in continuous integration.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicom_node.demo.judge import Verdict, judge
from dicom_node.demo.run import MARKER, prepare_folder
from dicom_node.errors import Permanent
from dicom_node.offline import OfflineRules, plan_study, scan, synthesize_study


@pytest.fixture(scope="module")
def result(phantom_ct: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the synthetic series of the phantom."""
    from dicom_node.synthesize.pipeline import load_runtime

    [(study, series)] = scan(phantom_ct).studies.items()
    plan = plan_study(study, series, OfflineRules())
    runtime = load_runtime(str(tiny_bundle), device="cpu", threads=1)
    out = tmp_path_factory.mktemp("result")
    return synthesize_study(plan, runtime, OfflineRules(), out, lambda *_: None).folder / "series"


@pytest.fixture
def received(result: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(result, tmp_path / "received"))


@pytest.fixture
def verdict_of(phantom_case, phantom_ct: Path, tiny_bundle: Path, received: Path, tmp_path: Path):
    def judged(*, loop_guard: bool = True) -> Verdict:
        montage = tmp_path / "montage.png"
        return judge(phantom_case, phantom_ct, received, montage, loop_guard=loop_guard, bundle=str(tiny_bundle))

    return judged


def _failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def _change(folder: Path, change: Callable[[pydicom.Dataset, int], None]) -> None:
    for number, path in enumerate(sorted(folder.glob("*.dcm"))):
        ds = pydicom.dcmread(path)
        change(ds, number)
        ds.save_as(path)


def _paint_truth(folder: Path, phantom_case, *, mirrored: bool) -> None:
    """Put the phantom's own DWI into the pixels, as a perfect model would, or its mirror image."""
    scale = 3.0 * np.median(phantom_case.dwi[phantom_case.brain])
    by_height = {round(float(z), 2): index for index, z in enumerate(phantom_case.positions_mm[:, 2])}

    def paint(ds: pydicom.Dataset, _: int) -> None:
        index = by_height[round(float(ds.ImagePositionPatient[2]), 2)]
        image = np.clip(phantom_case.dwi_clean[index] / scale, 0, 1) * phantom_case.brain[index]
        ds.PixelData = np.rint((image[:, ::-1] if mirrored else image) * 4095).astype("<u2").tobytes()

    _change(folder, paint)


def test_an_untouched_result_misses_no_mark_and_lies_on_its_ct(verdict_of, tmp_path: Path) -> None:
    verdict = verdict_of()
    assert not _failed(verdict) - {"left is left"}, "an untrained network need not tell left from right"
    assert (tmp_path / "montage.png").stat().st_size > 10_000
    assert all(name.startswith("phantom_") for name in verdict.metrics)


def test_a_perfect_picture_passes_laterality_and_its_mirror_image_fails(verdict_of, received, phantom_case) -> None:
    _paint_truth(received, phantom_case, mirrored=False)
    perfect = verdict_of()
    assert "left is left" not in _failed(perfect)
    assert perfect.metrics["phantom_lesion_auc"] > 0.9
    _paint_truth(received, phantom_case, mirrored=True)
    assert "left is left" in _failed(verdict_of())


def test_a_missing_mark_fails(verdict_of, received: Path) -> None:
    def unmark(ds: pydicom.Dataset, number: int) -> None:
        if number == 3:
            del ds.SyntheticData

    _change(received, unmark)
    assert "every mandatory mark" in _failed(verdict_of())


def test_a_missing_slice_and_a_moved_slice_fail(verdict_of, received: Path) -> None:
    sorted(received.glob("*.dcm"))[0].unlink()

    def move(ds: pydicom.Dataset, number: int) -> None:
        if number == 5:
            ds.ImagePositionPatient = [float(value) + 0.5 for value in ds.ImagePositionPatient]

    _change(received, move)
    failed = _failed(verdict_of())
    assert "one instance per CT slice" in failed
    assert "geometry, frame of reference and study of the CT" in failed


def test_a_result_of_the_result_fails(verdict_of) -> None:
    assert "own result left alone when it came back" in _failed(verdict_of(loop_guard=False))


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Permanent, match="not_empty"):
        prepare_folder(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_an_earlier_demonstration_is_cleared(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "out")
    (tmp_path / "out" / "received").mkdir()
    (tmp_path / "out" / "report.json").write_text("{}")
    prepare_folder(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MARKER]
