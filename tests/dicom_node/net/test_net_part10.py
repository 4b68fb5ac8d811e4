"""The head of a DICOM file, written and read without pydicom, against pydicom.

Covers both directions, odd lengths and damaged heads. Data sets are left out: this module never looks into one.
"""

from __future__ import annotations

from io import BytesIO

import pydicom
import pytest
from pydicom.uid import CTImageStorage, JPEGLSLossless

from dicom_node.errors import Permanent
from dicom_node.net.part10 import encode_head, read_head
from tests.dicom_node.net.associations import ct_dataset


@pytest.mark.parametrize("sop_instance_uid", ["1.2.3", "1.2.34", "2.25." + "1" * 59])
@pytest.mark.parametrize("source", ["", "PACS", "SIXTEEN_LETTERS_"])
def test_pydicom_reads_what_was_written(sop_instance_uid: str, source: str) -> None:
    head = encode_head(
        sop_class_uid=CTImageStorage,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=JPEGLSLossless,
        source_ae_title=source,
    )
    meta = pydicom.dcmread(BytesIO(head)).file_meta
    assert meta.MediaStorageSOPClassUID == CTImageStorage
    assert meta.MediaStorageSOPInstanceUID == sop_instance_uid
    assert meta.TransferSyntaxUID == JPEGLSLossless
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.FileMetaInformationGroupLength == len(head) - 144
    assert meta.get("SourceApplicationEntityTitle", "") == source
    assert meta.ImplementationClassUID.is_valid
    assert len(meta.ImplementationVersionName) <= 16
    assert read_head(head + b"rest").data_set_offset == len(head)


def test_a_head_written_by_pydicom_is_read() -> None:
    buffer = BytesIO()
    dataset = ct_dataset(1)
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.3"
    dataset.file_meta.PrivateInformation = bytes(70_000)  # needs the long form of the length
    dataset.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    head = read_head(data)
    assert head.sop_instance_uid == dataset.SOPInstanceUID
    assert head.sop_class_uid == CTImageStorage
    assert head.transfer_syntax_uid == dataset.file_meta.TransferSyntaxUID
    assert data[head.data_set_offset : head.data_set_offset + 2] == b"\x08\x00"
    plain = pydicom.dcmread(BytesIO(data)).PixelData
    assert data.endswith(plain)


def test_values_that_a_head_cannot_hold_are_refused() -> None:
    with pytest.raises(Permanent, match="longer than 64"):
        encode_head(sop_class_uid="1." * 40, sop_instance_uid="1.2", transfer_syntax_uid="1.2")
    with pytest.raises(Permanent, match="not ASCII"):
        encode_head(sop_class_uid="1.2", sop_instance_uid="1.2\xe9", transfer_syntax_uid="1.2")


def test_damaged_heads_are_refused() -> None:
    head = encode_head(sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid="1.4")
    with pytest.raises(Permanent, match="prefix DICM"):
        read_head(b"\0" * 200)
    with pytest.raises(Permanent, match="cut off"):
        read_head(head[:-3])
    with pytest.raises(Permanent, match=r"lacks \(0002,0010\)"):
        read_head(head[: head.index(b"\x02\x00\x10\x00")] + b"\x08\x00\x05\x00CS\x02\x00XX")
    assert read_head(head).data_set_offset == len(head)
