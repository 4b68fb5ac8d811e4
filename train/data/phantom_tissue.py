"""From level sets to tissue: what each pixel of each sub-slice is made of, and its CT number and MR signal.

Sub-slices are averaged to thick slices as CT numbers and as MR signals, so partial volume is that of the physics.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from train.data.phantom_anatomy import Cortex, Patient, Space
from train.data.phantom_centres import Centre, relaxation
from train.data.phantom_deep import Deep
from train.data.phantom_fields import FloatArray, Grid, ramp, smooth_noise
from train.data.phantom_lesions import LesionPlan
from train.data.phantom_skull import Skull

#: b value of the diffusion-weighted images, s/mm2.
B_VALUE = 1000.0


class Tissue(IntEnum):
    """Values of the label volume."""

    AIR = 0
    CSF = 1
    CORTEX = 2
    WHITE_MATTER = 3
    DEEP_GREY = 4
    CEREBELLUM = 5
    BRAINSTEM = 6
    VENTRICLE = 7
    DURA_AND_VESSEL = 8
    SKULL = 9
    SOFT_TISSUE = 10


@dataclass(frozen=True, slots=True)
class Texture:
    """Smooth variation inside tissues, lattice fields of unit standard deviation (the last two are weights 0..1)."""

    ct: FloatArray
    t2: FloatArray
    tract: FloatArray
    white_disease: FloatArray
    old_infarct: FloatArray


@dataclass(frozen=True, slots=True)
class Parts:
    """All lattice fields of one case."""

    patient: Patient
    space: Space
    cortex: Cortex
    deep: Deep
    skull: Skull
    texture: Texture
    plan: LesionPlan
    lesion: FloatArray


@dataclass(frozen=True, slots=True)
class Composed:
    """Noise-free volumes (S, R, C) on the CT grid.

    Attributes
    ----------
    hu
        CT numbers.
    b0, b1000
        MR signals relative to the proton density of water.
    fractions
        (len(Tissue), S, R, C) share of each tissue.
    inside
        Share of the intracranial space.
    lesion
        Share of ischaemic tissue.
    """

    hu: FloatArray
    b0: FloatArray
    b1000: FloatArray
    fractions: NDArray[np.float16]
    inside: FloatArray
    lesion: FloatArray


def build_texture(
    rng: np.random.Generator, grid: Grid, patient: Patient, space: Space, cortex: Cortex, deep: Deep
) -> Texture:
    """Draw the texture, the white-matter disease and the old infarcts of one patient."""
    patchy = 0.7 * smooth_noise(rng, grid, 11.0) + 0.7 * smooth_noise(rng, grid, 6.0)
    burden = max(0.0, patient.atrophy - 0.25 + rng.normal(0, 0.2))
    reach = 3.0 + 9.0 * burden
    near = reach + deep.ventricle + 3.0 * patchy
    above = np.minimum(near, np.minimum(space.z - 2.0, deep.tentorium))
    spots = np.where(space.z > 8, 2.2 * (patchy - 2.1 + 0.8 * burden), -5)
    white = ramp(np.maximum(above, spots), 5.0) * np.float32(min(1.0, burden * 1.5))
    old = np.zeros(space.x.shape, np.float32)
    for _ in range(int(rng.poisson(0.35 * patient.atrophy + 0.12))):
        allowed = np.flatnonzero((cortex.surface > 2) & (cortex.surface < 40) & (space.z > -10) & (deep.tentorium > 4))
        if allowed.size:
            pick = rng.choice(allowed)
            gone = np.sqrt(sum((axis - axis.flat[pick]) ** 2 for axis in (space.x, space.y, space.z)))
            np.maximum(old, ramp(rng.uniform(2.5, 11.0) - gone + 1.5 * patchy, 2.5), out=old)
    return Texture(
        ct=(0.8 * smooth_noise(rng, grid, 16.0) + 0.6 * smooth_noise(rng, grid, 6.0)).astype(np.float32),
        t2=(0.75 * smooth_noise(rng, grid, 13.0) + 0.65 * smooth_noise(rng, grid, 5.0)).astype(np.float32),
        tract=(0.6 * smooth_noise(rng, grid, 8.0) + 0.8 * smooth_noise(rng, grid, 4.0)).astype(np.float32),
        white_disease=white,
        old_infarct=old,
    )


class _Plane:
    """Pixel planes of the lattice fields of one sub-slice; fields that are absent here are not enlarged."""

    def __init__(self, grid: Grid, index: int) -> None:
        self._grid, self._index = grid, index
        self._zero = np.zeros((grid.matrix, grid.matrix), np.float32)

    def __call__(self, field: FloatArray) -> FloatArray:
        return self._grid.enlarge(field[self._index])

    def soft(self, field: FloatArray, width_mm: float = 0.8) -> FloatArray:
        """Share of the pixel inside a level set."""
        plane = field[self._index]
        if plane.max() < -2.0:
            return self._zero
        return ramp(self._grid.enlarge(plane), width_mm)

    def weight(self, field: FloatArray) -> FloatArray:
        """A field of weights 0..1 that is often empty."""
        plane = field[self._index]
        if plane.max() <= 0:
            return self._zero
        return np.clip(self._grid.enlarge(plane), 0, 1)


@dataclass(slots=True)
class _Brain:
    """Shares of the intracranial tissues in one plane; they sum to one."""

    fluid: FloatArray
    cortex: FloatArray
    white: FloatArray
    deep: FloatArray
    pallidum: FloatArray
    thalamus: FloatArray
    cerebellar_grey: FloatArray
    cerebellar_white: FloatArray
    stem: FloatArray
    ventricle: FloatArray
    vessel: FloatArray


def _cerebrum(at: _Plane, parts: Parts) -> tuple[FloatArray, FloatArray]:
    """Shares of fluid and cortex in the supratentorial space."""
    cortex = parts.cortex
    midline = at(parts.space.x)
    gone = np.minimum(at(cortex.surface), np.abs(at(cortex.sulcus)) - at(cortex.sulcus_half))
    np.minimum(gone, np.abs(midline) - at(cortex.fissure_half), out=gone)
    for sheet, half in ((cortex.sylvian, cortex.sylvian_half), (cortex.insula, cortex.insula_half)):
        if half[at._index].max() > -3:
            np.minimum(gone, np.abs(at(sheet)) - at(half), out=gone)
    np.minimum(gone, -at(parts.deep.cistern), out=gone)
    np.minimum(gone, at(parts.deep.tentorium) + 0.1, out=gone)
    fluid = ramp(-gone, 0.8)
    return fluid, ramp(at(cortex.thickness) - gone, 1.0) * (1 - fluid)


def _hindbrain(at: _Plane, parts: Parts) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Cerebellum, its share of grey matter, and brainstem."""
    deep = parts.deep
    stem = at.soft(deep.brainstem)
    shape = np.minimum(parts.cortex.surface[at._index] - 0.6, deep.cerebellum[at._index] + 8.5)
    if shape.max() < -2:
        return at._zero, at._zero, stem
    shape = np.minimum(shape, np.minimum(-deep.tentorium[at._index] + 0.1, -deep.cistern[at._index]))
    inner = at._grid.enlarge(shape)
    folia = at(deep.folia)
    # Fluid between the folia near the surface, grey matter on their sides, a branching white core.
    cerebellum = ramp(inner - 1.3 * np.clip(-folia - 0.2, 0, 1) * np.clip(1 - inner / 9, 0, 1), 0.8)
    grey = np.clip(0.62 - 0.45 * folia - ramp(inner - 11, 5.0), 0, 1)
    return cerebellum * (1 - stem), grey, stem


def _brain_plane(at: _Plane, parts: Parts) -> _Brain:
    deep = parts.deep
    fluid, cortex = _cerebrum(at, parts)
    cerebellum, folia, stem = _hindbrain(at, parts)
    above = ramp(at(deep.tentorium), 0.8)
    striatum, pallidum, thalamus = (at.soft(f, 1.2) for f in (deep.deep_grey, deep.pallidum, deep.thalamus))
    nuclei = np.maximum(np.maximum(striatum, pallidum), thalamus)
    ventricle = at.soft(deep.ventricle, 1.0)
    vessel = at.soft(parts.skull.venous)
    dura = above * ramp(0.55 - np.abs(at(parts.space.x)), 0.7) * ramp(at(parts.cortex.fissure_half), 0.6)
    tent = ramp(0.5 - np.abs(at(deep.tentorium)), 0.7) * (at(deep.tentorium) < 3) * ramp(at(parts.space.y) - 18, 3.0)
    vessel = np.maximum(vessel, 0.8 * np.maximum(dura, tent))
    keep = (1 - vessel) * (1 - ventricle)
    tissue = keep * (1 - stem)
    nuclei_share = tissue * above * nuclei * (1 - 0.9 * fluid)
    total = np.maximum(striatum + pallidum + thalamus, 1e-6)
    rest = tissue * above - nuclei_share
    below = tissue * (1 - above)
    return _Brain(
        fluid=rest * fluid + below * (1 - cerebellum),
        cortex=rest * cortex,
        white=rest * np.maximum(1 - fluid - cortex, 0),
        deep=nuclei_share * striatum / total,
        pallidum=nuclei_share * pallidum / total,
        thalamus=nuclei_share * thalamus / total,
        cerebellar_grey=below * cerebellum * folia,
        cerebellar_white=below * cerebellum * (1 - folia),
        stem=keep * stem,
        ventricle=(1 - vessel) * ventricle,
        vessel=vessel,
    )


def _brain_hu(at: _Plane, parts: Parts, b: _Brain, lesion: FloatArray) -> FloatArray:
    texture = parts.texture
    grey = b.cortex + b.deep + b.pallidum + b.thalamus + b.cerebellar_grey
    pale = b.white + b.cerebellar_white + b.stem
    hu = 7.0 * (b.fluid + b.ventricle) + 37.0 * (b.cortex + b.cerebellar_grey) + 29.0 * (b.white + b.cerebellar_white)
    hu += 38.0 * b.deep + (38.5 + 1.5 * parts.patient.atrophy) * b.pallidum + 36.0 * b.thalamus + 31.0 * b.stem
    hu += 46.0 * b.vessel
    hu += (grey + pale) * at(texture.ct)
    hu -= 5.0 * at.weight(texture.white_disease) * b.white
    old = at.weight(texture.old_infarct) * (grey + b.white)
    hu += old * (11.0 - hu)
    hu -= parts.plan.hu_drop * lesion * (grey + 0.62 * pale)
    artery = at.soft(parts.skull.artery)
    hu += artery * (42.0 - hu) * 0.8
    if parts.plan.dense_artery:
        clot = artery * ((at(parts.space.x) * parts.plan.direction > 3) & (at(parts.space.y) < -8))
        hu += clot * 22.0
    hu += at.soft(parts.deep.calcification, 1.0) * 140.0
    return hu


def _brain_signal(
    at: _Plane, parts: Parts, centre: Centre, b: _Brain, lesion: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Signals of the intracranial space at b = 0 and b = 1000."""
    t2, texture, plan = relaxation(centre), parts.texture, parts.plan
    grey = b.cortex + b.cerebellar_grey
    white = b.white + b.cerebellar_white
    body = grey + white + b.deep + b.pallidum + b.thalamus + b.stem
    safe = 1 / np.maximum(body, 1e-4)
    disease = at.weight(texture.white_disease) * white * safe
    old = at.weight(texture.old_infarct)
    t2_ms = grey * t2.grey_t2_ms + (white + b.stem) * t2.white_t2_ms
    t2_ms = (t2_ms + (b.deep + b.thalamus) * t2.deep_t2_ms + b.pallidum * t2.pallidum_t2_ms) * safe
    t2_ms = t2_ms * (1 + 0.085 * at(texture.t2) + 0.35 * disease)
    tract = at(texture.tract)
    adc = (0.84 * grey + 0.74 * (white + b.stem) + 0.76 * (b.deep + b.thalamus + b.pallidum)) * safe
    adc = adc * (1 + 0.14 * tract * (white + b.stem) * safe) + 0.30 * disease
    density = (0.83 * grey + 0.72 * (white + b.stem) + 0.80 * (b.deep + b.thalamus + b.pallidum)) * safe
    core = np.clip(lesion * (0.93 + 0.10 * at(texture.t2)), 0, 1)
    adc += core * (plan.adc - adc)
    t2_ms *= 1 + plan.t2_gain * core
    body = body * (1 - old)
    fluid = b.fluid + b.ventricle + old * (1 - b.vessel - b.fluid - b.ventricle)
    decay = np.exp(-centre.echo_time_ms / np.maximum(t2_ms, 20.0))
    tissue = density * body * decay
    water = fluid * np.float32(np.exp(-centre.echo_time_ms / t2.fluid_t2_ms))
    b0 = tissue + water + 0.05 * b.vessel
    b1000 = tissue * np.exp(-adc * (B_VALUE / 1000.0)) + water * np.float32(np.exp(-3.0)) + 0.01 * b.vessel
    return b0, b1000


def _outside_plane(at: _Plane, parts: Parts) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """CT number, bone share, soft-tissue share and watery share of everything outside the inner table."""
    skull = parts.skull
    depth, outer = at(parts.space.depth), at(parts.space.outer)
    head = ramp(outer, 1.0)
    beyond = -depth
    thickness = at(skull.thickness)
    muscle = at.soft(skull.muscle, 1.5)
    # Fat under the skin; deeper, among the muscles of the face, in lobes.
    lobes = ramp(0.8 * at(skull.marrow) + 4.5 - 0.5 * outer + 0.3 * at(skull.cells), 2.0)
    layer = ramp(outer - 1.9, 0.8) * ramp(beyond - thickness - 0.9, 1.2) * np.maximum(lobes, ramp(8 - outer, 3.0))
    hu = 42.0 - 125.0 * layer * (1 - muscle) * np.clip(0.85 + 0.1 * at(skull.marrow), 0, 1) + 14.0 * muscle
    orbit, globe = at.soft(skull.orbit), at.soft(skull.globe)
    hu += orbit * (-78.0 - hu)
    hu += globe * (14.0 - hu)
    rim = np.minimum(beyond, thickness - beyond)
    marrow = np.clip(650.0 + 130.0 * at(skull.marrow), 250, 1100)
    bone_hu = marrow + (1350.0 - marrow) * ramp(1.7 - rim, 1.0)
    bone = ramp(rim, 0.8)
    face = at.soft(skull.face) * (1 - bone)
    hu += face * (780.0 - hu)
    hu += bone * (bone_hu - hu)
    dense = at.soft(skull.dense, 1.2)
    hu += dense * (1500.0 + 250.0 * at(skull.cells) - hu)
    mastoid = at.soft(skull.mastoid, 2.0) * ramp(outer - 5.0, 2.0)
    if mastoid.any():
        cell = ramp(at(skull.cells) - 0.1, 0.7)
        hu += mastoid * (900.0 - 1650.0 * cell - hu)
    sinus = at.soft(skull.sinus, 1.0) * ramp(beyond - 1.2, 0.8)
    hu += sinus * (-985.0 - hu)
    hu = -1000.0 + head * (hu + 1000.0)
    hard = np.clip(bone + face + dense + mastoid, 0, 1) * (1 - sinus) * head
    soft = head * (1 - hard) * (1 - sinus)
    return hu, hard, soft, globe * soft


def compose(parts: Parts, grid: Grid, centre: Centre) -> Composed:
    """Average the sub-slices of a case to its slices."""
    n_slices, n = grid.slice_z_mm.size, grid.matrix
    volumes = {name: np.zeros((n_slices, n, n), np.float32) for name in ("hu", "b0", "b1000", "inside", "lesion")}
    fractions = np.zeros((len(Tissue), n_slices, n, n), np.float16)
    share = np.float32(1 / grid.n_sub)
    for index in range(grid.sub_z_mm.size):
        s = index // grid.n_sub
        at = _Plane(grid, index)
        hu, hard, soft, water = _outside_plane(at, parts)
        b0 = 0.045 * (soft - water) + 0.9 * water
        b1000 = 0.014 * (soft - water) + 0.06 * water
        if parts.space.depth[index].max() > -1.0:
            inside = at.soft(parts.space.depth, 0.8)
            brain = _brain_plane(at, parts)
            lesion = at.soft(parts.lesion, 3.0)
            hu += inside * (_brain_hu(at, parts, brain, lesion) - hu)
            signals = _brain_signal(at, parts, centre, brain, lesion)
            b0 += inside * (signals[0] - b0)
            b1000 += inside * (signals[1] - b1000)
            tissue = 1 - brain.fluid - brain.ventricle - brain.vessel
            volumes["lesion"][s] += share * lesion * inside * tissue
            volumes["inside"][s] += share * inside
            _count(fractions[:, s], share * inside, brain)
            hard, soft = hard * (1 - inside), soft * (1 - inside)
        fractions[Tissue.SKULL, s] += share * hard
        fractions[Tissue.SOFT_TISSUE, s] += share * soft
        for name, plane in (("hu", hu), ("b0", b0), ("b1000", b1000)):
            volumes[name][s] += share * plane
    return Composed(fractions=fractions, **volumes)


def _count(fractions: NDArray[np.float16], share: FloatArray, b: _Brain) -> None:
    for tissue, part in (
        (Tissue.CSF, b.fluid),
        (Tissue.CORTEX, b.cortex),
        (Tissue.WHITE_MATTER, b.white),
        (Tissue.DEEP_GREY, b.deep + b.pallidum + b.thalamus),
        (Tissue.CEREBELLUM, b.cerebellar_grey + b.cerebellar_white),
        (Tissue.BRAINSTEM, b.stem),
        (Tissue.VENTRICLE, b.ventricle),
        (Tissue.DURA_AND_VESSEL, b.vessel),
    ):
        fractions[tissue] += share * part
