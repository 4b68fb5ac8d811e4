"""The rules that a stack passes on its way through the gate, in their order; `dicom_node.dicom.gate` walks them.

A rule gets the stack, may drop an instance from it, leave a note or a figure, and returns a refusal or None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from dicom_node.dicom import geometry
from dicom_node.dicom.geometry import FloatArray
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import InstanceKind, SliceHeader

__all__ = ["LISTED", "RULES", "Refusal", "Rule", "Stack", "number_of", "where"]

#: Row and column direction may miss unit length and a right angle by this much: cosines written with four digits.
_ORIENTATION_DEFECT: Final = 1e-3

#: A tilt, shift, overlap or spread of spacing below these is rounding and not worth a note.
_NOTED_TILT_DEG: Final = 0.5
_NOTED_DISTANCE_MM: Final = 0.05
_NOTED_SHIFT_MM: Final = 1.0

#: More slices than this are not listed in the figures of a refusal; their number is.
LISTED: Final = 20


@dataclass(slots=True)
class Stack:
    """The stack on its way through the rules."""

    headers: list[SliceHeader]
    thresholds: GeometrySettings
    pixel_digest: Callable[[SliceHeader], str]
    repaired: bool = False
    notes: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)
    normal: FloatArray = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))

    def offsets(self) -> FloatArray:
        """Offsets along the normal, shape (S,), mm."""
        return geometry.offsets_of(self.headers, self.normal)

    def thickness(self) -> FloatArray:
        """Slice thickness, or the median spacing where it is unknown, shape (S,), mm."""
        usual = geometry.spacing_statistics(self.offsets()).median_mm
        return np.array([header.slice_thickness_mm or usual for header in self.headers])

    def note(self, code: str, text: str) -> None:
        """Leave a note that begins with its code."""
        self.notes.append(f"{code}: {text}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a stack may not be processed, and the slices that are to blame."""

    code: str
    reason: str
    slices: Sequence[SliceHeader] = ()


Rule = Callable[[Stack], Refusal | None]


def number_of(header: SliceHeader) -> int:
    """InstanceNumber for sorting: slices without one come last."""
    return header.instance_number if header.instance_number is not None else 2**31


def where(header: SliceHeader, normal: FloatArray) -> dict[str, object]:
    """Name a slice for a person: InstanceNumber, and position along the normal in mm where it has one."""
    offset = None if header.image_position_patient is None else round(geometry.offset_along(header, normal), 3)
    return {"instance_number": header.instance_number, "position_mm": offset}


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _one_patient_one_study(stack: Stack) -> Refusal | None:
    # Screens and localizers are asked too: a foreign patient's dose screen is as alarming as a foreign slice.
    return _first_conflict(
        stack,
        {
            "PatientID": lambda header: header.patient_key,
            "StudyInstanceUID": lambda header: header.study_instance_uid,
            "SeriesInstanceUID": lambda header: header.series_instance_uid,
        },
    )


def _drop_non_images(stack: Stack) -> Refusal | None:
    dropped = [header for header in stack.headers if header.kind is not InstanceKind.IMAGE]
    if not dropped:
        return None
    stack.headers = [header for header in stack.headers if header.kind is InstanceKind.IMAGE]
    stack.repaired = True
    for kind, count in sorted(Counter(header.kind.value for header in dropped).items()):
        stack.note("not_a_slice", f"{_plural(count, 'instance')} of kind {kind} dropped")
    stack.figures["dropped_non_images"] = len(dropped)
    return None


def _one_frame_of_reference(stack: Stack) -> Refusal | None:
    refusal = _first_conflict(stack, {"FrameOfReferenceUID": lambda header: header.frame_of_reference_uid or ""})
    if refusal is None and stack.headers and stack.headers[0].frame_of_reference_uid is None:
        stack.note("no_frame_of_reference", "FrameOfReferenceUID is missing; viewers cannot link the result by it")
    return refusal


def _first_conflict(stack: Stack, attributes: Mapping[str, Callable[[SliceHeader], str]]) -> Refusal | None:
    for keyword, value_of in attributes.items():
        counts = Counter(value_of(header) for header in stack.headers)
        if len(counts) > 1:
            # The commonest value is taken for the right one; of equally common ones the first in sort order.
            usual = min(counts, key=lambda value: (-counts[value], value))
            odd = [header for header in stack.headers if value_of(header) != usual]
            stack.figures["conflicting_attribute"] = keyword
            stack.figures["different_values"] = len(counts)
            reason = f"{keyword} differs within the series: {len(counts)} values, {_plural(len(odd), 'instance')} odd"
            return Refusal("identity_conflict", reason, odd)
    return None


def _enough_slices(stack: Stack) -> Refusal | None:
    """Refuse an empty stack at once; a short one only after its geometry was judged, which says more."""
    if stack.headers:
        return None
    return Refusal("coverage", "the series holds no image slice")


def _positions_there(stack: Stack) -> Refusal | None:
    lacking = [header for header in stack.headers if not geometry.has_geometry(header)]
    if not lacking:
        return None
    reason = (
        f"{_plural(len(lacking), 'slice')} of {len(stack.headers)} without a readable ImagePositionPatient or "
        "ImageOrientationPatient"
    )
    return Refusal("no_position", reason, lacking)


def _spacing_there(stack: Stack) -> Refusal | None:
    lacking = [h for h in stack.headers if h.pixel_spacing_mm is None or not h.rows or not h.columns]
    if not lacking:
        return None
    reason = f"{_plural(len(lacking), 'slice')} of {len(stack.headers)} without PixelSpacing, Rows or Columns"
    return Refusal("no_spacing", reason, lacking)


def _axes_sound(stack: Stack) -> Refusal | None:
    defects = [geometry.orientation_defect(header.image_orientation_patient or ()) for header in stack.headers]
    unsound = [h for h, defect in zip(stack.headers, defects, strict=True) if defect > _ORIENTATION_DEFECT]
    if not unsound:
        return None
    stack.figures["orientation_defect"] = round(max(defects), 6)
    return Refusal("orientation", "ImageOrientationPatient does not hold two perpendicular unit vectors", unsound)


def _slices_parallel(stack: Stack) -> Refusal | None:
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
    reason = f"{_plural(len(odd), 'slice')} of {len(stack.headers)} with another matrix or pixel spacing"
    return Refusal("in_plane_mismatch", reason, odd)


def _tilt_bearable(stack: Stack) -> Refusal | None:
    tilt = geometry.tilt_deg(stack.normal)
    stack.figures["tilt_deg"] = round(tilt, 2)
    limit = stack.thresholds.max_tilt_deg
    if tilt > limit:
        reason = f"slices are {tilt:.1f} deg from the transverse plane, limit {limit:g} deg"
        return Refusal("orientation", reason, stack.headers)
    if tilt > _NOTED_TILT_DEG:
        stack.note("tilt", f"slices are {tilt:.1f} deg from the transverse plane")
    return None


def _no_position_twice(stack: Stack) -> Refusal | None:
    kept: list[SliceHeader] = []
    dropped: list[SliceHeader] = []
    for group in _same_position(stack):
        digests = {stack.pixel_digest(header) for header in group} if len(group) > 1 else set()
        if len(digests) > 1:
            at = geometry.offset_along(group[0], stack.normal)
            reason = f"{len(group)} slices with different pixels at one position ({at:.2f} mm along the normal)"
            return Refusal("duplicate_position", reason, group)
        kept.append(group[0])
        dropped.extend(group[1:])
    if dropped:
        stack.headers = kept
        stack.repaired = True
        stack.figures["dropped_duplicates"] = [where(header, stack.normal) for header in dropped[:LISTED]]
        stack.note("duplicates", f"{_plural(len(dropped), 'slice')} dropped: same position and pixels as another")
    return None


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


def _measure(stack: Stack) -> Refusal | None:
    """Record the figures that every outcome from here on carries, and note an unknown thickness."""
    offsets, thickness = stack.offsets(), stack.thickness()
    spacing = geometry.spacing_statistics(offsets)
    stack.figures.update(
        slice_count=len(stack.headers),
        coverage_mm=round(geometry.coverage_mm(offsets, thickness), 2),
        spacing_min_mm=round(spacing.minimum_mm, 3),
        spacing_median_mm=round(spacing.median_mm, 3),
        spacing_max_mm=round(spacing.maximum_mm, 3),
        thickness_min_mm=round(float(thickness.min()), 3),
        thickness_max_mm=round(float(thickness.max()), 3),
    )
    unknown = sum(header.slice_thickness_mm is None for header in stack.headers)
    if unknown:
        text = f"{_plural(unknown, 'slice')} without SliceThickness; the median spacing is used"
        stack.note("thickness_unknown", f"{text}, {spacing.median_mm:.2f} mm")
    return None


def _no_gap(stack: Stack) -> Refusal | None:
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
        f"{_plural(wide.size, 'gap')}: {steps[first]:.2f} mm between the slices at {offsets[first]:.2f} and "
        f"{offsets[first + 1]:.2f} mm along the normal, limit {limits[first]:.2f} mm"
    )
    beside = sorted({neighbour for index in wide for neighbour in (int(index), int(index) + 1)})
    return Refusal("gap", reason, [stack.headers[index] for index in beside])


def _enough_coverage(stack: Stack) -> Refusal | None:
    count, covered = len(stack.headers), geometry.coverage_mm(stack.offsets(), stack.thickness())
    thresholds = stack.thresholds
    tolerance = thresholds.position_tolerance_mm
    if count < thresholds.min_slices:
        return Refusal("coverage", f"{_plural(count, 'slice')}, at least {thresholds.min_slices} needed", stack.headers)
    if covered < thresholds.min_coverage_mm - tolerance:
        reason = (
            f"the stack covers {covered:.1f} mm along its normal, at least {thresholds.min_coverage_mm:g} mm needed"
        )
        return Refusal("coverage", reason, stack.headers)
    return None


def _peculiarities(stack: Stack) -> Refusal | None:
    offsets, thickness = stack.offsets(), stack.thickness()
    steps = np.diff(offsets)
    if thickness.max() - thickness.min() > _NOTED_DISTANCE_MM:
        parts = Counter(round(float(value), 3) for value in thickness)
        text = ", ".join(f"{count} x {value:g} mm" for value, count in sorted(parts.items())[:LISTED])
        stack.note("mixed_thickness", text)
    nominal = (thickness[:-1] + thickness[1:]) / 2.0
    overlaps = np.flatnonzero(nominal - steps > _NOTED_DISTANCE_MM)
    if overlaps.size:
        worst = float((nominal - steps).max())
        stack.note("overlap", f"{_plural(overlaps.size, 'pair')} of neighbours overlap, by up to {worst:.2f} mm")
    # What the thickness explains is no news: contiguous slices of 4 and 7 mm are unevenly spaced by design.
    apart = np.flatnonzero(steps - nominal > _NOTED_DISTANCE_MM)
    if apart.size:
        worst = float((steps - nominal).max())
        stack.note("spaced", f"{_plural(apart.size, 'pair')} of neighbours leave up to {worst:.2f} mm between them")
    positions = np.array([header.image_position_patient for header in stack.headers])
    shift = geometry.lateral_deviation_mm(positions, stack.normal)
    if shift > _NOTED_SHIFT_MM:
        stack.figures["lateral_deviation_mm"] = round(shift, 2)
        stack.note("lateral_shift", f"slices lie up to {shift:.1f} mm beside a straight stack")
    return None


#: The walk through the gate.
RULES: Final[tuple[Rule, ...]] = (
    _one_patient_one_study,
    _drop_non_images,
    _one_frame_of_reference,
    _enough_slices,
    _positions_there,
    _spacing_there,
    _axes_sound,
    _slices_parallel,
    _one_grid,
    _tilt_bearable,
    _no_position_twice,
    _measure,
    _no_gap,
    _enough_coverage,
    _peculiarities,
)
