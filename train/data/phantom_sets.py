"""Whole sets of phantom patients on disk, made in parallel, with a manifest.

A set is reproducible from its manifest: every case is named by centre and seed, and neither the number of workers nor
the order in which they finish changes a byte of the arrays. A set that was interrupted is continued: files appear
complete or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from enum import StrEnum
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from train.data.phantom import CENTRES, PhantomCase, generate_case
from train.data.phantom_lesions import LesionKind

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 1

Progress = Callable[[int, int], None]
"""Called with (cases done, cases in all), in the calling process."""

_VOLUMES = ("ct_hu", "dwi", "b0", "adc", "dwi_clean", "lesion", "brain", "labels")
#: Names of the NIfTI files, the layout `<root>/<patient>/{ct,dwi,brain,lesion}.nii.gz`.
_NIFTI_NAMES = {"ct_hu": "ct"}


class SetFormat(StrEnum):
    """How the cases of a set are stored."""

    NPZ = "npz"
    NIFTI = "nifti"
    DICOM = "dicom"


@dataclass(frozen=True, slots=True)
class SetGeometry:
    """Geometry of all cases of a set: see `generate_case`."""

    matrix: int = 256
    fov_mm: float = 230.4
    n_slices: int = 24
    slice_mm: float = 5.0


@dataclass(frozen=True, slots=True)
class SetEntry:
    """One patient of a set, as the manifest has it.

    Attributes
    ----------
    patient
        ``<centre>-<seed>``; one patient is one case, and is in one split only.
    path
        File or folder, relative to the set.
    split
        "train", "val" or "test".
    seed, centre, lesion_kind, side, lesion_ml, hu_drop, onset_h, age_years, misregistration_mm
        As in `PhantomCase`.
    """

    patient: str
    path: str
    split: str
    seed: int
    centre: str
    lesion_kind: str
    side: str
    lesion_ml: float
    hu_drop: float
    onset_h: float
    age_years: float
    misregistration_mm: float


def split_of(seed: int, centre: str) -> Literal["train", "val", "test"]:
    """Split of a patient, 70/10/20 by a hash of seed and centre: it never depends on the rest of the set."""
    draw = np.random.default_rng([seed, CENTRES[centre].index, 2025]).random()
    if draw < 0.7:
        return "train"
    return "val" if draw < 0.8 else "test"


def save_npz(case: PhantomCase, path: Path) -> None:
    """Write a case as one compressed npz; images as float16 (11 bits of precision), which `load_npz` makes float32."""
    facts = {name: getattr(case, name) for name in PhantomCase.__dataclass_fields__ if name not in _VOLUMES}
    facts["slice_z_mm"] = case.slice_z_mm.tolist()
    part = path.with_suffix(".part")
    # numpy's own writer compresses at level 6, which takes longer than making the case.
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in _VOLUMES:
            volume: NDArray[np.generic] = getattr(case, name)
            if volume.dtype == np.float32:
                volume = volume.astype(np.float16)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(volume), allow_pickle=False)
        archive.writestr(zipfile.ZipInfo("facts.json"), json.dumps(facts))
    os.replace(part, path)


def load_npz(path: Path | str) -> PhantomCase:
    """Read a case written by `save_npz`."""
    with zipfile.ZipFile(path) as archive:
        facts = json.loads(archive.read("facts.json"))
        volumes: dict[str, Any] = {}
        for name in _VOLUMES:
            with archive.open(f"{name}.npy") as member:
                volume = np.lib.format.read_array(member, allow_pickle=False)
            volumes[name] = volume.astype(np.float32) if volume.dtype == np.float16 else volume
    facts["spacing_mm"] = tuple(facts["spacing_mm"])
    facts["lesion_kind"] = LesionKind(facts["lesion_kind"])
    facts["slice_z_mm"] = np.asarray(facts["slice_z_mm"])
    return PhantomCase(**volumes, **facts)


def save_nifti(case: PhantomCase, folder: Path) -> None:
    """Write every volume of a case as ``<name>.nii.gz`` into a new folder, in patient coordinates."""
    import SimpleITK as sitk

    def write(part: Path) -> None:
        for name in _VOLUMES:
            volume = getattr(case, name)
            image = sitk.GetImageFromArray(volume.astype(np.uint8) if volume.dtype == np.bool_ else volume)
            z, row, column = case.spacing_mm
            image.SetSpacing((column, row, z))
            image.SetOrigin(tuple(case.positions_mm[0]))
            row_way, column_way = case.orientation
            axes = np.stack([row_way, column_way, np.cross(row_way, column_way)], axis=1)
            image.SetDirection(tuple(axes.ravel()))
            sitk.WriteImage(image, str(part / f"{_NIFTI_NAMES.get(name, name)}.nii.gz"), True)

    _write_folder(folder, write)


def save_dicom(case: PhantomCase, folder: Path) -> None:
    """Write the CT of a case as a DICOM study into a new folder."""
    from train.data.phantom_dicom import write_study

    _write_folder(folder, lambda part: write_study(case, part))


def _write_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Fill a folder beside its place and move it there when it is complete."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


@dataclass(frozen=True, slots=True)
class _Order:
    """What one worker makes."""

    out: Path
    centre: str
    seed: int
    geometry: SetGeometry
    lesion: str
    form: SetFormat

    @property
    def patient(self) -> str:
        return f"{self.centre}-{self.seed:06d}"

    @property
    def path(self) -> Path:
        return self.out / (f"{self.patient}.npz" if self.form is SetFormat.NPZ else self.patient)

    @property
    def note(self) -> Path:
        """The entry is kept beside the case, so that an interrupted set is continued without making it again."""
        return self.out / "entries" / f"{self.patient}.json"

    def recipe(self) -> dict[str, object]:
        return {"geometry": asdict(self.geometry), "lesion": self.lesion, "format": self.form.value}


def _finished(order: _Order) -> SetEntry | None:
    """The entry of a case that is already there and was made by the same recipe."""
    if not (order.path.exists() and order.note.exists()):
        return None
    note = json.loads(order.note.read_text(encoding="utf-8"))
    return SetEntry(**note["entry"]) if note["recipe"] == order.recipe() else None


def _make(order: _Order) -> SetEntry:
    """Make and store one case; runs in a worker process."""
    done = _finished(order)
    if done is not None:
        return done
    case = generate_case(order.seed, order.centre, lesion=order.lesion, **asdict(order.geometry))
    save = {SetFormat.NPZ: save_npz, SetFormat.NIFTI: save_nifti, SetFormat.DICOM: save_dicom}[order.form]
    save(case, order.path)
    entry = SetEntry(
        patient=order.patient,
        path=order.path.name,
        split=split_of(order.seed, order.centre),
        seed=order.seed,
        centre=order.centre,
        lesion_kind=case.lesion_kind.value,
        side=case.side,
        lesion_ml=round(case.lesion_ml, 3),
        hu_drop=round(case.hu_drop, 3),
        onset_h=round(case.onset_h, 3),
        age_years=round(case.age_years, 1),
        misregistration_mm=round(case.misregistration_mm, 3),
    )
    _write_json(order.note, {"recipe": order.recipe(), "entry": asdict(entry)})
    return entry


def _write_json(path: Path, content: object) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def _made(orders: list[_Order], workers: int) -> Iterator[SetEntry]:
    if workers <= 1:
        yield from map(_make, orders)
        return
    # Started afresh, not forked: a thread pool of the parent (BLAS, torch) does not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_make, order) for order in orders]):
            yield done.result()


def write_set(
    out: Path | str,
    centre: str,
    n: int,
    seed: int,
    workers: int = 1,
    format: SetFormat | Literal["npz", "nifti", "dicom"] = SetFormat.NPZ,  # noqa: A002 - the word users type
    progress: Progress | None = None,
    *,
    geometry: SetGeometry | None = None,
    lesion: str = "random",
) -> Path:
    """Write `n` patients of one centre, with seeds `seed`, `seed` + 1, ...

    Parameters
    ----------
    out
        Folder of the set; cases that are already there are kept.
    centre
        "A", "B" or "C".
    n, seed
        Number of patients and first seed.
    workers
        Processes; the result does not depend on it.
    format
        "npz" (read with `load_npz`), "nifti" (a folder for each patient) or "dicom" (a CT study for each patient, with
        no diffusion images: the phantom's truth is in the other formats).
    progress
        Called after each case.
    geometry
        Matrix and slices.
    lesion
        As for `generate_case`.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    ValueError
        If the centre or the format is unknown, or `n` is not positive.
    """
    if centre not in CENTRES:
        raise ValueError(f"centre must be one of {sorted(CENTRES)}, not {centre!r}")
    if n < 1:
        raise ValueError(f"a set has at least one case, not {n}")
    form, shape, root = SetFormat(format), geometry or SetGeometry(), Path(out)
    (root / "entries").mkdir(parents=True, exist_ok=True)
    orders = [_Order(root, centre, seed + index, shape, lesion, form) for index in range(n)]
    entries = []
    for entry in _made(orders, workers):
        entries.append(entry)
        if progress is not None:
            progress(len(entries), n)
    manifest = root / MANIFEST_NAME
    content = {
        "version": MANIFEST_VERSION,
        "data": "digital phantom, no patients",
        "format": form.value,
        "lesion": lesion,
        "geometry": asdict(shape),
        "cases": [asdict(entry) for entry in sorted(entries, key=lambda e: e.seed)],
    }
    _write_json(manifest, content)
    return manifest


def read_manifest(path: Path | str) -> tuple[SetEntry, ...]:
    """Read the entries of a set from its manifest or its folder.

    Raises
    ------
    ValueError
        If the manifest is of another version.
    """
    file = Path(path)
    file = file / MANIFEST_NAME if file.is_dir() else file
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["version"] != MANIFEST_VERSION:
        raise ValueError(f"manifest version {content['version']} is not {MANIFEST_VERSION}")
    return tuple(SetEntry(**case) for case in content["cases"])
