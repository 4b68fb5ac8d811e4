"""Rules of the gate that refuse nothing: what the radiologist and the record should know of a stack."""

from __future__ import annotations

from collections import Counter

import numpy as np

from dicom_node.dicom import geometry
from dicom_node.dicom.gate_stack import LISTED, Refusal, Stack, plural

__all__ = ["measure", "note_grid", "note_lean", "note_thickness"]


def measure(stack: Stack) -> Refusal | None:
    """Measure spacing, thickness and coverage along the normal; nothing is refused here."""
    offsets, thickness = stack.offsets(), stack.thickness()
    spacing = geometry.spacing_statistics(offsets)
    first = stack.headers[0]
    rows, columns = first.pixel_spacing_mm or (0.0, 0.0)
    stack.figures.update(
        slice_count=len(stack.headers),
        rows=first.rows,
        columns=first.columns,
        row_spacing_mm=round(rows, 4),
        column_spacing_mm=round(columns, 4),
        lies=geometry.axes_of(first.image_orientation_patient or ()),
        coverage_mm=round(geometry.coverage_mm(offsets, thickness), 2),
        spacing_min_mm=round(spacing.minimum_mm, 3),
        spacing_median_mm=round(spacing.median_mm, 3),
        spacing_max_mm=round(spacing.maximum_mm, 3),
        thickness_min_mm=round(float(thickness.min()), 3),
        thickness_max_mm=round(float(thickness.max()), 3),
    )
    unknown = sum(header.slice_thickness_mm is None for header in stack.headers)
    if unknown:
        text = f"{plural(unknown, 'slice')} without SliceThickness; the median spacing is used"
        stack.note("thickness_unknown", f"{text}, {spacing.median_mm:.2f} mm")
    return None


def note_thickness(stack: Stack) -> Refusal | None:
    """Mixed thickness, overlap and spaces between neighbours leave a note."""
    offsets, thickness = stack.offsets(), stack.thickness()
    noted = stack.thresholds.noted_distance_mm
    steps = np.diff(offsets)
    if thickness.max() - thickness.min() > noted:
        parts = Counter(round(float(value), 3) for value in thickness)
        text = ", ".join(f"{count} x {value:g} mm" for value, count in sorted(parts.items())[:LISTED])
        stack.note("mixed_thickness", text)
    nominal = (thickness[:-1] + thickness[1:]) / 2.0
    overlaps = np.flatnonzero(nominal - steps > noted)
    if overlaps.size:
        worst = float((nominal - steps).max())
        stack.note("overlap", f"{plural(overlaps.size, 'pair')} of neighbours overlap, by up to {worst:.2f} mm")
    # What the thickness explains is no news: contiguous slices of 4 and 7 mm are unevenly spaced by design.
    apart = np.flatnonzero(steps - nominal > noted)
    if apart.size:
        worst = float((steps - nominal).max())
        stack.note("spaced", f"{plural(apart.size, 'pair')} of neighbours leave up to {worst:.2f} mm between them")
    return None


def note_lean(stack: Stack) -> Refusal | None:
    """A slice beside the others, or a stack that leans without gantry tilt, leaves a note."""
    thresholds = stack.thresholds
    positions = np.array([header.image_position_patient for header in stack.headers])
    shift = geometry.lateral_deviation_mm(positions, stack.normal)
    if shift > thresholds.noted_shift_mm:
        stack.figures["lateral_deviation_mm"] = round(shift, 2)
        stack.note("lateral_shift", f"slices lie up to {shift:.1f} mm beside a straight stack")
    # The table moves along the patient, so the origins of a tilted stack lean by the tilt; those of a stack that was
    # reformatted from a volume do not lean at all. Anything else is worth a word.
    shear, tilt = geometry.shear_deg(positions, stack.normal), geometry.tilt_deg(stack.normal)
    if min(shear, abs(shear - tilt)) > thresholds.noted_shear_deg:
        stack.figures["shear_deg"] = round(shear, 2)
        stack.note("shear", f"the stack leans {shear:.1f} deg from its normal, the slices are tilted by {tilt:.1f} deg")
    return None


def note_grid(stack: Stack) -> Refusal | None:
    """Pixels that are not square and a field of view that holds no head leave a note."""
    first = stack.headers[0]
    if first.pixel_spacing_mm is None or first.rows is None or first.columns is None:
        return None  # `spacing_there` refused such a stack
    (between_rows, between_columns), thresholds = first.pixel_spacing_mm, stack.thresholds
    if abs(between_rows - between_columns) * max(first.rows, first.columns) > thresholds.position_tolerance_mm:
        stack.note("non_square_pixels", f"{between_rows:g} mm between rows, {between_columns:g} mm between columns")
    height, width = between_rows * first.rows, between_columns * first.columns
    if min(height, width) < thresholds.noted_field_mm:
        stack.note("small_field", f"the field of view is {height:.0f} x {width:.0f} mm, smaller than a head")
    return None
