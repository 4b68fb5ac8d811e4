"""What a phantom should look like when its anatomy is known: the ground that the references of training stand on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from train.data.phantom import CENTRES, LesionKind, PhantomCase, Tissue, draw_parts, inner_depth, scan_parts
from train.data.phantom_centres import random_streams
from train.data.phantom_ct import ct_signal
from train.data.phantom_deep import FAR_MM
from train.data.phantom_dwi import STORED_GAIN
from train.data.phantom_fields import FloatArray, Grid, make_grid
from train.data.phantom_plans import SetGeometry
from train.data.phantom_tissue import Parts, compose

#: Share of the grey matter's drop that each tissue takes: white matter 0.62 (spec of the phantom), cerebellum is mixed.
DROP_SHARES = {
    Tissue.CORTEX: 1.0,
    Tissue.DEEP_GREY: 1.0,
    Tissue.WHITE_MATTER: 0.62,
    Tissue.BRAINSTEM: 0.62,
    Tissue.CEREBELLUM: 0.85,
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a case by whoever knows its anatomy, (S, R, C) float32 on the CT grid.

    Attributes
    ----------
    hu
        CT of the same head on the same scanner in the same state (calibration, table, hardening), without lesion,
        noise and rounding.
    hu_anatomy
        The same for whoever knows the tissues but neither the texture of HU within them nor the state of the scanner:
        no texture, and calibration and streaks drawn afresh.
    drop_share
        How much of a lesion's HU drop each voxel would take, 0..1.
    tissue
        Share of brain tissue.
    dwi_known
        `PhantomCase.dwi_clean` without the texture of T2 and of fibre tracts, which no CT shows; lesion and all else
        known. Empty unless asked for.
    dwi_healthy
        The same without the lesion.
    """

    hu: FloatArray
    hu_anatomy: FloatArray
    drop_share: FloatArray
    tissue: FloatArray
    dwi_known: FloatArray
    dwi_healthy: FloatArray


def _plain(parts: Parts) -> Parts:
    """The same head without the texture that shows on diffusion images only."""
    flat = np.zeros_like(parts.texture.t2)
    return dataclasses.replace(parts, texture=dataclasses.replace(parts.texture, t2=flat, tract=flat))


def _well(parts: Parts) -> Parts:
    """The same head without its lesion: what ``lesion="none"`` draws."""
    plan = dataclasses.replace(
        parts.plan, kind=LesionKind.NONE, onset_h=0.0, hu_drop=0.0, t2_gain=0.0, dense_artery=False
    )
    return dataclasses.replace(parts, plan=plan, lesion=np.full_like(parts.lesion, FAR_MM))


def _texture(parts: Parts, grid: Grid) -> FloatArray:
    """HU texture of brain tissue averaged to the slices, (S, R, C)."""
    planes = [parts.texture.ct[k : k + grid.n_sub].mean(axis=0) for k in range(0, grid.sub_z_mm.size, grid.n_sub)]
    return np.stack([grid.enlarge(plane) for plane in planes])


def case_with_expectation(
    seed: int, centre: str, geometry: SetGeometry | None = None, *, diffusion: bool = True
) -> tuple[PhantomCase, Expected]:
    """Make a case as `generate_case` does, and what is expected of it; the anatomy is drawn once for both.

    Parameters
    ----------
    seed, centre
        As for `generate_case`.
    geometry
        Of the scan.
    diffusion
        Also compute `Expected.dwi_known`.
    """
    shape, scanner = geometry or SetGeometry(), CENTRES[centre]
    grid = make_grid(shape.matrix, shape.fov_mm, shape.n_slices, shape.slice_mm)
    parts = draw_parts(seed, scanner, grid)
    case = scan_parts(parts, grid, shape.slice_mm, scanner, seed)
    plain = _plain(parts)
    made = compose(_well(plain), grid, scanner)
    bone, depth = made.fractions[Tissue.SKULL].astype(np.float32), inner_depth(parts, grid)
    hu = ct_signal(random_streams(seed, scanner)["ct"], grid, scanner, made.hu, bone, made.inside, depth)
    tissue_share = made.fractions[list(DROP_SHARES)].sum(axis=0, dtype=np.float32)
    bare = made.hu - tissue_share * _texture(parts, grid)
    another_day = np.random.default_rng([seed, scanner.index, 0x5245])
    hu_anatomy = ct_signal(another_day, grid, scanner, bare, bone, made.inside, depth)
    gain = np.float32(STORED_GAIN)
    known = compose(plain, grid, scanner).b1000 * gain if diffusion else np.zeros((0, 0, 0), np.float32)
    share = np.zeros(hu.shape, np.float32)
    for tissue, weight in DROP_SHARES.items():
        share += np.float32(weight) * made.fractions[tissue].astype(np.float32)
    return case, Expected(hu, hu_anatomy, share, tissue_share, known, made.b1000 * gain)
