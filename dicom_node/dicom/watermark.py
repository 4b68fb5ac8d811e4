"""The text burned into every derived image: where it goes, how it is drawn, how it is found again.

The attributes of an object can be lost on the way to a screen (screenshots, exports, secondary captures); the pixels
cannot. The glyphs are a table of our own, scaled by whole numbers, so that the same request gives the same bytes
whatever fonts or imaging libraries a machine has.

The text is drawn in the stored pixel matrix: rows downwards, columns to the right, as every viewer shows it unless a
user flips the image. Feet-first or prone stacks therefore need no special treatment.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from dicom_node.errors import Permanent

#: Stored value of the strokes (full white of 12 bits) and of the plate behind them.
INK: Final = 4095
PLATE: Final = 0

_GLYPH_ROWS: Final = 7
_GLYPH_COLUMNS: Final = 5
_MARGIN: Final = 2
_LINE_GAP: Final = 2
#: One text pixel per 256 image pixels keeps the text legible when the image is shown as a 256-pixel thumbnail.
_PIXELS_PER_DOT: Final = 256

#: Seven rows of five dots, top to bottom; two hexadecimal digits a row, most significant bit on the left.
GLYPHS: Final[dict[str, str]] = {
    " ": "00000000000000",
    "A": "0E11111F111111",
    "B": "1E11111E11111E",
    "C": "0E11101010110E",
    "D": "1E11111111111E",
    "E": "1F10101E10101F",
    "F": "1F10101E101010",
    "G": "0E11101711110F",
    "H": "1111111F111111",
    "I": "0E04040404040E",
    "J": "0702020202120C",
    "K": "11121418141211",
    "L": "1010101010101F",
    "M": "111B1515111111",
    "N": "11191513111111",
    "O": "0E11111111110E",
    "P": "1E11111E101010",
    "Q": "0E11111115120D",
    "R": "1E11111E141211",
    "S": "0F10100E01011E",
    "T": "1F040404040404",
    "U": "1111111111110E",
    "V": "11111111110A04",
    "W": "1111111515150A",
    "X": "11110A040A1111",
    "Y": "11110A04040404",
    "Z": "1F01020408101F",
    "0": "0E11131519110E",
    "1": "040C040404040E",
    "2": "0E11010204081F",
    "3": "1F02040201110E",
    "4": "02060A121F0202",
    "5": "1F101E0101110E",
    "6": "0608101E11110E",
    "7": "1F010204080808",
    "8": "0E11110E11110E",
    "9": "0E11110F01020C",
    "-": "0000001F000000",
    ".": "00000000000C0C",
    ",": "000000000C0408",
    ":": "000C0C000C0C00",
    "/": "00010204081000",
    "+": "0004041F040400",
    "(": "02040808080402",
    ")": "08040202020408",
}


class Corner(StrEnum):
    """Corner of the stored pixel matrix that holds the text; the order breaks ties.

    Most heads leave all four corners free. Viewers write over the image, OHIF into every corner but the upper right.
    """

    TOP_RIGHT = "top_right"
    TOP_LEFT = "top_left"
    BOTTOM_LEFT = "bottom_left"
    BOTTOM_RIGHT = "bottom_right"


@dataclass(frozen=True, slots=True)
class Watermark:
    """A rendered text and the place it takes in every slice of a series.

    Attributes
    ----------
    plate : numpy.ndarray
        (height, width) uint16, `INK` on `PLATE`.
    corner : Corner
        The corner it stands in.
    """

    plate: npt.NDArray[np.uint16]
    corner: Corner

    def window(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Row and column range of the plate in an image of `shape` (rows, columns)."""
        return _window(self.plate.shape[0], self.plate.shape[1], shape, self.corner)


def _window(height: int, width: int, shape: tuple[int, int], corner: Corner) -> tuple[slice, slice]:
    rows, columns = shape
    top = 0 if corner in (Corner.TOP_LEFT, Corner.TOP_RIGHT) else rows - height
    left = 0 if corner in (Corner.TOP_LEFT, Corner.BOTTOM_LEFT) else columns - width
    return slice(top, top + height), slice(left, left + width)


def drawable(text: str) -> bool:
    """Whether every character of `text` has a glyph (upper-case letters, digits, a few signs)."""
    return all(character in GLYPHS for character in text)


def _glyph(character: str) -> npt.NDArray[np.bool_]:
    rows = bytes.fromhex(GLYPHS[character])
    return np.array(
        [[row >> (_GLYPH_COLUMNS - 1 - bit) & 1 for bit in range(_GLYPH_COLUMNS)] for row in rows], dtype=bool
    )


def _wrap(text: str, characters: int) -> list[str] | None:
    """Break a text at spaces into lines of at most so many characters; None when one word is longer."""
    lines: list[str] = []
    for word in text.split():
        if len(word) > characters:
            return None
        if lines and len(lines[-1]) + 1 + len(word) <= characters:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines


def _layout(lines: tuple[str, ...], shape: tuple[int, int]) -> tuple[list[str], int]:
    """Broken lines and the scale at which they fit into half the height and the whole width of an image."""
    rows, columns = shape
    for scale in range(max(1, -(-max(shape) // _PIXELS_PER_DOT)), 0, -1):
        characters = (columns // scale - 2 * _MARGIN + 1) // (_GLYPH_COLUMNS + 1)
        wrapped = [_wrap(line, characters) for line in lines]
        broken = [part for parts in wrapped if parts is not None for part in parts]
        height = scale * _plate_dots(len(broken))
        if None not in wrapped and 2 * height <= rows:
            return broken, scale
    raise Permanent(
        "watermark_space",
        "the image is too small to carry the watermark legibly",
        {"rows": rows, "columns": columns},
    )


def _plate_dots(lines: int) -> int:
    return lines * (_GLYPH_ROWS + _LINE_GAP) - _LINE_GAP + 2 * _MARGIN


def render(lines: tuple[str, ...], shape: tuple[int, int]) -> npt.NDArray[np.uint16]:
    """Draw the text for an image of the given size.

    Parameters
    ----------
    lines : tuple of str
        Lines of text; characters of `GLYPHS`. A line wider than the image is broken at spaces.
    shape : tuple of int
        Rows and columns of the image; they set the scale.

    Returns
    -------
    numpy.ndarray
        (height, width) uint16, `INK` strokes on a `PLATE` background with a margin around.

    Raises
    ------
    Permanent
        `watermark_space` when the text does not fit into half of the image.
    """
    broken, scale = _layout(lines, shape)
    width = max(map(len, broken)) * (_GLYPH_COLUMNS + 1) - 1 + 2 * _MARGIN
    dots = np.zeros((_plate_dots(len(broken)), width), dtype=bool)
    for number, line in enumerate(broken):
        top = _MARGIN + number * (_GLYPH_ROWS + _LINE_GAP)
        for position, character in enumerate(line):
            left = _MARGIN + position * (_GLYPH_COLUMNS + 1)
            dots[top : top + _GLYPH_ROWS, left : left + _GLYPH_COLUMNS] = _glyph(character)
    enlarged = dots.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.where(enlarged, np.uint16(INK), np.uint16(PLATE))


def plan_watermark(lines: tuple[str, ...], mask: npt.NDArray[np.bool_]) -> Watermark:
    """Choose the corner in which the text hides least of the brain, one for the whole series.

    Parameters
    ----------
    lines : tuple of str
        Lines of text, see `render`.
    mask : numpy.ndarray
        (S, rows, columns) bool, brain mask of the series on the grid of the images.

    Returns
    -------
    Watermark
        Rendered text and its corner. Equal overlaps go to the first of `Corner`.

    Raises
    ------
    Permanent
        `watermark_space`, see `render`.
    """
    shape = (int(mask.shape[1]), int(mask.shape[2]))
    plate = render(lines, shape)
    covered = mask.sum(axis=0, dtype=np.int64)

    def overlap(corner: Corner) -> int:
        return int(covered[_window(plate.shape[0], plate.shape[1], shape, corner)].sum())

    return Watermark(plate, min(Corner, key=overlap))


def apply_watermark(pixels: npt.NDArray[np.uint16], watermark: Watermark) -> npt.NDArray[np.uint16]:
    """Return a copy of a series (S, rows, columns) with the text in every slice."""
    marked = pixels.copy()
    rows, columns = watermark.window((pixels.shape[1], pixels.shape[2]))
    marked[:, rows, columns] = watermark.plate
    return marked


def find_watermark(image: npt.NDArray[np.uint16], lines: tuple[str, ...]) -> Corner | None:
    """Return the corner in which an image (rows, columns) shows exactly this text, or None.

    The text is rendered again and compared dot by dot, so a faded, shifted or shortened one is not found.
    """
    shape = (int(image.shape[0]), int(image.shape[1]))
    try:
        plate = render(lines, shape)
    except Permanent:
        return None
    for corner in Corner:
        if np.array_equal(image[_window(plate.shape[0], plate.shape[1], shape, corner)], plate):
            return corner
    return None
