"""The marks that every derived image carries: the writer obeys them, the sender checks them on the encoded bytes.

A synthetic image that looks like a measured one is the worst thing this node could send. So the marks are pure rules
over the bytes that are about to leave, independent of the code that wrote them: what is parsed back is what a PACS
will see. A mark that is missing stops the object. `label_facts` holds what they have to say, `label_image` the rules
about plane, pixels and provenance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from types import MappingProxyType
from typing import Final

import numpy as np
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from dicom_node.dicom.label_facts import (
    CODING_SCHEME,
    CONTENT_QUALIFICATION,
    DEFAULT_OBJECT,
    EMPTY_ACQUISITION_PARAMETERS,
    IMAGE_COMMENTS,
    IMAGE_TYPE,
    MANUFACTURER,
    MODEL_NAME,
    OBJECT_CLASSES,
    PHANTOM_MARK,
    PRIVATE_CREATOR,
    PRIVATE_GROUP,
    SOURCE_IMAGE_PURPOSE,
    SYNTHESIS_CODE,
    SYNTHESIZING_EQUIPMENT,
    UNTRAINED_MARK,
    BundleFacts,
    LabelFacts,
    ObjectClass,
    image_comments,
    series_description,
    training_sentence,
)
from dicom_node.dicom.label_image import (
    code_of,
    has_fixed_scale,
    has_image_plane,
    has_no_burned_in_annotation,
    has_only_our_private_elements,
    has_pixel_format,
    has_private_record,
    has_synthesis_code,
    is_made_by_us,
    is_no_acquisition,
    lacks_acquisition_parameters,
    names_its_series,
    names_its_source,
    shows_no_face,
)
from dicom_node.dicom.reading import PARSE_ERRORS, quiet_pydicom
from dicom_node.dicom.watermark import find_watermark
from dicom_node.errors import Permanent

__all__ = [
    "CODING_SCHEME",
    "CONTENT_QUALIFICATION",
    "DEFAULT_OBJECT",
    "DIFFUSION_KEYWORDS",
    "EMPTY_ACQUISITION_PARAMETERS",
    "IMAGE_COMMENTS",
    "IMAGE_TYPE",
    "MANUFACTURER",
    "MARKS",
    "MODEL_NAME",
    "OBJECT_CLASSES",
    "PHANTOM_MARK",
    "PRIVATE_CREATOR",
    "PRIVATE_GROUP",
    "SOURCE_IMAGE_PURPOSE",
    "SYNTHESIS_CODE",
    "SYNTHESIZING_EQUIPMENT",
    "UNTRAINED_MARK",
    "BundleFacts",
    "LabelFacts",
    "ObjectClass",
    "check_encoded",
    "every_item",
    "image_comments",
    "missing_marks",
    "series_description",
    "training_sentence",
]

#: Implicit and explicit VR little endian: what the node writes, and what it may be converted to for a peer.
_PLAIN_TRANSFER_SYNTAXES: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})

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


def _has_image_class(ds: Dataset, facts: LabelFacts) -> bool:
    """SOPClassUID and Modality of the kind of object that the job promised, uncompressed."""
    promised = OBJECT_CLASSES[facts.object_kind]
    stored_as = ds.file_meta.get("MediaStorageSOPClassUID")
    plain = ds.file_meta.get("TransferSyntaxUID") in _PLAIN_TRANSFER_SYNTAXES
    same_class = ds.get("SOPClassUID") == promised.sop_class_uid == stored_as
    return bool(same_class and ds.get("Modality") == promised.modality and plain)


def _is_synthetic(ds: Dataset, _: LabelFacts) -> bool:
    """SyntheticData YES."""
    return bool(ds.get("SyntheticData") == "YES")


def _is_for_research(ds: Dataset, _: LabelFacts) -> bool:
    """ContentQualification RESEARCH."""
    return bool(ds.get("ContentQualification") == CONTENT_QUALIFICATION)


def _has_image_type(ds: Dataset, _: LabelFacts) -> bool:
    """ImageType DERIVED, SECONDARY, OTHER, SYNTHETIC."""
    return tuple(ds.get("ImageType") or ()) == IMAGE_TYPE


def _has_description(ds: Dataset, _: LabelFacts) -> bool:
    """SeriesDescription begins with SYNTHETIC."""
    return str(ds.get("SeriesDescription", "")).startswith("SYNTHETIC")


def _has_comments(ds: Dataset, _: LabelFacts) -> bool:
    """ImageComments says what the image is not."""
    return str(ds.get("ImageComments", "")).startswith(IMAGE_COMMENTS)


def _has_derivation(ds: Dataset, facts: LabelFacts) -> bool:
    """DerivationDescription begins with SYNTHETIC and names the hash of the model bundle."""
    text = str(ds.get("DerivationDescription", ""))
    return text.startswith("SYNTHETIC") and facts.bundle_sha256 in text


def _has_equipment(ds: Dataset, facts: LabelFacts) -> bool:
    """ContributingEquipmentSequence holds the synthesizing equipment with the hash of the model bundle."""
    return any(
        code_of(item, "PurposeOfReferenceCodeSequence") == SYNTHESIZING_EQUIPMENT
        and facts.bundle_sha256 in str(item.get("ContributionDescription", ""))
        for item in ds.get("ContributingEquipmentSequence") or ()
    )


def _has_frame_of_reference(ds: Dataset, _: LabelFacts) -> bool:
    """FrameOfReferenceUID: viewers link the series to the CT by it."""
    return bool(ds.get("FrameOfReferenceUID"))


def _has_watermark(ds: Dataset, facts: LabelFacts) -> bool:
    """PixelData shows the whole text of the watermark in one corner, dot by dot."""
    if not facts.watermark_lines:
        return True
    shape = (int(ds.get("Rows") or 0), int(ds.get("Columns") or 0))
    data = ds.get("PixelData") or b""
    if ds.get("BitsAllocated") != 16 or not len(data) == 2 * shape[0] * shape[1] > 0:
        return False
    return find_watermark(np.frombuffer(data, dtype="<u2").reshape(shape), facts.watermark_lines) is not None


def every_item(ds: Dataset) -> Iterator[Dataset]:
    """Yield the data set and every item in it, at any depth.

    Values are not parsed: those copied from the CT may be malformed, and may stay so.
    """
    yield ds
    for tag in list(ds.keys()):
        # Implicit VR leaves it to the dictionary.
        known = dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"
        if known or ds.get_item(tag).VR == "SQ":
            for item in ds[tag].value or ():
                yield from every_item(item)


def _lacks_diffusion(ds: Dataset, _: LabelFacts) -> bool:
    """No attribute of diffusion at any depth; ImageType does not name it."""
    tags = (int(tag) for item in every_item(ds) for tag in list(item.keys()))
    return _DIFFUSION_TAGS.isdisjoint(tags) and not any(
        "DIFFUSION" in str(value).upper() for value in ds.get("ImageType") or ()
    )


def _tells_training(text: object, wanted: str | None) -> bool:
    return wanted is None or wanted in str(text)


def _training_in_description(ds: Dataset, facts: LabelFacts) -> bool:
    """SeriesDescription names a bundle that was trained on a phantom, or not at all."""
    return _tells_training(ds.get("SeriesDescription", ""), facts.training_mark)


def _training_in_comments(ds: Dataset, facts: LabelFacts) -> bool:
    """ImageComments says so too."""
    return _tells_training(ds.get("ImageComments", ""), training_sentence(facts.training_mark))


def _training_in_derivation(ds: Dataset, facts: LabelFacts) -> bool:
    """DerivationDescription says so too."""
    return _tells_training(ds.get("DerivationDescription", ""), training_sentence(facts.training_mark))


#: Every mandatory mark by name, with the rule that finds it in a parsed object.
MARKS: Final[Mapping[str, Callable[[Dataset, LabelFacts], bool]]] = MappingProxyType(
    {
        "image_class": _has_image_class,
        "synthetic_data": _is_synthetic,
        "image_type": _has_image_type,
        "content_qualification": _is_for_research,
        "series_description": _has_description,
        "image_comments": _has_comments,
        "derivation_description": _has_derivation,
        "derivation_code": has_synthesis_code,
        "own_equipment": is_made_by_us,
        "contributing_equipment": _has_equipment,
        "source_image": names_its_source,
        "referenced_series": names_its_series,
        "frame_of_reference": _has_frame_of_reference,
        "image_plane": has_image_plane,
        "watermark": _has_watermark,
        "pixel_format": has_pixel_format,
        "fixed_scale": has_fixed_scale,
        "burned_in_annotation": has_no_burned_in_annotation,
        "recognizable_visual_features": shows_no_face,
        "not_an_acquisition": is_no_acquisition,
        "no_acquisition_parameters": lacks_acquisition_parameters,
        "no_diffusion_attributes": _lacks_diffusion,
        "no_foreign_private_elements": has_only_our_private_elements,
        "private_record": has_private_record,
        "training_in_series_description": _training_in_description,
        "training_in_image_comments": _training_in_comments,
        "training_in_derivation_description": _training_in_derivation,
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
