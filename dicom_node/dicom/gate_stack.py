"""The stack on its way through the geometry gate, and what a rule may do with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from dicom_node.dicom import geometry
from dicom_node.dicom.gate_codes import CODES, GateStatus
from dicom_node.dicom.geometry import FloatArray
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import SliceHeader

__all__ = ["LISTED", "PixelDigest", "ReadSlice", "Refusal", "Rule", "Stack", "number_of", "plural", "where"]

#: More slices than this are not listed in the figures; their number is.
LISTED: Final = 20

PixelDigest = Callable[[SliceHeader], str]
ReadSlice = Callable[[SliceHeader], npt.NDArray[np.float32]]


@dataclass(slots=True)
class Stack:
    """The stack on its way through the rules.

    Attributes
    ----------
    headers : list of SliceHeader
        What is left; in order of InstanceNumber first, ascending along `normal` once the slices are known to be
        parallel.
    thresholds : GeometrySettings
        Section ``[geometry]``.
    pixel_digest : PixelDigest
        Digest of the pixels of a slice.
    read_slice : ReadSlice or None
        Pixels of a slice in HU, (rows, columns) float32; None where the pixels are not to be looked at.
    notes, repairs : list of str
        ``code: text``; a repair is in both.
    figures : dict
        JSON-serialisable.
    normal : numpy.ndarray, shape (3,)
        Unit normal, LPS; +z until it is measured.
    """

    headers: list[SliceHeader]
    thresholds: GeometrySettings
    pixel_digest: PixelDigest
    read_slice: ReadSlice | None = None
    notes: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)
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
        """Leave a note, or say what was repaired; `CODES` knows which of the two a code is."""
        said = f"{code}: {text}"
        self.notes.append(said)
        if CODES[code].status is GateStatus.REPAIR:
            self.repairs.append(said)

    def leave_out(self, unwanted: Sequence[SliceHeader]) -> None:
        """Drop instances; each is dropped as the object it is, since two may share a UID."""
        dropped = {id(header) for header in unwanted}
        self.headers = [header for header in self.headers if id(header) not in dropped]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a stack may not be processed, and the slices that are to blame."""

    code: str
    reason: str
    slices: Sequence[SliceHeader] = ()

    def __post_init__(self) -> None:
        """A code that the documentation does not list as a refusal is a mistake of the rule."""
        assert CODES[self.code].status is GateStatus.REFUSE


Rule = Callable[[Stack], Refusal | None]


def number_of(header: SliceHeader) -> int:
    """InstanceNumber for sorting: slices without one come last."""
    return header.instance_number if header.instance_number is not None else 2**31


def where(header: SliceHeader, normal: FloatArray) -> dict[str, object]:
    """Name a slice for a person: InstanceNumber, and position along the normal in mm where it has one."""
    offset = None if header.image_position_patient is None else round(geometry.offset_along(header, normal), 3)
    return {"instance_number": header.instance_number, "position_mm": offset}


def plural(count: int, noun: str) -> str:
    """Write a number with its noun.

    Examples
    --------
    >>> plural(1, "slice"), plural(2, "slice")
    ('1 slice', '2 slices')
    """
    return f"{count} {noun}" + ("" if count == 1 else "s")
