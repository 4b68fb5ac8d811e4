"""Text of every character set of DICOM: decoded where it fits, named where it does not, never an exception.

The names are real files of pydicom's character set collection, the examples of PS3.5 annexes H to K, and random bytes.
Left out: that a result keeps the bytes (`tests/dicom_node/derive/test_derive_texts.py`).
"""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_charset_files

from dicom_node.dicom.charsets import character_sets
from dicom_node.dicom.reading import ElementReader, open_dataset
from dicom_node.dicom.values import SliceHeader, header_of, read_header
from tests.dicom_node.dicom.builders import ct_dataset, set_dirty, write

WITH_NAME = [path for path in sorted(get_charset_files("chr*.dcm")) if "SQ" not in path]


def test_the_collection_is_there() -> None:
    assert len(WITH_NAME) >= 15


@pytest.mark.parametrize("path", WITH_NAME, ids=lambda path: Path(path).stem)
def test_real_files_decode_as_pydicom_decodes_them(path: str) -> None:
    reader = ElementReader(open_dataset(Path(path)))
    # pydicom drops an empty last component group.
    assert reader.text("PatientName").rstrip("=") == str(pydicom.dcmread(path).PatientName)
    reader.check_texts(["PatientName", "PatientID", "StudyDescription"])
    assert reader.issues == []


TERMS = {
    "ISO_IR 100": ("M\u00fcller^J\u00f6rg", "latin_1"),
    "ISO_IR 101": ("Wa\u0142\u0119sa^\u0141ukasz", "iso8859_2"),
    "ISO_IR 109": ("\u0108apelo^\u011ce", "iso8859_3"),
    "ISO_IR 110": ("\u0100bols^\u0113rika", "iso8859_4"),
    "ISO_IR 126": ("\u0394\u03b9\u03bf\u03bd^\u03c5\u03c3", "iso8859_7"),
    "ISO_IR 127": ("\u0642\u0628\u0627\u0646\u064a^\u0646\u0632\u0627\u0631", "iso8859_6"),
    "ISO_IR 138": ("\u05e9\u05e8\u05d5\u05df^\u05d3\u05d1\u05d5\u05e8\u05d4", "iso8859_8"),
    "ISO_IR 144": ("\u041b\u044e\u043ace^\u043c\u0431\u044bp\u0433", "iso8859_5"),
    "ISO_IR 148": ("\u00c7avu\u015fo\u011flu^\u0130rem", "iso8859_9"),
    "ISO_IR 166": ("\u0e19\u0e32\u0e22^\u0e01", "tis_620"),
    "ISO_IR 203": ("\u0152uvre^\u20ac", "iso8859_15"),
    "ISO_IR 13": ("\uff94\uff8f\uff80\uff9e^\uff80\uff9b\uff73", "shift_jis"),
    "ISO_IR 192": ("\u738b^\u5c0f\u6771", "utf_8"),
    "GB18030": ("\u738b^\u5c0f\u4e1c", "gb18030"),
    "GBK": ("\u738b^\u5c0f\u4e1c", "gbk"),
}


@pytest.mark.parametrize("term", TERMS)
def test_each_term_without_extensions(term: str) -> None:
    text, codec = TERMS[term]
    sets = character_sets(term)
    assert sets.issue is None
    assert sets.decode(text.encode(codec)) == text


ANNEXES = {
    "H.3.1 Japanese": (
        "\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046",
    ),
    "I.2 Korean": (
        "\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9",
    ),
    "K.2 Chinese": (
        "\\ISO 2022 IR 58",
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=\u5f20^\u5c0f\u4e1c=",
    ),
    "back to the first set after a delimiter": (
        "ISO 2022 IR 100\\ISO 2022 IR 144",
        b"\x1b-L\xbb\xee^M\xfcller",
        "\u041b\u044e^M\u00fcller",
    ),
}


@pytest.mark.parametrize("case", ANNEXES)
def test_code_extensions(case: str) -> None:
    declared, value, text = ANNEXES[case]
    sets = character_sets(declared)
    assert sets.issue is None
    assert sets.decode(value) == text


@pytest.mark.parametrize(
    ("declared", "value", "fits"),
    [
        (None, b"plain", True),
        (None, b"M\xfcller", False),
        ("ISO_IR 192", b"M\xfcller", False),
        ("ISO_IR 100", b"\x1b$B;3ED\x1b(B", False),
        ("\\ISO 2022 IR 87", b"\x1b$)C\xfb\xf3", False),
        ("\\ISO 2022 IR 87", b"\x1b$B\xff", False),
        ("ISO_IR 126", b"\xae", False),
    ],
)
def test_what_does_not_fit(declared: str | None, value: bytes, fits: bool) -> None:
    assert (character_sets(declared).decode(value) is not None) is fits


@pytest.mark.parametrize(
    ("declared", "issue"),
    [
        ("ISO_IR 100", None),
        ("", None),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], None),
        ("ISO-IR 100", "misspelt term"),
        ("ISO_IR_100", "misspelt term"),
        ("ISO_IR 6", "misspelt term"),
        ("UTF-8", "misspelt term"),
        ("ISO 2022 IR 100", "code extension as the only value"),
        ("ISO_IR 192\\ISO 2022 IR 87", "a term that must stand alone has others beside it"),
        ("NO_SUCH_SET", "no defined term"),
        (b"\xff\xfe", "no defined term"),
    ],
)
def test_the_declaration_itself_is_judged(declared: object, issue: str | None) -> None:
    assert character_sets(declared).issue == issue


@pytest.mark.parametrize("declared", ["ISO-IR 100", "ISO_IR_100", "ISO 2022 IR 100", "LATIN1"])
def test_a_misspelt_term_still_decodes(declared: str) -> None:
    assert character_sets(declared).decode(b"M\xfcller") == "M\u00fcller"


@given(declared=st.one_of(st.none(), st.binary(max_size=40), st.text(max_size=40)), value=st.binary(max_size=60))
def test_no_bytes_ever_raise(declared: object, value: bytes) -> None:
    sets = character_sets(declared)
    assert isinstance(sets.words(value), str)
    sets.decode(b"\x1b" + value)
    sets.decode(b"\x1b$B" + value)


# --- whole headers -----------------------------------------------------------------------------------------------


def test_words_are_read_in_their_character_set(tmp_path: Path) -> None:
    for term, word in (("ISO_IR 144", "\u0433\u043e\u043b\u043e\u0432\u0430"), ("GB18030", "\u5934\u90e8\u5e73\u626b")):
        dataset = ct_dataset(SpecificCharacterSet=term, SeriesDescription=word)
        header = read_header(write(dataset, tmp_path / "a.dcm"))
        assert header.series_description == word
        assert header.issues == ()


def test_a_half_of_a_character_that_looks_like_a_backslash_separates_nothing(tmp_path: Path) -> None:
    word = "\u8a3a\u65ad\u8868\u4e59"  # 0x5C is the second byte of more than a hundred characters of GBK
    value = next(chr(code).encode("gbk") for code in range(0x4E00, 0x9FFF) if chr(code).encode("gbk")[1:] == b"\\")
    dataset = ct_dataset(SpecificCharacterSet="GBK")
    set_dirty(dataset, "ProtocolName", (word.encode("gbk") + value).decode("latin-1"))
    assert read_header(write(dataset, tmp_path / "a.dcm")).protocol_name == word + value.decode("gbk")


def test_a_text_that_does_not_fit_is_named_without_its_text(tmp_path: Path) -> None:
    dataset = ct_dataset(SpecificCharacterSet="ISO_IR 192")
    set_dirty(dataset, "PatientName", "M\u00fcller^J\u00f6rg")
    header = header_of(dataset, tmp_path)
    assert header.issues == ("PatientName: text does not fit the declared character set",)


BROKEN_DECLARATIONS = (
    *(b"ISO 2022 IR 6\0\\ISO 2022 IR 87", b"\0\\\0", b"rot13", b"zlib", b"\\\\\\\\", b"\xff\xfe", b"idna"),
    *(b"ISO_IR 192\\GB18030", b"ISO 2022 IR 87\\", b"x" * 300, b"ISO_IR 100\0\0"),
)


def _with_declaration(path: Path, value: bytes) -> Path:
    whole = write(ct_dataset(), path).read_bytes()
    value += b" " * (len(value) % 2)
    start = whole.index(b"\x08\x00\x05\x00CS")
    length = struct.unpack_from("<H", whole, start + 6)[0]
    element = whole[start : start + 6] + struct.pack("<H", len(value)) + value
    path.write_bytes(whole[:start] + element + whole[start + 8 + length :])
    return path


@pytest.mark.parametrize("value", BROKEN_DECLARATIONS)
def test_a_broken_declaration_never_makes_a_file_unreadable(tmp_path: Path, value: bytes) -> None:
    header = read_header(_with_declaration(tmp_path / "a.dcm", value))
    assert isinstance(header, SliceHeader)
    assert header.series_description == "HEAD 5MM"


@given(value=st.binary(max_size=64))
def test_no_declaration_at_all_makes_a_file_unreadable(tmp_path_factory: pytest.TempPathFactory, value: bytes) -> None:
    header = read_header(_with_declaration(tmp_path_factory.mktemp("declared") / "a.dcm", value))
    assert header.image_position_patient == (-120.0, -130.0, 0.0)
