"""Between SimpleITK images and `CtVolume`: one world (LPS, mm) and one index order for a case.

Images are turned to LPS index order when they are read (columns to the patient's left, rows to posterior, slices to
superior, up to obliqueness), so that a NIfTI file stored in any axis order enters the imaging room like a DICOM series.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.errors import ImagingError
from jmmda_model.imaging.volume import CtVolume, FloatArray
from train.data.readers.base import CaseRefusedError, ReaderOptions

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = [
    "axial_image",
    "centre_distance_mm",
    "ct_volume_from_image",
    "hounsfield",
    "image_from_ct_volume",
    "image_on_ct",
    "same_grid_as_ct",
    "same_grid_as_image",
]

#: A CT of a head holds air; where even the minimum is above this, the values are no Hounsfield units.
AIR_LIMIT_HU: Final = -500.0
#: Corners of two grids nearer than this are the same corners: NIfTI keeps its affine in single precision.
GRID_TOLERANCE_MM: Final = 0.1
#: As the node's geometry gate: slices tilted more than this are no axial slices.
_MAX_TILT_DEG: Final = 30.0


def ct_volume_from_image(image: sitk.Image) -> CtVolume:
    """Turn a 3-D image with values in HU into a stack of axial slices.

    Parameters
    ----------
    image : SimpleITK.Image
        One component, any axis order.

    Returns
    -------
    CtVolume
        Columns to the patient's left, rows to posterior, slices ascending; obliqueness is kept in its orientation.

    Raises
    ------
    CaseRefusedError
        ``one_slice``; ``geometry`` when no axis order gives slices within 30 degrees of the transverse plane.
    """
    import SimpleITK as sitk

    turned = axial_image(image)
    values = sitk.GetArrayFromImage(turned).astype(np.float32)
    if values.shape[0] < 2:
        raise CaseRefusedError("one_slice", "the CT has one slice; a pair needs a stack", {"slices": 1})
    axes = np.array(turned.GetDirection()).reshape(3, 3)
    tilt_deg = float(np.degrees(np.arccos(np.clip(abs(axes[2, 2]), 0.0, 1.0))))
    if tilt_deg > _MAX_TILT_DEG:
        reason = f"the CT's slices are {tilt_deg:.0f} deg from the transverse plane; reformat it to axial slices"
        raise CaseRefusedError("geometry", reason, {"tilt_deg": tilt_deg})
    columns_mm, rows_mm, slices_mm = turned.GetSpacing()
    count = values.shape[0]
    positions = np.array(turned.GetOrigin()) + np.arange(count)[:, None] * slices_mm * axes[:, 2]
    return _volume(values, positions, axes[:, :2].T, (rows_mm, columns_mm), np.full(count, slices_mm))


def axial_image(image: sitk.Image) -> sitk.Image:
    """Permute and flip an image to the index order nearest to LPS; the world position of no voxel changes.

    Raises
    ------
    CaseRefusedError
        ``geometry`` for an image that is not 3-D.
    """
    import SimpleITK as sitk

    if image.GetDimension() != 3:
        figures = {"dimensions": float(image.GetDimension())}
        raise CaseRefusedError("geometry", "one 3-D volume is needed; split a 4-D file first", figures)
    return sitk.DICOMOrient(image, "LPS")


def _volume(
    hu: FloatArray,
    positions_mm: npt.NDArray[np.float64],
    orientation: npt.NDArray[np.float64],
    spacing_mm: tuple[float, float],
    thickness_mm: npt.NDArray[np.float64],
) -> CtVolume:
    try:
        return CtVolume(hu, positions_mm, orientation, spacing_mm, thickness_mm)
    except ImagingError as error:
        raise CaseRefusedError("geometry", f"CT: {error.reason}", error.figures) from None


def hounsfield(values: npt.NDArray[Any], options: ReaderOptions) -> FloatArray:
    """Check stored CT values and bring them to HU.

    Parameters
    ----------
    values : numpy.ndarray
        As stored, after the file format's own rescale; any shape.
    options : ReaderOptions
        With ``ct_unit = "window"`` values are mapped linearly from `window_stored` to `window_hu`.

    Raises
    ------
    CaseRefusedError
        ``not_finite``; ``ct_window`` for 8-bit grey values without a stated window; ``ct_unit`` for other values that
        are no HU, or that lie outside the stated range of a window.
    """
    found = np.asarray(values, dtype=np.float32)
    check_finite(found, "CT")
    lowest, highest = float(found.min()), float(found.max())
    figures = {"minimum": lowest, "maximum": highest}
    if options.ct_unit == "window":
        return _from_window(found, options, figures)
    if lowest > AIR_LIMIT_HU:
        eight_bits = lowest >= 0 and highest <= 255
        kind = "8-bit grey values of a display window" if eight_bits else "no Hounsfield units"
        reason = (
            f"the CT's values from {lowest:g} to {highest:g} are {kind}: there is no air below {AIR_LIMIT_HU:g} HU. "
            'Export it in HU, or say --ct-unit window and the window in HU (ct_unit = "window", window_hu)'
        )
        raise CaseRefusedError("ct_window" if eight_bits else "ct_unit", reason, figures)
    return found


def _from_window(found: FloatArray, options: ReaderOptions, figures: dict[str, float]) -> FloatArray:
    assert options.window_hu is not None, "ReaderOptions refuses a window without bounds"
    (low, high), (first, last) = options.window_hu, options.window_stored
    if figures["minimum"] < first or figures["maximum"] > last:
        reason = f"the CT's values lie outside the stated range of its window, {first:g} to {last:g}; mend the range"
        raise CaseRefusedError("ct_unit", reason, figures)
    return np.asarray(low + (found - first) * np.float32((high - low) / (last - first)), dtype=np.float32)


def check_finite(values: npt.NDArray[Any], what: str) -> None:
    """Refuse NaN and infinity (``not_finite``), with their number."""
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        reason = f"the {what} holds {bad} values that are NaN or infinite; repair or re-export the file"
        raise CaseRefusedError("not_finite", reason, {"not_finite_voxels": float(bad)})


# --- grids -------------------------------------------------------------------------------------------------------


def image_on_ct(values: npt.NDArray[Any], ct: CtVolume) -> sitk.Image:
    """Give an array (S, rows, columns) on a CT's grid the geometry of that CT.

    Index for index it belongs to the CT. Where the CT's slices are unevenly spaced or sheared, which an image cannot
    express, the world geometry is that of an even stack from the first slice to the last.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(values)
    image.SetSpacing((ct.spacing_mm[1], ct.spacing_mm[0], _even_step_mm(ct)))
    image.SetOrigin(tuple(float(value) for value in ct.positions_mm[0]))
    # Cosines written with four digits are no rotation to ITK, so the second axis is set at right angles to the first.
    first, normal = ct.orientation[0] / np.linalg.norm(ct.orientation[0]), ct.normal
    axes = np.stack([first, np.cross(normal, first), normal], axis=1)
    image.SetDirection(tuple(float(value) for value in axes.ravel()))
    return image


def _even_step_mm(ct: CtVolume) -> float:
    count = ct.hu.shape[0]
    return float((ct.offsets_mm[-1] - ct.offsets_mm[0]) / (count - 1)) if count > 1 else 1.0


def image_from_ct_volume(ct: CtVolume) -> sitk.Image:
    """Make a float32 image of a CT, for registration and pictures.

    A stack that is uneven or sheared (gantry tilt) is interpolated linearly to even slices at the smallest step of its
    slices, each slice moved in its plane by its own offset; an even one is taken over voxel by voxel.
    """
    from scipy.ndimage import shift

    steps = np.diff(ct.offsets_mm)
    drift_px = (ct.in_plane_origin_mm() - ct.in_plane_origin_mm()[0]) / np.array(ct.spacing_mm)
    if _is_even(ct):
        return image_on_ct(ct.hu, ct)
    straight = np.stack(
        [shift(hu, moved, order=1, mode="nearest") for hu, moved in zip(ct.hu, drift_px, strict=True)],
    )
    count = int(np.floor((ct.offsets_mm[-1] - ct.offsets_mm[0]) / steps.min() + 1e-6)) + 1
    wanted = ct.offsets_mm[0] + np.arange(count) * steps.min()
    above = np.clip(np.searchsorted(ct.offsets_mm, wanted, side="right"), 1, len(steps))
    share = np.clip((wanted - ct.offsets_mm[above - 1]) / steps[above - 1], 0.0, 1.0).astype(np.float32)
    hu = straight[above - 1] * (1 - share)[:, None, None] + straight[above] * share[:, None, None]
    positions = ct.positions_mm[0] + (wanted - wanted[0])[:, None] * ct.normal
    thickness = np.full(count, float(steps.min()))
    return image_on_ct(hu, CtVolume(hu, positions, ct.orientation, ct.spacing_mm, thickness))


def _is_even(ct: CtVolume) -> bool:
    even = ct.positions_mm[0] + np.arange(ct.hu.shape[0])[:, None] * _even_step_mm(ct) * ct.normal
    return bool(np.abs(ct.positions_mm - even).max() < GRID_TOLERANCE_MM)


def _corners_mm(positions_mm: npt.NDArray[np.float64], edges_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(8, 3) centres of the corner voxels, from two corners along the normal and two edges (2, 3) in the plane."""
    inside = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ edges_mm
    return np.concatenate([positions_mm[0] + inside, positions_mm[-1] + inside])


def _ct_corners_mm(ct: CtVolume) -> npt.NDArray[np.float64]:
    _, rows, columns = ct.hu.shape
    lengths = np.array([(columns - 1) * ct.spacing_mm[1], (rows - 1) * ct.spacing_mm[0]])
    return _corners_mm(ct.positions_mm, ct.orientation * lengths[:, None])


def _image_corners_mm(image: sitk.Image) -> npt.NDArray[np.float64]:
    axes = np.array(image.GetDirection()).reshape(3, 3)
    lengths = (np.array(image.GetSize()) - 1) * np.array(image.GetSpacing())
    origin = np.array(image.GetOrigin())
    return _corners_mm(np.stack([origin, origin + axes[:, 2] * lengths[2]]), axes[:, :2].T * lengths[:2, None])


def _turned_like(image: sitk.Image, axes: npt.NDArray[np.float64]) -> sitk.Image:
    """Bring an image into the index order of a grid with these axes (3, 3; one a column)."""
    import SimpleITK as sitk

    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(tuple(float(v) for v in axes.ravel()))
    return sitk.DICOMOrient(image, code)


def same_grid_as_ct(image: sitk.Image, ct: CtVolume) -> tuple[sitk.Image | None, float]:
    """Bring an image into the index order of a CT, if it lies on the CT's grid.

    Returns
    -------
    SimpleITK.Image or None
        Index for index on the CT; None when size or position differ.
    float
        Largest distance of two corners that should be one, mm; infinite when the sizes differ.
    """
    turned = _turned_like(image, np.stack([*ct.orientation, ct.normal], axis=1))
    if turned.GetSize() != ct.hu.shape[::-1]:
        return None, float("inf")
    apart = float(np.linalg.norm(_image_corners_mm(turned) - _ct_corners_mm(ct), axis=1).max())
    return (turned if apart <= GRID_TOLERANCE_MM else None), apart


def same_grid_as_image(image: sitk.Image, other: sitk.Image) -> tuple[sitk.Image | None, float]:
    """Bring an image into the index order of another, if it lies on the other's grid; see `same_grid_as_ct`."""
    turned = _turned_like(image, np.array(other.GetDirection()).reshape(3, 3))
    if turned.GetSize() != other.GetSize():
        return None, float("inf")
    apart = float(np.linalg.norm(_image_corners_mm(turned) - _image_corners_mm(other), axis=1).max())
    return (turned if apart <= GRID_TOLERANCE_MM else None), apart


def centre_distance_mm(ct: CtVolume, image: sitk.Image) -> float:
    """Distance between the centres of a CT and of an image in the world, mm."""
    return float(np.linalg.norm(_ct_corners_mm(ct).mean(axis=0) - _image_corners_mm(image).mean(axis=0)))
