"""The marks that every derived object carries: the writer obeys them, the sender checks them on the encoded bytes.

A synthetic image that looks like a measured one is the worst thing this node could send. So the marks are pure rules
over the bytes that are about to leave, independent of the code that wrote them: what is parsed back is what a PACS
will see. A mark that is missing stops the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Final

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_node.dicom.output_rules import SERIES_DESCRIPTION_CHARACTERS, OutputSettings
from dicom_node.dicom.reading import PARSE_ERRORS, quiet_pydicom
from dicom_node.dicom.watermark import find_watermark
from dicom_node.errors import Permanent

MR_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.4"
#: Implicit and explicit VR little endian: what the node writes, and what it may be converted to for a peer.
_PLAIN_TRANSFER_SYNTAXES: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})
IMAGE_TYPE: Final = ("DERIVED", "SECONDARY", "OTHER", "SYNTHETIC")
CONTENT_QUALIFICATION: Final = "RESEARCH"
#: Purposes of reference, PS3.16 CID 7202 and CID 7005.
SOURCE_IMAGE_PURPOSE: Final = "121322"
SYNTHESIZING_EQUIPMENT: Final = "109100"
PRIVATE_GROUP: Final = 0x0071
PRIVATE_CREATOR: Final = "JMMDA-NODE 1.0"

IMAGE_COMMENTS: Final = (
    "SYNTHETIC IMAGE computed from CT by AI. Not an MR acquisition. Not for primary diagnosis. "
    "Absence of bright areas does not exclude infarction. Research use only."
)
PHANTOM_MARK: Final = "PHANTOM-TRAINED"
UNTRAINED_MARK: Final = "UNTRAINED"
_TRAINING_SENTENCES: Final = MappingProxyType(
    {
        PHANTOM_MARK: "Trained on a digital phantom.",
        UNTRAINED_MARK: "UNTRAINED network: the image has no meaning.",
    }
)

#: Attributes that would let a tool take the series for measured diffusion (PS3.3 C.8.13.5.9).
DIFFUSION_KEYWORDS: Final = frozenset(
    {
        "DiffusionBValue",
        "DiffusionDirectionality",
        "DiffusionGradientDirectionSequence",
        "DiffusionGradientOrientation",
        "DiffusionAnisotropyType",
        "DiffusionBMatrixSequence",
        "DiffusionBValueXX",
        "DiffusionBValueXY",
        "DiffusionBValueXZ",
        "DiffusionBValueYY",
        "DiffusionBValueYZ",
        "DiffusionBValueZZ",
        "MRDiffusionSequence",
    }
)
_DIFFUSION_TAGS: Final = frozenset(map(tag_for_keyword, DIFFUSION_KEYWORDS))


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What the labels say about the model that computed the pixels.

    Attributes
    ----------
    name : str
        Name of the bundle.
    sha256 : str
        Hash of weights and card, 64 hexadecimal digits: the model's identity in every label.
    weights_sha256 : str
        Hash of the weights alone.
    is_phantom : bool
        Trained on the digital phantom.
    trained : bool
        False for the untrained test network.
    size : str
        Preset of the generator (``compact``).
    version : str
        Version text of the model package or bundle.
    """

    name: str
    sha256: str
    weights_sha256: str
    is_phantom: bool
    trained: bool
    size: str
    version: str = ""

    @property
    def training_mark(self) -> str | None:
        """`UNTRAINED_MARK`, `PHANTOM_MARK`, or None for a bundle trained on patients."""
        if not self.trained:
            return UNTRAINED_MARK
        return PHANTOM_MARK if self.is_phantom else None


@dataclass(frozen=True, slots=True)
class LabelFacts:
    """What the marks of one series have to say; enough to check its instances long after they were written.

    Attributes
    ----------
    bundle_sha256 : str
        Full hash that the derivation description and the contributing equipment must name.
    training_mark : str or None
        `PHANTOM_MARK`, `UNTRAINED_MARK` or None.
    watermark_lines : tuple of str
        Text in the pixels, line by line; empty where the site switched it off.
    """

    bundle_sha256: str
    training_mark: str | None
    watermark_lines: tuple[str, ...]

    @classmethod
    def from_rules(cls, bundle: BundleFacts, output: OutputSettings) -> LabelFacts:
        """Facts of a series that this bundle makes under these settings."""
        lines = (output.watermark_text, *filter(None, (bundle.training_mark,))) if output.watermark else ()
        return cls(bundle.sha256, bundle.training_mark, tuple(lines))

    def to_json(self) -> dict[str, object]:
        """Plain values for the job record."""
        return {
            "bundle_sha256": self.bundle_sha256,
            "training_mark": self.training_mark,
            "watermark_lines": list(self.watermark_lines),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> LabelFacts:
        """Facts from `to_json`.

        Raises
        ------
        Permanent
            `label_facts` when the record is not of that form.
        """
        mark = record.get("training_mark")
        digest = record.get("bundle_sha256")
        lines = record.get("watermark_lines")
        if (
            mark not in (None, *_TRAINING_SENTENCES)
            or not isinstance(digest, str)
            or not isinstance(lines, list | tuple)
        ):
            raise Permanent("label_facts", "the job record does not hold the facts of the labels")
        return cls(digest, None if mark is None else str(mark), tuple(str(line) for line in lines))


def series_description(output: OutputSettings, training_mark: str | None) -> str:
    """Series Description with the training mark, at most 64 characters; the configured text gives way to the mark."""
    if training_mark is None:
        return output.series_description
    tail = f" - {training_mark}"
    return output.series_description[: SERIES_DESCRIPTION_CHARACTERS - len(tail)].rstrip(" -") + tail


def image_comments(training_mark: str | None) -> str:
    """Image Comments: what the image is not, and on what the model was trained where that must be said."""
    return IMAGE_COMMENTS if training_mark is None else f"{IMAGE_COMMENTS} {_TRAINING_SENTENCES[training_mark]}"


def training_sentence(training_mark: str | None) -> str:
    """Sentence for the derivation description; empty for a bundle trained on patients."""
    return "" if training_mark is None else _TRAINING_SENTENCES[training_mark]


def _first(ds: Dataset, keyword: str) -> Dataset:
    items = ds.get(keyword)
    return items[0] if items else Dataset()


def _code(item: Dataset, keyword: str) -> str:
    return str(_first(item, keyword).get("CodeValue", ""))


def _has_image_class(ds: Dataset, _: LabelFacts) -> bool:
    stored_as = ds.file_meta.get("MediaStorageSOPClassUID")
    plain = ds.file_meta.get("TransferSyntaxUID") in _PLAIN_TRANSFER_SYNTAXES
    return bool(ds.get("SOPClassUID") == MR_IMAGE_STORAGE == stored_as and ds.get("Modality") == "MR" and plain)


def _has_image_type(ds: Dataset, _: LabelFacts) -> bool:
    return tuple(ds.get("ImageType") or ()) == IMAGE_TYPE


def _has_description(ds: Dataset, _: LabelFacts) -> bool:
    return str(ds.get("SeriesDescription", "")).startswith("SYNTHETIC")


def _has_comments(ds: Dataset, _: LabelFacts) -> bool:
    return str(ds.get("ImageComments", "")).startswith(IMAGE_COMMENTS)


def _has_derivation(ds: Dataset, facts: LabelFacts) -> bool:
    text = str(ds.get("DerivationDescription", ""))
    return text.startswith("SYNTHETIC") and facts.bundle_sha256 in text


def _has_equipment(ds: Dataset, facts: LabelFacts) -> bool:
    return any(
        _code(item, "PurposeOfReferenceCodeSequence") == SYNTHESIZING_EQUIPMENT
        and facts.bundle_sha256 in str(item.get("ContributionDescription", ""))
        for item in ds.get("ContributingEquipmentSequence") or ()
    )


def _has_source(ds: Dataset, _: LabelFacts) -> bool:
    source = _first(ds, "SourceImageSequence")
    return bool(source.get("ReferencedSOPInstanceUID")) and (
        _code(source, "PurposeOfReferenceCodeSequence") == SOURCE_IMAGE_PURPOSE
    )


def _has_referenced_series(ds: Dataset, _: LabelFacts) -> bool:
    series = _first(ds, "ReferencedSeriesSequence")
    return bool(series.get("SeriesInstanceUID")) and bool(series.get("ReferencedInstanceSequence"))


def _has_frame_of_reference(ds: Dataset, _: LabelFacts) -> bool:
    return bool(ds.get("FrameOfReferenceUID"))


def _has_watermark(ds: Dataset, facts: LabelFacts) -> bool:
    if not facts.watermark_lines:
        return True
    shape = (int(ds.get("Rows") or 0), int(ds.get("Columns") or 0))
    data = ds.get("PixelData") or b""
    if ds.get("BitsAllocated") != 16 or not len(data) == 2 * shape[0] * shape[1] > 0:
        return False
    return find_watermark(np.frombuffer(data, dtype="<u2").reshape(shape), facts.watermark_lines) is not None


def _tags(ds: Dataset) -> Iterator[int]:
    """Tags at every depth. Values are not parsed: those copied from the CT may be malformed, and may stay so."""
    for tag in list(ds.keys()):
        yield int(tag)
        known = dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"
        if known or ds.get_item(tag).VR == "SQ":
            for item in ds[tag].value or ():
                yield from _tags(item)


def _lacks_diffusion(ds: Dataset, _: LabelFacts) -> bool:
    return _DIFFUSION_TAGS.isdisjoint(_tags(ds)) and not any(
        "DIFFUSION" in str(value).upper() for value in ds.get("ImageType") or ()
    )


def _lacks_foreign_private(ds: Dataset, _: LabelFacts) -> bool:
    creator = Tag(PRIVATE_GROUP, 0x0010)
    private = [tag for tag in ds.keys() if Tag(tag).is_private]  # noqa: SIM118 - a data set iterates over elements
    return all(tag.group == PRIVATE_GROUP for tag in private) and (
        creator not in ds or ds[creator].value == PRIVATE_CREATOR
    )


def _training_in(keyword: str) -> Callable[[Dataset, LabelFacts], bool]:
    def check(ds: Dataset, facts: LabelFacts) -> bool:
        if facts.training_mark is None:
            return True
        wanted = facts.training_mark if keyword == "SeriesDescription" else training_sentence(facts.training_mark)
        return wanted in str(ds.get(keyword, ""))

    return check


#: Every mandatory mark by name, with the rule that finds it in a parsed object.
MARKS: Final[Mapping[str, Callable[[Dataset, LabelFacts], bool]]] = MappingProxyType(
    {
        "image_class": _has_image_class,
        "synthetic_data": lambda ds, _: ds.get("SyntheticData") == "YES",
        "image_type": _has_image_type,
        "content_qualification": lambda ds, _: ds.get("ContentQualification") == CONTENT_QUALIFICATION,
        "series_description": _has_description,
        "image_comments": _has_comments,
        "derivation_description": _has_derivation,
        "contributing_equipment": _has_equipment,
        "source_image": _has_source,
        "referenced_series": _has_referenced_series,
        "frame_of_reference": _has_frame_of_reference,
        "watermark": _has_watermark,
        "no_diffusion_attributes": _lacks_diffusion,
        "no_foreign_private_elements": _lacks_foreign_private,
        "training_in_series_description": _training_in("SeriesDescription"),
        "training_in_image_comments": _training_in("ImageComments"),
        "training_in_derivation_description": _training_in("DerivationDescription"),
    }
)


def missing_marks(data: bytes, facts: LabelFacts) -> tuple[str, ...]:
    """Names of the marks that an encoded object lacks.

    Parameters
    ----------
    data : bytes
        A whole Part 10 file.
    facts : LabelFacts
        What the marks of its series have to say.

    Returns
    -------
    tuple of str
        Keys of `MARKS`, in their order; empty when the object may be sent.

    Raises
    ------
    Permanent
        `label_unreadable` when the bytes cannot be parsed.
    """
    try:
        with quiet_pydicom():
            ds = dcmread(BytesIO(data))
            return tuple(name for name, holds in MARKS.items() if not holds(ds, facts))
    except PARSE_ERRORS:
        raise Permanent(
            "label_unreadable", "a derived object cannot be parsed, so its labels cannot be checked"
        ) from None


def check_encoded(data: bytes, facts: LabelFacts) -> None:
    """Let an encoded object pass only if it carries every mandatory mark.

    Parameters
    ----------
    data : bytes
        A whole Part 10 file, exactly as it will be sent.
    facts : LabelFacts
        What the marks of its series have to say.

    Raises
    ------
    Permanent
        `label_missing`, naming the marks; `label_unreadable` when the bytes cannot be parsed.
    """
    missing = missing_marks(data, facts)
    if missing:
        raise Permanent(
            "label_missing",
            f"the object lacks the mandatory mark {', '.join(missing)} and must not leave the node",
            {"missing": list(missing)},
        )
