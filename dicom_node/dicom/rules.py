"""Thresholds of the geometry gate and the series choice: sections ``[geometry]`` and ``[selection]`` of node.toml.

They stand here, beside the code that obeys them, so that training reads DICOM by the same rules without knowing the
node's settings. The descriptions become the comments of the annotated ``node.toml``.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["BetterSeriesLater", "GeometrySettings", "SelectionSettings"]

Words = Annotated[tuple[str, ...], Field()]

#: Kernels that sharpen bone or lung, as the four large makers name them: GE in words; Siemens by a number from 60 up
#: (H60s, Hr68, Br64, J70h, B70s); Canon FC30-39 (bone), FC50-59 (lung), FC80-89 (high resolution); Philips letters.
_BONE_KERNELS: Final = (
    "BONE",
    "EDGE",
    "LUNG",
    "^[BHJQTU][A-Z]?[6-9][0-9]([A-Z]|$)",
    "^FC(3[0-9]|5[0-9]|8[0-9])",
    "^(D|E|L|YC|YD|YE|EC)$",
)


Points = Annotated[float, Field(ge=0, le=10_000)]
Years = Annotated[float, Field(ge=0, le=150)]


class BetterSeriesLater(StrEnum):
    """What becomes of a series that beats the chosen one but is complete only after the study was decided."""

    REPORT = "report"
    SUPERSEDE = "supersede"


class _Rules(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GeometrySettings(_Rules):
    """Thresholds of the geometry gate (`dicom_node.dicom.gate`)."""

    max_orientation_spread_deg: float = Field(
        default=0.1, gt=0, le=5, description="Largest angle between two slices of one stack, in degrees."
    )
    max_gap_factor: float = Field(
        default=2.0,
        gt=1,
        le=10,
        description="Two neighbours whose centres lie this many slice thicknesses apart (of the thicker one) have"
        " a gap; 2 finds one missing slice of a contiguous stack.",
    )
    max_tilt_deg: float = Field(
        default=30.0, ge=0, le=45, description="Largest angle to the transverse plane (gantry tilt), in degrees."
    )
    min_slices: int = Field(default=8, ge=1, le=10_000, description="Fewer slices are refused.")
    min_coverage_mm: float = Field(
        default=100.0,
        ge=0,
        le=2_000,
        description="A stack that covers less along its normal is refused, in mm; half a slice counts at either end.",
    )
    position_tolerance_mm: float = Field(
        default=0.01, gt=0, le=1, description="Positions closer than this are the same, in mm."
    )
    max_orientation_defect: float = Field(
        default=0.001,
        gt=0,
        le=0.1,
        description="Row and column direction may miss unit length and a right angle by this much; cosines written"
        " with four digits do.",
    )
    max_turn_deg: float = Field(
        default=30.0,
        ge=0,
        le=45,
        description="Largest angle of the rows to the nearest axis of the patient, in degrees; quarter turns and"
        " mirrorings (decubitus, prone, feet first) are none.",
    )
    max_other_view_slices: int = Field(
        default=3,
        ge=0,
        le=100,
        description="So many coronal, sagittal or strongly oblique slices are dropped as a localizer that is not marked"
        " as one; more are refused.",
    )
    max_head_section_cm2: float = Field(
        default=450.0,
        gt=0,
        le=10_000,
        description="Tissue in a slice of a head at most, in cm2; a stack with more in the median of five slices is a"
        " trunk and refused.",
    )
    noted_cut_brain_cm2: float = Field(
        default=30.0,
        ge=0,
        le=1_000,
        description="More brain inside bone in the topmost or lowest slice, in cm2, is noted as a vertex or base cut"
        " off; 30 is about 8 mm below the inner table.",
    )
    max_field_mm: float = Field(
        default=1_000.0,
        gt=0,
        le=10_000,
        description="A field of view with a longer side is refused, in mm: no bore of a scanner is that wide.",
    )
    noted_field_mm: float = Field(
        default=160.0, ge=0, le=1_000, description="A field of view with a shorter side is noted, in mm."
    )
    noted_tilt_deg: float = Field(default=0.5, ge=0, le=45, description="A larger tilt or turn is noted, in degrees.")
    noted_shear_deg: float = Field(
        default=1.0,
        ge=0,
        le=90,
        description="A stack that leans from its normal by more, and by another angle than its tilt, is noted; in"
        " degrees.",
    )
    noted_distance_mm: float = Field(
        default=0.05,
        ge=0,
        le=10,
        description="Overlap, space and difference of thickness beyond this are noted, in mm.",
    )
    noted_shift_mm: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="A slice further than this beside the line of the others is noted; two in one plane further apart"
        " than this are refused. In mm.",
    )


class SelectionSettings(_Rules):
    """Rules of the series choice (`dicom_node.dicom.choice`). docs/selection.md says how they work together.

    Words match the beginning of a word, without regard to case; a word of three letters or fewer must be a whole word.
    Whatever a header leaves out rules nothing out, except where a require_ list asks for it.
    """

    modalities: Words = Field(default=("CT",), min_length=1, description="Modality of a series that may be chosen.")
    min_slices: int = Field(default=8, ge=1, le=10_000, description="Fewer image slices are not worth a look.")
    max_slices: int = Field(
        default=1000, ge=1, le=100_000, description="More image slices are no routine head series and are not loaded."
    )
    min_coverage_mm: float = Field(
        default=0.0,
        ge=0,
        le=2_000,
        description="A series that covers less of the body may not be chosen, in mm. 0: leave it to the geometry gate,"
        " which refuses a short series with its numbers.",
    )
    max_coverage_mm: float = Field(
        default=500.0,
        gt=0,
        le=5_000,
        description="A series that covers more is no head (trunk, whole body), in mm along the normal of its slices.",
    )
    max_orientation_deg: float = Field(
        default=45.0,
        gt=0,
        le=90,
        description="Slices farther from the transverse plane are coronal or sagittal, in degrees; a smaller tilt is"
        " judged by the geometry gate.",
    )
    max_repeats: float = Field(
        default=3.0,
        gt=1,
        le=1_000,
        description="A series with this many images at each position, or more, is a perfusion or dynamic one.",
    )
    exclude_image_type: Words = Field(
        default=("LOCALIZER", "DERIVED", "MPR", "MIP", "PROJECTION IMAGE", "REFORMATTED"),
        description="A value of ImageType that rules a series out. DERIVED keeps the node from processing results.",
    )
    require_image_type: Words = Field(
        default=(), description="Values that ImageType of every image must hold, ORIGINAL for instance; empty: any."
    )
    exclude_description: Words = Field(
        default=("scout", "topo", "scano", "surview", "monitor", "bolus", "dose report", "mip", "vrt", "summary"),
        description="Words of SeriesDescription that rule a series out for a reason not listed below.",
    )
    require_description: Words = Field(
        default=(),
        description="Words of which SeriesDescription must hold at least one; empty: any description, or none.",
    )
    contrast_description: Words = Field(
        default=("contrast", "kontrast", "cta", "ctp", "ctv", "angio", "perf", "arterial", "venous", "venogr", "c+"),
        description="Words of SeriesDescription that tell contrast medium; 'without contrast' does not count.",
    )
    bone_description: Words = Field(
        default=("bone", "knochen", "osseux", "hueso", "temporal", "petrous"),
        description="Words of SeriesDescription that tell a bone reconstruction.",
    )
    other_body_description: Words = Field(
        default=("chest", "thorax", "lung", "abdom", "pelvis", "spine", "neck", "cardiac", "sinus", "orbit"),
        description="Words of SeriesDescription that tell another body part; void beside one of prefer_description."
        " ProtocolName is asked where description and BodyPartExamined are silent.",
    )
    exclude_kernel: Words = Field(
        default=_BONE_KERNELS,
        description="Regular expressions; a ConvolutionKernel that matches is one for bone or lung.",
    )
    require_kernel: Words = Field(
        default=(),
        description="Regular expressions of which ConvolutionKernel must match at least one; empty: any kernel.",
    )
    prefer_description: Words = Field(
        default=("brain", "head", "cereb", "cran", "schaedel", "schädel", "kopf", "skull", "tete", "tête"),
        description="Words of SeriesDescription that speak for a series.",
    )
    preferred_thickness_mm: float = Field(
        default=5.0, gt=0, le=20, description="The nearer to this slice thickness the better, in mm."
    )
    min_thickness_mm: float = Field(default=0.0, ge=0, le=50, description="Thinner slices are not processed, in mm.")
    max_thickness_mm: float = Field(default=8.0, gt=0, le=50, description="Thicker slices are not processed, in mm.")
    allow_contrast: bool = Field(default=False, description="Whether a series with contrast medium may be chosen.")
    body_parts: Words = Field(
        default=("HEAD", "BRAIN", "SKULL", ""),
        description="BodyPartExamined of a series that may be chosen; the empty text admits series that leave it out.",
    )
    max_study_age_days: Annotated[int, Field(ge=0, le=36_500)] | None = Field(
        default=None,
        description="A study made more days ago is not processed (a prior that was fetched from the archive, say);"
        " left out: any.",
    )
    min_patient_age_years: Years | None = Field(
        default=None, description="Younger patients are not processed; left out: any."
    )
    max_patient_age_years: Years | None = Field(
        default=None, description="Older patients are not processed; left out: any."
    )
    better_series_later: BetterSeriesLater = Field(
        default=BetterSeriesLater.REPORT,
        description="A better series that comes after the decision: report = noted, the study keeps its result;"
        " supersede = it is processed, and its result replaces the first.",
    )
    score_geometry: Points = Field(
        default=100.0, description="Points of a series that the geometry gate would let pass."
    )
    score_thickness_per_mm: Points = Field(
        default=8.0, description="Points lost for each mm between slice thickness and preferred_thickness_mm."
    )
    score_coverage_per_mm: Points = Field(default=0.1, description="Points for each mm of the body that is covered.")
    score_coverage_most: Points = Field(default=20.0, description="Most points for coverage.")
    score_description: Points = Field(default=10.0, description="Points for a word of prefer_description.")
    score_body_part: Points = Field(default=5.0, description="Points for a BodyPartExamined that names the head.")
    score_kernel: Points = Field(default=5.0, description="Points for a ConvolutionKernel that is known and soft.")

    @field_validator("exclude_kernel", "require_kernel")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return patterns

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        for name in ("slices", "coverage_mm", "thickness_mm", "patient_age_years"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least is not None and most is not None and most < least:
                key, reason = f"max_{name}", f"must not be smaller than min_{name}"
                raise PydanticCustomError("at_key", "{reason}", {"key": key, "reason": reason})
        return self
