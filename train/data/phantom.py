"""Digital head phantom: a paired CT and diffusion MR study of a synthetic patient, with lesion and labels.

Procedural and seeded: no image of a person enters it. The same seed, centre and geometry give the same arrays whatever
process or order they are made in (bit for bit on one machine with one version of numpy and scipy). Nothing learned or
measured on it says anything about patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from train.data.phantom_anatomy import build_cortex, build_space, draw_patient
from train.data.phantom_centres import CENTRES, Centre, random_streams
from train.data.phantom_ct import scan_ct
from train.data.phantom_deep import build_deep
from train.data.phantom_dwi import STORED_GAIN, scan_dwi
from train.data.phantom_fields import FloatArray, Grid, make_grid
from train.data.phantom_lesions import LesionKind, build_lesion, draw_plan
from train.data.phantom_skull import build_skull
from train.data.phantom_tissue import Composed, Parts, Tissue, build_texture, compose

if TYPE_CHECKING:
    from jmmda_model.imaging.volume import CtVolume

__all__ = [
    "CENTRES",
    "Centre",
    "LesionKind",
    "PhantomCase",
    "Tissue",
    "draw_parts",
    "generate_case",
    "inner_depth",
    "scan_parts",
]


@dataclass(frozen=True, slots=True)
class PhantomCase:
    """One synthetic patient: volumes are (S, R, C) on the CT grid, slice 0 lowest, rows to posterior, columns to left.

    Attributes
    ----------
    ct_hu
        int16 CT numbers.
    dwi, b0
        float32 magnitude images at b = 1000 and 0 s/mm2, arbitrary units.
    adc
        float32, 1e-3 mm2/s, computed from them.
    dwi_clean
        float32 b1000 without noise, distortion, coil and misregistration, on the scale of `dwi`.
    lesion, brain
        bool: ischaemic tissue; intracranial space.
    labels
        uint8, values of `Tissue`.
    spacing_mm
        Between slices, rows and columns.
    seed, centre
        What it was made from.
    lesion_kind, lesion_ml, hu_drop, onset_h, side
        Kind, volume, loss of HU in grey matter, hours from onset to CT, "left", "right" or "none".
    age_years
        Age of the synthetic patient.
    misregistration_mm
        Root mean square displacement of DWI against CT over the brain.
    slice_z_mm, tilt_deg
        Table positions (S,) of the slices and gantry tilt.
    """

    ct_hu: NDArray[np.int16]
    dwi: FloatArray
    b0: FloatArray
    adc: FloatArray
    dwi_clean: FloatArray
    lesion: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    seed: int
    centre: str
    lesion_kind: LesionKind
    lesion_ml: float
    hu_drop: float
    onset_h: float
    side: str
    age_years: float
    misregistration_mm: float
    slice_z_mm: FloatArray
    tilt_deg: float

    @property
    def orientation(self) -> NDArray[np.float64]:
        """(2, 3) direction cosines of the rows (along columns) and of the columns (along rows), LPS."""
        angle = np.deg2rad(self.tilt_deg)
        return np.array([[1.0, 0.0, 0.0], [0.0, np.cos(angle), np.sin(angle)]])

    @property
    def positions_mm(self) -> NDArray[np.float64]:
        """(S, 3) centre of the first pixel of each slice, LPS (PS3.3 C.7.6.2.1.1)."""
        _, row_mm, column_mm = self.spacing_mm
        corner = -(self.ct_hu.shape[2] - 1) / 2 * column_mm * self.orientation[0]
        corner = corner - (self.ct_hu.shape[1] - 1) / 2 * row_mm * self.orientation[1]
        table = np.zeros((self.ct_hu.shape[0], 3))
        table[:, 2] = self.slice_z_mm
        return np.asarray(table + corner)

    def ct_volume(self) -> CtVolume:
        """The CT in the form the model's imaging takes, LPS."""
        from jmmda_model.imaging.volume import CtVolume

        return CtVolume(
            hu=self.ct_hu.astype(np.float32),
            positions_mm=self.positions_mm,
            orientation=self.orientation,
            spacing_mm=(self.spacing_mm[1], self.spacing_mm[2]),
            thickness_mm=np.full(self.ct_hu.shape[0], self.spacing_mm[0]),
        )


def draw_parts(seed: int, centre: Centre, grid: Grid, lesion: str = "random", side: str = "random") -> Parts:
    """Draw everything about a patient that does not depend on the scan; words as for `generate_case`."""
    streams = random_streams(seed, centre)
    patient = draw_patient(streams["patient"], centre.mean_age_years)
    space = build_space(streams["space"], grid, patient)
    cortex = build_cortex(streams["cortex"], grid, patient, space)
    deep = build_deep(streams["deep"], grid, patient, space)
    plan = draw_plan(streams["lesion"], lesion, side)
    return Parts(
        patient=patient,
        space=space,
        cortex=cortex,
        deep=deep,
        skull=build_skull(streams["skull"], grid, patient, space),
        texture=build_texture(streams["tissue"], grid, patient, space, cortex, deep),
        plan=plan,
        lesion=build_lesion(streams["lesion"], plan, grid, space, cortex, deep),
    )


def _labels(made: Composed) -> NDArray[np.uint8]:
    """The tissue with the largest share of each voxel."""
    shares = made.fractions
    shares[Tissue.AIR] = 1 - shares[1:].sum(axis=0)
    return np.asarray(shares.argmax(axis=0), dtype=np.uint8)


def generate_case(
    seed: int,
    centre: str,
    *,
    matrix: int = 256,
    fov_mm: float = 230.4,
    n_slices: int = 24,
    slice_mm: float = 5.0,
    lesion: str = "random",
    side: str = "random",
    tilt_deg: float = 0.0,
) -> PhantomCase:
    """Make one synthetic patient.

    Parameters
    ----------
    seed
        Non-negative; with the centre it fixes the patient.
    centre
        "A", "B" or "C".
    matrix, fov_mm, n_slices, slice_mm, tilt_deg
        Geometry of the CT; the patient stays the same when they change.
    lesion
        "random", "none" or a value of `LesionKind`.
    side
        "random", "left" or "right" (of the patient).

    Raises
    ------
    ValueError
        If the centre, the lesion or the side is unknown, or the geometry is not a volume.
    """
    if centre not in CENTRES:
        raise ValueError(f"centre must be one of {sorted(CENTRES)}, not {centre!r}")
    if matrix < 16 or n_slices < 2 or slice_mm <= 0 or fov_mm <= 0:
        raise ValueError(f"not a volume: matrix {matrix}, {n_slices} slices of {slice_mm} mm, field {fov_mm} mm")
    grid = make_grid(matrix, fov_mm, n_slices, slice_mm, tilt_deg)
    return scan_parts(draw_parts(seed, CENTRES[centre], grid, lesion, side), grid, slice_mm, CENTRES[centre], seed)


def scan_parts(parts: Parts, grid: Grid, slice_mm: float, scanner: Centre, seed: int) -> PhantomCase:
    """Scan a patient that `draw_parts` drew with the same seed and centre on the same grid of `slice_mm` slices."""
    made = compose(parts, grid, scanner)
    streams = random_streams(seed, scanner)
    bone = made.fractions[Tissue.SKULL].astype(np.float32)
    air = _air_in_head(parts, grid, made)
    ct_hu = scan_ct(streams["ct"], grid, scanner, made.hu, bone, made.inside, inner_depth(parts, grid))
    scan = scan_dwi(streams["dwi"], grid, scanner, made.b0, made.b1000, air, made.inside)
    lesion_mask = made.lesion > 0.5
    voxel_ml = slice_mm * np.cos(np.deg2rad(grid.tilt_deg)) * grid.spacing_mm**2 / 1000
    affected = parts.plan.kind is not LesionKind.NONE
    return PhantomCase(
        ct_hu=ct_hu,
        dwi=scan.b1000,
        b0=scan.b0,
        adc=scan.adc,
        dwi_clean=made.b1000 * np.float32(STORED_GAIN),
        lesion=lesion_mask,
        brain=made.inside > 0.5,
        labels=_labels(made),
        spacing_mm=(slice_mm, grid.spacing_mm, grid.spacing_mm),
        seed=seed,
        centre=scanner.name,
        lesion_kind=parts.plan.kind,
        lesion_ml=float(lesion_mask.sum() * voxel_ml),
        hu_drop=parts.plan.hu_drop,
        onset_h=parts.plan.onset_h,
        side=("left" if parts.plan.direction > 0 else "right") if affected else "none",
        age_years=parts.patient.age_years,
        misregistration_mm=scan.misregistration_mm,
        slice_z_mm=grid.slice_z_mm,
        tilt_deg=grid.tilt_deg,
    )


def inner_depth(parts: Parts, grid: Grid) -> FloatArray:
    """Distance to the inner table at the slices' centres, (S, R, C), mm."""
    middle = range(grid.n_sub // 2, grid.sub_z_mm.size, grid.n_sub)
    return np.stack([grid.enlarge(parts.space.depth[k]) for k in middle])


def _air_in_head(parts: Parts, grid: Grid, made: Composed) -> FloatArray:
    """Share of air in sinuses and mastoid cells: what is neither tissue nor outside the skin, (S, R, C)."""
    middle = range(grid.n_sub // 2, grid.sub_z_mm.size, grid.n_sub)
    skin = np.stack([grid.enlarge(parts.space.outer[k]) for k in middle]) > 3.0
    return (skin & (made.hu < -300)).astype(np.float32)
