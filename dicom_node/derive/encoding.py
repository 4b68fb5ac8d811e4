"""A data set to the bytes of a Part 10 file, explicit VR little endian, elements copied from the CT left untouched.

pydicom's writer decodes and encodes again whatever was read in another transfer syntax or character set; names that
do not fit their declared character set would change or raise. Here raw elements go out as they came in, and only
elements that the node made itself (plain ASCII) are encoded.
"""

from __future__ import annotations

import struct
from typing import Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info

from dicom_node.dicom.identity import encode_raw, raw

_ITEM_TAG: Final = b"\xfe\xff\x00\xe0"
_PREAMBLE: Final = bytes(128) + b"DICM"


def encode_element(element: DataElement | RawDataElement) -> bytes:
    """Bytes of one element in explicit VR little endian (PS3.5 section 7.1.2); sequences with defined lengths."""
    if isinstance(element, RawDataElement):
        return encode_raw(element)
    if element.VR == "SQ":
        items = [encode_elements(item) for item in element.value or ()]
        framed = b"".join(_ITEM_TAG + struct.pack("<I", len(item)) + item for item in items)
        return encode_raw(raw(element.tag, "SQ", framed))
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = False
    write_data_element(buffer, element, ["ascii"])
    return buffer.getvalue()


def encode_elements(ds: Dataset) -> bytes:
    """Bytes of all elements of a data set or item, in the order of their tags."""
    return b"".join(encode_element(ds.get_item(tag)) for tag in sorted(ds.keys()))


def encode_file(ds: Dataset) -> bytes:
    """Bytes of a whole Part 10 file (PS3.10 section 7.1).

    Parameters
    ----------
    ds : pydicom.Dataset
        With complete ``file_meta``; its transfer syntax is explicit VR little endian.
    """
    meta = DicomBytesIO()
    write_file_meta_info(meta, ds.file_meta, enforce_standard=True)
    return _PREAMBLE + meta.getvalue() + encode_elements(ds)
