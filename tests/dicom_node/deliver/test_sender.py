"""Sending a series: proof for each instance, what to send again, and that nothing unchecked leaves.

Covers one try of a delivery over real associations. Waiting and trying again are the outbox's (`test_outbox`); the
verbs themselves are tested in `test_net_scu`.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pynetdicom import evt

from dicom_node.deliver.sender import send_instances
from dicom_node.errors import Permanent
from dicom_node.net.remote import Remote
from dicom_node.net.scu import StoreResult
from tests.dicom_node.net.associations import storage_scp, write_series


class Archive:
    """Takes instances and counts them; answers as scripted by arrival number."""

    def __init__(self, answers: dict[int, int] | None = None) -> None:
        self.answers = answers or {}
        self.arrived: list[str] = []

    def __call__(self, event: evt.Event) -> int:
        self.arrived.append(str(event.request.AffectedSOPInstanceUID))
        return self.answers.get(len(self.arrived), 0)


def test_a_whole_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 5)
    archive = Archive()
    told: list[tuple[Path, StoreResult]] = []
    with storage_scp(archive) as peer:
        report = send_instances(peer, "JMMDA_NODE", paths, on_result=lambda path, result: told.append((path, result)))
    assert report.complete
    assert report.stored == tuple(paths)
    assert [path for path, _ in told] == paths
    assert archive.arrived == [result.sop_instance_uid for _, result in told]


def test_nothing_to_send_is_done_without_a_call(free_port: int) -> None:
    report = send_instances(Remote("pacs", "PACS", "127.0.0.1", free_port), "JMMDA_NODE", [])
    assert report.complete
    assert report.error is None


def test_out_of_resources_on_the_third_sends_exactly_the_third_again(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 5)
    archive = Archive({3: 0xA700})
    with storage_scp(archive) as peer:
        first = send_instances(peer, "JMMDA_NODE", paths)
        assert first.to_retry == (paths[2],)
        assert first.stored == (paths[0], paths[1], paths[3], paths[4])
        assert first.error is None
        assert not first.complete
        second = send_instances(peer, "JMMDA_NODE", first.to_retry)
    assert second.complete
    assert second.stored == (paths[2],)
    assert len(archive.arrived) == 6
    assert archive.arrived.count(archive.arrived[2]) == 2
    assert len(set(archive.arrived)) == 5


def test_what_is_refused_for_good_is_not_to_be_sent_again(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 3)
    with storage_scp(Archive({1: 0xB007, 2: 0xC000})) as peer:
        report = send_instances(peer, "JMMDA_NODE", paths)
    assert report.failed == (paths[1],)
    assert report.to_retry == ()
    assert report.stored == (paths[0], paths[2])


def test_a_peer_that_is_down_leaves_everything_to_send(tmp_path: Path, free_port: int) -> None:
    paths = write_series(tmp_path, 2)
    report = send_instances(Remote("pacs", "PACS", "127.0.0.1", free_port), "JMMDA_NODE", paths)
    assert report.outcomes == ()
    assert report.to_retry == tuple(paths)
    assert report.error is not None
    assert report.error.code == "peer_unreachable"


def test_an_abort_in_the_middle_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 6)
    aborting = [True]
    arrived: list[str] = []

    def store(event: evt.Event) -> int:
        if aborting and len(arrived) == 3:
            event.assoc.abort()
            return 0
        arrived.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    with storage_scp(store) as peer:
        first = send_instances(peer, "JMMDA_NODE", paths)
        assert first.stored == tuple(paths[:3])
        assert first.unsent == tuple(paths[4:])
        assert first.to_retry == tuple(paths[3:])
        assert first.error is not None
        assert first.error.code == "peer_aborted"
        aborting.clear()
        second = send_instances(peer, "JMMDA_NODE", first.to_retry)
    assert second.complete
    assert len(arrived) == len(set(arrived)) == 6


def test_a_peer_that_stalls_is_left_after_the_time_limit(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 3)
    release = threading.Event()

    def store(event: evt.Event) -> int:
        release.wait(10)
        return 0

    with storage_scp(store) as peer:
        report = send_instances(peer, "JMMDA_NODE", paths, timeout_s=0.4)
        release.set()
    assert report.to_retry == tuple(paths)
    assert report.error is not None
    assert report.error.code == "peer_silent"


def test_one_object_without_its_mark_and_nothing_leaves(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 4)
    bad = paths[2].read_bytes()
    archive = Archive()

    def check(data: bytes) -> None:
        if data == bad:
            raise Permanent("label_missing", "the object lacks a mark")

    with storage_scp(archive) as peer, pytest.raises(Permanent, match="label_missing"):
        send_instances(peer, "JMMDA_NODE", paths, check=check)
    assert archive.arrived == []


def test_the_bytes_are_checked_again_when_they_leave(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 2)
    archive = Archive()

    def check(data: bytes) -> None:
        if b"TAMPERED" in data:
            raise Permanent("label_missing", "the object lacks a mark")

    def tamper(path: Path, result: StoreResult) -> None:
        data = paths[1].read_bytes()
        paths[1].write_bytes(data.replace(b"MONOCHROME2 ", b"TAMPERED    "))

    with storage_scp(archive) as peer, pytest.raises(Permanent, match="label_missing"):
        send_instances(peer, "JMMDA_NODE", paths, check=check, on_result=tamper)
    assert len(archive.arrived) == 1
