"""Which mask PNG of AISD belongs to which CT slice: told by comparing the CT PNG beside it with the DICOM slices.

The archive does not say in which order its PNG were numbered, some series carry slices that have no PNG, and one case
has other numbers of both. A mask on the wrong slice would teach a network nonsense without any sign of it, so the order
is measured, never assumed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.volume import CtVolume, FloatArray
from train.data.readers.base import CaseRefusedError
from train.data.readers.image_files import read_slice
from train.data.readers.volumes import image_on_ct

if TYPE_CHECKING:
    import SimpleITK as sitk

__all__ = ["SliceMatch", "labelled_slices", "match_slices", "turned"]

_NUMBER: Final = re.compile(r"\d+\Z", re.ASCII)

#: Brain and bone both show in it; which window the PNG were made with does not matter to a correlation of ranks.
_WINDOW_HU: Final = (-20.0, 120.0)
#: Pictures of one slice correlate near 1, whatever their window; half of that is another head.
_LEAST_CORRELATION: Final = 0.8
#: A picture may look as much like another slice as this: slices of air above a head are all alike.
_TIE: Final = 0.002
#: Pictures are compared after shrinking to about this many pixels a side.
_COMPARED_PX: Final = 64
#: Norm of a slice that holds one value, up to rounding.
_FLAT: Final = 1e-2


@dataclass(frozen=True, slots=True)
class SliceMatch:
    """How PNG and CT slices go together.

    Attributes
    ----------
    pairs : tuple of (int, int)
        (picture, CT slice), the CT slices ascending without a gap.
    correlation : float
        Mean correlation over the pairs.
    misfits : int
        Pairs whose picture looks more like another CT slice.
    turn : int
        How the pictures have to be turned to lie like the CT slices, see `turned`; 0 when they do.
    """

    pairs: tuple[tuple[int, int], ...]
    correlation: float
    misfits: int
    turn: int = 0


def turned(stack: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """Turn pictures (..., rows, columns) by ``turn % 4`` quarters; from 4 on, mirror their columns as well."""
    quarters = np.rot90(stack, turn % 4, axes=(-2, -1))
    return quarters[..., ::-1] if turn >= 4 else quarters


def labelled_slices(ct: CtVolume, images: Path | None, masks: Path | None) -> tuple[CtVolume, sitk.Image, str]:
    """Cut a CT to the slices that have a mask PNG, and give the masks its geometry.

    Parameters
    ----------
    ct : CtVolume
        All slices of the series.
    images, masks : Path or None
        Folders of PNG whose names end in the number of the slice.

    Returns
    -------
    CtVolume
        The slices with a mask: of the others it is not known whether they show a lesion.
    SimpleITK.Image
        uint8 label map on it.
    str
        A note on how they were matched.

    Raises
    ------
    CaseRefusedError
        ``lesion_grid`` where PNG and CT do not go together, ``unreadable`` for a damaged PNG.
    """
    shown, marked = _numbered(images), _numbered(masks)
    if not shown:
        reason = "image/ has no PNG of this case, and without them the order of the mask slices is unknown; download it"
        raise CaseRefusedError("lesion_grid", reason)
    if shown.keys() != marked.keys():
        figures = {"images": float(len(shown)), "masks": float(len(marked))}
        raise CaseRefusedError("lesion_grid", "image/ and mask/ hold different slices of this case", figures)
    labels = [read_slice(path) for path in marked.values()]
    pictures = [read_slice(path) for path in shown.values()]
    if len({values.shape for values in (*labels, *pictures)}) > 1:
        raise CaseRefusedError("lesion_grid", "image/ and mask/ hold PNG of different sizes for this case")
    if any(label.max() > 255 or label.min() < 0 for label in labels):
        raise CaseRefusedError("lesion_grid", "the mask PNG hold values above 255 and are no label maps")
    match = match_slices(pictures, ct.hu)
    _check_left_over(labels, match)
    chosen = [slice_index for _, slice_index in match.pairs]
    part = replace(ct, hu=ct.hu[chosen], positions_mm=ct.positions_mm[chosen], thickness_mm=ct.thickness_mm[chosen])
    stack = np.ascontiguousarray(turned(np.stack([labels[picture] for picture, _ in match.pairs]), match.turn))
    note = f"{len(chosen)} of {len(ct.hu)} CT slices have a mask (correlation {match.correlation:.3f})"
    if match.turn:
        note += "; the PNG lie otherwise than the CT slices and were turned"
    return part, image_on_ct(stack.astype(np.uint8), part), note


def _check_left_over(labels: Sequence[npt.NDArray[Any]], match: SliceMatch) -> None:
    """Refuse when a mask that marks something belongs to a slice that the CT does not have."""
    used = {picture for picture, _ in match.pairs}
    lost = [index for index, label in enumerate(labels) if index not in used and np.any(label)]
    if lost:
        reason = "mask slices with a lesion have no CT slice; CT and masks are not of one series"
        raise CaseRefusedError("lesion_grid", reason, {"mask_slices": float(len(lost))})


def _numbered(folder: Path | None) -> dict[int, Path]:
    """PNG of a folder by the number at the end of their names, ascending."""
    files = () if folder is None else folder.glob("*.png")
    numbered = {int(found[0]): path for path in files if (found := _NUMBER.search(path.stem))}
    return dict(sorted(numbered.items()))


def match_slices(pictures: Sequence[npt.NDArray[Any]], hu: FloatArray) -> SliceMatch:
    """Find the offset, the direction and the turn that bring pictures and CT slices together.

    Parameters
    ----------
    pictures : sequence of numpy.ndarray
        (rows, columns) grey, in the order of their file names.
    hu : numpy.ndarray
        (S, rows, columns) in HU, ascending.

    Raises
    ------
    CaseRefusedError
        ``lesion_grid`` where sizes differ, or where no order fits clearly.
    """
    stack = np.stack(pictures).astype(np.float32)
    turns = [turn for turn in range(8) if turned(stack, turn).shape[1:] == hu.shape[1:]]
    if not turns:
        raise CaseRefusedError("lesion_grid", "the PNG have another size than the CT slices; take them from one source")
    step = max(1, hu.shape[1] // _COMPARED_PX)
    small, slices = _shrunk(stack, step), _normalised(_shrunk(np.clip(hu, *_WINDOW_HU), step))
    orders = [
        order for turn in turns for order in _orders(_correlations(_normalised(turned(small, turn)), slices), turn)
    ]
    best = max(orders, key=lambda order: order.correlation)
    if best.correlation < _LEAST_CORRELATION or best.misfits:
        figures = {
            "correlation": best.correlation,
            "misfits": float(best.misfits),
            "slices": float(len(hu)),
            "pictures": float(len(pictures)),
        }
        reason = "it cannot be told which PNG belongs to which CT slice; check that image/, mask/ and dicom-N/ agree"
        raise CaseRefusedError("lesion_grid", reason, figures)
    return best


def _shrunk(stack: FloatArray, step: int) -> FloatArray:
    """Mean over blocks of `step` pixels a side."""
    rows, columns = (size // step * step for size in stack.shape[1:])
    blocks = stack[:, :rows, :columns].reshape(len(stack), rows // step, step, columns // step, step)
    return np.asarray(blocks.mean(axis=(2, 4)), dtype=np.float32)


def _normalised(stack: npt.NDArray[Any]) -> FloatArray:
    """(S, pixels) with zero mean and unit norm in each slice; all zero for a slice of one value."""
    flat = stack.reshape(len(stack), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(norms > _FLAT, flat / np.maximum(norms, _FLAT), 0).astype(np.float32)


def _correlations(pictures: FloatArray, slices: FloatArray) -> FloatArray:
    # Two slices of nothing but air are alike, though a correlation knows nothing of them.
    flat = np.outer(~pictures.any(axis=1), ~slices.any(axis=1))
    return np.where(flat, np.float32(1), pictures @ slices.T)


def _orders(similar: FloatArray, turn: int) -> list[SliceMatch]:
    """Every ascending and descending order in which the shorter stack lies within the longer one.

    A mean alone would hide a picture missing in the middle: one half of the pairs fits, the other is one slice off and
    still much alike. So each picture has to find its own slice the most alike of all.
    """
    n_pictures, n_slices = similar.shape
    shorter = min(n_pictures, n_slices)
    alike = similar.max(axis=1) - _TIE
    found = []
    for direction in (1, -1):
        numbers = np.arange(n_pictures)[::direction]
        for first_picture in range(n_pictures - shorter + 1):
            for first_slice in range(n_slices - shorter + 1):
                chosen = numbers[first_picture : first_picture + shorter]
                slices = np.arange(first_slice, first_slice + shorter)
                fit = similar[chosen, slices]
                pairs = tuple((int(a), int(b)) for a, b in zip(chosen, slices, strict=True))
                found.append(SliceMatch(pairs, float(fit.mean()), int(np.count_nonzero(fit < alike[chosen])), turn))
    return found
