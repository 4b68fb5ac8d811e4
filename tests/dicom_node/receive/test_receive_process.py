"""The receiver as its supervisor sees it: imports, memory, plan, reload, drain, admission, and hostile peers.

Every test runs the real process and talks to it over TCP. Durability (kill, disk full, cut connections) is in
`test_receive_durability`, foreign senders are in `test_receive_dcmtk`.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.sop_class import MRImageStorage, Verification

from dicom_node.errors import NodeError
from dicom_node.ledger.spool import SpoolPaths, bind_poke_socket
from dicom_node.net.scu import EncodedInstance, StoreSession, echo
from dicom_node.receive.plan import Caller
from tests.dicom_node.net.associations import (
    PATIENT_ID,
    PATIENT_NAME,
    association_request,
    ct_dataset,
    wait_until,
    write_series,
)
from tests.dicom_node.receive.receiver_process import PACS, ROOT, ReceiverProcess

LIGHT = """
import sys
import dicom_node.receive.server
heavy = {"pydantic", "torch", "sqlalchemy", "typer", "rich", "highdicom", "scipy", "matplotlib", "SimpleITK", "cv2"}
heavy |= {"dicom_node.settings", "dicom_node.ledger.store", "jmmda_model", "train"}
print(sorted(heavy & set(sys.modules)))
"""


def test_it_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_it_stays_below_100_mib(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "ct", 8, side_px=512)
    with ReceiverProcess(tmp_path / "data") as receiver:
        with StoreSession(receiver.remote, "PACS", {EncodedInstance.read(paths[0]).need}) as session:
            assert all(session.send(path).status == 0 for path in paths)
        status = Path(f"/proc/{receiver.process.pid}/status").read_text()
        assert int(status.split("VmRSS:")[1].split()[0]) < 100 * 1024


def test_without_a_plan_it_ends_with_exit_code_2(tmp_path: Path) -> None:
    for given in (b"", b"nonsense\n"):
        done = subprocess.run(
            [sys.executable, "-m", "dicom_node.receive"], cwd=ROOT, input=given, capture_output=True, timeout=30
        )
        assert done.returncode == 2
        assert b"receiver_plan" in done.stderr


def test_a_port_that_is_taken_is_exit_code_1(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "a") as first:
        plan = replace(first.plan, port=first.port, data_dir=str(tmp_path / "b"))
        done = subprocess.run(
            [sys.executable, "-m", "dicom_node.receive"],
            cwd=ROOT,
            input=plan.to_line().encode(),
            capture_output=True,
            timeout=30,
        )
    assert done.returncode == 1
    assert b"Address already in use" in done.stderr


def test_two_receivers_share_a_port(tmp_path: Path, free_port: int) -> None:
    with (
        ReceiverProcess(tmp_path / "a", port=free_port, share_port=True) as first,
        ReceiverProcess(tmp_path / "b", port=free_port, share_port=True) as second,
    ):
        assert first.port == second.port == free_port

        def served() -> list[int]:
            return [receiver.log.count("closed: 0 stored") for receiver in (first, second)]

        for _ in range(24):
            echo(first.remote, "PACS")
        assert wait_until(lambda: sum(served()) == 24)
        assert min(served()) > 0  # the kernel spreads connections by their ports; 24 in one process: 1 in 10 million


def test_the_folders_are_private(tmp_path: Path) -> None:
    [path] = write_series(tmp_path / "ct", 1)
    with ReceiverProcess(tmp_path / "data") as receiver:
        with StoreSession(receiver.remote, "PACS", {EncodedInstance.read(path).need}) as session:
            session.send(path)
        for entry in [receiver.data_dir, *receiver.data_dir.rglob("*")]:
            assert entry.stat().st_mode & 0o077 == 0, entry


def test_refusals_reach_the_peer_and_the_log_names_both_values(tmp_path: Path) -> None:
    callers = (PACS, Caller("far", ("FAR",), "192.0.2.1"))
    with ReceiverProcess(tmp_path / "data", callers=callers) as receiver:
        for calling, called, diagnostic in (("STRANGER", "JMMDA_NODE", 3), ("FAR", "JMMDA_NODE", 3), ("PACS", "X", 7)):
            with pytest.raises(NodeError) as caught:
                echo(replace(receiver.remote, called_ae_title=called), calling)
            assert caught.value.figures["diagnostic"] == diagnostic
        log = receiver.log
    assert "'STRANGER' from 127.0.0.1 is not in the configuration" in log
    assert "'FAR' called from 127.0.0.1, but the configuration lists it at 192.0.2.1" in log
    assert "called AE title 'X', but ours is 'JMMDA_NODE'" in log


def test_more_associations_than_the_limit_are_told_so(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data", max_associations=2) as receiver:
        entity = AE("PACS")
        entity.add_requested_context(Verification)
        held = [entity.associate("127.0.0.1", receiver.port, ae_title="JMMDA_NODE") for _ in range(2)]
        assert all(assoc.is_established for assoc in held)
        with pytest.raises(NodeError) as caught:
            echo(receiver.remote, "PACS")
        assert caught.value.code == "peer_busy"
        held[0].release()
        assert wait_until(lambda: "closed: 0 stored" in receiver.log)
        echo(receiver.remote, "PACS")
        held[1].release()


def test_a_reload_changes_who_may_call_and_drops_no_association(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "ct", 2)
    with ReceiverProcess(tmp_path / "data") as receiver:
        with StoreSession(receiver.remote, "PACS", {EncodedInstance.read(paths[0]).need}) as session:
            assert session.send(paths[0]).status == 0
            receiver.tell(replace(receiver.plan, callers=(Caller("new", ("NEW",), "127.0.0.1"),)))
            assert receiver.report() == {"event": "reloaded"}
            assert session.send(paths[1]).status == 0
        echo(receiver.remote, "NEW")
        with pytest.raises(NodeError, match="peer_rejected"):
            echo(receiver.remote, "PACS")
        [association] = receiver.associations()
    assert association.outcome == "closed"
    assert len(association.files) == 2


def test_a_reload_that_cannot_be_taken_changes_nothing(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data") as receiver:
        moved = replace(receiver.plan, port=receiver.port + 1, callers=())
        receiver.tell(moved)
        report = receiver.report()
        assert report["event"] == "not_reloaded"
        assert report["code"] == "needs_restart"
        assert "port" in report["reason"]
        assert receiver.process.stdin is not None
        receiver.process.stdin.write(b"{broken\n")
        assert receiver.report()["code"] == "receiver_plan"
        echo(receiver.remote, "PACS")


def test_a_reload_can_raise_the_number_of_associations(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data", max_associations=1) as receiver:
        receiver.tell(replace(receiver.plan, max_associations=60))
        assert receiver.report() == {"event": "reloaded"}
        entity = AE("PACS")
        entity.add_requested_context(Verification)
        held = [entity.associate("127.0.0.1", receiver.port, ae_title="JMMDA_NODE") for _ in range(50)]
        assert all(assoc.is_established for assoc in held)
        for assoc in held:
            assoc.release()


@pytest.mark.parametrize("how", ["signal", "end of input"])
def test_it_drains_what_is_open_and_accepts_nothing_new(tmp_path: Path, how: str) -> None:
    paths = write_series(tmp_path / "ct", 2)
    with ReceiverProcess(tmp_path / "data", drain_s=10.0) as receiver:
        with StoreSession(receiver.remote, "PACS", {EncodedInstance.read(paths[0]).need}) as session:
            assert session.send(paths[0]).status == 0
            if how == "signal":
                receiver.process.send_signal(signal.SIGTERM)
            else:
                assert receiver.process.stdin is not None
                receiver.process.stdin.close()
                receiver.process.stdin = None
            assert receiver.report() == {"event": "draining"}
            time.sleep(0.2)
            with pytest.raises(NodeError) as caught:
                echo(receiver.remote, "PACS", timeout_s=2)
            assert caught.value.code in ("peer_unreachable", "peer_busy", "peer_aborted")
            assert session.send(paths[1]).status == 0
        assert receiver.report() == {"event": "stopped"}
        assert receiver.process.wait(5) == 0
        [association] = receiver.associations()
    assert len(association.files) == 2
    assert association.outcome == "closed"


def test_an_association_that_never_ends_is_aborted_when_draining_takes_too_long(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data", drain_s=0.3) as receiver:
        entity = AE("PACS")
        entity.add_requested_context(Verification)
        assoc = entity.associate("127.0.0.1", receiver.port, ae_title="JMMDA_NODE")
        assert assoc.is_established
        receiver.process.send_signal(signal.SIGTERM)
        assert receiver.process.wait(10) == 0
        assert wait_until(lambda: assoc.is_aborted)


def test_a_terminal_signal_to_the_group_is_the_supervisors_business(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data") as receiver:
        receiver.process.send_signal(signal.SIGINT)
        receiver.process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        echo(receiver.remote, "PACS")


def test_a_peer_without_role_source_may_echo_but_not_store(tmp_path: Path) -> None:
    [path] = write_series(tmp_path / "ct", 1)
    with ReceiverProcess(tmp_path / "data", callers=(replace(PACS, may_store=False),)) as receiver:
        echo(receiver.remote, "PACS")
        with StoreSession(receiver.remote, "PACS", {EncodedInstance.read(path).need}) as session:
            result = session.send(path)
        assert result.status is None
        assert "no presentation context" in result.comment
        assert "'PACS' may not store" in receiver.log
        assert receiver.associations() == []


def test_the_service_is_poked(tmp_path: Path) -> None:
    [path] = write_series(tmp_path / "ct", 1)
    with ReceiverProcess(tmp_path / "data") as receiver:
        listener = bind_poke_socket(SpoolPaths(receiver.data_dir).service_socket)
        listener.settimeout(5)
        with listener, StoreSession(receiver.remote, "PACS", {EncodedInstance.read(path).need}) as session:
            session.send(path)
            assert listener.recv(16) == b"poke"


def test_a_file_name_never_comes_from_the_peer(tmp_path: Path) -> None:
    hostile = ["../../../../etc/cron.d/x", "/etc/passwd", "a/b", "..", "1.2.3\n4", "%2e%2e%2f", "-rf *"]
    with ReceiverProcess(tmp_path / "data") as receiver:
        entity = AE("PACS")
        entity.add_requested_context(CTImageStorage, [ExplicitVRLittleEndian])
        assoc = entity.associate("127.0.0.1", receiver.port, ae_title="JMMDA_NODE")
        assert assoc.is_established
        statuses = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pydicom finds these UIDs invalid, and rightly so
            for number, value in enumerate(hostile):
                statuses.append(assoc.send_c_store(ct_dataset(number, SOPInstanceUID=value)).Status)
        assoc.release()
        assert statuses == [0] * len(hostile)
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".log"]
        spool = SpoolPaths(receiver.data_dir).incoming
        assert all(path.is_relative_to(spool) for path in files)
        names = [path.name for path in files if path.suffix == ".dcm"]
        assert len(names) == len(hostile)
        assert all(set(name) <= set("0123456789abcdef-.dcm") for name in names)


def test_no_patient_data_in_the_log_whatever_arrives(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data", log_level="DEBUG") as receiver:
        entity = AE("PACS")
        entity.add_requested_context(CTImageStorage, [ExplicitVRLittleEndian])
        assoc = entity.associate("127.0.0.1", receiver.port, ae_title="JMMDA_NODE")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pydicom finds these values invalid, and rightly so
            dataset = ct_dataset(1, StudyDate=PATIENT_NAME, SOPInstanceUID=PATIENT_ID)
            assert assoc.send_c_store(dataset).Status == 0
        assoc.release()
        assert wait_until(lambda: "1 stored" in receiver.log)
        for secret in (*PATIENT_NAME.split("^"), PATIENT_ID, "19010203"):
            assert secret not in receiver.log


def test_another_sop_class_than_the_contexts_is_answered_a900(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data") as receiver:
        entity = AE("PACS")
        contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
        assoc = entity.associate("127.0.0.1", receiver.port, contexts, ae_title="JMMDA_NODE")
        # Tell our own side that the context stands for MR, so that it sends an MR object in it.
        assoc._accepted_cx[1]._abstract_syntax = MRImageStorage
        status = assoc.send_c_store(ct_dataset(1, SOPClassUID=MRImageStorage))
        assoc.release()
        assert status.Status == 0xA900
        assert "another SOP class" in receiver.log
        assert receiver.stored() == {}


def open_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_probes_leave_nothing_behind(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data") as receiver:
        pid = receiver.process.pid
        before = open_threads(pid)
        descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        for _ in range(100):
            socket.create_connection(("127.0.0.1", receiver.port)).close()
        assert wait_until(lambda: open_threads(pid) <= before, 10), open_threads(pid)
        assert wait_until(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) <= descriptors + 2, 10)
        echo(receiver.remote, "PACS")


NONSENSE = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
    "all bytes": bytes(range(256)) * 8,
    "4 GiB announced": b"\x01\x00\xff\xff\xff\xff" + bytes(64),
    "data before any association": b"\x04\x00\x00\x00\x00\x10" + bytes(16),
    "a request of zeros": struct.pack(">BBL", 1, 0, 68) + bytes(68),
    "half a request": association_request("PACS", "JMMDA_NODE", CTImageStorage, [])[:-4],
}


def test_nonsense_neither_stops_nor_fills_it(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data") as receiver:
        pid = receiver.process.pid
        before = open_threads(pid)
        for name, nonsense in NONSENSE.items():
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
                    connection.sendall(nonsense)
            assert wait_until(lambda: open_threads(pid) <= before, 10), (name, open_threads(pid))
        echo(receiver.remote, "PACS")
        assert receiver.process.poll() is None


def test_a_context_without_transfer_syntax_does_not_hang_the_request(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data") as receiver:
        with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
            connection.settimeout(5)
            connection.sendall(association_request("PACS", "JMMDA_NODE", CTImageStorage, []))
            assert connection.recv(1) in (b"\x02", b"\x03", b"\x07", b"")
        echo(receiver.remote, "PACS")


def test_a_sender_that_drips_is_cut_off_and_holds_nobody_up(tmp_path: Path) -> None:
    with (
        ReceiverProcess(tmp_path / "data", network_timeout_s=0.6, acse_timeout_s=0.6) as receiver,
        socket.create_connection(("127.0.0.1", receiver.port)) as connection,
    ):
        connection.settimeout(10)
        request = association_request("PACS", "JMMDA_NODE", CTImageStorage, [ImplicitVRLittleEndian])
        stop = threading.Event()

        def drip() -> None:
            for byte in request:
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return
                if stop.wait(0.05):
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        echo(receiver.remote, "PACS")
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) in (b"", b"\x07")
        assert time.monotonic() - began < 5
        stop.set()
        thread.join()


def test_a_data_set_without_end_is_cut_off(tmp_path: Path) -> None:
    [path] = write_series(tmp_path / "ct", 1, side_px=1024)  # 2 MiB
    with ReceiverProcess(tmp_path / "data", max_message_bytes=1024**2) as receiver:
        with StoreSession(receiver.remote, "PACS", {EncodedInstance.read(path).need}) as session:
            result = session.send(path)
        assert result.status is None
        assert session.lost is not None
        assert receiver.stored() == {}
        echo(receiver.remote, "PACS")
