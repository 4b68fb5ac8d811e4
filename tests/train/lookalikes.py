"""Folders that look like public archives, made of small phantom patients: trees, names and traps, never their data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image

from train.data.phantom import PhantomCase, generate_case
from train.data.phantom_dicom import write_ct_series
from train.data.phantom_mr import Vendor, write_dwi_series

WINDOW_HU = (0.0, 80.0)


@lru_cache(maxsize=4)
def small_case(seed: int = 3, centre: str = "A", lesion: str = "mca_division") -> PhantomCase:
    """A phantom patient of 10 slices of 64 x 64, with a large lesion on the left."""
    return generate_case(seed, centre, matrix=64, n_slices=10, slice_mm=8.0, lesion=lesion, side="left")


def image_of(values: np.ndarray, case: PhantomCase) -> sitk.Image:
    """An array on the grid of a case, bool as uint8."""
    image = sitk.GetImageFromArray(values.astype(np.uint8) if values.dtype == np.bool_ else values)
    between_slices, rows_mm, columns_mm = case.spacing_mm
    image.SetSpacing((columns_mm, rows_mm, between_slices))
    image.SetOrigin([float(value) for value in case.positions_mm[0]])
    return image


def write_nifti(path: Path, values: np.ndarray, case: PhantomCase, *, half: bool = False) -> Path:
    """Write an array of a case; with `half`, every second row and column, as an MR grid of its own."""
    image = image_of(values, case)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image[::2, ::2, :] if half else image, str(path))
    return path


def write_png(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def grey(hu: np.ndarray, window: tuple[float, float] = WINDOW_HU) -> np.ndarray:
    low, high = window
    return np.rint(np.clip((hu - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def nifti_patient(folder: Path, case: PhantomCase, *, half_dwi: bool = False) -> Path:
    """``ct, dwi, lesion, brain``; with `half_dwi` the DWI and the lesion on a coarser grid."""
    write_nifti(folder / "ct.nii.gz", case.ct_hu, case)
    write_nifti(folder / "dwi.nii.gz", case.dwi, case, half=half_dwi)
    write_nifti(folder / "lesion.nii.gz", case.lesion, case, half=half_dwi)
    write_nifti(folder / "brain.nii.gz", case.brain, case)
    return folder


@lru_cache(maxsize=8)
def _series(seed: int, centre: str, kind: str) -> dict[str, bytes]:
    """Files of a CT series, or of a DWI series of a vendor; written once, since the writer waits for the disk."""
    with tempfile.TemporaryDirectory() as folder:
        if kind == "ct":
            write_ct_series(small_case(seed, centre), folder)
        else:
            write_dwi_series(small_case(seed, centre), folder, vendor=Vendor(kind))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def write_series(folder: Path, case: PhantomCase, kind: str) -> None:
    """Put a series of a small case into a folder: "ct", or the name of a vendor for the DWI."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _series(case.seed, case.centre, kind).items():
        (folder / name).write_bytes(content)


def dicom_patient(folder: Path, case: PhantomCase, *, vendor: str = "standard") -> Path:
    """CT and DWI under folder names that say nothing, and a lesion mask on the CT's grid."""
    write_series(folder / "S0001", case, "ct")
    write_series(folder / "deep" / "S0002", case, vendor)
    write_nifti(folder / "lesion.nii.gz", case.lesion, case)
    return folder


def aisd_case(
    root: Path,
    name: str,
    case: PhantomCase,
    *,
    part: str = "dicom-0",
    dwi: str = "DWI",
    descending: bool = False,
    without_png: Sequence[int] = (),
    nested: bool = False,
) -> None:
    """One case of AISD: DICOM of CT and DWI, PNG of CT and label map.

    `without_png` are CT slices (0 lowest) that have no PNG, `descending` numbers the PNG from the vertex down, `nested`
    is the other packing with image/image/.
    """
    write_series(root / part / name / "CT", case, "ct")
    write_series(root / part / name / dwi, case, "standard")
    labels = case.lesion.astype(np.uint8)
    # Two kinds of infarct, so that a label map is more than a mask.
    labels[:, : labels.shape[1] // 2] *= 4
    kept = [index for index in range(len(labels)) if index not in without_png]
    for number, index in enumerate(kept[::-1] if descending else kept):
        for kind, values in (("image", grey(case.ct_hu[index])), ("mask", labels[index])):
            folder = root / kind / kind if nested else root / kind
            write_png(folder / name / f"{number:03d}.png", values)


def isles_subject(root: Path, subject: str, case: PhantomCase, *, sessions: tuple[str, str], raw: str) -> None:
    """One subject of ISLES'24 in raw data and derivatives; the raw DWI has a grid of its own."""
    first, second = sessions
    before = f"{subject}_{first}"
    after = f"{subject}_{second}"
    write_nifti(root / raw / subject / first / f"{before}_ncct.nii.gz", case.ct_hu, case)
    derived = root / "derivatives" / subject
    write_nifti(derived / first / f"{before}_space-ncct_cta.nii.gz", case.ct_hu, case)
    for name, values in (("dwi", case.dwi), ("adc", case.adc)):
        write_nifti(root / raw / subject / second / f"{after}_{name}.nii.gz", values, case, half=True)
        write_nifti(derived / second / f"{after}_space-ncct_{name}.nii.gz", values, case)
    write_nifti(derived / second / f"{after}_space-ncct_lesion-msk.nii.gz", case.lesion, case)


def apis_case(folder: Path, case: PhantomCase, *, second_reader: np.ndarray | None = None) -> None:
    """One case of APIS: names in mixed case, ADC on a coarser grid, masks in a sub-folder."""
    write_nifti(folder / f"{folder.name}_NCCT.nii.gz", case.ct_hu, case)
    write_nifti(folder / f"{folder.name}_Adc.nii.gz", case.adc, case, half=True)
    other = case.lesion if second_reader is None else second_reader
    for reader, mask in (("r1", case.lesion), ("r2", other)):
        write_nifti(folder / "masks" / f"{folder.name}_{reader}.nii.gz", mask, case, half=True)


def write_geometry(root: Path, case: PhantomCase) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "geometry.json").write_text(json.dumps({"spacing_mm": case.spacing_mm}))


def folder_patient(root: Path, split: str, patient: str, case: PhantomCase, *, suffix: str = ".npy") -> None:
    """Slices of one patient by kind; CT in HU as npy, in the brain window as PNG."""
    write_geometry(root, case)
    kinds = {"ct": case.ct_hu.astype(np.float32), "dwi": case.dwi, "mask": case.brain, "lesion": case.lesion}
    if suffix == ".png":
        kinds["ct"] = grey(case.ct_hu)
        kinds["dwi"] = np.rint(case.dwi / case.dwi.max() * 65535).astype(np.uint16)
    for kind, values in kinds.items():
        folder = root / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        for index, slice_ in enumerate(values):
            path = folder / f"{patient}_{index:03d}{suffix}"
            if suffix == ".npy":
                np.save(path, slice_)
            else:
                write_png(path, slice_.astype(np.uint8) if slice_.dtype == np.bool_ else slice_)


def aligned_patient(root: Path, split: str, patient: str, case: PhantomCase) -> None:
    """pix2pix pairs of one patient."""
    write_geometry(root, case)
    dwi = np.rint(np.clip(case.dwi / case.dwi.max(), 0, 1) * 255).astype(np.uint8)
    for index, pair in enumerate(np.concatenate([grey(case.ct_hu), dwi], axis=2)):
        write_png(root / split / f"{patient}_{index}.png", pair)
