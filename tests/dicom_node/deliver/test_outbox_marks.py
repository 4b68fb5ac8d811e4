"""What lost a mark on the disk cannot leave, and the dead letter names the mark; Secondary Captures on their way out.

Each mark is lost by one kind of object here; that every rule finds every loss in both is tested on the bytes
(`tests/dicom_node/derive/test_label_marks.py`). Left out: the outbox otherwise (`test_outbox`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.dicom.labels import OBJECT_CLASSES
from dicom_node.ledger.queries import dead_letters
from dicom_node.ledger.states import State
from tests.dicom_node.deliver.outbox_cases import MR_IMAGE_STORAGE, Archive, Case
from tests.dicom_node.net.associations import storage_scp

#: The mark, and bytes of it in the file with others of equal length that are none.
LOST = {
    "image_class": (b"\x08\x00\x60\x00CS\x02\x00", b"\x08\x00\x61\x00CS\x02\x00"),
    "synthetic_data": (b"\x08\x00\x1c\x00CS\x04\x00YES ", b"\x08\x00\x1c\x00CS\x04\x00NO  "),
    "image_type": (b"OTHER\\SYNTHETIC", b"OTHER\\DIFFUSION"),
    "content_qualification": (b"RESEARCH", b"PRODUCT "),
    "image_comments": (b"Not for primary diagnosis", b"Fit for primary diagnosis"),
    "contributing_equipment": (
        b"Synthesis of the image from CT, model sha256 ab",
        b"Synthesis of the image from CT, model sha256 ba",
    ),
    "source_image": (b"121322", b"121329"),
    "burned_in_annotation": (b"\x28\x00\x01\x03CS\x02\x00NO", b"\x28\x00\x02\x03CS\x02\x00NO"),
    "watermark": (b"\xff\x0f", b"\xfe\x0f"),
    "private_record": (b'"bundle_sha256":"ab', b'"bundle_sha256":"ba'),
}


@pytest.mark.parametrize(("mark", "kind"), [(mark, ("mr", "sc")[number % 2]) for number, mark in enumerate(LOST)])
def test_an_instance_that_lost_a_mark_leaves_nothing_at_the_peer(tmp_path: Path, mark: str, kind: str):
    """One instance of four lost one mark on the disk: nothing is sent, and the dead letter names the mark."""
    case = Case(tmp_path, kind=kind)
    before, after = LOST[mark]
    last = case.result.instances[-1].path
    data = last.read_bytes()
    assert len(before) == len(after)
    assert before in data
    last.write_bytes(data.replace(before, after))
    archive = Archive()
    with storage_scp(archive, sop_class=OBJECT_CLASSES[kind].sop_class_uid) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
    assert archive.arrived == []
    job = case.job()
    assert (job.state, job.code) == (State.FAILED, "label_missing")
    assert mark in str(job.reason)
    assert mark in str(case.delivery().reason)
    assert job.series.state is State.FAILED
    with case.room.ledger.reading() as session:
        (letter,) = dead_letters(session)
    assert (letter.code, mark in str(letter.reason)) == ("label_missing", True)
    case.room.ledger.close()


def test_secondary_captures_are_delivered_over_a_context_of_their_own(tmp_path: Path):
    case = Case(tmp_path, kind="sc")
    archive = Archive()
    with storage_scp(archive, sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
    assert archive.arrived == []
    assert "Secondary Capture Image Storage" in str(case.delivery().reason)
    other = Case(tmp_path / "again", kind="sc")
    with storage_scp(archive, sop_class=OBJECT_CLASSES["sc"].sop_class_uid) as remote:
        other.destination(remote)
        other.outbox.round("pacs")
    assert archive.arrived == [one.sop_instance_uid for one in other.result.instances]
    assert other.job().state is State.DELIVERED
    case.room.ledger.close()
    other.room.ledger.close()
