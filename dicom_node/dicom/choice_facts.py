"""What the series choice measures of one series, over all of its instances and whatever their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dicom_node.dicom import geometry
from dicom_node.dicom.values import InstanceKind, SliceHeader

__all__ = ["SeriesFacts", "facts_of"]

#: Row and column this far from two perpendicular unit vectors say nothing about the direction of a slice.
_NO_PLANE: Final = 0.5

#: Positions closer than this are the same, mm.
_SAME_MM: Final = 0.01


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """One series as the rules see it.

    Attributes
    ----------
    uid : str
        SeriesInstanceUID.
    headers : tuple of SliceHeader
        Every instance.
    images : tuple of SliceHeader
        Those that are CT images: no localizer, no screen.
    descriptions, protocols : str
        All different texts of SeriesDescription or ProtocolName in lower case; usually one.
    number : int or None
        Lowest SeriesNumber.
    placed, positions : int
        Images that have a position, and different positions among them, to a tenth of a millimetre.
    tilt_deg : float or None
        Median angle of the images to the transverse plane; None where no orientation is known.
    thickness_mm : float or None
        Median SliceThickness, or the usual distance of neighbours where no image tells it.
    coverage_mm : float or None
        Length along the normal of most images, one slice thickness included; None where no position is known.
    """

    uid: str
    headers: tuple[SliceHeader, ...]
    images: tuple[SliceHeader, ...]
    descriptions: str
    protocols: str
    number: int | None
    placed: int
    positions: int
    tilt_deg: float | None
    thickness_mm: float | None
    coverage_mm: float | None

    @property
    def sorting_number(self) -> int:
        """SeriesNumber for sorting: a series without one comes last."""
        return self.number if self.number is not None else 2**31

    def kinds(self) -> set[InstanceKind]:
        """Every kind of instance in the series."""
        return {header.kind for header in self.headers}


def facts_of(uid: str, headers: Sequence[SliceHeader]) -> SeriesFacts:
    """Measure one series.

    Parameters
    ----------
    uid : str
        SeriesInstanceUID.
    headers : sequence of SliceHeader
        Its instances, in any order.
    """
    images = tuple(header for header in headers if header.kind is InstanceKind.IMAGE)
    where = [header.image_position_patient for header in images if header.image_position_patient is not None]
    told = [header.slice_thickness_mm for header in images if header.slice_thickness_mm is not None]
    planes = _planes(images)
    offsets = _offsets(images, planes)
    thickness = float(np.median(told)) if told else _usual_step(offsets)
    return SeriesFacts(
        uid=uid,
        headers=tuple(headers),
        images=images,
        descriptions=_texts([header.series_description for header in headers]),
        protocols=_texts([header.protocol_name for header in headers]),
        number=min((h.series_number for h in headers if h.series_number is not None), default=None),
        placed=len(where),
        positions=len({tuple(round(value, 1) for value in position) for position in where}),
        tilt_deg=_median_tilt(planes),
        thickness_mm=thickness,
        coverage_mm=float(offsets[-1] - offsets[0]) + (thickness or 0.0) if offsets.size else None,
    )


def _texts(values: Sequence[str]) -> str:
    return " | ".join(sorted({value.lower() for value in values}))


Cosines = tuple[float, float, float, float, float, float]


def _planes(images: Sequence[SliceHeader]) -> Counter[Cosines]:
    """Count the images by their orientation; one that is no plane is left out."""
    found = Counter(h.image_orientation_patient for h in images if h.image_orientation_patient is not None)
    return Counter({cosines: n for cosines, n in found.items() if geometry.orientation_defect(cosines) < _NO_PLANE})


def _median_tilt(planes: Counter[Cosines]) -> float | None:
    # Nearly every series has one orientation, so the angle is computed once for each and not for each image.
    tilts = [tilt for cosines, n in planes.items() for tilt in [geometry.tilt_deg(geometry.normal_of(cosines))] * n]
    return float(np.median(tilts)) if tilts else None


def _offsets(images: Sequence[SliceHeader], planes: Counter[Cosines]) -> geometry.FloatArray:
    """Sorted offsets of the images along the normal of most of them, mm; empty where that is not known."""
    if not planes:
        return np.empty(0)
    usual = min(planes, key=lambda cosines: (-planes[cosines], cosines))
    placed = [h for h in images if h.image_position_patient is not None and h.image_orientation_patient in planes]
    return np.sort(geometry.offsets_of(placed, geometry.normal_of(usual)))


def _usual_step(offsets: geometry.FloatArray) -> float | None:
    steps = np.diff(offsets)
    apart = steps[steps > _SAME_MM]
    return float(np.median(apart)) if apart.size else None
