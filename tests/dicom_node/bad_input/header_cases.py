"""Bad input in headers: values that are missing, wrong or absurd."""

from __future__ import annotations

from typing import Final

from dicom_node.ledger.states import State
from dicom_node.ledger.tables import Series
from tests.dicom_node.bad_input.bad_node import GOOD, BadNode
from tests.dicom_node.bad_input.case_table import SCANNER, Look, Table, slices
from tests.dicom_node.dicom.builders import set_dirty, uid

HEADERS: Final = Table("Headers")


@HEADERS.case(
    "no series description, no protocol, no body part, no kernel",
    "goes by what the instances are and where they lie",
)
def _silent(node: BadNode) -> Look:
    names = ("SeriesDescription", "BodyPartExamined", "ConvolutionKernel")
    node.send(node.stack(**dict.fromkeys(names, "")))
    return lambda: slices(node, GOOD)


@HEADERS.case(
    "InstanceNumber missing, SeriesNumber no number",
    "orders by position",
)
def _no_numbers(node: BadNode) -> Look:
    stack = node.stack(InstanceNumber=None)
    for dataset in stack:
        set_dirty(dataset, "SeriesNumber", "two")
    node.send(stack[::-1])
    return lambda: slices(node, GOOD)


@HEADERS.case("Modality missing", "stores it", advice=SCANNER, ends="SKIPPED not_ct")
def _no_modality(node: BadNode) -> None:
    node.send(node.stack(Modality=None))


@HEADERS.case(
    "a slice without ImagePositionPatient", "refuses: nothing else stands in for it", advice=SCANNER,
    ends="REFUSED no_position",
)  # fmt: skip
def _no_position(node: BadNode) -> None:
    node.send([*node.stack(), *node.stack(1, start=GOOD, ImagePositionPatient=None)])


for _words, _value in (
    ("not a number", "NaN\\NaN"),
    ("infinite", "inf\\inf"),
    ("zero", "0\\0"),
    ("negative", "-1\\-1"),
):

    @HEADERS.case(f"PixelSpacing that is {_words}", "refuses", advice=SCANNER, ends="REFUSED no_spacing")
    def _spacing(node: BadNode, value: str = _value) -> None:
        stack = node.stack()
        for dataset in stack:
            set_dirty(dataset, "PixelSpacing", value)
        node.send(stack)


@HEADERS.case(
    "PixelSpacing of 30 metres", "refuses: no scanner has such a field", advice=SCANNER, ends="REFUSED field_too_large"
)
def _huge_spacing(node: BadNode) -> None:
    node.send(node.stack(pixel_spacing=(30_000.0, 30_000.0)))


@HEADERS.case("slice positions that are not numbers", "refuses", advice=SCANNER, ends="REFUSED no_position")
def _position_nan(node: BadNode) -> None:
    stack = node.stack()
    set_dirty(stack[3], "ImagePositionPatient", "1\\2\\NaN")
    node.send(stack)


@HEADERS.case("direction cosines that are no unit vectors", "refuses", advice=SCANNER, ends="REFUSED orientation")
def _cosines(node: BadNode) -> None:
    node.send(node.stack(orientation=(2.0, 0.0, 0.0, 0.0, 3.0, 0.0)))


@HEADERS.case("SliceThickness missing", "takes the median distance of the slices, with the note `thickness_unknown`")
def _no_thickness(node: BadNode) -> Look:
    node.send(node.stack(SliceThickness=None))
    return lambda: slices(node, GOOD, "thickness_unknown")


for _keyword in ("PatientID", "FrameOfReferenceUID"):

    @HEADERS.case(
        f"{_keyword} that differs within the series", "refuses, with the slices", advice=SCANNER,
        ends="REFUSED identity_conflict",
    )  # fmt: skip
    def _conflict(node: BadNode, keyword: str = _keyword) -> None:
        node.send([*node.stack(), *node.stack(1, start=GOOD, **{keyword: "1.2.3.4"})])


@HEADERS.case(
    "FrameOfReferenceUID missing everywhere",
    "processes it, with the note `no_frame_of_reference`",
)
def _no_frame_of_reference(node: BadNode) -> Look:
    node.send(node.stack(FrameOfReferenceUID=None))
    return lambda: slices(node, GOOD, "no_frame_of_reference")


@HEADERS.case(
    "one Series Instance UID in two studies",
    "takes them for two series",
)
def _shared_series(node: BadNode) -> Look:
    other = node.stack()
    for dataset in other:
        dataset.StudyInstanceUID = uid(node.study, "second study")
        dataset.SOPInstanceUID += ".1"
    node.send([*node.stack(), *other])

    def look() -> None:
        with node.room.ledger.reading() as session:
            found = session.query(Series).filter(Series.series_instance_uid == uid(node.study, "series"))
            assert [one.state for one in found] == [State.QUEUED, State.QUEUED]

    return look


@HEADERS.case(
    "texts that do not fit their character set, an unknown character set",
    "copies them as they are, with a warning in the record of the series",
)
def _texts(node: BadNode) -> None:
    stack = node.stack(SpecificCharacterSet="ISO_IR 4711")
    for dataset in stack:
        set_dirty(dataset, "InstitutionName", "Sch\u00fclerheim \u00ff\u00fe")
    node.send(stack)


@HEADERS.case("dates and times that are none", "goes on without them")
def _dates(node: BadNode) -> None:
    stack = node.stack()
    for dataset in stack:
        for keyword, value in (("StudyDate", "yesterday"), ("ContentDate", "99999999"), ("StudyTime", "25:61")):
            set_dirty(dataset, keyword, value)
    node.send(stack)


@HEADERS.case(
    "Enhanced CT whose functional groups do not tell its frames",
    "stores it",
    advice=SCANNER,
    ends="SKIPPED enhanced_not_processed",
)
def _enhanced(node: BadNode) -> None:
    [dataset] = node.stack(1, NumberOfFrames="2147483647")
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    node.send([dataset])
