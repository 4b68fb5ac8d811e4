"""Why a CT was not processed, in words for the radiologist who looks for the synthetic series and finds none.

The gate's own codes and sentences (`gate_codes`) speak to the administrator. Here each reason code has one sentence
about the scan and one about what to do. A code without words of its own gets the general ones, so there is no refusal
without an answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["ABSENCE", "GENERAL", "WORDS", "RefusalWords", "figure_lines", "words_for"]

#: Said in every note: the reader must not take the missing series for a finding.
ABSENCE: Final = "That there is no synthetic series says nothing about the patient. Read the CT itself."

_UNITS: Final = MappingProxyType(
    {
        "mm": "mm",
        "cm2": "cm2",
        "ml": "ml",
        "deg": "degrees",
        "hu": "HU",
        "percent": "%",
    }
)
_LISTED: Final = 6
_LINES: Final = 12


@dataclass(frozen=True, slots=True)
class RefusalWords:
    """One reason in plain words.

    Attributes
    ----------
    why : str
        What is the matter with the scan; one or two sentences.
    advice : str
        What the reader can do.
    """

    why: str
    advice: str


_RESEND: Final = "Send the whole series again from the scanner or the archive."
_THIN: Final = "Send the axial series as the scanner reconstructed it, not a reformat."
_SERVICE: Final = "Tell the administrator of the node; the reason code helps to find the cause."

GENERAL: Final = RefusalWords("The software could not process this CT series.", _SERVICE)

#: Sentences by reason code; printable ASCII, no backslash.
WORDS: Final[Mapping[str, RefusalWords]] = MappingProxyType(
    {
        "identity_conflict": RefusalWords(
            "The images of this series do not agree about the patient, the study or the frame of reference.",
            "Check whether images of another examination were filed into this series.",
        ),
        "no_position": RefusalWords("An image of this series does not say where it lies in the patient.", _RESEND),
        "no_spacing": RefusalWords("An image of this series does not state its size or pixel spacing.", _RESEND),
        "orientation": RefusalWords(
            "The slices are not axial: coronal, sagittal, or tilted too far from the transverse plane.", _THIN
        ),
        "orientation_spread": RefusalWords("The slices of this series are not parallel to each other.", _THIN),
        "in_plane_mismatch": RefusalWords("The slices of this series differ in matrix size or pixel spacing.", _THIN),
        "duplicate_position": RefusalWords(
            "Two different images lie at the same position; nobody can tell which of them belongs to the scan.",
            "Check whether two reconstructions were filed into one series, and send one of them alone.",
        ),
        "gap": RefusalWords(
            "A slice is missing in the middle of the stack. A result would invent the missing part.",
            "Send the missing slices; the series is then judged again by itself.",
        ),
        "coverage": RefusalWords(
            "The series is too short: it holds too few slices, or covers too little of the head.",
            "Send the rest of the series, or a series that covers the whole brain.",
        ),
        "not_a_head": RefusalWords(
            "The slices show more tissue than a head has; this looks like another part of the body.",
            "Nothing, unless this is a head CT: then tell the administrator of the node.",
        ),
        "field_too_large": RefusalWords(
            "The pixel size in the header makes the image larger than any scanner's field of view.",
            _SERVICE,
        ),
        "half_brain": RefusalWords(
            "Only a part of the brain is in the images.",
            "Send a series that covers the whole head, reconstructed with a field of view that holds it.",
        ),
        "no_brain": RefusalWords(
            "No plausible brain was found in the images, for instance in a phantom or after a large craniectomy.",
            "Nothing, unless the brain is seen on the CT: then tell the administrator of the node.",
        ),
        "fov": RefusalWords(
            "A part of the brain lies outside the region that the model works on.",
            "Send a reconstruction in which the head lies in the middle of the field of view.",
        ),
        "thickness": RefusalWords(
            "The slices are thicker than the model accepts.", "Send a reconstruction with thinner slices."
        ),
        "unreadable": RefusalWords("A file of this series is damaged or cannot be read.", _RESEND),
        "pixel_data": RefusalWords("The pixels of an image of this series cannot be decoded.", _RESEND),
        "no_series": RefusalWords(
            "No series of this study is a head CT without contrast that the software can process.",
            "Send the axial non-contrast series of the head if there is one.",
        ),
    }
)


def words_for(code: str) -> RefusalWords:
    """Words of a reason code, the general ones where it has none of its own."""
    return WORDS.get(code, GENERAL)


def figure_lines(figures: Mapping[str, object]) -> tuple[str, ...]:
    """Numbers behind a refusal as short ASCII lines, in their order.

    Parameters
    ----------
    figures : mapping of str to object
        As a refusal carries them; units at the end of the keys. What is no number, and no list of numbers, of slices or
        of gaps, is left out.

    Returns
    -------
    tuple of str
        At most twelve lines.

    Examples
    --------
    >>> figure_lines({"tilt_deg": 34.25, "slices": [{"instance_number": 3, "position_mm": 10.0}]})
    ('tilt: 34.25 degrees', 'slices: no. 3 at 10 mm')
    """
    lines = []
    for key, value in figures.items():
        name, unit = _named(key)
        text = _value(value, unit)
        if text:
            lines.append(f"{name}: {text}")
    return tuple(lines[:_LINES])


def _named(key: str) -> tuple[str, str]:
    stem, _, last = key.rpartition("_")
    unit = _UNITS.get(last, "")
    words = (stem if unit and stem else key).replace("_", " ")
    return words.encode("ascii", "replace").decode(), unit


def _value(value: object, unit: str) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        parts = [text for text in (_value(item, unit) for item in value[:_LISTED]) if text]
        return ", ".join(parts) + (" ..." if parts and len(value) > _LISTED else "")
    if isinstance(value, Mapping):
        return _place(value)
    number = _number(value)
    return f"{number} {unit}".strip() if number else ""


def _place(item: Mapping[object, object]) -> str:
    """A slice or a gap as the gate lists them."""
    start, end = _number(item.get("from_mm")), _number(item.get("to_mm"))
    if start and end:
        return f"from {start} to {end} mm"
    number, position = _number(item.get("instance_number")), _number(item.get("position_mm"))
    told = [f"no. {number}" if number else "", f"at {position} mm" if position else ""]
    return " ".join(filter(None, told))


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.5g}"
