"""What the audit trail hears of transfers: each one's beginning and end, once, from the ledger alone.

Left out: the message and its way (`test_audit`), the running node (`tests/dicom_node/test_node_audit`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dicom_node.operate.audit_message import AuditEvent, Kind, Outcome
from dicom_node.operate.transfers import TransferWatch
from tests.dicom_node.deliver.test_outbox import MR_IMAGE_STORAGE, Archive, Case
from tests.dicom_node.net.associations import storage_scp
from tests.dicom_node.node_cases import SOURCE_AE, Room, association, head_stack, store_all


class Watch:
    """A watch over a room, and what it said."""

    def __init__(self, room: Room, settings: Any = None) -> None:
        self.said: list[AuditEvent] = []
        self.watch = TransferWatch(
            room.ledger,
            settings or (lambda: room.settings),
            lambda event: self.said.append(AuditEvent.from_json(event)),
        )

    def look(self) -> list[AuditEvent]:
        """What is new."""
        self.said.clear()
        self.watch.look()
        return list(self.said)


@pytest.fixture
def room(tmp_path: Path):
    made = Room(tmp_path / "data")
    yield made
    made.ledger.close()


def test_an_association_is_reported_when_it_begins_and_when_it_ends(room: Room):
    watch = Watch(room)
    with association(room.incoming) as journal:
        store_all(journal, head_stack(3))
        room.ingest.scan()
        (begun,) = watch.look()
        assert (begun.kind, begun.peer, begun.host) == (Kind.RECEIVING, SOURCE_AE, "127.0.0.1")
        assert watch.look() == []
        store_all(journal, head_stack(2, start=3))
        store_all(journal, head_stack(4, series="other"))
    room.ingest.scan()
    (ended,) = watch.look()
    study = room.series(head_stack(1)[0].SeriesInstanceUID).study.study_instance_uid
    assert (ended.kind, ended.outcome, ended.studies) == (Kind.RECEIVED, Outcome.SUCCESS, {study: 9})
    assert watch.look() == []


def test_one_that_broke_off_is_a_failure_and_what_was_open_at_a_restart_is_still_reported(room: Room):
    journal = room.incoming.open_association(calling_ae="CT9", called_ae="JMMDA_NODE", host="10.0.0.9", port=1)
    store_all(journal, head_stack(2))
    room.ingest.scan()
    fresh = Watch(room)
    assert fresh.look() == [], "its beginning was reported before"
    journal.close("aborted")
    room.ingest.scan()
    (ended,) = fresh.look()
    assert (ended.kind, ended.outcome, ended.peer) == (Kind.RECEIVED, Outcome.MINOR_FAILURE, "CT9")
    assert "aborted" in ended.reason


def test_a_delivery_is_reported_at_its_first_try_and_at_its_end(tmp_path: Path, free_port: int):
    case = Case(tmp_path)
    try:
        watch = Watch(case.room, lambda: case.settings)
        case.outbox.round("pacs")  # nobody listens
        assert [one.kind for one in watch.look()] == [Kind.SENDING]
        with storage_scp(Archive(), sop_class=MR_IMAGE_STORAGE) as remote:
            case.destination(remote)
            case.room.clock.advance(6.0)
            assert watch.look() == []
            case.outbox.round("pacs")
        (sent,) = watch.look()
        study = case.room.series().study.study_instance_uid
        assert (sent.kind, sent.outcome, sent.peer, sent.studies) == (Kind.SENT, Outcome.SUCCESS, "PACS", {study: 4})
        assert watch.look() == []
    finally:
        case.outbox.stop()
        case.room.ledger.close()


def test_a_dead_letter_is_a_serious_failure_with_its_code(tmp_path: Path):
    case = Case(tmp_path)
    try:
        watch = Watch(case.room, lambda: case.settings)
        with storage_scp(lambda event: 0xA900, sop_class=MR_IMAGE_STORAGE) as remote:
            case.destination(remote)
            case.outbox.round("pacs")
        begun, sent = watch.look()
        assert (begun.kind, sent.kind, sent.outcome) == (Kind.SENDING, Kind.SENT, Outcome.SERIOUS_FAILURE)
        assert (sent.reason, list(sent.studies.values())) == ("store_refused", [0])
    finally:
        case.outbox.stop()
        case.room.ledger.close()
