"""The burned-in text can still be read when a viewer shows the image as a thumbnail of 256 pixels.

The images are shrunk as viewers do it (nearest pixel, bilinear, area), and the text is then read from the pixels: each
character is the glyph that correlates best with what is seen at its place. Left out: how it looks, which was judged by
eye; finding the whole text in full-size images (`test_watermark.py`).
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from dicom_node.dicom.watermark import GLYPHS, Corner, apply_watermark, plan_watermark

LINES = ("SYNTHETIC - NOT MR", "PHANTOM-TRAINED")
THUMBNAIL = 256
WAYS = {"nearest": cv2.INTER_NEAREST_EXACT, "bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
#: Dots of one character with the gap behind it, of a line with the gap below it, and of the margin.
CELL, LINE, MARGIN = 6, 9, 2


def _head(size: int, free: Corner) -> tuple[np.ndarray, np.ndarray]:
    """A bright textured head that leaves one corner, and its mask."""
    y, x = np.mgrid[:size, :size] / size
    down = 1.0 if free.value.startswith("top") else -1.0
    right = 1.0 if free.value.endswith("left") else -1.0
    brain = (x - 0.5 - 0.15 * right) ** 2 + (y - 0.5 - 0.15 * down) ** 2 < 0.6**2
    return np.where(brain, 1800 + 900 * np.sin(60 * x) * np.sin(50 * y), 0).astype(np.uint16), brain


def _thumbnail(size: int, way: str, free: Corner = Corner.TOP_LEFT) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The marked image as a viewer shows it small (8 bits, window 2048/4096), and where the text stands in it."""
    image, brain = _head(size, free)
    mark = plan_watermark(LINES, brain[None])
    assert mark.corner is free
    marked = apply_watermark(image[None], mark)[0]
    shown = np.clip(marked / 4096 * 255, 0, 255).astype(np.uint8)
    return cv2.resize(shown, (THUMBNAIL, THUMBNAIL), interpolation=WAYS[way]), mark.window(image.shape)


def _dots(thumbnail: np.ndarray, size: int, window: tuple[slice, slice]) -> np.ndarray:
    """Brightness at the centre of every dot of the text, 0 to 1."""
    scale = -(-size // 256)
    rows = (np.arange(window[0].start, window[0].stop, scale) + scale / 2) * THUMBNAIL / size - 0.5
    columns = (np.arange(window[1].start, window[1].stop, scale) + scale / 2) * THUMBNAIL / size - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(thumbnail.astype(float), grid, order=1, mode="nearest") / 255


def _glyph(character: str) -> np.ndarray:
    rows = bytes.fromhex(GLYPHS[character])
    return np.array([[row >> (4 - bit) & 1 for bit in range(5)] for row in rows], float)


def _read(dots: np.ndarray) -> list[str]:
    """Read lines of text, character by character, by the nearest glyph."""
    lines = []
    for top in range(MARGIN, dots.shape[0] - 6, LINE):
        cells = [dots[top : top + 7, left : left + 5] for left in range(MARGIN, dots.shape[1] - 4, CELL)]
        lines.append("".join(min(GLYPHS, key=lambda one: float(((cell - _glyph(one)) ** 2).sum())) for cell in cells))
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [256, 300, 512, 600, 768, 1024])
def test_the_text_is_read_from_the_thumbnail(size, way):
    thumbnail, window = _thumbnail(size, way)
    assert _read(_dots(thumbnail, size, window)) == list(LINES)


@pytest.mark.parametrize("free", list(Corner))
def test_the_text_is_read_in_every_corner(free):
    for size in (512, 1024):
        thumbnail, window = _thumbnail(size, "area", free)
        assert _read(_dots(thumbnail, size, window)) == list(LINES)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [512, 1024])
def test_strokes_stand_out_from_their_plate(size, way):
    thumbnail, window = _thumbnail(size, way)
    dots = _dots(thumbnail, size, window)
    strokes = np.zeros(dots.shape, bool)
    for number, line in enumerate(LINES):
        for position, character in enumerate(line):
            top, left = MARGIN + number * LINE, MARGIN + position * CELL
            strokes[top : top + 7, left : left + 5] = _glyph(character) > 0
    assert dots[strokes].min() > 0.9
    assert dots[~strokes].max() < 0.1


def test_text_of_one_pixel_in_1024_could_not_be_read():
    """The reading is no formality: without the scale the letters are gone."""
    image = np.zeros((1024, 1024), np.uint16)
    mark = plan_watermark(LINES, np.zeros((1, 256, 256), bool))
    image[: mark.plate.shape[0], : mark.plate.shape[1]] = mark.plate
    thumbnail = cv2.resize((image / 4096 * 255).astype(np.uint8), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    window = (slice(0, mark.plate.shape[0] * 4), slice(0, mark.plate.shape[1] * 4))
    assert _read(_dots(thumbnail, 1024, window)) != list(LINES)


@pytest.mark.parametrize("free", list(Corner))
def test_all_slices_of_a_series_carry_it_in_the_corner_with_least_brain_over_the_series(free):
    """Each slice alone would choose another corner; the series has one."""
    image, brain = _head(512, free)
    alone = [corner for corner in Corner if corner is not free]
    mask = np.stack([_head(512, corner)[1] for corner in alone] + [brain] * 4)
    pixels = np.broadcast_to(image, mask.shape).copy()
    mark = plan_watermark(LINES, mask)
    assert {plan_watermark(LINES, one[None]).corner for one in mask} == set(Corner)
    assert mark.corner is free
    rows, columns = mark.window(image.shape)
    assert all(np.array_equal(one[rows, columns], mark.plate) for one in apply_watermark(pixels, mark))
