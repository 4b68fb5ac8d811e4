"""What may be sent under the name HEAD: changed heads on a phantom's CT, and drawn things that are none."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pydicom
from scipy import ndimage

from jmmda_model.imaging import AIR_HU, CtVolume
from tests.jmmda_model.imaging_cases import ORIENTATIONS, FloatArray, Lattice, ellipsoid, part, read_series


@cache
def head(seed: int = 3, centre: str = "A", matrix: int = 128, lesion: str = "none"):
    """A phantom patient: CT and the truth of the brain."""
    from train.data.phantom import generate_case

    case = generate_case(seed, centre, matrix=matrix, n_slices=28, lesion=lesion)
    return case.ct_volume(), case.brain


def points(volume: CtVolume) -> FloatArray:
    """(S, rows, columns, 3) patient coordinates."""
    _, rows, columns = volume.hu.shape
    down = np.arange(rows)[:, None, None] * volume.spacing_mm[0] * volume.orientation[1]
    right = np.arange(columns)[None, :, None] * volume.spacing_mm[1] * volume.orientation[0]
    return volume.positions_mm[:, None, None, :] + (down + right)[None]


def _middle(volume: CtVolume, brain) -> FloatArray:
    return points(volume)[brain].mean(axis=0)


def with_hu(volume: CtVolume, hu) -> CtVolume:
    return part(volume, slice(None), hu)


def craniotomy(diameter_mm: float, seed: int = 3, both_sides: bool = False) -> CtVolume:
    """A round gap of the vault at the side, soft tissue in place of the bone."""
    volume, brain = head(seed)
    at = points(volume) - _middle(volume, brain)
    near = np.hypot(at[..., 1], at[..., 2] - 25) < diameter_mm / 2
    side = np.abs(at[..., 0]) > 35 if both_sides else at[..., 0] > 35
    noise = np.random.default_rng(1).normal(40, 4, volume.hu.shape)
    return with_hu(volume, np.where(near & side & (volume.hu > 100) & ~brain, noise, volume.hu))


def bleed(volume_ml: float, hu: float = 68.0, seed: int = 3, centre: str = "A") -> CtVolume:
    """A ball of blood in one hemisphere."""
    volume, brain = head(seed, centre)
    at = points(volume) - _middle(volume, brain) - np.array([28.0, 5.0, 20.0])
    ball = np.linalg.norm(at, axis=-1) < (volume_ml * 1000 * 3 / 4 / np.pi) ** (1 / 3)
    noise = np.random.default_rng(2).normal(hu, 4, volume.hu.shape)
    return with_hu(volume, np.where(ball & brain, noise, volume.hu))


def subdural(thickness_mm: float) -> CtVolume:
    """Blood along the inside of one half of the vault."""
    volume, brain = head()
    depth = ndimage.distance_transform_edt(brain, sampling=(5.0, *volume.spacing_mm))
    at = points(volume) - _middle(volume, brain)
    rim = brain & (depth < thickness_mm) & (at[..., 0] > 0) & (at[..., 2] > 5)
    noise = np.random.default_rng(2).normal(66, 4, volume.hu.shape)
    return with_hu(volume, np.where(rim, noise, volume.hu))


def clip(length_mm: float = 10.0, top_hu: float = 3071.0) -> CtVolume:
    """An aneurysm clip with streaks through its slices."""
    volume, brain = head(matrix=256)
    at = points(volume) - _middle(volume, brain) - np.array([10.0, -10.0, 0.0])
    metal = (np.abs(at[..., 0]) < length_mm / 2) & (np.abs(at[..., 1]) < 1.5) & (np.abs(at[..., 2]) < 4)
    angle = np.arctan2(at[..., 1], at[..., 0])
    far = np.hypot(at[..., 0], at[..., 1])
    streaks = np.where(np.abs(at[..., 2]) < 4, 250 * np.cos(9 * angle) * np.exp(-far / 30), 0)
    return with_hu(volume, np.where(metal, top_hu, volume.hu + streaks))


def _shrunk(factor: float, skull_factor: float = 1.0) -> CtVolume:
    """The whole head smaller; bone thinner and softer still where `skull_factor` is below 1."""
    volume, _ = head()
    hu = volume.hu
    if skull_factor < 1:
        soft = ndimage.grey_erosion(hu, (1, 3, 3))
        hu = np.where(hu > 150, np.minimum(np.maximum(soft, 60) + 250, hu), hu)
    return CtVolume(
        hu,
        volume.positions_mm * factor,
        volume.orientation,
        (volume.spacing_mm[0] * factor, volume.spacing_mm[1] * factor),
        volume.thickness_mm * factor,
    )


def infant() -> CtVolume:
    """Small head, thin soft skull."""
    return _drawn_head(0.72, skull_mm=2.6, skull_hu=600.0)


def school_child() -> CtVolume:
    return _shrunk(0.94)


def _drawn_head(scale: float, *, skull_mm: float = 7.0, skull_hu: float = 1000.0, fill: float | None = None):
    """Ellipsoids: scalp, skull, brain of grey and white matter with ventricles; or one filling instead of brain."""
    lattice = Lattice(ORIENTATIONS["HFS"], shape=(40, 256, 256), spacing_mm=(0.9, 0.9), step_mm=4.0)
    at = lattice.points()
    inner = np.array([69.0, 87.0, 71.0]) * scale
    hu = np.full(at.shape[:-1], AIR_HU)
    for add, value in ((skull_mm + 5, 45.0), (skull_mm, skull_hu)):
        hu[ellipsoid(at, tuple(inner + add), (0, 0, 0)) < 1] = value
    brain = ellipsoid(at, tuple(inner), (0, 0, 0)) < 1
    rng = np.random.default_rng(0)
    folds = ndimage.gaussian_filter(rng.normal(size=hu.shape), (1.5, 4, 4))
    hu[brain] = np.where(folds[brain] > 0, 36.0, 28.0) if fill is None else fill
    if fill is None:
        hu[ellipsoid(at, tuple(inner * [0.2, 0.35, 0.2]), (0, -5, 8)) < 1] = 8
    hu = ndimage.gaussian_filter(hu, (0.3, 0.6, 0.6)) + rng.normal(0, 4, hu.shape)
    return lattice.volume(np.maximum(hu, AIR_HU))


def filled_skull(hu: float) -> CtVolume:
    """A teaching phantom: a skull filled with one material."""
    return _drawn_head(1.0, fill=hu)


def half_by_field(keep: float = 0.5) -> CtVolume:
    """The field of view ends in the brain: a sagittal cut, columns beyond it are not there."""
    volume, brain = head()
    columns = np.flatnonzero(brain.any(axis=(0, 1)))
    last = int(columns[0] + keep * np.ptp(columns))
    return CtVolume(
        volume.hu[..., :last], volume.positions_mm, volume.orientation, volume.spacing_mm, volume.thickness_mm
    )


def half_by_padding(keep: float = 0.5) -> CtVolume:
    """A sagittal cut; beyond it the image goes on without a head."""
    volume, _ = head()
    kept = half_by_field(keep).hu.shape[-1]
    return with_hu(volume, np.where(np.arange(volume.hu.shape[-1]) < kept, volume.hu, AIR_HU))


def without_forehead(cut_mm: float) -> CtVolume:
    """The field of view leaves out the front of the brain over so many mm."""
    volume, brain = head()
    rows = np.flatnonzero(brain.any(axis=(0, 2)))
    first = int(rows[0] + round(cut_mm / volume.spacing_mm[0]))
    return CtVolume(
        volume.hu[:, first:],
        volume.positions_mm + first * volume.spacing_mm[0] * volume.orientation[1],
        volume.orientation,
        volume.spacing_mm,
        volume.thickness_mm,
    )


def top_of_head(height_mm: float) -> CtVolume:
    """Only so much of the brain, from the vertex down."""
    volume, brain = head()
    top = int(np.flatnonzero(brain.any(axis=(1, 2)))[-1])
    return part(volume, slice(max(0, top + 1 - round(height_mm / 5)), None))


def bottom_of_head(height_mm: float) -> CtVolume:
    """Only so much of the brain, from its base up; a neck scan that reaches into the head."""
    volume, brain = head()
    base = int(np.flatnonzero(brain.any(axis=(1, 2)))[0])
    return part(volume, slice(0, base + round(height_mm / 5)))


def quarter_turned() -> CtVolume:
    """Pixels turned by a quarter against the header."""
    volume, _ = head()
    return with_hu(volume, np.rot90(volume.hu, axes=(1, 2)))


def _tube(at: FloatArray, radius_mm: float, centre=(0.0, 0.0)) -> FloatArray:
    return np.hypot(at[..., 0] - centre[0], at[..., 1] - centre[1]) < radius_mm


def _object_lattice(spacing_mm: float = 1.0, step_mm: float = 5.0) -> Lattice:
    return Lattice(ORIENTATIONS["HFS"], shape=(30, 256, 256), spacing_mm=(spacing_mm, spacing_mm), step_mm=step_mm)


def _noisy(lattice: Lattice, hu, sd: float = 5.0) -> CtVolume:
    hu = ndimage.gaussian_filter(hu.astype(float), (0, 0.7, 0.7))
    return lattice.volume(np.maximum(hu + np.random.default_rng(9).normal(0, sd, hu.shape), AIR_HU))


def water_bucket(wall_hu: float = 120.0) -> CtVolume:
    lattice = _object_lattice()
    at = lattice.points()
    inside = np.abs(at[..., 2]) < 65
    hu = np.full(at.shape[:-1], AIR_HU)
    hu[_tube(at, 85) & inside] = wall_hu
    hu[_tube(at, 80) & inside] = 0
    return _noisy(lattice, hu)


def quality_phantom(wall_hu: float = 120.0, body_hu: float = 35.0) -> CtVolume:
    """A quality phantom in the manner of a CatPhan: a cylinder in a shell, rods of air, plastics and Teflon."""
    lattice = _object_lattice()
    at = lattice.points()
    hu = np.full(at.shape[:-1], AIR_HU)
    hu[_tube(at, 80)] = wall_hu
    hu[_tube(at, 75)] = body_hu
    for number, value in enumerate((-1000, -200, -100, -35, 120, 340, 990)):
        turn = 2 * np.pi * number / 7
        rod = _tube(at, 6, (58 * np.cos(turn), 58 * np.sin(turn))) & (np.abs(at[..., 2]) < 20)
        hu[rod] = value
    return _noisy(lattice, hu)


def shell_of_bone(body_hu: float = 35.0) -> CtVolume:
    """A head phantom of the physicists: a tube of bone-like material around a uniform body with rods."""
    return quality_phantom(900.0, body_hu)


def abdomen(scale: float = 1.0) -> CtVolume:
    """Liver, spleen, bowel, fat, a spine and ribs."""
    lattice = _object_lattice(1.6)
    at = lattice.points() / scale
    hu = np.full(at.shape[:-1], AIR_HU)
    body = (at[..., 0] / 165) ** 2 + (at[..., 1] / 115) ** 2
    hu[body < 1] = -95
    hu[(body < 0.86)] = 50
    hu[(body < 0.74)] = -95
    angle = np.arctan2(at[..., 1] / 115, at[..., 0] / 165)
    hu[(body > 0.74) & (body < 0.82) & (np.cos(18 * angle + at[..., 2] / 8) > 0.55)] = 450
    hu[((at[..., 0] + 70) / 75) ** 2 + ((at[..., 1] + 5) / 75) ** 2 < 1] = 58
    hu[((at[..., 0] - 105) / 28) ** 2 + ((at[..., 1] - 30) / 40) ** 2 < 1] = 48
    hu[((at[..., 0] - 45) / 38) ** 2 + ((at[..., 1] + 45) / 28) ** 2 < 1] = 25
    spine = np.hypot(at[..., 0], at[..., 1] - 62)
    hu[spine < 22] = 300
    hu[(np.hypot(at[..., 0], at[..., 1] - 90) < 10)] = 35
    return _noisy(lattice, hu, 8)


def pelvis(scale: float = 1.0) -> CtVolume:
    """A ring of bone as wide as a head around bladder, bowel and fat."""
    lattice = _object_lattice(1.3)
    at = lattice.points() / scale
    hu = np.full(at.shape[:-1], AIR_HU)
    hu[(at[..., 0] / 150) ** 2 + (at[..., 1] / 105) ** 2 < 1] = -95
    hu[(at[..., 0] / 120) ** 2 + (at[..., 1] / 85) ** 2 < 1] = 55
    ring = (at[..., 0] / 95) ** 2 + (at[..., 1] / 68) ** 2
    hu[ring < 1] = 500
    hu[ring < 0.8] = -90
    hu[((at[..., 0]) / 45) ** 2 + ((at[..., 1] + 18) / 32) ** 2 < 1] = 8
    hu[((at[..., 0] + 25) / 28) ** 2 + ((at[..., 1] - 28) / 20) ** 2 < 1] = 40
    hu[((at[..., 0] - 30) / 26) ** 2 + ((at[..., 1] - 26) / 22) ** 2 < 1] = 38
    return _noisy(lattice, hu, 8)


def chest_slices(folder: Path) -> CtVolume:
    """A real chest slice, repeated to a stack."""
    ds = pydicom.dcmread(folder / "CTImage.dcm_LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm")
    plane = ds.pixel_array.astype(np.float32) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    spacing = (float(ds.PixelSpacing[0]), float(ds.PixelSpacing[1]))
    positions = np.array([[0.0, 0.0, 5.0 * index] for index in range(26)])
    return CtVolume(np.repeat(plane[None], 26, axis=0), positions, np.eye(3)[:2], spacing, np.full(26, 5.0))


def empty_skull(folder: Path) -> CtVolume:
    """The real empty skull."""
    return read_series(folder, "S2010*.dcm")


def scrambled(folder: Path) -> CtVolume:
    """Real headers with scrambled pixels, some of them without SliceThickness."""
    datasets = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    orientation = np.array(datasets[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(orientation[0], orientation[1])
    datasets.sort(key=lambda ds: float(normal @ np.array(ds.ImagePositionPatient, dtype=float)))
    planes = [ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in datasets]
    positions = np.array([ds.ImagePositionPatient for ds in datasets], dtype=float)
    spacing = (float(datasets[0].PixelSpacing[0]), float(datasets[0].PixelSpacing[1]))
    return CtVolume(np.stack(planes), positions, orientation, spacing, np.full(len(datasets), np.nan))
