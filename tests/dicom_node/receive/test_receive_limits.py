"""Limits of one peer, and the journal of those who were turned away, on a real receiver process.

Covers associations at once, PDU size and silence of a peer beside those of the node, and that a refusal is in log and
journal with both values. The rules themselves: `test_receive_policy`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from dicom_node.errors import NodeError
from dicom_node.ledger.refusals import read_refusals
from dicom_node.net.scu import echo
from dicom_node.receive.plan import Caller
from tests.dicom_node.net.associations import association_request, wait_until
from tests.dicom_node.receive.receiver_process import ReceiverProcess

CALLERS = (
    Caller("few", ("FEW", "FEW2"), "127.0.0.1", max_associations=2, max_pdu_bytes=16384, network_timeout_s=0.5),
    Caller("many", ("MANY",), "127.0.0.1"),
    Caller("away", ("AWAY",), "192.0.2.1", further_hosts=("192.0.2.2", "10.9.0.0/16")),
)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    folder = tmp_path_factory.mktemp("receiver")
    with ReceiverProcess(folder / "data", callers=CALLERS, max_associations=4, max_pdu_bytes=65536) as process:
        yield process


def opened(receiver: ReceiverProcess, title: str) -> Association:
    entity = AE(title)
    entity.add_requested_context(Verification)
    entity.acse_timeout = 5
    return entity.associate("127.0.0.1", receiver.port, ae_title="JMMDA_NODE")


def refusals(receiver: ReceiverProcess) -> dict[str, str]:
    return {one.refusal.code: one.refusal.reason for one in read_refusals(receiver.data_dir / "run")}


def test_a_peer_has_a_limit_of_its_own_that_costs_nobody_else(tmp_path: Path) -> None:
    callers = (Caller("few", ("FEW", "FEW2"), "127.0.0.1", max_associations=2), CALLERS[1])
    with ReceiverProcess(tmp_path / "data", callers=callers, max_associations=4) as receiver:
        held = [opened(receiver, "FEW"), opened(receiver, "FEW2")]
        assert all(assoc.is_established for assoc in held)
        third = opened(receiver, "FEW")
        assert third.is_rejected
        assert (third.acceptor.primitive.result_source, third.acceptor.primitive.diagnostic) == (3, 2)
        reason = refusals(receiver)["peer_busy"]
        assert "'FEW' at 127.0.0.1: 2 associations are open, max_associations of peer 'few' is 2" in reason

        held += [opened(receiver, "MANY"), opened(receiver, "MANY")]
        assert all(assoc.is_established for assoc in held)
        assert opened(receiver, "MANY").is_rejected
        assert "4 associations are open, max_associations of [node]" in refusals(receiver)["busy"]

        held[0].release()
        held[1].abort()
        assert wait_until(lambda: opened_and_released(receiver, "FEW"))
        for assoc in held[2:]:
            assoc.release()


def opened_and_released(receiver: ReceiverProcess, title: str) -> bool:
    assoc = opened(receiver, title)
    if assoc.is_established:
        assoc.release()
    return bool(assoc.is_released)


def test_connections_that_vanish_while_they_are_answered_leave_no_place_taken(receiver: ReceiverProcess) -> None:
    request = association_request("FEW", "JMMDA_NODE", str(Verification), ["1.2.840.10008.1.2"])
    for _ in range(10):
        connection = socket.create_connection(("127.0.0.1", receiver.port))
        connection.sendall(request)
        connection.close()
    assert wait_until(lambda: opened_and_released(receiver, "FEW"))


def test_a_peer_has_a_pdu_size_of_its_own(receiver: ReceiverProcess) -> None:
    sizes = {}
    for title in ("FEW", "MANY"):
        assert wait_until(lambda title=title: opened_and_released(receiver, title))
        assoc = opened(receiver, title)
        sizes[title] = assoc.acceptor.maximum_length
        assoc.release()
    assert sizes == {"FEW": 16384, "MANY": 65536}


def test_a_silent_peer_is_left_after_its_own_time(receiver: ReceiverProcess) -> None:
    """The node's time is 60 s, the peer's half a second."""
    assert wait_until(lambda: opened_and_released(receiver, "FEW"))
    few, many = opened(receiver, "FEW"), opened(receiver, "MANY")
    assert wait_until(lambda: few.is_aborted, 20)
    assert many.is_established
    many.release()


def test_a_refusal_is_kept_with_both_values(receiver: ReceiverProcess) -> None:
    for calling, called in (("MANY", "OTHER"), ("NOBODY", "JMMDA_NODE"), ("AWAY", "JMMDA_NODE")):
        entity = AE(calling)
        entity.add_requested_context(Verification)
        assert entity.associate("127.0.0.1", receiver.port, ae_title=called).is_rejected
    ours = ("MANY", "NOBODY", "AWAY")
    found = (one.refusal for one in read_refusals(receiver.data_dir / "run"))
    kept = {one.code: one.reason for one in found if one.calling_ae in ours}
    assert "called AE title 'OTHER', but ours is 'JMMDA_NODE'" in kept["called_ae"]
    assert "AE title 'NOBODY' from 127.0.0.1 is not in the configuration" in kept["calling_ae"]
    expected = "called from 127.0.0.1, but the configuration lists it at 192.0.2.1 and 192.0.2.2 and 10.9.0.0/16"
    assert expected in kept["calling_host"]
    for code in ("called_ae", "calling_ae", "calling_host"):
        assert f"association rejected: {kept[code]}" in receiver.log


def test_the_same_refusal_is_counted(receiver: ReceiverProcess) -> None:
    for _ in range(3):
        with pytest.raises(NodeError):
            echo(receiver.remote, "AGAIN")
        time.sleep(0.01)
    (again,) = [one for one in read_refusals(receiver.data_dir / "run") if one.refusal.calling_ae == "AGAIN"]
    assert again.count == 3
    assert again.first_at < again.last_at
