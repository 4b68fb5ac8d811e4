"""What an MR image is: diffusion weighted, a trace, an ADC or other map, a localizer, or nothing of diffusion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final

from pydicom.dataset import Dataset

from dicom_node.dicom.reading import ElementReader
from train.data.diffusion.weighting import Weighting

__all__ = ["Role", "role_of"]

_ADC: Final = frozenset({"ADC", "ADC_UNSPECIFIED", "APPARENT DIFFUSION COEFFICIENT"})
_MAPS: Final = frozenset(
    {"EADC", "EXP", "EXPADC", "FA", "RA", "VR", "COLFA", "COLORFA", "TENSOR", "TENSOR_B0", "CALC_BVALUE"}
)
_TRACE: Final = frozenset({"TRACEW", "TRACE", "ISOTROPIC", "DIFFUSION_TRACE"})
_WEIGHTED: Final = frozenset({"DIFFUSION", "DWI", "DIFFUSION_WEIGHTED"})

# Whole words of the description, asked only of derived images: many sites name a whole protocol "DWI ADC".
_ADC_WORD: Final = re.compile(r"(?<![^\W_])adc(?![^\W_])|apparent diffusion", re.IGNORECASE)
_MAP_WORD: Final = re.compile(r"(?<![^\W_])(eadc|exponential|fa|fractional|colou?r)(?![^\W_])", re.IGNORECASE)
_TRACE_WORD: Final = re.compile(r"(?<![^\W_])(trace\w*|iso\w*|average)(?![^\W_])", re.IGNORECASE)


class Role(Enum):
    """What one image is."""

    WEIGHTED = "weighted"
    TRACE = "trace"
    ADC = "adc"
    MAP = "map"
    LOCALIZER = "localizer"
    PLAIN = "plain"


def role_of(ds: Dataset, weighting: Weighting, frame_type: Sequence[str] = ()) -> Role:
    """Decide what an image is, from ImageType or FrameType (PS3.3 C.8.13.3.1), its weighting, then its description.

    Parameters
    ----------
    ds : pydicom.dataset.Dataset
        Header of the object.
    weighting : Weighting
        As read from it.
    frame_type : sequence of str
        FrameType of the frame of an Enhanced object; it overrules ImageType.

    Returns
    -------
    Role
        PLAIN when nothing speaks of diffusion; such images may still be the b = 0 of a diffusion series.
    """
    reader = ElementReader(ds)
    words = {text.upper() for text in (frame_type or reader.texts("ImageType"))}
    if "LOCALIZER" in words:
        return Role.LOCALIZER
    if words & _ADC:
        return Role.ADC
    if words & _MAPS:
        return Role.MAP
    if "DERIVED" in words:
        # GE calls the average over directions of a derived series "combined"; elsewhere the word is about coils.
        told = Role.TRACE if "COMBINED" in words else _derived(reader.text("SeriesDescription"))
        if told is not None:
            return told
    if words & _TRACE or weighting.isotropic:
        return Role.TRACE
    if weighting.b_value is not None or words & _WEIGHTED:
        return Role.WEIGHTED
    return Role.PLAIN


def _derived(description: str) -> Role | None:
    if _ADC_WORD.search(description) and not _TRACE_WORD.search(description):
        return Role.ADC
    if _MAP_WORD.search(description):
        return Role.MAP
    return Role.TRACE if _TRACE_WORD.search(description) else None
