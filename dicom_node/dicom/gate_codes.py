"""Every code of the geometry gate: what was seen, what follows, which settings decide, which figures it leaves.

The rules look their codes up here, so a code that is not listed cannot be given out; `dicom_node.dicom.gate_page`
writes docs/geometry.md from the same lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

__all__ = ["CODES", "FIGURES", "GateCode", "GateStatus"]


class GateStatus(Enum):
    """Outcome of the gate."""

    PASS = "pass"  # noqa: S105  (no password)
    NOTE = "note"
    REPAIR = "repair"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class GateCode:
    """One reason code.

    Attributes
    ----------
    code : str
        Stable, lower case; stored in the ledger and counted in metrics.
    status : GateStatus
        NOTE, REPAIR or REFUSE: what the code leads to, always the same.
    seen : str
        What the gate found.
    done : str
        What follows for the stack.
    settings : tuple of str
        Keys of section ``[geometry]`` that decide.
    figures : tuple of str
        Keys of the figures that come with this code, beside those of every outcome.
    """

    code: str
    status: GateStatus
    seen: str
    done: str
    settings: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


_SLICES: Final = ("slices", "slices_concerned")

_REFUSALS: Final = (
    GateCode(
        "identity_conflict",
        GateStatus.REFUSE,
        "PatientID, StudyInstanceUID, SeriesInstanceUID or FrameOfReferenceUID differ within the series (screens and"
        " localizers are asked for the first three too), or two different slices share one SOPInstanceUID",
        "refused; the rarer value is taken for the wrong one",
        figures=("conflicting_attribute", "different_values", *_SLICES),
    ),
    GateCode(
        "no_position",
        GateStatus.REFUSE,
        "a slice without a readable ImagePositionPatient or ImageOrientationPatient",
        "refused; no other attribute stands in for them",
        figures=_SLICES,
    ),
    GateCode(
        "no_spacing",
        GateStatus.REFUSE,
        "a slice without a readable PixelSpacing, Rows or Columns",
        "refused",
        figures=_SLICES,
    ),
    GateCode(
        "orientation",
        GateStatus.REFUSE,
        "direction cosines that are no two perpendicular unit vectors; slices tilted too far from the transverse plane"
        " (coronal, sagittal, oblique); rows turned too far from the patient's axes",
        "refused",
        ("max_orientation_defect", "max_tilt_deg", "max_turn_deg"),
        ("orientation_defect", *_SLICES),
    ),
    GateCode(
        "orientation_spread",
        GateStatus.REFUSE,
        "slices that are not parallel, or are turned against each other in their plane; more slices of another view"
        " than a localizer has",
        "refused",
        ("max_orientation_spread_deg", "max_other_view_slices"),
        _SLICES,
    ),
    GateCode(
        "in_plane_mismatch",
        GateStatus.REFUSE,
        "slices of different matrix or pixel spacing",
        "refused; the rarer grid is taken for the wrong one",
        ("position_tolerance_mm",),
        _SLICES,
    ),
    GateCode(
        "field_too_large",
        GateStatus.REFUSE,
        "a field of view that no scanner has: PixelSpacing, Rows or Columns are wrong",
        "refused",
        ("max_field_mm",),
        _SLICES,
    ),
    GateCode(
        "duplicate_position",
        GateStatus.REFUSE,
        "one position along the normal twice, with different pixels or at two places side by side",
        "refused: nobody can tell which of them is right",
        ("position_tolerance_mm", "noted_shift_mm"),
        _SLICES,
    ),
    GateCode(
        "gap",
        GateStatus.REFUSE,
        "neighbours too far apart for their thickness: a slice is missing in the middle",
        "refused, with the positions on either side of each gap",
        ("max_gap_factor", "position_tolerance_mm"),
        ("gaps", *_SLICES),
    ),
    GateCode(
        "coverage",
        GateStatus.REFUSE,
        "no image slice, too few slices, or too short a stack",
        "refused",
        ("min_slices", "min_coverage_mm"),
        _SLICES,
    ),
    GateCode(
        "not_a_head",
        GateStatus.REFUSE,
        "half of the slices looked at show more tissue than a head has: a trunk, whatever the series is called",
        "refused",
        ("max_head_section_cm2",),
        ("sections_cm2", *_SLICES),
    ),
)

_REPAIRS: Final = (
    GateCode(
        "not_a_slice",
        GateStatus.REPAIR,
        "a localizer (ImageType), dose or information screen, or an object of another class inside the series",
        "left out; the slices are judged without it",
        figures=("dropped_non_images",),
    ),
    GateCode(
        "other_view",
        GateStatus.REPAIR,
        "a few slices that look from elsewhere: a localizer that is not marked as one",
        "left out; the transverse slices are judged without them",
        ("max_other_view_slices", "max_tilt_deg"),
        ("dropped_other_view",),
    ),
    GateCode(
        "duplicates",
        GateStatus.REPAIR,
        "one position twice with identical pixels",
        "one is kept, the one with the lowest InstanceNumber",
        ("position_tolerance_mm",),
        ("dropped_duplicates",),
    ),
)

_NOTES: Final = (
    GateCode(
        "no_frame_of_reference",
        GateStatus.NOTE,
        "FrameOfReferenceUID is missing in all slices",
        "processed; viewers cannot link the result by it",
    ),
    GateCode(
        "tilt",
        GateStatus.NOTE,
        "slices tilted against the transverse plane, within the limit (gantry tilt)",
        "processed on the slices' own planes, which the result keeps",
        ("noted_tilt_deg", "max_tilt_deg"),
    ),
    GateCode(
        "oblique",
        GateStatus.NOTE,
        "rows that do not run along an axis of the patient, within the limit",
        "processed as they lie: only quarter turns and mirrorings are undone for the network",
        ("noted_tilt_deg", "max_turn_deg"),
    ),
    GateCode(
        "shear",
        GateStatus.NOTE,
        "the stack leans against its normal by an angle that gantry tilt does not explain",
        "processed; every slice is placed by its own position",
        ("noted_shear_deg",),
        ("shear_deg",),
    ),
    GateCode(
        "lateral_shift",
        GateStatus.NOTE,
        "slices beside the straight line of the others",
        "processed; every slice is placed by its own position",
        ("noted_shift_mm",),
        ("lateral_deviation_mm",),
    ),
    GateCode(
        "non_square_pixels",
        GateStatus.NOTE,
        "distance between rows and between columns differ",
        "processed; each direction is resampled by its own spacing",
        ("position_tolerance_mm",),
    ),
    GateCode(
        "small_field",
        GateStatus.NOTE,
        "a field of view smaller than a head",
        "processed; the brain mask decides whether enough of the brain is there",
        ("noted_field_mm",),
    ),
    GateCode(
        "thickness_unknown",
        GateStatus.NOTE,
        "a slice without a positive SliceThickness",
        "processed; the median spacing stands in",
    ),
    GateCode(
        "mixed_thickness",
        GateStatus.NOTE,
        "more than one SliceThickness",
        "processed; each slice counts with its own",
        ("noted_distance_mm",),
    ),
    GateCode(
        "overlap",
        GateStatus.NOTE,
        "neighbours closer than their thickness",
        "processed",
        ("noted_distance_mm",),
    ),
    GateCode(
        "spaced",
        GateStatus.NOTE,
        "neighbours further apart than their thickness, short of a gap",
        "processed",
        ("noted_distance_mm", "max_gap_factor"),
    ),
    GateCode(
        "vertex_cut_off",
        GateStatus.NOTE,
        "the topmost slice still holds brain inside bone: the vertex is missing",
        "processed; what is not there stays unseen",
        ("noted_cut_brain_cm2",),
        ("vertex_brain_cm2",),
    ),
    GateCode(
        "base_cut_off",
        GateStatus.NOTE,
        "the lowest slice still holds brain inside bone: the base is missing",
        "processed; what is not there stays unseen",
        ("noted_cut_brain_cm2",),
        ("base_brain_cm2",),
    ),
    GateCode(
        "pixels_unseen",
        GateStatus.NOTE,
        "the pixels of a slice that was to be looked at do not decode",
        "passed on; the worker, which decodes every slice, ends the job with `pixel_data`",
    ),
)

#: All codes, refusals first, each group in the order in which a stack meets them.
CODES: Final[Mapping[str, GateCode]] = MappingProxyType({code.code: code for code in (*_REFUSALS, *_REPAIRS, *_NOTES)})

#: What the figures mean; each is there from the rule on that measures it.
FIGURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "instances": "instances of the series, before anything was left out",
        "slice_count": "slices that may be processed",
        "rows": "Rows",
        "columns": "Columns",
        "row_spacing_mm": "distance between rows",
        "column_spacing_mm": "distance between columns",
        "orientation_spread_deg": "largest angle between the rows or columns of any two slices",
        "tilt_deg": "angle of the slices to the transverse plane, 0 to 90",
        "turn_deg": "angle of the rows to the nearest axis of the patient, 0 to 45",
        "lies": "patient axes towards which column index, row index and slice order grow: R or L, A or P, H or F"
        " (PS3.3 C.7.6.1.1.1)",
        "coverage_mm": "length along the normal, half a slice at either end included",
        "spacing_min_mm": "smallest distance of neighbours along the normal",
        "spacing_median_mm": "median of these distances",
        "spacing_max_mm": "largest of these distances",
        "thickness_min_mm": "thinnest slice",
        "thickness_max_mm": "thickest slice",
        "sections_cm2": "tissue (above -300 HU) in slices evenly spread over the stack, from the feet upwards",
        "vertex_brain_cm2": "brain inside bone in the topmost slice",
        "base_brain_cm2": "brain inside bone in the lowest slice",
        "conflicting_attribute": "keyword of the attribute that differs",
        "different_values": "number of its values",
        "orientation_defect": "largest deviation from unit length or right angle",
        "dropped_non_images": "number of instances left out as no slices",
        "dropped_other_view": "slices left out as another view",
        "dropped_duplicates": "slices left out as copies",
        "gaps": "each gap: from_mm, to_mm, gap_mm, limit_mm",
        "lateral_deviation_mm": "largest distance from the straight line of the slices",
        "shear_deg": "angle between that line and the normal",
        "slices": "slices concerned, at most 20: instance_number and position_mm along the normal",
        "slices_concerned": "number of slices concerned",
    }
)
