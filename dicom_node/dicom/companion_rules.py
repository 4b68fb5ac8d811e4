"""What a site may choose about companions and about the answer to a CT that was not processed (section ``[output]``).

A companion is a further object beside the synthetic series, in a series of its own. None is written unless the site
asks for it, and none can fail the job. Neither choice changes the synthetic series, so neither enters its UIDs.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["CompanionKind", "CompanionSettings", "NoteForm"]


class CompanionKind(StrEnum):
    """An object beside the synthetic series; the order is that of writing."""

    SEG = "seg"
    SR = "sr"
    PM = "pm"
    GSPS = "gsps"


class NoteForm(StrEnum):
    """How a study is told that a CT series of it was not processed."""

    NONE = "none"
    SR = "sr"
    SC = "sc"


class CompanionSettings(BaseModel):
    """Objects beside the synthetic series, and the answer where there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    companions: tuple[CompanionKind, ...] = Field(
        (),
        description=(
            "Objects sent beside the synthetic series, each as a series of its own: seg = brain mask (Segmentation), "
            "sr = quality report (Comprehensive 3D SR), pm = expected error (Parametric Map, only from a bundle that "
            "predicts it), gsps = warning text (presentation state). One that fails never holds the images back."
        ),
    )
    not_processed_note: NoteForm = Field(
        NoteForm.NONE,
        description=(
            "What a study gets when its CT is refused and there is no result: none, sr = one structured report, sc = "
            "one page as an image that every viewer shows. It says why in plain words, once for each reason."
        ),
    )
    not_processed_wait_s: float = Field(
        120.0,
        ge=0.0,
        le=86400.0,
        description=(
            "Quiet time of a study before that note is written, in s: images that come later may still make a result."
        ),
    )

    @field_validator("companions")
    @classmethod
    def _each_once(cls, value: tuple[CompanionKind, ...]) -> tuple[CompanionKind, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names a companion twice")
        return value
