"""Is it a head, and are its vertex and base there: the one rule of the gate that looks at pixels.

A few slices spread over the stack are decoded, so the answer takes a fraction of a second; the brain mask, which sees
every voxel, judges later and in full. All areas come from plain thresholds in HU, since they only have to tell a
head from a trunk and the inside of a skull from its surface.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from dicom_node.dicom.gate_stack import Refusal, Stack
from dicom_node.dicom.values import SliceHeader
from dicom_node.errors import Permanent

__all__ = ["looks_like_a_head"]

#: Slices that are looked at, both ends included.
_LOOKED_AT: Final = 5

#: Air, foam of the headrest and lung lie below.
_TISSUE_ABOVE_HU: Final = -300.0
_BONE_ABOVE_HU: Final = 200.0
#: Foramina and thin bone leave the ring of the skull base open by less than twice this; a vertebra's canal, which this
#: closes, is no brain.
_BRIDGED_MM: Final = 4.0
#: Brain, blood and cerebrospinal fluid; what fills an empty skull phantom or a sinus lies below.
_BRAIN_HU: Final = (-20.0, 120.0)


def looks_like_a_head(stack: Stack) -> Refusal | None:
    """A trunk is refused; a head whose vertex or base is cut off passes with a note."""
    if stack.read_slice is None:
        return None
    wanted = np.unique(np.linspace(0, len(stack.headers) - 1, _LOOKED_AT).round().astype(int))
    # From the feet upwards, whichever way the normal points.
    upwards = [stack.headers[index] for index in (wanted if stack.normal[2] >= 0 else wanted[::-1])]
    seen = {id(header): image for header in upwards if (image := _pixels(stack, header)) is not None}
    if len(seen) < len(upwards):
        stack.note("pixels_unseen", f"{len(upwards) - len(seen)} of {len(upwards)} slices looked at do not decode")
    if not seen:
        return None
    refusal = _no_trunk(stack, upwards, seen)
    if refusal is None:
        _note_cut(stack, "base", seen.get(id(upwards[0])), "lowest")
        _note_cut(stack, "vertex", seen.get(id(upwards[-1])), "topmost")
    return refusal


def _pixels(stack: Stack, header: SliceHeader) -> npt.NDArray[np.float32] | None:
    assert stack.read_slice is not None
    try:
        return stack.read_slice(header)
    except Permanent:
        return None


def _no_trunk(stack: Stack, upwards: list[SliceHeader], seen: dict[int, npt.NDArray[np.float32]]) -> Refusal | None:
    shown = [header for header in upwards if id(header) in seen]
    areas = [_area_cm2(stack, seen[id(header)] > _TISSUE_ABOVE_HU) for header in shown]
    stack.figures["sections_cm2"] = [round(area, 1) for area in areas]
    median, limit = float(np.median(areas)), stack.thresholds.max_head_section_cm2
    if median <= limit:
        return None
    large = [header for header, area in zip(shown, areas, strict=True) if area > limit]
    reason = f"the slices show {median:.0f} cm2 of tissue in the median of {len(areas)}, a head at most {limit:g} cm2"
    return Refusal("not_a_head", reason, large)


def _note_cut(stack: Stack, end: str, image: npt.NDArray[np.float32] | None, which: str) -> None:
    if image is None:
        return
    inside = _inside_bone(image, stack.headers[0].pixel_spacing_mm or (1.0, 1.0))
    brain = round(_area_cm2(stack, inside), 1)
    stack.figures[f"{end}_brain_cm2"] = brain
    limit = stack.thresholds.noted_cut_brain_cm2
    if brain > limit:
        text = f"the {which} slice holds {brain:g} cm2 of brain inside bone, more than {limit:g} cm2"
        stack.note(f"{end}_cut_off", text)


def _inside_bone(image: npt.NDArray[np.float32], spacing_mm: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Pixels of the density of brain that a ring of bone encloses in their slice."""
    # Imported here: commands that never look at pixels answer without scipy.
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    bone = image > _BONE_ABOVE_HU
    if not bone.any():
        return bone
    ring = distance_transform_edt(~bone, sampling=spacing_mm) <= _BRIDGED_MM
    low, high = _BRAIN_HU
    return np.asarray(binary_fill_holes(ring) & ~ring & (image > low) & (image < high), dtype=np.bool_)


def _area_cm2(stack: Stack, mask: npt.NDArray[np.bool_]) -> float:
    rows, columns = stack.headers[0].pixel_spacing_mm or (0.0, 0.0)
    return float(np.count_nonzero(mask)) * rows * columns / 100.0
