"""What registration works on: a CT on a regular grid, the head in a diffusion volume, and resampling at CT voxels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.resample import apply_weights, linear_weights

if TYPE_CHECKING:
    import SimpleITK as sitk

    from jmmda_model.imaging.volume import CtVolume

FloatArray = npt.NDArray[np.float32]
Point = tuple[float, float, float]

FLAT_MM: Final = 25.0
FLAT_TOP: Final = 1.5

PIXEL_MM: Final = 2.0
SLICE_MM: Final = 2.5
SIGNAL_SHARE: Final = 0.15
"""Share of the 99th percentile from which a voxel counts as head: above noise and ghosts, below brain tissue."""
CLOSE_MM: Final = 9.0
"""CSF is dark on diffusion-weighted images; closing by this much gives ventricles and sulci back to the head."""


def aligned_header(volume: CtVolume) -> tuple[tuple[float, float, float], tuple[float, ...]]:
    """Spacing (column, row, slice; the last is a dummy of 1 mm) and direction matrix of a CT's slices for SimpleITK."""
    along_columns, along_rows = volume.orientation
    axes = np.stack([along_columns, along_rows, volume.normal], axis=1)
    return (volume.spacing_mm[1], volume.spacing_mm[0], 1.0), tuple(float(value) for value in axes.ravel())


def regular_image(volume: CtVolume, array: npt.NDArray[Any], *, fill: float = 0.0) -> sitk.Image:
    """Resample a stack on a CT grid linearly to a regular, upright grid of 2 x 2 x 2.5 mm.

    Parameters
    ----------
    volume : CtVolume
        Gives the geometry; uneven steps and the shear of a tilted stack are taken out.
    array : numpy.ndarray
        (S, rows, columns) values.
    fill : float
        Value outside the slices.

    Returns
    -------
    SimpleITK.Image
        float32, its third axis along the stack's normal.
    """
    import SimpleITK as sitk

    spacing, size = np.asarray(volume.spacing_mm), np.asarray(volume.hu.shape[1:])
    origin = volume.in_plane_origin_mm()
    low = origin.min(axis=0)
    shape = np.floor(((origin + (size - 1) * spacing).max(axis=0) - low) / PIXEL_MM).astype(int) + 1
    planes = np.empty((array.shape[0], *shape), dtype=np.float32)
    for index, plane in enumerate(array):
        start = (low - origin[index]) / spacing
        rows, columns = (
            linear_weights(int(size[axis]), start[axis], PIXEL_MM / spacing[axis], int(shape[axis])) for axis in (0, 1)
        )
        planes[index] = apply_weights(plane, rows, columns, fill)
    image = sitk.GetImageFromArray(_even_steps(planes, volume.offsets_mm))
    image.SetSpacing((PIXEL_MM, PIXEL_MM, SLICE_MM))
    corner = low @ volume.orientation[::-1] + volume.offsets_mm[0] * volume.normal
    image.SetOrigin(corner.tolist())
    image.SetDirection(aligned_header(volume)[1])
    return image


def resample_to_ct(
    image: sitk.Image,
    volume: CtVolume,
    transform: sitk.Transform | None = None,
    *,
    nearest: bool = False,
    fill: float = 0.0,
) -> npt.NDArray[Any]:
    """Resample an image at the voxel positions of a CT, slice by slice: uneven and tilted stacks are met exactly.

    Parameters
    ----------
    image : SimpleITK.Image
        3-D scalar image.
    volume : CtVolume
        Gives the positions.
    transform : SimpleITK.Transform, optional
        From CT points to the image's points; default none.
    nearest : bool
        For labels; otherwise linear.
    fill : float
        Value outside the image.

    Returns
    -------
    numpy.ndarray
        (S, rows, columns) in the image's type.
    """
    import SimpleITK as sitk

    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    resampler.SetDefaultPixelValue(fill)
    if transform is not None:
        resampler.SetTransform(transform)
    n_slices, rows, columns = volume.hu.shape
    resampler.SetSize((columns, rows, 1))
    spacing, direction = aligned_header(volume)
    resampler.SetOutputSpacing(spacing)
    resampler.SetOutputDirection(direction)
    planes = []
    for index in range(n_slices):
        resampler.SetOutputOrigin(volume.positions_mm[index].tolist())
        planes.append(sitk.GetArrayFromImage(resampler.Execute(image))[0])
    return np.stack(planes)


def _even_steps(planes: FloatArray, offsets_mm: npt.NDArray[np.float64]) -> FloatArray:
    """Interpolate linearly between slices at steps of `SLICE_MM`."""
    wanted = np.arange(offsets_mm[0], offsets_mm[-1] + 1e-6, SLICE_MM)
    upper = np.clip(np.searchsorted(offsets_mm, wanted), 1, len(offsets_mm) - 1)
    share = (wanted - offsets_mm[upper - 1]) / (offsets_mm[upper] - offsets_mm[upper - 1])
    weight = np.clip(share, 0, 1).astype(np.float32)[:, None, None]
    return np.asarray((1 - weight) * planes[upper - 1] + weight * planes[upper], dtype=np.float32)


def foreground(image: sitk.Image) -> sitk.Image:
    """Find the head in a diffusion volume: uint8, where there is signal, holes of CSF closed."""
    import SimpleITK as sitk

    values: FloatArray = sitk.GetArrayFromImage(image).astype(np.float32)
    bright = values > SIGNAL_SHARE * float(np.percentile(values[values > 0], 99)) if (values > 0).any() else values > 0
    mask = sitk.GetImageFromArray(bright.astype(np.uint8))
    mask.CopyInformation(image)
    # Only in the plane: slices may be thick and few.
    radius = [max(1, round(CLOSE_MM / step)) for step in image.GetSpacing()[:2]] + [0]
    return sitk.BinaryMorphologicalClosing(mask, radius)


def flattened(image: sitk.Image, head: sitk.Image) -> sitk.Image:
    """Divide a diffusion volume by its own local mean inside the head: a coil's brightness is no anatomy.

    Parameters
    ----------
    image : SimpleITK.Image
        3-D.
    head : SimpleITK.Image
        Its `foreground`.

    Returns
    -------
    SimpleITK.Image
        float32, 0 to `FLAT_TOP`: 1 is the local mean. One very bright voxel would leave most of a histogram empty.
    """
    import SimpleITK as sitk
    from scipy import ndimage

    values: FloatArray = sitk.GetArrayFromImage(image).astype(np.float32)
    inside: FloatArray = sitk.GetArrayFromImage(head).astype(np.float32)
    sigma = [FLAT_MM / step for step in image.GetSpacing()[::-1]]
    share = ndimage.gaussian_filter(inside, sigma)
    mean = ndimage.gaussian_filter(values * inside, sigma) / np.maximum(share, 1e-3)
    floor = 0.2 * float(np.median(values[inside > 0])) if inside.any() else 1.0
    ratio = np.where(share > 0.02, values / np.maximum(mean, max(floor, 1e-6)), 0.0)
    flat = sitk.GetImageFromArray(np.clip(ratio, 0.0, FLAT_TOP).astype(np.float32))
    flat.CopyInformation(image)
    return flat


def brain_centre(mask: sitk.Image) -> Point:
    """Centroid of a mask in LPS mm; of the whole image when the mask is empty."""
    import SimpleITK as sitk

    hit = np.argwhere(sitk.GetArrayViewFromImage(mask) > 0)
    index = hit.mean(axis=0)[::-1] if len(hit) else (np.asarray(mask.GetSize()) - 1) / 2
    x, y, z = mask.TransformContinuousIndexToPhysicalPoint([float(value) for value in index])
    return float(x), float(y), float(z)
