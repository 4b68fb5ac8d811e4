"""Small CT data sets, files and headers of a given geometry, for tests. All identities are invented.

Sizes are tiny (16 x 16 px) since nothing here is looked at. Positions follow PS3.3 C.7.6.2.1.1: slice k lies at
``origin + k * step``, where the step is along z even when the gantry is tilted, as scanners move the table.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.dicom.reading import quiet_pydicom
from dicom_node.dicom.values import CT_IMAGE_STORAGE, SliceHeader

PATIENT_ID = "TEST-0001"
PATIENT_NAME = "INVENTED^PERSON"


def uid(*parts: object) -> str:
    """A UID that is always the same for the same parts."""
    text = "|".join(str(part) for part in parts)
    return f"2.25.{int(hashlib.sha256(text.encode()).hexdigest()[:30], 16)}"


def axial_orientation(tilt_deg: float = 0.0, *, flipped: bool = False) -> tuple[float, ...]:
    """Direction cosines of axial slices, tilted about the row axis; flipped turns the normal towards the feet."""
    angle = math.radians(tilt_deg)
    row = (-1.0, 0.0, 0.0) if flipped else (1.0, 0.0, 0.0)
    return (*row, 0.0, math.cos(angle), -math.sin(angle))


def spacing_along_table(thickness: float, tilt_deg: float) -> float:
    """Distance along z that makes slices of this thickness contiguous along their normal."""
    return thickness / math.cos(math.radians(tilt_deg))


def make_header(index: int = 0, **changes: object) -> SliceHeader:
    """Header of slice `index` of an axial stack of 5 mm slices, 256 x 256 mm wide; any field can be changed."""
    header = SliceHeader(
        path=Path(f"slice-{index:03d}.dcm"),
        sop_instance_uid=uid("slice", index),
        sop_class_uid=CT_IMAGE_STORAGE,
        study_instance_uid=uid("study"),
        series_instance_uid=uid("series"),
        frame_of_reference_uid=uid("frame of reference"),
        patient_key=hashlib.sha256(PATIENT_ID.encode()).hexdigest(),
        modality="CT",
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        series_number=2,
        instance_number=index + 1,
        series_description="HEAD 5MM",
        body_part_examined="HEAD",
        convolution_kernel="H31s",
        rows=512,
        columns=512,
        image_position_patient=(-120.0, -130.0, 5.0 * index),
        image_orientation_patient=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        pixel_spacing_mm=(0.5, 0.5),
        slice_thickness_mm=5.0,
        patient_position="HFS",
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
    )
    return replace(header, **changes)  # type: ignore[arg-type]


def header_stack(
    n: int = 24,
    thickness: float = 5.0,
    tilt_deg: float = 0.0,
    *,
    spacing: float | None = None,
    flipped: bool = False,
    **changes: object,
) -> list[SliceHeader]:
    """Headers of a contiguous stack, without files; `spacing` is the distance along z where it is to differ."""
    step = spacing_along_table(thickness, tilt_deg) if spacing is None else spacing
    common = {
        "image_orientation_patient": axial_orientation(tilt_deg, flipped=flipped),
        "slice_thickness_mm": thickness,
        **changes,
    }
    return [make_header(k, **{"image_position_patient": (-120.0, -130.0, step * k), **common}) for k in range(n)]


def ct_dataset(
    index: int = 0,
    *,
    position: Sequence[float] = (-120.0, -130.0, 0.0),
    orientation: Sequence[float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    thickness: float = 5.0,
    pixel_spacing: tuple[float, float] = (0.5, 0.5),
    pixels: np.ndarray | None = None,
    rows: int = 16,
    columns: int = 16,
    study: str = "study",
    series: str = "series",
    intercept: float = -1024.0,
    transfer_syntax: UID = ExplicitVRLittleEndian,
    **attributes: object,
) -> Dataset:
    """A valid CT Image with the type of its pixels; further attributes by keyword, where None removes one."""
    if pixels is None:
        pixels = (np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns) + 17 * index) % 2000
    little = transfer_syntax.is_little_endian
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CT_IMAGE_STORAGE
    dataset.SOPInstanceUID = uid(study, series, index)
    dataset.StudyDate = dataset.ContentDate = "20240102"
    dataset.StudyTime = dataset.ContentTime = "101112"
    dataset.AccessionNumber = ""
    dataset.Modality = "CT"
    dataset.Manufacturer = "Invented scanners"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription = "HEAD 5MM"
    dataset.PatientName = PATIENT_NAME
    dataset.PatientID = PATIENT_ID
    dataset.PatientBirthDate = "19500101"
    dataset.PatientSex = "O"
    dataset.BodyPartExamined = "HEAD"
    dataset.KVP = "120"
    dataset.ConvolutionKernel = "H31s"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = uid(study)
    dataset.SeriesInstanceUID = uid(study, series)
    dataset.StudyID = "1"
    dataset.SeriesNumber = "2"
    dataset.AcquisitionNumber = "1"
    dataset.InstanceNumber = str(index + 1)
    dataset.FrameOfReferenceUID = uid(study, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in position]
    dataset.ImageOrientationPatient = [f"{value:.8f}" for value in orientation]
    dataset.SliceThickness = f"{thickness:.4f}"
    dataset.PixelSpacing = [f"{value:.6f}" for value in pixel_spacing]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.RescaleIntercept = f"{intercept:g}"
    dataset.RescaleSlope = "1"
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<" if little else ">")).tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def set_dirty(dataset: Dataset, keyword: str, value: str) -> None:
    """Put any text into an element, as broken scanners do; pydicom itself would refuse or convert it."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    data = value.encode("latin-1")
    data += b" " * (len(data) % 2)
    # A raw element, as reading leaves it: pydicom looks into it only when somebody asks, and writes it unseen.
    dataset[tag] = RawDataElement(BaseTag(tag), dictionary_VR(tag), len(data), data, 0, False, True)


def write(dataset: Dataset, path: Path) -> Path:
    """Write a data set as a Part 10 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Dirty values are written on purpose; pydicom's complaints about them are no news.
    with quiet_pydicom():
        dataset.save_as(path, enforce_file_format=True)
    return path


def ct_stack(
    folder: Path,
    n: int = 24,
    thickness: float = 5.0,
    tilt_deg: float = 0.0,
    *,
    spacing: float | None = None,
    flipped: bool = False,
    origin: tuple[float, float, float] = (-120.0, -130.0, 0.0),
    series: str = "series",
    **attributes: object,
) -> list[Path]:
    """Write an axial CT series that passes the gate unless told otherwise; file names follow the order along z.

    `attributes` go to `ct_dataset`: its own parameters, or DICOM keywords for every slice.
    """
    step = spacing_along_table(thickness, tilt_deg) if spacing is None else spacing
    paths = []
    for index in range(n):
        dataset = ct_dataset(
            index,
            position=(origin[0], origin[1], origin[2] + step * index),
            orientation=axial_orientation(tilt_deg, flipped=flipped),
            thickness=thickness,
            series=series,
            **attributes,  # type: ignore[arg-type]
        )
        paths.append(write(dataset, folder / f"{series}-{index:04d}.dcm"))
    return paths
