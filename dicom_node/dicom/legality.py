"""Which copied values break the rules of the standard: named for the log and the ledger, never quoted, never repaired.

A PACS matches on these values as they are, so a wrong one is passed on (`identity`); but somebody should hear of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from types import MappingProxyType
from typing import Final

from pydicom.datadict import dictionary_VM, dictionary_VR

from dicom_node.dicom.charsets import TEXT_VRS
from dicom_node.dicom.identity import ACQUISITION, IDENTITY, IMAGE_PLANE, TYPE_2_IDENTITY
from dicom_node.dicom.reading import ElementReader

__all__ = ["COPIED_VALUES", "note_illegal_values"]

#: Everything that an image copies from its CT, apart from sequences.
COPIED_VALUES: Final = tuple(
    keyword
    for keyword in (*IDENTITY, *ACQUISITION, *IMAGE_PLANE)
    if dictionary_VR(keyword) not in ("SQ", "US", "UN", "FD", "UT")
)

#: Most characters of one value; for a name of one component group (PS3.5 section 6.2).
_LENGTHS: Final = {"SH": 16, "LO": 64, "PN": 64, "ST": 1024, "LT": 10240}
_DATE: Final = re.compile(r"(\d{4})(\d{2})(\d{2})\Z", re.ASCII)
_FORMS: Final[Mapping[str, re.Pattern[str]]] = MappingProxyType(
    {
        "AS": re.compile(r"\d{3}[DWMY]\Z", re.ASCII),
        "CS": re.compile(r"[A-Z0-9 _]{1,16}\Z"),
        "DA": _DATE,
        "DS": re.compile(r"(?=.{1,16}\Z)[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\Z", re.ASCII),
        "IS": re.compile(r"[+-]?\d{1,11}\Z", re.ASCII),
        "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?\Z", re.ASCII),
        # No component begins with a zero unless it is one (PS3.5 section 9.1).
        "UI": re.compile(r"(?=.{1,64}\Z)(0|[1-9]\d*)(\.(0|[1-9]\d*))*\Z", re.ASCII),
    }
)
_ENUMERATED: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "PatientSex": frozenset({"M", "F", "O"}),
        "PatientIdentityRemoved": frozenset({"YES", "NO"}),
        "QualityControlSubject": frozenset({"YES", "NO"}),
        "QualityControlImage": frozenset({"YES", "NO", "BOTH"}),
        "PatientSexNeutered": frozenset({"ALTERED", "UNALTERED"}),
        "SmokingStatus": frozenset({"YES", "NO", "UNKNOWN"}),
    }
)


def note_illegal_values(reader: ElementReader, keywords: Iterable[str] = COPIED_VALUES) -> None:
    """Note which copied values are none of their value representation, and which attributes of type 2 are missing.

    Parameters
    ----------
    reader : ElementReader
        The header; its `issues` receive ``KEYWORD: rule`` and no value.
    keywords : iterable of str
        Attributes to look at.
    """
    for keyword in keywords:
        rule = _broken_rule(reader, keyword)
        if rule is not None:
            reader.issue(keyword, rule)
    for keyword in TYPE_2_IDENTITY:
        if reader.raw(keyword) is None:
            reader.issue(keyword, "missing (type 2)")


def _broken_rule(reader: ElementReader, keyword: str) -> str | None:
    vr = dictionary_VR(keyword)
    text = reader.text(keyword)
    if not text:
        return None
    if vr in ("ST", "LT"):
        return _too_long(text, vr)  # a backslash is a character in these
    values = text.split("\\")
    if dictionary_VM(keyword) == "1" and len(values) > 1:
        return "several values where one is allowed"
    rules = (_of_the_vr(vr), _among(keyword))
    return next((rule for check in rules for value in values if value and (rule := check(value)) is not None), None)


def _of_the_vr(vr: str) -> Callable[[str], str | None]:
    if vr in TEXT_VRS:
        return lambda value: _too_long(value, vr)
    form = _FORMS.get(vr)
    return lambda value: None if form is None or _fits(form, value) else f"not a legal {vr}"


def _among(keyword: str) -> Callable[[str], str | None]:
    allowed = _ENUMERATED.get(keyword)
    return lambda value: None if allowed is None or value in allowed else "not one of its enumerated values"


def _too_long(value: str, vr: str) -> str | None:
    parts = value.split("=") if vr == "PN" else [value]
    longest = _LENGTHS.get(vr)
    return f"longer than {vr} may be" if longest is not None and max(map(len, parts)) > longest else None


def _fits(form: re.Pattern[str], value: str) -> bool:
    found = form.match(value)
    if found is None or form is not _DATE:
        return found is not None
    try:
        date(*(int(part) for part in found.groups()))
    except ValueError:
        return False
    return True
