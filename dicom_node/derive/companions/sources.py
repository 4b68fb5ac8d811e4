"""The CT behind a companion: headers only, and clean stand-ins for the constructors of highdicom.

highdicom refuses or crashes on what real headers hold: a sex of ``U``, a time with colons, a character set written
wrongly, a UID with a leading zero. Its constructors therefore only ever see stand-ins made here, with names of our own;
`frame.Frame` then puts the true bytes in their place.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from dicom_node.derive.companions.request import SeriesReference
from dicom_node.dicom.enhanced import frame_dataset
from dicom_node.dicom.identity import IDENTITY, verbatim
from dicom_node.dicom.reading import ElementReader, open_dataset
from dicom_node.dicom.uids import derived_uid, source_name
from dicom_node.errors import NodeError, Permanent, Transient

CT_IMAGE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
#: Names of the stand-ins; none of them may be left in an object.
STUDY: Final = derived_uid("stand-in", "study")
SERIES: Final = derived_uid("stand-in", "series")
FRAME_OF_REFERENCE: Final = derived_uid("stand-in", "frame-of-reference")

#: What a note needs of a header.
_NOTE_TAGS: Final = tuple(
    tag_for_keyword(keyword) or 0
    for keyword in (
        *IDENTITY,
        *("SpecificCharacterSet", "TimezoneOffsetFromUTC", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"),
        *("SeriesNumber", "BodyPartExamined", "PatientPosition", "Manufacturer"),
    )
)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One CT slice or frame without its pixels.

    Attributes
    ----------
    path : Path
        The file.
    header : pydicom.Dataset
        Its elements as bytes, for a frame of Enhanced CT as a classic slice would have them.
    stand_in : str
        UID under which highdicom knows it.
    instance_stand_in : str
        UID under which highdicom knows the whole instance; equal to `stand_in` but for a frame.
    frame_number : int or None
        Which frame of an Enhanced CT instance this is, counted from 1.
    """

    path: Path
    header: Dataset
    stand_in: str
    instance_stand_in: str
    frame_number: int | None = None

    def value(self, keyword: str) -> bytes:
        """Bytes of an element as they stand in the file, empty where it has none."""
        element = verbatim(self.header, keyword)
        return b"" if element is None else bytes(element.value or b"")


def read_source_images(paths: Sequence[Path], frames: Sequence[int | None] = ()) -> tuple[SourceImage, ...]:
    """Read the CT headers of one result, in the order given; the pixels are not touched.

    Raises
    ------
    Permanent
        `unreadable` or `source_header` when a file cannot serve as a source.
    """
    images: list[SourceImage] = []
    last = Dataset()
    for index, (path, frame) in enumerate(zip(paths, frames or (None,) * len(paths), strict=True)):
        # The frames of one file come one after the other: it is parsed once.
        if index == 0 or path != paths[index - 1]:
            last = open_dataset(path)
        images.append(_image(path, last if frame is None else frame_dataset(last, frame), frame))
    if not images:
        raise Permanent("source_header", "a companion needs at least one CT slice")
    return tuple(images)


def _image(path: Path, header: Dataset, frame: int | None) -> SourceImage:
    reader = ElementReader(header)
    uid = reader.text("SOPInstanceUID")
    plane = reader.decimals("ImagePositionPatient", 3), reader.decimals("ImageOrientationPatient", 6)
    named = uid and all(map(reader.text, ("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID")))
    if not named or None in plane or reader.decimals("PixelSpacing", 2) is None:
        raise Permanent("source_header", "a CT slice lacks a UID or its position, so nothing can be placed on it")
    return SourceImage(
        path,
        header,
        derived_uid("stand-in", "image", source_name(uid, frame)),
        derived_uid("stand-in", "image", uid),
        frame,
    )


def read_refused_images(paths: Sequence[Path], study_instance_uid: str) -> tuple[SourceImage, ...]:
    """Read what can be read of a refused series, the file whose identity is to be taken first.

    Files that cannot be read, and files of another study, are passed over. Where they disagree about the patient, the
    identity that most of them have comes first, as the gate takes the rarer value for the wrong one.

    Raises
    ------
    Permanent
        `source_header` when no file names patient, study and instance.
    Transient
        `storage` when the file system failed.
    """
    images = [image for image in map(_refused_image, sorted(paths)) if image is not None]
    images = [image for image in images if ElementReader(image.header).text("StudyInstanceUID") == study_instance_uid]
    if not images:
        raise Permanent("source_header", "no file of the series can be read, so the note would have no patient")
    patients = Counter(_patient(image) for image in images)
    most = max(patients, key=lambda key: (patients[key], key))
    return tuple(sorted(images, key=lambda image: _patient(image) != most))


def _refused_image(path: Path) -> SourceImage | None:
    try:
        header = open_dataset(path, tags=_NOTE_TAGS)
    except Transient:
        raise
    except NodeError:
        return None
    reader = ElementReader(header)
    uid = reader.text("SOPInstanceUID")
    if not uid or not reader.text("SOPClassUID") or not reader.text("SeriesInstanceUID"):
        return None
    stand_in = derived_uid("stand-in", "image", uid)
    return SourceImage(path, header, stand_in, stand_in)


def _patient(image: SourceImage) -> str:
    return hashlib.sha256(image.value("PatientID").rstrip(b" \0")).hexdigest()


def unique_instances(images: Sequence[SourceImage]) -> tuple[SourceImage, ...]:
    """One image of each instance, in their order."""
    return tuple({image.instance_stand_in: image for image in reversed(images)}.values())[::-1]


def image_stand_ins(images: Sequence[SourceImage], shape: tuple[int, int]) -> list[Dataset]:
    """Classic CT slices with the geometry of the source and clean names, for SEG and Parametric Map."""
    return [_geometry(image, _stand_in(CT_IMAGE_STORAGE, image.stand_in, SERIES, shape)) for image in images]


def _geometry(image: SourceImage, donor: Dataset) -> Dataset:
    reader = ElementReader(image.header)
    position = reader.decimals("ImagePositionPatient", 3) or ()
    orientation = np.array(reader.decimals("ImageOrientationPatient", 6)).reshape(2, 3)
    donor.ImagePositionPatient = list(position)
    # Cosines written with few digits miss unit length, which highdicom checks; the true bytes are put back later.
    donor.ImageOrientationPatient = [float(v) for v in _orthonormal(orientation).ravel()]
    donor.PixelSpacing = list(reader.decimals("PixelSpacing", 2) or ())
    donor.SliceThickness = reader.decimal("SliceThickness")
    donor.FrameOfReferenceUID = FRAME_OF_REFERENCE
    donor.PositionReferenceIndicator = None
    return donor


def _orthonormal(axes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    row = axes[0] / np.linalg.norm(axes[0])
    column = axes[1] - row * float(axes[1] @ row)
    return np.stack([row, column / np.linalg.norm(column)])


def instance_stand_ins(images: Sequence[SourceImage]) -> list[Dataset]:
    """Each CT instance once, for the evidence of documents."""
    return [_stand_in(CT_IMAGE_STORAGE, image.instance_stand_in, SERIES, (1, 1)) for image in unique_instances(images)]


def series_stand_ins(series: SeriesReference, shape: tuple[int, int] | None = None) -> list[Dataset]:
    """Instances of a series of our own, whose names are clean; with a shape they are images."""
    return [
        _stand_in(one.sop_class_uid, one.sop_instance_uid, series.series_instance_uid, shape)
        for one in series.instances
    ]


def _stand_in(sop_class: str, uid: str, series: str, shape: tuple[int, int] | None) -> Dataset:
    donor = Dataset()
    donor.SOPClassUID = sop_class
    donor.SOPInstanceUID = uid
    donor.StudyInstanceUID = STUDY
    donor.SeriesInstanceUID = series
    donor.Modality = "CT"
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
        setattr(donor, keyword, None)
    for keyword in ("AccessionNumber", "StudyID", "ReferringPhysicianName"):
        setattr(donor, keyword, None)
    if shape is not None:
        donor.Rows, donor.Columns = shape
        donor.SamplesPerPixel = 1
        donor.PhotometricInterpretation = "MONOCHROME2"
    return donor
