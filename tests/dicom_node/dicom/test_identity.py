"""Elements handed on as bytes: framing, padding, byte order, sequences, and the list of copied attributes.

Left out: whole objects with dirty identities (`tests/dicom_node/derive/test_derive_identity.py`).
"""

from __future__ import annotations

from io import BytesIO

import pytest
from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.dicom.identity import (
    IDENTITY,
    TYPE_2_IDENTITY,
    canonical_bytes,
    copy_verbatim,
    encode_raw,
    raw,
    tag_of,
    verbatim,
)

_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


def read_as(ds: Dataset, syntax) -> Dataset:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


def sample() -> Dataset:
    ds = Dataset()
    ds.PatientName = "Example^Erika"
    ds.PatientID = "ODD"
    ds.PregnancyStatus = 4
    ds.PatientWeight = "61.5"
    ds.StudyInstanceUID = "1.2.3"
    code = Dataset()
    code.CodeValue = "X1"
    code.add_new(0x0040A30A, "DS", "1.50")
    code.add_new(0x0018A002, "DT", "2026")
    ds.ProcedureCodeSequence = [code, Dataset()]
    return ds


def test_the_copied_attributes_are_those_of_the_patient_and_study_modules():
    modules = get_module_attribute_map()
    wanted = {
        attribute["keyword"]
        for module in get_iod_module_map()["mr-image"]
        if module["ie"] in ("Patient", "Study")
        for attribute in modules[module["key"]]
        if not attribute["path"]
    }
    veterinary = {
        *("StrainDescription", "StrainNomenclature", "StrainStockSequence", "StrainAdditionalInformation"),
        *("StrainCodeSequence", "GeneticModificationsSequence", "PatientSpeciesDescription"),
        *("PatientSpeciesCodeSequence", "PatientBreedDescription", "PatientBreedCodeSequence"),
        "BreedRegistrationSequence",
    }
    assert wanted - veterinary <= set(IDENTITY)
    assert set(IDENTITY) - wanted == {"OtherPatientIDs", "EthnicGroup"}
    assert len(set(IDENTITY)) == len(IDENTITY)
    assert set(TYPE_2_IDENTITY) <= set(IDENTITY)


@pytest.mark.parametrize("syntax", _SYNTAXES)
def test_copied_elements_read_back_equal_from_every_transfer_syntax(syntax):
    target = Dataset()
    copy_verbatim(read_as(sample(), syntax), target, IDENTITY)
    encoded = b"".join(encode_raw(target.get_item(tag)) for tag in sorted(target.keys()))
    back = dcmread(BytesIO(encoded), force=True)
    for element in sample():
        assert back[element.tag].value == element.value


@pytest.mark.parametrize("syntax", _SYNTAXES)
def test_canonical_bytes_do_not_depend_on_the_transfer_syntax(syntax):
    assert canonical_bytes(read_as(sample(), syntax)) == canonical_bytes(read_as(sample(), ExplicitVRLittleEndian))


def test_canonical_bytes_change_with_a_nested_value():
    changed = sample()
    changed.ProcedureCodeSequence[0].CodeValue = "X2"
    first, second = (canonical_bytes(read_as(ds, ExplicitVRLittleEndian)) for ds in (sample(), changed))
    assert first != second


def test_absent_element_is_none():
    assert verbatim(read_as(sample(), ExplicitVRLittleEndian), "AccessionNumber") is None


def test_unknown_keyword_is_a_key_error():
    with pytest.raises(KeyError):
        tag_of("NoSuchKeyword")


@pytest.mark.parametrize(("vr", "pad"), [("UI", b"\0"), ("LO", b" "), ("PN", b" "), ("UN", b"\0")])
def test_odd_values_are_padded_as_their_representation_asks(vr, pad):
    assert raw(Tag(0x00100020), vr, b"abc").value == b"abc" + pad


@given(st.binary(max_size=200))
def test_any_value_of_a_text_survives_framing(value):
    element = raw(Tag(0x00104000), "LT", value)
    back = dcmread(BytesIO(encode_raw(element)), force=True).get_item(0x00104000)
    assert bytes(back.value or b"") == value + b" " * (len(value) % 2)


def test_a_short_text_beyond_64_kib_becomes_unknown_rather_than_cut():
    element = raw(Tag(0x00104000), "LT", b"x" * 70_000)
    encoded = encode_raw(element)
    assert encoded[4:6] == b"UN"
    assert encoded.endswith(b"x" * 70_000)
