"""Limits of the eligibility check that follows the brain mask: section ``[eligibility]`` of node.toml.

The check itself belongs to the model (`jmmda_model.imaging.eligibility`), which knows no settings; a test keeps these
names, defaults and texts equal to its `EligibilityLimits`.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["EligibilitySettings"]


class EligibilitySettings(BaseModel):
    """Limits of the eligibility check (`jmmda_model.imaging.eligibility`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_brain_ml: float = Field(
        default=250.0,
        ge=0,
        le=1000,
        description="A complete brain is at least this large, in ml; shorter stacks need proportionally less."
        " A newborn has 350 ml.",
    )
    max_brain_ml: float = Field(
        default=2500.0,
        ge=0,
        le=10000,
        description="What bone encloses is at most this large, in ml. The largest heads of adults hold 2000 ml.",
    )
    min_brain_height_mm: float = Field(
        default=60.0,
        ge=0,
        le=150,
        description="A brain that the scan cuts off above or below must be covered over at least this height,"
        " in mm: half of an adult's. 0: any.",
    )
    max_cut_share: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Share of the brain's outline that may run into the edge of the image; 0.15 of it is 7 cm"
        " of an adult's 48.",
    )
    usual_min_ml: float = Field(
        default=900.0,
        ge=0,
        le=2500,
        description="A complete brain smaller than this is flagged, in ml.",
    )
    usual_max_ml: float = Field(
        default=1900.0,
        ge=0,
        le=10000,
        description="A complete brain larger than this is flagged, in ml.",
    )
    open_skull_cm2: float = Field(
        default=12.0,
        ge=0,
        le=500,
        description="A gap of the skull vault from this area on is flagged, in cm2; burr holes and sutures stay below.",
    )
    hyperdense_ml: float = Field(
        default=10.0,
        ge=0,
        le=500,
        description="A connected part of the brain as dense as fresh blood is flagged from this volume on, in"
        " ml; venous sinuses and tentorium stay below.",
    )
    metal_hu: float = Field(
        default=2500.0,
        ge=0,
        le=30000,
        description="Denser than any bone: metal, in HU. Lower it for a scanner that cuts off earlier.",
    )
    metal_ml: float = Field(
        default=0.02,
        ge=0,
        le=100,
        description="Metal near the brain is flagged from this volume on, in ml.",
    )
    child_below_years: float = Field(
        default=16.0,
        ge=0,
        le=150,
        description="A patient younger than this is flagged as a child, in years. The model has seen adults.",
    )

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        for low, high in (("min_brain_ml", "max_brain_ml"), ("usual_min_ml", "usual_max_ml")):
            if getattr(self, low) > getattr(self, high):
                raise PydanticCustomError("order", "{low} must not be above {high}", {"low": low, "high": high})
        return self
