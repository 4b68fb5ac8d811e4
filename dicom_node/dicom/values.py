"""`SliceHeader`: what the node wants to know of one instance, read tolerantly and without keeping patient data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import Enum
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from dicom_node.dicom.ages import patient_age_years, study_date
from dicom_node.dicom.charsets import TEXT_VRS
from dicom_node.dicom.identity import IDENTITY
from dicom_node.dicom.reading import ElementReader, open_dataset
from dicom_node.errors import Permanent

__all__ = [
    "COPIED_TEXTS",
    "CT_IMAGE_STORAGE",
    "ENHANCED_CT_CLASSES",
    "HEADER_KEYWORDS",
    "SECONDARY_CAPTURE_CLASSES",
    "InstanceKind",
    "SliceHeader",
    "header_of",
    "read_header",
]

#: SOP classes of PS3.4 Annex B.5.
CT_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_CLASSES: Final = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
SECONDARY_CAPTURE_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.7",
        "1.2.840.10008.5.1.4.1.1.7.1",
        "1.2.840.10008.5.1.4.1.1.7.2",
        "1.2.840.10008.5.1.4.1.1.7.3",
        "1.2.840.10008.5.1.4.1.1.7.4",
    }
)

# What scanners write into ContrastBolusAgent when there was none.
_NO_CONTRAST: Final = frozenset(
    {"", "0", "-", "N/A", "NA", "NO", "NONE", "NONE.", "N", "NON", "WO", "W/O", "WITHOUT"}.union(
        f"{word}{separator}CONTRAST" for word in ("NO", "NON", "WITHOUT", "W/O") for separator in (" ", "-")
    )
    | {"NATIV", "NATIVE", "KEIN", "KEIN KM", "OHNE", "OHNE KM", "SANS"}
)

#: ManufacturerModelName of the objects that this node writes.
OWN_MODEL_NAME: Final = "jmmda-node"


class InstanceKind(Enum):
    """What one instance is, told from its class and ImageType."""

    IMAGE = "image"
    LOCALIZER = "localizer"
    SCREEN = "screen"
    ENHANCED = "enhanced"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """Header of one instance, as far as the node's rules need it.

    Text is kept for matching words only and left out of ``repr``, since anything may stand there; the patient is
    known by a digest alone. A value that did not parse is ``None`` (or empty) and named in `issues`.

    Attributes
    ----------
    path : Path
        Where the file lies.
    sop_instance_uid, sop_class_uid, study_instance_uid, series_instance_uid : str
        Digits and dots, at most 64 characters.
    frame_of_reference_uid : str or None
        None when absent or malformed.
    patient_key : str
        SHA-256 of the bytes of PatientID (padding removed), hexadecimal; never the ID.
    modality, patient_position, transfer_syntax_uid : str
        Empty when absent.
    image_type : tuple of str
        Values of ImageType in capitals.
    series_number, instance_number, images_in_acquisition, series_related_instances : int or None
        As in the header.
    rows, columns : int or None
        Size of the image, px.
    number_of_frames : int
        1 when absent.
    frame_number : int or None
        Which frame of an Enhanced CT instance this is, counted from 1 (PS3.3 10.3); None for a whole instance.
    image_position_patient : tuple of 3 floats or None
        Centre of the first voxel, mm, LPS (PS3.3 C.7.6.2.1.1).
    image_orientation_patient : tuple of 6 floats or None
        Direction cosines of the row, then of the column (PS3.3 C.7.6.2.1.1).
    pixel_spacing_mm : tuple of 2 floats or None
        Between rows, between columns (PS3.3 10.7.1.3).
    slice_thickness_mm : float or None
        Nominal thickness; None when absent or not positive.
    contrast_bolus : bool
        A contrast agent is named.
    synthetic : bool
        SyntheticData (0008,001C) is YES, or ImageType or the device says that it is our own result.
    content_datetime : datetime or None
        ContentDate and ContentTime, without time zone.
    study_date : date or None
        StudyDate, else ContentDate, without time zone.
    patient_age_years : float or None
        PatientAge, else from the birth date to the day of the study.
    issues : tuple of str
        ``KEYWORD: rule`` for each value that did not parse or does not fit its character set; no value.
    """

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str | None = None
    patient_key: str = field(default="", repr=False)
    modality: str = field(default="", repr=False)
    image_type: tuple[str, ...] = field(default=(), repr=False)
    series_number: int | None = None
    instance_number: int | None = None
    series_description: str = field(default="", repr=False)
    protocol_name: str = field(default="", repr=False)
    body_part_examined: str = field(default="", repr=False)
    convolution_kernel: str = field(default="", repr=False)
    contrast_bolus: bool = False
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int = 1
    image_position_patient: tuple[float, float, float] | None = None
    image_orientation_patient: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    slice_thickness_mm: float | None = None
    patient_position: str = field(default="", repr=False)
    transfer_syntax_uid: str = ""
    synthetic: bool = False
    images_in_acquisition: int | None = None
    series_related_instances: int | None = None
    content_datetime: datetime | None = field(default=None, repr=False)
    study_date: date | None = field(default=None, repr=False)
    patient_age_years: float | None = field(default=None, repr=False)
    issues: tuple[str, ...] = ()
    frame_number: int | None = None

    @property
    def kind(self) -> InstanceKind:
        """What the instance is; the class is asked before ImageType, which sites fill carelessly."""
        if self.frame_number is not None:
            return InstanceKind.LOCALIZER if "LOCALIZER" in self.image_type else InstanceKind.IMAGE
        if self.sop_class_uid in ENHANCED_CT_CLASSES:
            return InstanceKind.ENHANCED
        if self.sop_class_uid in SECONDARY_CAPTURE_CLASSES:
            return InstanceKind.SCREEN
        if self.number_of_frames > 1:
            return InstanceKind.ENHANCED
        if "LOCALIZER" in self.image_type:
            return InstanceKind.LOCALIZER
        return InstanceKind.IMAGE if self.sop_class_uid == CT_IMAGE_STORAGE else InstanceKind.OTHER


_KEYWORDS: Final = (
    "SOPInstanceUID",
    "SOPClassUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "PatientBirthDate",
    "PatientAge",
    "StudyDate",
    "StudyTime",
    "Modality",
    "ImageType",
    "SeriesNumber",
    "InstanceNumber",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "ConvolutionKernel",
    "ContrastBolusAgent",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "PatientPosition",
    "SyntheticData",
    "ManufacturerModelName",
    "ImagesInAcquisition",
    "NumberOfSeriesRelatedInstances",
    "ContentDate",
    "ContentTime",
    "TimezoneOffsetFromUTC",
    "RescaleSlope",
    "RescaleIntercept",
)
#: Texts that a result takes over as they are: worth a warning where they do not fit their character set.
COPIED_TEXTS: Final = (
    *(keyword for keyword in IDENTITY if dictionary_VR(keyword) in TEXT_VRS),
    "Manufacturer",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "InstitutionalDepartmentName",
    "SeriesDescription",
    "ProtocolName",
)
#: All that `header_of` looks at.
HEADER_KEYWORDS: Final = (*_KEYWORDS, *COPIED_TEXTS)
_TAGS: Final = tuple(tag for tag in (tag_for_keyword(keyword) for keyword in HEADER_KEYWORDS) if tag is not None)


def read_header(path: Path) -> SliceHeader:
    """Read the header of one instance.

    Parameters
    ----------
    path : Path
        A DICOM file.

    Returns
    -------
    SliceHeader
        Dirty values are None and named in its `issues`.

    Raises
    ------
    dicom_node.errors.Permanent
        ``unreadable``: not DICOM, truncated before the elements that identify it, or one of its four UIDs is missing or
        malformed (such a text cannot be trusted in a log line or a file name).
    dicom_node.errors.Transient
        ``storage``: the file system failed.
    """
    return header_of(open_dataset(path, tags=_TAGS), path)


def header_of(dataset: Dataset, path: Path, frame_number: int | None = None) -> SliceHeader:
    """Make the header of a data set that is already in memory.

    Parameters
    ----------
    dataset : pydicom.dataset.Dataset
        With or without its file meta information.
    path : Path
        Where it came from.
    frame_number : int, optional
        Which frame the data set is, where it is an `enhanced.frame_dataset`.

    Raises
    ------
    dicom_node.errors.Permanent
        As in `read_header`.
    """
    reader = ElementReader(dataset)
    meta = getattr(dataset, "file_meta", None)
    syntax = ElementReader(meta).uid("TransferSyntaxUID") if meta is not None else None
    image_type = tuple(value.upper() for value in reader.texts("ImageType"))
    content = reader.moment("ContentDate", "ContentTime")
    day = study_date(reader, content)
    position = reader.decimals("ImagePositionPatient", 3)
    orientation = reader.decimals("ImageOrientationPatient", 6)
    header = SliceHeader(
        path=path,
        sop_instance_uid=_required_uid(reader, "SOPInstanceUID"),
        sop_class_uid=_required_uid(reader, "SOPClassUID"),
        study_instance_uid=_required_uid(reader, "StudyInstanceUID"),
        series_instance_uid=_required_uid(reader, "SeriesInstanceUID"),
        frame_of_reference_uid=reader.uid("FrameOfReferenceUID"),
        patient_key=reader.sha256("PatientID"),
        modality=reader.text("Modality").upper(),
        image_type=image_type,
        series_number=reader.integer("SeriesNumber"),
        instance_number=reader.integer("InstanceNumber"),
        series_description=reader.text("SeriesDescription"),
        protocol_name=reader.text("ProtocolName"),
        body_part_examined=reader.text("BodyPartExamined").upper(),
        convolution_kernel=reader.text("ConvolutionKernel"),
        contrast_bolus=reader.text("ContrastBolusAgent").upper() not in _NO_CONTRAST,
        rows=reader.short("Rows"),
        columns=reader.short("Columns"),
        number_of_frames=reader.integer("NumberOfFrames") or 1,
        image_position_patient=None if position is None else (position[0], position[1], position[2]),
        image_orientation_patient=None
        if orientation is None
        else (orientation[0], orientation[1], orientation[2], orientation[3], orientation[4], orientation[5]),
        pixel_spacing_mm=_positive_pair(reader, "PixelSpacing"),
        slice_thickness_mm=_positive(reader, "SliceThickness"),
        patient_position=reader.text("PatientPosition").upper(),
        transfer_syntax_uid=syntax or "",
        synthetic=_is_synthetic(reader, image_type),
        images_in_acquisition=reader.integer("ImagesInAcquisition"),
        series_related_instances=reader.integer("NumberOfSeriesRelatedInstances"),
        content_datetime=content,
        study_date=day,
        patient_age_years=patient_age_years(reader, day),
        frame_number=frame_number,
    )
    _check_rescale(reader, header)
    reader.zone()
    reader.check_texts(COPIED_TEXTS)
    return replace(header, issues=tuple(reader.issues)) if reader.issues else header


def _required_uid(reader: ElementReader, keyword: str) -> str:
    uid = reader.uid(keyword)
    if uid is None:
        found = "malformed" if reader.present(keyword) else "missing"
        raise Permanent("unreadable", f"{keyword} is {found}: the instance cannot be identified")
    return uid


def _positive(reader: ElementReader, keyword: str) -> float | None:
    number = reader.decimal(keyword)
    if number is not None and number <= 0:
        reader.issue(keyword, "not positive")
        return None
    return number


def _positive_pair(reader: ElementReader, keyword: str) -> tuple[float, float] | None:
    numbers = reader.decimals(keyword, 2)
    if numbers is None:
        return None
    if min(numbers) <= 0:
        reader.issue(keyword, "not positive")
        return None
    return numbers[0], numbers[1]


def _is_synthetic(reader: ElementReader, image_type: tuple[str, ...]) -> bool:
    return (
        reader.text("SyntheticData").upper() == "YES"
        or "SYNTHETIC" in image_type
        or reader.text("ManufacturerModelName").lower() == OWN_MODEL_NAME
    )


def _check_rescale(reader: ElementReader, header: SliceHeader) -> None:
    """Name a missing rescale of a CT image, which is type 1 there (PS3.3 C.8.2.1) and missing all the same at times."""
    if header.kind is not InstanceKind.IMAGE:
        return
    for keyword, assumed in (("RescaleIntercept", 0), ("RescaleSlope", 1)):
        if not reader.present(keyword):
            reader.issue(keyword, f"missing, {assumed} assumed")
        else:
            reader.decimal(keyword)
