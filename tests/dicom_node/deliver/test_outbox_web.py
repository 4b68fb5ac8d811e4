"""The outbox with a DICOMweb destination: the same ledger, the same retries, the same check of the bytes.

Left out: single answers and breakdowns (`test_net_stow`), a real archive (`tests/peers/test_orthanc_dicomweb`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.dicom.labels import check_encoded
from dicom_node.ledger.job_file import OUT_FOLDER
from dicom_node.ledger.states import DeliveryState, State
from dicom_node.settings import Settings
from tests.dicom_node.deliver.test_outbox import Case
from tests.dicom_node.net.web_service import WebService, answer_json, item, well


def _reach(case: Case, url: str, **keys: object) -> None:
    """Have the destination be a DICOMweb service without any AE title."""
    peer = {"name": "pacs", "roles": ["destination"], "dicomweb_url": url, **keys}
    others = [one.model_dump() for one in case.settings.peers if one.name != "pacs"]
    case.settings = Settings.model_validate({**case.settings.model_dump(), "peers": [*others, peer]})


@pytest.fixture
def case(tmp_path: Path):
    made = Case(tmp_path)
    yield made
    made.outbox.stop()
    made.room.ledger.close()


def test_a_result_arrives_byte_by_byte_and_is_delivered(case: Case):
    with WebService().listening() as service:
        _reach(case, service.url)
        case.outbox.round("pacs")
    assert [uid for uid, _ in service.arrived] == [one.sop_instance_uid for one in case.result.instances]
    assert [data for _, data in service.arrived] == [one.path.read_bytes() for one in case.result.instances]
    for _, data in service.arrived:
        check_encoded(data, case.result.label_facts)
    assert (case.job().state, case.job().series.state) == (State.DELIVERED, State.DELIVERED)
    assert all(row.stored and row.status == 0 and row.sent_at for row in case.delivery().instances)


def test_out_of_resources_on_the_third_sends_exactly_the_third_again(case: Case):
    third = case.result.instances[2].sop_instance_uid

    def answer(uid: str, number: int):
        return answer_json([], [item(uid, failure=0xA700)], 409) if number == 3 else well(uid, number)

    with WebService(answer).listening() as service:
        _reach(case, service.url)
        case.outbox.round("pacs")
        delivery = case.delivery()
        assert (delivery.state, delivery.code) == (DeliveryState.PENDING, "store_failed")
        assert [(row.stored, row.status) for row in delivery.instances] == [
            (True, 0), (True, 0), (False, 0xA700), (True, 0),
        ]  # fmt: skip
        case.room.clock.advance(6.0)
        case.outbox.round("pacs")
    assert [uid for uid, _ in service.arrived[4:]] == [third]
    assert case.job().state is State.DELIVERED


def test_a_service_that_goes_away_in_the_middle_gets_the_rest_when_it_is_back(case: Case):
    def answer(uid: str, number: int):
        return well(uid, number) if number < 3 else (503, {}, b"")

    with WebService(answer).listening() as service:
        _reach(case, service.url)
        case.outbox.round("pacs")
    delivery = case.delivery()
    assert (delivery.state, delivery.code, delivery.attempts) == (DeliveryState.PENDING, "web_unavailable", 1)
    assert [row.stored for row in delivery.instances] == [True, True, False, False]
    with WebService().listening() as service:
        _reach(case, service.url)
        case.room.clock.advance(6.0)
        case.outbox.round("pacs")
    assert [uid for uid, _ in service.arrived] == [one.sop_instance_uid for one in case.result.instances[2:]]
    assert case.job().state is State.DELIVERED


def test_an_instance_refused_for_good_fails_when_the_others_are_through(case: Case):
    with WebService(lambda uid, n: (400, {}, b"") if n == 2 else well(uid, n)).listening() as service:
        _reach(case, service.url)
        case.outbox.round("pacs")
    delivery = case.delivery()
    assert [row.stored for row in delivery.instances] == [True, False, True, True]
    assert (delivery.state, delivery.code) == (DeliveryState.FAILED, "store_refused")


def test_a_lost_mark_keeps_everything_here(case: Case):
    path = case.room.paths.jobs / case.key / OUT_FOLDER / case.result.instances[3].path.name
    data = path.read_bytes()
    assert b"SYNTHETIC" in data
    path.write_bytes(data.replace(b"SYNTHETIC", b"ORIGINAL "))
    with WebService().listening() as service:
        _reach(case, service.url)
        case.outbox.round("pacs")
    assert service.requests == []
    assert case.delivery().state is DeliveryState.FAILED


def test_a_token_that_is_missing_for_a_moment_is_waited_for(case: Case, tmp_path: Path):
    token = tmp_path / "token"
    with WebService().listening() as service:
        _reach(case, service.url, dicomweb_token_file=token)
        case.outbox.round("pacs")
        assert (case.delivery().state, case.delivery().code) == (DeliveryState.PENDING, "web_credentials")
        token.write_text("here-now")
        case.room.clock.advance(6.0)
        case.outbox.round("pacs")
    assert {headers["authorization"] for _, headers in service.requests} == {"Bearer here-now"}
    assert case.job().state is State.DELIVERED
