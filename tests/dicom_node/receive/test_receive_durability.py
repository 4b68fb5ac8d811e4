"""What was acknowledged is on disk, and nothing half-written is visible, whatever dies or fills up.

Covers kill -9 in the middle of a transfer, cut connections, aborts, a full disk and the free-space guard, on the real
process and a real file system. A power cut is left out: `test_each_answer_comes_after_its_fsyncs` shows that fsync is
called before the answer; what the disk does with it is the disk's business.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from dicom_node.errors import NodeError
from dicom_node.net.remote import Remote
from dicom_node.net.scu import EncodedInstance, StoreSession, echo
from dicom_node.net.status import StoreCategory
from tests.dicom_node.net.associations import (
    association_request,
    ct_dataset,
    pdata,
    store_command,
    wait_until,
    write_series,
)
from tests.dicom_node.receive.receiver_process import ROOT, ReceiverProcess


def test_every_acknowledged_instance_survives_kill_9(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "ct", 40, side_px=128)
    need = EncodedInstance.read(paths[0]).need
    acknowledged: list[str] = []
    for round_number in range(4):
        with ReceiverProcess(tmp_path / "data") as receiver:
            # The moment of the kill is not chosen by us: it falls where it falls, in transfer, write, fsync or rename.
            killer = threading.Timer(0.04 + 0.05 * round_number, receiver.process.send_signal, (signal.SIGKILL,))
            with contextlib.suppress(NodeError), StoreSession(receiver.remote, "PACS", {need}, timeout_s=5) as session:
                killer.start()
                for path in paths:
                    result = session.send(path)
                    if result.status != 0:
                        break
                    acknowledged.append(result.sop_instance_uid)
            killer.join()
            assert receiver.process.wait(5) == -signal.SIGKILL
    assert acknowledged
    with ReceiverProcess(tmp_path / "data") as receiver:
        stored = receiver.stored()
        assert set(acknowledged) <= set(stored)
        files = sum(len(found) for found in stored.values())
        assert len(acknowledged) <= files <= len(acknowledged) + 4  # one a round may be on disk without its answer
        assert all(association.outcome == "aborted" for association in receiver.associations())


def test_what_was_sent_again_after_a_kill_is_complete(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "ct", 6)
    need = EncodedInstance.read(paths[0]).need
    with (
        ReceiverProcess(tmp_path / "data") as receiver,
        StoreSession(receiver.remote, "PACS", {need}, timeout_s=5) as session,
    ):
        for path in paths[:3]:
            assert session.send(path).status == 0
        receiver.process.kill()
        receiver.process.wait()
        assert session.send(paths[3]).category is StoreCategory.TRANSIENT
    with ReceiverProcess(tmp_path / "data") as receiver:
        with StoreSession(receiver.remote, "PACS", {need}) as session:
            assert [session.send(path).status for path in paths[3:]] == [0, 0, 0]
        assert {len(found) for found in receiver.stored().values()} == {1}
        assert len(receiver.stored()) == 6
        assert [association.outcome for association in receiver.associations()] == ["aborted", "closed"]


def test_an_abort_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    with ReceiverProcess(tmp_path / "data") as receiver:
        entity = AE("PACS")
        entity.add_requested_context(CTImageStorage, [ExplicitVRLittleEndian])
        assoc = entity.associate("127.0.0.1", receiver.port, ae_title="JMMDA_NODE")
        assert assoc.send_c_store(ct_dataset(1)).Status == 0
        assoc.abort()
        assert wait_until(lambda: "aborted: 1 stored" in receiver.log)
        [association] = receiver.associations()
        assert association.outcome == "aborted"
        assert list(receiver.stored()) == [ct_dataset(1).SOPInstanceUID]


@pytest.mark.parametrize("cut", ["inside a PDU", "between two PDUs", "after the command"])
def test_a_connection_cut_inside_a_data_set_leaves_nothing(tmp_path: Path, cut: str) -> None:
    data = ct_dataset(1).PixelData * 8
    first, second = pdata(0x00, data[:2000]), pdata(0x02, data[2000:])
    sent = {
        "inside a PDU": first + second[:900],
        "between two PDUs": first,
        "after the command": b"",
    }[cut]
    with ReceiverProcess(tmp_path / "data") as receiver:
        with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
            connection.settimeout(5)
            connection.sendall(association_request("PACS", "JMMDA_NODE", CTImageStorage, [ExplicitVRLittleEndian]))
            assert connection.recv(1) == b"\x02"
            connection.sendall(pdata(0x03, store_command("1.2.3")) + sent)
        assert wait_until(lambda: "aborted: 0 stored" in receiver.log)
        assert list(receiver.data_dir.rglob("*.dcm")) == []
        assert receiver.leftovers() == []
        assert receiver.associations() == []
        echo(receiver.remote, "PACS")


@contextlib.contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[Path]:
    """A file system of a few hundred KiB; skips where it cannot be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_answered_a700_and_leaves_no_partial_file(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "ct", 12, side_px=128)  # 32 KiB each
    with (
        small_disk(tmp_path / "disk", 256) as disk,
        # A negative reserve switches the guard off, so that it is the kernel that says no.
        ReceiverProcess(disk / "data", log=tmp_path / "log", min_free_bytes=-(1024**3)) as receiver,
    ):
        need = EncodedInstance.read(paths[0]).need
        with StoreSession(receiver.remote, "PACS", {need}) as session:
            results = [session.send(path) for path in paths]
            statuses = [result.status for result in results]
            assert set(statuses) == {0x0000, 0xA700}
            assert receiver.leftovers() == []
            stored = receiver.stored()
            assert set(stored) >= {result.sop_instance_uid for result in results if result.status == 0}
            for path in next(iter(stored.values())) + list(stored.values())[1] + list(stored.values())[2]:
                path.unlink()  # somebody makes room
            again = [path for path, status in zip(paths, statuses, strict=True) if status != 0][:2]
            assert [session.send(path).status for path in again] == [0, 0]
        assert "No space left on device" in receiver.log
        assert receiver.leftovers() == []


def test_a_limit_on_file_size_is_answered_a700(tmp_path: Path) -> None:
    small = write_series(tmp_path / "small", 1)
    large = write_series(tmp_path / "large", 1, side_px=256)  # 128 KiB
    wrapper = [sys.executable, "-c", _LIMITED]
    with ReceiverProcess(tmp_path / "data", wrapper=wrapper) as receiver:
        with StoreSession(receiver.remote, "PACS", {EncodedInstance.read(small[0]).need}) as session:
            assert [session.send(path).status for path in (*large, *small)] == [0xA700, 0x0000]
        assert receiver.leftovers() == []
        assert len(list(receiver.data_dir.rglob("*.dcm"))) == 1


#: Runs a command under RLIMIT_FSIZE of 64 KiB, with the signal ignored so that write() fails instead.
_LIMITED = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_peers_are_asked_to_wait_before_the_disk_is_full(tmp_path: Path) -> None:
    [path] = write_series(tmp_path / "ct", 1)
    free = os.statvfs(tmp_path)
    too_much = free.f_bavail * free.f_frsize * 2
    with ReceiverProcess(tmp_path / "data", min_free_bytes=too_much) as receiver:
        with StoreSession(receiver.remote, "PACS", {EncodedInstance.read(path).need}) as session:
            assert session.send(path).status == 0xA700
            receiver.tell(replace(receiver.plan, min_free_bytes=0))
            assert receiver.report() == {"event": "reloaded"}
            assert session.send(path).status == 0  # resumes by itself, on the same association
        assert "free space is below" in receiver.log


_TRACED = """
import os, sys
from pathlib import Path
def note(text):
    os.write(int(os.environ["TRACE_FD"]), (text + "\\n").encode())
real_fsync, real_replace = os.fsync, Path.replace
def fsync(fd):
    real_fsync(fd)
    note("fsync " + os.readlink(f"/proc/self/fd/{fd}"))
def replace(self, target):
    note("rename " + str(target))
    return real_replace(self, target)
os.fsync, Path.replace = fsync, replace
import pynetdicom.dimse as dimse
real_send = dimse.DIMSEServiceProvider.send_msg
def send_msg(self, primitive, context_id):
    note("answer")
    return real_send(self, primitive, context_id)
dimse.DIMSEServiceProvider.send_msg = send_msg
from dicom_node.receive.server import main
sys.exit(main())
"""


def test_each_answer_comes_after_its_fsyncs(tmp_path: Path) -> None:
    [path] = write_series(tmp_path / "ct", 1)
    trace = tmp_path / "trace"
    descriptor = os.open(trace, os.O_WRONLY | os.O_CREAT)
    os.set_inheritable(descriptor, True)
    process = subprocess.Popen(
        [sys.executable, "-c", _TRACED],
        cwd=ROOT,
        env={**os.environ, "TRACE_FD": str(descriptor)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[descriptor],
    )
    plan = ReceiverProcess(tmp_path / "data").plan
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(plan.to_line().encode())
    process.stdin.flush()
    port = json.loads(process.stdout.readline())["port"]
    with StoreSession(
        Remote("node", "JMMDA_NODE", "127.0.0.1", port), "PACS", {EncodedInstance.read(path).need}
    ) as session:
        assert session.send(path).status == 0
        steps = [
            f"{line.split()[0]} {''.join(Path(line.split()[1]).suffixes)}" if " " in line else line
            for line in trace.read_text().splitlines()
        ]
    process.communicate(timeout=30)
    os.close(descriptor)
    assert steps[-4:] == ["fsync .part", "rename .dcm", "fsync ", "answer"]
