"""Bad input in encodings: data sets that arrive damaged, oversized, or otherwise than they say."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Final
from unittest import mock

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.dicom import reading
from tests.dicom_node.bad_input.bad_node import BadNode, as_instance, data_set_bytes, raw_instance
from tests.dicom_node.bad_input.case_table import SENDER, SLICES_MISSING, Look, Table, pixels_as_sent, whole
from tests.dicom_node.dicom.builders import set_dirty
from tests.dicom_node.node_cases import encoded

DAMAGED: Final = Table("Objects that arrive damaged")


def _with_uid(node: BadNode, keyword: str, value: str) -> None:
    first, *rest = node.stack()
    data = data_set_bytes(first)
    old = encoded_text(str(first[keyword].value))
    assert data.count(old) == 1
    new = value.encode("latin-1").ljust(len(old), b"\0")
    node.send([raw_instance(data.replace(old, new), sop_instance_uid="1.2.3"), *rest])


def encoded_text(value: str) -> bytes:
    """A UID as it stands in a data set."""
    data = value.encode()
    return data + b"\0" * (len(data) % 2)


for _keyword, _value, _words in (
    ("SOPInstanceUID", "../../../../etc/passwd", "a path in the place of a UID"),
    ("SOPInstanceUID", "1.2.\u00e9\u00fc", "a UID that is not ASCII"),
):

    @DAMAGED.case(
        f"a slice with {_words} in the data set",
        "keeps the file in the quarantine, and judges the series without it",
        advice=SENDER,
        ends="REFUSED coverage",
        aside=("unreadable",),
    )
    def _bad_uid(node: BadNode, keyword: str = _keyword, value: str = _value) -> None:
        _with_uid(node, keyword, value)


@DAMAGED.case(
    "slices with a UID of more than 64 characters in the data set",
    "keeps the files in the quarantine",
    advice=SENDER,
    ends={},
    aside=("unreadable",),
)
def _long_uid(node: BadNode) -> None:
    stack = node.stack()
    for dataset in stack:
        set_dirty(dataset, "SeriesInstanceUID", "1.2." + "3" * 80)
    node.send(stack)


@DAMAGED.case(
    "slices without StudyInstanceUID",
    "keeps the files in the quarantine: they belong to no study",
    advice=SENDER,
    ends={},
    aside=("unreadable",),
)
def _no_study(node: BadNode) -> None:
    node.send(node.stack(StudyInstanceUID=None))


@DAMAGED.case("sequences nested 60 deep", "reads past them")
def _nested(node: BadNode) -> None:
    stack = node.stack()
    for dataset in stack:
        dataset.RequestAttributesSequence = Items([_nest(60)])
    node.send(stack)


def _nest(depth: int) -> Dataset:
    inner = Dataset()
    inner.CodeValue = "1"
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = Items([inner])
        inner = outer
    return inner


@DAMAGED.case(
    "sequences of undefined length nested 5000 deep",
    "keeps the file in the quarantine, and judges the series without it",
    advice=SENDER,
    ends="REFUSED coverage",
    aside=("unreadable",),
)
def _nested_too_deep(node: BadNode) -> None:
    first, *rest = node.stack()
    opened = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    node.send([raw_instance(_with_element(first, opened * 5000), sop_instance_uid="1.2"), *rest])


def _with_element(dataset: Dataset, element: bytes) -> bytes:
    """The data set with an element put before those that describe the pixels."""
    data = data_set_bytes(dataset)
    place = data.index(struct.pack("<HH", 0x0028, 0x0002))
    return data[:place] + element + data[place:]


@DAMAGED.case("a private element of 16 MiB", "stores it and reads past it")
def _large_private(node: BadNode) -> Look:
    first, *rest = node.stack()
    first.add_new((0x0009, 0x0010), "LO", "INVENTED")
    first.add_new((0x0009, 0x1001), "OB", bytes(16 * 1024**2))
    node.send([first, *rest])
    return lambda: whole(node)


@DAMAGED.case(
    "an element that announces 4 GiB, more than the data set has, before its size and spacing",
    "reads what stands before it, and refuses the series",
    advice=SENDER,
    ends="REFUSED no_spacing",
)
def _announces_too_much(node: BadNode) -> None:
    first, *rest = node.stack()
    element = struct.pack("<HH2sHL", 0x0021, 0x1001, b"OB", 0, 0xFFFFFFF0)
    node.send([raw_instance(_with_element(first, element), sop_instance_uid="1.2"), *rest])


@DAMAGED.case(
    "a data set that is cut off before the UIDs of study and series",
    "keeps the file in the quarantine, and judges the series without it",
    advice=SLICES_MISSING,
    ends="REFUSED coverage",
    aside=("unreadable",),
)
def _cut_data_set(node: BadNode) -> None:
    first, *rest = node.stack()
    data = data_set_bytes(first)
    node.send([raw_instance(data[: len(data) // 4], sop_instance_uid="1.2"), *rest])


@DAMAGED.case("garbage after the last element", "reads the elements before it")
def _garbage(node: BadNode) -> Look:
    stack = node.stack()
    garbage = bytes((91 * k * k + 7) % 256 for k in range(333))
    node.send([raw_instance(data_set_bytes(dataset) + garbage, sop_instance_uid="1.2") for dataset in stack])
    return lambda: pixels_as_sent(node, stack)


@DAMAGED.case(
    "File Meta Information inside the data set, preamble and all",
    "keeps the file in the quarantine: nothing tells how it is encoded",
    advice=SENDER,
    ends={},
    aside=("unreadable",),
)
def _whole_file(node: BadNode) -> None:
    node.send([raw_instance(encoded(dataset), sop_instance_uid="1.2") for dataset in node.stack()])


@DAMAGED.case(
    "group 0002 at the head of the data set, with another transfer syntax than was negotiated",
    "keeps the file in the quarantine: nothing tells how it is encoded",
    advice=SENDER,
    ends={},
    aside=("unreadable",),
)
def _group_two(node: BadNode) -> None:
    syntax = b"1.2.840.10008.1.2.2\0"
    meta = struct.pack("<HH2sH", 2, 0x0010, b"UI", len(syntax)) + syntax
    node.send([raw_instance(meta + data_set_bytes(dataset), sop_instance_uid="1.2") for dataset in node.stack()])


@DAMAGED.case("Implicit VR data sets under a context for Explicit VR", "tells the encoding from the bytes")
def _other_encoding(node: BadNode) -> Look:
    stack = node.stack()
    instances = []
    for dataset in stack:
        buffer = io.BytesIO()
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=True)
        whole = as_instance(dataset)
        instances.append(raw_instance(whole.data[whole.head.data_set_offset :], sop_instance_uid="1.2"))
    node.send(instances)
    return lambda: pixels_as_sent(node, stack)


@DAMAGED.case(
    "a deflated data set that swells to more than the largest message",
    "stops inflating at the limit and keeps the file in the quarantine",
    advice=SENDER,
    ends={},
    aside=("unreadable",),
)
def _bomb(node: BadNode) -> None:
    [dataset] = node.stack(1)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = data_set_bytes(dataset)
    bomb = deflater.compress(head + struct.pack("<HH2sHL", 0x7FE1, 0x1001, b"OB", 0, 0x10000000))
    bomb += deflater.flush(zlib.Z_FULL_FLUSH)
    # After a full flush the stream may be continued by a piece that was deflated once and for all.
    piece = deflater.compress(bytes(16 * 1024**2)) + deflater.flush(zlib.Z_FULL_FLUSH)
    bomb += piece * (0x10000000 // (16 * 1024**2)) + deflater.flush()
    node.send([raw_instance(bomb, sop_instance_uid="1.2", syntax=DeflatedExplicitVRLittleEndian)])
    # The limit of the node is as large as the largest message; a smaller one keeps the test short.
    with mock.patch.object(reading, "MOST_INFLATED_BYTES", 64 * 1024**2):
        node.settle()
