"""Small CT series and requests for the tests of the derive stage; no patient data, all values are made up here."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.derive.writer import BundleFacts, DeriveRequest
from dicom_node.dicom.output_rules import OutputSettings
from dicom_node.dicom.reading import ElementReader, open_dataset

CREATED = datetime(2026, 3, 4, 5, 6, 7, 89)
PHANTOM_BUNDLE = BundleFacts("builtin", "ab" * 32, "cd" * 32, True, True, "compact", "1.0")
PATIENT_BUNDLE = replace(PHANTOM_BUNDLE, name="clinical", is_phantom=False)
UNTRAINED_BUNDLE = replace(PHANTOM_BUNDLE, name="untrained-tiny", is_phantom=False, trained=False, size="tiny")
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SliceLocation")


def ct_dataset(index: int, *, rows: int = 96, columns: int = 128, step_mm: float = 5.0) -> Dataset:
    """One slice of a made-up CT, as a scanner would write it, with a tilted plane."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CT_IMAGE_STORAGE
    ds.SOPInstanceUID = f"1.2.3.4.5.{index + 1}"
    ds.StudyDate = "20260102"
    ds.StudyTime = "101112.5"
    ds.AcquisitionDate = "20260102"
    ds.AcquisitionTime = "101500"
    ds.AccessionNumber = "ACC-77"
    ds.Modality = "CT"
    ds.Manufacturer = "Scanner Works"
    ds.ManufacturerModelName = "Model S"
    ds.InstitutionName = "H\xf4pital"
    ds.ReferringPhysicianName = "Doctor^Ref"
    ds.StudyDescription = "Head"
    ds.PatientName = "Example^Erika"
    ds.PatientID = "ID-0815"
    ds.PatientBirthDate = "19500102"
    ds.PatientSex = "F"
    ds.PatientWeight = "61.5"
    ds.SliceThickness = "5.000"
    ds.KVP = "120"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = "1.2.3.4.1"
    ds.SeriesInstanceUID = "1.2.3.4.2"
    ds.StudyID = "77"
    ds.SeriesNumber = "1203"
    ds.AcquisitionNumber = "1"
    ds.InstanceNumber = str(index + 1)
    ds.ImagePositionPatient = ["-60.250", "-40.5", f"{index * step_mm:.4f}"]
    ds.ImageOrientationPatient = ["1.000000", "0.000000", "0.000000", "0.000000", "0.992546", "-0.121869"]
    ds.FrameOfReferenceUID = "1.2.3.4.3"
    ds.PositionReferenceIndicator = "OM"
    ds.SliceLocation = f"{index * step_mm:+.2f}"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.PixelSpacing = ["0.4882810", "0.48828100"]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope = "-1024", "1"
    ds.BodyPartExamined = "HEAD"
    stored = np.random.default_rng(index).integers(0, 2000, (rows, columns)).astype("<i2")
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def save(ds: Dataset, path: Path, *, substitutes: dict[bytes, bytes] | None = None) -> Path:
    """Write a slice; substitutes replace placeholder bytes of equal length afterwards, unseen by any encoder."""
    ds.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    for placeholder, value in (substitutes or {}).items():
        assert len(placeholder) == len(value)
        assert placeholder in data
        data = data.replace(placeholder, value)
    path.write_bytes(data)
    return path


def write_ct_series(folder: Path, *, count: int = 4, change=None, substitutes=None) -> tuple[Path, ...]:
    """Write a made-up series; `change(ds, index)` may dirty each slice before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        ds = ct_dataset(index)
        if change is not None:
            change(ds, index)
        paths.append(save(ds, folder / f"{index:02d}.dcm", substitutes=substitutes))
    return tuple(paths)


def request_for(paths: tuple[Path, ...], bundle: BundleFacts = PHANTOM_BUNDLE, **changes) -> DeriveRequest:
    """Request with a round brain and pixels that differ from slice to slice."""
    reader = ElementReader(open_dataset(paths[0]))
    rows, columns = reader.short("Rows"), reader.short("Columns")
    y, x = np.mgrid[:rows, :columns]
    brain = (y - rows * 0.6) ** 2 + (x - columns * 0.55) ** 2 < (min(rows, columns) * 0.3) ** 2
    mask = np.broadcast_to(brain, (len(paths), rows, columns))
    ramp = (x * 20 + y * 3 + np.arange(len(paths))[:, None, None] * 7) % 4096
    pixels = np.where(mask, ramp, 0).astype(np.uint16)
    values = {
        "source_paths": paths,
        "pixels": pixels,
        "mask": mask,
        "source_slices": tuple((index,) for index in range(len(paths))),
        "bundle": bundle,
        "output": OutputSettings(),
        "node_id": "jmmda-node-1",
        "created": CREATED,
    }
    return DeriveRequest(**(values | changes))


def raw_value(path: Path, keyword: str) -> bytes:
    """Value bytes of an element as they stand in the file, padding removed."""
    element = open_dataset(path).get_item(keyword)
    return bytes(element.value or b"").rstrip(b" \0")
