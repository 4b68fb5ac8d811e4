"""The Siemens CSA header: a list of named values inside one private element.

The format is not part of DICOM. As public readers describe it (nibabel's page "Siemens format DICOM with CSA header",
the notes of dcm2niix): little endian; a CSA2 header begins with ``SV10`` and four bytes, a CSA1 header at once; then
the number of tags and a check word (77). A tag is a name (64 bytes), the number of values, a VR, a type code, the
number of items and a check word; every item has four words, one of which is its length, and is padded to four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from pydicom.dataset import Dataset

from train.data.diffusion.elements import private_tag, raw_bytes

__all__ = ["CSA_CREATOR", "csa_image_header", "csa_numbers", "parse_csa"]

CSA_CREATOR: Final = frozenset({"SIEMENS CSA HEADER"})
_IMAGE_HEADER: Final = 0x10
_TAG: Final = struct.Struct("<64si4siii")
_ITEM: Final = struct.Struct("<4i")
# A header has about a hundred tags; more than this is no CSA header.
_MOST_TAGS: Final = 1024


def csa_image_header(ds: Dataset) -> Mapping[str, tuple[str, ...]]:
    """Read the CSA image header (0029,xx10) of a data set; empty when there is none, or none that can be read."""
    tag = private_tag(ds, 0x0029, CSA_CREATOR, _IMAGE_HEADER)
    return {} if tag is None else parse_csa(raw_bytes(ds, tag))


def csa_numbers(csa: Mapping[str, tuple[str, ...]], name: str) -> tuple[float, ...]:
    """Give the values of a CSA entry as numbers; empty when absent or not numeric."""
    try:
        return tuple(float(text) for text in csa.get(name, ()))
    except ValueError:
        return ()


def parse_csa(data: bytes) -> Mapping[str, tuple[str, ...]]:
    """Parse the bytes of a CSA header.

    Parameters
    ----------
    data : bytes
        Value of (0029,xx10) or (0029,xx20).

    Returns
    -------
    mapping of str to tuple of str
        Values that are not empty, by name. What is read before a damage is kept; other bytes give an empty mapping.
    """
    second = data[:4] == b"SV10"
    start = 8 if second else 0
    if len(data) < start + 8:
        return {}
    count, check = struct.unpack_from("<II", data, start)
    if not 0 < count <= _MOST_TAGS or check not in (77, 205):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    place, first_items = start + 8, 0
    for index in range(count):
        if place + _TAG.size > len(data):
            break
        name, _, _, _, n_items, _ = _TAG.unpack_from(data, place)
        place += _TAG.size
        if index == 0:
            first_items = n_items
        values, place = _items(data, place, n_items, None if second else first_items)
        if values:
            found[name.split(b"\0", 1)[0].decode("latin-1")] = values
    return found


def _items(data: bytes, place: int, count: int, first_items: int | None) -> tuple[tuple[str, ...], int]:
    """Read the items of one tag; `first_items` is set for CSA1, which writes a length that many too large."""
    values: list[str] = []
    for _ in range(min(max(count, 0), _MOST_TAGS)):
        if place + _ITEM.size > len(data):
            return tuple(values), len(data)
        first, second, _, _ = _ITEM.unpack_from(data, place)
        length = second if first_items is None else first - first_items
        place += _ITEM.size
        if length < 0 or place + length > len(data):
            return tuple(values), len(data)
        text = data[place : place + length].split(b"\0", 1)[0].decode("latin-1").strip()
        if text:
            values.append(text)
        place += (length + 3) // 4 * 4
    return tuple(values), place
