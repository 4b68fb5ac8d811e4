"""Where the frames of SEG and Parametric Map lie: the CT's own elements, byte for byte, frame by frame.

highdicom takes spacing, thickness and orientation of the first slice for all, and writes numbers in a notation of its
own. A head CT may change its thickness in the middle, and its planes are to be those of the CT to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.valuerep import DS

from dicom_node.derive.companions.sources import SourceImage, unique_instances
from dicom_node.dicom.identity import copy_verbatim
from dicom_node.dicom.reading import ElementReader

_SAME_MM: Final = 0.01


def place_frames(ds: Dataset, images: Sequence[SourceImage]) -> None:
    """Give every frame the plane of the CT slice that it was made from.

    Parameters
    ----------
    ds : pydicom.Dataset
        Multi-frame object of highdicom; each frame names the stand-in of its slice (PS3.3 C.7.6.16.2.6).
    images : sequence of SourceImage
        All CT slices, in the order of the gate.
    """
    by_name = {image.stand_in: image for image in images}
    groups = ds.PerFrameFunctionalGroupsSequence
    found = [by_name[_source_of(group)] for group in groups]
    shared = ds.SharedFunctionalGroupsSequence[0]
    spacing, usual = uniform_spacing_mm(images), _usual_spacing_mm(images)
    for keyword, elements in (
        ("PixelMeasuresSequence", ("PixelSpacing", "SliceThickness")),
        ("PlaneOrientationSequence", ("ImageOrientationPatient",)),
    ):
        items = [_macro(image, elements) for image in found]
        if keyword == "PixelMeasuresSequence":
            for item in items:
                _complete(item, spacing, usual)
        if len({tuple(image.value(element) for element in elements) for image in found}) == 1:
            setattr(shared, keyword, [items[0]])
            continue
        delattr(shared, keyword)
        for group, item in zip(groups, items, strict=True):
            setattr(group, keyword, [item])
    for group, image in zip(groups, found, strict=True):
        group.PlanePositionSequence = [_macro(image, ("ImagePositionPatient",))]
    copy_verbatim(images[0].header, ds, ("PositionReferenceIndicator",))
    _list_instances_once(ds, images)


def _source_of(group: Dataset) -> str:
    return str(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)


def _macro(image: SourceImage, elements: Sequence[str]) -> Dataset:
    item = Dataset()
    copy_verbatim(image.header, item, (element for element in elements if image.value(element)))
    return item


def _complete(item: Dataset, spacing_mm: float | None, usual_mm: float | None) -> None:
    """Add the spacing where it is one, and a thickness where the CT tells none: the spacing, as for the gate."""
    if spacing_mm is not None:
        item.SpacingBetweenSlices = DS(spacing_mm, auto_format=True)
    if "SliceThickness" not in item and usual_mm is not None:
        item.SliceThickness = DS(usual_mm, auto_format=True)


def _steps_mm(images: Sequence[SourceImage]) -> npt.NDArray[np.float64]:
    readers = [ElementReader(image.header) for image in images]
    row, column = np.array(readers[0].decimals("ImageOrientationPatient", 6)).reshape(2, 3)
    normal = np.cross(row, column)
    positions = [float(np.array(reader.decimals("ImagePositionPatient", 3)) @ normal) for reader in readers]
    return np.abs(np.diff(positions))


def uniform_spacing_mm(images: Sequence[SourceImage]) -> float | None:
    """Distance between neighbouring planes along their normal, or None when it varies or there is one plane."""
    steps = _steps_mm(images)
    return float(steps.mean()) if steps.size and float(np.ptp(steps)) <= _SAME_MM else None


def _usual_spacing_mm(images: Sequence[SourceImage]) -> float | None:
    steps = _steps_mm(images)
    return float(np.median(steps)) if steps.size else None


def _list_instances_once(ds: Dataset, images: Sequence[SourceImage]) -> None:
    """Common Instance Reference knows instances, each once (PS3.3 C.12.2), however many frames were used."""
    wanted = unique_instances(images)
    for series in ds.get("ReferencedSeriesSequence") or ():
        items = []
        for image in wanted:
            item = Dataset()
            item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
            item.ReferencedSOPInstanceUID = image.instance_stand_in
            items.append(item)
        series.ReferencedInstanceSequence = items
