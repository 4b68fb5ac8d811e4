"""A page of text as an image: for the viewer that shows nothing but images.

The glyphs are those of the watermark, completed by lower case and a few signs, on nine rows so that letters may
descend. As there, no font file and no imaging library takes part: the same lines give the same bytes everywhere, and
the page can be rendered again to check it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dicom_node.dicom.watermark import GLYPHS

__all__ = ["PAGE_PX", "Line", "page_glyph", "render_page", "wrap"]

#: Rows and columns of a page.
PAGE_PX: Final = 1024
INK: Final = 255

_MARGIN_PX: Final = 40
_ROWS: Final = 9
_COLUMNS: Final = 5
_LEADING: Final = 3
#: Dots of the body text: 3 is read from an arm's length even when the viewer shows the page at half its size.
_BODY_SCALES: Final = (3, 2)

#: Nine rows of five dots, top to bottom, as in `watermark.GLYPHS`; the last two hang below the line.
_LOWER: Final[dict[str, str]] = {
    "a": "00000E010F110F0000",
    "b": "10101E1111111E0000",
    "c": "00000E1110110E0000",
    "d": "01010F1111110F0000",
    "e": "00000E111F100E0000",
    "f": "06081C080808080000",
    "g": "00000F1111110F010E",
    "h": "10101E111111110000",
    "i": "04000C0404040E0000",
    "j": "02000602020202120C",
    "k": "101012141814120000",
    "l": "0C04040404040E0000",
    "m": "00001A151515150000",
    "n": "00001E111111110000",
    "o": "00000E1111110E0000",
    "p": "00001E1111111E1010",
    "q": "00000F1111110F0101",
    "r": "000016191010100000",
    "s": "00000F100E011E0000",
    "t": "08081C080809060000",
    "u": "0000111111110F0000",
    "v": "00001111110A040000",
    "w": "0000111515150A0000",
    "x": "0000110A040A110000",
    "y": "0000111111110F010E",
    "z": "00001F0204081F0000",
    "'": "040408000000000000",
    '"': "0A0A14000000000000",
    "%": "181902040813030000",
    "=": "00001F001F00000000",
    "<": "020408100804020000",
    ">": "080402010204080000",
    "!": "040404040400040000",
    "?": "0E1101020400040000",
    ";": "000C0C000C0C040800",
    "_": "000000000000001F00",
    "*": "0004150E1504000000",
    "#": "0A0A1F0A1F0A0A0000",
    "&": "0C121408150A150000",
    "[": "0E08080808080E0000",
    "]": "0E02020202020E0000",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One paragraph of a page.

    Attributes
    ----------
    text : str
        What it says; a character without a glyph is drawn as a question mark.
    scale : int or None
        Dots of a glyph dot; None for body text, which takes the largest that lets the page fit.
    """

    text: str
    scale: int | None = None


def page_glyph(character: str) -> npt.NDArray[np.bool_]:
    """Dots of one character, (9, 5) bool."""
    digits = _LOWER.get(character) or (GLYPHS[character] + "0000" if character in GLYPHS else _LOWER["?"])
    rows = bytes.fromhex(digits)
    return np.array([[row >> (_COLUMNS - 1 - bit) & 1 for bit in range(_COLUMNS)] for row in rows], dtype=bool)


def wrap(text: str, characters: int) -> list[str]:
    """Break a text at spaces into lines of at most so many characters; a longer word is cut."""
    lines = [""]
    for word in text.split():
        while word:
            room = characters - len(lines[-1]) - (1 if lines[-1] else 0)
            if len(word) <= room:
                lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
                break
            if lines[-1]:
                lines.append("")
                continue
            lines[-1], word = word[:characters], word[characters:]
            lines.append("")
    return lines if lines[-1] or len(lines) == 1 else lines[:-1]


def render_page(lines: tuple[Line, ...]) -> npt.NDArray[np.uint8]:
    """Draw a page.

    Parameters
    ----------
    lines : tuple of Line
        Paragraphs from top to bottom, each broken to the width of the page. An empty one leaves a gap.

    Returns
    -------
    numpy.ndarray
        (`PAGE_PX`, `PAGE_PX`) uint8, white on black. Lines that do not fit even in the smallest body text are left out
        at the end.
    """
    for body in _BODY_SCALES:
        page, fits = _draw(lines, body)
        if fits:
            break
    return page


def _draw(lines: tuple[Line, ...], body: int) -> tuple[npt.NDArray[np.uint8], bool]:
    page = np.zeros((PAGE_PX, PAGE_PX), dtype=np.uint8)
    top = _MARGIN_PX
    for line in lines:
        scale = line.scale or body
        characters = (PAGE_PX - 2 * _MARGIN_PX) // (scale * (_COLUMNS + 1))
        for part in wrap(line.text, characters):
            height = scale * (_ROWS + _LEADING)
            if top + height > PAGE_PX - _MARGIN_PX:
                return page, False
            # A gap between paragraphs need not be as high as a line.
            top += height if part else height // 2
            if part:
                _put(page, part, top - height, scale)
    return page, True


def _put(page: npt.NDArray[np.uint8], text: str, top: int, scale: int) -> None:
    dots = np.zeros((_ROWS, len(text) * (_COLUMNS + 1)), dtype=bool)
    for position, character in enumerate(text):
        left = position * (_COLUMNS + 1)
        dots[:, left : left + _COLUMNS] = page_glyph(character)
    enlarged = dots.repeat(scale, axis=0).repeat(scale, axis=1)
    target = page[top : top + enlarged.shape[0], _MARGIN_PX : _MARGIN_PX + enlarged.shape[1]]
    target[enlarged] = INK
