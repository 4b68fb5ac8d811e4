"""Volumes that the imaging tests share: a drawn head on any slice geometry, and series read from DICOM files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from jmmda_model.imaging import AIR_HU, BrainMask, CtVolume

FloatArray = npt.NDArray[np.float64]

#: Row and column direction cosines of common and uncommon ways to scan a head (PS3.3 C.7.6.2.1.1).
ORIENTATIONS: dict[str, FloatArray] = {
    "HFS": np.array([[1.0, 0, 0], [0, 1, 0]]),
    "HFP": np.array([[-1.0, 0, 0], [0, -1, 0]]),
    "FFS": np.array([[-1.0, 0, 0], [0, 1, 0]]),
    "FFP": np.array([[1.0, 0, 0], [0, -1, 0]]),
    "decubitus": np.array([[0.0, 1, 0], [-1, 0, 0]]),
    "transposed": np.array([[0.0, 1, 0], [1, 0, 0]]),
}


def tilted(degrees: float) -> FloatArray:
    """Orientation of a gantry tilted about the patient's left-right axis."""
    angle = np.deg2rad(degrees)
    return np.array([[1.0, 0, 0], [0, np.cos(angle), -np.sin(angle)]])


@dataclass(frozen=True)
class Lattice:
    """A stack's geometry: S slices of (rows, columns) around the patient's origin, moved along z by the table."""

    orientation: FloatArray
    shape: tuple[int, int, int] = (12, 96, 96)
    spacing_mm: tuple[float, float] = (2.0, 2.0)
    step_mm: float = 5.0
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def positions(self) -> FloatArray:
        n, rows, columns = self.shape
        normal = np.cross(self.orientation[0], self.orientation[1])
        table = np.array([0.0, 0, np.sign(normal[2])]) * self.step_mm / abs(normal[2])
        corner = np.array(self.centre_mm)
        corner = corner - self.orientation[0] * (columns - 1) / 2 * self.spacing_mm[1]
        corner = corner - self.orientation[1] * (rows - 1) / 2 * self.spacing_mm[0]
        return corner + (np.arange(n) - (n - 1) / 2)[:, None] * table

    def points(self) -> FloatArray:
        """(S, rows, columns, 3) patient coordinates of every voxel."""
        _, rows, columns = self.shape
        down = np.arange(rows)[:, None, None] * self.spacing_mm[0] * self.orientation[1]
        right = np.arange(columns)[None, :, None] * self.spacing_mm[1] * self.orientation[0]
        return self.positions()[:, None, None, :] + (down + right)[None]

    def volume(self, hu: npt.NDArray[np.floating]) -> CtVolume:
        thickness = np.full(self.shape[0], self.step_mm)
        return CtVolume(hu.astype(np.float32), self.positions(), self.orientation, self.spacing_mm, thickness)


def ellipsoid(
    points: FloatArray, radii_mm: tuple[float, float, float], centre: tuple[float, float, float]
) -> FloatArray:
    """Squared normalised distance: below 1 inside."""
    return np.sum(((points - np.array(centre)) / np.array(radii_mm)) ** 2, axis=-1)


def head_hu(points: FloatArray, noise_hu: float = 3.0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """A drawn head in HU and its brain: scalp, skull, brain with ventricles, and below it a neck with a spine."""
    hu = np.full(points.shape[:-1], AIR_HU, dtype=np.float32)
    z = points[..., 2]
    neck = (np.hypot(points[..., 0], points[..., 1] - 15) < 55) & (z < -20)
    hu[neck | (ellipsoid(points, (82, 100, 84), (0, 0, 0)) < 1)] = 45
    hu[ellipsoid(points, (76, 94, 78), (0, 0, 0)) < 1] = 1000
    spine = np.hypot(points[..., 0], points[..., 1] - 25)
    hu[(spine < 22) & (z < -60)] = 700
    brain = ellipsoid(points, (69, 87, 71), (0, 0, 0)) < 1
    hu[brain] = 34
    hu[(spine < 10) & (z < -60)] = 30
    hu[ellipsoid(points, (14, 30, 14), (0, -5, 8)) < 1] = 8
    hu[ellipsoid(points, (5, 4, 4), (12, 14, 8)) < 1] = 220
    hu += np.random.default_rng(0).normal(0, noise_hu, hu.shape).astype(np.float32)
    return hu, brain


def as_mask(volume: CtVolume, mask: npt.NDArray[np.bool_]) -> BrainMask:
    """A known brain in the form that the grid takes."""
    return BrainMask(mask=mask, volume_ml=volume.volume_ml(mask), flags=(), figures={})


def dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second)))


def part(volume: CtVolume, slices: slice, hu: npt.NDArray[np.floating] | None = None) -> CtVolume:
    """Some slices of a volume, with other HU if given (for all slices)."""
    values = volume.hu if hu is None else hu.astype(np.float32)
    return CtVolume(
        values[slices],
        volume.positions_mm[slices],
        volume.orientation,
        volume.spacing_mm,
        volume.thickness_mm[slices],
    )


def read_series(folder: Path, pattern: str) -> CtVolume:
    """One CT series from its files, sorted along the normal, padding as air."""
    datasets = [pydicom.dcmread(path) for path in sorted(folder.glob(pattern))]
    orientation = np.array(datasets[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(orientation[0], orientation[1])
    datasets.sort(key=lambda ds: float(normal @ np.array(ds.ImagePositionPatient, dtype=float)))
    planes = []
    for ds in datasets:
        stored = ds.pixel_array.astype(np.float32)
        hu = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        planes.append(np.where(stored == float(ds.get("PixelPaddingValue", -32768)), AIR_HU, hu))
    return CtVolume(
        np.stack(planes),
        np.array([ds.ImagePositionPatient for ds in datasets], dtype=float),
        orientation,
        (float(datasets[0].PixelSpacing[0]), float(datasets[0].PixelSpacing[1])),
        np.array([float(ds.SliceThickness) for ds in datasets]),
    )
