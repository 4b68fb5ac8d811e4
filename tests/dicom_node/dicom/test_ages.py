"""Day of the study and age of the patient from headers as scanners write them, dirty ones included.

Left out: what the choice does with them (test_choice).
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from dicom_node.dicom.values import read_header
from tests.dicom_node.dicom.builders import ct_dataset, set_dirty, write


def test_both_are_read_from_a_file(tmp_path: Path) -> None:
    header = read_header(write(ct_dataset(PatientAge="043Y"), tmp_path / "a.dcm"))
    assert (header.study_date, header.patient_age_years) == (date(2024, 1, 2), 43.0)
    assert header.issues == ()
    assert not {"study_date", "patient_age_years"} & set(re.findall(r"(\w+)=", repr(header)))


@pytest.mark.parametrize(
    ("age", "years"), [("080Y", 80.0), ("5Y", 5.0), ("018m", 1.5), ("026W", 0.498), ("003D", 0.0082), ("000Y", 0.0)]
)
def test_every_unit_of_an_age(tmp_path: Path, age: str, years: float) -> None:
    dataset = ct_dataset()
    set_dirty(dataset, "PatientAge", age)
    assert read_header(write(dataset, tmp_path / "a.dcm")).patient_age_years == pytest.approx(years, rel=0.01)


def test_the_birth_date_speaks_where_there_is_no_age(tmp_path: Path) -> None:
    header = read_header(write(ct_dataset(PatientBirthDate="19500101"), tmp_path / "a.dcm"))
    assert header.patient_age_years == pytest.approx(74.0, abs=0.01)


@pytest.mark.parametrize("age", ["43", "Y", "1000Y", "old", "-05Y", "043Y\\044Y"])
def test_an_age_that_is_none_is_named_and_the_birth_date_asked(tmp_path: Path, age: str) -> None:
    dataset = ct_dataset()
    set_dirty(dataset, "PatientAge", age)
    header = read_header(write(dataset, tmp_path / "a.dcm"))
    assert header.issues == ("PatientAge: not an age",)
    assert header.patient_age_years == pytest.approx(74.0, abs=0.01)


@pytest.mark.parametrize("born", ["", "20240103", "18000230", "unknown"])
def test_without_a_sensible_birth_date_the_age_is_unknown(tmp_path: Path, born: str) -> None:
    dataset = ct_dataset()
    set_dirty(dataset, "PatientBirthDate", born)
    assert read_header(write(dataset, tmp_path / "a.dcm")).patient_age_years is None


@pytest.mark.parametrize("day", [None, "20241301", "yesterday"])
def test_a_study_date_that_is_missing_or_broken_gives_way_to_that_of_the_content(
    tmp_path: Path, day: str | None
) -> None:
    dataset = ct_dataset(StudyDate=None, ContentDate="20240103")
    if day is not None:
        set_dirty(dataset, "StudyDate", day)
    header = read_header(write(dataset, tmp_path / "a.dcm"))
    assert header.study_date == date(2024, 1, 3)
    assert [issue.split(":")[0] for issue in header.issues] == ([] if day is None else ["StudyDate"])


def test_without_any_date_nothing_is_known(tmp_path: Path) -> None:
    header = read_header(write(ct_dataset(StudyDate=None, ContentDate=None), tmp_path / "a.dcm"))
    assert (header.study_date, header.patient_age_years) == (None, None)


@pytest.mark.parametrize("agent", ["NONE", "W/O CONTRAST", "without contrast", "kein KM", "N/A", "-"])
def test_no_contrast_in_the_words_of_scanners(tmp_path: Path, agent: str) -> None:
    assert not read_header(write(ct_dataset(ContrastBolusAgent=agent), tmp_path / "a.dcm")).contrast_bolus
    assert read_header(write(ct_dataset(ContrastBolusAgent="OMNIPAQUE"), tmp_path / "b.dcm")).contrast_bolus
