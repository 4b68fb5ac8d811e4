"""Reading headers: clean, dirty, truncated, hostile and no DICOM at all.

Left out: that nothing leaks into logs (test_values_privacy), and what the rules make of a header (test_gate,
test_choice).
"""

from __future__ import annotations

import hashlib
import struct
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.dicom.values import InstanceKind, SliceHeader, header_of, read_header
from dicom_node.errors import NodeError, Permanent, Transient
from tests.dicom_node.dicom.builders import PATIENT_ID, ct_dataset, set_dirty, uid, write


def test_every_field_of_a_clean_header(tmp_path: Path) -> None:
    dataset = ct_dataset(4, position=(-1.5, 2.25, 30.0), ProtocolName="Routine", ImagesInAcquisition="24")
    header = read_header(write(dataset, tmp_path / "a.dcm"))
    assert header.sop_instance_uid == uid("study", "series", 4)
    assert header.study_instance_uid == uid("study")
    assert header.series_instance_uid == uid("study", "series")
    assert header.patient_key == hashlib.sha256(PATIENT_ID.encode()).hexdigest()
    assert header.modality == "CT"
    assert header.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert (header.series_number, header.instance_number, header.images_in_acquisition) == (2, 5, 24)
    assert (header.series_description, header.protocol_name) == ("HEAD 5MM", "Routine")
    assert (header.rows, header.columns, header.number_of_frames) == (16, 16, 1)
    assert header.image_position_patient == (-1.5, 2.25, 30.0)
    assert header.image_orientation_patient == (1, 0, 0, 0, 1, 0)
    assert header.pixel_spacing_mm == (0.5, 0.5)
    assert header.slice_thickness_mm == 5.0
    assert header.content_datetime == datetime(2024, 1, 2, 10, 11, 12)
    assert header.kind is InstanceKind.IMAGE
    assert header.issues == ()
    assert not header.contrast_bolus
    assert not header.synthetic


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_header_does_not_depend_on_the_encoding(tmp_path: Path, syntax: object) -> None:
    plain = read_header(write(ct_dataset(), tmp_path / "plain.dcm"))
    other = read_header(write(ct_dataset(transfer_syntax=syntax), tmp_path / "other.dcm"))
    assert other.transfer_syntax_uid == syntax
    changed = {"path", "transfer_syntax_uid"}
    for name in SliceHeader.__dataclass_fields__:
        assert name in changed or getattr(other, name) == getattr(plain, name)


@pytest.mark.parametrize(
    ("keyword", "text", "field"),
    [
        ("ImagePositionPatient", "1,5\\2\\3", "image_position_patient"),
        ("ImagePositionPatient", "1\\2", "image_position_patient"),
        ("ImagePositionPatient", "1\\2\\NaN", "image_position_patient"),
        ("ImagePositionPatient", "1\\2\\1e999", "image_position_patient"),
        ("ImagePositionPatient", "1\\2\\1e300", "image_position_patient"),
        ("ImageOrientationPatient", "1\\0\\0\\0\\1", "image_orientation_patient"),
        ("PixelSpacing", "0.5", "pixel_spacing_mm"),
        ("PixelSpacing", "0.5\\-0.5", "pixel_spacing_mm"),
        ("SliceThickness", "five", "slice_thickness_mm"),
        ("SliceThickness", "0", "slice_thickness_mm"),
        ("SeriesNumber", "x", "series_number"),
        ("InstanceNumber", "1.5", "instance_number"),
        ("FrameOfReferenceUID", "../../etc/passwd", "frame_of_reference_uid"),
        ("Rows", "512", "rows"),
        ("ContentDate", "19500230", "content_datetime"),
    ],
)
def test_a_dirty_value_is_none_and_named_without_its_text(tmp_path: Path, keyword: str, text: str, field: str) -> None:
    dataset = ct_dataset()
    set_dirty(dataset, keyword, text)
    header = read_header(write(dataset, tmp_path / "a.dcm"))
    assert getattr(header, field) is None
    named = [issue for issue in header.issues if issue.startswith(f"{keyword}: ")]
    assert len(named) == 1
    assert text not in named[0]


def test_an_absent_value_is_no_issue(tmp_path: Path) -> None:
    dataset = ct_dataset(SliceThickness=None, FrameOfReferenceUID=None, SeriesNumber=None, ContentDate=None)
    header = read_header(write(dataset, tmp_path / "a.dcm"))
    assert header.slice_thickness_mm is None
    assert header.frame_of_reference_uid is None
    assert header.issues == ()


def test_times_are_read_as_scanners_write_them() -> None:
    dataset = ct_dataset()
    set_dirty(dataset, "ContentDate", "2024.01.02")
    set_dirty(dataset, "ContentTime", "10:11:12.250000")
    header = header_of(dataset, Path("a"))
    assert header.content_datetime == datetime(2024, 1, 2, 10, 11, 12, 250_000)


def test_a_missing_rescale_is_named_for_ct_only() -> None:
    header = header_of(ct_dataset(RescaleSlope=None, RescaleIntercept=None), Path("a"))
    assert header.issues == ("RescaleIntercept: missing, 0 assumed", "RescaleSlope: missing, 1 assumed")
    screen = ct_dataset(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", RescaleSlope=None, RescaleIntercept=None)
    assert header_of(screen, Path("a")).issues == ()


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("text", ["", "../../x", "DOE^JANE", "1." + "2" * 70])
def test_an_instance_without_sound_uids_is_unreadable(tmp_path: Path, keyword: str, text: str) -> None:
    dataset = ct_dataset()
    path = write(dataset, tmp_path / "a.dcm")
    set_dirty(dataset, keyword, text)
    with pytest.raises(Permanent) as caught:
        header_of(dataset, path)
    assert caught.value.code == "unreadable"
    assert keyword in caught.value.reason
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 10, b"GIF89a" * 40, b"\0" * 128 + b"DICM", b"\x08\x00\x05\x00CS\xff\xff" + b"x" * 40],
    ids=["empty", "zeros", "gif", "preamble only", "garbage that begins like a data set"],
)
def test_what_is_no_dicom_is_unreadable(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(Permanent) as caught:
        read_header(path)
    assert caught.value.code == "unreadable"


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.dcm", tmp_path):
        with pytest.raises(Permanent, match="unreadable"):
            read_header(path)


def test_trouble_of_the_file_system_may_pass() -> None:
    # The first page of a process is never mapped, so the kernel answers this read with EIO.
    with pytest.raises(Transient) as caught:
        read_header(Path("/proc/self/mem"))
    assert caught.value.code == "storage"


def test_a_data_set_without_preamble_is_read(tmp_path: Path) -> None:
    whole = write(ct_dataset(transfer_syntax=ImplicitVRLittleEndian), tmp_path / "a.dcm").read_bytes()
    start = 144 + struct.unpack("<I", whole[140:144])[0]
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(whole[start:])
    assert read_header(bare).sop_instance_uid == uid("study", "series", 0)


def test_deeply_nested_sequences_do_not_break_the_reader(tmp_path: Path) -> None:
    # Undefined lengths must be walked through item by item, so depth costs the reader stack frames.
    depth = 2000
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    path = tmp_path / "deep.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + _meta() + opening * depth + closing * depth)
    with pytest.raises(Permanent, match="RecursionError"):
        read_header(path)


def _meta() -> bytes:
    syntax = b"1.2.840.10008.1.2.1\0"
    element = struct.pack("<HH2sH", 0x0002, 0x0010, b"UI", len(syntax)) + syntax
    return struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(element)) + element


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, InstanceKind.IMAGE),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, InstanceKind.LOCALIZER),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, InstanceKind.SCREEN),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, InstanceKind.ENHANCED),
        ({"NumberOfFrames": "20"}, InstanceKind.ENHANCED),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, InstanceKind.OTHER),
    ],
)
def test_kind(changes: dict[str, object], kind: InstanceKind) -> None:
    assert header_of(ct_dataset(**changes), Path("a")).kind is kind  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "synthetic"),
    [
        ({}, False),
        ({"SyntheticData": "YES"}, True),
        ({"SyntheticData": "NO"}, False),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "SYNTHETIC"]}, True),
        ({"ManufacturerModelName": "jmmda-node"}, True),
    ],
)
def test_synthetic(changes: dict[str, object], synthetic: bool) -> None:
    assert header_of(ct_dataset(**changes), Path("a")).synthetic is synthetic  # type: ignore[arg-type]


@pytest.mark.parametrize(("agent", "contrast"), [("", False), ("NONE", False), ("no", False), ("Iomeron 400", True)])
def test_contrast(agent: str, contrast: bool) -> None:
    assert header_of(ct_dataset(ContrastBolusAgent=agent), Path("a")).contrast_bolus is contrast


def test_texts_of_any_character_set_are_readable_words() -> None:
    for encoding in ("latin-1", "utf-8"):
        dataset = ct_dataset()
        set_dirty(dataset, "SeriesDescription", "Schädel nativ".encode(encoding).decode("latin-1"))
        assert header_of(dataset, Path("a")).series_description == "Schädel nativ"


def test_large_private_sequences_are_passed_over(tmp_path: Path) -> None:
    item = Dataset()
    item.add_new(0x00091001, "UN", b"\1" * 200_000)
    dataset = ct_dataset()
    dataset.add_new(0x00090010, "LO", "INVENTED PRIVATE")
    dataset.add_new(0x00091002, "SQ", Sequence([item]))
    assert read_header(write(dataset, tmp_path / "a.dcm")).issues == ()


_CLEAN: list[bytes] = []


def _clean_file(folder: Path) -> bytes:
    if not _CLEAN:
        _CLEAN.append(write(ct_dataset(), folder / "clean.dcm").read_bytes())
    return _CLEAN[0]


@given(data=st.data())
def test_a_damaged_file_is_a_header_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray(_clean_file(folder))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(whole)))
    path = folder / "damaged.dcm"
    path.write_bytes(whole[:end])
    outcome = _read(path)
    if isinstance(outcome, SliceHeader):
        assert outcome.sop_instance_uid
    else:
        assert outcome.code == "unreadable"
        assert outcome.__cause__ is None
        assert outcome.__suppress_context__ or outcome.__context__ is None


def _read(path: Path) -> SliceHeader | NodeError:
    try:
        return read_header(path)
    except NodeError as error:
        return error


def test_real_headers_have_no_issue(shared_data: Path) -> None:
    for folder in ("ge_head_ct", "philips_study", "ge_dwi", "toshiba_dwi", "ct_transfer_syntaxes"):
        for path in sorted((shared_data / folder).iterdir()):
            assert read_header(path).issues == (), path.name
