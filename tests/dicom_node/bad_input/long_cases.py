"""Series that are too long to be sent beside all the others."""

from __future__ import annotations

from typing import Final

from tests.dicom_node.bad_input.bad_node import BadNode, data_set_bytes, raw_instance
from tests.dicom_node.bad_input.case_table import Look, Table
from tests.dicom_node.dicom.builders import set_dirty

LONG: Final = Table("Very long series")


@LONG.case(
    "2000 slices in one series",
    "stores them all; more than `[selection] max_slices` are no routine head",
    advice="send a thicker reconstruction, or raise `max_slices`",
    ends="SKIPPED too_many_slices",
)
def _two_thousand(node: BadNode) -> Look:
    # One slice with places of fixed width for what differs: encoding 2000 data sets takes longer than sending them.
    root, position = "2.25.4" + "0" * 20, "0000000.000"
    [first] = node.stack(1, rows=2, columns=2, SOPInstanceUID=root, ImagePositionPatient=["-120", "-130", position])
    set_dirty(first, "ImagePositionPatient", f"-120\\-130\\{position}")
    data = data_set_bytes(first)
    slices = []
    for index in range(2000):
        name = f"{root[:-6]}{index + 1:06d}"
        changed = data.replace(root.encode(), name.encode()).replace(position.encode(), f"{index / 10:011.3f}".encode())
        slices.append(raw_instance(changed, sop_instance_uid=name))
    node.send(slices)

    def look() -> None:
        assert node.count() == 2000

    return look
