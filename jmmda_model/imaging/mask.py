"""Brain mask of a head CT without a network: bone encloses the brain, and bone is what CT shows best.

After Muschelli et al. 2015 (clamp, smooth, fill) with BET's surface replaced by an enclosure test: a coarse grid
finds where the brain is (`coarse`), the CT's own resolution finds its edge (here).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from jmmda_model.imaging.coarse import COARSE_MM, CoarseGrid, FoundBrain, coarse_grid, find_brain
from jmmda_model.imaging.eligibility import EligibilityLimits, judge
from jmmda_model.imaging.morphology import Backend, Morphology, morphology
from jmmda_model.imaging.resample import apply_weights, linear_weights
from jmmda_model.imaging.volume import BoolArray, CtVolume, FloatArray

EDGE_HU: Final = (-20.0, 120.0)
"""HU between which the smoothed CT counts as brain at its edge; calcification and blood inside come back as holes."""
EDGE_SMOOTH_MM: Final = 0.6
MARGIN_MM: Final = 2.0
"""How far the edge may lie outside the coarse mask."""
WISP_MM: Final = 2.5
"""What a disk of this radius does not fit into is a nerve, a vessel or marrow, not brain."""
CORNER_MM: Final = 1.5
"""How much of a sharp corner is given back after `WISP_MM` rounded it."""
SPECK_CM2: Final = 0.5
AIR_BELOW_HU: Final = -150.0
"""Holes of air (sinus cells, intracranial air) stay holes: there is nothing to show in them."""
BONE_ABOVE_HU: Final = 200.0
BONE_ISLAND_CM2: Final = 1.5
"""Larger holes of bone are skull base (clivus, petrous ridge), smaller ones calcifications of plexus and falx."""
STREAK_RIM_MM: Final = 4.0
"""In a section with metal inside the skull, what lies deeper than this is brain whatever HU it shows."""
OUTLINE_MM: Final = 0.7
"""Smoothing of the outline, which follows the noise of single voxels otherwise."""


@dataclass(frozen=True, slots=True)
class BrainMask:
    """The brain (intracranial space down to the foramen magnum) on the CT grid.

    Attributes
    ----------
    mask : numpy.ndarray
        (S, rows, columns) bool.
    volume_ml : float
        Volume from true slice positions.
    flags : tuple[str, ...]
        Codes of `jmmda_model.eligibility_codes`, refusals first; ``given`` for a mask from elsewhere.
    figures : Mapping[str, float]
        Numbers for reports, units in the keys; their meanings stand beside the codes.
    """

    mask: BoolArray
    volume_ml: float
    flags: tuple[str, ...]
    figures: Mapping[str, float]


def brain_mask(volume: CtVolume, *, backend: Backend = "auto", limits: EligibilityLimits | None = None) -> BrainMask:
    """Find the brain in a head CT.

    Never raises for what the picture shows: a volume without a brain gives an empty mask and the flag ``no_brain``, on
    which `ensure_eligible` refuses.

    Parameters
    ----------
    volume : CtVolume
        Any number of slices, in any orientation that is roughly transverse.
    backend : {"auto", "opencv", "scipy"}
        Morphology library; the masks differ by rounding only.
    limits : EligibilityLimits, optional
        What the site set for the eligibility check.

    Raises
    ------
    ModuleNotFoundError
        ``opencv`` is asked for and not installed.
    """
    tools = morphology(backend)
    grid = coarse_grid(volume)
    found = find_brain(grid, tools)
    mask = _at_full_resolution(volume, grid, found, tools)
    volume_ml = volume.volume_ml(mask)
    # Every fourth voxel gives the median to a fraction of a HU.
    median_hu = float(np.median(volume.hu[mask][::4])) if volume_ml > 0 else float("nan")
    largest_cm2 = float(grid.areas_cm2(found.mask).max())
    figures = {
        "volume_ml": volume_ml,
        "median_hu": median_hu,
        "threshold_hu": found.threshold_hu,
        "enclosed_ml": found.seed_ml,
        "defect_ml": found.defect_ml,
        "largest_section_cm2": largest_cm2,
        "slices_with_brain": float(np.count_nonzero(mask.any(axis=(1, 2)))),
    }
    brain = BrainMask(mask=mask, volume_ml=volume_ml, flags=_flags(found), figures=MappingProxyType(figures))
    return judge(volume, brain, limits)


def _flags(found: FoundBrain) -> tuple[str, ...]:
    """Return what the search itself noticed; `judge` adds the rest."""
    return ("cut_off_scan",) * found.cut_off + ("open_skull",) * (found.defect_ml > 0)


def _at_full_resolution(volume: CtVolume, grid: CoarseGrid, found: FoundBrain, tools: Morphology) -> BoolArray:
    """Bring the coarse mask to the CT grid and let the CT's own edges decide."""
    mask = np.zeros(volume.hu.shape, dtype=bool)
    region = _region(volume, grid, found.mask, tools)
    if not region.any():
        return mask
    box = _box(region)
    inside = region[box]
    px = float(np.sqrt(volume.spacing_mm[0] * volume.spacing_mm[1]))
    hu = tools.smooth(np.clip(volume.hu[box], -200, 300), EDGE_SMOOTH_MM / px)
    deep = np.zeros_like(inside)
    streaked = grid.in_volume_order(found.streaked)[box[0]]
    deep[streaked] = tools.erode(inside[streaked], (MARGIN_MM + STREAK_RIM_MM) / px)
    inside &= ((hu > EDGE_HU[0]) & (hu < EDGE_HU[1])) | deep
    filled = tools.fill_holes(inside)
    bone = tools.without_specks(filled & ~inside & (hu > BONE_ABOVE_HU), BONE_ISLAND_CM2 * 100 / px**2)
    wide = tools.opened(filled, WISP_MM / px)
    brain = tools.without_specks(tools.dilate(wide, CORNER_MM / px) & filled & ~bone, SPECK_CM2 * 100 / px**2)
    outline = tools.smooth(brain, OUTLINE_MM / px) > 0.5
    mask[box] = (tools.fill_holes(outline) & ~bone & (hu > AIR_BELOW_HU)) | deep
    return mask


def _region(volume: CtVolume, grid: CoarseGrid, coarse: BoolArray, tools: Morphology) -> BoolArray:
    """Return the coarse mask with its margin on the CT grid, with a smooth outline."""
    margin = tools.smooth(tools.dilate(coarse, MARGIN_MM / COARSE_MM), 1.0)
    share: FloatArray = grid.in_volume_order(margin)
    origin, size = volume.in_plane_origin_mm(), volume.hu.shape[1:]
    region = np.zeros(volume.hu.shape, dtype=bool)
    for index in np.flatnonzero(share.any(axis=(1, 2))):
        rows, columns = (
            linear_weights(
                share.shape[axis + 1],
                (origin[index, axis] - grid.origin_mm[axis]) / COARSE_MM,
                volume.spacing_mm[axis] / COARSE_MM,
                size[axis],
            )
            for axis in (0, 1)
        )
        region[index] = apply_weights(share[index], rows, columns) > np.float32(0.5)
    return region


def _box(region: BoolArray) -> tuple[slice, slice, slice]:
    """Return the smallest box around a mask with a margin, to spare the work outside it."""
    spans = []
    for axis in range(3):
        hit = np.flatnonzero(region.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = 0 if axis == 0 else 8
        spans.append(slice(max(0, int(hit[0]) - margin), int(hit[-1]) + 1 + margin))
    return spans[0], spans[1], spans[2]
