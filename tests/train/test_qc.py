"""Quality-control mosaics: what is drawn, which slices, that the picture is whole, and that a refusal is visible.

Left out: whether a person sees a bad registration on it; that needs a person.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.data.qc import COLUMNS, ROWS, QcPicture, checkerboard, chosen_slices, write_mosaic


@pytest.fixture
def picture() -> QcPicture:
    brain = np.zeros((20, 48, 48), dtype=bool)
    brain[3:18, 10:38, 12:36] = True
    lesion = np.zeros_like(brain)
    lesion[11, 20:26, 20:26] = True
    dwi = np.where(brain, 100.0, 5.0) + 200.0 * lesion
    return QcPicture("nifti-00000001", np.where(brain, 35.0, 900.0), dwi, brain, lesion, True, ("MI 0.5",))


def test_the_mosaic_is_a_whole_picture_with_one_row_a_slice(picture: QcPicture, tmp_path: Path) -> None:
    file = tmp_path / "qc" / "case.png"
    write_mosaic(file, picture)
    with Image.open(file) as image:
        image.load()
        width, height = image.size
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    assert width / height == pytest.approx(3 * len(COLUMNS) / (3 * ROWS + 1), rel=0.01)
    # Outline of the brain in yellow, of the lesion in red.
    assert ((colours[:, 0] > 150) & (colours[:, 1] > 150) & (colours[:, 2] < 90)).sum() > 100
    assert ((colours[:, 0] > 150) & (colours[:, 1] < 90) & (colours[:, 2] < 90)).sum() > 10
    assert [path.name for path in file.parent.iterdir()] == ["case.png"]


def test_a_refusal_looks_different(picture: QcPicture, tmp_path: Path) -> None:
    write_mosaic(tmp_path / "yes.png", picture)
    write_mosaic(tmp_path / "no.png", replace(picture, accepted=False))
    first, second = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("yes", "no"))
    top = first.shape[0] // 25
    assert (first[:top] != second[:top]).any()
    np.testing.assert_array_equal(first[3 * top :], second[3 * top :])


def test_the_largest_section_of_the_lesion_is_always_drawn(picture: QcPicture) -> None:
    rows = chosen_slices(picture)
    assert 11 in rows
    assert rows.min() > 3
    assert rows.max() < 17


def test_a_case_without_lesion_or_brain_can_be_drawn(picture: QcPicture, tmp_path: Path) -> None:
    write_mosaic(tmp_path / "a.png", replace(picture, lesion=None))
    write_mosaic(tmp_path / "b.png", replace(picture, brain=np.zeros_like(picture.brain), dwi=0 * picture.dwi))
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_nothing_is_left_where_it_cannot_be_written(picture: QcPicture, tmp_path: Path) -> None:
    (tmp_path / "case.png").mkdir()
    (tmp_path / "case.png" / "in-the-way").touch()
    with pytest.raises(OSError, match=r"case\.png"):
        write_mosaic(tmp_path / "case.png", picture)
    assert [path.name for path in tmp_path.iterdir()] == ["case.png"]


def test_the_checkerboard_holds_half_of_each() -> None:
    board = checkerboard(np.zeros((64, 64)), np.ones((64, 64)), tiles=8)
    assert board.mean() == 0.5
    assert board[0, 0] == 0
    assert board[0, 8] == board[8, 0] == 1
