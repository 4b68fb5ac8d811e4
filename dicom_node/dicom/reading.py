"""Read elements of a data set that may be dirty, without letting a value of it out.

Two habits of pydicom do not suit a node that must not reveal patient data: it raises on a number that does not parse,
and it prints the offending text in the exception, the warning or the log line. Elements are therefore parsed here
from their raw bytes (`ElementReader`): what does not parse is ``None`` plus an issue that names keyword and rule,
never the value. Everything pydicom, pynetdicom and highdicom still say by themselves is reduced by
`install_pydicom_privacy`, which every process of the node calls at its start.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from dicom_node.dicom.charsets import CharacterSets, character_sets
from dicom_node.dicom.reading_privacy import install_pydicom_privacy, quiet_pydicom, reduce_message
from dicom_node.errors import Permanent, Transient

__all__ = [
    "PARSE_ERRORS",
    "ElementReader",
    "install_pydicom_privacy",
    "open_dataset",
    "quiet_pydicom",
    "reduce_message",
]

#: What pydicom raises on bytes that are not, or no longer, a data set. Each is turned into `Permanent` without
#: chaining, because the texts of these exceptions quote the data.
PARSE_ERRORS: Final = (
    InvalidDicomError,
    BytesLengthException,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    struct.error,
    zlib.error,
)

#: Largest data set that a deflated one may turn into: as much as the receiver takes of one that is not deflated.
MOST_INFLATED_BYTES: Final = 1024**3
_INFLATE_STEP_BYTES: Final = 4 * 1024**2
#: The file meta information lies within; the transfer syntax is found in it without parsing.
_HEAD_BYTES: Final = 1024
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"

# DS and IS of PS3.5 Table 6.2-1, after padding is removed.
_DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\Z", re.ASCII)
_LARGEST: Final = 1e9
_INTEGER: Final = re.compile(r"[+-]?\d{1,12}\Z", re.ASCII)
_UID: Final = re.compile(r"[0-9][0-9.]{0,63}\Z")
_DATE: Final = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})\Z", re.ASCII)
_TIME: Final = re.compile(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6})\d*)?\Z", re.ASCII)
_OFFSET: Final = re.compile(r"([+-])(\d{2}):?(\d{2})\Z", re.ASCII)


# --- opening -----------------------------------------------------------------------------------------------------


def _looks_like_dicom(head: bytes) -> bool:
    """Say whether these first bytes can begin a Part 10 file, or a bare data set as old tools write them."""
    if head[128:132] == b"DICM":
        return True
    return head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08") and len(head) >= 16


def _ensure_inflates_within(path: Path, head: bytes) -> None:
    """Refuse a deflated data set (PS3.5 section A.5) that would fill the memory: a megabyte can hold a gigabyte."""
    if head[128:136] != b"DICM\x02\0\0\0" or head[136:140] != b"UL\x04\0":
        return
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as stream:
        stream.seek(144 + struct.unpack_from("<I", head, 140)[0])
        data = stream.read()
    while data and not inflater.eof:
        inflated += len(inflater.decompress(data, _INFLATE_STEP_BYTES))
        data = inflater.unconsumed_tail
        if inflated > MOST_INFLATED_BYTES:
            figures: dict[str, object] = {"limit_bytes": MOST_INFLATED_BYTES}
            raise Permanent("unreadable", "the deflated data set is larger than any that is accepted", figures)


def open_dataset(path: Path, *, tags: Sequence[int] | None = None, pixels: bool = False) -> Dataset:
    """Read a DICOM file quietly.

    Parameters
    ----------
    path : Path
        A Part 10 file, or a data set without preamble.
    tags : sequence of int, optional
        Read only these elements; all when absent.
    pixels : bool, default False
        Read on beyond the pixel data.

    Returns
    -------
    pydicom.dataset.Dataset
        Elements are left as raw bytes until somebody asks for them.

    Raises
    ------
    dicom_node.errors.Permanent
        ``unreadable``: not DICOM, or so damaged that no data set can be made of it.
    dicom_node.errors.Transient
        ``storage``: the file system failed.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        if not _looks_like_dicom(head):
            raise Permanent("unreadable", "the file is not DICOM", {"bytes": path.stat().st_size})
        if _DEFLATED in head:
            _ensure_inflates_within(path, head)
        with quiet_pydicom():
            return dcmread(path, stop_before_pixels=not pixels, specific_tags=list(tags) if tags else None, force=True)
    except (FileNotFoundError, IsADirectoryError):
        raise Permanent("unreadable", "the file is not there") from None
    except PARSE_ERRORS as error:
        kind = type(error).__name__
        raise Permanent("unreadable", f"the file cannot be parsed as DICOM ({kind})") from None
    except MemoryError:
        if pixels:
            raise
        # Headers are small, so it was a length of gigabytes that a damaged element announced.
        raise Permanent("unreadable", "an element announces more bytes than the file holds") from None
    except OSError as error:
        # pydicom also raises a bare OSError for broken sequences; only the operating system sets errno.
        if error.errno is None:
            raise Permanent("unreadable", "the file cannot be parsed as DICOM (OSError)") from None
        raise Transient("storage", f"the file could not be read (errno {error.errno})") from None


# --- elements ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return int(tag)


def _as_float(text: str) -> float | None:
    if not _DECIMAL.match(text):
        return None
    number = float(text)
    # No length, factor or intensity of a CT reaches the limit; below it no product of two can overflow.
    return number if abs(number) <= _LARGEST else None


class ElementReader:
    """Tolerant access to the elements of one data set; what does not parse is ``None`` and an issue.

    Parameters
    ----------
    dataset : pydicom.dataset.Dataset
        Raw as `open_dataset` leaves it, or made in memory.

    Attributes
    ----------
    issues : list of str
        ``KEYWORD: rule``, in the order in which they were met, never with a value.
    """

    __slots__ = ("_dataset", "_endian", "_sets", "issues")

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        little = dataset.original_encoding[1]
        self._endian = ">" if little is False else "<"
        self._sets: CharacterSets | None = None
        self.issues: list[str] = []

    def issue(self, keyword: str, rule: str) -> None:
        """Note that an attribute broke a rule."""
        self.issues.append(f"{keyword}: {rule}")

    def raw(self, keyword: str) -> object:
        """Give the value as it stands: bytes of a file, or the object of a data set made in memory; None if absent."""
        tag = _tag(keyword)
        if tag not in self._dataset:
            return None
        return self._dataset.get_item(tag, keep_deferred=True).value

    @property
    def character_sets(self) -> CharacterSets:
        """What SpecificCharacterSet declares."""
        if self._sets is None:
            self._sets = character_sets(self.raw("SpecificCharacterSet"))
        return self._sets

    def check_texts(self, keywords: Sequence[str]) -> None:
        """Note which of some text attributes do not fit the declared character sets (they are copied all the same)."""
        if self.character_sets.issue is not None:
            self.issue("SpecificCharacterSet", self.character_sets.issue)
        for keyword in keywords:
            value = self.raw(keyword)
            if isinstance(value, bytes) and self.character_sets.decode(value) is None:
                self.issue(keyword, "text does not fit the declared character set")

    def present(self, keyword: str) -> bool:
        """Say whether the attribute is there with a value."""
        value = self.raw(keyword)
        return value is not None and value != b"" and value != "" and value != []

    def texts(self, keyword: str) -> tuple[str, ...]:
        """Give the values of a text attribute without padding; empty when absent."""
        value = self.raw(keyword)
        if value is None:
            return ()
        if isinstance(value, bytes):
            # Decoded first: in GB 18030 and JIS X 0208 a backslash may be one half of a character.
            parts = self.character_sets.words(value).split("\\")
        elif isinstance(value, str) or not isinstance(value, Sequence):
            parts = str(value).split("\\")
        else:
            parts = [str(item) for item in value]
        cleaned = tuple(part.replace("\0", " ").strip(" \t\r\n") for part in parts)
        return () if cleaned == ("",) else cleaned

    def text(self, keyword: str) -> str:
        """Give a text attribute as one string, several values joined by a backslash; empty when absent."""
        return "\\".join(self.texts(keyword))

    def decimals(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Give exactly `count` finite decimal numbers (DS), else None."""
        texts = self.texts(keyword)
        if not texts:
            return None
        if len(texts) != count:
            self.issue(keyword, f"{count} values expected, {len(texts)} found")
            return None
        numbers = [_as_float(text) for text in texts]
        found = tuple(number for number in numbers if number is not None)
        if len(found) != count:
            self.issue(keyword, "not a decimal number")
            return None
        return found

    def decimal(self, keyword: str) -> float | None:
        """Give one finite decimal number (DS), else None."""
        found = self.decimals(keyword, 1)
        return None if found is None else found[0]

    def integer(self, keyword: str) -> int | None:
        """Give one integer written as text (IS), else None."""
        texts = self.texts(keyword)
        if not texts:
            return None
        if len(texts) != 1 or not _INTEGER.match(texts[0]):
            self.issue(keyword, "not an integer")
            return None
        return int(texts[0])

    def short(self, keyword: str, *, signed: bool = False) -> int | None:
        """Give one 16-bit integer (US or SS; the caller says which where the VR depends on another element)."""
        value = self.raw(keyword)
        if value is None or value == b"":
            return None
        if isinstance(value, int):
            return value
        if not isinstance(value, bytes) or len(value) != 2:
            self.issue(keyword, "one 16-bit integer expected")
            return None
        return int(struct.unpack(self._endian + ("h" if signed else "H"), value)[0])

    def uid(self, keyword: str) -> str | None:
        """Give a UID of digits and dots, at most 64 characters (PS3.5 section 9), else None."""
        texts = self.texts(keyword)
        if not texts:
            return None
        if len(texts) != 1 or not _UID.match(texts[0]):
            self.issue(keyword, "not a UID")
            return None
        return texts[0]

    def moment(self, date_keyword: str, time_keyword: str) -> datetime | None:
        """Give a date (DA) and time (TM) as one naive moment; without a date, None; without a time, midnight."""
        text = self.text(date_keyword)
        if not text:
            return None
        date = _DATE.match(text)
        try:
            day = datetime(int(date[1]), int(date[2]), int(date[3])) if date else None
        except ValueError:
            day = None
        if day is None:
            self.issue(date_keyword, "not a date")
            return None
        try:
            return day + self._time_of_day(time_keyword)
        except OverflowError:  # 24:00 of the last day of the calendar
            return day

    def _time_of_day(self, keyword: str) -> timedelta:
        """Give a time (TM) as the time since midnight: 24:00 is the end of the day, second 60 a leap second."""
        text = self.text(keyword)
        if not text:
            return timedelta()
        found = _TIME.match(text)
        hour, minute, second = (int(part or 0) for part in found.groups()[:3]) if found else (99, 0, 0)
        past_midnight = hour == 24 and (minute or second)
        if found is None or hour > 24 or minute > 59 or second > 60 or past_midnight:
            self.issue(keyword, "not a time")
            return timedelta()
        fraction = int((found[4] or "0").ljust(6, "0"))
        return timedelta(hours=hour, minutes=minute, seconds=min(second, 59), microseconds=fraction)

    def zone(self) -> timezone | None:
        """Give the zone of the dates and times of the data set (TimezoneOffsetFromUTC, PS3.3 C.12.1.1.8), else None."""
        text = self.text("TimezoneOffsetFromUTC")
        if not text:
            return None
        found = _OFFSET.match(text)
        if found is not None:
            offset = timedelta(hours=int(found[2]), minutes=int(found[3])) * (-1 if found[1] == "-" else 1)
            if int(found[3]) < 60 and timedelta(hours=-12) <= offset <= timedelta(hours=14):
                return timezone(offset)
        self.issue("TimezoneOffsetFromUTC", "not an offset from UTC")
        return None

    def sha256(self, keyword: str) -> str:
        """Digest of the bytes of an attribute without trailing padding: compares values without holding them."""
        value = self.raw(keyword)
        data = value if isinstance(value, bytes) else str(value if value is not None else "").encode()
        return hashlib.sha256(data.rstrip(b" \0")).hexdigest()
