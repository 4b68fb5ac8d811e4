"""Numbers and private elements of a data set, read so that a dirty value is "not there" and never an exception.

`dicom_node.dicom.reading.ElementReader` does this for the attributes of a CT. Diffusion needs two things more: binary
floating point (FD, FL) and private elements, which are trusted only when their block is reserved by the creator that
defined them (PS3.5 section 7.8.1): the same number in another maker's block means something else.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterable
from typing import Final

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_node.dicom.reading import PARSE_ERRORS, quiet_pydicom

__all__ = ["first_number", "items_of", "numbers_at", "private_tag", "raw_bytes", "text_at"]

_BINARY: Final = {"FD": "d", "FL": "f", "US": "H", "SS": "h", "UL": "I", "SL": "i"}
_TEXT: Final = frozenset({"DS", "IS", "LO", "SH", "CS", "LT", "ST", "UT"})


def numbers_at(ds: Dataset, tag: int, expected_vr: str) -> tuple[float, ...]:
    """Give the finite numbers of an element, whatever its value representation.

    Parameters
    ----------
    ds : pydicom.dataset.Dataset
        Raw as read, or made in memory.
    tag : int
        The element.
    expected_vr : str
        What its definition says; used where the file says UN or nothing (implicit VR).

    Returns
    -------
    tuple of float
        Empty when the element is absent, or when one of its values is no finite number.
    """
    if tag not in ds:
        return ()
    element = ds.get_item(tag, keep_deferred=True)
    value = element.value
    if isinstance(value, bytes):
        vr = expected_vr if element.VR in (None, "UN", "OB", "OW") else str(element.VR)
        return _finite(_parse(value, vr, little_endian=bool(getattr(element, "is_little_endian", True))))
    if value is None:
        return ()
    return _finite(value if isinstance(value, Iterable) and not isinstance(value, str) else str(value).split("\\"))


def _parse(value: bytes, vr: str, *, little_endian: bool) -> Iterable[object]:
    if vr in _TEXT:
        return value.decode("latin-1").strip(" \0").split("\\")
    code = _BINARY.get(vr)
    if code is None or not value or len(value) % struct.calcsize(code):
        return ()
    order = "<" if little_endian else ">"
    return struct.unpack(f"{order}{len(value) // struct.calcsize(code)}{code}", value)


def _finite(values: Iterable[object]) -> tuple[float, ...]:
    numbers = []
    for value in values:
        try:
            number = float(str(value).strip(" \0"))
        except ValueError:
            return ()
        if not math.isfinite(number):
            return ()
        numbers.append(number)
    return tuple(numbers)


def first_number(ds: Dataset, tag: int | None, expected_vr: str) -> float | None:
    """Give the first number of an element, or None; a `tag` of None is an element that is not there."""
    numbers = () if tag is None else numbers_at(ds, tag, expected_vr)
    return numbers[0] if numbers else None


def raw_bytes(ds: Dataset, tag: int) -> bytes:
    """Give the bytes of a binary element (OB, UN), empty when absent or something else."""
    if tag not in ds:
        return b""
    value = ds.get_item(tag, keep_deferred=True).value
    return value if isinstance(value, bytes) else b""


def text_at(ds: Dataset, tag: int | None) -> str:
    """Give an element as text without padding, several values joined by a backslash; empty when absent."""
    if tag is None or tag not in ds:
        return ""
    value = ds.get_item(tag, keep_deferred=True).value
    if isinstance(value, bytes):
        return value.decode("latin-1").strip(" \0")
    if value is None:
        return ""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "\\".join(str(part) for part in value)
    return str(value).strip(" \0")


def private_tag(ds: Dataset, group: int, creators: Collection[str], element: int) -> int | None:
    """Find a private element by its creator.

    Parameters
    ----------
    ds : pydicom.dataset.Dataset
        The data set, or an item of a sequence.
    group : int
        Odd group number.
    creators : collection of str
        Names of the creator in capitals; any of them counts.
    element : int
        The last two hexadecimal digits of the element number.

    Returns
    -------
    int or None
        The tag under which this file holds the element; None when no block of the group belongs to a creator (PS3.5
        section 7.8.1: block ``gggg,00xx`` reserves ``gggg,xx00`` to ``gggg,xxFF``), or the element is absent.
    """
    for block in range(0x10, 0x100):
        reservation = Tag(group, block)
        if reservation in ds and text_at(ds, reservation).upper() in creators:
            tag = Tag(group, (block << 8) | element)
            if tag in ds:
                return tag
    return None


def items_of(ds: Dataset, keyword_or_tag: str | int) -> tuple[Dataset, ...]:
    """Give the items of a sequence; empty when absent, or when it cannot be parsed."""
    if keyword_or_tag not in ds:
        return ()
    try:
        with quiet_pydicom():
            value = ds[keyword_or_tag].value
    except PARSE_ERRORS:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return ()
    return tuple(item for item in value if isinstance(item, Dataset))
