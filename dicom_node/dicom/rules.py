"""Thresholds of the geometry gate and the series choice: sections ``[geometry]`` and ``[selection]`` of node.toml.

They stand here, beside the code that obeys them, so that training reads DICOM by the same rules without knowing the
node's settings. The descriptions become the comments of the annotated ``node.toml``.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["GeometrySettings", "SelectionSettings"]

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


class SelectionSettings(_Rules):
    """Rules of the series choice (`dicom_node.dicom.choice`).

    Words match the beginning of a word, without regard to case; a word of three letters or fewer must be a whole word.
    """

    modalities: Words = Field(default=("CT",), min_length=1, description="Modality of a series that may be chosen.")
    min_slices: int = Field(default=8, ge=1, le=10_000, description="Fewer image slices are not worth a look.")
    exclude_image_type: Words = Field(
        default=("LOCALIZER", "DERIVED", "MPR", "MIP", "PROJECTION IMAGE", "REFORMATTED"),
        description="A value of ImageType that rules a series out. DERIVED keeps the node from processing results.",
    )
    exclude_description: Words = Field(
        default=("scout", "topo", "scano", "surview", "monitor", "bolus", "dose report", "mip", "vrt", "summary"),
        description="Words of SeriesDescription that rule a series out for a reason not listed below.",
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
        description="Words of SeriesDescription that tell another body part; void beside one of prefer_description.",
    )
    exclude_kernel: Words = Field(
        default=_BONE_KERNELS,
        description="Regular expressions; a ConvolutionKernel that matches is one for bone or lung.",
    )
    prefer_description: Words = Field(
        default=("brain", "head", "cereb", "cran", "schaedel", "schädel", "kopf", "skull", "tete", "tête"),
        description="Words of SeriesDescription that speak for a series.",
    )
    preferred_thickness_mm: float = Field(
        default=5.0, gt=0, le=20, description="The nearer to this slice thickness the better, in mm."
    )
    max_thickness_mm: float = Field(default=8.0, gt=0, le=50, description="Thicker slices are not processed, in mm.")
    allow_contrast: bool = Field(default=False, description="Whether a series with contrast medium may be chosen.")
    body_parts: Words = Field(
        default=("HEAD", "BRAIN", "SKULL", ""),
        description="BodyPartExamined of a series that may be chosen; the empty text admits series that leave it out.",
    )

    @field_validator("exclude_kernel")
    @classmethod
    def _patterns_compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return patterns
