"""Phantom cases as DICOM: CT series in any patient position, and a whole study with the clutter a scanner adds.

The files are valid CT Image Storage (PS3.3 A.3) and Secondary Capture objects. They say in patient name, manufacturer,
comments and Quality Control Image (0028,0300) that no patient was scanned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from train.data.phantom import PhantomCase
from train.data.phantom_fields import keys_weights
from train.data.phantom_headers import (
    PhantomPatient,
    common_header,
    decimal_string,
    phantom_uid,
    save_atomically,
    set_ct_image,
    set_pixels,
)

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


__all__ = [
    "BONE_LOOK",
    "Orientation",
    "PhantomPatient",
    "PhantomStudy",
    "SeriesLook",
    "phantom_uid",
    "write_ct_series",
    "write_study",
]


class Orientation(StrEnum):
    """How the patient lies, and with it how the scanner's matrix lies in the patient.

    The first four are values of Patient Position (PS3.3 C.7.3.1.1.2) with a matrix fixed to the scanner; the last is
    a head-first supine scan stored as seen from above, with columns growing to the patient's right.
    """

    HFS = "HFS"
    FFS = "FFS"
    HFP = "HFP"
    FFP = "FFP"
    HFS_FLIPPED = "HFS_FLIPPED"


#: Whether rows and columns of the case are turned round, and whether instances count from the head.
_TURNS: Mapping[Orientation, tuple[bool, bool, bool]] = {
    Orientation.HFS: (False, False, False),
    Orientation.FFS: (False, True, True),
    Orientation.HFP: (True, True, False),
    Orientation.FFP: (True, False, True),
    Orientation.HFS_FLIPPED: (False, True, False),
}


@dataclass(frozen=True, slots=True)
class SeriesLook:
    """What a series is called and how its kernel looks.

    Attributes
    ----------
    number
        Series Number.
    description, protocol, kernel
        Series Description, Protocol Name, Convolution Kernel.
    window_hu
        Centre and width.
    sharpness
        Strength of edge enhancement; 0 leaves the phantom's soft kernel.
    """

    number: int = 2
    description: str = "HEAD 5.0 H30s PHANTOM"
    protocol: str = "HEAD ROUTINE"
    kernel: str = "H30s"
    window_hu: tuple[float, float] = (40.0, 80.0)
    sharpness: float = 0.0


BONE_LOOK = SeriesLook(3, "HEAD BONE 5.0 H60s PHANTOM", "HEAD ROUTINE", "H60s", (450.0, 1500.0), 1.6)


@dataclass(frozen=True, slots=True)
class PhantomStudy:
    """Files of a whole study."""

    study_instance_uid: str
    localizer: tuple[Path, ...]
    head: tuple[Path, ...]
    bone: tuple[Path, ...]
    dose: tuple[Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, in the order a scanner would send them."""
        return self.localizer + self.head + self.bone + self.dose


@dataclass(frozen=True, slots=True)
class _Stack:
    """HU and geometry of a series as the scanner stores it."""

    hu: NDArray[np.int16]
    positions_mm: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing_mm: tuple[float, float]


def _enlarged(case: PhantomCase, matrix: int | None) -> tuple[NDArray[np.int16], float]:
    """The CT on another matrix of the same field of view (cubic interpolation), and its pixel spacing."""
    rows = case.ct_hu.shape[1]
    if matrix is None or matrix == rows:
        return case.ct_hu, case.spacing_mm[1]
    where = (np.arange(matrix) + 0.5) * rows / matrix - 0.5
    weights = keys_weights(where, rows)
    hu = np.stack([weights @ plane.astype(np.float32) @ weights.T for plane in case.ct_hu])
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16), case.spacing_mm[1] * rows / matrix


def _sharpened(hu: NDArray[np.int16], strength: float, spacing_mm: float) -> NDArray[np.int16]:
    """Edge-enhancing kernel: noise rises with the edges, as it does on a scanner."""
    if strength <= 0:
        return hu
    image = hu.astype(np.float32)
    sigma = max(0.9 / spacing_mm, 0.7)
    blurred = ndimage.gaussian_filter(image, (0, sigma, sigma), truncate=3.0)
    return np.asarray(np.clip(np.rint(image + strength * (image - blurred)), -1024, 3071), dtype=np.int16)


def _stack(case: PhantomCase, orientation: Orientation, matrix: int | None, sharpness: float) -> _Stack:
    hu, spacing = _enlarged(case, matrix)
    hu = _sharpened(hu, sharpness, spacing)
    n = hu.shape[1]
    row_way, column_way = case.orientation
    centre = np.zeros((hu.shape[0], 3))
    centre[:, 2] = case.slice_z_mm
    turn_rows, turn_columns, from_head = _TURNS[orientation]
    if turn_rows:
        hu, column_way = hu[:, ::-1], -column_way
    if turn_columns:
        hu, row_way = hu[:, :, ::-1], -row_way
    positions = centre - (n - 1) / 2 * spacing * (row_way + column_way)
    if from_head:
        hu, positions = hu[::-1], positions[::-1]
    return _Stack(hu, positions, np.stack([row_way, column_way]), (spacing, spacing))


def write_ct_series(
    case: PhantomCase,
    folder: Path | str,
    *,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    orientation: Orientation | Literal["HFS", "FFS", "HFP", "FFP", "HFS_FLIPPED"] = Orientation.HFS,
    patient: PhantomPatient | None = None,
    look: SeriesLook | None = None,
    series_description: str | None = None,
    matrix: int | None = None,
) -> list[Path]:
    """Write the CT of a case as one CT Image Storage file for each slice.

    Parameters
    ----------
    case
        The phantom patient; its gantry tilt is kept.
    folder
        Where to; made when missing. Names are ``<series number>-<instance number>.dcm``.
    study_instance_uid, series_instance_uid
        Given, or derived from the case.
    orientation
        How the patient lies.
    patient
        Identity; the default is marked as phantom.
    look
        Series number, description, kernel and window.
    series_description
        Replaces that of `look`.
    matrix
        Rows and columns of the files; default those of the case.

    Returns
    -------
    list[Path]
        Files in the order of Instance Number.

    Raises
    ------
    ValueError
        If the orientation is unknown.
    """
    lies, look, who = Orientation(orientation), look or SeriesLook(), patient or PhantomPatient()
    stack = _stack(case, lies, matrix, look.sharpness)
    series_uid = series_instance_uid or phantom_uid(case, "series", str(look.number), look.kernel, lies, str(matrix))
    study_uid = study_instance_uid or phantom_uid(case, "study")
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (hu, position) in enumerate(zip(stack.hu, stack.positions_mm, strict=True)):
        ds = common_header(case, who, study_uid)
        set_ct_image(ds, case, hu, look.window_hu)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SeriesInstanceUID = series_uid
        ds.SOPInstanceUID = phantom_uid(case, "instance", series_uid, str(index))
        ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = str(look.number), "1", str(index + 1)
        ds.SeriesDescription = look.description if series_description is None else series_description
        ds.ProtocolName, ds.ConvolutionKernel = look.protocol, look.kernel
        ds.ScanOptions = "AXIAL"
        ds.PatientPosition = lies.value.removesuffix("_FLIPPED")
        ds.GantryDetectorTilt = decimal_string(case.tilt_deg)
        ds.SliceThickness = decimal_string(case.spacing_mm[0])
        ds.ReconstructionDiameter = decimal_string(stack.spacing_mm[0] * hu.shape[0])
        ds.ImagePositionPatient = [decimal_string(value) for value in position]
        ds.ImageOrientationPatient = [decimal_string(value) for value in stack.orientation.ravel()]
        ds.PixelSpacing = [decimal_string(value) for value in stack.spacing_mm]
        ds.SliceLocation = decimal_string(position[2])
        ds.ImagesInAcquisition = str(len(stack.hu))
        paths.append(save_atomically(ds, out / f"{look.number:03d}-{index + 1:04d}.dcm"))
    return paths


def _write_localizer(case: PhantomCase, folder: Path, study_uid: str, patient: PhantomPatient) -> Path:
    """Lateral survey: mean HU across the head, rows from the vertex down, columns to posterior."""
    height = case.spacing_mm[0]
    pixel = case.spacing_mm[1]
    side = case.ct_hu.astype(np.float32).mean(axis=2)[::-1]
    rows = round(side.shape[0] * height / pixel)
    where = (np.arange(rows) + 0.5) * pixel / height - 0.5
    image = np.clip(np.rint(keys_weights(where, side.shape[0]) @ side), -1024, 3071).astype(np.int16)
    ds = common_header(case, patient, study_uid)
    set_ct_image(ds, case, image, (-200.0, 1200.0))
    del ds.RescaleType  # a survey states none
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.SeriesInstanceUID = phantom_uid(case, "localizer", study_uid)
    ds.SOPInstanceUID = phantom_uid(case, "localizer instance", study_uid)
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", "0", "1"
    ds.SeriesDescription, ds.ProtocolName, ds.ConvolutionKernel = "TOPOGRAM LAT PHANTOM", "HEAD ROUTINE", "T20s"
    ds.ScanOptions, ds.PatientPosition = "SURVEY", "HFS"
    ds.SliceThickness = "0.6"
    ds.ReconstructionDiameter = decimal_string(pixel * image.shape[1])
    top = float(case.slice_z_mm[-1]) + height / 2 - pixel / 2
    back = -(image.shape[1] - 1) / 2 * pixel
    ds.ImagePositionPatient = [decimal_string(value) for value in (0.0, back, top)]
    ds.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]
    ds.PixelSpacing = [decimal_string(pixel), decimal_string(pixel)]
    return save_atomically(ds, folder / "001-0001.dcm")


def _text_page(lines: Sequence[str]) -> NDArray[np.uint16]:
    """White text on black, 512 x 512."""
    import cv2

    page = np.zeros((512, 512), np.uint8)
    for row, line in enumerate(lines):
        cv2.putText(page, line, (24, 60 + 34 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1, cv2.LINE_AA)
    return page.astype(np.uint16) * 16


def _write_dose_screen(case: PhantomCase, folder: Path, study_uid: str, patient: PhantomPatient) -> Path:
    """Dose page as scanners store it: a Secondary Capture object (PS3.3 A.8) with modality CT and no plane."""
    ds = common_header(case, patient, study_uid)
    ds.Modality = "CT"
    ds.SOPClassUID = _SECONDARY_CAPTURE
    ds.ConversionType = "WSD"
    ds.BodyPartExamined = "HEAD"
    ds.ImageType = ["DERIVED", "SECONDARY", "DOSE_INFO"]
    ds.SeriesInstanceUID = phantom_uid(case, "dose", study_uid)
    ds.SOPInstanceUID = phantom_uid(case, "dose instance", study_uid)
    ds.SeriesNumber, ds.InstanceNumber = "501", "1"
    ds.SeriesDescription = "Dose Report PHANTOM"
    ds.PatientOrientation = ""
    ds.BurnedInAnnotation = "NO"
    ds.WindowCenter, ds.WindowWidth = "2048", "4096"
    lines = (
        "DIGITAL PHANTOM - NO PATIENT",
        "Scan      kV   mAs   CTDIvol   DLP",
        "Topogram  120   35      0.1     3.1",
    )
    set_pixels(ds, _text_page((*lines, "Head      120  300     48.2   682.0", "Total DLP 685.1 mGy*cm (not measured)")))
    return save_atomically(ds, folder / "501-0001.dcm")


def write_study(
    case: PhantomCase,
    folder: Path | str,
    *,
    study_instance_uid: str | None = None,
    orientation: Orientation | Literal["HFS", "FFS", "HFP", "FFP", "HFS_FLIPPED"] = Orientation.HFS,
    patient: PhantomPatient | None = None,
    matrix: int | None = None,
) -> PhantomStudy:
    """Write what a scanner sends for one head CT: survey, head series, bone kernel series and dose page.

    Parameters
    ----------
    case, study_instance_uid, orientation, patient, matrix
        As for `write_ct_series`.
    folder
        Where to; every series gets a folder.

    Returns
    -------
    PhantomStudy
        The files. Only the head series is meant to be processed.
    """
    root, who = Path(folder), patient or PhantomPatient()
    study_uid = study_instance_uid or phantom_uid(case, "study")
    folders = {name: root / name for name in ("localizer", "head", "bone", "dose")}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    series = {
        name: tuple(
            write_ct_series(
                case,
                folders[name],
                study_instance_uid=study_uid,
                orientation=orientation,
                patient=who,
                look=look,
                matrix=matrix,
            )
        )
        for name, look in (("head", SeriesLook()), ("bone", BONE_LOOK))
    }
    return PhantomStudy(
        study_instance_uid=study_uid,
        localizer=(_write_localizer(case, folders["localizer"], study_uid, who),),
        head=series["head"],
        bone=series["bone"],
        dose=(_write_dose_screen(case, folders["dose"], study_uid, who),),
    )
