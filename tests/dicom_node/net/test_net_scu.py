"""Echo and store as requestor, against pynetdicom's acceptor and against peers that misbehave.

Covers every way in which an association does not come about, statuses and their classes, re-encoding for peers that
take little, and that the bytes that arrive are those of the file. Resuming a delivery is left to `test_sender`, DCMTK's
storescp to `test_receive_dcmtk`.
"""

from __future__ import annotations

import socket
import threading
import time
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)
from pynetdicom import evt

from dicom_node.errors import NodeError, Permanent, Transient
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession, echo
from dicom_node.net.status import StoreCategory, categorise, meaning
from tests.dicom_node.net.associations import raw_server, storage_scp, write_series


def never(event: evt.Event) -> int:
    raise AssertionError("nothing was to be stored")


def failure_of(peer: Remote, calling_ae: str = "JMMDA_NODE", timeout_s: float = 5.0) -> NodeError:
    with pytest.raises(NodeError) as caught:
        echo(peer, calling_ae, timeout_s=timeout_s)
    return caught.value


def test_an_echo_that_is_answered() -> None:
    with storage_scp(never) as peer:
        result = echo(peer, "JMMDA_NODE")
    assert 0 < result.round_trip_s < 5
    assert result.implementation.startswith("PYNETDICOM")


def test_nobody_listens(free_port: int) -> None:
    error = failure_of(Remote("pacs", "PACS", "127.0.0.1", free_port))
    assert isinstance(error, Transient)
    assert error.code == "peer_unreachable"
    assert f"peer unreachable 127.0.0.1:{free_port}" in error.reason


def test_a_name_that_does_not_resolve() -> None:
    error = failure_of(Remote("pacs", "PACS", "no-such-host.invalid", 104))
    assert error.code == "peer_unreachable"
    assert "no-such-host.invalid:104" in error.reason


def test_a_peer_without_a_port_cannot_be_called() -> None:
    error = failure_of(Remote("ct", "CT1", "127.0.0.1", None))
    assert isinstance(error, Permanent)
    assert error.code == "peer_without_port"


def test_our_title_is_not_known_there() -> None:
    with storage_scp(never, calling="SOMEBODY") as peer:
        error = failure_of(peer)
    assert error.code == "peer_rejected"
    assert "'JMMDA_NODE'" in error.reason
    assert "ask the PACS administrator to add it" in error.reason
    assert error.figures["diagnostic"] == 3


def test_the_peer_has_another_title() -> None:
    with storage_scp(never, ae_title="OTHER") as peer:
        error = failure_of(Remote("pacs", "PACS", peer.host, peer.port))
    assert error.code == "peer_rejected"
    assert "correct the first of ae_titles of peer 'pacs'" in error.reason


def test_a_peer_that_is_silent() -> None:
    with raw_server(lambda connection: None) as peer:
        error = failure_of(peer, timeout_s=0.4)
    assert error.code == "peer_aborted"
    assert "no association" in error.reason


def test_a_peer_that_hangs_up() -> None:
    with raw_server(lambda connection: connection.shutdown(socket.SHUT_RDWR)) as peer:
        assert failure_of(peer).code == "peer_aborted"


def test_a_peer_that_speaks_something_else() -> None:
    with raw_server(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8)) as peer:
        assert failure_of(peer).code == "peer_aborted"


def test_a_peer_that_announces_an_endless_answer() -> None:
    with raw_server(lambda connection: connection.sendall(b"\x02\0\xff\xff\xff\xff")) as peer:
        assert failure_of(peer).code == "peer_aborted"


@pytest.mark.parametrize(
    ("status", "category"),
    [
        (0x0000, StoreCategory.SUCCESS),
        (0xB000, StoreCategory.WARNING),
        (0xB007, StoreCategory.WARNING),
        (0x0111, StoreCategory.WARNING),
        (0xA700, StoreCategory.TRANSIENT),
        (0xA7FF, StoreCategory.TRANSIENT),
        (0x0110, StoreCategory.TRANSIENT),
        (0xA900, StoreCategory.PERMANENT),
        (0xC123, StoreCategory.PERMANENT),
        (0x0122, StoreCategory.PERMANENT),
        (0x0124, StoreCategory.PERMANENT),
        (0x7777, StoreCategory.PERMANENT),
    ],
)
def test_what_a_status_asks_of_us(status: int, category: StoreCategory) -> None:
    assert categorise(status) is category
    assert meaning(status)
    assert category.is_stored == (category in (StoreCategory.SUCCESS, StoreCategory.WARNING))


def test_the_bytes_that_arrive_are_those_of_the_file(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 3, side_px=300)  # 180 kB: several PDUs
    received: dict[str, bytes] = {}

    def store(event: evt.Event) -> int:
        received[event.request.AffectedSOPInstanceUID] = event.encoded_dataset(include_meta=False)
        return 0

    instances = [EncodedInstance.read(path) for path in paths]
    with storage_scp(store) as peer:
        with StoreSession(peer, "JMMDA_NODE", {instance.need for instance in instances}) as session:
            results = [session.send(path) for path in paths]
        assert session.lost is None
    assert [result.status for result in results] == [0, 0, 0]
    assert [result.category for result in results] == [StoreCategory.SUCCESS] * 3
    for instance in instances:
        assert received[instance.head.sop_instance_uid] == instance.data[instance.head.data_set_offset :]


def test_only_what_is_needed_is_proposed(tmp_path: Path) -> None:
    [path] = write_series(tmp_path, 1)
    proposed: list[tuple[str, list[str]]] = []

    def requested(event: evt.Event) -> None:
        contexts = event.assoc.requestor.primitive.presentation_context_definition_list
        proposed.extend((str(context.abstract_syntax), list(context.transfer_syntax)) for context in contexts)

    handlers = [(evt.EVT_REQUESTED, requested)]
    with (
        storage_scp(lambda event: 0, handlers=handlers) as peer,
        StoreSession(peer, "JMMDA_NODE", {EncodedInstance.read(path).need}) as session,
    ):
        session.send(path)
    assert proposed == [
        (CTImageStorage, [ExplicitVRLittleEndian]),
        (CTImageStorage, [ImplicitVRLittleEndian]),
    ]


def test_a_peer_that_takes_implicit_vr_only_gets_it(tmp_path: Path) -> None:
    [path] = write_series(tmp_path, 1)
    received = []

    def store(event: evt.Event) -> int:
        received.append((event.context.transfer_syntax, event.dataset))
        return 0

    with (
        storage_scp(store, syntaxes=[ImplicitVRLittleEndian]) as peer,
        StoreSession(peer, "JMMDA_NODE", {EncodedInstance.read(path).need}) as session,
    ):
        assert session.send(path).status == 0
    [(syntax, dataset)] = received
    assert syntax == ImplicitVRLittleEndian
    assert dataset == pydicom.dcmread(path)


def test_no_context_is_a_result_and_not_an_exception(tmp_path: Path) -> None:
    [path] = write_series(tmp_path, 1)
    instance = EncodedInstance.read(path)
    for options in ({"syntaxes": [ExplicitVRBigEndian]}, {"sop_class": MRImageStorage}, {"sop_class": ""}):
        with (
            storage_scp(never, **options) as peer,
            StoreSession(peer, "JMMDA_NODE", {instance.need}) as session,
        ):
            result = session.send_encoded(instance)
        assert result.status is None
        assert result.category is StoreCategory.PERMANENT
        assert "no presentation context for CT Image Storage in Explicit VR Little Endian" in result.comment


def test_statuses_come_back_instance_by_instance(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 4)
    answers = iter([0x0000, 0xA700, 0xB000, 0xC000])
    with (
        storage_scp(lambda event: next(answers)) as peer,
        StoreSession(peer, "JMMDA_NODE", {EncodedInstance.read(paths[0]).need}) as session,
    ):
        results = [session.send(path) for path in paths]
    assert [result.status for result in results] == [0x0000, 0xA700, 0xB000, 0xC000]
    assert [result.category.is_stored for result in results] == [True, False, True, False]


class _Lingering(threading.Event):
    """A checkpoint at which a busy machine takes the processor away from pynetdicom's reactor."""

    def wait(self, timeout: float | None = None) -> bool:
        passed = super().wait(timeout)
        time.sleep(0.05)
        return passed


def test_an_answer_that_the_reactor_takes_is_given_back(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 4)
    with storage_scp(lambda event: 0x0000) as peer:
        need = EncodedInstance.read(paths[0]).need
        with StoreSession(peer, "JMMDA_NODE", {need}, timeout_s=3) as session:
            assert session._assoc is not None
            checkpoint = _Lingering()
            checkpoint.set()
            session._assoc._reactor_checkpoint = checkpoint
            # The thread that waits for the answer is as slow, so that the reactor comes first.
            at_once = session._assoc.dimse.get_msg

            def late(block: bool = False) -> object:
                time.sleep(0.15 if block else 0.0)
                return at_once(block=block)

            session._assoc.dimse.get_msg = late
            time.sleep(0.1)
            assert [session.send(path).status for path in paths] == [0, 0, 0, 0]


def test_a_peer_that_aborts_in_the_middle(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 3)

    def store(event: evt.Event) -> int:
        if event.request.MessageID == 2:
            event.assoc.abort()
        return 0

    with (
        storage_scp(store) as peer,
        StoreSession(peer, "JMMDA_NODE", {EncodedInstance.read(paths[0]).need}) as session,
    ):
        results = [session.send(path) for path in paths]
    assert [result.status for result in results] == [0, None, None]
    assert results[1].category is results[2].category is StoreCategory.TRANSIENT
    assert session.lost is not None
    assert session.lost.code == "peer_aborted"


def test_a_peer_that_stalls(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 2)
    import threading

    release = threading.Event()

    def store(event: evt.Event) -> int:
        if event.request.MessageID == 2:
            release.wait(10)
        return 0

    with storage_scp(store) as peer:
        with StoreSession(peer, "JMMDA_NODE", {EncodedInstance.read(paths[0]).need}, timeout_s=0.5) as session:
            results = [session.send(path) for path in paths]
        release.set()
    assert [result.status for result in results] == [0, None]
    assert session.lost is not None
    assert session.lost.code == "peer_silent"
    assert "within 0.5 s" in session.lost.reason


def test_a_file_that_is_no_dicom_file(tmp_path: Path) -> None:
    bad = tmp_path / "x.dcm"
    bad.write_bytes(b"no DICOM" * 100)
    with pytest.raises(Permanent, match="prefix DICM"):
        EncodedInstance.read(bad)


def test_the_converted_object_keeps_its_elements(tmp_path: Path) -> None:
    from dicom_node.net.scu import _encode_as

    [path] = write_series(tmp_path, 1)
    instance = EncodedInstance.read(path)
    converted = _encode_as(instance, str(ImplicitVRLittleEndian))
    assert converted.head.transfer_syntax_uid == ImplicitVRLittleEndian
    assert converted.head.sop_instance_uid == instance.head.sop_instance_uid
    assert pydicom.dcmread(BytesIO(converted.data)) == pydicom.dcmread(path)
