"""Diffusion MR physics of the phantom: registration error, EPI distortion, coil, k-space, noise, ghost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from train.data.phantom_centres import Centre
from train.data.phantom_fields import FloatArray, Grid
from train.data.phantom_tissue import B_VALUE

#: Ratio of what is stored to the signal relative to water, so that the brain reads a few hundred.
STORED_GAIN = 2400.0


@dataclass(frozen=True, slots=True)
class DwiScan:
    """The measured volumes (S, R, C) on the CT grid.

    Attributes
    ----------
    b0, b1000
        Magnitude images, arbitrary units.
    adc
        Apparent diffusion coefficient computed from them, 1e-3 mm2/s; 0 outside the signal.
    misregistration_mm
        Root mean square displacement against the CT over the brain, without the EPI distortion.
    """

    b0: FloatArray
    b1000: FloatArray
    adc: FloatArray
    misregistration_mm: float


@dataclass(frozen=True, slots=True)
class _Motion:
    """Displacement of the DWI against the CT, mm; each component broadcasts to (S, R, C)."""

    dx: FloatArray
    dy: FloatArray
    dz: FloatArray
    rms_mm: float


def _draw_motion(rng: np.random.Generator, grid: Grid, weight: NDArray[np.bool_], target_mm: float) -> _Motion:
    """Small rigid motion; its root mean square over `weight` is the centre's, give or take a quarter."""
    x, y = grid.pixel_mm[None, None, :], grid.pixel_mm[None, :, None]
    z = (grid.slice_z_mm - 8.0).astype(np.float32)[:, None, None]
    shift = rng.normal(0, 1, 3).astype(np.float32)
    turn = (rng.normal(0, 1, 3) / 45.0).astype(np.float32)
    dx = shift[0] + turn[1] * z - turn[2] * y
    dy = shift[1] + turn[2] * x - turn[0] * z
    dz = shift[2] + turn[0] * y - turn[1] * x
    rms = np.float32(target_mm * rng.uniform(0.75, 1.25))
    if weight.any():
        squared = (np.broadcast_to(d, weight.shape)[weight] ** 2 for d in (dx, dy, dz))
        scale = rms / np.sqrt(sum(float(s.mean()) for s in squared))
        dx, dy, dz = dx * scale, dy * scale, dz * scale
    return _Motion(dx, dy, dz, float(rms))


def _distortion(rng: np.random.Generator, grid: Grid, air: FloatArray, centre: Centre) -> FloatArray:
    """Displacement along y by the field of the air spaces, mm, (S, R, C) at every fourth pixel."""
    step = max(1, round(3.6 / grid.spacing_mm))
    coarse = ndimage.uniform_filter(air, (1, step, step))[:, ::step, ::step]
    pixel = step * grid.spacing_mm
    spread_z = 12.0 / float(grid.slice_z_mm[1] - grid.slice_z_mm[0])
    field = ndimage.gaussian_filter(coarse, (spread_z, 13.0 / pixel, 11.0 / pixel), mode="nearest")
    peak = float(field.max())
    if peak > 0:
        field = field / peak
    return np.asarray(centre.epi_shift_mm * rng.uniform(0.7, 1.1) * field, np.float32)


def _coil(rng: np.random.Generator, grid: Grid, shape: tuple[int, int, int], spread: float) -> FloatArray:
    """Smooth multiplicative sensitivity, (S, R, C) as a low-order polynomial with log spread `spread`."""
    x = (grid.pixel_mm / 80)[None, None, :]
    y = (grid.pixel_mm / 95)[None, :, None]
    z = (grid.slice_z_mm / 60).astype(np.float32)[:, None, None]
    c = rng.normal(0, 1, 6)
    rim = 0.9 * (x * x + y * y - 0.5)
    log = c[0] * x + c[1] * y + c[2] * z + 0.7 * c[3] * x * y + 0.7 * c[4] * y * z + (0.6 + 0.5 * abs(c[5])) * rim
    return np.asarray(np.exp(spread * np.clip(log, -3, 3)).reshape(shape), dtype=np.float32)


def _warp(volume: FloatArray, rows: FloatArray, columns: FloatArray, through: FloatArray) -> FloatArray:
    """Resample slice by slice at displaced pixels; `through` mixes in the neighbour slice (share of a slice)."""
    moved = np.empty_like(volume)
    n = volume.shape[1]
    index = np.arange(n, dtype=np.float32)
    for s in range(volume.shape[0]):
        toward = through[s]
        other = np.where(toward > 0, volume[min(s + 1, len(volume) - 1)], volume[max(s - 1, 0)])
        plane = volume[s] + np.abs(toward) * (other - volume[s])
        where = np.array([index[:, None] + rows[s], index[None, :] + columns[s]])
        ndimage.map_coordinates(plane, where, output=moved[s], order=3, mode="nearest")
    return moved


def _acquire(
    rng: np.random.Generator, volume: FloatArray, sigma: float, acquired: int, full_fov: int, ghost: float
) -> FloatArray:
    """Pass a volume through k-space of the acquired matrix with complex noise and an N/2 ghost; magnitude."""
    n = volume.shape[1]
    keep = min(acquired * n / full_fov, n) / n
    f = np.abs(scipy.fft.fftfreq(n)) * 2
    window = np.clip((keep - f) / 0.06 + 0.5, 0, 1).astype(np.float32)
    window2 = window[:, None] * window[None, :]
    # White noise loses power to the window; sigma is the noise of the image.
    noise_sd = sigma / np.sqrt(np.mean(window2**2))
    image = volume + rng.normal(0, 1, volume.shape).astype(np.float32) * np.float32(noise_sd)
    image = image + 1j * (rng.standard_normal(volume.shape, dtype=np.float32) * np.float32(noise_sd))
    image = image.astype(np.complex64)
    image += np.roll(image, n // 2, axis=1) * np.complex64(ghost * np.exp(1j * rng.uniform(0, 2 * np.pi)))
    spectrum = scipy.fft.fft2(image, axes=(1, 2), overwrite_x=True)
    spectrum *= window2
    return np.asarray(np.abs(scipy.fft.ifft2(spectrum, axes=(1, 2), overwrite_x=True)), dtype=np.float32)


def scan_dwi(
    rng: np.random.Generator,
    grid: Grid,
    centre: Centre,
    b0: FloatArray,
    b1000: FloatArray,
    air: FloatArray,
    inside: FloatArray,
) -> DwiScan:
    """Measure b0 and b1000 and compute the ADC.

    Parameters
    ----------
    rng
        Source of noise, motion and coil.
    grid, centre
        Geometry and scanner.
    b0, b1000
        (S, R, C) noise-free signals.
    air
        (S, R, C) share of air inside the head: sinuses and mastoid cells, which distort the field.
    inside
        (S, R, C) share of the intracranial space.

    Returns
    -------
    DwiScan
        Volumes on the CT grid, misregistered and distorted as a fused pair would be.
    """
    pixel = grid.spacing_mm
    thickness = float(grid.slice_z_mm[1] - grid.slice_z_mm[0])
    shape = b0.shape
    weight = inside > 0.5
    motion = _draw_motion(rng, grid, weight, centre.misregistration_mm)
    coarse = _distortion(rng, grid, air, centre)
    zoom = (1, shape[1] / coarse.shape[1], shape[2] / coarse.shape[2])
    bend = np.asarray(ndimage.zoom(coarse, zoom, order=1, grid_mode=True, mode="nearest"), np.float32)
    jacobian = np.clip(1 + np.gradient(bend, pixel, axis=1), 0.4, 2.2).astype(np.float32)
    rows = np.broadcast_to(motion.dy, shape) / pixel + bend / pixel
    columns = np.broadcast_to(motion.dx, shape) / pixel
    through = np.broadcast_to(np.clip(motion.dz / thickness, -1, 1), shape)
    gain = jacobian * _coil(rng, grid, shape, centre.coil_bias) * np.float32(STORED_GAIN)
    measured = [_warp(v, rows, columns, through) * gain for v in (b0, b1000)]

    level = float(measured[1][weight].mean()) if weight.any() else 1.0
    sigma = level / (centre.dwi_snr * rng.uniform(0.92, 1.08))
    acquired = int(rng.integers(*centre.epi_matrix, endpoint=True))
    # The acquired matrix spans a field of view of 230 mm whatever the CT matrix is.
    full = max(acquired, round(230.0 / pixel))
    ghost = centre.ghost * float(rng.uniform(0.6, 1.4))
    # b0 is averaged less often than b1000 (one acquisition against three directions).
    low = _acquire(rng, measured[0], sigma * np.sqrt(3.0), acquired, full, ghost)
    high = _acquire(rng, measured[1], sigma, acquired, full, ghost)
    signal = low > 6 * sigma
    adc = np.log(np.maximum(low, 1e-3) / np.maximum(high, 1e-3)) / np.float32(B_VALUE / 1000)
    return DwiScan(low, high, np.where(signal, np.clip(adc, 0, 4), 0).astype(np.float32), motion.rms_mm)
