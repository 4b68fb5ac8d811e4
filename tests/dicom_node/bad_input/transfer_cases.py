"""Bad input on the wire: associations, connections, commands and contexts."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Callable
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage, Verification

from dicom_node.net.scu import echo
from tests.dicom_node.bad_input.bad_node import GOOD, BadNode, as_instance, data_set_bytes, raw_instance
from tests.dicom_node.bad_input.case_table import SENDER, SLICES_MISSING, Look, Table, whole
from tests.dicom_node.net.associations import association_request, pdata, store_command
from tests.dicom_node.node_cases import SOURCE_AE

TRANSFER: Final = Table("Transfer")


# --- associations and connections --------------------------------------------------------------------------------


@TRANSFER.case("a C-ECHO and nothing else", "answers it; nothing is written", answers=("accepted",), ends={})
def _echo(node: BadNode) -> None:
    node.call(lambda: echo(node.receiver.remote, SOURCE_AE))


@TRANSFER.case("TCP connections that open and close without a word", "closes its side", answers=(), ends={})
def _open_and_close(node: BadNode) -> None:
    for _ in range(20):
        with node.line():
            pass


@TRANSFER.case(
    "an association from an AE title that no peer lists",
    "rejects it; the log names title and address",
    advice="add the title to `ae_titles` of the peer, or correct the sender",
    answers=("peer_rejected",),
    ends={},
)
def _stranger(node: BadNode) -> None:
    node.call(lambda: echo(node.receiver.remote, "STRANGER"))


@TRANSFER.case(
    "the peer aborts in the middle and comes back with the rest",
    "keeps what it acknowledged, and waits for the rest",
)
def _abort_then_rest(node: BadNode) -> Look:
    _abort_after(node, node.stack(6))
    node.send(node.stack(GOOD - 6, start=6))
    return lambda: whole(node)


@TRANSFER.case(
    "the peer aborts in the middle and comes back with all of it",
    "keeps the first copies and drops the second ones, which is noted",
)
def _abort_then_all(node: BadNode) -> Look:
    _abort_after(node, node.stack(6))
    node.send(node.stack())
    return lambda: whole(node)


@TRANSFER.case(
    "the peer aborts in the middle and does not come back",
    "judges what it has once the quiet timer has run out",
    advice=SLICES_MISSING,
    ends="REFUSED coverage",
)
def _abort_for_good(node: BadNode) -> None:
    _abort_after(node, node.stack(10))


@TRANSFER.case(
    "the connection is cut inside a P-DATA, and the sender tries again",
    "keeps nothing of the unfinished instance, which it never acknowledged",
)
def _cut(node: BadNode) -> Look:
    first, *rest = node.stack()
    data = data_set_bytes(first)
    with node.raw_association() as connection:
        connection.sendall(pdata(0x03, store_command(first.SOPInstanceUID)) + pdata(0x02, data)[:-40])
    node.quiet()
    assert not list(node.room.paths.incoming.rglob("*.dcm"))
    node.send([first, *rest])
    return lambda: whole(node)


@TRANSFER.case("one association for every instance", "puts the series together by its UIDs")
def _one_each(node: BadNode) -> Look:
    for dataset in node.stack():
        node.send([dataset])
    return lambda: whole(node)


@TRANSFER.case(
    "the same series over two associations at once",
    "keeps one copy of each instance, whichever comes first",
)
def _twice_at_once(node: BadNode) -> Look:
    forth, back = node.stack(), node.stack()[::-1]
    second = threading.Thread(target=node.send, args=(back,))
    second.start()
    node.send(forth)
    second.join()
    return lambda: whole(node)


@TRANSFER.case(
    "two series interleaved on one association",
    "sorts them by their UIDs and chooses one",
    ends={"series": "QUEUED", "thin": "SKIPPED not_preferred"},
)
def _interleaved(node: BadNode) -> Look:
    both = zip(node.stack(), node.stack(series="thin", SeriesDescription="THIN", SeriesNumber="9"), strict=True)
    node.send([dataset for pair in both for dataset in pair])
    return lambda: whole(node)


@TRANSFER.case(
    "more associations than `max_associations`",
    "rejects those above the limit as busy, for as long as it is reached",
    advice="nothing, if the sender tries again; else raise `[node] max_associations`",
    answers=("accepted", "peer_busy"),
    ends={},
)
def _too_many(node: BadNode) -> None:
    entity = AE(SOURCE_AE)
    entity.add_requested_context(Verification)
    with node.plan(max_associations=1):
        held = entity.associate("127.0.0.1", node.receiver.port, ae_title="JMMDA_NODE")
        node.call(lambda: echo(node.receiver.remote, SOURCE_AE))
        held.release()
    node.call(lambda: echo(node.receiver.remote, SOURCE_AE))


@TRANSFER.case(
    "an association that stays open in silence after a whole series",
    "gives it up after the network time-out; what was acknowledged is judged",
    advice=SENDER,
    answers=("0x0000", "connection lost"),
)
def _idle(node: BadNode) -> None:
    instances = [as_instance(dataset) for dataset in node.stack()]
    with node.other_receiver(network_timeout_s=0.5), node.session(instances) as session:
        for instance in instances:
            node.offer(session, instance)
        node.quiet()
        node.offer(session, instances[0])


@TRANSFER.case(
    "an association that never ends: a slice now and then, whatever the timers say",
    "takes the series as complete at `[intake] hard_cap_s` and processes what is there",
    advice="nothing; a slice that comes later makes a new result",
)
def _never_ends(node: BadNode) -> Look:
    instances = [as_instance(dataset) for dataset in node.stack()]
    intake = node.room.settings.intake
    with node.session(instances) as session:
        for instance in instances:
            node.offer(session, instance)
            node.room.round(after_s=intake.quiet_s * 0.9)
        assert node.ends() == {"series": "RECEIVING"}
        node.room.round(after_s=intake.hard_cap_s)
    return lambda: _signs(node, "hard_cap")


# --- senders that are no DICOM ------------------------------------------------------------------------------------

_NOISE: Final = {
    "random bytes": bytes((37 * k * k + 11) % 256 for k in range(4096)),
    "another protocol": b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
    "data before any association": b"\x04\x00\x00\x00\x00\x10" + bytes(16),
    "a request of zeros": struct.pack(">BBL", 1, 0, 68) + bytes(68),
    "4 GiB announced for a request": b"\x01\x00\xff\xff\xff\xff" + bytes(64),
}


@TRANSFER.case(
    "random bytes, another protocol, PDUs out of order, a request that announces 4 GiB",
    "closes the connection",
    advice="find out who scans the network",
    answers=("connection closed",),
    ends={},
)
def _noise(node: BadNode) -> None:
    for noise in _NOISE.values():
        with node.line() as connection:
            connection.sendall(noise)
            node.until_closed(connection)


@TRANSFER.case(
    "a P-DATA that announces 4 GiB within an association",
    "closes the connection; nothing is kept of the instance",
    advice=SENDER,
    answers=("connection closed",),
    ends={},
)
def _huge_pdu(node: BadNode) -> None:
    with node.raw_association() as connection:
        connection.sendall(pdata(0x03, store_command("1.2.3")) + b"\x04\x00\xff\xff\xff\xff" + bytes(4096))
        node.until_closed(connection)


@TRANSFER.case(
    "a data set that goes on beyond the largest message",
    "closes the connection at the limit; nothing is kept of the instance",
    advice=SENDER,
    answers=("connection lost",),
    ends={},
)
def _endless(node: BadNode) -> None:
    [dataset] = node.stack(1)
    dataset.add_new((0x0009, 0x0010), "LO", "INVENTED")
    dataset.add_new((0x0009, 0x1001), "OB", bytes(1_000_000))
    with node.plan(max_message_bytes=200_000):
        node.send([dataset])


@TRANSFER.case(
    "a sender that drips: an association request byte by byte, a P-DATA that never ends",
    "closes the connection when a PDU takes longer than the network time-out",
    advice=SENDER,
    answers=("connection closed",),
    ends={},
)
def _drip(node: BadNode) -> None:
    request = association_request(SOURCE_AE, "JMMDA_NODE", CTImageStorage, [ExplicitVRLittleEndian])
    with node.plan(network_timeout_s=0.3, acse_timeout_s=0.3):
        with node.line() as connection:
            _trickle(connection.sendall, request)
            node.until_closed(connection)
        with node.raw_association() as connection:
            connection.sendall(pdata(0x03, store_command("1.2.3")))
            _trickle(connection.sendall, pdata(0x00, bytes(4096)))
            node.until_closed(connection)


def _trickle(say: Callable[[bytes], None], data: bytes) -> None:
    pause = threading.Event()
    with contextlib.suppress(ConnectionError):
        for byte in data[:16]:
            say(bytes([byte]))
            pause.wait(0.04)


# --- commands and contexts -----------------------------------------------------------------------------------------


@TRANSFER.case(
    "private SOP classes among the CT contexts",
    "refuses the private contexts and takes what comes in the others",
    answers=("0x0000", "context refused"),
)
def _private_class(node: BadNode) -> Look:
    foreign = [raw_instance(b"\0" * 16, sop_instance_uid="1.2.3", sop_class_uid="1.3.12.2.1107.5.9.1")]
    node.send([*foreign, *node.stack()])
    return lambda: whole(node)


@TRANSFER.case(
    "an instance in the context of another SOP class",
    "refuses the instance",
    advice=SENDER,
    answers=("0x0000", "0xA900"),
)
def _wrong_context(node: BadNode) -> None:
    good, odd = node.stack(), as_instance(node.stack(1, start=GOOD)[0])
    with node.session([odd]) as session:
        # The same context, under which our own side now sends another class.
        session._accepted[str(MRImageStorage), odd.need[1]] = session._accepted[odd.need]
        node.offer(session, raw_instance(data_set_bytes(good[0]), sop_instance_uid="1.2", sop_class_uid=MRImageStorage))
    node.send(good)


@TRANSFER.case("a C-STORE without a data set", "refuses the instance", advice=SENDER, answers=("0xC000",), ends={})
def _no_data_set(node: BadNode) -> None:
    command = store_command("1.2.3", data_set=False)
    with node.raw_association() as connection:
        connection.sendall(pdata(0x03, command))
        node.heard.add(f"0x{_status_in(connection.recv(4096)):04X}")


@TRANSFER.case(
    "requests whose SOP Instance UID is malformed or a path, over sound data sets",
    "names files by hashes, and goes by the UIDs in the data sets",
)
def _hostile_request(node: BadNode) -> Look:
    hostile = ["../../../etc/cron.d/x", "/etc/passwd", "a/b", "..", "1.2.3\n4", "%2e%2e%2f", "-rf *", "1..2", "."]
    stack = node.stack()
    names = [*hostile, *("1.2" for _ in stack[len(hostile) :])]
    pairs = zip(stack, names, strict=True)
    node.send([raw_instance(data_set_bytes(dataset), sop_instance_uid=name) for dataset, name in pairs])
    return lambda: whole(node)


@TRANSFER.case(
    "a request whose SOP Instance UID has more than 64 characters",
    "aborts the association; nothing is kept of the instance",
    advice=SENDER,
    answers=("connection closed", "0x0000"),
)
def _long_request(node: BadNode) -> None:
    first, *rest = node.stack()
    with node.raw_association() as connection:
        connection.sendall(pdata(0x03, store_command("1.2." + "3" * 80)) + pdata(0x02, data_set_bytes(first)))
        node.until_closed(connection)
    node.send([first, *rest])


def _status_in(answer: bytes) -> int:
    """Status of a C-STORE response in the one PDU that carries it (PS3.7 9.3.1.2)."""
    tag = struct.pack("<HHL", 0x0000, 0x0900, 2)
    place = answer.index(tag) + len(tag)
    return int(struct.unpack_from("<H", answer, place)[0])


# --- looks ---------------------------------------------------------------------------------------------------------


def _abort_after(node: BadNode, datasets: list[Dataset]) -> None:
    instances = [as_instance(dataset) for dataset in datasets]
    with contextlib.suppress(_AbortError), node.session(instances) as session:
        for instance in instances:
            node.offer(session, instance)
        raise _AbortError
    node.quiet()
    assert [one.outcome for one in node.receiver.associations()] == ["aborted"]


class _AbortError(Exception):
    """Leaving a session by an exception aborts its association."""


def _signs(node: BadNode, sign: str) -> None:
    assert sign in node.row().signs
    whole(node)
