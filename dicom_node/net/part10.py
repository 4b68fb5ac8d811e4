"""Put a file head before an encoded data set, and take it off again, without touching the data set.

PS3.10 section 7.1: preamble of 128 bytes, ``DICM``, then group 0002 in Explicit VR Little Endian. Standard library only
and no decoding: the receiver writes what the peer sent, byte for byte, and the sender sends what the file holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dicom_node.errors import Permanent

#: Root 2.25 with a fixed UUID (PS3.5 section B.2): names this implementation in file heads and associations.
IMPLEMENTATION_CLASS_UID: Final = "2.25.143170816944304616487380847510836496058"
#: At most 16 characters (PS3.7 section D.3.3.2.3).
IMPLEMENTATION_VERSION_NAME: Final = "JMMDA_NODE_01"

_PREFIX: Final = bytes(128) + b"DICM"
_LONG_VRS: Final = frozenset(
    {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
)
_GROUP: Final = 0x0002


@dataclass(frozen=True, slots=True)
class FileHead:
    """What the head of a DICOM file says about the data set behind it.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid : str
        Elements (0002,0002), (0002,0003) and (0002,0010).
    data_set_offset : int
        Where the data set begins, in bytes from the start of the file.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int


def encode_head(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae_title: str = ""
) -> bytes:
    """Encode preamble, prefix and file meta information for a data set.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid : str
        As negotiated and as named in the C-STORE request.
    source_ae_title : str
        Calling AE title, kept as (0002,0016).

    Returns
    -------
    bytes
        Everything that stands before the data set in the file.

    Raises
    ------
    Permanent
        ``file_head`` when a value is not ASCII or is too long for its element.
    """
    elements = [
        _element(0x0001, b"OB", b"\x00\x01"),
        _element(0x0002, b"UI", _uid(sop_class_uid)),
        _element(0x0003, b"UI", _uid(sop_instance_uid)),
        _element(0x0010, b"UI", _uid(transfer_syntax_uid)),
        _element(0x0012, b"UI", _uid(IMPLEMENTATION_CLASS_UID)),
        _element(0x0013, b"SH", _text(IMPLEMENTATION_VERSION_NAME)),
    ]
    if source_ae_title:
        elements.append(_element(0x0016, b"AE", _text(source_ae_title)))
    body = b"".join(elements)
    return _PREFIX + _element(0x0000, b"UL", struct.pack("<L", len(body))) + body


def read_head(data: bytes) -> FileHead:
    """Read the head of a complete DICOM file.

    Parameters
    ----------
    data : bytes
        The file, or at least its beginning.

    Returns
    -------
    FileHead

    Raises
    ------
    Permanent
        ``file_head`` when it is not a DICOM file or lacks one of the three UIDs.
    """
    if data[128:132] != b"DICM":
        raise Permanent("file_head", "not a DICOM file: the prefix DICM is missing")
    values: dict[int, str] = {}
    offset = len(_PREFIX)
    for element, value, offset in _meta_elements(data):  # noqa: B007 - the last offset is where the data set begins
        if element in (0x0002, 0x0003, 0x0010):
            values[element] = value.rstrip(b"\0 ").decode("ascii", "replace")
    missing = [f"(0002,{element:04x})" for element in (0x0002, 0x0003, 0x0010) if not values.get(element)]
    if missing:
        raise Permanent("file_head", f"the file meta information lacks {', '.join(missing)}")
    return FileHead(values[0x0002], values[0x0003], values[0x0010], offset)


def _meta_elements(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield element number, value and end offset of each element of group 0002."""
    offset = len(_PREFIX)
    while offset + 8 <= len(data):
        group, element = struct.unpack_from("<HH", data, offset)
        if group != _GROUP:
            return
        vr = data[offset + 4 : offset + 6]
        if vr in _LONG_VRS:
            if offset + 12 > len(data):
                break
            (length,) = struct.unpack_from("<L", data, offset + 8)
            start = offset + 12
        else:
            (length,) = struct.unpack_from("<H", data, offset + 6)
            start = offset + 8
        offset = start + length
        if offset > len(data):
            break
        yield element, data[start:offset], offset
    else:
        return
    raise Permanent("file_head", "the file meta information is cut off")


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if vr in _LONG_VRS:
        return struct.pack("<HH2sHL", _GROUP, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", _GROUP, number, vr, len(value)) + value


def _uid(value: str) -> bytes:
    return _ascii(value, 64, pad=b"\0")


def _text(value: str) -> bytes:
    return _ascii(value, 16, pad=b" ")


def _ascii(value: str, longest: int, *, pad: bytes) -> bytes:
    if not value.isascii() or len(value) > longest:
        raise Permanent("file_head", f"a value for the file meta information is not ASCII or longer than {longest}")
    encoded = value.encode("ascii")
    return encoded + pad * (len(encoded) % 2)
