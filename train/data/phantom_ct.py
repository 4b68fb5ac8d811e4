"""CT physics of the phantom: kernel, noise, beam hardening, calibration, table."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from train.data.phantom_centres import Centre
from train.data.phantom_fields import FloatArray, Grid

#: The noise figures of the centres hold for this thickness; quanta fall with it, noise rises with its root.
REFERENCE_THICKNESS_MM = 5.0


def _headrest(grid: Grid, rng: np.random.Generator) -> FloatArray:
    """Carbon-fibre cradle behind the head, (R, C), HU above air; the same in all slices."""
    x, y = grid.pixel_mm[None, :], grid.pixel_mm[:, None]
    lift = rng.uniform(-2, 3)
    radius = np.hypot(x / 1.15, y + 14 - lift)
    shell = np.clip(1.6 - np.abs(radius - 125), 0, 1)
    foam = np.clip(1 - np.abs(radius - 119.0) / 5.0, 0, 1) > 0
    where = (y > 55) * (np.abs(x) < 100)
    return np.asarray(where * (820.0 * shell + 60.0 * foam * (shell == 0)), dtype=np.float32)


def _noise(rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: float, peak_per_mm: float) -> FloatArray:
    """Band-pass noise of unit standard deviation: the ramp of filtered back-projection under a soft kernel."""
    fy = scipy.fft.fftfreq(shape[1], spacing_mm)[:, None]
    fx = scipy.fft.rfftfreq(shape[2], spacing_mm)[None, :]
    f = np.hypot(fy, fx)
    shape_filter = (f + 0.02) * np.exp(-0.5 * (f / peak_per_mm) ** 2)
    white = rng.standard_normal(shape, dtype=np.float32)
    spectrum = scipy.fft.rfft2(white, axes=(1, 2)) * shape_filter.astype(np.float32)
    noise = scipy.fft.irfft2(spectrum, s=shape[1:], axes=(1, 2)).astype(np.float32)
    return np.asarray(noise / np.float32(noise.std()), dtype=np.float32)


def _petrous_bands(rng: np.random.Generator, grid: Grid, bone: FloatArray, inside: FloatArray) -> FloatArray:
    """Dark streaks between dense bones (Hounsfield's bar), HU, (S, R, C) at a quarter of the matrix."""
    step = max(1, round(3.6 / grid.spacing_mm))
    coarse = ndimage.uniform_filter(bone, (1, step, step))[:, ::step, ::step]
    room = inside[:, ::step, ::step]
    # Each row darkens with the bone it crosses on both sides of the brain.
    left = np.cumsum(coarse, axis=2)
    right = left[:, :, -1:] - left
    crossing = np.sqrt(left * right) * room
    pixel = step * grid.spacing_mm
    depth = -np.clip(crossing * pixel - 9.0, 0, 40) * rng.uniform(0.10, 0.22)
    streaks = rng.normal(1.0, 0.3, (bone.shape[0], coarse.shape[1], 1))
    smooth = ndimage.gaussian_filter(depth * streaks, (0, 0.8, 1.5))
    zoom = (1, bone.shape[1] / smooth.shape[1], bone.shape[2] / smooth.shape[2])
    return np.asarray(ndimage.zoom(smooth, zoom, order=1, grid_mode=True, mode="nearest"), np.float32)


def ct_signal(
    rng: np.random.Generator,
    grid: Grid,
    centre: Centre,
    hu: FloatArray,
    bone: FloatArray,
    inside: FloatArray,
    depth_mm: FloatArray,
) -> FloatArray:
    """What the scanner would show without noise and rounding, (S, R, C) HU: kernel, table, hardening, calibration.

    Parameters
    ----------
    rng
        Source of the table's position, the calibration and the streaks.
    grid, centre
        Geometry and scanner.
    hu
        (S, R, C) CT numbers of the head.
    bone, inside
        (S, R, C) shares of bone and of the intracranial space.
    depth_mm
        (S, R, C) distance to the inner table, positive inside.
    """
    image = hu + _headrest(grid, rng) * (hu < -900)
    blur = centre.ct_blur_mm / grid.spacing_mm
    image = ndimage.gaussian_filter(image, (0, blur, blur), truncate=3.0)
    cupping = centre.ct_cupping_hu * np.exp(-np.clip(depth_mm, 0, 60) / 7.0)
    image += inside * (cupping + centre.ct_offset_hu + rng.normal(0, 0.4))
    image += _petrous_bands(rng, grid, bone, inside)
    image += rng.normal(0, 0.35, (image.shape[0], 1, 1)).astype(np.float32) * inside
    return np.asarray(image)


def scan_ct(
    rng: np.random.Generator,
    grid: Grid,
    centre: Centre,
    hu: FloatArray,
    bone: FloatArray,
    inside: FloatArray,
    depth_mm: FloatArray,
) -> NDArray[np.int16]:
    """Scan the composed head: `ct_signal`, noise and rounding.

    Parameters
    ----------
    rng
        Source of all of it.
    grid, centre, hu, bone, inside, depth_mm
        As for `ct_signal`.

    Returns
    -------
    NDArray[np.int16]
        (S, R, C) CT numbers, -1024..3071.
    """
    image = ct_signal(rng, grid, centre, hu, bone, inside, depth_mm)
    thickness = float(grid.slice_z_mm[1] - grid.slice_z_mm[0])
    level = centre.ct_noise_hu * rng.uniform(0.9, 1.1) * np.sqrt(REFERENCE_THICKNESS_MM / thickness)
    # Fewer photons reach the centre of the head and the skull base.
    load = bone.mean(axis=(1, 2), keepdims=True)
    local = (0.86 + 0.16 * np.clip(depth_mm / 55, 0, 1)) * (0.92 + 0.9 * load)
    outside = 0.55 + 0.45 * inside
    noise = _noise(rng, image.shape, grid.spacing_mm, centre.ct_noise_peak_per_mm)
    image += noise * (level * local * outside).astype(np.float32)
    return np.asarray(np.clip(np.rint(image), -1024, 3071), dtype=np.int16)
