"""Everything of the phantom's head that is not brain: vault with two tables, skull base, air spaces, orbits, scalp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.data.phantom_anatomy import Patient, Space
from train.data.phantom_deep import capsule_chain, ellipsoid
from train.data.phantom_fields import FloatArray, Grid, intersect, smooth_noise, union


@dataclass(frozen=True, slots=True)
class Skull:
    """Level sets and thickness maps outside the brain, lattice, mm, positive inside.

    Attributes
    ----------
    thickness
        Thickness of the bone around the intracranial space.
    marrow
        Relative density of the diploe, unit standard deviation around 0.
    dense
        Petrous bone and other compact bone.
    mastoid
        Air cell region behind the ear; `cells` says where its cells are air.
    cells
        Fine noise, unit standard deviation.
    sinus
        Air of the frontal, ethmoid, sphenoid and nasal cavities and of the pharynx.
    orbit
        Orbital fat.
    globe
        Eyeballs.
    face
        Bone of the face and the orbital walls.
    muscle
        Temporal and neck muscles.
    venous
        Superior sagittal, transverse and straight sinus.
    artery
        Basilar and middle cerebral arteries (both sides).
    """

    thickness: FloatArray
    marrow: FloatArray
    dense: FloatArray
    mastoid: FloatArray
    cells: FloatArray
    sinus: FloatArray
    orbit: FloatArray
    globe: FloatArray
    face: FloatArray
    muscle: FloatArray
    venous: FloatArray
    artery: FloatArray


def _airways(where: tuple[FloatArray, FloatArray, FloatArray], cells: FloatArray, frontal_size: float) -> FloatArray:
    """Paranasal sinuses, nose and pharynx, with septa."""
    ethmoid = ellipsoid(where, (0.0, -54.0, -30.0), (13.0, 30.0, 15.0), 0.0)
    ethmoid = np.minimum(ethmoid, 2.2 * cells + 1.8)
    sphenoid = ellipsoid(where, (7.5, -13.0, -27.0), (7.5, 11.0, 8.0), 0.0)
    maxillary = ellipsoid(where, (28.0, -52.0, -54.0), (14.0, 17.0, 15.0), 0.0)
    frontal = ellipsoid(where, (9.0, -86.5, -4.0), (8.0 * frontal_size, 4.2, 10.0 * frontal_size), 0.0)
    pharynx = ellipsoid(where, (0.0, -12.0, -60.0), (12.0, 8.0, 18.0), 0.0)
    return union(ethmoid, sphenoid, maxillary, frontal, pharynx).astype(np.float32)


def _vessels(space: Space, patient: Patient) -> tuple[FloatArray, FloatArray]:
    """Venous sinuses and basal arteries."""
    where = (space.side, space.y, space.z)
    side, y, z = where
    # Superior sagittal sinus: a triangle under the inner table in the midline.
    sagittal = np.minimum(4.6 - 0.8 * space.depth - side, 4.5 - np.abs(space.depth - 1.5))
    sagittal = np.minimum(sagittal, np.maximum(z - 8, np.minimum(y, z + 16)))
    transverse = np.minimum(3.4 - np.abs(space.depth - 2.2), 3.2 - np.abs(z + 13 - 0.05 * side))
    transverse = np.minimum(transverse, np.minimum(y - 26, 56 - side))
    straight = capsule_chain(where, ((0, 38, 3, 1.6), (0, 72, -9, 2.4)), 1.0)
    basilar = capsule_chain(where, ((0, -4.5, -34, 1.5), (0, -6, -15, 1.7)), 1.0)
    first = capsule_chain(where, ((7, -14, -10, 1.6), (20, -18, -8, 1.5), (31, -19, -5, 1.3)), 1.0)
    return union(sagittal, transverse, straight), np.maximum(basilar, first)


def build_skull(rng: np.random.Generator, grid: Grid, patient: Patient, space: Space) -> Skull:
    """Draw skull, face and scalp of one patient."""
    x, y, z = grid.coordinates()
    side = np.abs(x) + 0 * space.rho
    regional = smooth_noise(rng, grid, 26.0)
    cells = smooth_noise(rng, grid, 3.6)
    where = (side + 0.8 * regional, y + 0.9 * regional, z + 0.9 * regional)
    vault = patient.skull_mm * (1 + 0.10 * regional)
    occipital = 4.0 * np.exp(-((side / 14) ** 2) - ((z + 8) / 14) ** 2) * (y > 40)
    frontal = 1.6 * np.exp(-((side / 16) ** 2)) * (y < -50)
    temporal = -2.2 * np.exp(-(((z + 12) / 16) ** 2) - ((y + 12) / 22) ** 2) * (side > 40)
    base = 1 / (1 + np.exp(np.clip((z - space.floor_z - 9) / 2.5, -30, 30)))
    over_orbit = base * (y < -22)
    thickness = (vault + occipital + frontal + temporal) * (1 - 0.60 * over_orbit - 0.2 * base)
    petrous = capsule_chain(where, ((13, 9, -29, 5.0), (27, 15, -26, 7.5), (46, 25, -25, 8.0)), 1.0)
    clivus = capsule_chain(where, ((0, 1, -20, 5.0), (0, 8, -32, 4.5), (0, 13, -52, 4.0)), 1.0)
    wing = capsule_chain(where, ((14, -24, -13, 2.6), (34, -34, -11, 2.6), (52, -36, -8, 3.2)), 1.0)
    mastoid = ellipsoid(where, (53.0, 31.0, -36.0), (10.0, 15.0, 17.0), 0.0)
    sinus = _airways(where, cells, float(rng.uniform(0.6, 1.25)))
    orbit = ellipsoid(where, (31.0, -62.0, -29.0), (17.0, 27.0, 16.5), 20.0)
    globe = ellipsoid(where, (32.0, -75.0, -29.0), (12.0, 12.0, 12.0), 0.0)
    wall = np.minimum(orbit + 2.2, -orbit)
    nose = np.minimum(sinus + 1.6, -sinus)
    cheek = capsule_chain(where, ((46, -62, -34, 4.0), (56, -44, -42, 3.5), (62, -20, -42, 2.6)), 1.0)
    face = union(wall, np.where(y < 0, nose, -9), cheek, clivus, wing)
    temporalis = ellipsoid(where, (patient.half_width_mm + 5, -22.0, -12.0), (7.5, 30.0, 34.0), 8.0)
    neck = intersect(-32.0 - z + 0.2 * y, y - 22.0, 56.0 - side) + 2.5 * regional + 1.2 * cells
    venous, artery = _vessels(space, patient)
    return Skull(
        thickness=np.maximum(thickness, 1.6).astype(np.float32),
        marrow=smooth_noise(rng, grid, 5.0),
        dense=np.maximum(petrous, -9).astype(np.float32),
        mastoid=mastoid,
        cells=cells,
        sinus=sinus,
        orbit=orbit,
        globe=globe,
        face=face.astype(np.float32),
        muscle=np.maximum(temporalis, neck).astype(np.float32),
        venous=venous.astype(np.float32),
        artery=artery.astype(np.float32),
    )
