"""Text of every character set of DICOM, decoded where it fits and never a reason to stop (PS3.5 section 6.1).

The node decodes text for two ends only: to match words of the site's rules, and to say in a warning that a text does
not fit the character set that its header declares. What is copied into a result is copied as bytes
(`dicom_node.dicom.identity`). Decoding is our own, because pydicom replaces what does not fit (so a misfit cannot be
told from a question mark), takes escape sequences of GB 2312 for an unknown codec, and refuses a whole file for a
zero byte in SpecificCharacterSet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pydicom.charset
import pydicom.dataset
import pydicom.filereader
from pydicom.charset import convert_encodings, default_encoding

__all__ = ["TEXT_VRS", "CharacterSets", "character_sets"]

#: Value representations whose text SpecificCharacterSet governs (PS3.5 section 6.1.2.2).
TEXT_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})

#: Defined terms without code extensions (PS3.3 tables C.12-2 and C.12-5) and their Python codec. The last four stand
#: alone: no escape sequence may occur in them, and every byte of a character may look like a backslash.
_SINGLE: Final = {
    "": "ascii",
    "ISO_IR 13": "shift_jis",
    "ISO_IR 100": "latin_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 166": "tis_620",
    "ISO_IR 203": "iso8859_15",
    "ISO_IR 192": "utf_8",
    "GB18030": "gb18030",
    "GBK": "gbk",
}

#: Defined terms with code extensions (PS3.3 tables C.12-3 and C.12-4): Python codec, and the escape sequences that
#: call the set.
_EXTENDED: Final[Mapping[str, tuple[str, tuple[bytes, ...]]]] = {
    "ISO 2022 IR 6": ("ascii", (b"\x1b(B",)),
    "ISO 2022 IR 13": ("shift_jis", (b"\x1b)I", b"\x1b(J")),
    "ISO 2022 IR 100": ("latin_1", (b"\x1b-A",)),
    "ISO 2022 IR 101": ("iso8859_2", (b"\x1b-B",)),
    "ISO 2022 IR 109": ("iso8859_3", (b"\x1b-C",)),
    "ISO 2022 IR 110": ("iso8859_4", (b"\x1b-D",)),
    "ISO 2022 IR 126": ("iso8859_7", (b"\x1b-F",)),
    "ISO 2022 IR 127": ("iso8859_6", (b"\x1b-G",)),
    "ISO 2022 IR 138": ("iso8859_8", (b"\x1b-H",)),
    "ISO 2022 IR 144": ("iso8859_5", (b"\x1b-L",)),
    "ISO 2022 IR 148": ("iso8859_9", (b"\x1b-M",)),
    "ISO 2022 IR 166": ("tis_620", (b"\x1b-T",)),
    "ISO 2022 IR 203": ("iso8859_15", (b"\x1b-b",)),
    "ISO 2022 IR 87": ("iso2022_jp", (b"\x1b$B",)),
    "ISO 2022 IR 159": ("iso2022_jp_2", (b"\x1b$(D",)),
    "ISO 2022 IR 149": ("euc_kr", (b"\x1b$)C",)),
    "ISO 2022 IR 58": ("gb2312", (b"\x1b$)A",)),
}
_STAND_ALONE: Final = frozenset({"ISO_IR 192", "GB18030", "GBK"})
#: Two bytes of seven bits a character: delimiters may be halves of characters, and Python wants the escape sequence.
_SEVEN_BIT: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})

_ESCAPE: Final = re.compile(rb"(\x1b\$[()][A-D]|\x1b\$B|\x1b[-()].)", re.DOTALL)
# Where text goes back to the first character set: PS3.5 section 6.1.2.5.3.
_RESET: Final = re.compile(rb"([\\^=\r\n\t\f])")
# How the terms are misspelt: ISO-IR 100, ISO_IR_100, iso 2022 ir 87, ISO_IR100.
_LOOSE: Final = re.compile(r"ISO[ _-]?(2022)?[ _-]?(?:IR)?[ _-]?(\d+)\Z", re.IGNORECASE)
_ALIASES: Final = {"UTF-8": "ISO_IR 192", "UTF8": "ISO_IR 192", "LATIN1": "ISO_IR 100", "GB2312": "GBK"}


class CharacterSets:
    """The character sets that one data set declares.

    Parameters
    ----------
    terms : sequence of str
        Values of SpecificCharacterSet (0008,0005), padding removed.

    Attributes
    ----------
    issue : str or None
        What is wrong with the declaration itself, without its text.
    """

    __slots__ = ("_called", "_extended", "_first", "issue")

    def __init__(self, terms: Sequence[str]) -> None:
        known = [_corrected(term) for term in terms] or [""]
        self.issue: str | None = None
        if any(term is None for term in known):
            self.issue = "no defined term"
        elif list(terms) and known != list(terms):
            self.issue = "misspelt term"
        names = [term or "" for term in known]
        # The standard knows code extensions with several values only; a single "ISO 2022 IR n" is a common slip.
        self._extended = len(names) > 1 or names[0].startswith("ISO 2022")
        if self.issue is None and len(names) > 1 and _STAND_ALONE & set(names):
            self.issue = "a term that must stand alone has others beside it"
        if self.issue is None and len(names) == 1 and names[0].startswith("ISO 2022"):
            self.issue = "code extension as the only value"
        self._first = _codec(names[0])
        # ASCII and JIS X 0201 Romaji replace the lower half only; the upper half keeps what it has.
        self._called = {b"\x1b(B": self._first, b"\x1b(J": "shift_jis"}
        for name in names:
            codec, escapes = _EXTENDED.get(name, ("", ()))
            self._called.update(dict.fromkeys(escapes, codec))

    def decode(self, value: bytes) -> str | None:
        """Decode a text value; None when it does not fit what was declared.

        Parameters
        ----------
        value : bytes
            One or several values with their delimiters, as they stand in the file.
        """
        if value.isascii() and b"\x1b" not in value:
            return value.decode("ascii")
        try:
            if self._extended:
                return "".join(self._fragments(value))
            return None if b"\x1b" in value else value.decode(self._first)
        except UnicodeError:
            return None

    def words(self, value: bytes) -> str:
        """Decode a text value for matching words: as declared where it fits, else as UTF-8 or Latin-1.

        Latin-1 takes every byte, so a declaration of it that no writer meant would never show: what is UTF-8 to the
        last byte was written as such.
        """
        text = _as_utf8(value) if self._first == "latin_1" else None
        text = self.decode(value) if text is None else text
        if text is not None:
            return text
        return _as_utf8(value) or value.decode("latin-1")

    def _fragments(self, value: bytes) -> list[str]:
        """Decode piece by piece, each from an escape sequence to the next.

        Raises
        ------
        UnicodeError
            A piece that does not fit, or an escape sequence of a set that was not declared.
        """
        pieces = _ESCAPE.split(value)
        if any(b"\x1b" in piece for piece in pieces[::2]):
            raise UnicodeError
        texts = [pieces[0].decode(self._first)]
        for escape, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            codec = self._called.get(escape)
            if codec is None:
                raise UnicodeError
            if codec in _SEVEN_BIT:
                texts.append((escape + piece).decode(codec))
                continue
            head, *rest = _RESET.split(piece, maxsplit=1)
            texts.append(head.decode(codec))
            if rest:
                texts.append(self._after_reset(b"".join(rest), codec))
        return texts

    def _after_reset(self, piece: bytes, codec: str) -> str:
        """Decode what follows a delimiter: the first set again, or where a writer forgot that, still the called one."""
        try:
            return piece.decode(self._first)
        except UnicodeError:
            return piece.decode(codec)


def character_sets(value: object) -> CharacterSets:
    """Give the character sets of a value of SpecificCharacterSet as pydicom leaves it: bytes, text or a list of texts.

    Never raises, whatever the value is.
    """
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, Iterable) and not isinstance(value, str):
        parts = [str(part) for part in value]
    else:
        parts = str(value if value is not None else "").split("\\")
    terms = [part.strip(" \0") for part in parts]
    return CharacterSets(() if terms == [""] else terms)


def _corrected(term: str) -> str | None:
    """Give the defined term that was meant, None for one that cannot be guessed."""
    if term in _SINGLE or term in _EXTENDED:
        return term
    # ISO 646 is the default repertoire: the term of table C.12-3 without its extension.
    if term == "ISO_IR 6":
        return ""
    loose = _LOOSE.match(term)
    if loose is not None:
        name = f"ISO 2022 IR {loose[2]}" if loose[1] else f"ISO_IR {loose[2]}"
        return name if name in _SINGLE or name in _EXTENDED else None
    return _ALIASES.get(term.upper())


def _as_utf8(value: bytes) -> str | None:
    """Text in UTF-8 beyond ASCII, None when it is none."""
    try:
        return None if value.isascii() else value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _codec(term: str) -> str:
    if term in _SINGLE:
        return _SINGLE[term]
    codec, _ = _EXTENDED[term]
    # As first value a set of seven-bit pairs leaves ASCII in place until it is called.
    return "ascii" if codec in _SEVEN_BIT else codec


def _convert_encodings(encodings: object) -> list[str]:
    """Do what pydicom's `convert_encodings` does, and take what breaks it for the default repertoire."""
    try:
        return convert_encodings(encodings)  # type: ignore[arg-type]
    except (ValueError, LookupError, TypeError):
        return [default_encoding]


# pydicom asks Python for a codec of that name while it reads a file, and a zero byte in the name ends the reading.
for _module in (pydicom.charset, pydicom.dataset, pydicom.filereader):
    setattr(_module, "convert_encodings", _convert_encodings)  # noqa: B010 (not exported, so mypy knows no attribute)
