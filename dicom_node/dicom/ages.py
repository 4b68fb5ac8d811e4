"""How old a study and its patient are, as far as the series choice asks: a day, and a number of years.

Both may be missing or broken, and then nothing is known: the choice rules nothing out by what it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Final

from dicom_node.dicom.reading import ElementReader

__all__ = ["patient_age_years", "study_date"]

# AS of PS3.5 Table 6.2-1: three digits and a unit. Fewer digits and lower case are met and mean the same.
_AGE: Final = re.compile(r"(\d{1,3})([DWMY])\Z")
_DAYS_A_YEAR: Final = 365.25
_UNITS_A_YEAR: Final[Mapping[str, float]] = {"Y": 1.0, "M": 12.0, "W": _DAYS_A_YEAR / 7.0, "D": _DAYS_A_YEAR}


def study_date(reader: ElementReader, content: datetime | None) -> date | None:
    """Day of the study: StudyDate (PS3.3 C.7.2.1), or that of the content where StudyDate is missing or broken.

    Parameters
    ----------
    reader : ElementReader
        Of one instance.
    content : datetime or None
        ContentDate and ContentTime (PS3.3 C.7.6.1).

    Returns
    -------
    datetime.date or None
        As the scanner wrote it, without time zone.
    """
    moment = reader.moment("StudyDate", "StudyTime") or content
    return None if moment is None else moment.date()


def patient_age_years(reader: ElementReader, day: date | None) -> float | None:
    """Age of the patient: PatientAge (PS3.3 C.7.2.2), or from PatientBirthDate (PS3.3 C.7.1.1) to the day of the study.

    Parameters
    ----------
    reader : ElementReader
        Of one instance.
    day : datetime.date or None
        Day of the study.

    Returns
    -------
    float or None
        Years; the birth date itself is not kept anywhere.
    """
    text = reader.text("PatientAge").upper()
    found = _AGE.match(text)
    if found:
        return int(found[1]) / _UNITS_A_YEAR[found[2]]
    if text:
        reader.issue("PatientAge", "not an age")
    born = reader.moment("PatientBirthDate", "PatientBirthTime")
    if born is None or day is None or day < born.date():
        return None
    return (day - born.date()).days / _DAYS_A_YEAR
