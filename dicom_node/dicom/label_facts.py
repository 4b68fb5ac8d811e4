"""What the labels of a derived object have to say: texts, codes, and the facts of one series.

`labels` holds the rules that look for them in encoded bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from dicom_node.dicom.output_rules import SERIES_DESCRIPTION_CHARACTERS, OutputSettings
from dicom_node.errors import Permanent


class ObjectClass(NamedTuple):
    """How one kind of image object is filed in a PACS: SOP Class UID and Modality."""

    sop_class_uid: str
    modality: str


#: Kinds of image object (``output.object``) and their classes (PS3.4 section B.5).
OBJECT_CLASSES: Final[Mapping[str, ObjectClass]] = MappingProxyType(
    {
        "mr": ObjectClass("1.2.840.10008.5.1.4.1.1.4", "MR"),
        "sc": ObjectClass("1.2.840.10008.5.1.4.1.1.7", "OT"),
    }
)
#: Kind of results whose job record is older than the choice.
DEFAULT_OBJECT: Final = "mr"

MANUFACTURER: Final = "jmmda-node project"
MODEL_NAME: Final = "jmmda-node"
IMAGE_TYPE: Final = ("DERIVED", "SECONDARY", "OTHER", "SYNTHETIC")
CONTENT_QUALIFICATION: Final = "RESEARCH"
#: Purposes of reference, PS3.16 CID 7202 and CID 7005.
SOURCE_IMAGE_PURPOSE: Final = "121322"
SYNTHESIZING_EQUIPMENT: Final = "109100"
#: Our own codes: CID 7203 has none for synthesis (PS3.16).
CODING_SCHEME: Final = "99JMMDA"
SYNTHESIS_CODE: Final = "CT2DWI"
PRIVATE_GROUP: Final = 0x0071
PRIVATE_CREATOR: Final = "JMMDA-NODE 1.0"

#: Attributes of the MR Image module that must be there (PS3.3 C.8.3.1); no scanner ever set one, so they are empty.
EMPTY_ACQUISITION_PARAMETERS: Final = (
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "EchoTrainLength",
)

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
    object_kind : str
        Key of `OBJECT_CLASSES`: which class the job promised.
    """

    bundle_sha256: str
    training_mark: str | None
    watermark_lines: tuple[str, ...]
    object_kind: str = DEFAULT_OBJECT

    @classmethod
    def from_rules(cls, bundle: BundleFacts, output: OutputSettings) -> LabelFacts:
        """Facts of a series that this bundle makes under these settings."""
        lines = (output.watermark_text, *filter(None, (bundle.training_mark,))) if output.watermark else ()
        return cls(bundle.sha256, bundle.training_mark, tuple(lines), output.object)

    def to_json(self) -> dict[str, object]:
        """Plain values for the job record."""
        return {
            "bundle_sha256": self.bundle_sha256,
            "training_mark": self.training_mark,
            "watermark_lines": list(self.watermark_lines),
            "object_kind": self.object_kind,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> LabelFacts:
        """Facts from `to_json`; a record without the kind of object is older than the choice and means MR.

        Raises
        ------
        Permanent
            `label_facts` when the record is not of that form.
        """
        mark = record.get("training_mark")
        digest = record.get("bundle_sha256")
        lines = record.get("watermark_lines")
        kind = record.get("object_kind", DEFAULT_OBJECT)
        if (
            mark not in (None, *_TRAINING_SENTENCES)
            or not isinstance(digest, str)
            or not isinstance(lines, list | tuple)
            or kind not in OBJECT_CLASSES
        ):
            raise Permanent("label_facts", "the job record does not hold the facts of the labels")
        return cls(digest, None if mark is None else str(mark), tuple(str(line) for line in lines), str(kind))


def series_description(output: OutputSettings, training_mark: str | None) -> str:
    """Series Description with the training mark, at most 64 characters; the configured text gives way to the mark."""
    if training_mark is None:
        return output.series_description
    tail = f" - {training_mark}"
    return output.series_description[: SERIES_DESCRIPTION_CHARACTERS - len(tail)].rstrip(" -") + tail


def image_comments(training_mark: str | None, quality: str = "") -> str:
    """Image Comments: what the image is not, on what the model was trained, what is unusual about the CT."""
    return " ".join(filter(None, (IMAGE_COMMENTS, training_sentence(training_mark), quality)))


def training_sentence(training_mark: str | None) -> str:
    """Sentence for the derivation description; empty for a bundle trained on patients."""
    return "" if training_mark is None else _TRAINING_SENTENCES[training_mark]
