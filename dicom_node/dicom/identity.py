"""Reading header elements as bytes and handing them on unchanged.

A PACS matches on patient and study attributes. A name whose character set is declared wrongly, a sex of ``U`` or a
time of ``10:11:12`` are wrong, and still they are the identity under which the study is filed: they are copied byte
by byte, never decoded, never repaired. No value is interpreted here, so none can reach a message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from dicom_node.dicom.charsets import TEXT_VRS
from dicom_node.dicom.reading import PARSE_ERRORS, quiet_pydicom
from dicom_node.errors import Permanent

#: Attributes of type 2 of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): present, empty if unknown.
TYPE_2_IDENTITY: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyID",
)

#: Attributes of the Patient, Clinical Trial Subject, General Study, Patient Study and Clinical Trial Study modules
#: (PS3.3 C.7.1.1, C.7.1.3, C.7.2.1 to C.7.2.3), without the veterinary ones. Copied where the source has them.
IDENTITY: Final = (
    *TYPE_2_IDENTITY,
    "StudyInstanceUID",
    "ReferencedPatientSequence",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "SourcePatientGroupIdentificationSequence",
    "GroupOfPatientsIdentificationSequence",
    "PatientBirthTime",
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "QualityControlSubject",
    "OtherPatientIDs",
    "OtherPatientNames",
    "OtherPatientIDsSequence",
    "ReferencedPatientPhotoSequence",
    "EthnicGroup",
    "EthnicGroupCodeSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "IssuerOfClinicalTrialProtocolID",
    "OtherClinicalTrialProtocolIDsSequence",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "IssuerOfClinicalTrialSiteID",
    "ClinicalTrialSubjectID",
    "IssuerOfClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "IssuerOfClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName",
    "ConsultingPhysicianIdentificationSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence",
    "ReferencedStudySequence",
    "RequestingService",
    "RequestingServiceCodeSequence",
    "ReasonForPerformedProcedureCodeSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientSizeCodeSequence",
    "PatientBodyMassIndex",
    "MeasuredAPDimension",
    "MeasuredLateralDimension",
    "PatientWeight",
    "MedicalAlerts",
    "Allergies",
    "Occupation",
    "SmokingStatus",
    "AdditionalPatientHistory",
    "PregnancyStatus",
    "LastMenstrualDate",
    "PatientSexNeutered",
    "ReasonForVisit",
    "ReasonForVisitCodeSequence",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "ServiceEpisodeDescription",
    "IssuerOfServiceEpisodeIDSequence",
    "PatientState",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    "LongitudinalTemporalOffsetFromEvent",
    "LongitudinalTemporalEventType",
    "ClinicalTrialTimePointTypeCodeSequence",
    "IssuerOfClinicalTrialTimePointID",
    "ConsentForClinicalTrialUseSequence",
)

#: Where the slice lies; copied verbatim so that the result overlays the CT to the last digit.
IMAGE_PLANE: Final = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SliceLocation",
)

#: Copied from the CT beside identity and image plane: when the data were acquired, how the patient lay.
ACQUISITION: Final = (
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionNumber",
    "QualityControlImage",
    "PatientPosition",
    "BodyPartExamined",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)

_NUMBER_BYTES: Final = {
    **dict.fromkeys(("US", "SS", "AT", "OW"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OL", "OF"), 4),
    **dict.fromkeys(("FD", "OD", "UV", "SV", "OV"), 8),
}
_ZERO_PADDED: Final = frozenset({"UI", "OB", "OW", "UN"})
_ITEM_TAG: Final = b"\xfe\xff\x00\xe0"


def tag_of(keyword: str) -> BaseTag:
    """Tag of a keyword of the data dictionary (PS3.6)."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return Tag(tag)


def raw(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    """Element in explicit VR little endian whose value bytes are written as given, padded to even length."""
    if len(value) % 2:
        value += b"\0" if vr in _ZERO_PADDED else b" "
    return RawDataElement(tag, vr, len(value), value, 0, False, True)


def verbatim(ds: Dataset, keyword: str) -> RawDataElement | None:
    """Element of a data set, ready to be written in explicit VR little endian, its value bytes untouched.

    Parameters
    ----------
    ds : pydicom.Dataset
        A data set as read, in any transfer syntax.
    keyword : str
        Keyword of the element. Sequences are re-framed with defined lengths; the values inside stay as they are.

    Returns
    -------
    RawDataElement or None
        None when the data set lacks the element.

    Raises
    ------
    Permanent
        `unreadable` when a sequence cannot be parsed.
    """
    tag = tag_of(keyword)
    return _verbatim(ds, tag) if tag in ds else None


def _verbatim(ds: Dataset, tag: BaseTag) -> RawDataElement:
    element = ds.get_item(tag)
    vr = element.VR or _dictionary_vr(tag)
    if vr == "UN" and _dictionary_vr(tag) in TEXT_VRS:
        # A relay that did not know the attribute; the bytes of a text are the same, and a PACS reads them again.
        vr = _dictionary_vr(tag)
    if vr == "SQ" or isinstance(element.value, Sequence):
        return raw(tag, "SQ", _sequence_bytes(ds, tag))
    if not isinstance(element, RawDataElement):
        # While reading, pydicom parses one element itself: SpecificCharacterSet, into one text or a list of them.
        parsed = element.value or ""
        text = parsed if isinstance(parsed, str) else "\\".join(map(str, parsed))
        return raw(tag, vr, text.encode("latin-1", "replace"))
    value = bytes(element.value or b"")
    size = _NUMBER_BYTES.get(vr, 1)
    if not element.is_little_endian and len(value) % size == 0:
        value = np.frombuffer(value, dtype=f">u{size}").astype(f"<u{size}").tobytes()
    return raw(tag, vr, value)


def _dictionary_vr(tag: BaseTag) -> str:
    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return "UN"


def _sequence_bytes(ds: Dataset, tag: BaseTag) -> bytes:
    try:
        with quiet_pydicom():
            items = list(ds[tag].value or ())
        encoded = []
        for item in items:
            content = b"".join(encode_raw(_verbatim(item, inner)) for inner in sorted(item.keys()))
            encoded.append(_ITEM_TAG + struct.pack("<I", len(content)) + content)
    except PARSE_ERRORS:
        raise Permanent("unreadable", f"the sequence {tag} of a source file cannot be parsed") from None
    return b"".join(encoded)


def encode_raw(element: RawDataElement) -> bytes:
    """Bytes of an element in explicit VR little endian (PS3.5 section 7.1.2)."""
    value = element.value or b""
    vr = element.VR or "UN"
    if vr not in EXPLICIT_VR_LENGTH_32 and len(value) > 0xFFFF:
        vr = "UN"
    head = struct.pack("<HH", element.tag.group, element.tag.element) + vr.encode("ascii")
    if vr in EXPLICIT_VR_LENGTH_32:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def copy_verbatim(source: Dataset, target: Dataset, keywords: Iterable[str]) -> None:
    """Put those of the named elements that `source` has into `target`, byte by byte."""
    for keyword in keywords:
        element = verbatim(source, keyword)
        if element is not None:
            target[element.tag] = element


def canonical_bytes(ds: Dataset) -> bytes:
    """Bytes of everything copied from a slice (identity, image plane, character set, zone), for the input digest.

    They do not depend on the transfer syntax of the file.
    """
    copied = (*IDENTITY, *IMAGE_PLANE, "SpecificCharacterSet", "TimezoneOffsetFromUTC")
    tags = {tag_of(keyword) for keyword in copied}
    return b"".join(encode_raw(_verbatim(ds, tag)) for tag in sorted(tags) if tag in ds)
