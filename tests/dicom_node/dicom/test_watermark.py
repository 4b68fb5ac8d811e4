"""The burned-in text: glyphs, size, place, and that it is found again only when it is whole.

The look of the letters was judged by eye; here their table is checked for being complete, distinct and mirror-safe.
Left out: the text in whole objects (`tests/dicom_node/derive`).
"""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.dicom.watermark import (
    GLYPHS,
    INK,
    PLATE,
    Corner,
    apply_watermark,
    drawable,
    find_watermark,
    plan_watermark,
    render,
)
from dicom_node.errors import Permanent

LINES = ("SYNTHETIC - NOT MR", "PHANTOM-TRAINED")


def test_every_capital_letter_and_digit_has_a_glyph_of_its_own():
    needed = string.ascii_uppercase + string.digits + " -.,:/+()"
    assert drawable(needed)
    assert len({GLYPHS[character] for character in needed}) == len(needed)
    for rows in GLYPHS.values():
        assert len(bytes.fromhex(rows)) == 7
        assert max(bytes.fromhex(rows)) < 32


def test_lower_case_cannot_be_drawn():
    assert not drawable("Synthetic")


def test_letters_read_from_left_to_right_and_top_to_bottom():
    plate = render(("L",), (256, 256)) == INK
    rows, columns = np.nonzero(plate)
    assert columns[rows == rows.min()].max() == columns.min()
    assert (rows == rows.max()).sum() == 5


@pytest.mark.parametrize(("size", "scale"), [(256, 1), (257, 2), (512, 2), (768, 3), (1024, 4)])
def test_scale_keeps_the_text_legible_in_a_thumbnail_of_256_pixels(size, scale):
    assert render(("I",), (size, size)).shape == (scale * 11, scale * 9)


def test_text_survives_shrinking_a_512_image_to_256():
    image = np.zeros((512, 512), np.uint16)
    plate = render(LINES, image.shape)
    image[: plate.shape[0], : plate.shape[1]] = plate
    small = image.reshape(256, 2, 256, 2).mean(axis=(1, 3))
    assert find_watermark(small.astype(np.uint16), LINES) is Corner.TOP_LEFT


def test_narrow_image_breaks_the_text_at_spaces():
    plate = render(LINES, (96, 112))
    assert plate.shape[1] <= 112
    assert plate.shape[0] > render(LINES, (256, 256)).shape[0] - 1
    assert render(("SYNTHETIC - NOT MR",), (96, 64)).shape[0] == 2 * 9 - 2 + 4


def test_image_too_small_for_the_text_is_refused_with_its_size():
    with pytest.raises(Permanent) as caught:
        render(LINES, (32, 32))
    assert caught.value.code == "watermark_space"
    assert caught.value.figures == {"rows": 32, "columns": 32}


@pytest.mark.parametrize("free", list(Corner))
def test_the_corner_without_brain_is_taken(free):
    mask = np.ones((3, 200, 300), bool)
    rows = slice(0, 60) if free.value.startswith("top") else slice(140, 200)
    columns = slice(0, 150) if free.value.endswith("left") else slice(150, 300)
    mask[:, rows, columns] = False
    assert plan_watermark(("SYNTHETIC",), mask).corner is free


def test_the_corner_is_chosen_over_the_whole_series():
    mask = np.zeros((3, 256, 256), bool)
    mask[0, :30, :120] = True
    mask[1, :30, 130:] = True
    mask[2, 220:, :120] = True
    assert plan_watermark(LINES, mask).corner is Corner.BOTTOM_RIGHT


def test_without_brain_the_first_corner_is_taken():
    assert plan_watermark(LINES, np.zeros((2, 256, 256), bool)).corner is Corner.TOP_RIGHT


def test_all_slices_carry_the_same_text_and_nothing_else_changes():
    pixels = np.random.default_rng(3).integers(0, 4096, (4, 256, 300)).astype(np.uint16)
    before = pixels.copy()
    mark = plan_watermark(LINES, np.zeros(pixels.shape, bool))
    marked = apply_watermark(pixels, mark)
    window = mark.window((256, 300))
    np.testing.assert_array_equal(pixels, before)
    for image, original in zip(marked, pixels, strict=True):
        np.testing.assert_array_equal(image[window], mark.plate)
        outside = np.ones(image.shape, bool)
        outside[window] = False
        np.testing.assert_array_equal(image[outside], original[outside])


def test_text_is_full_white_on_black():
    assert set(np.unique(render(LINES, (256, 256)))) == {PLATE, INK}


@pytest.mark.parametrize("corner", list(Corner))
def test_text_is_found_in_each_corner(corner):
    mask = np.ones((1, 200, 300), bool)
    rows = slice(0, 60) if corner.value.startswith("top") else slice(140, 200)
    columns = slice(0, 150) if corner.value.endswith("left") else slice(150, 300)
    mask[:, rows, columns] = False
    pixels = np.full((1, 200, 300), 900, np.uint16)
    marked = apply_watermark(pixels, plan_watermark(LINES, mask))
    assert find_watermark(marked[0], LINES) is corner
    assert find_watermark(marked[0], ("SYNTHETIC - NOT MR", "UNTRAINED")) is None
    assert find_watermark(marked[0, ::-1], LINES) is None
    assert find_watermark(pixels[0], LINES) is None


@given(st.integers(0, 4095), st.integers(0, 2**31))
def test_one_changed_dot_is_enough_not_to_be_found(value, position):
    image = np.zeros((1, 256, 256), np.uint16)
    mark = plan_watermark(LINES, np.zeros(image.shape, bool))
    marked = apply_watermark(image, mark)[0]
    rows, columns = mark.window((256, 256))
    spot = marked[rows, columns]
    index = np.unravel_index(position % spot.size, spot.shape)
    same = spot[index] == value
    spot[index] = value
    assert (find_watermark(marked, LINES) is not None) == same


def test_an_image_smaller_than_the_text_has_none():
    assert find_watermark(np.zeros((8, 8), np.uint16), LINES) is None
