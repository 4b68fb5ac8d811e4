"""Companions in the outbox: a peer that refuses their class, or a damaged one, never holds the images back.

Left out: the running node, retries of a companion, withdrawals.
"""

from __future__ import annotations

from pathlib import Path

from dicom_node.deliver.companions import NOT_DELIVERED
from dicom_node.derive.companions.writer import CompanionSeries, write_companions
from dicom_node.ledger.job_file import OUT_FOLDER
from dicom_node.ledger.queries import history
from dicom_node.ledger.states import State
from dicom_node.ledger.tables import DeliveryInstance
from tests.dicom_node.deliver.test_outbox import MR_IMAGE_STORAGE, Archive, Case
from tests.dicom_node.derive.companions.companion_cases import companion_request
from tests.dicom_node.derive.derive_cases import write_ct_series
from tests.dicom_node.net.associations import storage_scp


def test_a_peer_that_refuses_the_class_has_the_images_and_a_remark_says_so(tmp_path: Path):
    case = Case(tmp_path)
    out = case.room.paths.jobs / case.key / OUT_FOLDER
    request = companion_request(write_ct_series(tmp_path / "ct2"), kinds=("seg",), withdrawn=())
    (seg,) = write_companions(request, out)
    assert isinstance(seg, CompanionSeries)
    with case.room.ledger.transaction() as change:
        job = change.job(case.key)
        assert job is not None
        job.result = {**job.result, "companions": [seg.to_json()]}
        uid = seg.instances[0].sop_instance_uid
        job.deliveries[0].instances.append(DeliveryInstance(sop_instance_uid=uid, stored=False))
    archive = Archive()
    with storage_scp(archive, sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
    assert archive.arrived == [one.sop_instance_uid for one in case.result.instances]
    assert case.job().state is State.DELIVERED
    with case.room.ledger.reading() as session:
        (remark,) = [one for one in history(session, case.room.series()) if one.kind == NOT_DELIVERED]
    assert "seg (Segmentation Storage) did not get to pacs" in str(remark.reason)
    case.outbox.stop()
    case.room.ledger.close()
