"""Phantom cases as files: npz for the tutorials, NIfTI for any tool, DICOM pairs for ``train prepare``.

Whatever is interrupted, a case is there whole or not at all: it is written beside its place, brought to the disk,
checked where the writing library does not report errors, and renamed.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.data.cache import PHANTOM_MARK
from train.data.phantom import PhantomCase
from train.data.phantom_headers import PhantomPatient
from train.data.phantom_lesions import LesionKind
from train.data.phantom_mr import Vendor, write_pair

_VOLUMES = ("ct_hu", "dwi", "b0", "adc", "dwi_clean", "lesion", "brain", "labels")
#: Names of the NIfTI files, the layout `<root>/<patient>/{ct,dwi,brain,lesion}.nii.gz`.
_NIFTI_NAMES = {"ct_hu": "ct"}

#: Folder of a set for its bookkeeping.
WORK_FOLDER = ".making"


class SetFormat(StrEnum):
    """How the cases of a set are stored."""

    NPZ = "npz"
    NIFTI = "nifti"
    DICOM = "dicom"


#: Bytes a voxel on disk, measured on 24 slices of 256 x 256 and rounded up.
BYTES_A_VOXEL = {SetFormat.NPZ: 6.5, SetFormat.NIFTI: 11.5, SetFormat.DICOM: 4.0}
#: Bytes of headers a slice; only DICOM has a file for each image.
_BYTES_A_SLICE = {SetFormat.NPZ: 0, SetFormat.NIFTI: 0, SetFormat.DICOM: 3 * 4096}
_BYTES_A_CASE = 16_384


def case_bytes(form: SetFormat, n_slices: int, matrix: int) -> int:
    """Bytes that one case takes on disk, estimated from above."""
    return round(n_slices * (matrix * matrix * BYTES_A_VOXEL[form] + _BYTES_A_SLICE[form])) + _BYTES_A_CASE


def unfinished_folder(root: Path) -> Path:
    """Where the cases of a set are made: beside the set, so that nobody who reads it meets half a case.

    Where the set is the root of a file system, what is beside it cannot be renamed into it, and it is made inside.
    """
    root = root.absolute()
    if root.exists() and root.stat().st_dev != root.parent.stat().st_dev:
        return root / WORK_FOLDER / "unfinished"
    return root.with_name(f".{root.name}.unfinished")


def _part(path: Path, making: Path | None) -> Path:
    return path.with_name(f".{path.name}.part") if making is None else making / path.name


def save_npz(case: PhantomCase, path: Path, *, making: Path | None = None) -> None:
    """Write a case as one compressed npz; images as float16 (11 bits of precision), which `load_npz` makes float32.

    ``making`` is a folder of the same file system to write it in before it is moved; default beside ``path``.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind.
    """
    facts = {name: getattr(case, name) for name in PhantomCase.__dataclass_fields__ if name not in _VOLUMES}
    facts["slice_z_mm"] = case.slice_z_mm.tolist()
    part = path.with_suffix(".part")
    try:
        # numpy's own writer compresses at level 6, which takes longer than making the case.
        with zipfile.ZipFile(part, "w") as archive:
            for name in _VOLUMES:
                volume: NDArray[np.generic] = getattr(case, name)
                if volume.dtype == np.float32:
                    volume = volume.astype(np.float16)
                member = io.BytesIO()
                np.lib.format.write_array(member, np.ascontiguousarray(volume), allow_pickle=False)
                # A ZipInfo carries no time, so the same case gives the same bytes.
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getbuffer(), zipfile.ZIP_DEFLATED, 1)
            archive.writestr(zipfile.ZipInfo("facts.json"), json.dumps(facts))
        _to_disk(part)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


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


def write_nifti(case: PhantomCase, volume: NDArray[Any], path: Path) -> Path:
    """Write one volume (S, R, C) on the grid of a case as gzipped NIfTI, in patient coordinates.

    Raises
    ------
    OSError
        If it cannot be written whole; ITK itself says nothing when the disk fills up, so the file is read back.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume.astype(np.uint8) if volume.dtype == np.bool_ else volume)
    z, row, column = case.spacing_mm
    image.SetSpacing((column, row, z))
    image.SetOrigin(tuple(case.positions_mm[0]))
    row_way, column_way = case.orientation
    axes = np.stack([row_way, column_way, np.cross(row_way, column_way)], axis=1)
    image.SetDirection(tuple(axes.ravel()))
    try:
        sitk.WriteImage(image, str(path), True)
        _to_disk(path)
        with gzip.open(path) as stream:
            size = sum(len(block) for block in iter(lambda: stream.read(1 << 20), b""))
    except (RuntimeError, EOFError, zlib.error) as error:
        raise OSError(errno.ENOSPC, "the image could not be written whole", str(path)) from error
    if size < volume.size * volume.itemsize:
        raise OSError(errno.ENOSPC, "the image could not be written whole", str(path))
    return path


def save_nifti(case: PhantomCase, folder: Path, *, making: Path | None = None) -> None:
    """Write every volume of a case as ``<name>.nii.gz`` into a new folder, in patient coordinates."""

    def write(part: Path) -> None:
        for name in _VOLUMES:
            write_nifti(case, getattr(case, name), part / f"{_NIFTI_NAMES.get(name, name)}.nii.gz")
        _mark(case, part)

    _write_folder(folder, making, write)


def save_dicom(
    case: PhantomCase,
    folder: Path,
    *,
    vendor: Vendor = Vendor.STANDARD,
    patient: PhantomPatient | None = None,
    making: Path | None = None,
) -> None:
    """Write a case into a new folder as ``CT/*.dcm``, ``DWI/*.dcm`` and ``lesion.nii.gz``."""

    def write(part: Path) -> None:
        write_pair(case, part, vendor=vendor, patient=patient)
        _mark(case, part)

    _write_folder(folder, making, write)


def _mark(case: PhantomCase, folder: Path) -> None:
    """Leave the mark by which ``train prepare`` knows a phantom."""
    content = {"data": "digital phantom, no patient", "centre": case.centre, "seed": case.seed}
    (folder / PHANTOM_MARK).write_text(json.dumps(content) + "\n", encoding="utf-8")


def _to_disk(path: Path) -> None:
    """Ask the system to bring a file to the disk: a full disk may show only now."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _write_folder(folder: Path, making: Path | None, write: Callable[[Path], object]) -> None:
    """Fill a folder beside its place and move it there when it is complete."""
    part = _part(folder, making)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        write(part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
