"""Read single files: NIfTI volumes with a trustworthy affine, 4-D diffusion with its b values, 2-D PNG and npy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from train.data.readers.base import CaseRefusedError, ReaderOptions
from train.data.readers.nifti_whole import check_whole
from train.data.readers.volumes import axial_image, check_finite, ct_volume_from_image, hounsfield

if TYPE_CHECKING:
    import SimpleITK as sitk

    from jmmda_model.imaging.volume import CtVolume

__all__ = [
    "DiffusionFile",
    "read_ct_file",
    "read_diffusion_file",
    "read_label_file",
    "read_slice",
    "read_volume_file",
    "write_png",
]

#: Two b values nearer than this, in s/mm2, are one shell.
_B_TOLERANCE = 50.0


@dataclass(frozen=True, slots=True)
class DiffusionFile:
    """What one diffusion NIfTI holds: images float32 in LPS index order, and the b value where it is known."""

    dwi: sitk.Image
    b0: sitk.Image | None
    b_value: float | None
    notes: tuple[str, ...]


def _read(path: Path) -> sitk.Image:
    import SimpleITK as sitk

    check_whole(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        # ITK's text is long and names absolute paths; what one can do about it is the same each time.
        reason = f"{path.name} is no image, or has axes that are not at right angles; check the file"
        raise CaseRefusedError("unreadable", reason) from None
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in image.GetPixelIDTypeAsString():
        raise CaseRefusedError("unreadable", f"{path.name} holds colours or complex numbers, not one value per voxel")
    codes = [image.GetMetaData(key) for key in ("qform_code", "sform_code") if image.HasMetaDataKey(key)]
    if codes and all(code == "0" for code in codes):
        reason = f"{path.name} has no affine (qform_code and sform_code are 0): its place in the patient is unknown"
        raise CaseRefusedError("geometry", reason)
    return image


def _float_3d(image: sitk.Image, name: str) -> sitk.Image:
    import SimpleITK as sitk

    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    turned = sitk.Cast(axial_image(image), sitk.sitkFloat32)
    check_finite(sitk.GetArrayViewFromImage(turned), name)
    return turned


def read_volume_file(path: Path) -> sitk.Image:
    """Read one 3-D volume (NIfTI, or anything ITK reads with geometry).

    Returns
    -------
    SimpleITK.Image
        float32, LPS index order, finite.

    Raises
    ------
    CaseRefusedError
        ``unreadable``; ``geometry`` for a file without affine or with several volumes; ``not_finite``.
    """
    return _float_3d(_read(path), path.name)


def read_ct_file(path: Path, options: ReaderOptions) -> CtVolume:
    """Read a CT from one volume file, in HU or in the window that the options state.

    Raises
    ------
    CaseRefusedError
        As `read_volume_file`, `train.data.readers.volumes.ct_volume_from_image` and `...volumes.hounsfield`.
    """
    ct = ct_volume_from_image(read_volume_file(path))
    return replace(ct, hu=hounsfield(ct.hu, options))


def read_label_file(path: Path) -> sitk.Image:
    """Read a mask or a label map.

    Returns
    -------
    SimpleITK.Image
        uint8 labels, LPS index order. A file of fractions (interpolated masks) is cut at one half.

    Raises
    ------
    CaseRefusedError
        As `read_volume_file`; ``unreadable`` for labels below 0 or above 255.
    """
    import SimpleITK as sitk

    image = read_volume_file(path)
    values = sitk.GetArrayFromImage(image)
    if values.min() < 0 or values.max() > 255:
        figures = {"minimum": float(values.min()), "maximum": float(values.max())}
        raise CaseRefusedError("unreadable", f"{path.name} is no mask: its values leave 0 to 255", figures)
    # Half up, and not to even: a voxel that is half covered counts as covered whatever the label.
    labels = sitk.GetImageFromArray(np.floor(values + 0.5).astype(np.uint8))
    labels.CopyInformation(image)
    return labels


def read_diffusion_file(path: Path) -> DiffusionFile:
    """Read a diffusion NIfTI: one volume, or 4-D with a ``.bval`` file of the same name (FSL's form).

    Of a 4-D file the volumes of the highest b value are averaged, as are those of b < 50 s/mm2.

    Raises
    ------
    CaseRefusedError
        As `read_volume_file`; ``no_b_value`` for a 4-D file whose ``.bval`` is missing or does not fit.
    """
    image = _read(path)
    if image.GetDimension() == 3 or image.GetSize()[3] == 1:
        return DiffusionFile(_float_3d(image, path.name), None, None, ())
    b_values = _b_values(path, image.GetSize()[3])
    shells = [np.flatnonzero(np.abs(b_values - b_values.max()) < _B_TOLERANCE), np.flatnonzero(b_values < _B_TOLERANCE)]
    if b_values.max() < _B_TOLERANCE:
        raise CaseRefusedError("no_dwi", f"{path.name} holds b0 only", {"highest_b_value": float(b_values.max())})
    dwi, b0 = (_mean(image, shell, path.name) for shell in shells)
    assert dwi is not None, "the highest shell holds the highest b value"
    note = f"DWI is the mean of {shells[0].size} of {b_values.size} volumes, b = {b_values.max():g} s/mm2"
    return DiffusionFile(dwi, b0, float(b_values.max()), (note,))


def _b_values(path: Path, count: int) -> npt.NDArray[np.float64]:
    table = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".bval")
    try:
        values = np.array([float(word) for word in table.read_text(encoding="utf-8").split()])
    except (OSError, ValueError):
        values = np.empty(0)
    if values.size != count or not np.isfinite(values).all():
        reason = (
            f"{path.name} has {count} volumes and {table.name} does not tell their b values; "
            "give that file with one number per volume, or one 3-D volume of the highest b value"
        )
        raise CaseRefusedError("no_b_value", reason, {"volumes": float(count), "b_values": float(values.size)})
    return values


def _mean(image: sitk.Image, volumes: npt.NDArray[np.intp], name: str) -> sitk.Image | None:
    if not volumes.size:
        return None
    total = _float_3d(image[:, :, :, int(volumes[0])], name)
    for index in volumes[1:]:
        total = total + _float_3d(image[:, :, :, int(index)], name)
    return total / float(volumes.size)


def read_slice(path: Path) -> npt.NDArray[Any]:
    """Read a 2-D slice from ``.npy`` or ``.png``.

    Returns
    -------
    numpy.ndarray
        (rows, columns): the numbers of an npy; the grey values or palette indices of a PNG, 8 or 16 bits. A colour PNG
        whose channels are equal counts as grey.

    Raises
    ------
    CaseRefusedError
        ``unreadable``.
    """
    try:
        values = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _png(path)
    except (OSError, ValueError, EOFError):
        raise CaseRefusedError("unreadable", f"{path.name} is no {path.suffix[1:]} image; write it again") from None
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise CaseRefusedError("unreadable", f"{path.name} is no grey 2-D image: shape {values.shape}, {values.dtype}")
    return values


def _png(path: Path) -> npt.NDArray[Any]:
    from PIL import Image

    with Image.open(path) as picture:
        values = np.asarray(picture)
    if values.ndim == 3 and values.shape[2] >= 3 and (values[..., :3] == values[..., :1]).all():
        return values[..., 0]
    return values


def write_png(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """Write a grey 8-bit PNG (rows, columns)."""
    from PIL import Image

    Image.fromarray(values).save(path)
