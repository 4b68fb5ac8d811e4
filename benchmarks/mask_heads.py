"""Phantom heads with what makes a brain mask hard: a neck, holes in the skull, blood, metal, a child's thin bone.

Every change is made to the composed head before the phantom's kernel, table, streaks and noise are added, so that
edges and noise are those of the scan. Shapes are drawn, not measured on any person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from jmmda_model.imaging import CtVolume
from train.data.phantom import CENTRES, draw_parts, inner_depth
from train.data.phantom_centres import random_streams
from train.data.phantom_ct import scan_ct
from train.data.phantom_fields import make_grid
from train.data.phantom_tissue import Tissue, compose

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]

SOFT_HU = 45.0
BRAIN_HU = 33.0
SCALP_MM = 6.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A composed head before it is scanned; changes write into the arrays, all (S, R, C) or broadcast to it.

    Attributes
    ----------
    hu, bone, inside
        CT numbers, shares of bone and of the intracranial space.
    depth
        Distance to the inner table, positive inside, mm.
    x, y, z
        Head coordinates (left, posterior, up), mm.
    """

    hu: FloatArray
    bone: FloatArray
    inside: FloatArray
    depth: FloatArray
    x: FloatArray
    y: FloatArray
    z: FloatArray

    def put(self, where: FloatArray, hu: float | FloatArray, hard: float = 0.0) -> None:
        """Put tissue where a level set (mm) is positive; bone when ``hard`` is 1."""
        share = np.clip(where / 0.9 + 0.5, 0, 1)
        self.hu[:] += share * (hu - self.hu)
        self.bone[:] += share * (hard - self.bone)

    def from_point(self, x: float, y: float, z: float) -> FloatArray:
        """Distance to a point, mm."""
        return np.asarray(np.sqrt((self.x - x) ** 2 + (self.y - y) ** 2 + (self.z - z) ** 2))


Change = Callable[[Drawn], None]


@dataclass(frozen=True, slots=True)
class Head:
    """A stack to find the brain in, and where the brain is.

    Attributes
    ----------
    volume
        What is given to the mask.
    brain
        (S, rows, columns) bool; None where no brain may be found.
    """

    volume: CtVolume
    brain: BoolArray | None


def scan_head(
    seed: int,
    centre: str = "A",
    *changes: Change,
    matrix: int = 256,
    n_slices: int = 26,
    slice_mm: float = 5.0,
    tilt_deg: float = 0.0,
    centre_z_mm: float = 8.0,
) -> Head:
    """Scan a phantom patient after some changes; words as for `generate_case`."""
    scanner = CENTRES[centre]
    grid = make_grid(matrix, 230.4, n_slices, slice_mm, tilt_deg, centre_z_mm)
    parts = draw_parts(seed, scanner, grid)
    made = compose(parts, grid, scanner)
    angle = np.deg2rad(tilt_deg)
    pixel = grid.pixel_mm
    drawn = Drawn(
        hu=made.hu,
        bone=made.fractions[Tissue.SKULL].astype(np.float32),
        inside=made.inside,
        depth=inner_depth(parts, grid),
        x=pixel[None, None, :],
        y=pixel[None, :, None] * np.cos(angle),
        z=grid.slice_z_mm[:, None, None] + pixel[None, :, None] * np.sin(angle),
    )
    for change in changes:
        change(drawn)
    rng = random_streams(seed, scanner)["ct"]
    hu = scan_ct(rng, grid, scanner, drawn.hu, drawn.bone, drawn.inside, drawn.depth)
    orientation = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(angle), np.sin(angle)]])
    table = np.zeros((n_slices, 3))
    table[:, 2] = grid.slice_z_mm
    positions = table + pixel[0] * (orientation[0] + orientation[1])
    spacing = (grid.spacing_mm, grid.spacing_mm)
    volume = CtVolume(hu.astype(np.float32), positions, orientation, spacing, np.full(n_slices, slice_mm))
    return Head(volume, drawn.inside > 0.5)


def neck(head: Drawn) -> None:
    """Neck with airway, spine and mandible; the canal opens into the skull through the foramen magnum."""
    below = -head.z - 62
    head.put(np.minimum(np.hypot(head.x, head.y - 12) - 62, below - 8), -1000.0)
    head.put(np.minimum(11 - np.hypot(head.x, (head.y + 14) * 1.4), below + 8), -1000.0)
    jaw = np.hypot(head.x, (head.y + 30) * 0.85)
    head.put(np.minimum.reduce(np.broadcast_arrays(5 - np.abs(jaw - 46), -12 - head.y, below)), 1100.0, 1.0)
    canal = np.hypot(head.x, (head.y - 24) * 1.15)
    body = np.maximum(14 - np.hypot(head.x, head.y - 2), 5 - np.abs(canal - 15))
    discs = 6.5 - np.abs((head.z + 200) % 17 - 8.5)
    head.put(np.minimum.reduce(np.broadcast_arrays(body, discs, below + 6)), 800.0, 1.0)
    foramen(head)


def foramen(head: Drawn) -> None:
    """Foramen magnum of 32 mm with the spinal cord below it: the phantom's own skull base is closed."""
    canal = np.hypot(head.x, (head.y - 24) * 1.15)
    head.put(np.minimum(15 - canal, -40 - head.z) + 0 * head.hu - 9 * (head.depth > 0), 15.0)
    head.put(np.minimum(6 - canal, -40 - head.z) + 0 * head.hu - 9 * (head.depth > 0), 35.0)


def open_base(head: Drawn) -> None:
    """Foramen magnum, no roof of the orbits, no floor under both middle fossae, a lytic clivus."""
    foramen(head)
    outside = (head.depth < 0) & (head.depth > -14)
    for at, radius in (((27, -48, -14), 16), ((-27, -48, -14), 16), ((38, -4, -36), 15), ((-38, -4, -36), 15)):
        head.put(np.where(outside & (head.bone > 0.05), radius - head.from_point(*at), -9.0), SOFT_HU)
    head.put(np.where(outside & (head.bone > 0.05), 14 - head.from_point(0, 6, -28), -9.0), SOFT_HU)


def head_holder(head: Drawn) -> None:
    """Hard cushion that touches the scalp, with a strap over the forehead and side supports."""
    skin = head.hu > -500
    near = ndimage.binary_dilation(skin, np.hypot(*np.mgrid[-4:5, -4:5])[None] <= 4) & ~skin
    head.hu[near & (head.y + 0 * head.x + 0 * head.z > 10)] = 450.0
    strap = near & (head.y + 0 * head.x < -40) & (np.abs(head.z + 0 * head.x - 20) < 12)
    head.hu[strap] = 300.0
    plate = (np.abs(np.abs(head.x) - 100) < 3) & (np.abs(head.y) < 60) & (head.z < 200)
    head.hu[plate & ~skin] = 700.0


def craniotomy(diameter_mm: float, out_mm: float = 0.0) -> Change:
    """Part of the left vault missing; brain that bulges out (or sinks in, below 0) by ``out_mm`` in its middle."""

    def change(head: Drawn) -> None:
        apart = head.from_point(72, 5, 18) / (diameter_mm / 2)
        hole = apart < 1
        moved = head.depth + out_mm * np.clip(1 - apart**2, 0, 1)
        outside = hole & (head.depth < 0.5)
        head.hu[outside & (head.hu > SOFT_HU)] = SOFT_HU
        head.bone[hole] = 0
        if out_mm == 0:
            return
        share = np.clip(moved / 0.9 + 0.5, 0, 1)
        if out_mm > 0:
            head.hu[hole & (moved > -SCALP_MM) & (head.hu < SOFT_HU) & (head.depth < 0)] = SOFT_HU
            new = share * hole * (head.inside < 1)
            head.hu[:] += new * (BRAIN_HU - head.hu) * (1 - head.inside)
            head.inside[hole] = np.maximum(head.inside, share)[hole]
        else:
            head.inside[hole] = np.minimum(head.inside, share)[hole]
            head.hu[hole & (moved <= 0)] = SOFT_HU
            head.hu[hole & (moved <= -SCALP_MM)] = -1000.0

    return change


def epidural(hu: float = 72.0, thickness_mm: float = 28.0) -> Change:
    """Lens of blood against the left vault."""

    def change(head: Drawn) -> None:
        lens = np.minimum(head.depth - 0.2, 48 - head.from_point(72 + 48 - thickness_mm, 0, 18))
        head.put(lens, hu + 4 * _mottle(head))

    return change


def subdural(hu: float = 80.0, thickness_mm: float = 14.0) -> Change:
    """Crescent of blood along the whole right convexity."""

    def change(head: Drawn) -> None:
        crescent = np.minimum(head.depth - 0.2, thickness_mm * np.cos(np.clip(head.y / 75, -1.5, 1.5)) - head.depth)
        where = np.minimum.reduce(np.broadcast_arrays(crescent, -8 - head.x, head.z + 8))
        head.put(where, hu + 4 * _mottle(head))

    return change


def clip(head: Drawn) -> None:
    """Aneurysm clip of metal with streaks in its slices."""
    apart = np.hypot(head.x - 24, head.y + 16)
    turn = np.arctan2(head.y + 16, head.x - 24)
    near = np.exp(-np.abs(head.z + 4) / 5)
    head.hu[:] += (
        420 * np.cos(9 * turn) * np.exp(-apart / 22) * near * np.clip(apart / 4, 0, 1) * (head.hu > -500)
    ).astype(np.float32)
    head.put(np.minimum(2.2 - apart, 6 - np.abs(head.z + 4)) + 0 * head.hu, 3000.0)


def vault_plate(head: Drawn) -> None:
    """Titanium plates and a drain on the right vault, with streaks."""
    on = (head.depth < -4) & (head.depth > -8) & (head.from_point(-70, 10, 25) < 18)
    turn = np.arctan2(head.y - 10, head.x + 74)
    apart = np.hypot(head.y - 10, head.x + 74)
    near = np.exp(-np.abs(head.z - 25) / 10)
    streaks = 260 * np.cos(11 * turn) * np.exp(-apart / 30) * near * (head.hu > -500)
    head.hu[:] += streaks.astype(np.float32)
    head.hu[on] = 3000.0
    head.put(2.0 - np.hypot(head.y - 20 + 0.1 * head.x, head.z - 30) - 9 * (head.x > -20), 400.0)


def thin_skull(head: Drawn) -> None:
    """Bone of a small child: thin, little calcified, with wide sutures and an open fontanelle."""
    sinus = (head.y < -70) & (np.abs(head.x) < 26) & (head.z < 14)
    vault = ((head.z + 0 * head.depth) > -20) & ~sinus
    head.hu[vault & (head.depth < -2.2) & (head.hu > SOFT_HU)] = SOFT_HU
    head.hu[:] = np.where(head.hu > 100, 100 + 0.28 * (head.hu - 100), head.hu)
    gap = (np.abs(head.x) < 2) | (np.abs(head.y + 20 - 0.2 * head.z) < 2) | (head.from_point(0, -25, 68) < 20)
    head.hu[vault & gap & (head.depth < 0.5) & (head.hu > SOFT_HU)] = SOFT_HU


def sagging_floor(head: Drawn) -> None:
    """A section of the skull base so blurred by partial volume that its bone stays below every threshold."""
    base = (head.depth < 1) & (head.depth > -6) & ((head.z + 0 * head.depth) < -10) & (head.bone > 0.05)
    head.hu[base] = SOFT_HU + 0.12 * (head.hu[base] - SOFT_HU)


def _mottle(head: Drawn) -> FloatArray:
    """Smooth noise of unit deviation: clotted blood is not uniform."""
    noise = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal(head.hu.shape), (0.5, 2, 2))
    return np.asarray(noise / noise.std(), dtype=np.float32)


def shrunk(head: Head, factor: float) -> Head:
    """The same picture of a smaller head."""
    was = head.volume
    spacing = (was.spacing_mm[0] * factor, was.spacing_mm[1] * factor)
    volume = CtVolume(was.hu, was.positions_mm * factor, was.orientation, spacing, was.thickness_mm * factor)
    return Head(volume, head.brain)


def with_noise(head: Head, deviation_hu: float) -> Head:
    """White noise on top of the scanner's own."""
    was = head.volume
    noise = np.random.default_rng(0).normal(0, deviation_hu, was.hu.shape)
    hu = (was.hu + noise).astype(np.float32)
    return Head(CtVolume(hu, was.positions_mm, was.orientation, was.spacing_mm, was.thickness_mm), head.brain)


def kept(head: Head, slices: slice) -> Head:
    """Some slices of a stack."""
    was, brain = head.volume, head.brain
    volume = CtVolume(
        was.hu[slices], was.positions_mm[slices], was.orientation, was.spacing_mm, was.thickness_mm[slices]
    )
    return Head(volume, None if brain is None else brain[slices])


def rotated(head: Head, degrees: float) -> Head:
    """A head that lies turned in its slices."""
    was, brain = head.volume, head.brain
    hu = ndimage.rotate(was.hu, degrees, axes=(2, 1), reshape=False, order=1, cval=-1024)
    volume = CtVolume(hu, was.positions_mm, was.orientation, was.spacing_mm, was.thickness_mm)
    if brain is None:
        return Head(volume, None)
    turned = ndimage.rotate(brain.astype(np.float32), degrees, axes=(2, 1), reshape=False, order=1) > 0.5
    return Head(volume, turned)


def prone(head: Head) -> Head:
    """The same patient on the belly: rows and columns run the other way (PS3.3 C.7.3.1.1.2, HFP)."""
    was, brain = head.volume, head.brain
    _, rows, columns = was.hu.shape
    far = (columns - 1) * was.spacing_mm[1] * was.orientation[0] + (rows - 1) * was.spacing_mm[0] * was.orientation[1]
    hu = np.ascontiguousarray(was.hu[:, ::-1, ::-1])
    volume = CtVolume(hu, was.positions_mm + far, -was.orientation, was.spacing_mm, was.thickness_mm)
    return Head(volume, None if brain is None else np.ascontiguousarray(brain[:, ::-1, ::-1]))
