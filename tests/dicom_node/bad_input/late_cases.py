"""Bad input in content: slices that come late, twice or not at all."""

from __future__ import annotations

from typing import Final

import numpy as np

from dicom_node.ledger.states import State
from tests.dicom_node.bad_input.bad_node import GOOD, STEP_MM, BadNode
from tests.dicom_node.bad_input.case_table import SCANNER, Look, Table, slices
from tests.dicom_node.dicom.builders import uid

LATE: Final = Table("Slices that come late, twice or not at all")

SEND_AGAIN: Final = "have the sender send the missing slices; the series is judged anew when they come"


@LATE.case(
    "two thirds of a series, a pause longer than every timer, then the rest",
    "refuses them for their coverage, and judges the series anew when the rest comes",
)
def _pause(node: BadNode) -> Look:
    node.send(node.stack(9))
    node.settle()
    assert node.ends() == {"series": "REFUSED coverage"}
    node.send(node.stack(GOOD - 9, start=9))
    return lambda: slices(node, GOOD)


@LATE.case(
    "a series that is long enough, a pause longer than every timer, then more slices",
    "makes a second job with all slices in the place of the first",
)
def _more_later(node: BadNode) -> Look:
    node.send(node.stack())
    node.settle()
    node.send(node.stack(3, start=GOOD))

    def look() -> None:
        assert [job.state for job in node.jobs()] == [State.SUPERSEDED, State.QUEUED]
        slices(node, GOOD + 3)

    return look


@LATE.case("a slice missing in the middle", "refuses, with the positions", advice=SEND_AGAIN, ends="REFUSED gap")
def _missing(node: BadNode) -> Look:
    stack = node.stack(16)
    node.send([*stack[:6], *stack[7:]])

    def look() -> None:
        [gap] = node.row().figures["gaps"]
        assert (gap["from_mm"], gap["to_mm"]) == (5 * STEP_MM, 7 * STEP_MM)

    return look


@LATE.case(
    "the end of a series missing, less than 100 mm left",
    "refuses it when the quiet timer has run out",
    advice=SEND_AGAIN,
    ends="REFUSED coverage",
)
def _end_missing(node: BadNode) -> None:
    node.send(node.stack(12, ImagesInAcquisition=str(GOOD)))


@LATE.case(
    "the end of a series missing, 100 mm or more left",
    "waits for the quiet timer where ImagesInAcquisition announces more, then processes what is there",
    advice="nothing; a slice that comes later makes a new result",
)
def _end_missing_unseen(node: BadNode) -> Look:
    node.send(node.stack(GOOD, ImagesInAcquisition="20"))
    node.quiet()
    intake = node.room.settings.intake
    node.room.round()
    node.room.round(after_s=intake.settle_s + 1)
    assert node.ends() == {"series": "RECEIVING"}
    return lambda: slices(node, GOOD)


@LATE.case(
    "one position twice, with the same pixels under another SOP Instance UID",
    "leaves one of the two out, with the note `duplicates`",
)
def _position_twice(node: BadNode) -> Look:
    [copy] = node.stack(1, start=4)
    copy.SOPInstanceUID = uid(node.study, "copy")
    node.send([*node.stack(), copy])
    return lambda: slices(node, GOOD, "duplicates")


@LATE.case(
    "one position twice, with other pixels",
    "refuses: nobody can tell which of them is right",
    advice=SCANNER,
    ends="REFUSED duplicate_position",
)
def _position_twice_differs(node: BadNode) -> None:
    [other] = node.stack(1, start=4, pixels=np.full((16, 16), 7, np.uint16), SOPInstanceUID=uid(node.study, "other"))
    node.send([*node.stack(), other])


@LATE.case("every instance sent twice, byte for byte", "drops the second copies, which is noted")
def _sent_twice(node: BadNode) -> Look:
    node.send([*node.stack(), *node.stack()])
    return lambda: slices(node, GOOD)


@LATE.case(
    "a SOP Instance UID that came before, with other bytes",
    "uses the first copy and keeps the second in the quarantine",
    advice="find out why the sender changes instances and keeps their UIDs",
    aside=("other_bytes",),
)
def _other_bytes(node: BadNode) -> Look:
    node.send([*node.stack(), *node.stack(1, start=4, PatientComments="changed")])
    return lambda: slices(node, GOOD)


@LATE.case("a whole study sent again after its decision", "notes it; there is no second job")
def _again_later(node: BadNode) -> Look:
    for _ in range(3):
        node.send(node.stack())
        node.settle()

    def look() -> None:
        assert [job.state for job in node.jobs()] == [State.QUEUED]

    return look
