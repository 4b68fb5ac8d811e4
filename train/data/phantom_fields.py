"""Grids and smooth random fields on which the phantom is drawn.

Shapes are drawn as level sets in millimetres (positive inside) on a coarse lattice of 2 mm, one plane for each
sub-slice of the scan, and enlarged to the pixel matrix plane by plane with two matrix products. That keeps edges
sub-pixel sharp at any matrix size, keeps one patient the same whatever the matrix, and is what makes a volume cheap.

Coordinates are those of DICOM (PS3.3 C.7.6.2.1.1): x grows to the patient's left, y to posterior, z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

#: In-plane step of the lattice on which level sets are computed, mm.
LATTICE_STEP_MM = 2.0
#: Half extents (x, y) of that lattice: a head with its scalp fits, the headrest is drawn outside it.
LATTICE_HALF_MM = (92.0, 116.0)
#: Half extents (z, y, x) of the random lattices: wider than any scan of a head.
NOISE_HALF_MM = (130.0, 130.0, 130.0)


def cubic_weights(position: NDArray[np.floating], count: int) -> FloatArray:
    """Weights of the uniform cubic B-spline of `count` coefficients at fractional indices.

    Parameters
    ----------
    position
        Fractional indices (n,); indices beyond the ends repeat the end coefficient.
    count
        Number of coefficients.

    Returns
    -------
    FloatArray
        (n, count); each row sums to one.
    """
    weights = np.zeros((position.size, count), np.float32)
    base = np.floor(position).astype(int)
    t = position - base
    parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    rows = np.arange(position.size)
    for offset, part in zip((-1, 0, 1, 2), parts, strict=True):
        np.add.at(weights, (rows, np.clip(base + offset, 0, count - 1)), (part / 6).astype(np.float32))
    return weights


def keys_weights(position: NDArray[np.floating], count: int) -> FloatArray:
    """Weights of Keys' interpolating cubic (a = -0.5), ends repeated; shape (n, count)."""
    weights = np.zeros((position.size, count), np.float32)
    base = np.floor(position).astype(int)
    t = position - base
    parts = (
        -0.5 * t**3 + t**2 - 0.5 * t,
        1.5 * t**3 - 2.5 * t**2 + 1,
        -1.5 * t**3 + 2 * t**2 + 0.5 * t,
        0.5 * t**3 - 0.5 * t**2,
    )
    rows = np.arange(position.size)
    for offset, part in zip((-1, 0, 1, 2), parts, strict=True):
        np.add.at(weights, (rows, np.clip(base + offset, 0, count - 1)), part.astype(np.float32))
    return weights


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a scan samples the head.

    Attributes
    ----------
    matrix
        Rows and columns of the image.
    fov_mm
        Width of the square field of view; pixel spacing is `fov_mm / matrix`.
    slice_z_mm
        (S,) table positions of the slices, ascending to the head.
    sub_z_mm
        (S * n_sub,) table positions of the sub-slices that are averaged into slices.
    tilt_deg
        Gantry tilt; rows then also move in z.
    lattice_x_mm, lattice_y_mm
        Lattice coordinates in the scan plane.
    enlarge_rows, enlarge_columns
        (rows, lattice rows) and (lattice columns, columns) weights from lattice to pixels.
    """

    matrix: int
    fov_mm: float
    slice_z_mm: FloatArray
    sub_z_mm: FloatArray
    tilt_deg: float
    lattice_x_mm: FloatArray
    lattice_y_mm: FloatArray
    enlarge_rows: FloatArray
    enlarge_columns: FloatArray

    @property
    def n_sub(self) -> int:
        """Sub-slices in a slice."""
        return self.sub_z_mm.size // self.slice_z_mm.size

    @property
    def spacing_mm(self) -> float:
        """Pixel spacing, mm."""
        return self.fov_mm / self.matrix

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a field on the lattice."""
        return self.sub_z_mm.size, self.lattice_y_mm.size, self.lattice_x_mm.size

    @property
    def pixel_mm(self) -> FloatArray:
        """(matrix,) pixel centres along a row or a column, in the scan plane."""
        return ((np.arange(self.matrix) - (self.matrix - 1) / 2) * self.spacing_mm).astype(np.float32)

    def coordinates(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Head coordinates x (1,1,C), y (1,R,1), z (S,R,1) of the lattice, mm."""
        angle = np.deg2rad(self.tilt_deg)
        y_scan = self.lattice_y_mm[None, :, None]
        z = self.sub_z_mm[:, None, None].astype(np.float32) + y_scan * np.float32(np.sin(angle))
        return self.lattice_x_mm[None, None, :], y_scan * np.float32(np.cos(angle)), z

    def enlarge(self, plane: FloatArray) -> FloatArray:
        """One lattice plane (R, C) on the pixel matrix (cubic interpolation)."""
        return (self.enlarge_rows @ plane) @ self.enlarge_columns

    def gradient_norm(self, field: FloatArray) -> FloatArray:
        """Length of the gradient of a lattice field per mm, tilt taken into account."""
        step_z = float(self.sub_z_mm[1] - self.sub_z_mm[0])
        gz, gy, gx = np.gradient(field, step_z, LATTICE_STEP_MM, LATTICE_STEP_MM)
        if self.tilt_deg:
            angle = np.deg2rad(self.tilt_deg)
            gy = (gy - gz * np.sin(angle)) / np.cos(angle)
        return np.asarray(np.sqrt(gx * gx + gy * gy + gz * gz), dtype=np.float32)

    def to_distance(self, field: FloatArray, floor: float = 1e-3) -> FloatArray:
        """Turn a level set in any unit into mm: field over the length of its gradient."""
        return (field / np.maximum(self.gradient_norm(field), floor)).astype(np.float32)


def make_grid(
    matrix: int, fov_mm: float, n_slices: int, slice_mm: float, tilt_deg: float = 0.0, centre_z_mm: float = 8.0
) -> Grid:
    """Lay a scan of `n_slices` contiguous slices over the head, centred on `centre_z_mm`."""
    n_sub = max(1, round(slice_mm / 2.5))
    slice_z = centre_z_mm + (np.arange(n_slices) - (n_slices - 1) / 2) * slice_mm
    offsets = (np.arange(n_sub) - (n_sub - 1) / 2) * slice_mm / n_sub
    half_x, half_y = LATTICE_HALF_MM
    lattice_x = np.arange(-half_x, half_x + 1, LATTICE_STEP_MM, dtype=np.float32)
    lattice_y = np.arange(-half_y, half_y + 1, LATTICE_STEP_MM, dtype=np.float32)
    pixel = (np.arange(matrix) - (matrix - 1) / 2) * (fov_mm / matrix)
    return Grid(
        matrix=matrix,
        fov_mm=fov_mm,
        slice_z_mm=slice_z,
        sub_z_mm=(slice_z[:, None] + offsets).ravel(),
        tilt_deg=tilt_deg,
        lattice_x_mm=lattice_x,
        lattice_y_mm=lattice_y,
        enlarge_rows=keys_weights((pixel + half_y) / LATTICE_STEP_MM, lattice_y.size),
        enlarge_columns=np.ascontiguousarray(keys_weights((pixel + half_x) / LATTICE_STEP_MM, lattice_x.size).T),
    )


def smooth_noise(rng: np.random.Generator, grid: Grid, scale_mm: float) -> FloatArray:
    """Smooth random field of unit standard deviation on the lattice.

    A uniform cubic B-spline with white coefficients every `scale_mm`. Its lattice is fixed to the scan's axes (the
    tilt does not turn it) and independent of matrix and slice count, so that one seed is one patient.
    """
    counts = [int(np.ceil(2 * half / scale_mm)) + 1 for half in NOISE_HALF_MM]
    field = rng.standard_normal(counts, dtype=np.float32)
    axes = (grid.sub_z_mm, grid.lattice_y_mm, grid.lattice_x_mm)
    wz, wy, wx = (
        cubic_weights((np.asarray(axis, np.float64) + half) / scale_mm, count)
        for axis, half, count in zip(axes, NOISE_HALF_MM, counts, strict=True)
    )
    planes = np.tensordot(wz, field, axes=(1, 0))
    # 151/315 is the mean of the squared cubic B-spline weights, per axis.
    return np.asarray(
        np.matmul(np.matmul(wy, planes), np.ascontiguousarray(wx.T)) * np.float32((151 / 315) ** -1.5), dtype=np.float32
    )


def band_noise_lattice(
    rng: np.random.Generator, wavelength_mm: float, step_mm: float, relative_width: float
) -> FloatArray:
    """Isotropic noise around one wavelength, as cubic B-spline coefficients every `step_mm` in a cube of 260 mm."""
    count = int(np.ceil(2 * NOISE_HALF_MM[0] / step_mm)) + 1
    spectrum = scipy.fft.rfftn(rng.standard_normal((count,) * 3, dtype=np.float32))
    kz = scipy.fft.fftfreq(count, step_mm)[:, None, None]
    ky = scipy.fft.fftfreq(count, step_mm)[None, :, None]
    kx = scipy.fft.rfftfreq(count, step_mm)[None, None, :]
    k = np.sqrt(kz**2 + ky**2 + kx**2) * wavelength_mm
    spectrum *= np.exp(-0.5 * ((k - 1) / relative_width) ** 2).astype(np.float32)
    field = scipy.fft.irfftn(spectrum, s=(count,) * 3).astype(np.float32)
    return np.asarray(field / field.std(), dtype=np.float32)


def ramp(distance: FloatArray, width_mm: float) -> FloatArray:
    """Soft step from 0 to 1 over `width_mm` around distance 0."""
    return np.asarray(np.clip(distance * np.float32(1 / width_mm) + np.float32(0.5), 0, 1), dtype=np.float32)


def smooth_min(first: FloatArray, second: FloatArray, radius_mm: float) -> FloatArray:
    """Minimum of two level sets with the seam rounded over `radius_mm` (polynomial blend)."""
    blend = np.maximum(radius_mm - np.abs(first - second), 0) / np.float32(radius_mm)
    return np.minimum(first, second) - blend * blend * np.float32(radius_mm / 4)


def smooth_max(first: FloatArray, second: FloatArray, radius_mm: float) -> FloatArray:
    """Maximum of two level sets with the seam rounded over `radius_mm`."""
    return -smooth_min(-first, -second, radius_mm)


def union(*fields: FloatArray) -> FloatArray:
    """Level set of what lies in any of the shapes (arguments broadcast)."""
    return np.asarray(reduce(np.maximum, fields), np.float32)


def intersect(*fields: FloatArray) -> FloatArray:
    """Level set of what lies in all of the shapes (arguments broadcast)."""
    return np.asarray(reduce(np.minimum, fields), np.float32)
