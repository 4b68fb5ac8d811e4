"""Dirty identities go through the writer byte by byte, and none of them reaches a log line or an exception.

Covers the character sets of the specification, malformed values of identity attributes, missing type 2 attributes,
other transfer syntaxes of the source, and a header poisoned in every free text. Left out: the byte-level helpers
themselves (`tests/dicom_node/dicom/test_identity.py`).
"""

from __future__ import annotations

import logging
import struct

import pytest
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.derive.writer import derive_series
from dicom_node.dicom.identity import TYPE_2_IDENTITY
from dicom_node.dicom.reading import open_dataset
from dicom_node.errors import NodeError, Permanent
from tests.dicom_node.derive.derive_cases import ct_dataset, raw_value, request_for, save, write_ct_series

CHARACTER_SETS = {
    "japanese": (
        b"\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    ),
    "korean": (
        b"\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    ),
    "single_code_extension": (b"ISO 2022 IR 100", b"M\xfcller^J\xf6rg"),
    "gb18030": (b"GB18030", "Wang^XiaoDong=\u738b^\u5c0f\u4e1c".encode("gb18030")),
    "utf8": (b"ISO_IR 192", "Wang^XiaoDong=\u738b^\u5c0f\u6771".encode()),
    "simplified_chinese": (b"\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="),
    "misspelt": (b"ISO-IR 100", b"M\xfcller^J\xf6rg"),
    "default_declared": (b"ISO_IR 6", b"M\xfcller^J\xf6rg"),
    "unknown": (b"NO_SUCH_SET", b"\xff\xfe\x80^\xe4"),
    "wrong_one_declared": (b"ISO_IR 192", b"M\xfcller^J\xf6rg"),
}
_SET_PLACE = b"ISO_IR 100" + b" " * 14
_NAME_PLACE = b"@" * 60


def _with_placeholders(ds, index):
    ds.add(DataElement(0x00080005, "CS", _SET_PLACE.decode(), validation_mode=IGNORE))
    ds.add(DataElement(0x00100010, "PN", _NAME_PLACE.decode(), validation_mode=IGNORE))
    ds.InstitutionName = None


def _series_with_bytes(folder, character_set: bytes, name: bytes):
    substitutes = {_SET_PLACE: character_set.ljust(24), _NAME_PLACE: name.ljust(60)}
    return write_ct_series(folder, count=3, change=_with_placeholders, substitutes=substitutes)


@pytest.mark.parametrize("case", CHARACTER_SETS)
def test_name_and_character_set_keep_their_bytes(tmp_path, out_folder, case):
    character_set, name = CHARACTER_SETS[case]
    paths = _series_with_bytes(tmp_path / "ct", character_set, name)
    for instance in derive_series(request_for(paths), out_folder).instances:
        data = instance.path.read_bytes()
        assert name.ljust(60) in data
        assert data.index(b"\x08\x00\x05\x00CS") < data.index(b"\x08\x00\x08\x00CS")
        assert character_set in data[data.index(b"\x08\x00\x05\x00CS") :][:40]


@pytest.mark.parametrize("case", ["japanese", "korean", "gb18030", "utf8", "single_code_extension"])
def test_name_decodes_as_in_the_source(tmp_path, out_folder, case):
    paths = _series_with_bytes(tmp_path / "ct", *CHARACTER_SETS[case])
    derived = derive_series(request_for(paths), out_folder)
    assert dcmread(derived.instances[0].path).PatientName == dcmread(paths[0]).PatientName


DIRTY = {
    "sex_unknown": ("PatientSex", "CS", "U"),
    "sex_lower_case": ("PatientSex", "CS", "m"),
    "time_with_colons": ("StudyTime", "TM", "10:11:12"),
    "impossible_birth_date": ("PatientBirthDate", "DA", "19500230"),
    "date_with_dots": ("StudyDate", "DA", "2026.01.02"),
    "words_for_a_date": ("StudyDate", "DA", "yesterday"),
    "long_accession_number": ("AccessionNumber", "SH", "A" * 40),
    "long_patient_id": ("PatientID", "LO", "I" * 80),
    "uid_with_leading_zero": ("StudyInstanceUID", "UI", "1.2.03.4"),
    "frame_with_leading_zero": ("FrameOfReferenceUID", "UI", "1.2.00.7"),
    "weight_in_words": ("PatientWeight", "DS", "about 60"),
    "weight_with_comma": ("PatientWeight", "DS", "60,5"),
    "age_in_words": ("PatientAge", "AS", "sixty"),
    "several_patient_ids": ("PatientID", "LO", "one\\two"),
    "position_with_spaces": ("SliceLocation", "DS", " +1.0 "),
    "lower_case_body_part": ("BodyPartExamined", "CS", "head"),
}


@pytest.mark.parametrize("case", DIRTY)
def test_malformed_values_pass_unchanged(tmp_path, out_folder, case):
    keyword, vr, value = DIRTY[case]
    # Any legal value of that length holds the place; the dirty bytes are put in behind the encoder's back.
    place = "7" * (len(value) + len(value) % 2)
    tag = struct.pack("<HH", *divmod(tag_for_keyword(keyword), 0x10000))
    head = tag + vr.encode() + struct.pack("<H", len(place))
    written = value.encode().ljust(len(place), b"\0" if vr == "UI" else b" ")

    def hold_the_place(ds, index):
        ds[keyword] = DataElement(keyword, vr, place, validation_mode=IGNORE)

    substitutes = {head + place.encode(): head + written}
    paths = write_ct_series(tmp_path / "ct", count=3, change=hold_the_place, substitutes=substitutes)
    derived = derive_series(request_for(paths), out_folder)
    for instance, source in zip(derived.instances, paths, strict=True):
        assert raw_value(source, keyword) == written.rstrip(b" \0")
        assert raw_value(instance.path, keyword) == written.rstrip(b" \0")


@pytest.mark.parametrize("keyword", TYPE_2_IDENTITY)
def test_missing_type_2_attribute_is_present_and_empty(tmp_path, out_folder, keyword):
    def drop(ds, index):
        del ds[keyword]

    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", count=3, change=drop)), out_folder)
    for instance in derived.instances:
        ds = dcmread(instance.path)
        assert keyword in ds
        assert ds[keyword].is_empty


def test_source_without_character_set_gives_a_result_without_one(tmp_path, out_folder):
    def drop(ds, index):
        del ds.SpecificCharacterSet
        ds.InstitutionName = "Hospital"

    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", change=drop)), out_folder)
    assert all("SpecificCharacterSet" not in dcmread(instance.path) for instance in derived.instances)


def test_empty_deidentification_method_is_explained(tmp_path, out_folder):
    def removed(ds, index):
        ds.PatientIdentityRemoved = "YES"
        ds.DeidentificationMethod = None

    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", change=removed)), out_folder)
    assert dcmread(derived.instances[0].path).DeidentificationMethod == "Unknown, inherited from source"


def test_stated_deidentification_method_is_kept(tmp_path, out_folder):
    def removed(ds, index):
        ds.PatientIdentityRemoved = "YES"
        ds.DeidentificationMethod = "Profile X"

    derived = derive_series(request_for(write_ct_series(tmp_path / "ct", change=removed)), out_folder)
    assert dcmread(derived.instances[0].path).DeidentificationMethod == "Profile X"


def _with_sequences(ds, index):
    inner = Dataset()
    inner.CodeValue = "CT1"
    inner.CodingSchemeDesignator = "99X"
    inner.CodeMeaning = "T\xeate"
    ds.ProcedureCodeSequence = [inner]
    other = Dataset()
    other.PatientID = "OTHER-1"
    other.IssuerOfPatientID = "Clinic"
    other.IssuerOfPatientIDQualifiersSequence = [Dataset()]
    other.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID = "1.2.3"
    ds.OtherPatientIDsSequence = [other, Dataset()]
    ds.PregnancyStatus = 4


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_transfer_syntaxes_give_the_same_identity(tmp_path, out_folder, syntax):
    def recode(ds, index):
        _with_sequences(ds, index)
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = b"".join(ds.PixelData[i : i + 2][::-1] for i in range(0, len(ds.PixelData), 2))

    plain = write_ct_series(tmp_path / "plain", change=_with_sequences)
    recoded = write_ct_series(tmp_path / "recoded", change=recode)
    first = derive_series(request_for(plain), out_folder)
    bytes_of_first = [instance.path.read_bytes() for instance in first.instances]
    second = derive_series(request_for(recoded), out_folder)
    assert second.input_digest == first.input_digest
    assert [instance.path.read_bytes() for instance in second.instances] == bytes_of_first
    ds = dcmread(second.instances[0].path)
    assert ds.ProcedureCodeSequence[0].CodeMeaning == "T\xeate"
    assert ds.OtherPatientIDsSequence[0].IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2.3"
    assert ds.PregnancyStatus == 4


def test_undefined_length_sequences_are_reframed_with_equal_content(tmp_path, out_folder):
    def undefined(ds, index):
        _with_sequences(ds, index)
        ds["OtherPatientIDsSequence"].is_undefined_length = True
        for item in ds.OtherPatientIDsSequence:
            item.is_undefined_length_sequence_item = True

    defined = derive_series(request_for(write_ct_series(tmp_path / "a", change=_with_sequences)), out_folder)
    again = derive_series(request_for(write_ct_series(tmp_path / "b", change=undefined)), out_folder)
    assert again == defined


POISON = "Poisonous"


def _poison(ds, index):
    for keyword in (
        *("AccessionNumber", "InstitutionName", "StudyDescription", "PatientID", "ReferringPhysicianName"),
        *("StudyID", "PositionReferenceIndicator", "PatientComments", "ManufacturerModelName"),
    ):
        setattr(ds, keyword, POISON)
    ds.PatientName = f"{POISON}^Patient"
    for keyword in ("StudyDate", "StudyTime", "PatientBirthDate", "PatientSex", "PatientAge", "AcquisitionDate"):
        vr = ds[keyword].VR if keyword in ds else "AS"
        ds[keyword] = DataElement(keyword, vr, POISON, validation_mode=IGNORE)
    for keyword in ("SeriesNumber", "InstanceNumber", "PatientWeight", "SliceLocation"):
        # A number that is none cannot be made with the VR of a number.
        ds[keyword] = DataElement(ds[keyword].tag, "LO", POISON)


def test_poisoned_header_leaves_nothing_in_the_log(tmp_path, out_folder, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    paths = write_ct_series(tmp_path / "ct", change=_poison)
    derived = derive_series(request_for(paths), out_folder)
    assert POISON.encode() in derived.instances[0].path.read_bytes()
    printed = capfd.readouterr()
    assert POISON not in caplog.text + printed.out + printed.err


def test_poisoned_broken_files_raise_without_quoting(tmp_path, out_folder, caplog):
    caplog.set_level(logging.DEBUG)
    paths = write_ct_series(tmp_path / "ct", change=_poison)
    request = request_for(paths)
    whole = paths[1].read_bytes()
    for end in (140, 700, len(whole) // 2):
        paths[1].write_bytes(whole[:end])
        with pytest.raises(NodeError) as caught:
            derive_series(request, out_folder)
        assert POISON not in f"{caught.value} {caught.value.figures}"
        assert caught.value.__cause__ is None
    assert POISON not in caplog.text


def _ct_with_identity_sequence(path, content: bytes):
    """A slice whose OtherPatientIDsSequence (0010,1002) holds these bytes."""
    ds = ct_dataset(0)
    ds[0x00101003] = DataElement(0x00101003, "UN", content)
    return save(ds, path, substitutes={b"\x10\x00\x03\x10UN": b"\x10\x00\x02\x10SQ"})


@pytest.mark.parametrize(
    "content",
    [
        b"Poisonous Sequence",
        b"\xfe\xff\x00\xe0\xff\x00\x00\x00Poisonous Sequence",
        b"\xfe\xff\x00\xe0\x12\x00\x00\x00\x10\x00\x20\x00ZZ\xff\xffPoisonous ",
    ],
    ids=["no item", "item too short", "element too short"],
)
def test_malformed_sequence_neither_stops_the_result_nor_reaches_the_log(tmp_path, out_folder, caplog, content):
    caplog.set_level(logging.DEBUG)
    path = _ct_with_identity_sequence(tmp_path / "a.dcm", content)
    derived = derive_series(request_for((path,)), out_folder)
    assert "OtherPatientIDsSequence" in open_dataset(derived.instances[0].path)
    assert "Poison" not in caplog.text


def test_endlessly_nested_sequence_is_refused_by_tag_only(tmp_path, out_folder):
    nested = b""
    for _ in range(3000):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(nested)) + nested
        nested = b"\x10\x00\x02\x10SQ\0\0" + struct.pack("<I", len(item)) + item
    path = _ct_with_identity_sequence(tmp_path / "a.dcm", item)
    with pytest.raises(Permanent) as caught:
        derive_series(request_for((path,)), out_folder)
    assert caught.value.code == "unreadable"
    assert "(0010,1002)" in caught.value.reason
