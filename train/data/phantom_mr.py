"""Diffusion MR of a phantom case as DICOM, and CT/DWI pairs as an archive would hold them.

The diffusion images are valid MR Image Storage objects (PS3.3 A.4, C.8.3.1) in a frame of reference of their own: the
patient lies a little differently on the MR table, so a pair has to be registered, and the true motion is known. Where
the b value stands depends on the vendor whose habit is followed. Every file says that it is a synthetic phantom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from train.data.phantom import CENTRES, PhantomCase
from train.data.phantom_dicom import write_ct_series
from train.data.phantom_fields import FloatArray, keys_weights
from train.data.phantom_headers import (
    PhantomPatient,
    common_header,
    decimal_string,
    phantom_uid,
    save_atomically,
    set_pixels,
)
from train.data.phantom_tissue import B_VALUE

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
#: Share of the CT's matrix: at 256 this is 160, the finest that the phantom's EPI acquires.
_MATRIX_SHARE = 5 / 8
#: GE adds this to the b value in (0043,1039), so that a reader must take the value modulo 10^9.
_GE_OFFSET = 1_000_000_000


class Vendor(StrEnum):
    """Whose habit of storing the b value is followed.

    STANDARD: Diffusion b-value (0018,9087) in all images. GE: only the private (0043,1039), with 10^9 added. SIEMENS:
    only the private (0019,100C). TOSHIBA: (0018,9087), but not in images of b = 0.
    """

    STANDARD = "standard"
    GE = "ge"
    SIEMENS = "siemens"
    TOSHIBA = "toshiba"


_MANUFACTURERS: Mapping[Vendor, str] = {
    Vendor.GE: "GE MEDICAL SYSTEMS",
    Vendor.SIEMENS: "SIEMENS",
    Vendor.TOSHIBA: "TOSHIBA",
}


@dataclass(frozen=True, slots=True)
class PairMotion:
    """How the MR frame lies against the CT frame: ``mr = rotation @ ct + translation_mm``, both LPS.

    Attributes
    ----------
    rotation
        (3, 3) rotation matrix.
    translation_mm
        (3,).
    """

    rotation: NDArray[np.float64]
    translation_mm: NDArray[np.float64]

    def to_ct(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """MR coordinates (..., 3) in the CT frame."""
        return np.asarray((points_mm - self.translation_mm) @ self.rotation)


@dataclass(frozen=True, slots=True)
class PhantomPair:
    """Files of one pair.

    Attributes
    ----------
    ct, dwi
        DICOM files.
    lesion
        NIfTI mask on the CT grid.
    motion
        True motion of the MR frame; the phantom's own misregistration and distortion come on top.
    """

    ct: tuple[Path, ...]
    dwi: tuple[Path, ...]
    lesion: Path
    motion: PairMotion


def pair_motion(case: PhantomCase) -> PairMotion:
    """Draw the motion between the two tables: up to 5 degrees about each axis and 10 mm along it, fixed by the case."""
    rng = np.random.default_rng([case.seed, CENTRES[case.centre].index, 0x4D52])
    pitch, roll, yaw = np.deg2rad(np.clip(rng.normal(0, 2.5, 3), -5, 5))
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_y = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
    about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return PairMotion(about_z @ about_y @ about_x, np.clip(rng.normal(0, 5.0, 3), -10, 10))


def _on_matrix(volume: FloatArray, matrix: int) -> FloatArray:
    """A (S, R, C) volume on another matrix of the same field of view, cubic."""
    rows = volume.shape[1]
    weights = keys_weights((np.arange(matrix) + 0.5) * rows / matrix - 0.5, rows)
    return np.stack([weights @ plane @ weights.T for plane in volume])


def _set_b_value(ds: Dataset, vendor: Vendor, b_value: float) -> None:
    """Put the b value only where the vendor puts it, with the image type and sequence name that go with it."""
    weighted = b_value > 0
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    if vendor is Vendor.STANDARD or (vendor is Vendor.TOSHIBA and weighted):
        ds.DiffusionBValue = b_value
        ds.DiffusionDirectionality = "ISOTROPIC" if weighted else "NONE"
    if vendor is Vendor.GE:
        block = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [str(_GE_OFFSET + round(b_value)), "8", "0", "0"])
    if vendor is Vendor.SIEMENS:
        block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", str(round(b_value)))
        block.add_new(0x0D, "CS", "DIRECTIONAL" if weighted else "NONE")
        ds.ImageType = ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW" if weighted else "NONE", "ND"]
        ds.SequenceName = f"*ep_b{b_value:.0f}{'t' if weighted else ''}"
    if vendor is Vendor.TOSHIBA:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "GDC"]


def _set_mr_image(ds: Dataset, case: PhantomCase, plane: FloatArray) -> None:
    """MR Image module (PS3.3 C.8.3.1) but for plane and diffusion; `plane` is (rows, columns), arbitrary units."""
    centre = CENTRES[case.centre]
    ds.SOPClassUID, ds.Modality, ds.BodyPartExamined = _MR_IMAGE_STORAGE, "MR", "BRAIN"
    ds.StudyDescription = "MR HEAD PHANTOM"
    ds.StudyTime, ds.SeriesTime, ds.AcquisitionTime, ds.ContentTime = "112000", "112412", "112415", "112420"
    ds.ScanningSequence, ds.SequenceVariant = ["EP", "SE"], "SK"
    ds.ScanOptions, ds.MRAcquisitionType = "FS", "2D"
    ds.RepetitionTime, ds.EchoTime = "6000", decimal_string(centre.echo_time_ms)
    ds.EchoTrainLength, ds.NumberOfAverages, ds.FlipAngle = "64", "1", "90"
    ds.MagneticFieldStrength = decimal_string(centre.field_t)
    ds.ImagedNucleus, ds.ImagingFrequency = "1H", decimal_string(42.577 * centre.field_t)
    ds.InPlanePhaseEncodingDirection = "COL"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = phantom_uid(case, "mr frame"), ""
    ds.PatientPosition = "HFS"
    ds.SliceThickness = ds.SpacingBetweenSlices = decimal_string(case.spacing_mm[0])
    ds.WindowCenter, ds.WindowWidth = "400", "800"
    set_pixels(ds, np.clip(np.rint(plane), 0, 4095).astype(np.uint16))


def write_dwi_series(
    case: PhantomCase,
    folder: Path | str,
    *,
    vendor: Vendor | Literal["standard", "ge", "siemens", "toshiba"] = Vendor.STANDARD,
    series: Literal["one", "two"] = "one",
    matrix: int | None = None,
    motion: PairMotion | None = None,
    patient: PhantomPatient | None = None,
) -> list[Path]:
    """Write b = 0 and b = 1000 of a case as one MR Image Storage file for each slice.

    Parameters
    ----------
    case
        The phantom patient, scanned without gantry tilt.
    folder
        Where to; made when missing. Names are ``<series number>-<instance number>.dcm``.
    vendor
        Where the b value stands.
    series
        Both b values in one series, or each in its own.
    matrix
        Rows and columns; default five eighths of the CT's.
    motion
        Of the MR frame against the CT frame; default `pair_motion`.
    patient
        Identity; the default is marked as phantom.

    Returns
    -------
    list[Path]
        Files, b = 0 first, each from the lowest slice up.

    Raises
    ------
    ValueError
        If the vendor is unknown, or the case has a gantry tilt, which MR has not.
    """
    kind, who, moved = Vendor(vendor), patient or PhantomPatient(), motion or pair_motion(case)
    if case.tilt_deg:
        raise ValueError(f"an MR stack has no gantry tilt, the case has {case.tilt_deg:g} degrees")
    if series not in ("one", "two"):
        raise ValueError(f"series must be 'one' or 'two', not {series!r}")
    n = matrix or max(16, round(case.ct_hu.shape[1] * _MATRIX_SHARE))
    pixel_mm = case.spacing_mm[1] * case.ct_hu.shape[1] / n
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    axes = case.orientation @ moved.rotation.T
    # The centre of the first pixel moves when pixels grow: the field's corner stays.
    corner = case.positions_mm + (pixel_mm - case.spacing_mm[1]) / 2 * case.orientation.sum(axis=0)
    positions = corner @ moved.rotation.T + moved.translation_mm
    paths: list[Path] = []
    for index, (b_value, volume) in enumerate(((0.0, case.b0), (B_VALUE, case.dwi))):
        number = 1 + (index if series == "two" else 0)
        uid = phantom_uid(case, "mr series", kind, series, str(n), str(number))
        first = 1 if series == "two" else 1 + index * len(volume)
        for s, plane in enumerate(_on_matrix(volume, n)):
            ds = common_header(case, who, phantom_uid(case, "mr study"))
            _set_mr_image(ds, case, plane)
            _set_b_value(ds, kind, b_value)
            ds.Manufacturer = _MANUFACTURERS.get(kind, ds.Manufacturer)
            ds.SeriesInstanceUID, ds.SeriesNumber = uid, str(number)
            ds.SOPInstanceUID = phantom_uid(case, "mr instance", uid, str(b_value), str(s))
            ds.AcquisitionNumber, ds.InstanceNumber = "1", str(first + s)
            ds.SeriesDescription = "DWI PHANTOM" if series == "one" else f"DWI b{b_value:.0f} PHANTOM"
            ds.ImagePositionPatient = [decimal_string(value) for value in positions[s]]
            ds.ImageOrientationPatient = [decimal_string(value) for value in axes.ravel()]
            ds.PixelSpacing = [decimal_string(pixel_mm), decimal_string(pixel_mm)]
            ds.SliceLocation = decimal_string(float(positions[s] @ np.cross(*axes)))
            paths.append(save_atomically(ds, out / f"{number:03d}-{first + s:04d}.dcm"))
    return paths


def write_pair(
    case: PhantomCase,
    folder: Path | str,
    *,
    vendor: Vendor | Literal["standard", "ge", "siemens", "toshiba"] = Vendor.STANDARD,
    series: Literal["one", "two"] = "one",
    patient: PhantomPatient | None = None,
) -> PhantomPair:
    """Write ``CT/*.dcm``, ``DWI/*.dcm`` and ``lesion.nii.gz`` of a case: what ``train prepare`` takes.

    Parameters
    ----------
    case, vendor, series, patient
        As for `write_dwi_series`.
    folder
        Of the patient; made when missing.
    """
    from train.data.phantom_files import write_nifti

    root, moved = Path(folder), pair_motion(case)
    ct = write_ct_series(case, root / "CT", patient=patient)
    dwi = write_dwi_series(case, root / "DWI", vendor=vendor, series=series, motion=moved, patient=patient)
    lesion = write_nifti(case, case.lesion, root / "lesion.nii.gz")
    return PhantomPair(tuple(ct), tuple(dwi), lesion, moved)
