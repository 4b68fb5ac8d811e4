"""The outbox over real associations: what is sent, sent again, given up, held back, and written down.

Left out: lost marks and the other kind of object (`test_outbox_marks`), one try of sending in detail (`test_sender`),
and the running node (`test_node_delivery`).
"""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path

import pytest
from pynetdicom import evt

from dicom_node.ledger.states import DeliveryState, State
from dicom_node.net.remote import Remote
from dicom_node.settings import Settings
from tests.dicom_node.deliver.outbox_cases import MR_IMAGE_STORAGE, Archive, Case
from tests.dicom_node.derive.derive_cases import PHANTOM_BUNDLE, UNTRAINED_BUNDLE
from tests.dicom_node.net.associations import raw_server, storage_scp, wait_until
from tests.dicom_node.net.tls_cases import Authority, careless_server


@pytest.fixture
def case(tmp_path: Path):
    made = Case(tmp_path)
    yield made
    made.outbox.stop()
    made.room.ledger.close()


def test_a_result_arrives_and_job_and_series_are_delivered(case: Case):
    archive = Archive()
    with storage_scp(archive, sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
    assert archive.arrived == [one.sop_instance_uid for one in case.result.instances]
    job = case.job()
    assert (job.state, job.series.state) == (State.DELIVERED, State.DELIVERED)
    assert job.delivered_at is not None
    assert all(row.stored and row.status == 0 and row.sent_at for row in case.delivery().instances)
    record = json.loads((case.room.paths.jobs / case.key / "job.json").read_bytes())
    assert [row["stored"] for row in record["deliveries"][0]["instances"]] == [True] * 4


def test_out_of_resources_on_the_third_sends_exactly_the_third_again(case: Case):
    archive = Archive({3: 0xA700})
    third = case.result.instances[2].sop_instance_uid
    with storage_scp(archive, sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
        delivery = case.delivery()
        assert (delivery.state, delivery.code, delivery.attempts) == (DeliveryState.PENDING, "store_failed", 1)
        assert [row.stored for row in delivery.instances] == [True, True, False, True]
        case.outbox.round("pacs")
        assert len(archive.arrived) == 4, "nothing is sent before its wait is over"
        case.room.clock.advance(6.0)
        case.outbox.round("pacs")
    assert archive.arrived[4:] == [third]
    assert case.job().state is State.DELIVERED


def test_a_pacs_that_is_down_gets_the_result_when_it_is_back(case: Case, free_port: int):
    case.destination(Remote("pacs", "PACS", "127.0.0.1", free_port))
    case.outbox.round("pacs")
    delivery = case.delivery()
    assert (delivery.state, delivery.code) == (DeliveryState.PENDING, "peer_unreachable")
    assert delivery.next_try_at is not None
    assert 4.0 < (delivery.next_try_at - case.room.clock.now()).total_seconds() < 6.0
    archive = Archive()
    with storage_scp(archive, sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.room.clock.advance(6.0)
        case.outbox.round("pacs")
    assert len(archive.arrived) == 4
    assert case.job().state is State.DELIVERED


def test_after_the_last_try_it_is_a_dead_letter_with_its_reason(case: Case, free_port: int):
    case.destination(Remote("pacs", "PACS", "127.0.0.1", free_port))
    for _ in range(5):
        case.outbox.round("pacs")
        case.room.clock.advance(30.0)
    job = case.job()
    assert (job.state, job.series.state, job.code) == (State.FAILED, State.FAILED, "peer_unreachable")
    assert case.delivery().attempts == 3


def test_an_instance_refused_for_good_fails_when_the_others_are_through(case: Case):
    archive = Archive({2: 0xA900})
    with storage_scp(archive, sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
    delivery = case.delivery()
    assert [row.stored for row in delivery.instances] == [True, False, True, True]
    assert (delivery.state, delivery.code) == (DeliveryState.FAILED, "store_refused")
    assert delivery.instances[1].status == 0xA900
    assert case.job().state is State.FAILED


def test_a_pacs_that_accepts_no_mr_is_a_dead_letter_that_says_so(case: Case):
    with storage_scp(Archive()) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
    assert case.job().state is State.FAILED
    assert "MR Image Storage" in str(case.delivery().reason)


def test_warnings_count_as_stored(case: Case):
    with storage_scp(Archive({1: 0xB000, 4: 0x0111}), sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
    assert case.job().state is State.DELIVERED
    assert case.delivery().instances[0].status == 0xB000


def test_one_destination_down_delays_no_other_and_both_end_the_job(tmp_path: Path, free_port: int):
    case = Case(tmp_path, destinations=("pacs", "archive"))
    archive = Archive()
    case.destination(Remote("pacs", "PACS", "127.0.0.1", free_port))
    with storage_scp(archive, sop_class=MR_IMAGE_STORAGE, ae_title="ARCHIVE") as remote:
        case.destination(remote, "archive")
        case.outbox.wake()
        assert wait_until(lambda: case.delivery("archive").state is DeliveryState.DELIVERED, 20)
        # The next try is set when the first has failed for good; only then may the clock move on.
        assert wait_until(lambda: case.delivery("pacs").next_try_at is not None, 20)
        assert case.job().state is State.DELIVERING
        with storage_scp(archive, sop_class=MR_IMAGE_STORAGE) as back:
            case.destination(back)
            case.room.clock.advance(6.0)
            case.outbox.wake()
            assert wait_until(lambda: case.delivery("pacs").state is DeliveryState.DELIVERED, 20)
        assert wait_until(lambda: case.job().state is State.DELIVERED, 20)
    assert len(archive.arrived) == 8
    case.outbox.stop()
    case.room.ledger.close()


@pytest.mark.parametrize("bundle", [PHANTOM_BUNDLE, UNTRAINED_BUNDLE], ids=["phantom", "untrained"])
def test_a_phantom_result_is_held_back_until_the_site_allows_it(tmp_path: Path, bundle):
    case = Case(tmp_path, bundle)
    archive = Archive()
    with storage_scp(archive, sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
        assert archive.arrived == []
        job = case.job()
        assert (job.state, job.code) == (State.FAILED, "phantom_bundle")
        assert "allow_phantom_bundle = true" in str(job.reason)
        case.settings = Settings.model_validate({**case.settings.model_dump(), "model": {"allow_phantom_bundle": True}})
        from dicom_node.remedies import replay_dead_letters

        (remedy,) = replay_dead_letters(case.room.ledger, case.settings, None)
        assert (remedy.before, remedy.after) == ("FAILED", "DELIVERING")
        case.outbox.round("pacs")
    assert len(archive.arrived) == 4
    assert case.job().state is State.DELIVERED
    case.room.ledger.close()


def test_a_result_file_that_is_gone_is_a_dead_letter(case: Case):
    case.result.instances[0].path.unlink()
    with storage_scp(Archive(), sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
    assert case.job().code == "result_missing"


def test_a_destination_that_left_the_settings_waits_in_the_dead_letter(case: Case):
    peers = [one.model_dump() for one in case.settings.peers]
    renamed = [{**peer, "name": "new-pacs"} if peer["name"] == "pacs" else peer for peer in peers]
    case.settings = Settings.model_validate({**case.settings.model_dump(), "peers": renamed})
    case.outbox.round("pacs")
    assert case.job().code == "unknown_destination"


def test_a_connection_lost_in_the_middle_goes_on_behind_what_was_acknowledged(case: Case):
    seen: list[str] = []

    def drop_at_third(event: evt.Event) -> int:
        seen.append(str(event.request.AffectedSOPInstanceUID))
        if len(seen) == 3:
            event.assoc.abort()
        return 0

    with storage_scp(drop_at_third, sop_class=MR_IMAGE_STORAGE) as remote:
        case.destination(remote)
        case.outbox.round("pacs")
        assert case.delivery().state is DeliveryState.PENDING
        assert [row.stored for row in case.delivery().instances] == [True, True, False, False]
        case.room.clock.advance(6.0)
        case.outbox.round("pacs")
    assert seen[3:] == [one.sop_instance_uid for one in case.result.instances[2:]]
    assert case.job().state is State.DELIVERED


def test_a_result_goes_by_tls_and_waits_while_a_certificate_is_wrong(case: Case, tmp_path: Path):
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    node, pacs = ours.issue("node"), ours.issue("pacs")
    archive = Archive()
    mutual = careless_server(pacs, ours.certificate, most=ssl.TLSVersion.TLSv1_3)
    with storage_scp(archive, sop_class=MR_IMAGE_STORAGE, ssl_context=mutual) as remote:
        for authority, state in ((theirs, DeliveryState.PENDING), (ours, DeliveryState.DELIVERED)):
            case.destination(remote)
            values = case.settings.model_dump()
            (peer,) = (one for one in values["peers"] if one["name"] == "pacs")
            peer.update(tls=True, tls_ca=authority.certificate)
            values["tls"] = {"certificate": node.certificate, "key": node.key}
            case.settings = Settings.model_validate(values)
            case.room.clock.advance(1000.0)
            case.outbox.round("pacs")
            assert case.delivery().state is state
            if state is DeliveryState.PENDING:
                assert case.delivery().code == "tls_unknown_authority"
                assert archive.arrived == []
    assert archive.arrived == [one.sop_instance_uid for one in case.result.instances]


def test_a_peer_has_a_time_out_of_its_own(case: Case):
    def listen_and_say_nothing(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    with raw_server(listen_and_say_nothing) as silent:
        case.destination(silent)
        values = case.settings.model_dump()
        (peer,) = (one for one in values["peers"] if one["name"] == "pacs")
        peer["association_timeout_s"] = 0.2
        values["delivery"]["association_timeout_s"] = 600.0  # longer than the test may take
        case.settings = Settings.model_validate(values)
        case.outbox.round("pacs")
    assert case.delivery().state is DeliveryState.PENDING
    assert case.delivery().code == "peer_aborted"
