"""The rules that a stack passes on its way through the gate, in their order; `dicom_node.dicom.gate` walks them.

A rule gets the stack, may drop an instance from it, leave a note or a figure, and returns a refusal or None. Those that
refuse for geometry stand here; the rest in `gate_identity`, `gate_peculiarities` and `gate_pixels`. The first line of
each rule is shown in docs/geometry.md.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from dicom_node.dicom import geometry
from dicom_node.dicom.gate_identity import (
    drop_non_images,
    no_uid_twice,
    one_frame_of_reference,
    one_patient_one_study,
)
from dicom_node.dicom.gate_peculiarities import measure, note_grid, note_lean, note_thickness
from dicom_node.dicom.gate_pixels import looks_like_a_head
from dicom_node.dicom.gate_stack import LISTED, Refusal, Rule, Stack, number_of, plural, where
from dicom_node.dicom.values import SliceHeader

__all__ = ["RULES"]

#: Slices whose normals are further apart than this are different views, not one view badly written.
_OTHER_VIEW_DEG: Final = 45.0


def _image_slices_there(stack: Stack) -> Refusal | None:
    """There is at least one image slice."""
    # A short stack is refused only after its geometry was judged, which says more.
    if stack.headers:
        return None
    return Refusal("coverage", "the series holds no image slice")


def _positions_there(stack: Stack) -> Refusal | None:
    """Every slice has a position and an orientation (PS3.3 C.7.6.2.1.1)."""
    lacking = [header for header in stack.headers if not geometry.has_geometry(header)]
    if not lacking:
        return None
    reason = (
        f"{plural(len(lacking), 'slice')} of {len(stack.headers)} without a readable ImagePositionPatient or "
        "ImageOrientationPatient"
    )
    return Refusal("no_position", reason, lacking)


def _spacing_there(stack: Stack) -> Refusal | None:
    """Every slice has a size and a pixel spacing (PS3.3 10.7.1.3)."""
    lacking = [h for h in stack.headers if h.pixel_spacing_mm is None or not h.rows or not h.columns]
    if not lacking:
        return None
    reason = f"{plural(len(lacking), 'slice')} of {len(stack.headers)} without PixelSpacing, Rows or Columns"
    return Refusal("no_spacing", reason, lacking)


def _axes_sound(stack: Stack) -> Refusal | None:
    """Row and column direction are perpendicular unit vectors."""
    defects = [geometry.orientation_defect(header.image_orientation_patient or ()) for header in stack.headers]
    unsound = [
        h for h, defect in zip(stack.headers, defects, strict=True) if defect > stack.thresholds.max_orientation_defect
    ]
    if not unsound:
        return None
    stack.figures["orientation_defect"] = round(max(defects), 6)
    return Refusal("orientation", "ImageOrientationPatient does not hold two perpendicular unit vectors", unsound)


def _one_view(stack: Stack) -> Refusal | None:
    """A few slices from another view are an unmarked localizer and left out; many make the series unusable."""
    normals = [geometry.normal_of(header.image_orientation_patient or ()) for header in stack.headers]
    limit = stack.thresholds.max_tilt_deg
    transverse = [geometry.tilt_deg(normal) <= limit for normal in normals]
    if all(transverse) or not any(transverse):
        return None
    usual = next(normal for normal, is_transverse in zip(normals, transverse, strict=True) if is_transverse)
    odd = [(h, n) for h, n, is_transverse in zip(stack.headers, normals, transverse, strict=True) if not is_transverse]
    if min(_angle_of_planes_deg(usual, normal) for _, normal in odd) < _OTHER_VIEW_DEG:
        return None  # a transverse slice written badly, of which the next rule knows more to say
    others, most = [header for header, _ in odd], stack.thresholds.max_other_view_slices
    if len(others) > most or len(others) >= len(stack.headers) - len(others):
        reason = (
            f"{plural(len(others), 'slice')} of {len(stack.headers)} show another view, at most {most} are left out"
        )
        return Refusal("orientation_spread", reason, others)
    stack.leave_out(others)
    stack.figures["dropped_other_view"] = [where(header, stack.normal) for header in others[:LISTED]]
    stack.note("other_view", f"{plural(len(others), 'slice')} dropped: another view than the transverse slices")
    return None


def _angle_of_planes_deg(first: geometry.FloatArray, second: geometry.FloatArray) -> float:
    """Angle of two planes from their unit normals, 0 to 90."""
    return min(geometry.angle_deg(first, second), geometry.angle_deg(first, -second))


def _slices_parallel(stack: Stack) -> Refusal | None:
    """The slices are parallel; from here on they are sorted along their normal."""
    spread = geometry.orientation_spread_deg(stack.headers)
    limit = stack.thresholds.max_orientation_spread_deg
    stack.figures["orientation_spread_deg"] = round(spread, 4)
    if spread <= limit:
        stack.normal = geometry.stack_normal(stack.headers)
        stack.headers = list(geometry.sort_stack(stack.headers))
        return None
    counts = Counter(header.image_orientation_patient for header in stack.headers)
    usual = counts.most_common(1)[0][0]
    odd = [header for header in stack.headers if header.image_orientation_patient != usual]
    return Refusal("orientation_spread", f"slices are not parallel: {spread:.2f} deg, limit {limit:g} deg", odd)


def _one_grid(stack: Stack) -> Refusal | None:
    """All slices have one matrix and one pixel spacing."""

    def grid(header: SliceHeader) -> tuple[int, int, float, float]:
        spacing = header.pixel_spacing_mm or (0.0, 0.0)
        return header.rows or 0, header.columns or 0, *spacing

    counts = Counter(grid(header) for header in stack.headers)
    usual = min(counts, key=lambda value: (-counts[value], value))

    def fits(header: SliceHeader) -> bool:
        rows, columns, between_rows, between_columns = grid(header)
        if (rows, columns) != usual[:2]:
            return False
        # The far edges of two slices must meet, so the difference is counted over the whole width.
        shift = max(abs(between_rows - usual[2]) * rows, abs(between_columns - usual[3]) * columns)
        return shift <= stack.thresholds.position_tolerance_mm

    odd = [header for header in stack.headers if not fits(header)]
    if not odd:
        return None
    reason = f"{plural(len(odd), 'slice')} of {len(stack.headers)} with another matrix or pixel spacing"
    return Refusal("in_plane_mismatch", reason, odd)


def _field_of_a_scanner(stack: Stack) -> Refusal | None:
    """The field of view is one that a scanner can have."""
    # A wrong PixelSpacing would have the worker resample a grid of kilometres, which takes all memory there is.
    first = stack.headers[0]
    between_rows, between_columns = first.pixel_spacing_mm or (0.0, 0.0)
    height, width = between_rows * (first.rows or 0), between_columns * (first.columns or 0)
    limit = stack.thresholds.max_field_mm
    if max(height, width) <= limit:
        return None
    reason = f"the field of view is {height:.0f} x {width:.0f} mm, at most {limit:g} mm"
    return Refusal("field_too_large", reason, stack.headers)


def _tilt_bearable(stack: Stack) -> Refusal | None:
    """The slices are transverse, give or take the tilt of a gantry."""
    tilt = geometry.tilt_deg(stack.normal)
    stack.figures["tilt_deg"] = round(tilt, 2)
    limit = stack.thresholds.max_tilt_deg
    if tilt > limit:
        reason = f"slices are {tilt:.1f} deg from the transverse plane, limit {limit:g} deg"
        return Refusal("orientation", reason, stack.headers)
    if tilt > stack.thresholds.noted_tilt_deg:
        stack.note("tilt", f"slices are {tilt:.1f} deg from the transverse plane")
    return None


def _turn_bearable(stack: Stack) -> Refusal | None:
    """Rows and columns run along the patient's axes, as far as quarter turns and mirrorings can tell."""
    turn = geometry.turn_deg(stack.headers[0].image_orientation_patient or ())
    stack.figures["turn_deg"] = round(turn, 2)
    limit = stack.thresholds.max_turn_deg
    if turn > limit:
        reason = f"rows run {turn:.1f} deg off the nearest axis of the patient, limit {limit:g} deg"
        return Refusal("orientation", reason, stack.headers)
    if turn > stack.thresholds.noted_tilt_deg:
        stack.note("oblique", f"rows run {turn:.1f} deg off the nearest axis of the patient")
    return None


def _no_position_twice(stack: Stack) -> Refusal | None:
    """No position is taken twice; copies are left out."""
    kept: list[SliceHeader] = []
    dropped: list[SliceHeader] = []
    for group in _same_position(stack):
        refusal = _side_by_side(stack, group)
        if refusal is not None:
            return refusal
        digests = {stack.pixel_digest(header) for header in group} if len(group) > 1 else set()
        if len(digests) > 1:
            at = geometry.offset_along(group[0], stack.normal)
            reason = f"{len(group)} slices with different pixels at one position ({at:.2f} mm along the normal)"
            return Refusal("duplicate_position", reason, group)
        kept.append(group[0])
        dropped.extend(group[1:])
    if dropped:
        stack.headers = kept
        stack.figures["dropped_duplicates"] = [where(header, stack.normal) for header in dropped[:LISTED]]
        stack.note("duplicates", f"{plural(len(dropped), 'slice')} dropped: same position and pixels as another")
    return None


def _side_by_side(stack: Stack, group: list[SliceHeader]) -> Refusal | None:
    """Two slices in one plane but at different places of it are no copies, whatever their pixels."""
    apart = geometry.largest_distance_mm(np.array([header.image_position_patient for header in group]))
    if apart <= stack.thresholds.noted_shift_mm:
        return None
    at = geometry.offset_along(group[0], stack.normal)
    reason = f"{len(group)} slices lie {apart:.1f} mm apart in one plane ({at:.2f} mm along the normal)"
    return Refusal("duplicate_position", reason, group)


def _same_position(stack: Stack) -> list[list[SliceHeader]]:
    """Group sorted slices that lie within the tolerance of the first of their group."""
    groups: list[list[SliceHeader]] = []
    for header, offset in zip(stack.headers, stack.offsets(), strict=True):
        first = groups[-1][0] if groups else None
        if first is not None and offset - geometry.offset_along(first, stack.normal) <= (
            stack.thresholds.position_tolerance_mm
        ):
            groups[-1].append(header)
        else:
            groups.append([header])
    # Which of several equal slices is kept must not hang on micrometres of their offsets.
    return [sorted(group, key=lambda header: (number_of(header), header.sop_instance_uid)) for group in groups]


def _no_gap(stack: Stack) -> Refusal | None:
    """No slice is missing in the middle."""
    offsets, thickness = stack.offsets(), stack.thickness()
    tolerance = stack.thresholds.position_tolerance_mm
    limits = np.maximum(thickness[:-1], thickness[1:]) * stack.thresholds.max_gap_factor
    steps = np.diff(offsets)
    # One missing slice of a contiguous stack gives exactly two thicknesses, give or take the rounding of the positions:
    # it must be found always, not by the luck of the last digit.
    wide = np.flatnonzero(steps > limits - 2.0 * tolerance)
    if not wide.size:
        return None
    stack.figures["gaps"] = [
        {
            "from_mm": round(float(offsets[index]), 3),
            "to_mm": round(float(offsets[index + 1]), 3),
            "gap_mm": round(float(steps[index]), 3),
            "limit_mm": round(float(limits[index]), 3),
        }
        for index in wide[:LISTED]
    ]
    first = int(wide[0])
    reason = (
        f"{plural(wide.size, 'gap')}: {steps[first]:.2f} mm between the slices at {offsets[first]:.2f} and "
        f"{offsets[first + 1]:.2f} mm along the normal, limit {limits[first]:.2f} mm"
    )
    beside = sorted({neighbour for index in wide for neighbour in (int(index), int(index) + 1)})
    return Refusal("gap", reason, [stack.headers[index] for index in beside])


def _enough_coverage(stack: Stack) -> Refusal | None:
    """The stack has enough slices and is long enough."""
    count, covered = len(stack.headers), geometry.coverage_mm(stack.offsets(), stack.thickness())
    thresholds = stack.thresholds
    tolerance = thresholds.position_tolerance_mm
    if count < thresholds.min_slices:
        return Refusal("coverage", f"{plural(count, 'slice')}, at least {thresholds.min_slices} needed", stack.headers)
    if covered < thresholds.min_coverage_mm - tolerance:
        reason = (
            f"the stack covers {covered:.1f} mm along its normal, at least {thresholds.min_coverage_mm:g} mm needed"
        )
        return Refusal("coverage", reason, stack.headers)
    return None


#: The walk through the gate.
RULES: Final[tuple[Rule, ...]] = (
    one_patient_one_study,
    drop_non_images,
    one_frame_of_reference,
    _image_slices_there,
    _positions_there,
    _spacing_there,
    _axes_sound,
    _one_view,
    _slices_parallel,
    _one_grid,
    _field_of_a_scanner,
    _tilt_bearable,
    _turn_bearable,
    _no_position_twice,
    no_uid_twice,
    measure,
    _no_gap,
    _enough_coverage,
    note_thickness,
    note_lean,
    note_grid,
    looks_like_a_head,
)
