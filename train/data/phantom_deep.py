"""Deep structures of the phantom: ventricles, nuclei, brainstem, cerebellum, cisterns and calcifications.

Hollow organs are chains of tapered capsules along a centre line, blended smoothly and carved by the nuclei that
bulge into them, in the patient's warped coordinates: no surface is a plain ellipsoid in the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from train.data.phantom_anatomy import Patient, Space
from train.data.phantom_fields import FloatArray, Grid, intersect, smooth_max, smooth_min, smooth_noise, union

FAR_MM = -30.0
"""Value of a level set where its structure is certainly absent."""

Node = tuple[float, float, float, float]
"""A point of a centre line: side, y, z, radius in mm."""

FRONTAL_HORN_AND_BODY: tuple[Node, ...] = (
    (10.5, -34.0, 10.0, 3.2),
    (8.5, -27.0, 15.0, 4.4),
    (8.0, -15.0, 18.5, 4.4),
    (9.0, 0.0, 21.5, 4.2),
    (12.0, 14.0, 22.0, 4.3),
    (18.0, 26.0, 18.0, 5.0),
)
ATRIUM_AND_HORNS: tuple[Node, ...] = (
    (18.0, 26.0, 18.0, 5.0),
    (24.5, 33.0, 10.5, 6.2),
    (25.5, 44.0, 7.0, 4.2),
    (23.0, 57.0, 5.0, 1.8),
)
TEMPORAL_HORN: tuple[Node, ...] = (
    (24.5, 33.0, 10.5, 5.5),
    (29.5, 24.0, 0.0, 2.6),
    (31.5, 10.0, -9.5, 1.5),
    (30.0, -2.0, -15.0, 1.9),
    (27.0, -7.0, -17.0, 1.2),
)
CAUDATE: tuple[Node, ...] = (
    (12.5, -27.0, 8.0, 4.6),
    (13.5, -20.0, 10.5, 5.2),
    (14.5, -10.0, 16.0, 4.0),
    (16.0, 2.0, 20.5, 2.7),
    (20.0, 16.0, 20.5, 2.0),
)


@dataclass(frozen=True, slots=True)
class Deep:
    """Level sets of the deep structures on the lattice, mm, positive inside."""

    ventricle: FloatArray
    deep_grey: FloatArray
    pallidum: FloatArray
    thalamus: FloatArray
    brainstem: FloatArray
    cerebellum: FloatArray
    tentorium: FloatArray
    folia: FloatArray
    cistern: FloatArray
    calcification: FloatArray
    capsule: FloatArray


def capsule_chain(coordinates: Sequence[FloatArray], nodes: Sequence[Node], scale: FloatArray | float) -> FloatArray:
    """Level set of a chain of tapered capsules with soft joints (mm, positive inside)."""
    side, y, z = coordinates
    total: FloatArray | None = None
    for start, end in pairwise(nodes):
        axis = np.asarray(end[:3], np.float32) - np.asarray(start[:3], np.float32)
        ds, dy, dz = side - start[0], y - start[1], z - start[2]
        t = np.clip((ds * axis[0] + dy * axis[1] + dz * axis[2]) / float(axis @ axis), 0, 1)
        gone = np.sqrt((ds - t * axis[0]) ** 2 + (dy - t * axis[1]) ** 2 + (dz - t * axis[2]) ** 2)
        part = (start[3] + t * (end[3] - start[3])) * scale - gone
        total = part if total is None else smooth_max(total, part, 2.5)
    assert total is not None
    return total.astype(np.float32)


def ellipsoid(
    coordinates: Sequence[FloatArray],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
    turn: float,
) -> FloatArray:
    """Level set of an ellipsoid turned by `turn` degrees about z; about mm near its surface."""
    side, y, z = coordinates
    angle = np.deg2rad(turn)
    ds, dy, dz = side - centre[0], y - centre[1], z - centre[2]
    u = (ds * np.cos(angle) + dy * np.sin(angle)) / radii[0]
    v = (dy * np.cos(angle) - ds * np.sin(angle)) / radii[1]
    norm = np.sqrt(u * u + v * v + (dz / radii[2]) ** 2)
    return np.asarray((1 - norm) * np.float32(min(radii)), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Box:
    """The part of the lattice that holds the deep structures; they are absent elsewhere."""

    index: tuple[slice, slice, slice]
    shape: tuple[int, int, int]

    def cut(self, field: FloatArray) -> FloatArray:
        return field[self.index]

    def back(self, field: FloatArray, fill: float = FAR_MM) -> FloatArray:
        full = np.full(self.shape, fill, np.float32)
        full[self.index] = field
        return full


def _box(grid: Grid) -> _Box:
    x = np.abs(grid.lattice_x_mm) < 58
    y = (grid.lattice_y_mm > -56) & (grid.lattice_y_mm < 92)
    index = (slice(0, grid.sub_z_mm.size), slice(*np.flatnonzero(y)[[0, -1]]), slice(*np.flatnonzero(x)[[0, -1]]))
    return _Box(index, grid.shape)


def _nuclei(where: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Striatum, pallidum and thalamus."""
    caudate = capsule_chain(where, CAUDATE, 1.0)
    putamen = ellipsoid(where, (25.5, -4.5, 3.5), (5.6, 16.5, 11.5), 13.0)
    # The putamen's medial face is carved by the pallidum: it is a lens, not an ellipsoid.
    pallidum = ellipsoid(where, (19.2, -1.0, 1.5), (4.8, 9.5, 7.0), 22.0)
    putamen = smooth_min(putamen, -(pallidum - 0.4), 1.0)
    thalamus = ellipsoid(where, (11.0, 12.5, 8.0), (8.6, 15.0, 9.5), -28.0)
    return np.maximum(caudate, putamen), pallidum, thalamus


def _ventricles(patient: Patient, space_side: FloatArray, where: Sequence[FloatArray], scale: FloatArray) -> FloatArray:
    """Lateral, third and fourth ventricle."""
    side, y, z = where
    lateral = capsule_chain(where, FRONTAL_HORN_AND_BODY, scale)
    lateral = smooth_max(lateral, capsule_chain(where, ATRIUM_AND_HORNS, scale), 3.0)
    lateral = smooth_max(lateral, capsule_chain(where, TEMPORAL_HORN, scale * 0.95), 2.0)
    head = capsule_chain(where, CAUDATE[:4], 1.0)
    lateral = smooth_min(lateral, -(head + 0.3), 1.5)
    # The septum keeps the two sides apart; the thalamus bulges into the floor of the body.
    lateral = smooth_min(lateral, side - 0.8, 1.0)
    slit = 0.8 + 1.7 * max(patient.ventricle_scale - 0.6, 0)
    third = intersect(slit - side, 17 - np.abs(y - 2), 8.5 - np.abs(z - 1 + 0.12 * (y - 2)))
    fourth = ellipsoid(where, (0.0, 25.0, -27.0), (7.0, 5.0, 9.0), 0.0)
    fourth = smooth_min(fourth, 27.5 - y - 0.35 * side, 2.0)
    aqueduct = capsule_chain(where, ((0, 17, -4, 0.9), (0, 22, -18, 1.1)), 1.0)
    return union(lateral, third, fourth, aqueduct).astype(np.float32)


def _tentorium(space: Sequence[FloatArray]) -> FloatArray:
    """Height above the tentorium, mm: negative in the posterior fossa."""
    side, y, z = space
    ridge = 4.0 - 0.20 * np.maximum(y - 28, 0)
    slope = ridge - 0.36 * side - 0.0022 * side * side
    # In front of its free edge and of the petrous ridge there is no tent: the space belongs to the cerebrum.
    # In the notch, above the pons, the free edge lies behind the midbrain.
    notch = 0.25 * (1 + np.tanh((15.0 - side) / 3.0)) * (1 + np.tanh((z + 8.0) / 3.0))
    slope = slope - 2.5 * np.maximum(5.0 + 0.42 * side + 17.0 * notch - y, 0)
    return np.asarray(np.clip((z - slope) * 0.9, -40, 30), dtype=np.float32)


def _hindbrain(where: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Brainstem and cerebellum (without the tentorium's cut)."""
    pons = ellipsoid(where, (0.0, 8.5, -27.0), (16.5, 11.5, 14.5), 0.0)
    peduncle = ellipsoid(where, (9.5, 3.5, -9.0), (6.5, 8.0, 11.0), -32.0)
    tegmentum = ellipsoid(where, (0.0, 12.5, -9.0), (13.5, 8.5, 11.0), 0.0)
    medulla = capsule_chain(where, ((0, 12, -38, 9.5), (0, 17, -62, 7.5)), 1.0)
    stem = smooth_max(smooth_max(pons, medulla, 4.0), smooth_max(peduncle, tegmentum, 2.0), 3.0)
    half = ellipsoid(where, (24.0, 42.0, -28.0), (27.0, 27.0, 20.0), -14.0)
    vermis = ellipsoid(where, (0.0, 42.0, -22.0), (11.0, 20.0, 19.0), 0.0)
    arm = capsule_chain(where, ((12, 12, -27, 6.5), (24, 28, -28, 9.0)), 1.0)
    return stem, smooth_max(smooth_max(half, vermis, 6.0), arm, 4.0)


def _cisterns(patient: Patient, where: Sequence[FloatArray], stem: FloatArray) -> FloatArray:
    """Suprasellar, interpeduncular, ambient and quadrigeminal cisterns; positive in fluid."""
    side, y, z = where
    wide = 0.6 + 0.8 * patient.atrophy
    star = np.minimum(7.0 + wide * 2 - np.hypot(side * 0.8, (y + 13) * 0.85), 6.0 - np.abs(z + 12))
    arm = capsule_chain(where, ((6, -14, -11, 3.0), (20, -17, -9, 1.2), (30, -18, -6, 1.0)), wide)
    between = ellipsoid(where, (0.0, -3.0, -12.0), (5.0, 6.0, 8.0), 0.0)
    # A mantle around the midbrain: the ambient cistern; wider behind, over the tectum.
    mantle = np.minimum(0.8 + wide + 0.10 * np.maximum(y - 12, 0) + stem, 7.0 - np.abs(z + 8))
    quadrigeminal = ellipsoid(where, (0.0, 25.5, -2.0), (6.5 + wide, 3.0 + 0.7 * wide, 6.0), 0.0)
    prepontine = np.minimum(2.5 + wide + stem, np.minimum(10 - y, -14 - z))
    magna = ellipsoid(where, (0.0, 68.0, -46.0), (12.0, 10.0, 8.0), 0.0)
    fluid = union(star, arm, between, mantle, quadrigeminal, prepontine, magna)
    return np.minimum(fluid, -stem).astype(np.float32)


def _calcifications(rng: np.random.Generator, patient: Patient, where: Sequence[FloatArray]) -> FloatArray:
    """Pineal gland and choroid plexus, more with age."""
    shape = np.full(where[0].shape, FAR_MM, np.float32)
    if rng.random() < 0.35 + 0.4 * patient.atrophy:
        centre = (0.0, 22.5 + rng.normal(0, 1), 4.0 + rng.normal(0, 1))
        shape = np.maximum(shape, ellipsoid(where, centre, (2.2, 2.6, 2.4), 0.0))
    if rng.random() < 0.3 + 0.5 * patient.atrophy:
        centre = (23.5 + rng.normal(0, 1.5), 34.0 + rng.normal(0, 2), 9.0 + rng.normal(0, 1.5))
        size = rng.uniform(1.5, 3.2)
        shape = np.maximum(shape, ellipsoid(where, centre, (size, size * 1.5, size * 1.2), 20.0))
    return shape


def build_deep(rng: np.random.Generator, grid: Grid, patient: Patient, space: Space) -> Deep:
    """Draw the deep structures of one patient."""
    box = _box(grid)
    ripple = box.cut(smooth_noise(rng, grid, 9.0))
    ripple_y = box.cut(smooth_noise(rng, grid, 11.0))
    side, y, z = box.cut(space.side), box.cut(space.y), box.cut(space.z)
    where = (side + 0.7 * ripple, y + 0.9 * ripple_y, z + 0.7 * ripple)
    direction = box.cut(space.direction)
    scale = patient.ventricle_scale * (1 + 0.10 * ripple_y) + 0.12 * patient.ventricle_asymmetry * direction
    striatum, pallidum, thalamus = _nuclei(where)
    ventricle = _ventricles(patient, side, where, scale.astype(np.float32))
    thalamus = smooth_min(thalamus, -ventricle, 1.0)
    stem, cerebellum = _hindbrain(where)
    tentorium = _tentorium(where)
    cerebellum = smooth_min(cerebellum, -tentorium - 0.8, 2.0)
    cerebellum = np.minimum(cerebellum, np.minimum(-stem + 2.0, y - 10))
    # Folia: sheets parallel to the tentorium that bend down towards the back.
    folia_phase = tentorium + 0.35 * np.hypot(side * 0.7, y - 34) + 1.3 * ripple
    folia = np.cos(folia_phase * np.float32(2 * np.pi / 4.6))
    wall = union(striatum, pallidum)
    capsule = np.minimum(np.minimum(4.5 - np.abs(side - 17 - 0.12 * np.abs(y - 2)), 26 - np.abs(y)), -wall)
    capsule = np.minimum(np.minimum(capsule, -thalamus), 12 - np.abs(z - 6))
    return Deep(
        ventricle=box.back(ventricle),
        deep_grey=box.back(striatum),
        pallidum=box.back(pallidum),
        thalamus=box.back(thalamus),
        brainstem=box.back(stem),
        cerebellum=box.back(cerebellum),
        tentorium=box.back(tentorium, 30.0),
        folia=box.back(folia, 0.0),
        cistern=box.back(_cisterns(patient, where, stem)),
        calcification=box.back(_calcifications(rng, patient, where)),
        capsule=box.back(capsule.astype(np.float32)),
    )
