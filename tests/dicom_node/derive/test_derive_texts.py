"""Texts and times from CT to result: every character set byte-true, broken ones with a warning, zones and midnight.

The character sets are those of pydicom's collection of real files, and random bytes. Left out: the sets of the
specification with placeholders (`test_derive_identity.py`), and decoding itself (`tests/dicom_node/dicom/` has it).
"""

from __future__ import annotations

import logging
import struct
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_charset_files
from pydicom.datadict import dictionary_VR, tag_for_keyword

from dicom_node.derive.writer import derive_series
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.dicom.reading import ElementReader, open_dataset
from tests.dicom_node.derive.derive_cases import raw_value, request_for, write_ct_series

WITH_NAME = [path for path in sorted(get_charset_files("chr*.dcm")) if "SQ" not in path]


def _with_bytes(whole: bytes, keyword: str, vr: str, value: bytes) -> bytes:
    """A file whose element holds these bytes, unseen by any encoder."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    start = whole.index(struct.pack("<HH", *divmod(tag, 0x10000)) + dictionary_VR(tag).encode())
    (length,) = struct.unpack_from("<H", whole, start + 6)
    value += b" " * (len(value) % 2)
    size = struct.pack("<HI", 0, len(value)) if vr == "UN" else struct.pack("<H", len(value))
    return whole[: start + 4] + vr.encode() + size + value + whole[start + 8 + length :]


def _ct_with(folder: Path, *elements: tuple[str, str, bytes]) -> tuple[Path, ...]:
    def change(ds, index):
        ds.InstitutionName = "Clinic"
        ds.PatientComments = "none"
        ds.TimezoneOffsetFromUTC = "+0000"

    paths = write_ct_series(folder, count=2, change=change)
    for path in paths:
        whole = path.read_bytes()
        for element in elements:
            whole = _with_bytes(whole, *element)
        path.write_bytes(whole)
    return paths


@pytest.mark.parametrize("path", WITH_NAME, ids=lambda path: Path(path).stem)
def test_real_names_keep_their_bytes(path, tmp_path, out_folder, caplog):
    source = open_dataset(Path(path))
    declared = ElementReader(source).text("SpecificCharacterSet").encode()
    name = bytes(source.get_item("PatientName").value)
    paths = _ct_with(tmp_path / "ct", ("SpecificCharacterSet", "CS", declared), ("PatientName", "PN", name))
    for instance in derive_series(request_for(paths), out_folder).instances:
        assert raw_value(instance.path, "PatientName") == name.rstrip(b" \0")
        result = dcmread(instance.path)
        assert ElementReader(open_dataset(instance.path)).text("SpecificCharacterSet").encode() == declared
        assert result.PatientName == dcmread(path).PatientName
    assert "character set" not in caplog.text


@pytest.mark.parametrize(
    ("declared", "name", "words"),
    [
        (b"ISO_IR 192", b"M\xfcller", "PatientName: text does not fit"),
        (b"NO_SUCH_SET", b"M\xfcller", "SpecificCharacterSet: no defined term"),
        (b"ISO-IR 100", b"M\xfcller", "SpecificCharacterSet: misspelt term"),
        (b"ISO 2022 IR 6\0\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B", ""),
    ],
)
def test_broken_sets_pass_with_a_warning_that_quotes_nothing(tmp_path, out_folder, caplog, declared, name, words):
    caplog.set_level(logging.WARNING)
    paths = _ct_with(tmp_path / "ct", ("SpecificCharacterSet", "CS", declared), ("PatientName", "PN", name))
    derived = derive_series(request_for(paths), out_folder)
    assert raw_value(derived.instances[0].path, "PatientName") == name
    assert words in caplog.text
    assert "ller" not in caplog.text
    assert declared.decode("latin-1") not in caplog.text


@given(declared=st.binary(max_size=32), name=st.binary(max_size=64), comment=st.binary(max_size=200))
def test_no_text_ever_stops_a_result(tmp_path_factory, declared, name, comment):
    folder = tmp_path_factory.mktemp("texts")
    paths = _ct_with(
        folder / "ct",
        ("SpecificCharacterSet", "CS", declared),
        ("PatientName", "PN", name),
        ("PatientComments", "LT", comment),
    )
    (folder / "out").mkdir()
    derived = derive_series(request_for(paths), folder / "out")
    written = open_dataset(derived.instances[0].path)
    for keyword, value in (("PatientName", name), ("PatientComments", comment)):
        assert bytes(written.get_item(keyword).value or b"") == value + b" " * (len(value) % 2)


def test_a_text_of_unknown_vr_becomes_text_again(tmp_path, out_folder):
    paths = _ct_with(tmp_path / "ct", ("PatientName", "UN", b"Example^Erika"))
    result = open_dataset(derive_series(request_for(paths), out_folder).instances[0].path)
    element = result.get_item("PatientName")
    assert (element.VR, bytes(element.value).rstrip()) == ("PN", b"Example^Erika")


# --- zones and midnight ------------------------------------------------------------------------------------------


def _derived_at(folder: Path, out: Path, created: datetime, offset: str | None):
    paths = _ct_with(folder, ("TimezoneOffsetFromUTC", "SH", (offset or "").encode()))
    return dcmread(derive_series(request_for(paths, created=created), out).instances[0].path)


@pytest.mark.parametrize(
    ("offset", "date", "time"),
    [
        ("+0100", "20260305", "003000"),
        ("+0000", "20260304", "233000"),
        ("-0530", "20260304", "180000"),
        ("+1400", "20260305", "133000"),
        (None, "20260304", "233000"),
    ],
)
def test_our_times_are_on_the_clock_of_the_ct(tmp_path, out_folder, offset, date, time):
    created = datetime(2026, 3, 4, 23, 30, tzinfo=UTC)
    ds = _derived_at(tmp_path / "ct", out_folder, created, offset)
    for kind in ("Content", "Series", "InstanceCreation"):
        assert (ds[f"{kind}Date"].value, ds[f"{kind}Time"].value) == (date, time)
    # Of the CT and untouched, also when ours lie on the next day.
    assert (ds.StudyDate, ds.StudyTime, ds.AcquisitionDate) == ("20260102", "101112.5", "20260102")
    assert ds.get("TimezoneOffsetFromUTC") == offset  # never one that the CT did not state
    moment = datetime.strptime(ds.ContributingEquipmentSequence[1].ContributionDateTime, "%Y%m%d%H%M%S.%f%z")
    assert moment == created


@pytest.mark.parametrize("offset", ["CET", "+9900", "+01:60", "0100"])
def test_an_offset_that_is_none_is_left_out_with_a_warning(tmp_path, out_folder, caplog, offset):
    ds = _derived_at(tmp_path / "ct", out_folder, datetime(2026, 3, 4, 23, 30, tzinfo=UTC), offset)
    assert "TimezoneOffsetFromUTC" not in ds
    assert (ds.ContentDate, ds.ContentTime) == ("20260304", "233000")
    assert "TimezoneOffsetFromUTC: not an offset from UTC" in caplog.text


def test_the_zone_is_part_of_the_input(tmp_path, out_folder):
    created = datetime(2026, 3, 4, 23, 30, tzinfo=UTC)
    first = _derived_at(tmp_path / "a", out_folder, created, "+0100")
    second = _derived_at(tmp_path / "b", out_folder, created, "+0200")
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


def test_the_site_has_a_clock_too():
    moment = datetime(2026, 7, 4, 23, 30, tzinfo=UTC)
    assert OutputSettings().clock(moment).isoformat() == "2026-07-04T23:30:00+00:00"
    assert OutputSettings(time_zone="Europe/Berlin").clock(moment).isoformat() == "2026-07-05T01:30:00+02:00"
    for name in ("Middle/Earth", "", "../etc/passwd", "/etc/localtime"):
        with pytest.raises(ValueError, match="time zone database"):
            OutputSettings(time_zone=name)


def test_an_implausible_time_of_the_scanner_costs_one_attribute_only(tmp_path, out_folder):
    paths = _ct_with(tmp_path / "ct", ("AcquisitionDate", "DA", b"yesterday"), ("AcquisitionTime", "TM", b"25:61"))
    ds = dcmread(derive_series(request_for(paths), out_folder).instances[0].path)
    assert "ContributionDateTime" not in ds.ContributingEquipmentSequence[0]
    assert raw_value(paths[0], "AcquisitionTime") == b"25:61"


def test_a_slice_at_midnight_keeps_its_day(tmp_path):
    for time, second in (("240000", 0), ("235960", 59), ("235959.9999999", 59)):
        (path, _) = _ct_with(tmp_path / time, ("AcquisitionTime", "TM", time.encode()))
        reader = ElementReader(open_dataset(path))
        moment = reader.moment("AcquisitionDate", "AcquisitionTime")
        assert moment is not None
        assert moment.second == second
        assert moment.day == (3 if time == "240000" else 2)
        assert reader.issues == []
