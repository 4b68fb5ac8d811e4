"""Is there a brain, and what should the reader of the result know about it: judged on a CT and its brain mask.

The mask answers where the brain would be; here several independent properties must agree that it is one: volume and
section, HU and their spread, and the ring of bone around it (`jmmda_model.imaging.skull`). Codes, words and figures are
in `jmmda_model.eligibility_codes`. NumPy and SciPy alone.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from jmmda_model.eligibility_codes import CODES, EligibilityLimits, is_refusal
from jmmda_model.imaging.errors import ImagingError
from jmmda_model.imaging.skull import BONE_HU, cast_rays, ring_figures
from jmmda_model.imaging.volume import BoolArray, CtVolume, FloatArray

if TYPE_CHECKING:
    from jmmda_model.imaging.mask import BrainMask

__all__ = ["EligibilityLimits", "ensure_eligible", "judge", "with_age"]

WHOLE_BRAIN_MM: Final = 120.0
"""Height of a brain: a shorter stack must hold proportionally less."""
SMALLEST_SECTION_CM2: Final = 40.0
"""Largest section of the smallest brain; of any slab of `SECTION_WITHIN_MM` of it, near the vertex too."""
SECTION_WITHIN_MM: Final = 20.0
BRAIN_MEDIAN_HU: Final = (10.0, 60.0)
"""Water is 0, a brain of fluid and oedema 20, one of grey matter in a scanner that reads high 50."""
SPREAD_HU: Final = 8.0
"""Least spread inside a brain, where 16 to 44 were measured; uniform fillings with noise of 4 HU had 4 to 5."""
LARGEST_FAT_SHARE: Final = 0.15
"""A brain holds no fat: 0.01 at most was measured under a closed vault; the drawn pelvis has 0.47."""
LEAST_SKULL_HU: Final = 180.0
"""A drawn infant of 2.6 mm of soft bone has 590, heads 1000 and more; acrylic has 120."""
LARGEST_OPEN_SHARE: Final = 0.5
"""Gaps of 110 mm on both sides at once leave 0.37 open."""
LARGEST_IRREGULARITY: Final = 0.15
"""Mean deviation from an ellipse; whole phantoms and two real heads have 0.02 to 0.03, with gaps of 120 mm 0.04."""
LARGEST_SLAB_IRREGULARITY: Final = 0.2
"""The same where less than half a brain's height shows: slabs of a skull base had up to 0.17, necks 0.24 up."""
HALF_ROUNDNESS: Final = 0.56
"""Narrowest section: phantoms and two real heads have 0.77 to 0.87, half a head 0.42; long heads lie between."""
CYLINDER_RATIO: Final = 0.85
CYLINDER_MM: Final = 80.0
"""Over this height the sections of a brain differ by a third at least; those of a test object do not."""
CUT_NOTED_SHARE: Final = 0.01
"""One direction of sixty-four in most sections: less is a pixel at the border."""
TURNED_DEG: Final = 60.0
TURNED_ROUNDNESS: Final = 0.9
"""A rounder head has no long axis worth the name."""

BLOCK_MM: Final = 2.0
"""Voxels are averaged to about this size in-plane before HU are judged, against noise."""
BLOCK_HEIGHT_MM: Final = 4.0
BLOOD_HU: Final = (55.0, 100.0)
NEAR_METAL_MM: Final = 20.0
FAR_METAL_ML: Final = 0.5
"""So much metal throws streaks through the whole slice."""
CHILD_LENGTH_MM: Final = 140.0
CHILD_SKULL_MM: Final = 5.0
"""As measured, blur included: adults have 165 and 8 to 13. Only a head below both counts without a known age."""


def judge(volume: CtVolume, mask: BrainMask, limits: EligibilityLimits | None = None) -> BrainMask:
    """Add to a mask what the eligibility check finds: figures, refusals, quality flags.

    Parameters
    ----------
    volume : CtVolume
        The CT.
    mask : BrainMask
        Its brain, with the figures ``median_hu``, ``largest_section_cm2``, ``threshold_hu`` and ``defect_ml``; of its
        flags ``cut_off_scan`` and ``open_skull`` are used.
    limits : EligibilityLimits, optional
        What the site set; the defaults when left out.

    Returns
    -------
    BrainMask
        Flags in the order of `CODES`, refusals first. Where nothing plausible was found, the refusal stands alone
        and the mask is empty.
    """
    limits = limits or EligibilityLimits()
    figures = dict(mask.figures)
    figures["brain_height_mm"] = _height_mm(volume, mask.mask)
    if mask.volume_ml > 0:
        rays = cast_rays(volume, mask.mask, min(BONE_HU, figures.get("threshold_hu", BONE_HU)))
        figures |= _section_ratio(volume, mask.mask)
        figures |= ring_figures(volume, rays) if rays is not None else {}
        figures |= _inside(volume, mask.mask)
        figures |= _metal(volume, mask.mask, limits.metal_hu)
    # Not-a-number, the median of nothing, is no JSON.
    figures = {name: round(value, 4) for name, value in figures.items() if np.isfinite(value)}
    cut_off = "cut_off_scan" in mask.flags
    if _is_object(figures) or _is_small(volume, figures, limits):
        # A part of a head is often too small for a brain as well, and then its own name helps more.
        part = not _is_object(figures) and figures["largest_section_cm2"] >= SMALLEST_SECTION_CM2
        found = {"half_brain" if part and _is_half(figures, cut_off, limits) else "no_brain"}
        mask = replace(mask, mask=np.zeros_like(mask.mask))
    else:
        found = set(mask.flags) | _quality(figures, cut_off, limits)
        if _is_half(figures, cut_off, limits):
            found.add("half_brain")
        if figures.get("cut_share", 0.0) >= CUT_NOTED_SHARE and figures["vault_gap_cm2"] < limits.open_skull_cm2:
            # What the mask took for a gap of the vault is the edge of the image.
            found.discard("open_skull")
    flags = tuple(code for code in CODES if code in found) + tuple(sorted(found - set(CODES)))
    return replace(mask, flags=flags, figures=MappingProxyType(figures))


def with_age(mask: BrainMask, age_years: float | None, limits: EligibilityLimits | None = None) -> BrainMask:
    """Let a known age decide whether the patient is a child, instead of the size of the head.

    Parameters
    ----------
    mask : BrainMask
        From `judge`.
    age_years : float or None
        From the header; None leaves the mask as it is.
    limits : EligibilityLimits, optional
        What the site set.
    """
    if age_years is None or any(map(is_refusal, mask.flags)):
        return mask
    found = set(mask.flags) - {"child"}
    if age_years < (limits or EligibilityLimits()).child_below_years:
        found.add("child")
    flags = tuple(code for code in CODES if code in found) + tuple(sorted(found - set(CODES)))
    return replace(mask, flags=flags, figures=MappingProxyType({**mask.figures, "age_years": round(age_years, 1)}))


def ensure_eligible(mask: BrainMask) -> None:
    """Refuse a volume without a brain, or with a part of one; quality flags are for the record.

    Raises
    ------
    ImagingError
        ``no_brain`` or ``half_brain``, with all figures.
    """
    refusals = [flag for flag in mask.flags if is_refusal(flag)]
    if not refusals and not mask.mask.any():
        refusals = ["no_brain"]
    if refusals:
        reason = CODES[refusals[0]].words.rstrip(".").lower()
        told = (f"{name} {mask.figures[name]:.3g}" for name in CODES[refusals[0]].figures if name in mask.figures)
        raise ImagingError(refusals[0], f"{reason} ({', '.join(told)})", mask.figures)


def _is_object(figures: dict[str, float]) -> bool:
    """Whether HU or the ring rule a brain out, whatever its size; what could not be measured rules nothing out."""
    brain = BRAIN_MEDIAN_HU[0] <= figures.get("median_hu", -1.0) <= BRAIN_MEDIAN_HU[1]
    brain &= figures.get("fat_share", 0.0) <= LARGEST_FAT_SHARE
    brain &= figures.get("skull_hu", LEAST_SKULL_HU) >= LEAST_SKULL_HU
    if figures["brain_height_mm"] > WHOLE_BRAIN_MM / 2:
        brain &= figures.get("spread_hu", SPREAD_HU) >= SPREAD_HU
        brain &= figures.get("irregularity", 0.0) <= LARGEST_IRREGULARITY
    else:
        # A slab may show neither ventricle nor sulcus, and orbits and petrous bone alone.
        brain &= figures.get("irregularity", 0.0) <= LARGEST_SLAB_IRREGULARITY
    brain &= figures.get("section_ratio", 0.0) <= CYLINDER_RATIO
    return not brain


def _is_small(volume: CtVolume, figures: dict[str, float], limits: EligibilityLimits) -> bool:
    """Whether too little lies in the ring, too much, or the ring is hardly there."""
    covered_mm = float(volume.slice_extent_mm.sum())
    least_ml = limits.min_brain_ml * min(1.0, covered_mm / WHOLE_BRAIN_MM)
    brain = least_ml <= figures["volume_ml"] <= limits.max_brain_ml
    brain &= figures["largest_section_cm2"] >= SMALLEST_SECTION_CM2 * min(1.0, covered_mm / SECTION_WITHIN_MM)
    brain &= figures.get("open_share", 0.0) <= LARGEST_OPEN_SHARE
    return not brain


def _is_half(figures: dict[str, float], cut_off: bool, limits: EligibilityLimits) -> bool:
    """Whether too much of the brain is not in the images: it is narrow, runs into their edge, or is low."""
    narrow = figures.get("roundness", 1.0) < HALF_ROUNDNESS
    cut = figures.get("cut_share", 0.0) > limits.max_cut_share
    return narrow or cut or (cut_off and figures["brain_height_mm"] < limits.min_brain_height_mm)


def _quality(figures: dict[str, float], cut_off: bool, limits: EligibilityLimits) -> set[str]:
    """Return the quality flags that the figures ask for."""
    usual = limits.usual_min_ml <= figures["volume_ml"] <= limits.usual_max_ml
    small = figures.get("brain_length_mm", 999.0) < CHILD_LENGTH_MM and figures.get("skull_mm", 99.0) < CHILD_SKULL_MM
    long = figures.get("roundness", 1.0) < TURNED_ROUNDNESS
    metal = figures.get("metal_near_ml", 0.0) >= limits.metal_ml or figures.get("metal_ml", 0.0) >= FAR_METAL_ML
    asked = {
        "volume": not cut_off and not usual,
        "open_skull": figures.get("vault_gap_cm2", 0.0) >= limits.open_skull_cm2,
        "hyperdense": figures.get("hyperdense_ml", 0.0) >= limits.hyperdense_ml,
        "metal": metal,
        "child": small,
        "cut_off_side": figures.get("cut_share", 0.0) >= CUT_NOTED_SHARE,
        "turned_head": long and figures.get("turn_deg", 0.0) > TURNED_DEG,
    }
    return {flag for flag, holds in asked.items() if holds}


def _height_mm(volume: CtVolume, mask: BoolArray) -> float:
    """Return the extent of the mask along the normal."""
    hit = np.flatnonzero(mask.any(axis=(1, 2)))
    if not hit.size:
        return 0.0
    extent = volume.slice_extent_mm
    return float(np.ptp(volume.offsets_mm[hit[[0, -1]]]) + (extent[hit[0]] + extent[hit[-1]]) / 2)


def _section_ratio(volume: CtVolume, mask: BoolArray) -> dict[str, float]:
    """Return smallest over largest section, where enough height is covered for it to mean something."""
    if _height_mm(volume, mask) < CYLINDER_MM:
        return {}
    areas = np.count_nonzero(mask, axis=(1, 2))
    areas = areas[areas > 0]
    return {"section_ratio": float(areas.min() / areas.max())}


def _blocks(volume: CtVolume, mask: BoolArray) -> tuple[FloatArray, FloatArray, float]:
    """Average HU and mask around the mask to blocks; return both and the volume of a block in ml."""
    spans = [np.flatnonzero(mask.any(axis=tuple(set(range(3)) - {axis}))) for axis in range(3)]
    box = tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    height_mm = float(np.median(volume.slice_extent_mm))
    sizes = [max(1, round(BLOCK_HEIGHT_MM / height_mm))]
    sizes += [max(1, round(BLOCK_MM / spacing)) for spacing in volume.spacing_mm]
    inside = _block_means(mask[box].astype(np.float32), sizes)
    hu = _block_means(np.where(mask[box], volume.hu[box], np.float32(0)), sizes)
    size_ml = float(np.prod(sizes)) * height_mm * volume.spacing_mm[0] * volume.spacing_mm[1] / 1000
    return np.divide(hu, inside, out=np.zeros_like(hu), where=inside > 0), inside, size_ml


def _block_means(stack: FloatArray, sizes: list[int]) -> FloatArray:
    """Average blocks of a stack; the last ones are filled up with zeros."""
    for axis, size in enumerate(sizes):
        count = -(-stack.shape[axis] // size)
        fill = [(0, count * size - stack.shape[axis] if other == axis else 0) for other in range(3)]
        padded = np.pad(stack, fill) if fill[axis][1] else stack
        stack = padded.reshape(*stack.shape[:axis], count, size, *stack.shape[axis + 1 :]).mean(axis=axis + 1)
    return stack


def _inside(volume: CtVolume, mask: BoolArray) -> dict[str, float]:
    """Return the spread of HU and the largest part as dense as blood, of means over three blocks."""
    hu, share, block_ml = _blocks(volume, mask)
    weight = ndimage.uniform_filter(share, (0, 3, 3))
    mean = ndimage.uniform_filter(hu * share, (0, 3, 3)) / np.maximum(weight, 1e-6)
    cross = ndimage.generate_binary_structure(3, 1) & np.array([False, True, False])[:, None, None]
    within = ndimage.binary_erosion(share > 0.99, cross)
    deep = ndimage.binary_erosion(within, cross, iterations=2)
    figures = {"hyperdense_ml": 0.0}
    if deep.any():
        low, high = np.percentile(mean[deep], (1, 99))
        figures["spread_hu"] = float(high - low)
    dense = within & (mean > BLOOD_HU[0]) & (mean < BLOOD_HU[1])
    # Falx, tentorium and the mixture with bone are sheets.
    dense = ndimage.binary_opening(dense, np.ones((1, 3, 3), dtype=bool))
    labels, count = ndimage.label(dense)
    if count:
        figures["hyperdense_ml"] = float(np.bincount(labels.ravel())[1:].max() * block_ml)
    return figures


def _metal(volume: CtVolume, mask: BoolArray, metal_hu: float) -> dict[str, float]:
    """Return the volume of metal in the slices with brain, near it and in all."""
    pixel_ml = volume.spacing_mm[0] * volume.spacing_mm[1] * volume.slice_extent_mm / 1000
    near_ml = all_ml = 0.0
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        if volume.hu[index].max() < metal_hu:
            continue
        metal = volume.hu[index] >= metal_hu
        distance = ndimage.distance_transform_edt(~mask[index], sampling=volume.spacing_mm)
        all_ml += float(np.count_nonzero(metal) * pixel_ml[index])
        near_ml += float(np.count_nonzero(metal & (distance <= NEAR_METAL_MM)) * pixel_ml[index])
    return {"metal_near_ml": near_ml, "metal_ml": all_ml}
