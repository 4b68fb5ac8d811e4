"""DICOM headers of the phantom's objects: identity, UIDs, equipment, CT Image module, and how a file is written."""

from __future__ import annotations

import io
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from train.data.phantom import PhantomCase

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_NAMESPACE = uuid.UUID("4f9a3b0e-6c0a-5d7e-9a31-8d2f5c1e7b46")
_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_COMMENT = "Digital phantom, computed. No patient was scanned."
_INTERCEPT = -1024


@dataclass(frozen=True, slots=True)
class PhantomPatient:
    """Identity written into the files; empty `patient_id` and `birth_date` are filled from the case.

    Attributes
    ----------
    name
        Patient's Name.
    patient_id
        Patient ID; default ``PHANTOM-<centre>-<seed>``.
    birth_date
        YYYYMMDD; default the first of January of the year that fits the phantom's age.
    sex
        "M", "F" or "O".
    accession_number, study_id
        As in the General Study module.
    """

    name: str = "Phantom^Head"
    patient_id: str = ""
    birth_date: str = ""
    sex: str = "O"
    accession_number: str = ""
    study_id: str = "1"


def phantom_uid(case: PhantomCase, *parts: str) -> str:
    """UID that depends on nothing but the case and what the object is (PS3.5 B.2, UUID derived)."""
    shape = "x".join(str(n) for n in case.ct_hu.shape)
    facts = (case.centre, case.seed, case.lesion_kind, case.side, shape, case.spacing_mm, case.tilt_deg, *parts)
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(str(fact) for fact in facts)).int}"


def decimal_string(value: float) -> str:
    """A DS value of at most 16 characters (PS3.5 6.2), without a negative zero."""
    text = f"{value + 0.0:.6f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def common_header(case: PhantomCase, patient: PhantomPatient, study_instance_uid: str) -> Dataset:
    """Patient, study and equipment of every object of the study."""
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260105"
    ds.StudyTime, ds.SeriesTime, ds.AcquisitionTime, ds.ContentTime = "101500", "101612", "101615", "101620"
    ds.AccessionNumber = patient.accession_number
    ds.Manufacturer = "JMMDA digital phantom"
    ds.InstitutionName = f"Synthetic centre {case.centre}"
    ds.ManufacturerModelName = "Procedural head phantom"
    ds.SoftwareVersions = "1"
    ds.DeviceSerialNumber = f"PHANTOM-{case.centre}"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "CT HEAD PHANTOM"
    ds.PatientName = patient.name
    ds.PatientID = patient.patient_id or f"PHANTOM-{case.centre}-{case.seed:06d}"
    ds.PatientBirthDate = patient.birth_date or f"{2026 - round(case.age_years)}0101"
    ds.PatientSex = patient.sex
    ds.PatientAge = f"{round(case.age_years):03d}Y"
    ds.StudyInstanceUID = study_instance_uid
    ds.StudyID = patient.study_id
    ds.ImageComments = _COMMENT
    ds.QualityControlImage = "YES"
    return ds


def set_pixels(ds: Dataset, pixels: NDArray[np.uint16]) -> None:
    """Image Pixel module: 12 of 16 bits, unsigned, MONOCHROME2; `pixels` is (rows, columns), 0..4095."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    ds["PixelData"].VR = "OW"


def set_ct_image(ds: Dataset, case: PhantomCase, hu: NDArray[np.int16], window_hu: tuple[float, float]) -> None:
    """CT Image module (PS3.3 C.8.2.1) but for the plane."""
    ds.Modality = "CT"
    ds.SOPClassUID = _CT_IMAGE_STORAGE
    ds.BodyPartExamined = "HEAD"
    ds.KVP = "120"
    ds.DataCollectionDiameter = "500"
    ds.ExposureTime = "1000"
    ds.XRayTubeCurrent = "300"
    ds.Exposure = "300"
    ds.FilterType = "0"
    ds.FrameOfReferenceUID = phantom_uid(case, "frame")
    ds.PositionReferenceIndicator = ""
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(_INTERCEPT), "1", "HU"
    ds.WindowCenter, ds.WindowWidth = (decimal_string(value) for value in window_hu)
    set_pixels(ds, np.clip(hu.astype(np.int32) - _INTERCEPT, 0, 4095).astype(np.uint16))


def save_atomically(ds: Dataset, path: Path) -> Path:
    """Write a file under a temporary name and rename it, so that no reader ever sees half of it."""
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = _EXPLICIT_LITTLE_ENDIAN  # type: ignore[assignment]  # pydicom turns the text into a UID
    ds.file_meta = meta
    # Written to memory first: pydicom hides the system's error number, which tells a full disk from other trouble.
    encoded = io.BytesIO()
    ds.save_as(encoded, enforce_file_format=True)
    part = path.with_suffix(".part")
    try:
        part.write_bytes(encoded.getbuffer())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return path
