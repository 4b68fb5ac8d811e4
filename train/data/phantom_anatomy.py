"""Head shape of the phantom: who the patient is, intracranial space, cortex with its sulci and fissures.

Everything is a level set in mm on the lattice of `phantom_fields`. Distances and proportions are those of adult
cross-sectional anatomy; they are drawn, not measured on any person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from train.data.phantom_fields import (
    NOISE_HALF_MM,
    FloatArray,
    Grid,
    band_noise_lattice,
    intersect,
    smooth_min,
    smooth_noise,
)

#: Height of the section with the largest circumference, mm.
EQUATOR_Z_MM = -4.0


@dataclass(frozen=True, slots=True)
class Patient:
    """What differs from one phantom patient to the next (lengths in mm).

    Attributes
    ----------
    age_years
        Drives atrophy, white-matter disease and calcification.
    half_width_mm, half_length_mm, top_mm
        Inner table: half axes in x and y, height of the vertex over the equator.
    atrophy
        0 for a young brain, around 1 for a very atrophic one.
    cortex_gap_mm
        Mean width of the subarachnoid space over the convexity.
    sulcus_half_mm
        Half width of a sulcus at the surface.
    ventricle_scale
        Factor on the radii of the ventricles.
    ventricle_asymmetry
        Radius added left and taken off right.
    skull_mm
        Mean thickness of the vault.
    scalp_mm
        Mean thickness of the scalp.
    midline_mm
        Sideways shift of the falx.
    """

    age_years: float
    half_width_mm: float
    half_length_mm: float
    top_mm: float
    atrophy: float
    cortex_gap_mm: float
    sulcus_half_mm: float
    ventricle_scale: float
    ventricle_asymmetry: float
    skull_mm: float
    scalp_mm: float
    midline_mm: float


def draw_patient(rng: np.random.Generator, mean_age_years: float) -> Patient:
    """Draw a patient; the age is normal around the centre's mean with a spread of 11 years."""
    age = float(np.clip(rng.normal(mean_age_years, 11.0), 25, 92))
    atrophy = float(np.clip((age - 35) / 55 + rng.normal(0, 0.14), 0, 1.15))
    size = rng.normal(0, 0.025)
    return Patient(
        age_years=age,
        half_width_mm=68.5 * (1 + size + rng.normal(0, 0.02)),
        half_length_mm=84.5 * (1 + size + rng.normal(0, 0.02)),
        top_mm=65.5 * (1 + size * 0.6 + rng.normal(0, 0.012)),
        atrophy=atrophy,
        cortex_gap_mm=0.9 + 1.7 * atrophy + rng.uniform(0, 0.5),
        sulcus_half_mm=0.30 + 0.62 * atrophy + rng.uniform(0, 0.15),
        ventricle_scale=float(np.clip(0.72 + 0.55 * atrophy + rng.normal(0, 0.11), 0.55, 1.6)),
        ventricle_asymmetry=float(rng.normal(0, 0.45)),
        skull_mm=float(rng.uniform(4.8, 6.8)),
        scalp_mm=float(rng.uniform(4.5, 7.0)),
        midline_mm=float(rng.normal(0, 0.6)),
    )


@dataclass(frozen=True, slots=True)
class Space:
    """The coordinate frame in which the organs of one patient are drawn, on the lattice.

    Attributes
    ----------
    x, y, z
        Head coordinates with the patient's own smooth warp, (S, R, C), mm; x is measured from the midline.
    side
        |x|: structures that come in pairs are drawn once, with the warp making them unequal.
    direction
        +1 on the patient's left, -1 on the right.
    rho
        Norm of the vault: 0 at its centre, 1 at the inner table.
    depth
        Distance to the inner table, positive inside, mm.
    outer
        Distance to the skin, positive inside, mm.
    floor_z
        Height of the skull base under each point, mm.
    """

    x: FloatArray
    y: FloatArray
    z: FloatArray
    side: FloatArray
    direction: FloatArray
    rho: FloatArray
    depth: FloatArray
    outer: FloatArray
    floor_z: FloatArray


def _sigmoid(value: FloatArray) -> FloatArray:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * value), dtype=np.float32)


def skull_base_height(x: FloatArray, y: FloatArray) -> FloatArray:
    """Height of the floor of the three cranial fossae, mm, for x (1,1,C) and y (1,R,1) -> (1,R,C)."""
    side = np.abs(x)
    anterior = -15.0 + 8.0 * np.exp(-(((side - 27) / 13) ** 2)) * np.exp(-(((y + 50) / 26) ** 2)) + 0 * y
    anterior = anterior + 3.0 * np.exp(-((side / 2.5) ** 2)) * np.exp(-(((y + 62) / 10) ** 2))
    middle = -33.0 + 9.0 * ((side - 38) / 22) ** 2 + 7.0 * ((y + 6) / 28) ** 2
    posterior = -51.0 + 20.0 * ((side / 46) ** 2 + ((y - 38) / 40) ** 2) ** 1.5
    sella = -16.0 + 5.0 * np.exp(-(((y - 4) / 3.5) ** 2)) + 0 * side
    clivus = np.clip(-12.0 - 1.9 * (y - 6), -52, -12) + 0 * side
    ridge_y = 4.0 + 0.42 * side
    wing_y = -24.0 - 14.0 * np.exp(-(((side - 38) / 16) ** 2))
    lateral = _sigmoid((side - 15) / 1.6)
    is_anterior = _sigmoid((wing_y - y) / 1.8)
    is_posterior = _sigmoid((y - ridge_y) / 1.8)
    central = np.where(y < 5, sella, clivus)
    between = lateral * middle + (1 - lateral) * central
    open_behind = np.minimum(posterior, np.where(side < 12, np.maximum(clivus, posterior), posterior))
    height = is_anterior * anterior + (1 - is_anterior) * (is_posterior * open_behind + (1 - is_posterior) * between)
    petrous = 15.0 * np.exp(-(((y - ridge_y) / 6.0) ** 2)) * _sigmoid((side - 19) / 2.5) * _sigmoid((56 - side) / 4)
    return np.asarray(np.clip(height + petrous * (1 - is_anterior), -53, -5), dtype=np.float32)


def _vault_norm(
    x: FloatArray, y: FloatArray, z: FloatArray, half: tuple[float, float, float], cylinder_below: bool
) -> FloatArray:
    """Norm of an egg-shaped superellipsoid: 1 on the surface, wider behind than in front."""
    power = 2.45
    v = y / np.float32(half[1])
    u = x / (half[0] * (1 + 0.11 * v - 0.10 * v * v))
    above = z - EQUATOR_Z_MM
    w = np.where(above > 0, above / half[2], 0 if cylinder_below else above / (-115.0))
    total = np.abs(u) ** power + np.abs(v) ** power + np.abs(w) ** power
    return np.asarray(np.maximum(total, 1e-6) ** (1 / power), dtype=np.float32)


def build_space(rng: np.random.Generator, grid: Grid, patient: Patient) -> Space:
    """Draw the patient's warp, the intracranial space and the skin."""
    x, y, z = grid.coordinates()
    broad = [smooth_noise(rng, grid, 48.0) for _ in range(3)]
    fine = [smooth_noise(rng, grid, 19.0) for _ in range(3)]
    half = (patient.half_width_mm, patient.half_length_mm, patient.top_mm)
    rho = _vault_norm(x, y, z, half, cylinder_below=False) + np.float32(0.008) * broad[0]
    floor_z = skull_base_height(x + np.float32(1.5) * broad[1][0], y + np.float32(1.5) * broad[2][0])
    base = z - floor_z + np.float32(1.2) * fine[0]
    vault = grid.to_distance(1 - rho, 0.004)
    # The floor's slope shortens the distance beside a steep wall, but not far above it.
    slope = np.maximum(grid.gradient_norm(base), 0.5)
    base = base / (1 + (slope - 1) * np.exp(-np.maximum(base, 0) / 8.0))
    depth = smooth_min(vault, base.astype(np.float32), 5.0)
    shell = patient.skull_mm + patient.scalp_mm
    skin_half = (half[0] + shell, half[1] + shell + 1.0, half[2] + shell - 1.0)
    skin = 1 - _vault_norm(x, y, z, skin_half, cylinder_below=True) + np.float32(0.008) * broad[0]
    warp_x, warp_y, warp_z = (1.3 * b + 0.9 * f for b, f in zip(broad, fine, strict=True))
    midline = patient.midline_mm * (1 - (y / 90) ** 2)
    x_warped = (x - midline + warp_x).astype(np.float32)
    return Space(
        x=x_warped,
        y=(y + warp_y).astype(np.float32),
        z=(z + warp_z).astype(np.float32),
        side=np.abs(x_warped),
        direction=np.sign(x_warped).astype(np.float32),
        rho=rho,
        depth=depth,
        outer=grid.to_distance(skin, 0.004),
        floor_z=np.broadcast_to(floor_z, rho.shape),
    )


@dataclass(frozen=True, slots=True)
class Cortex:
    """Fields from which cortex and subarachnoid space are drawn (lattice, mm).

    Attributes
    ----------
    surface
        Distance under the outer brain surface, positive in the brain.
    sulcus
        Signed distance to the nearest sulcal sheet (zero on it).
    sulcus_half
        Half width of the sulcus here; negative where no sulcus reaches.
    fissure_half
        Half width of the interhemispheric fissure; negative where the hemispheres are joined.
    sylvian, insula
        Signed distances to the two sheets of the Sylvian fissure.
    sylvian_half, insula_half
        Their half widths; negative outside their extent.
    thickness
        Thickness of the cortex.
    """

    surface: FloatArray
    sulcus: FloatArray
    sulcus_half: FloatArray
    fissure_half: FloatArray
    sylvian: FloatArray
    sylvian_half: FloatArray
    insula: FloatArray
    insula_half: FloatArray
    thickness: FloatArray


def _projected(
    field: FloatArray, step_mm: float, space: Space, warp: Sequence[FloatArray], amount: float
) -> FloatArray:
    """Evaluate a noise lattice so that its sheets stand upright on the nearest surface of the brain.

    Over the convexity the points are pushed out along the radius; beside the fissure x is held, so that the sheets
    run from the midline outwards.
    """
    lateral = _sigmoid((space.side - 17.0) / 3.5)
    push = 1 + lateral * amount * (1 / np.maximum(space.rho, 0.38) - 1)
    held = space.direction * (16.0 + lateral * np.maximum(space.side - 16.0, 0))
    half = NOISE_HALF_MM[0]
    # Only in and just outside the intracranial space: the rest is never drawn.
    needed = space.depth > -6.0
    where = [
        ((axis * push + 2.4 * bend + half) / step_mm)[needed]
        for axis, bend in zip((space.z - 4.0, space.y, held), warp, strict=True)
    ]
    found = np.zeros(space.rho.shape, np.float32)
    found[needed] = ndimage.map_coordinates(field, np.asarray(where), order=3, mode="nearest", prefilter=False)
    return found


def sylvian_height(y: FloatArray) -> FloatArray:
    """Height of the Sylvian fissure, rising to posterior, mm."""
    return (-1.0 + 0.34 * (y + 18)).astype(np.float32)


def build_cortex(rng: np.random.Generator, grid: Grid, patient: Patient, space: Space) -> Cortex:
    """Draw sulci, fissures and the width of the subarachnoid space."""
    step = 4.0
    primary = band_noise_lattice(rng, 19.0, step, 0.22)
    secondary = band_noise_lattice(rng, 11.5, step, 0.25)
    warp = [smooth_noise(rng, grid, 12.0) for _ in range(3)]
    folds = _projected(primary, step, space, warp, 0.85) + 0.5 * _projected(secondary, step, space, warp, 0.75)
    sulcus = folds / np.maximum(grid.gradient_norm(folds), 0.06)
    regional = smooth_noise(rng, grid, 24.0)
    frontal = 0.5 * _sigmoid((-25 - space.y) / 8)
    gap = patient.cortex_gap_mm * (1 + 0.30 * regional + frontal) + 0.4
    surface = space.depth - np.maximum(gap, 0.6)
    reach = 15.0 + 5.5 * smooth_noise(rng, grid, 17.0) + 3.0 * patient.atrophy
    callosum_top = 27.0 - 0.011 * (space.y - 2) ** 2
    joined = intersect(callosum_top - space.z, space.y + 41, 46 - space.y)
    joined = np.maximum(joined, np.minimum(7.0 - np.abs(space.z + 5), 16 - np.abs(space.y - 6)))
    # Medial sulci start from the fissure, and only where there is one.
    medial = space.side - 1.5 + 2.0 * np.maximum(joined + 6.0, 0)
    # The sheets stand on the convexity: over the skull base, far from it, they have run out.
    far = 0.6 * np.maximum(65.0 * (1 - space.rho) - surface - 4.0, 0)
    inward = np.minimum(surface, np.maximum(medial, 0)) + far * _sigmoid((4.0 - space.z) / 3.0)
    taper = np.sqrt(np.clip(1.0 - inward / np.maximum(reach, 4.0), 0, 1))
    width = patient.sulcus_half_mm * (1 + 0.35 * regional)
    # Below the sheet's end the half width turns negative: neither fluid nor cortex follows it further down.
    sulcus_half = np.where(inward < reach, 0.15 + width * (0.45 + 0.75 * taper), reach - inward)

    opening = 0.55 + 0.5 * patient.atrophy + 0.9 * frontal * patient.atrophy
    fissure_half = np.where(joined > 0, -joined, opening + 0.3 * regional)

    ripple = smooth_noise(rng, grid, 7.0)
    varied = np.clip(1 + 0.5 * smooth_noise(rng, grid, 9.0), 0.35, 2.0)
    slope = 0.38 * np.clip(54.0 - space.side, -12, 18)
    sylvian = (space.z - sylvian_height(space.y) - slope + 4.0 + 1.6 * ripple) * 0.9
    insula_side = 38.5 - 0.010 * (space.y + 3) ** 2 - 0.016 * (space.z - 5) ** 2 + 2.3 * ripple
    insula = (space.side - insula_side) * 0.9
    ends = np.minimum(space.y + 33, 30 - space.y)
    open_front = 1 + 0.8 * np.exp(-(((space.y + 24) / 11) ** 2))
    width = (0.75 + 0.85 * patient.atrophy + 0.25 * regional) * open_front * varied
    sylvian_ends = np.minimum(ends, (space.side - insula_side + 1.0) * 0.9)
    insula_ends = np.minimum(np.minimum(space.y + 26, 19 - space.y), 13.5 - np.abs(space.z - 5.5))
    return Cortex(
        surface=surface,
        sulcus=sulcus,
        sulcus_half=sulcus_half.astype(np.float32),
        fissure_half=fissure_half.astype(np.float32),
        sylvian=sylvian,
        sylvian_half=smooth_min(width, sylvian_ends * 0.5, 2.0),
        insula=insula,
        insula_half=smooth_min(0.35 + width, insula_ends * 0.5, 2.0),
        thickness=(2.75 + 0.30 * regional).astype(np.float32),
    )
