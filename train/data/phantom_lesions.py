"""Ischaemic lesions of the phantom: vascular territories, their shapes, and what time does to them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from train.data.phantom_anatomy import Cortex, Space, sylvian_height
from train.data.phantom_deep import FAR_MM, Deep
from train.data.phantom_fields import FloatArray, Grid, smooth_min, smooth_noise, union


class LesionKind(StrEnum):
    """What was occluded."""

    NONE = "none"
    MCA_WHOLE = "mca_whole"
    MCA_DIVISION = "mca_division"
    MCA_BRANCH = "mca_branch"
    DEEP = "deep"
    ACA = "aca"
    PCA = "pca"
    CEREBELLAR = "cerebellar"
    LACUNE = "lacune"
    EMBOLI = "emboli"


#: Share of each kind in a random case: chosen so that lesion volumes spread over 0.3 / 32 / 190 ml (10, 50, 90 %).
KIND_SHARES = {
    LesionKind.NONE: 0.10,
    LesionKind.MCA_WHOLE: 0.12,
    LesionKind.MCA_DIVISION: 0.18,
    LesionKind.MCA_BRANCH: 0.20,
    LesionKind.DEEP: 0.08,
    LesionKind.ACA: 0.05,
    LesionKind.PCA: 0.06,
    LesionKind.CEREBELLAR: 0.05,
    LesionKind.LACUNE: 0.10,
    LesionKind.EMBOLI: 0.06,
}


@dataclass(frozen=True, slots=True)
class LesionPlan:
    """Kind, side and age of the lesion of one case.

    Attributes
    ----------
    kind
        Territory.
    direction
        +1 left, -1 right.
    onset_h
        Time from onset to the CT; 0 without lesion.
    hu_drop
        Loss of HU in ischaemic grey matter; 0 without lesion.
    adc
        ADC of the lesion's core, 1e-3 mm2/s.
    t2_gain
        Relative rise of T2 (shine-through).
    dense_artery
        A thrombus shows as a dense middle cerebral artery.
    """

    kind: LesionKind
    direction: int
    onset_h: float
    hu_drop: float
    adc: float
    t2_gain: float
    dense_artery: bool


def hu_drop_at(onset_h: float) -> float:
    """Mean loss of HU in grey matter `onset_h` hours after onset.

    About 1.5 HU at 1 h, 4 at 5 h and 7-8 at 24 h: water uptake, 1.8 HU per 1 % of water (Dzialowski 2004).
    """
    return 1.0 + 7.0 * (1.0 - float(np.exp(-onset_h / 9.0)))


def draw_plan(rng: np.random.Generator, lesion: str, side: str) -> LesionPlan:
    """Draw kind, side, time from onset and what follows from it.

    Raises
    ------
    ValueError
        If `lesion` or `side` is not one of the known words.
    """
    # Every value is drawn in every case, so that forcing the kind or the side changes nothing else.
    drawn = rng.choice(np.array(list(KIND_SHARES)), p=np.array(list(KIND_SHARES.values())))
    kind = LesionKind(str(drawn)) if lesion == "random" else LesionKind(lesion)
    sides = {"left": 1, "right": -1, "random": int(rng.choice([-1, 1]))}
    if side not in sides:
        raise ValueError(f"side must be one of {sorted(sides)}, not {side!r}")
    onset_h = float(np.clip(np.exp(rng.normal(np.log(4.3), 0.88)), 0.5, 48.0))
    vigour, adc = float(rng.uniform(0.7, 1.2)), float(rng.uniform(0.36, 0.52))
    t2_gain = float(np.clip(0.02 + 0.30 * (1 - np.exp(-onset_h / 10)) + rng.normal(0, 0.04), 0, 0.45))
    dense = bool(rng.random() < 0.45)
    if kind is LesionKind.NONE:
        return LesionPlan(kind, sides[side], 0.0, 0.0, adc, 0.0, False)
    dense = dense and kind in (LesionKind.MCA_WHOLE, LesionKind.MCA_DIVISION, LesionKind.DEEP)
    return LesionPlan(kind, sides[side], onset_h, hu_drop_at(onset_h) * vigour, adc, t2_gain, dense)


@dataclass(frozen=True, slots=True)
class _Territory:
    """Distances inside the large territories on the affected side, mm, positive inside."""

    mca: FloatArray
    aca: FloatArray
    pca: FloatArray


def _territories(rng: np.random.Generator, grid: Grid, space: Space, deep: Deep) -> _Territory:
    border = 3.0 * smooth_noise(rng, grid, 22.0)
    shift = float(rng.normal(0, 3.0))
    # The watersheds: to the ACA a strip beside the falx, wider in front; to the PCA behind and below.
    to_aca = space.side - (15.0 + 0.10 * np.maximum(-space.y - 20, 0) + 0.12 * np.maximum(space.z - 20, 0)) + border
    to_pca = 44.0 - 0.30 * np.maximum(space.z - 10, 0) - space.y + border + shift
    to_pca = np.minimum(to_pca, space.z + 21.0 - 0.35 * np.maximum(space.y, 0) + 0.5 * border)
    return _Territory(
        mca=np.minimum(to_aca, to_pca),
        aca=np.minimum(-to_aca, 36.0 - space.y + border),
        pca=np.minimum(-to_pca + 1.0, np.minimum(space.y - 5.0, deep.tentorium + 0.5)),
    )


def _cone(
    rng: np.random.Generator, space: Space, direction: int, azimuth_deg: tuple[float, float], width: tuple[float, float]
) -> FloatArray:
    """Wedge with its base on the convexity: a cone around a ray through the lateral hemisphere."""
    azimuth = np.deg2rad(rng.uniform(*azimuth_deg))
    lift = np.deg2rad(rng.uniform(-8, 48))
    ray = np.array([np.cos(azimuth) * np.cos(lift), -np.sin(azimuth) * np.cos(lift), np.sin(lift)], np.float32)
    ds, dy, dz = space.x * direction - 18.0, space.y + 2.0, space.z - 8.0
    length = np.sqrt(ds * ds + dy * dy + dz * dz) + 1e-3
    cosine = np.clip((ds * ray[0] + dy * ray[1] + dz * ray[2]) / length, -1, 1)
    half_angle = np.deg2rad(rng.uniform(*width))
    reach = rng.uniform(18, 42)
    return np.asarray(np.minimum((half_angle - np.arccos(cosine)) * length, reach - space.depth), dtype=np.float32)


def _balls(rng: np.random.Generator, space: Space, centres: np.ndarray, radii: np.ndarray) -> FloatArray:
    shape = np.full(space.x.shape, FAR_MM, np.float32)
    for (x, y, z), radius in zip(centres, radii, strict=True):
        gone = np.sqrt((space.x - x) ** 2 + (space.y - y) ** 2 + (space.z - z) ** 2)
        np.maximum(shape, radius - gone, out=shape)
    return shape


def _points_where(rng: np.random.Generator, space: Space, allowed: np.ndarray, count: int) -> np.ndarray:
    """Random lattice points (count, 3) in warped coordinates among those allowed; empty if there are none."""
    found = np.flatnonzero(allowed)
    if not found.size:
        return np.zeros((0, 3), np.float32)
    pick = rng.choice(found, size=count)
    return np.stack([space.x.ravel()[pick], space.y.ravel()[pick], space.z.ravel()[pick]], axis=1)


def _small(rng: np.random.Generator, plan: LesionPlan, space: Space, cortex: Cortex, deep: Deep) -> FloatArray:
    """Lacunes and multiple emboli."""
    on_side = space.x * plan.direction > 5
    if plan.kind is LesionKind.LACUNE:
        nuclei = union(deep.deep_grey, deep.pallidum, deep.thalamus, deep.capsule) > -1
        corona = (space.side < 32) & (np.abs(space.y) < 28) & (space.z > 16) & (space.z < 34)
        allowed = on_side & (nuclei | corona) & (deep.ventricle < -5) & (space.z > -8)
        centres = _points_where(rng, space, allowed, 1)
        return _balls(rng, space, centres, rng.uniform(3.2, 7.0, len(centres)))
    allowed = on_side & (cortex.surface > 2) & (cortex.surface < 9) & (space.z > -18) & (deep.tentorium > 4)
    centres = _points_where(rng, space, allowed, int(rng.integers(2, 8)))
    return _balls(rng, space, centres, rng.uniform(2.4, 7.0, len(centres)))


def _shape(
    rng: np.random.Generator, plan: LesionPlan, grid: Grid, space: Space, cortex: Cortex, deep: Deep
) -> FloatArray:
    kind = plan.kind
    if kind in (LesionKind.LACUNE, LesionKind.EMBOLI):
        return _small(rng, plan, space, cortex, deep)
    lands = _territories(rng, grid, space, deep)
    if kind is LesionKind.MCA_WHOLE:
        # Collaterals save a rim of the territory, in some patients a wide one.
        return lands.mca - float(rng.uniform(-1, 8))
    if kind is LesionKind.MCA_DIVISION:
        above = space.z - sylvian_height(space.y) + 1.0
        upper = bool(rng.random() < 0.55)
        part = np.minimum(above, 26.0 - space.y) if upper else np.minimum(9.0 - above, space.y + 34.0)
        # A division leaves the lenticulostriate ground alone.
        return smooth_min(np.minimum(lands.mca, part), space.side - 30.0, 4.0)
    if kind is LesionKind.MCA_BRANCH:
        return smooth_min(_cone(rng, space, plan.direction, (-48, 55), (10, 34)), lands.mca, 4.0)
    if kind is LesionKind.DEEP:
        grown = union(deep.deep_grey + 1.5, deep.pallidum + 2.0, deep.capsule + 1.0)
        limit = rng.uniform(6, 26)
        return np.asarray(np.minimum(grown, np.minimum(limit - space.y, 40 - space.side)), dtype=np.float32)
    if kind is LesionKind.ACA:
        return np.asarray(
            np.minimum(lands.aca, np.minimum(rng.uniform(8, 40) - space.y, space.z - 8.0)), dtype=np.float32
        )
    if kind is LesionKind.PCA:
        extent = rng.uniform(6, 20) - np.abs(space.z - rng.uniform(-4, 12))
        return np.asarray(np.minimum(lands.pca, extent), dtype=np.float32)
    split = float(rng.uniform(-34, -24))
    upper = bool(rng.random() < 0.4)
    part = (space.z - split) if upper else (split - space.z)
    return np.asarray(np.minimum(deep.cerebellum, np.minimum(part + 3.0, space.side - 3.0)), dtype=np.float32)


def build_lesion(
    rng: np.random.Generator, plan: LesionPlan, grid: Grid, space: Space, cortex: Cortex, deep: Deep
) -> FloatArray:
    """Level set of the lesion on the lattice, mm, positive inside; rough at two scales."""
    if plan.kind is LesionKind.NONE:
        return np.full(space.x.shape, FAR_MM, np.float32)
    shape = _shape(rng, plan, grid, space, cortex, deep)
    small = plan.kind in (LesionKind.LACUNE, LesionKind.EMBOLI)
    rough = 1.0 if small else 2.6
    shape = shape + rough * smooth_noise(rng, grid, 9.0) + 0.5 * rough * smooth_noise(rng, grid, 4.5)
    shape = np.minimum(shape, space.x * plan.direction - 1.0)
    if plan.kind is not LesionKind.CEREBELLAR:
        shape = np.minimum(shape, deep.tentorium - 0.5)
        shape = np.minimum(shape, -deep.brainstem - 1.0)
    return np.asarray(np.clip(shape, FAR_MM, 40), dtype=np.float32)
