"""Rules of the label check about source, equipment, plane, pixels and provenance of a derived image.

Each gets a parsed object and the facts of its series and says whether the mark is there; `labels.MARKS` names them. The
values that are looked for stand here once more on purpose: a rule that asked the writer would never contradict it.
"""

from __future__ import annotations

import json
from typing import Final

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_node.dicom.label_facts import (
    CODING_SCHEME,
    EMPTY_ACQUISITION_PARAMETERS,
    MANUFACTURER,
    MODEL_NAME,
    PRIVATE_CREATOR,
    PRIVATE_GROUP,
    SOURCE_IMAGE_PURPOSE,
    SYNTHESIS_CODE,
    LabelFacts,
)
from dicom_node.dicom.uids import derived_sop_uid, source_name

#: Elements of our private block: hash of the bundle, version of the application, record as JSON.
_PRIVATE_ELEMENTS: Final = (0x1001, 0x1002, 0x1003)
#: What only a scanner could have set (PS3.3 C.8.3.1).
_MEASURED_KEYWORDS: Final = (
    "InversionTime",
    "MagneticFieldStrength",
    "FlipAngle",
    "ImagingFrequency",
    "ImagedNucleus",
    "PulseSequenceName",
    "SequenceName",
)
_PIXEL_FORMAT: Final = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
}
_HIGHEST: Final = 4095


def first(ds: Dataset, keyword: str) -> Dataset:
    """Give the first item of a sequence, an empty one where there is none."""
    items = ds.get(keyword)
    return items[0] if items else Dataset()


def code_of(item: Dataset, keyword: str) -> str:
    """Give the code value of the first item of a code sequence; empty where there is none."""
    return str(first(item, keyword).get("CodeValue", ""))


def names_its_source(ds: Dataset, facts: LabelFacts) -> bool:
    """SourceImageSequence: the CT slice that this very instance was made for comes first, each item with its purpose.

    The SOP Instance UID is a function of series and source (`uids.derived_sop_uid`), so a reference to another slice
    shows.
    """
    items = list(ds.get("SourceImageSequence") or ())
    if not items or not all(_is_reference(item) for item in items):
        return False
    in_place = [item.get("SpatialLocationsPreserved") == "YES" for item in items]
    source = items[0]
    frame = source.get("ReferencedFrameNumber")
    name = source_name(str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame))
    wanted = derived_sop_uid(facts.object_kind, str(ds.get("SeriesInstanceUID", "")), name)
    return in_place == [True] + [False] * (len(items) - 1) and ds.get("SOPInstanceUID") == wanted


def _is_reference(item: Dataset) -> bool:
    named = item.get("ReferencedSOPClassUID") and item.get("ReferencedSOPInstanceUID")
    return bool(named) and code_of(item, "PurposeOfReferenceCodeSequence") == SOURCE_IMAGE_PURPOSE


def names_its_series(ds: Dataset, _: LabelFacts) -> bool:
    """ReferencedSeriesSequence: the series of the CT, with every instance that SourceImageSequence names."""
    series = first(ds, "ReferencedSeriesSequence")
    listed = {item.get("ReferencedSOPInstanceUID") for item in series.get("ReferencedInstanceSequence") or ()}
    sources = {item.get("ReferencedSOPInstanceUID") for item in ds.get("SourceImageSequence") or ()}
    return bool(series.get("SeriesInstanceUID")) and bool(listed) and (not sources or listed == sources)


def is_made_by_us(ds: Dataset, facts: LabelFacts) -> bool:
    """Manufacturer, ManufacturerModelName, SoftwareVersions: this node and the hash of its model, not the scanner."""
    versions = ds.get("SoftwareVersions") or ()
    told = versions if isinstance(versions, str) else "\\".join(map(str, versions))
    return (
        ds.get("Manufacturer") == MANUFACTURER
        and ds.get("ManufacturerModelName") == MODEL_NAME
        and facts.bundle_sha256[:32] in told
    )


def has_synthesis_code(ds: Dataset, _: LabelFacts) -> bool:
    """DerivationCodeSequence, CodingSchemeIdentificationSequence: our code for synthesis, and whose code it is."""
    steps = [
        (item.get("CodeValue"), item.get("CodingSchemeDesignator")) for item in ds.get("DerivationCodeSequence", ())
    ]
    schemes = [item.get("CodingSchemeDesignator") for item in ds.get("CodingSchemeIdentificationSequence", ())]
    return (SYNTHESIS_CODE, CODING_SCHEME) in steps and CODING_SCHEME in schemes


def is_no_acquisition(ds: Dataset, facts: LabelFacts) -> bool:
    """ScanningSequence RM and SequenceVariant NONE (MR), ConversionType SYN (SC): made, not measured."""
    if facts.object_kind == "sc":
        return bool(ds.get("ConversionType") == "SYN")
    return bool(ds.get("ScanningSequence") == "RM" and ds.get("SequenceVariant") == "NONE")


def lacks_acquisition_parameters(ds: Dataset, _: LabelFacts) -> bool:
    """No value of echo, repetition or inversion time, flip angle, field strength or sequence name."""
    filled = any(ds.get(keyword) not in (None, "", []) for keyword in EMPTY_ACQUISITION_PARAMETERS)
    return not filled and not any(keyword in ds for keyword in _MEASURED_KEYWORDS)


def has_no_burned_in_annotation(ds: Dataset, _: LabelFacts) -> bool:
    """BurnedInAnnotation NO: the text in the pixels names no patient and no date."""
    return bool(ds.get("BurnedInAnnotation") == "NO")


def shows_no_face(ds: Dataset, _: LabelFacts) -> bool:
    """RecognizableVisualFeatures NO: there is nothing outside the brain."""
    return bool(ds.get("RecognizableVisualFeatures") == "NO")


def has_image_plane(ds: Dataset, _: LabelFacts) -> bool:
    """ImagePositionPatient, ImageOrientationPatient, PixelSpacing: where the image lies, also where SC needs none."""
    counts = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
    return all(len(ds.get(keyword) or ()) == count for keyword, count in counts.items())


def has_pixel_format(ds: Dataset, _: LabelFacts) -> bool:
    """BitsAllocated 16, BitsStored 12, HighBit 11, unsigned MONOCHROME2, and no stored value above 4095."""
    if any(ds.get(keyword) != value for keyword, value in _PIXEL_FORMAT.items()):
        return False
    data = ds.get("PixelData") or b""
    stored = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2")
    return int(stored.max(initial=0)) <= _HIGHEST


def has_fixed_scale(ds: Dataset, _: LabelFacts) -> bool:
    """WindowCenter 2048, WindowWidth 4096, PresentationLUTShape IDENTITY, no other scale: the same in every slice."""
    plain = "VOILUTSequence" not in ds and "ModalityLUTSequence" not in ds
    rescale = (ds.get("RescaleSlope", 1), ds.get("RescaleIntercept", 0), ds.get("RescaleType", "US"))
    window = (ds.get("WindowCenter"), ds.get("WindowWidth"))
    return plain and rescale == (1, 0, "US") and window == (2048, 4096) and ds.get("PresentationLUTShape") == "IDENTITY"


def has_private_record(ds: Dataset, facts: LabelFacts) -> bool:
    """Private block (0071,xx): hash, version and record are there and agree with the public labels."""
    if Tag(PRIVATE_GROUP, 0x0010) not in ds:
        return False
    digest, version, record = (_private_text(ds, element) for element in _PRIVATE_ELEMENTS)
    try:
        told = json.loads(record)
    except ValueError:
        return False
    agreed = isinstance(told, dict) and (told.get("bundle_sha256"), told.get("training")) == (
        facts.bundle_sha256,
        facts.training_mark,
    )
    return agreed and digest == facts.bundle_sha256 and bool(version) and bool(told.get("input_digest"))


def _private_text(ds: Dataset, element: int) -> str:
    """Text of a private element; in implicit VR nothing says that it is one."""
    tag = Tag(PRIVATE_GROUP, element)
    value = ds[tag].value if tag in ds else ""
    return value.decode("latin-1").rstrip(" \0") if isinstance(value, bytes) else str(value or "")


def has_only_our_private_elements(ds: Dataset, _: LabelFacts) -> bool:
    """No private element of a scanner or relay; tools read b-values out of some of them."""
    creator = Tag(PRIVATE_GROUP, 0x0010)
    private = [tag for tag in ds.keys() if Tag(tag).is_private]  # noqa: SIM118 - a data set iterates over elements
    return all(tag.group == PRIVATE_GROUP for tag in private) and (
        creator not in ds or ds[creator].value == PRIVATE_CREATOR
    )
