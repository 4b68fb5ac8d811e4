"""A frame of Enhanced CT as the classic slice that it would have been.

Enhanced CT and Legacy Converted Enhanced CT (PS3.3 A.38, A.70) hold a whole stack in one instance; what a classic slice
says at the top of its header stands in functional groups there, in the frame's own group or in the one that all share
(PS3.3 C.7.6.16). `frame_dataset` puts it back to the top, byte by byte. Everything behind it (header, gate, Hounsfield
units, the plane of the result) then works on a frame as on a slice.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Final

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from dicom_node.dicom.identity import raw, tag_of
from dicom_node.dicom.reading import PARSE_ERRORS, ElementReader, quiet_pydicom
from dicom_node.errors import Permanent

__all__ = ["FUNCTIONAL_GROUPS", "FrameError", "frame_count", "frame_dataset"]

_SHARED: Final = "SharedFunctionalGroupsSequence"
_PER_FRAME: Final = "PerFrameFunctionalGroupsSequence"

#: What has to be read beside the elements of a classic slice.
FUNCTIONAL_GROUPS: Final = (
    _SHARED,
    _PER_FRAME,
    "ConcatenationFrameOffsetNumber",
    "AcquisitionDateTime",
    "ContrastBolusAgentSequence",
)

#: Functional group (PS3.3 C.7.6.16.2 and C.8.15.3), its elements, and their keywords in a classic slice.
_MACROS: Final = (
    ("PlanePositionSequence", (("ImagePositionPatient", "ImagePositionPatient"),)),
    ("PlaneOrientationSequence", (("ImageOrientationPatient", "ImageOrientationPatient"),)),
    ("PixelMeasuresSequence", (("PixelSpacing", "PixelSpacing"), ("SliceThickness", "SliceThickness"))),
    (
        "PixelValueTransformationSequence",
        (
            ("RescaleIntercept", "RescaleIntercept"),
            ("RescaleSlope", "RescaleSlope"),
            ("RescaleType", "RescaleType"),
        ),
    ),
    ("CTImageFrameTypeSequence", (("FrameType", "ImageType"),)),
    ("CTReconstructionSequence", (("ConvolutionKernel", "ConvolutionKernel"),)),
)

#: Where a legacy conversion keeps what has no place of its own (PS3.3 C.7.6.16.2.25, C.7.6.16.2.26): kernel, contrast
#: agent, slice location.
_UNASSIGNED: Final = (
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)

#: Anatomic regions (CID 4030) as values of BodyPartExamined (PS3.16 Annex L), by the codes of SNOMED CT and its
#: predecessor.
_REGIONS: Final = {
    **dict.fromkeys(("69536005", "T-D1100"), "HEAD"),
    **dict.fromkeys(("12738006", "T-A0100"), "BRAIN"),
    **dict.fromkeys(("89546000", "T-11100"), "SKULL"),
    **dict.fromkeys(("774007", "T-D1000"), "HEADNECK"),
    **dict.fromkeys(("45048000", "T-D1600"), "NECK"),
    **dict.fromkeys(("51185008", "43799004", "T-D3000"), "CHEST"),
    **dict.fromkeys(("818981001", "818983003", "113345001", "T-D4000"), "ABDOMEN"),
    **dict.fromkeys(("816092008", "12921003", "T-D6000"), "PELVIS"),
    **dict.fromkeys(("122494005", "T-11501"), "CSPINE"),
    **dict.fromkeys(("122495006", "T-11502"), "TSPINE"),
    **dict.fromkeys(("122496007", "T-11503"), "LSPINE"),
    **dict.fromkeys(("80891009", "T-32000"), "HEART"),
    **dict.fromkeys(("61685007", "30021000", "T-D9400"), "LEG"),
}


_OURS: Final = frozenset(tag_of(keyword) for keyword in ("NumberOfFrames", "InstanceNumber", "PixelData"))


class FrameError(ValueError):
    """The frames of an object cannot be told apart; the text names keyword and rule."""


def frame_count(dataset: Dataset) -> int:
    """Number of frames of an Enhanced CT object, for each of which there is a group.

    Raises
    ------
    FrameError
        When NumberOfFrames and the functional groups do not agree, or the groups cannot be parsed.
    """
    try:
        groups = len(_items(dataset, _PER_FRAME))
    except Permanent:
        raise FrameError(f"{_PER_FRAME}: cannot be parsed") from None
    frames = ElementReader(dataset).integer("NumberOfFrames") or 1
    if groups != frames:
        raise FrameError(f"{_PER_FRAME}: {groups} items for {frames} frames")
    return frames


def frame_dataset(dataset: Dataset, number: int) -> Dataset:
    """Make a classic header for one frame.

    Parameters
    ----------
    dataset : pydicom.dataset.Dataset
        Enhanced CT as read, with or without pixel data. It keeps its elements; the result shares them.
    number : int
        Frame number, counted from 1 (PS3.3 10.3).

    Returns
    -------
    pydicom.dataset.Dataset
        All elements of the object but its functional groups and NumberOfFrames, and on top what the frame's groups say.

    Raises
    ------
    dicom_node.errors.Permanent
        ``unreadable`` when the functional groups cannot be parsed, or the frame has none.
    """
    per_frame, shared = _items(dataset, _PER_FRAME), _items(dataset, _SHARED)
    if not 1 <= number <= len(per_frame):
        raise Permanent("unreadable", f"{_PER_FRAME} has no item for a frame", {"frame_number": number})
    groups = (per_frame[number - 1], *shared[:1])
    view = Dataset()
    if hasattr(dataset, "file_meta"):
        view.file_meta = dataset.file_meta
    view.set_original_encoding(*dataset.original_encoding)
    left_out = {tag_of(keyword) for keyword in (_SHARED, _PER_FRAME, "NumberOfFrames", "InstanceNumber")}
    for tag in dataset.keys() - left_out:
        if not tag.is_private:  # nothing reads them, and pydicom would decode them here
            view[tag] = dataset.get_item(tag)
    for macro in _UNASSIGNED:
        _restore(view, _macro(groups, macro))
    for macro, elements in _MACROS:
        item = _macro(groups, macro)
        for inner, keyword in elements:
            _put(view, keyword, item, inner)
    _number(view, dataset, number)
    _moment(view, dataset, _macro(groups, "FrameContentSequence"))
    _region(view, _macro(groups, "FrameAnatomySequence"))
    _contrast(view, dataset, groups)
    return view


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    if tag_of(keyword) not in dataset:
        return ()
    try:
        with quiet_pydicom():
            return list(dataset[tag_of(keyword)].value or ())
    except PARSE_ERRORS:
        raise Permanent("unreadable", f"{keyword} cannot be parsed") from None


def _macro(groups: Sequence[Dataset], keyword: str) -> Dataset:
    """First item of a functional group: the frame's own, else the shared one, else an empty one."""
    for group in groups:
        items = _items(group, keyword)
        if items:
            return items[0]
    return Dataset()


def _restore(view: Dataset, unassigned: Dataset) -> None:
    """Put the converted attributes back where they stood, unless something stands there."""
    for tag in unassigned.keys() - view.keys():
        if not tag.is_private and tag not in _OURS:
            view[tag] = unassigned.get_item(tag)


def _put(view: Dataset, keyword: str, item: Dataset, inner: str) -> None:
    """Copy an element of a functional group to the top, its value untouched; there it replaces what stood there."""
    if tag_of(inner) not in item:
        return
    element = item.get_item(inner)
    tag = tag_of(keyword)
    if isinstance(element, RawDataElement):
        view[tag] = element._replace(tag=tag)
    else:
        view[tag] = DataElement(tag, element.VR, element.value)


def _text(view: Dataset, keyword: str, vr: str, text: str) -> None:
    tag = tag_of(keyword)
    view[tag] = raw(tag, vr, text.encode("ascii", "replace"))


def _number(view: Dataset, dataset: Dataset, number: int) -> None:
    """Frame number as InstanceNumber; parts of a concatenation are counted on (PS3.3 C.7.6.16.1)."""
    offset = ElementReader(dataset).raw("ConcatenationFrameOffsetNumber")
    if isinstance(offset, bytes):
        order = ">" if dataset.original_encoding[1] is False else "<"
        offset = struct.unpack(f"{order}I", offset)[0] if len(offset) == 4 else 0
    _text(view, "InstanceNumber", "IS", str(number + (offset if isinstance(offset, int) else 0)))


def _moment(view: Dataset, dataset: Dataset, content: Dataset) -> None:
    """When the frame was acquired, as date and time; a DT without its offset (PS3.5 section 6.2)."""
    moment = ElementReader(content).text("FrameAcquisitionDateTime") or ElementReader(dataset).text(
        "AcquisitionDateTime"
    )
    digits = re.match(r"(\d{8})([\d.]*)", moment, re.ASCII)
    if digits is None or ElementReader(view).present("AcquisitionDate"):
        return
    _text(view, "AcquisitionDate", "DA", digits[1])
    if digits[2]:
        _text(view, "AcquisitionTime", "TM", digits[2])


def _region(view: Dataset, anatomy: Dataset) -> None:
    """BodyPartExamined from the code of the region, where the header has none."""
    if ElementReader(view).present("BodyPartExamined"):
        return
    for region in _items(anatomy, "AnatomicRegionSequence")[:1]:
        name = _REGIONS.get(ElementReader(region).text("CodeValue"))
        if name is not None:
            _text(view, "BodyPartExamined", "CS", name)


def _contrast(view: Dataset, dataset: Dataset, groups: Sequence[Dataset]) -> None:
    """ContrastBolusAgent where an agent is named and the frame does not say that it was not yet given."""
    usage = [ElementReader(item).text("ContrastBolusAgentAdministered") for g in groups for item in _usage(g)]
    if _items(dataset, "ContrastBolusAgentSequence") and not (usage and set(usage) == {"NO"}):
        _text(view, "ContrastBolusAgent", "LO", "SEE CONTRAST BOLUS AGENT SEQUENCE")


def _usage(group: Dataset) -> Sequence[Dataset]:
    return _items(group, "ContrastBolusUsageSequence")
