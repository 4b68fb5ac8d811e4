"""Put the images of one case together: every check that does not depend on the layout stands here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from train.data.readers.base import CaseRefusedError, PairSource, PairVolumes, ReaderOptions
from train.data.readers.volumes import check_finite, same_grid_as_ct, same_grid_as_image

if TYPE_CHECKING:
    import SimpleITK as sitk

    from jmmda_model.imaging.volume import CtVolume

__all__ = ["PairParts", "make_pair"]

#: b value for which an inverted ADC map shows the attenuation, s/mm2.
_B_OF_INVERTED_ADC: Final = 1000.0


@dataclass(frozen=True, slots=True)
class PairParts:
    """What a reader read of one case, unchecked.

    Attributes
    ----------
    ct, dwi, b0, target_kind, b_value
        As in `PairVolumes`; the CT's values were checked by whoever read it.
    lesion : SimpleITK.Image or None
        Label map; its grid is looked for among CT and DWI.
    brain : SimpleITK.Image or None
        Label map that has to lie on the CT's grid.
    same_space : bool or None
        None: they are in one space if they share one grid.
    notes : tuple of str
        Beside those of the source.
    """

    ct: CtVolume
    dwi: sitk.Image
    b0: sitk.Image | None = None
    lesion: sitk.Image | None = None
    brain: sitk.Image | None = None
    same_space: bool | None = None
    target_kind: Literal["dwi", "adc"] = "dwi"
    b_value: float | None = None
    notes: tuple[str, ...] = ()


def make_pair(source: PairSource, parts: PairParts, options: ReaderOptions) -> PairVolumes:
    """Check the parts of a case and put them together.

    Raises
    ------
    CaseRefusedError
        ``not_finite``, ``one_slice``, ``no_dwi`` (a flat target), ``lesion_grid`` (a label on no grid of
        the case), ``empty_mask`` (a brain mask without brain).
    """
    import SimpleITK as sitk

    _check_target(parts.dwi, "DWI" if parts.target_kind == "dwi" else "ADC")
    if parts.b0 is not None:
        check_finite(sitk.GetArrayViewFromImage(parts.b0), "b0")
    notes = [*source.notes, *parts.notes]
    labels, space = _lesion(parts)
    lesion = None if labels is None else _binary(labels)
    if lesion is None:
        notes.append("no lesion mask: lesion unknown")
    elif not np.any(sitk.GetArrayViewFromImage(lesion)):
        notes.append("the lesion mask is empty: known to have no visible lesion")
    dwi = sitk.Cast(parts.dwi, sitk.sitkFloat32)
    if parts.target_kind == "adc" and options.adc == "invert":
        dwi = _attenuation(dwi)
        notes.append(f"ADC inverted to exp(-b ADC), b = {_B_OF_INVERTED_ADC:g} s/mm2")
    same_space = parts.same_space
    if same_space is None:
        same_space = same_grid_as_ct(dwi, parts.ct)[0] is not None
    return PairVolumes(
        ct=parts.ct,
        dwi=dwi,
        b0=None if parts.b0 is None else sitk.Cast(parts.b0, sitk.sitkFloat32),
        lesion=lesion,
        lesion_space=space,
        brain=_brain(parts),
        same_space=same_space,
        target_kind=parts.target_kind,
        b_value=parts.b_value,
        notes=tuple(notes),
        lesion_labels=labels if labels is not None and _kinds(labels) > 1 else None,
    )


def _check_target(dwi: sitk.Image, what: str) -> None:
    import SimpleITK as sitk

    values = sitk.GetArrayViewFromImage(dwi)
    if values.shape[0] < 2:
        raise CaseRefusedError("one_slice", f"the {what} has one slice; a pair needs a stack", {"slices": 1})
    check_finite(values, what)
    if float(values.min()) == float(values.max()):
        reason = f"the {what} holds one value everywhere; re-export the series"
        raise CaseRefusedError("no_dwi", reason, {"value": float(values.max())})


def _lesion(parts: PairParts) -> tuple[sitk.Image | None, Literal["ct", "dwi"]]:
    """The lesion's labels in the index order of the image on whose grid they lie, and which one that is."""
    if parts.lesion is None:
        return None, "ct"
    on_ct, from_ct_mm = same_grid_as_ct(parts.lesion, parts.ct)
    if on_ct is not None:
        return on_ct, "ct"
    on_dwi, from_dwi_mm = same_grid_as_image(parts.lesion, parts.dwi)
    if on_dwi is not None:
        return on_dwi, "dwi"
    figures = _sizes(parts.lesion, "lesion") | {
        key: value for key, value in (("from_ct_mm", from_ct_mm), ("from_dwi_mm", from_dwi_mm)) if np.isfinite(value)
    }
    reason = "the lesion mask lies on the grid of neither CT nor DWI; resample it to the image it was drawn on"
    raise CaseRefusedError("lesion_grid", reason, figures)


def _brain(parts: PairParts) -> sitk.Image | None:
    import SimpleITK as sitk

    if parts.brain is None:
        return None
    on_ct, apart_mm = same_grid_as_ct(parts.brain, parts.ct)
    if on_ct is None:
        figures = _sizes(parts.brain, "brain") | ({"from_ct_mm": apart_mm} if np.isfinite(apart_mm) else {})
        reason = "the brain mask does not lie on the CT's grid; draw or resample it there, or leave it out"
        raise CaseRefusedError("lesion_grid", reason, figures)
    brain = _binary(on_ct)
    if not np.any(sitk.GetArrayViewFromImage(brain)):
        raise CaseRefusedError("empty_mask", "the given brain mask is empty; leave it out and the CT's own is computed")
    return brain


def _binary(labels: sitk.Image) -> sitk.Image:
    import SimpleITK as sitk

    return sitk.Cast(labels > 0, sitk.sitkUInt8)


def _kinds(labels: sitk.Image) -> int:
    import SimpleITK as sitk

    return int(np.count_nonzero(np.unique(sitk.GetArrayViewFromImage(labels))))


def _sizes(image: sitk.Image, what: str) -> dict[str, float]:
    return {
        f"{what}_{axis}": float(size) for axis, size in zip(("columns", "rows", "slices"), image.GetSize(), strict=True)
    }


def _attenuation(adc: sitk.Image) -> sitk.Image:
    """exp(-b ADC) x 1000, 0 where there is no ADC; the unit of the map is told from its median.

    Brain has 0.6 to 3 x 10^-3 mm2/s, so maps in mm2/s, 10^-3 mm2/s and 10^-6 mm2/s lie three decades apart.
    """
    import SimpleITK as sitk

    values = sitk.GetArrayFromImage(adc)
    there = values > 0
    median = float(np.median(values[there])) if there.any() else 1.0
    per_unit = 1.0 if median < 0.03 else 1e-3 if median < 30 else 1e-6
    shown = np.where(there, 1000.0 * np.exp(-_B_OF_INVERTED_ADC * per_unit * values), 0.0).astype(np.float32)
    image = sitk.GetImageFromArray(shown)
    image.CopyInformation(adc)
    return image
