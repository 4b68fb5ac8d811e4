"""How an image is weighted: b value, direction, and whether it already is an average over directions.

============================ =====================================================================================
source of the b value        rule
============================ =====================================================================================
(0018,9087)                  Diffusion b-value, PS3.3 C.8.13.5.9; in Enhanced MR inside MR Diffusion Sequence of the
                             frame or of the shared groups. Siemens XA, Canon, Philips and recent GE write it.
GE (0043,xx39)               GEMS_PARM_01: first of four values; newer software adds 10^9 (and counts of thousands of
                             directions) to it, so what exceeds 100000 is taken modulo 100000 (notes of dcm2niix on GE)
Siemens (0019,xx0C)          SIEMENS MR HEADER: B_value
Siemens (0029,xx10)          SIEMENS CSA HEADER: entry B_value of the image header
Philips (2001,xx03)          Philips Imaging DD 001: diffusion b factor
United Imaging (0065,xx09)   Image Private Header: b value
Siemens SequenceName         ``*ep_b1000#4``, ``ep_b0``: what is left when private elements were removed (dcm2niix)
ImageComments                ``b=1500``: what older Toshiba software writes (dcm2niix notes on Canon/Toshiba)
============================ =====================================================================================

Canon writes no b value at all for b = 0; that can only be told from the rest of the series, see `volumes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from train.data.diffusion.csa import csa_image_header, csa_numbers
from train.data.diffusion.elements import first_number, items_of, numbers_at, private_tag, text_at

__all__ = ["Weighting", "b_value_of", "manufacturer_of", "weighting_of", "weighting_of_frame"]

Csa = Mapping[str, tuple[str, ...]]
Direction = tuple[float, float, float]

_B_VALUE: Final = 0x00189087
_DIRECTIONALITY: Final = 0x00189075
_ORIENTATION: Final = 0x00189089
_SEQUENCE_NAME: Final = 0x00180024
_IMAGE_COMMENTS: Final = 0x00204000
_MANUFACTURER: Final = 0x00080070

_GE_PARAMETERS: Final = frozenset({"GEMS_PARM_01"})
_GE_ACQUISITION: Final = frozenset({"GEMS_ACQU_01"})
_SIEMENS: Final = frozenset({"SIEMENS MR HEADER"})
_PHILIPS: Final = frozenset({"PHILIPS IMAGING DD 001"})
_PHILIPS_MR: Final = frozenset({"PHILIPS MR IMAGING DD 001"})
_UNITED_IMAGING: Final = frozenset({"IMAGE PRIVATE HEADER"})

#: No scanner reaches this b value, s/mm^2; GE's offset lies above it.
_LARGEST_B: Final = 100_000.0
_SIEMENS_SEQUENCE: Final = re.compile(r"(?:^|[*_])b(\d{1,5})(?:[#t_]|$)")
_COMMENT: Final = re.compile(r"\bb\s*=\s*(\d{1,5})(?!\d)", re.IGNORECASE)

_MAKERS: Final = (
    ("siemens", "siemens"),
    ("philips", "philips"),
    ("ge medical", "ge"),
    ("ge healthcare", "ge"),
    ("toshiba", "canon"),
    ("canon", "canon"),
    ("uih", "united imaging"),
    ("united imaging", "united imaging"),
    ("hitachi", "hitachi"),
    ("fujifilm", "fujifilm"),
)


@dataclass(frozen=True, slots=True)
class Weighting:
    """Diffusion weighting of one image.

    Attributes
    ----------
    b_value : float or None
        s/mm^2; None when the header does not say.
    direction : tuple of 3 floats or None
        What tells the gradient directions of a series apart. Makers use different axes and GE its own, so this is a
        key to sort by, not a direction in space.
    isotropic : bool
        The image is an average over directions (a trace image) already.
    """

    b_value: float | None = None
    direction: Direction | None = None
    isotropic: bool = False


def manufacturer_of(ds: Dataset) -> str:
    """Name the maker by one of a fixed set of words (``other`` for the rest): no free text leaves the header."""
    text = text_at(ds, _MANUFACTURER).lower()
    return next((name for word, name in _MAKERS if word in text), "other")


def b_value_of(ds: Dataset) -> float | None:
    """Give the b value of a data set in s/mm^2, from the sources listed at the head of this module.

    Parameters
    ----------
    ds : pydicom.dataset.Dataset
        A classic or an Enhanced MR object, pixel data not needed.

    Returns
    -------
    float or None
        None when the header has none. For an Enhanced object whose frames differ: None, see `weighting_of_frame`.
    """
    frames = items_of(ds, "PerFrameFunctionalGroupsSequence")
    if not frames:
        return weighting_of(ds).b_value
    shared = _shared(ds)
    values = {weighting_of_frame(shared, frame).b_value for frame in frames}
    return values.pop() if len(values) == 1 else None


def weighting_of(ds: Dataset, csa: Csa | None = None) -> Weighting:
    """Read the weighting of a single-frame (or mosaic) MR data set.

    Parameters
    ----------
    ds : pydicom.dataset.Dataset
        The header.
    csa : mapping, optional
        Its CSA image header where the caller has parsed it already.
    """
    entries = csa_image_header(ds) if csa is None else csa
    b_value = _usable(_first_of(ds, entries))
    direction = _direction(ds, entries)
    return Weighting(b_value, direction, _isotropic(ds, b_value, direction))


def weighting_of_frame(shared: Dataset, frame: Dataset) -> Weighting:
    """Read the weighting of one frame of Enhanced MR (MR Diffusion macro, PS3.3 C.8.13.5.9).

    Parameters
    ----------
    shared, frame : pydicom.dataset.Dataset
        Item of the Shared and of the Per-Frame Functional Groups Sequence; an empty data set where there is none.
    """
    groups = items_of(frame, "MRDiffusionSequence") or items_of(shared, "MRDiffusionSequence")
    if not groups:
        return weighting_of(_philips_item(frame), {})
    group = groups[0]
    b_value = _usable(first_number(group, _B_VALUE, "FD"))
    gradients = items_of(group, "DiffusionGradientDirectionSequence")
    direction = _three(numbers_at(gradients[0], _ORIENTATION, "FD")) if gradients else None
    directionality = text_at(group, _DIRECTIONALITY).upper()
    if b_value is None and directionality == "NONE":
        b_value = 0.0
    return Weighting(b_value, direction, directionality == "ISOTROPIC" and bool(b_value))


def _philips_item(frame: Dataset) -> Dataset:
    """Give the item in which Philips repeats the classic elements of a frame (2005,xx0F), else the frame itself."""
    tag = private_tag(frame, 0x2005, frozenset({"PHILIPS MR IMAGING DD 005"}), 0x0F)
    items = items_of(frame, tag) if tag is not None else ()
    return items[0] if items else frame


def _shared(ds: Dataset) -> Dataset:
    items = items_of(ds, "SharedFunctionalGroupsSequence")
    return items[0] if items else Dataset()


def _first_of(ds: Dataset, csa: Csa) -> float | None:
    """Ask the sources in turn; the standard attribute goes first."""
    standard = first_number(ds, _B_VALUE, "FD")
    if standard is not None:
        return standard
    general = first_number(ds, private_tag(ds, 0x0043, _GE_PARAMETERS, 0x39), "IS")
    if general is not None:
        return general % _LARGEST_B if general >= _LARGEST_B else general
    private = (
        first_number(ds, private_tag(ds, 0x0019, _SIEMENS, 0x0C), "IS"),
        next(iter(csa_numbers(csa, "B_value")), None),
        first_number(ds, private_tag(ds, 0x2001, _PHILIPS, 0x03), "FL"),
        first_number(ds, private_tag(ds, 0x0065, _UNITED_IMAGING, 0x09), "FD"),
        _written(ds),
    )
    return next((value for value in private if value is not None), None)


def _written(ds: Dataset) -> float | None:
    """Read a b value that stands in a text: Siemens' sequence name, or the image comment of Toshiba."""
    maker = manufacturer_of(ds)
    if maker == "siemens":
        found = _SIEMENS_SEQUENCE.search(text_at(ds, _SEQUENCE_NAME))
    elif maker == "canon":
        found = _COMMENT.search(text_at(ds, _IMAGE_COMMENTS))
    else:
        return None
    return float(found[1]) if found else None


def _usable(value: float | None) -> float | None:
    # Philips writes -1 or a huge number for "no value" in some releases.
    return value if value is not None and 0.0 <= value < _LARGEST_B else None


def _three(numbers: tuple[float, ...]) -> Direction | None:
    if len(numbers) != 3:
        return None
    first, second, third = (round(number, 3) + 0.0 for number in numbers)
    return first, second, third


def _direction(ds: Dataset, csa: Csa) -> Direction | None:
    siemens = private_tag(ds, 0x0019, _SIEMENS, 0x0E)
    united = private_tag(ds, 0x0065, _UNITED_IMAGING, 0x37)
    candidates = (
        numbers_at(ds, _ORIENTATION, "FD"),
        numbers_at(ds, siemens, "FD") if siemens is not None else (),
        csa_numbers(csa, "DiffusionGradientDirection"),
        _gathered(ds, 0x2005, _PHILIPS_MR, (0xB0, 0xB1, 0xB2), "FL"),
        numbers_at(ds, united, "FD") if united is not None else (),
        _gathered(ds, 0x0019, _GE_ACQUISITION, (0xBB, 0xBC, 0xBD), "DS"),
    )
    return next((found for found in map(_three, candidates) if found is not None), None)


def _gathered(
    ds: Dataset, group: int, creator: frozenset[str], elements: tuple[int, ...], vr: str
) -> tuple[float, ...]:
    found = (first_number(ds, private_tag(ds, group, creator, element), vr) for element in elements)
    return tuple(number for number in found if number is not None)


def _isotropic(ds: Dataset, b_value: float | None, direction: Direction | None) -> bool:
    if not b_value:
        return False
    siemens = text_at(ds, private_tag(ds, 0x0019, _SIEMENS, 0x0D)).upper()
    if "ISOTROPIC" in (text_at(ds, _DIRECTIONALITY).upper(), siemens):
        return True
    # Philips: direction I of P, M, S, O and I, and a vector of zeros, both mean the image of all directions.
    philips = text_at(ds, private_tag(ds, 0x2001, _PHILIPS, 0x04)).upper() == "I"
    return philips or (direction == (0.0, 0.0, 0.0) and manufacturer_of(ds) == "philips")
