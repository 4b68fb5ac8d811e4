"""What surrounds the sections of a brain mask: rays from the middle of each section outwards, sampled every millimetre.

A brain lies in one closed, smooth ring of hard bone, two fifths longer than wide at most; hardly anything else that a
CT scanner sees does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.volume import BoolArray, CtVolume, FloatArray

DIRECTIONS: Final = 64
REACH_MM: Final = 160
"""How far rays go: no skull is larger. One sample a millimetre."""
MOST_SECTIONS: Final = 16
"""Sections that are looked at, evenly spread."""
SECTION_CM2: Final = 20.0
"""Smaller sections (tip of the vertex, posterior fossa at its base) say little about the ring."""
BONE_HU: Final = 150.0
INWARDS_MM: Final = 8
"""How far inside the mask's edge bone may begin: the mask rounds corners off."""
OUTWARDS_MM: Final = 35
"""How far outside the mask's edge bone may lie: fluid, blood, air and the mask's own caution lie between."""
SKULL_MM: Final = 15
"""Bone is measured over this depth: vault, and no jaw behind it."""
AIR_BELOW_HU: Final = -300.0
FAT_HU: Final = (-150.0, -30.0)
VAULT_MM: Final = 60.0
"""Depth below the top of the brain down to which its ring is closed in every head: no orbit, no petrous bone."""
TURN_TILT_DEG: Final = 22.0
"""In sections that are tilted further the head is as wide as it is long, so its long axis says nothing."""

IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Rays:
    """Samples along rays from the middle of N sections; arrays (N, `DIRECTIONS`, `REACH_MM`) and (N, `DIRECTIONS`).

    Attributes
    ----------
    sections : numpy.ndarray
        (N,) slice indices.
    height_mm : numpy.ndarray
        (N,) length along the normal for which each section stands.
    vault : numpy.ndarray
        (N,) bool: within `VAULT_MM` of the top of the brain.
    hu : numpy.ndarray
        Samples; what lies outside the image is air.
    bone : numpy.ndarray
        bool, samples of bone that may belong to the ring.
    closed : numpy.ndarray
        bool, directions in which the ring has bone.
    cut : numpy.ndarray
        bool, directions in which tissue goes on to the edge of the image without bone.
    radius_mm : numpy.ndarray
        Distance to bone, air or edge of the image, whichever comes first outside the mask.
    """

    sections: IntArray
    height_mm: npt.NDArray[np.float64]
    vault: BoolArray
    hu: FloatArray
    bone: BoolArray
    closed: BoolArray
    cut: BoolArray
    radius_mm: npt.NDArray[np.float64]


def cast_rays(volume: CtVolume, mask: BoolArray, bone_hu: float = BONE_HU) -> Rays | None:
    """Sample a CT around the sections of a mask; None when no section is large enough.

    Parameters
    ----------
    volume : CtVolume
        The CT.
    mask : numpy.ndarray
        (S, rows, columns) bool.
    bone_hu : float
        What counts as bone.
    """
    pixel_cm2 = volume.spacing_mm[0] * volume.spacing_mm[1] / 100
    large = np.flatnonzero(np.count_nonzero(mask, axis=(1, 2)) * pixel_cm2 >= SECTION_CM2)
    if not large.size:
        return None
    sections = large[np.unique(np.linspace(0, large.size - 1, min(MOST_SECTIONS, large.size)).round().astype(int))]
    angle = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    steps = np.arange(REACH_MM)
    hu = np.full((sections.size, DIRECTIONS, REACH_MM), -1024.0, dtype=np.float32)
    inside = np.zeros(hu.shape, dtype=bool)
    in_image = np.zeros(hu.shape, dtype=bool)
    for place, index in enumerate(sections):
        rows, columns = np.nonzero(mask[index])
        at = [
            np.rint(middle + np.outer(turn, steps) / spacing).astype(int)
            for middle, turn, spacing in zip(
                (rows.mean(), columns.mean()), (np.sin(angle), np.cos(angle)), volume.spacing_mm, strict=True
            )
        ]
        seen = (at[0] >= 0) & (at[0] < mask.shape[1]) & (at[1] >= 0) & (at[1] < mask.shape[2])
        in_image[place] = seen
        hu[place][seen] = volume.hu[index][at[0][seen], at[1][seen]]
        inside[place][seen] = mask[index][at[0][seen], at[1][seen]]
    bone, closed, cut, radius = _ends(hu, inside, in_image, bone_hu)
    heights, vault = _heights(volume, mask, sections, large)
    return Rays(sections, heights, vault, hu, bone, closed, cut, radius)


def _ends(
    hu: FloatArray, inside: BoolArray, in_image: BoolArray, bone_hu: float
) -> tuple[BoolArray, BoolArray, BoolArray, npt.NDArray[np.float64]]:
    """Return where each ray ends: bone samples, closed directions, cut directions, radius."""
    steps = np.arange(REACH_MM)
    edge = np.where(inside.any(axis=-1), REACH_MM - 1 - np.argmax(inside[..., ::-1], axis=-1), 0)
    near = (steps >= edge[..., None] - INWARDS_MM) & (steps <= edge[..., None] + OUTWARDS_MM)
    bone = (hu > bone_hu) & ~inside & near
    closed = np.asarray(bone.any(axis=-1), dtype=np.bool_)
    first_bone = np.argmax(bone, axis=-1)
    bone &= steps <= first_bone[..., None] + SKULL_MM
    # Tissue ends at air outside the mask or at the edge of the image, whichever comes first.
    air = (hu < AIR_BELOW_HU) & (steps > edge[..., None])
    tissue_end = np.where(air.any(axis=-1), np.argmax(air, axis=-1), REACH_MM - 1)
    last = np.take_along_axis(in_image, np.maximum(tissue_end, 1)[..., None], axis=-1)[..., 0]
    cut = ~closed & ~last
    radius = np.where(closed, first_bone, tissue_end).astype(np.float64)
    return bone, closed, cut, np.maximum(radius, 1.0)


def _heights(
    volume: CtVolume, mask: BoolArray, sections: IntArray, large: IntArray
) -> tuple[npt.NDArray[np.float64], BoolArray]:
    """Return for how much height each chosen section stands, and which belong to the vault."""
    share = float(volume.slice_extent_mm[large].sum() / volume.slice_extent_mm[sections].sum())
    upwards = volume.offsets_mm * (1 if volume.normal[2] >= 0 else -1)
    top = upwards[mask.any(axis=(1, 2))].max()
    return volume.slice_extent_mm[sections] * share, np.asarray(upwards[sections] >= top - VAULT_MM)


def ring_figures(volume: CtVolume, rays: Rays) -> dict[str, float]:
    """Measure the ring of bone around the sections; see `jmmda_model.eligibility_codes.FIGURES`."""
    vault = rays.vault
    hardest = np.where(rays.bone, rays.hu, -1024.0).max(axis=-1)
    thickness = np.count_nonzero(rays.bone, axis=-1)
    closed_vault = rays.closed[vault]
    gap_mm2 = np.where(rays.closed | rays.cut, 0.0, rays.radius_mm) * (2 * np.pi / DIRECTIONS) * rays.height_mm[:, None]
    figures = {
        "skull_hu": float(np.median(hardest[rays.closed])) if rays.closed.any() else 0.0,
        "skull_mm": float(np.median(thickness[vault][closed_vault])) if closed_vault.any() else 0.0,
        "open_share": float(np.mean(~rays.closed[vault])),
        "cut_share": float(np.mean(rays.cut)),
        "vault_gap_cm2": float(gap_mm2[vault].sum() / 100),
        "fat_share": _fat_share(rays),
    }
    return figures | _shape(volume, rays)


def _fat_share(rays: Rays) -> float:
    """Return the share of fat inside the ring; the samples of a ray stand for ever more area outwards."""
    steps = np.arange(REACH_MM)
    # The last two samples before the bone are mixed with it or with air.
    weight = np.where(steps < rays.radius_mm[..., None] - 2, steps, 0)
    fat = (rays.hu > FAT_HU[0]) & (rays.hu < FAT_HU[1])
    return float((weight * fat).sum() / max(1, weight.sum()))


def _shape(volume: CtVolume, rays: Rays) -> dict[str, float]:
    """Return axes, direction and regularity of the sections, medians of the larger ones."""
    angle = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    sin, cos = np.sin(angle), np.cos(angle)
    radius = rays.radius_mm
    area = (radius**2).sum(axis=1) / 2
    middle = np.stack(((radius**3 * cos).sum(axis=1), (radius**3 * sin).sum(axis=1)), axis=1) / 3 / area[:, None]
    values = []
    for index in np.flatnonzero(area >= 0.7 * area.max()):
        r, (x, y), total = radius[index], middle[index], area[index]
        xx, yy, xy = (float((r**4 * turn).sum() / 4 / total) for turn in (cos * cos, sin * sin, sin * cos))
        spread, axes = np.linalg.eigh(np.array([[xx - x * x, xy - x * y], [xy - x * y, yy - y * y]]))
        half = 2 * np.sqrt(np.maximum(spread, 1e-6))
        along = axes[:, 1] @ volume.orientation
        outline = np.stack((r * cos - x, r * sin - y), axis=1) @ axes / half
        uneven = float(np.mean(np.abs(np.hypot(outline[:, 0], outline[:, 1]) - 1)))
        turn = float(np.degrees(np.arccos(min(1.0, abs(along[1]) / np.hypot(along[0], along[1] + 1e-12)))))
        values.append((half[0] / half[1], 2 * half[1], turn, uneven))
    names = ("roundness", "brain_length_mm", "turn_deg", "irregularity")
    shape = dict(zip(names, (float(value) for value in np.median(np.array(values), axis=0)), strict=True))
    if abs(volume.normal[2]) < np.cos(np.radians(TURN_TILT_DEG)):
        del shape["turn_deg"]
    return shape
