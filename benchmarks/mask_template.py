"""The CT template in MNI space, registered to a head: an atlas's opinion of where the brain is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from jmmda_model.imaging import CtVolume

STEP_MM = 2.0


def from_cormack(units: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Undo the template's Cormack units: air kept below 900, the next 200 HU stretched by 11, the rest by 2."""
    stretched = np.where(units <= 3100, (units - 900) / 11 + 900, (units - 3100) / 2 + 1100)
    return (np.where(units <= 900, units, stretched) - 1024).astype(np.float32)


def regular_image(volume: CtVolume) -> sitk.Image:
    """The stack, tilted and unevenly spaced as it may be, on a regular grid along the patient's axes."""
    n, rows, columns = volume.hu.shape
    down = volume.orientation[1] * (rows - 1) * volume.spacing_mm[0]
    right = volume.orientation[0] * (columns - 1) * volume.spacing_mm[1]
    ends = volume.positions_mm[[0, -1]]
    corners = np.concatenate([ends, ends + down, ends + right, ends + down + right])
    low, size = corners.min(axis=0), np.ceil(np.ptp(corners, axis=0) / STEP_MM).astype(int) + 1
    axes = [low[axis] + STEP_MM * np.arange(size[axis]) for axis in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    offset, origin = points @ volume.normal, volume.in_plane_origin_mm()
    index = np.interp(offset, volume.offsets_mm, np.arange(n), left=-9, right=n + 9)
    first = [np.interp(offset, volume.offsets_mm, origin[:, axis]) for axis in range(2)]
    row = (points @ volume.orientation[1] - first[0]) / volume.spacing_mm[0]
    column = (points @ volume.orientation[0] - first[1]) / volume.spacing_mm[1]
    hu = ndimage.map_coordinates(volume.hu, [index, row, column], order=1, cval=-1024).reshape(size)
    image = sitk.GetImageFromArray(np.ascontiguousarray(hu.transpose(2, 1, 0)))
    image.SetOrigin(low.tolist())
    image.SetSpacing([STEP_MM] * 3)
    return sitk.Clamp(image, lowerBound=-200, upperBound=1000)


def register(fixed: sitk.Image, moving: sitk.Image) -> sitk.AffineTransform:
    """Similarity, then affine, by Mattes mutual information."""
    start = sitk.CenteredTransformInitializer(
        fixed + 200, moving + 200, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(2)
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 300)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 0])
    similarity = sitk.Similarity3DTransform()
    similarity.SetCenter(sitk.AffineTransform(start).GetCenter())
    similarity.SetTranslation(sitk.AffineTransform(start).GetTranslation())
    method.SetInitialTransform(similarity, inPlace=True)
    method.Execute(fixed, moving)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(similarity.GetCenter())
    affine.SetMatrix(similarity.GetMatrix())
    affine.SetTranslation(similarity.GetTranslation())
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([2, 0])
    method.SetInitialTransform(affine, inPlace=True)
    method.Execute(fixed, moving)
    return affine


def template_brain(volume: CtVolume, folder: Path) -> npt.NDArray[np.bool_]:
    """Grey, white and CSF maps of the template, above one half, at every voxel of the stack."""
    template = sitk.ReadImage(str(folder / "scct.nii"), sitk.sitkFloat32)
    moving = sitk.GetImageFromArray(from_cormack(sitk.GetArrayFromImage(template)))
    moving.CopyInformation(template)
    affine = register(regular_image(volume), sitk.Clamp(moving, lowerBound=-200, upperBound=1000))
    names = ("scgrey.nii", "scwhite.nii", "sccsf.nii")
    tissue = sum(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name), sitk.sitkFloat32)) for name in names)
    matrix = np.array(affine.GetMatrix()).reshape(3, 3)
    centre, shift = np.array(affine.GetCenter()), np.array(affine.GetTranslation())
    direction = np.array(template.GetDirection()).reshape(3, 3)
    brain = np.zeros(volume.hu.shape, dtype=bool)
    down = np.arange(volume.hu.shape[1])[:, None, None] * volume.spacing_mm[0] * volume.orientation[1]
    right = np.arange(volume.hu.shape[2])[None, :, None] * volume.spacing_mm[1] * volume.orientation[0]
    for index, position in enumerate(volume.positions_mm):
        world = (position + down + right - centre) @ matrix.T + centre + shift
        voxel = ((world - np.array(template.GetOrigin())) @ direction) / np.array(template.GetSpacing())
        brain[index] = ndimage.map_coordinates(tissue, np.moveaxis(voxel[..., ::-1], -1, 0), order=1) > 0.5
    return brain
