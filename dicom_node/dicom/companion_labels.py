"""The marks that a companion or a note must carry, checked on its encoded bytes, as `labels` does for the images.

The rules know nothing of the code that wrote the object. Each kind has its own: a mask must not pass as a synthetic
image, a map of the expected error must say that it is one, a report must hold the disclaimer, a withdrawal must name
what replaces the series, a page must show its text dot by dot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from types import MappingProxyType
from typing import Final

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.dicom.labels import CONTENT_QUALIFICATION, DIFFUSION_KEYWORDS, every_item
from dicom_node.dicom.reading import PARSE_ERRORS, quiet_pydicom
from dicom_node.dicom.text_page import Line, render_page
from dicom_node.errors import Permanent

__all__ = [
    "CLASSES",
    "COMPANION_MARKS",
    "DISCLAIMER_CODE",
    "NOT_PROCESSED",
    "SUPERSEDED_CODE",
    "WARNING",
    "CompanionFacts",
    "check_companion",
    "missing_companion_marks",
]

#: Words that a reader must find; the writers use the same.
NOT_PROCESSED: Final = "NOT PROCESSED"
WARNING: Final = (
    "SYNTHETIC - NOT MR. Computed from CT by AI. Not for primary diagnosis. "
    "Absence of bright areas does not exclude infarction. Research use only."
)
#: Codes of the scheme 99JMMDA.
DISCLAIMER_CODE: Final = "SYNTHETIC"
SUPERSEDED_CODE: Final = "SUPERSEDED"
#: PS3.16 CID 7010, Rejected for Quality Reasons.
REJECTED: Final = "113001"

#: SOP class (PS3.4 annex B.5) and Modality of each kind.
CLASSES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "seg": ("1.2.840.10008.5.1.4.1.1.66.4", "SEG"),
        "sr": ("1.2.840.10008.5.1.4.1.1.88.34", "SR"),
        "pm": ("1.2.840.10008.5.1.4.1.1.30", "OT"),
        "gsps": ("1.2.840.10008.5.1.4.1.1.11.1", "PR"),
        "ko": ("1.2.840.10008.5.1.4.1.1.88.59", "KO"),
        "note-sr": ("1.2.840.10008.5.1.4.1.1.88.34", "SR"),
        "note-sc": ("1.2.840.10008.5.1.4.1.1.7", "OT"),
    }
)
_PLAIN_TRANSFER_SYNTAXES: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})


@dataclass(frozen=True, slots=True)
class CompanionFacts:
    """What the marks of one companion have to say; kept with the job, so that it can be checked before sending.

    Attributes
    ----------
    kind : str
        Key of `CLASSES`.
    refers_to : str
        Series Instance UID that the object must name: of the CT (seg, pm, notes), of the result (sr, gsps), of the
        withdrawn series (ko).
    bundle_sha256 : str
        Hash of the model; empty for a note, which no model had a part in.
    training_mark : str or None
        As in `labels.LabelFacts`.
    replaced_by : str
        Series Instance UID that replaces the withdrawn one (ko).
    code : str
        Reason code (notes).
    page : tuple of tuple
        Text and scale of each line of the page (note-sc).
    """

    kind: str
    refers_to: str
    bundle_sha256: str = ""
    training_mark: str | None = None
    replaced_by: str = ""
    code: str = ""
    page: tuple[tuple[str, int | None], ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain values for the job record."""
        return {**asdict(self), "page": [list(line) for line in self.page]}

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> CompanionFacts:
        """Facts from `to_json`.

        Raises
        ------
        Permanent
            `label_facts` when the record is not of that form.
        """
        known = {one.name for one in fields(cls)}
        values: dict[str, object] = {key: value for key, value in record.items() if key in known}
        page = values.pop("page", [])
        mark = values.pop("training_mark", None)
        texts = {key: value for key, value in values.items() if isinstance(value, str)}
        sound = len(texts) == len(values) and texts.get("kind") in CLASSES and "refers_to" in texts
        if not sound or not isinstance(page, list | tuple) or not isinstance(mark, str | None):
            raise Permanent("label_facts", "the job record does not hold the facts of a companion")
        return cls(**texts, training_mark=mark, page=tuple((str(text), scale) for text, scale in page))

    def lines(self) -> tuple[Line, ...]:
        """Lines of the page."""
        return tuple(Line(text, scale) for text, scale in self.page)


Rule = Callable[[Dataset, CompanionFacts], bool]


def _values(ds: Dataset, keyword: str) -> set[str]:
    """Every value of an attribute at any depth."""
    return {str(item[keyword].value) for item in every_item(ds) if keyword in item}


def _code(item: Dataset, keyword: str) -> str:
    items = item.get(keyword)
    return str(items[0].get("CodeValue", "")) if items else ""


def _text(ds: Dataset) -> str:
    return "\n".join(_values(ds, "TextValue") | _values(ds, "UnformattedTextValue"))


def _has_class(ds: Dataset, facts: CompanionFacts) -> bool:
    sop_class, modality = CLASSES[facts.kind]
    meta = ds.file_meta
    stored = meta.get("MediaStorageSOPClassUID") == sop_class == ds.get("SOPClassUID")
    return bool(stored and ds.get("Modality") == modality and meta.get("TransferSyntaxUID") in _PLAIN_TRANSFER_SYNTAXES)


def _has_description(ds: Dataset, _: CompanionFacts) -> bool:
    text = str(ds.get("SeriesDescription", ""))
    return text.isascii() and text.endswith("RESEARCH") and "(AI)" in text


def _has_equipment(ds: Dataset, facts: CompanionFacts) -> bool:
    return any(
        item.get("ManufacturerModelName") == "jmmda-node"
        and facts.bundle_sha256 in str(item.get("ContributionDescription", ""))
        for item in ds.get("ContributingEquipmentSequence") or ()
    )


def _refers(ds: Dataset, facts: CompanionFacts) -> bool:
    """Name the series, and at least one instance of it, in one item."""
    keywords = ("ReferencedInstanceSequence", "ReferencedSOPSequence", "ReferencedImageSequence")
    return bool(facts.refers_to) and any(
        str(item.get("SeriesInstanceUID", "")).strip(" \0") == facts.refers_to
        and any(item.get(keyword) for keyword in keywords)
        for item in every_item(ds)
        if item is not ds
    )


def _lacks_diffusion(ds: Dataset, _: CompanionFacts) -> bool:
    return not any(keyword in item for item in every_item(ds) for keyword in DIFFUSION_KEYWORDS)


def _lacks_private(ds: Dataset, _: CompanionFacts) -> bool:
    return not any(tag.is_private for item in every_item(ds) for tag in item.keys())  # noqa: SIM118 - iterates elements


def _is_no_synthetic_image(ds: Dataset, _: CompanionFacts) -> bool:
    return bool(ds.get("SyntheticData") != "YES")


def _is_brain_mask(ds: Dataset, _: CompanionFacts) -> bool:
    segments = list(ds.get("SegmentSequence") or [])
    return bool(
        ds.get("SegmentationType") == "BINARY"
        and len(segments) == 1
        and segments[0].get("SegmentAlgorithmType") == "AUTOMATIC"
        and bool(segments[0].get("SegmentAlgorithmName"))
        # SNOMED CT 12738006, Brain; 91723000, Anatomical Structure.
        and _code(segments[0], "SegmentedPropertyTypeCodeSequence") == "12738006"
        and _code(segments[0], "SegmentedPropertyCategoryCodeSequence") == "91723000"
    )


def _has_float_pixels(ds: Dataset, _: CompanionFacts) -> bool:
    size = int(ds.get("Rows") or 0) * int(ds.get("Columns") or 0) * int(ds.get("NumberOfFrames") or 0)
    return size > 0 and len(ds.get("FloatPixelData") or b"") == 4 * size


def _says_expected_error(ds: Dataset, _: CompanionFacts) -> bool:
    return "EXPERR" in _values(ds, "LUTLabel")


def _holds_disclaimer(ds: Dataset, _: CompanionFacts) -> bool:
    return any(_code(item, "ConceptCodeSequence") == DISCLAIMER_CODE for item in every_item(ds))


def _is_preliminary(ds: Dataset, _: CompanionFacts) -> bool:
    return bool(ds.get("PreliminaryFlag") == "PRELIMINARY" and ds.get("VerificationFlag") == "UNVERIFIED")


def _names_bundle(ds: Dataset, facts: CompanionFacts) -> bool:
    return len(facts.bundle_sha256) == 64 and facts.bundle_sha256 in _text(ds)


def _names_training(ds: Dataset, facts: CompanionFacts) -> bool:
    return facts.training_mark is None or facts.training_mark in _text(ds)


def _is_rejection(ds: Dataset, _: CompanionFacts) -> bool:
    reasons = {_code(item, "ConceptCodeSequence") for item in every_item(ds)}
    return _code(ds, "ConceptNameCodeSequence") == REJECTED and SUPERSEDED_CODE in reasons


def _names_heir(ds: Dataset, facts: CompanionFacts) -> bool:
    return bool(facts.replaced_by) and facts.replaced_by in _text(ds)


def _says_not_processed(ds: Dataset, facts: CompanionFacts) -> bool:
    text = _text(ds)
    return NOT_PROCESSED in text and "RESEARCH" in text and bool(facts.code) and facts.code in text


def _shows_page(ds: Dataset, facts: CompanionFacts) -> bool:
    page = render_page(facts.lines())
    if (ds.get("Rows"), ds.get("Columns")) != page.shape or ds.get("BitsAllocated") != 8:
        return False
    data = ds.get("PixelData") or b""
    return len(data) == page.size and np.array_equal(np.frombuffer(data, dtype=np.uint8).reshape(page.shape), page)


def _page_says_not_processed(_: Dataset, facts: CompanionFacts) -> bool:
    text = "\n".join(line for line, _ in facts.page)
    return NOT_PROCESSED in text and "RESEARCH" in text and bool(facts.code) and facts.code in text


_COMMON: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "object_class": _has_class,
        "series_description": _has_description,
        "content_qualification": lambda ds, _: ds.get("ContentQualification") == CONTENT_QUALIFICATION,
        "contributing_equipment": _has_equipment,
        "reference": _refers,
        "no_diffusion_attributes": _lacks_diffusion,
        "no_private_elements": _lacks_private,
    }
)
_NOT_SYNTHETIC: Final[Mapping[str, Rule]] = MappingProxyType({"no_synthetic_data": _is_no_synthetic_image})

#: Every mandatory mark of each kind by name, with the rule that finds it in a parsed object.
COMPANION_MARKS: Final[Mapping[str, Mapping[str, Rule]]] = MappingProxyType(
    {
        "seg": {**_COMMON, **_NOT_SYNTHETIC, "brain_mask": _is_brain_mask},
        "sr": {
            **_COMMON,
            "disclaimer": _holds_disclaimer,
            "preliminary": _is_preliminary,
            "bundle_in_text": _names_bundle,
            "training_in_text": _names_training,
        },
        "pm": {
            **_COMMON,
            "synthetic_data": lambda ds, _: ds.get("SyntheticData") == "YES",
            "float_pixels": _has_float_pixels,
            "expected_error": _says_expected_error,
        },
        "gsps": {
            **_COMMON,
            "warning_text": lambda ds, _: WARNING in _text(ds),
            "training_in_text": _names_training,
        },
        "ko": {**_COMMON, "rejection": _is_rejection, "replacement": _names_heir},
        "note-sr": {**_COMMON, "not_processed": _says_not_processed, "preliminary": _is_preliminary},
        "note-sc": {
            **_COMMON,
            **_NOT_SYNTHETIC,
            "page_text": _page_says_not_processed,
            "page_pixels": _shows_page,
        },
    }
)


def missing_companion_marks(data: bytes, facts: CompanionFacts) -> tuple[str, ...]:
    """Names of the marks that an encoded companion lacks.

    Parameters
    ----------
    data : bytes
        A whole Part 10 file.
    facts : CompanionFacts
        What its marks have to say.

    Returns
    -------
    tuple of str
        Keys of `COMPANION_MARKS` for its kind, in their order; empty when the object may be sent.

    Raises
    ------
    Permanent
        `label_unreadable` when the bytes cannot be parsed.
    """
    try:
        with quiet_pydicom():
            ds = dcmread(BytesIO(data))
            return tuple(name for name, holds in COMPANION_MARKS[facts.kind].items() if not holds(ds, facts))
    except PARSE_ERRORS:
        raise Permanent("label_unreadable", "a companion cannot be parsed, so its labels cannot be checked") from None


def check_companion(data: bytes, facts: CompanionFacts) -> None:
    """Let an encoded companion pass only if it carries every mandatory mark of its kind.

    Parameters
    ----------
    data : bytes
        A whole Part 10 file, exactly as it will be sent.
    facts : CompanionFacts
        What its marks have to say.

    Raises
    ------
    Permanent
        `label_missing`, naming the marks; `label_unreadable` when the bytes cannot be parsed.
    """
    missing = missing_companion_marks(data, facts)
    if missing:
        raise Permanent(
            "label_missing",
            f"the {facts.kind} object lacks the mandatory mark {', '.join(missing)} and must not leave the node",
            {"missing": list(missing)},
        )
