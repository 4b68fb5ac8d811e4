"""Where the brain is, on a coarse grid: the enclosure test, and the rules of anatomy around it.

All numbers are our reconstruction, set on public head CT and on phantoms; a test guards what each is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.defect import outline_across_gaps, under_skin, within_outline
from jmmda_model.imaging.enclosure import N_DIRECTIONS, enclosure_count
from jmmda_model.imaging.morphology import Morphology
from jmmda_model.imaging.resample import apply_weights, linear_weights
from jmmda_model.imaging.volume import BoolArray, CtVolume, FloatArray

COARSE_MM: Final = 2.0
CLAMP_HU: Final = (-200.0, 1000.0)

BONE_HU: Final = (250.0, 160.0, 110.0)
"""Skull thresholds, highest first: the high one keeps contrast and blood out, a low one saves thin or blurred bone."""
BETTER_ENCLOSURE: Final = 1.06
"""A lower threshold is taken when it encloses this much more."""

SUTURE_MM: Final = 4.0
"""Wider gaps part bone from the skull: a headrest behind the scalp, but not the plates of a child's vault."""
MORE_BONE: Final = 1.01
WHOLE_VAULT: Final = 1.02
"""Such plates count when they add this much bone and this much to what is enclosed."""
ENCLOSED_HU: Final = (-15.0, 100.0)
"""What counts for the choice of threshold: no bone that is blurred or thin."""
SEED_HU: Final = (-15.0, 130.0)
"""The upper one lets clotted blood beside the vault in; what it lets in of blurred bone is one pixel thin."""
SEED_ENCLOSURE: Final = 0.75
GROW_HU: Final = (-20.0, 130.0)
GROW_ENCLOSURE: Final = 0.62
ERODE_MM: Final = 5.0
"""Cuts the routes through orbit, jugular foramen and other holes of the base."""
HANGING_SHARE: Final = 0.25
"""Share of a section's part that must lie under brain of the section above."""
GROW_MM: Final = 7.0
NEXT_SLICE_MM: Final = 6.0
"""How far a section near the vertex may stand out from the one below it."""
FORAMEN_CM2: Final = 14.0
"""Going down, the first section smaller than this is the foramen magnum."""
CLOSE_MM: Final = 6.0

VAULT_MM: Final = 80.0
"""Depth below the vertex down to which the brain's outline is convex: no orbit, no petrous bone."""
METAL_HU: Final = 900.0
"""Coarse HU of clips and coils; no calcification fills a coarse pixel with as much."""
METAL_ENCLOSURE: Final = 0.9
STREAK_HU: Final = (-600.0, 800.0)
"""What streaks leave of brain in a section with metal inside."""
STREAK_MM: Final = 30.0
"""How far from undisturbed brain such streaks may reach."""

TISSUE_HU: Final = -150.0
"""Below lies air: what ends there is skin."""
DEFECT_ML: Final = 10.0
"""A smaller gap in the vault is a suture or a burr hole."""


@dataclass(frozen=True, slots=True)
class CoarseGrid:
    """A stack on 2 mm pixels whose slices share one in-plane origin, lowest slice first.

    Attributes
    ----------
    hu : numpy.ndarray
        (S, R, C) float32, HU clamped to `CLAMP_HU`.
    origin_mm : tuple[float, float]
        In-plane position of the first pixel (row axis, column axis), see `CtVolume.in_plane_origin_mm`.
    height_mm, extent_mm : numpy.ndarray
        (S,) position along the normal, upwards, and length for which each slice stands.
    turned : bool
        Whether slices run against the volume's order.
    """

    hu: FloatArray
    origin_mm: tuple[float, float]
    height_mm: npt.NDArray[np.float64]
    extent_mm: npt.NDArray[np.float64]
    turned: bool

    def areas_cm2(self, mask: BoolArray) -> npt.NDArray[np.float64]:
        """Return the area of each section, (S,)."""
        return np.asarray(np.count_nonzero(mask, axis=(1, 2)) * (COARSE_MM**2 / 100), dtype=np.float64)

    def volume_ml(self, mask: BoolArray) -> float:
        """Return a volume from true slice positions."""
        return float(self.areas_cm2(mask) @ self.extent_mm / 10)

    def in_volume_order(self, stack: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a stack on this grid in the order of the volume's slices."""
        return stack[::-1] if self.turned else stack


@dataclass(frozen=True, slots=True)
class FoundBrain:
    """Result of the search on the coarse grid.

    Attributes
    ----------
    mask : numpy.ndarray
        (S, R, C) bool on the coarse grid, lowest slice first.
    threshold_hu : float
        Bone threshold that was kept.
    seed_ml, defect_ml : float
        Volume that bone encloses, and volume given back where the vault is open.
    cut_off : bool
        The stack ends inside the brain.
    streaked : numpy.ndarray
        (S,) bool: sections in which metal inside the skull throws streaks, so that HU say little.
    """

    mask: BoolArray
    threshold_hu: float
    seed_ml: float
    defect_ml: float
    cut_off: bool
    streaked: BoolArray


def coarse_grid(volume: CtVolume) -> CoarseGrid:
    """Regrid a stack to 2 mm in-plane; on a tilted stack this also takes out the shear between slices."""
    spacing, size = np.array(volume.spacing_mm), np.array(volume.hu.shape[1:])
    origin = volume.in_plane_origin_mm()
    low = origin.min(axis=0)
    shape = np.floor(((origin + (size - 1) * spacing).max(axis=0) - low) / COARSE_MM).astype(int) + 1
    hu = np.empty((volume.hu.shape[0], *shape), dtype=np.float32)
    for index, plane in enumerate(volume.hu):
        start = (low - origin[index]) / spacing
        rows, columns = (
            linear_weights(int(size[axis]), start[axis], COARSE_MM / spacing[axis], int(shape[axis])) for axis in (0, 1)
        )
        hu[index] = apply_weights(np.clip(plane, *CLAMP_HU), rows, columns, CLAMP_HU[0])
    turned = bool(volume.normal[2] < 0)
    order = slice(None, None, -1 if turned else 1)
    return CoarseGrid(
        hu=np.ascontiguousarray(hu[order]),
        origin_mm=(float(low[0]), float(low[1])),
        height_mm=volume.offsets_mm[order] * (-1 if turned else 1),
        extent_mm=volume.slice_extent_mm[order],
        turned=turned,
    )


@dataclass(frozen=True, slots=True)
class Trace:
    """The steps of one search, (S, R, C) each, for a picture of them.

    Attributes
    ----------
    bone, count, seed, core
        Skull, directions with bone in sight, what is enclosed, and what erosion leaves of that.
    found
        The result.
    """

    bone: BoolArray
    count: npt.NDArray[np.uint8]
    seed: BoolArray
    core: BoolArray
    found: FoundBrain


def find_brain(grid: CoarseGrid, tools: Morphology) -> FoundBrain:
    """Find the brain of a stack on the coarse grid.

    Parameters
    ----------
    grid : CoarseGrid
        From `coarse_grid`.
    tools : Morphology
        Backend.
    """
    return trace(grid, tools).found


def trace(grid: CoarseGrid, tools: Morphology) -> Trace:
    """Find the brain as `find_brain` does, and keep the steps."""
    bone, count, threshold_hu = _skull(grid, tools)
    seed = _seed(grid, bone, count)
    core = _hanging_from_above(tools.largest(tools.erode(seed, ERODE_MM / COARSE_MM)), tools)
    room = (count >= GROW_ENCLOSURE * N_DIRECTIONS) & _within(grid.hu, GROW_HU) & ~bone
    brain = tools.dilate(core, GROW_MM / COARSE_MM) & room
    brain = _without_neck(grid, _up_to_vertex(brain, seed, tools))
    brain = tools.fill_holes(tools.closed(brain, CLOSE_MM / COARSE_MM))
    brain, streaked = _through_streaks(grid, brain, bone, count, tools)
    brain, defect_ml = _defect(grid, brain, bone, tools)
    areas = grid.areas_cm2(brain)
    cut_off = bool(max(areas[0], areas[-1]) >= FORAMEN_CM2)
    found = FoundBrain(brain, threshold_hu, grid.volume_ml(seed), defect_ml, cut_off, streaked)
    return Trace(bone, count, seed, core, found)


def _within(hu: FloatArray, limits: tuple[float, float]) -> BoolArray:
    """Return where HU lie strictly between two limits."""
    return np.asarray((hu > limits[0]) & (hu < limits[1]))


def _seed(
    grid: CoarseGrid, bone: BoolArray, count: npt.NDArray[np.uint8], limits_hu: tuple[float, float] = SEED_HU
) -> BoolArray:
    """Return voxels of brain-like HU with bone nearly all around."""
    return (count >= SEED_ENCLOSURE * N_DIRECTIONS) & _within(grid.hu, limits_hu) & ~bone


def _skull(grid: CoarseGrid, tools: Morphology) -> tuple[BoolArray, npt.NDArray[np.uint8], float]:
    """Return the skull, the enclosure it gives, and its threshold: the highest that encloses nearly as much as any."""
    best_ml = -1.0
    for threshold_hu in BONE_HU:
        bone = tools.largest(grid.hu > threshold_hu)
        count = enclosure_count(bone)
        enclosed_ml = grid.volume_ml(_seed(grid, bone, count, ENCLOSED_HU))
        if best_ml < 0 or enclosed_ml > BETTER_ENCLOSURE * best_ml:
            best_ml, best = enclosed_ml, (bone, count, threshold_hu)
    bone, _, threshold_hu = best
    joined = _joined(grid.hu > threshold_hu, tools)
    if np.count_nonzero(joined) > MORE_BONE * np.count_nonzero(bone):
        count = enclosure_count(joined)
        if grid.volume_ml(_seed(grid, joined, count, ENCLOSED_HU)) > WHOLE_VAULT * best_ml:
            return joined, count, threshold_hu
    return best


def _joined(hard: BoolArray, tools: Morphology) -> BoolArray:
    """Return the largest piece of bone with all that only sutures part from it."""
    return hard & tools.largest(tools.dilate(hard, SUTURE_MM / 2 / COARSE_MM))


def _through_streaks(
    grid: CoarseGrid, brain: BoolArray, bone: BoolArray, count: npt.NDArray[np.uint8], tools: Morphology
) -> tuple[BoolArray, BoolArray]:
    """Give back, in sections with metal inside the skull, enclosed tissue that streaks made too dark or too bright.

    Returns the mask and which sections, (S,), these are.
    """
    enclosed = count >= METAL_ENCLOSURE * N_DIRECTIONS
    streaked = (enclosed & ~bone & (grid.hu > METAL_HU)).any(axis=(1, 2)) & brain.any(axis=(1, 2))
    out = brain.copy()
    for index in np.flatnonzero(streaked):
        here = slice(index, index + 1)
        near = tools.dilate(brain[here], STREAK_MM / COARSE_MM)
        tissue = enclosed[here] & near & _within(grid.hu[here], STREAK_HU) & ~bone[here]
        filled = tools.fill_holes(tools.opened(brain[here] | tissue, 2.0) | brain[here])
        out[here] = filled & ~tools.opened(bone[here], 1.0)
    return out, np.asarray(streaked)


def _hanging_from_above(core: BoolArray, tools: Morphology) -> BoolArray:
    """Keep, going down from the widest section, only parts that lie under a part kept in the section above.

    The lobes and the cerebellum hang from the brain above them. Muscle in front of the clivus, which a whole head scan
    encloses between jaw and skull base, joins the brain only from below.
    """
    out = core.copy()
    widest = int(np.argmax(np.count_nonzero(core, axis=(1, 2))))
    for index in range(widest - 1, -1, -1):
        labels, count = tools.label(core[index])
        area = np.bincount(labels.ravel(), minlength=count + 1)
        under = np.bincount(labels[out[index + 1]], minlength=count + 1)
        keep = under >= HANGING_SHARE * area
        keep[0] = False
        out[index] = keep[labels]
    return out


def _up_to_vertex(brain: BoolArray, seed: BoolArray, tools: Morphology) -> BoolArray:
    """Add, going up from the widest section, enclosed tissue that erosion removed: small sections near the vertex."""
    out = brain.copy()
    widest = int(np.argmax(np.count_nonzero(brain, axis=(1, 2))))
    for index in range(widest + 1, brain.shape[0]):
        near = tools.dilate(out[index - 1 : index], NEXT_SLICE_MM / COARSE_MM)[0]
        out[index] |= seed[index] & near
    return out


def _without_neck(grid: CoarseGrid, brain: BoolArray) -> BoolArray:
    """Remove, going down from the widest section, everything from the foramen magnum on."""
    areas = grid.areas_cm2(brain)
    small = np.flatnonzero(areas[: int(np.argmax(areas))] < FORAMEN_CM2)
    out = brain.copy()
    if small.size:
        out[: int(small[-1]) + 1] = False
    return out


def _defect(grid: CoarseGrid, brain: BoolArray, bone: BoolArray, tools: Morphology) -> tuple[BoolArray, float]:
    """Give back brain under an opening of the vault, and take away scalp that has sunk into it.

    Returns the mask and the volume added in ml; 0 for a closed vault.
    """
    sections = np.flatnonzero(brain.any(axis=(1, 2)))
    added, scalp = np.zeros_like(brain), np.zeros_like(brain)
    for index in sections:
        if grid.height_mm[index] < grid.height_mm[sections[-1]] - VAULT_MM:
            continue
        rows, columns = np.nonzero(brain[index])
        centre = (float(rows.mean()), float(columns.mean()))
        outline = outline_across_gaps(bone[index], centre)
        if outline is not None:
            shape = bone[index].shape
            sunk = under_skin(outline, bone[index], grid.hu[index] > TISSUE_HU, centre)
            added[index] = within_outline(shape, centre, outline) & ~brain[index]
            scalp[index] = ~within_outline(shape, centre, np.where(sunk < outline, sunk, np.inf))
    added = tools.opened(added & _within(grid.hu, SEED_HU) & ~bone, 1.0)
    added_ml = grid.volume_ml(added)
    if added_ml < DEFECT_ML:
        return brain, 0.0
    return tools.fill_holes(tools.closed(brain | added, CLOSE_MM / COARSE_MM) & ~scalp), added_ml
