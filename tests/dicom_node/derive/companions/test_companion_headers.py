"""Companions and notes over dirty headers, character sets, Enhanced CT and broken files.

Covers: identity byte by byte in every kind, poisoned headers that leave nothing in logs and reasons, frames of Enhanced
CT referred to by number, no frame of reference, files and disks that fail. Left out: clean content
(`test_companion_objects.py`).
"""

from __future__ import annotations

import logging
import struct

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.derive.companions import frame as frame_module
from dicom_node.derive.companions.request import CompanionFailure, CompanionSeries
from dicom_node.derive.companions.writer import write_companions, write_note
from dicom_node.dicom.identity import TYPE_2_IDENTITY
from dicom_node.dicom.uids import derived_frame_of_reference_uid
from tests.dicom_node.derive.companions.companion_cases import KINDS, by_kind, companion_request, note_request, read
from tests.dicom_node.derive.derive_cases import raw_value, write_ct_series
from tests.dicom_node.derive.test_derive_identity import (
    CHARACTER_SETS,
    DIRTY,
    POISON,
    _poison,
    _series_with_bytes,
)
from tests.dicom_node.dicom.builders import write
from tests.dicom_node.dicom.enhanced_cases import ENHANCED_CT, classic_stack, enhanced_ct

ALL = (*KINDS, "note-sr", "note-sc")


def everything(paths, folder, frames=()):
    """Every companion and both notes."""
    notes = [write_note(note_request(paths, form), folder) for form in ("sr", "sc")]
    return by_kind([*write_companions(companion_request(paths, frames), folder), *notes])


@pytest.mark.parametrize("case", CHARACTER_SETS)
def test_name_and_character_set_keep_their_bytes(tmp_path, out_folder, case):
    character_set, name = CHARACTER_SETS[case]
    paths = _series_with_bytes(tmp_path / "ct", character_set, name)
    found = everything(paths, out_folder)
    assert set(found) == set(ALL)
    for series in found.values():
        data = series.instances[0].path.read_bytes()
        assert name.ljust(60) in data
        assert character_set in data[data.index(b"\x08\x00\x05\x00CS") :][:40]


@pytest.mark.parametrize("case", DIRTY)
def test_malformed_values_pass_unchanged(tmp_path, out_folder, case):
    keyword, vr, value = DIRTY[case]
    place = "7" * (len(value) + len(value) % 2)
    tag = struct.pack("<HH", *divmod(tag_for_keyword(keyword), 0x10000))
    head = tag + vr.encode() + struct.pack("<H", len(place))
    written = value.encode().ljust(len(place), b"\0" if vr == "UI" else b" ")

    def hold_the_place(ds, index):
        ds[keyword] = DataElement(keyword, vr, place, validation_mode=IGNORE)

    paths = write_ct_series(
        tmp_path / "ct", count=3, change=hold_the_place, substitutes={head + place.encode(): head + written}
    )
    found = everything(paths, out_folder)
    assert set(found) == set(ALL)
    # The part of the body belongs to the images and what lies on them, the frame of reference to what has planes.
    holders = {"FrameOfReferenceUID": ("seg", "pm"), "SliceLocation": (), "BodyPartExamined": ("seg", "pm", "gsps")}
    for kind in holders.get(keyword, ALL):
        assert raw_value(found[kind].instances[0].path, keyword) == written.rstrip(b" \0")


@pytest.mark.parametrize("keyword", TYPE_2_IDENTITY)
def test_missing_type_2_attribute_is_present_and_empty(tmp_path, out_folder, keyword):
    def drop(ds, index):
        del ds[keyword]

    for series in everything(write_ct_series(tmp_path / "ct", count=2, change=drop), out_folder).values():
        assert read(series)[keyword].is_empty


def test_without_a_frame_of_reference_the_masks_share_that_of_the_images(tmp_path, out_folder):
    def drop(ds, index):
        del ds.FrameOfReferenceUID

    found = everything(write_ct_series(tmp_path / "ct", change=drop), out_folder)
    wanted = derived_frame_of_reference_uid("1.2.3.4.1", "1.2.3.4.2")
    assert {read(found[kind]).FrameOfReferenceUID for kind in ("seg", "pm")} == {wanted}


def test_another_transfer_syntax_of_the_ct_gives_the_same_bytes(ct_paths, tmp_path, out_folder, written):
    def recode(ds, index):
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    found = everything(write_ct_series(tmp_path / "ct", change=recode), out_folder)
    for kind, series in found.items():
        assert series.instances[0].sha256 == written[kind].instances[0].sha256, kind


def test_cosines_with_few_digits_are_kept_as_they_are(tmp_path, out_folder):
    def coarse(ds, index):
        ds.ImageOrientationPatient = ["1.00", "0.00", "0.00", "0.00", "0.99", "-0.12"]

    seg = read(everything(write_ct_series(tmp_path / "ct", change=coarse), out_folder)["seg"])
    cosines = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    assert [v.original_string for v in cosines] == ["1.00", "0.00", "0.00", "0.00", "0.99", "-0.12"]


def test_poisoned_header_leaves_nothing_in_log_or_reason(tmp_path, out_folder, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    paths = write_ct_series(tmp_path / "ct", change=_poison)
    outcomes = [
        *write_companions(companion_request(paths), out_folder),
        write_note(note_request(paths, "sc"), out_folder),
    ]
    assert all(isinstance(one, CompanionSeries) for one in outcomes), outcomes
    assert POISON.encode() in outcomes[0].instances[0].path.read_bytes()
    printed = capfd.readouterr()
    assert POISON not in caplog.text + printed.out + printed.err


def test_broken_files_fail_each_companion_by_name_without_quoting(tmp_path, out_folder, caplog):
    caplog.set_level(logging.DEBUG)
    paths = write_ct_series(tmp_path / "ct", change=_poison)
    request = companion_request(paths)
    paths[1].write_bytes(paths[1].read_bytes()[:140])
    outcomes = write_companions(request, out_folder)
    assert [one.kind for one in outcomes] == ["seg", "sr", "pm", "gsps", "ko"]
    assert {type(one) for one in outcomes} == {CompanionFailure}
    assert {one.code for one in outcomes} <= {"unreadable", "source_header"}
    assert POISON not in f"{outcomes}{caplog.text}"
    assert list(out_folder.iterdir()) == []


def test_a_full_disk_fails_what_it_hits_and_leaves_no_part(ct_paths, out_folder, monkeypatch):
    whole = frame_module.write_part
    calls = []

    def full_once(part, parts):
        calls.append(part)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return whole(part, parts)

    monkeypatch.setattr(frame_module, "write_part", full_once)
    outcomes = write_companions(companion_request(ct_paths), out_folder)
    (failure,) = [one for one in outcomes if isinstance(one, CompanionFailure)]
    assert (failure.kind, failure.code, failure.transient) == ("sr", "storage", True)
    assert len(list(out_folder.iterdir())) == 4
    assert failure.to_json()["code"] == "storage"


def test_a_library_that_breaks_is_named_by_class_and_place(ct_paths, out_folder, monkeypatch):
    from dicom_node.derive.companions import gsps

    def broken(*args, **kwargs):
        raise AttributeError(f"{POISON}^Patient")

    monkeypatch.setattr(gsps, "GraphicAnnotation", broken)
    outcomes = write_companions(companion_request(ct_paths), out_folder)
    (failure,) = [one for one in outcomes if isinstance(one, CompanionFailure)]
    assert (failure.kind, failure.code) == ("gsps", "companion_library")
    assert "AttributeError" in failure.reason
    assert POISON not in failure.reason


# --- Enhanced CT -------------------------------------------------------------------------------------------------

COUNT = 4


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory):
    slices = classic_stack(COUNT, pixels=np.arange(96 * 128, dtype=np.uint16).reshape(96, 128) % 2000)
    return write(enhanced_ct(slices), tmp_path_factory.mktemp("enhanced") / "enhanced.dcm")


def test_frames_of_enhanced_ct_are_named_by_number(enhanced, out_folder):
    order = (4, 2, 1, 3)
    found = everything((enhanced,) * COUNT, out_folder, order)
    source = dcmread(enhanced)
    for kind, frames in (("seg", {2, 1, 3}), ("pm", {1, 2, 3, 4})):
        ds = read(found[kind])
        seen = set()
        for group in ds.PerFrameFunctionalGroupsSequence:
            (image,) = group.DerivationImageSequence[0].SourceImageSequence
            number = int(image.ReferencedFrameNumber)
            assert (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID) == (ENHANCED_CT, source.SOPInstanceUID)
            wanted = source.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0]
            assert group.PlanePositionSequence[0].ImagePositionPatient == wanted.ImagePositionPatient
            seen.add(number)
        assert seen == frames
        (series,) = ds.ReferencedSeriesSequence
        assert len(series.ReferencedInstanceSequence) == 1


def test_documents_name_the_enhanced_instance_once(enhanced, out_folder):
    found = everything((enhanced,) * COUNT, out_folder, (1, 2, 3, 4))
    uid = dcmread(enhanced).SOPInstanceUID
    for kind in ("sr", "note-sr"):
        listed = [
            (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
            for study in read(found[kind]).CurrentRequestedProcedureEvidenceSequence
            for series in study.ReferencedSeriesSequence
            for item in series.ReferencedSOPSequence
        ]
        assert listed.count((ENHANCED_CT, uid)) == 1
        assert sum(instance == uid for _, instance in listed) == 1
