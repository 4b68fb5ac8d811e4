"""Normals, offsets and spacing from ImagePositionPatient and ImageOrientationPatient alone.

GantryDetectorTilt, SliceLocation, SpacingBetweenSlices and the order of InstanceNumber are never used to compute:
makers disagree about their signs and meaning, while position and orientation are defined by PS3.3 C.7.6.2.1.1.
Coordinates are LPS in mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_node.dicom.values import SliceHeader

__all__ = [
    "SpacingStatistics",
    "angle_deg",
    "axes_of",
    "coverage_mm",
    "has_geometry",
    "largest_distance_mm",
    "lateral_deviation_mm",
    "normal_of",
    "offset_along",
    "offsets_of",
    "orientation_defect",
    "orientation_spread_deg",
    "shear_deg",
    "sort_stack",
    "spacing_statistics",
    "stack_normal",
    "tilt_deg",
    "turn_deg",
]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SpacingStatistics:
    """Distances between the centres of neighbouring slices along the normal, mm."""

    minimum_mm: float
    median_mm: float
    maximum_mm: float


def has_geometry(header: SliceHeader) -> bool:
    """Say whether position and orientation are both there."""
    return header.image_position_patient is not None and header.image_orientation_patient is not None


def normal_of(image_orientation_patient: Sequence[float]) -> FloatArray:
    """Unit normal of a slice: row direction times column direction.

    Parameters
    ----------
    image_orientation_patient : sequence of 6 floats
        Direction cosines of the row, then of the column.

    Returns
    -------
    numpy.ndarray, shape (3,), float64
        LPS. For an axial slice of a patient lying head first supine it points to the head.

    Raises
    ------
    ValueError
        If row and column direction are parallel or zero.

    Examples
    --------
    >>> normal_of((1, 0, 0, 0, 1, 0)).tolist()
    [0.0, 0.0, 1.0]
    """
    row = np.asarray(image_orientation_patient[:3], dtype=np.float64)
    column = np.asarray(image_orientation_patient[3:], dtype=np.float64)
    normal = np.cross(row, column)
    length = float(np.linalg.norm(normal))
    if length < 1e-6:
        raise ValueError("row and column direction do not span a plane")
    return np.asarray(normal / length, dtype=np.float64)


def orientation_defect(image_orientation_patient: Sequence[float]) -> float:
    """How far the six cosines are from two perpendicular unit vectors (0 for a sound orientation).

    Returns
    -------
    float
        The largest of the deviations of both lengths from 1 and of the scalar product from 0.
    """
    row = np.asarray(image_orientation_patient[:3], dtype=np.float64)
    column = np.asarray(image_orientation_patient[3:], dtype=np.float64)
    lengths = (abs(float(np.linalg.norm(vector)) - 1.0) for vector in (row, column))
    return max(*lengths, abs(float(row @ column)))


def stack_normal(headers: Sequence[SliceHeader]) -> FloatArray:
    """Unit normal of a stack: the mean of the normals of its slices.

    A single slice that is off by a tenth of a degree must not turn the axis along which all are measured.

    Raises
    ------
    ValueError
        If a slice has no orientation, or the normals cancel out.
    """
    total = np.zeros(3)
    for header in headers:
        if header.image_orientation_patient is None:
            raise ValueError("a slice has no ImageOrientationPatient")
        total += normal_of(header.image_orientation_patient)
    length = float(np.linalg.norm(total))
    if length < 1e-6:
        raise ValueError("the normals of the slices cancel out")
    return total / length


def offset_along(header: SliceHeader, normal: FloatArray) -> float:
    """Offset of a slice along a unit normal, mm.

    Raises
    ------
    ValueError
        If the slice has no ImagePositionPatient.
    """
    if header.image_position_patient is None:
        raise ValueError("the slice has no ImagePositionPatient")
    return float(np.dot(header.image_position_patient, normal))


def offsets_of(headers: Sequence[SliceHeader], normal: FloatArray) -> FloatArray:
    """Offsets of several slices along a unit normal, shape (S,), mm."""
    return np.array([offset_along(header, normal) for header in headers], dtype=np.float64)


def sort_stack(headers: Sequence[SliceHeader]) -> tuple[SliceHeader, ...]:
    """Sort slices by ascending offset along their common normal.

    Slices at the same offset are put in order of InstanceNumber, then of SOPInstanceUID, so that the result does not
    depend on the order in which they arrived.

    Raises
    ------
    ValueError
        If a slice has no position or no orientation.
    """
    if not headers:
        return ()
    normal = stack_normal(headers)

    def key(header: SliceHeader) -> tuple[float, int, str]:
        # A micrometre is far below what scanners write, and above what rounding of the scalar product changes.
        number = header.instance_number if header.instance_number is not None else 2**31
        return round(offset_along(header, normal), 3), number, header.sop_instance_uid

    return tuple(sorted(headers, key=key))


def spacing_statistics(offsets_mm: FloatArray) -> SpacingStatistics:
    """Smallest, median and largest distance of neighbours in ascending offsets (S,); zeros for fewer than two."""
    if offsets_mm.size < 2:
        return SpacingStatistics(0.0, 0.0, 0.0)
    steps = np.diff(offsets_mm)
    return SpacingStatistics(float(steps.min()), float(np.median(steps)), float(steps.max()))


def coverage_mm(offsets_mm: FloatArray, thickness_mm: FloatArray) -> float:
    """Length of the body that a sorted stack covers along its normal, half a slice at either end included, mm."""
    if offsets_mm.size == 0:
        return 0.0
    return float(offsets_mm[-1] - offsets_mm[0] + (thickness_mm[0] + thickness_mm[-1]) / 2.0)


def angle_deg(first: FloatArray, second: FloatArray) -> float:
    """Angle of two unit vectors in degrees, exact for small angles too (arc cosine is not)."""
    half = float(np.linalg.norm(first - second)) / 2.0
    return math.degrees(2.0 * math.asin(min(half, 1.0)))


def tilt_deg(normal: FloatArray) -> float:
    """Angle of a slice to the transverse plane, 0 (axial) to 90 (coronal, sagittal), whichever way the normal points.

    Examples
    --------
    >>> tilt_deg(normal_of((1, 0, 0, 0, -1, 0)))
    0.0
    """
    upright = normal if normal[2] >= 0 else -normal
    return angle_deg(upright, np.array([0.0, 0.0, 1.0]))


def turn_deg(image_orientation_patient: Sequence[float]) -> float:
    """Angle between the rows of a transverse slice and the nearest of the patient's axes, 0 to 45 degrees.

    Quarter turns (decubitus) and mirrorings (prone, feet first) are none. What counts is the direction seen from
    above, so that gantry tilt is no turn either.

    Examples
    --------
    >>> turn_deg((0, 1, 0, -1, 0, 0))
    0.0
    """
    turn = math.degrees(math.atan2(image_orientation_patient[1], image_orientation_patient[0])) % 90.0
    return min(turn, 90.0 - turn)


def axes_of(image_orientation_patient: Sequence[float]) -> str:
    """Name the patient axes towards which column index, row index and offset along the normal grow.

    Returns
    -------
    str
        Three letters of PS3.3 C.7.6.1.1.1 (L or R, P or A, H or F), each the nearest axis.

    Examples
    --------
    >>> axes_of((1, 0, 0, 0, 1, 0)), axes_of((-1, 0, 0, 0, 1, 0))
    ('LPH', 'RPF')
    """
    row, column = image_orientation_patient[:3], image_orientation_patient[3:]
    letters = ""
    for vector in (row, column, normal_of(image_orientation_patient)):
        axis = int(np.argmax(np.abs(vector)))
        letters += ("LPH" if vector[axis] > 0 else "RAF")[axis]
    return letters


def orientation_spread_deg(headers: Sequence[SliceHeader]) -> float:
    """Largest angle between the row directions or between the column directions of any two slices, degrees.

    Raises
    ------
    ValueError
        If a slice has no orientation.
    """
    cosines = []
    for header in headers:
        if header.image_orientation_patient is None:
            raise ValueError("a slice has no ImageOrientationPatient")
        cosines.append(header.image_orientation_patient)
    # Nearly every stack has one orientation, so comparing the different ones pairwise is cheap.
    different = np.unique(np.asarray(cosines, dtype=np.float64), axis=0)
    widest = 0.0
    for part in (different[:, :3], different[:, 3:]):
        unit = part / np.linalg.norm(part, axis=1, keepdims=True)
        for index in range(len(unit) - 1):
            chord = float(np.linalg.norm(unit[index + 1 :] - unit[index], axis=1).max())
            widest = max(widest, math.degrees(2.0 * math.asin(min(chord / 2.0, 1.0))))
    return widest


def lateral_deviation_mm(positions_mm: FloatArray, normal: FloatArray) -> float:
    """How far the slice origins stray sideways from one straight line, mm.

    Gantry tilt moves the origins along a slanted but straight line; a shifted slice leaves it.

    Parameters
    ----------
    positions_mm : numpy.ndarray, shape (S, 3)
        ImagePositionPatient of the slices.
    normal : numpy.ndarray, shape (3,)
        Unit normal of the stack.
    """
    if len(positions_mm) < 3:
        return 0.0
    offsets = positions_mm @ normal
    lateral = positions_mm - offsets[:, None] * normal
    design = np.stack([offsets - offsets.mean(), np.ones_like(offsets)], axis=1)
    line, *_ = np.linalg.lstsq(design, lateral, rcond=None)
    return float(np.linalg.norm(lateral - design @ line, axis=1).max())


def shear_deg(positions_mm: FloatArray, normal: FloatArray) -> float:
    """Angle between the usual step from slice to slice and the normal, 0 to 90 degrees.

    Parameters
    ----------
    positions_mm : numpy.ndarray, shape (S, 3)
        ImagePositionPatient of the slices, at different offsets in ascending order.
    normal : numpy.ndarray, shape (3,)
        Unit normal of the stack.
    """
    if len(positions_mm) < 2:
        return 0.0
    steps = np.diff(positions_mm, axis=0)
    along = np.maximum(steps @ normal, 1e-6)
    # The median, so that one slice beside the others does not make a stack lean.
    sideways = np.median(steps / along[:, None] - normal, axis=0)
    return math.degrees(math.atan(float(np.linalg.norm(sideways))))


def largest_distance_mm(positions_mm: FloatArray) -> float:
    """Largest distance between the first of some positions (S, 3) and any other, mm."""
    return float(np.linalg.norm(positions_mm - positions_mm[0], axis=1).max())
