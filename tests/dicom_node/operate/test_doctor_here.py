"""The doctor on this machine: data folder, model and device, AE titles, unit; each seeded fault is named.

Left out: a file system without hard links and one without inodes, which take a mount; the clock, which belongs to the
machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_node.operate.doctor.examine import Request, examine
from dicom_node.operate.doctor.findings import US, Finding, Mark
from dicom_node.operate.doctor.here import data_folder
from dicom_node.operate.doctor.machine import UNIT, machine
from dicom_node.operate.doctor.model import model
from dicom_node.operate.doctor.running import titles
from dicom_node.settings import Peer, Settings
from dicom_node.synthesize.client import worker_command
from tests.dicom_node.operate.doctor_cases import marks, one, peer_at, settings_with, sound

SILENT = (sys.executable, "-c", "import time; time.sleep(60)")


def folder_of(tmp_path: Path, **intake: object) -> tuple[Path, list[Finding]]:
    folder = tmp_path / "data"
    found = data_folder(settings_with(folder, intake=intake))
    sound(found)
    return folder, found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder


def test_a_good_folder_passes_and_is_left_as_it_was(tmp_path: Path, data: Path) -> None:
    _, found = folder_of(tmp_path, min_free_mib=1)
    assert set(marks(found)) == {
        "data.folder", "data.owner", "data.mode", "data.writable", "data.hard_links", "data.file_system", "data.space",
        "data.inodes",
    }  # fmt: skip
    assert {finding.mark for finding in found} == {Mark.PASS}, found
    assert list(data.iterdir()) == []


def test_a_folder_that_is_not_there_is_made_by_the_first_start(tmp_path: Path) -> None:
    folder, found = folder_of(tmp_path)
    assert marks(found) == {"data.folder": "warn"}
    assert not folder.exists()


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    _, found = folder_of(tmp_path)
    assert marks(found) == {"data.folder": "fail"}


def test_others_may_look_into_it(tmp_path: Path, data: Path) -> None:
    data.chmod(0o750)
    fault = one(folder_of(tmp_path)[1], "data.mode")
    assert (fault.mark, fault.who) == (Mark.FAIL, US)
    assert "0750" in fault.seen
    assert f"chmod 0700 {data}" in fault.remedy


def test_nothing_can_be_written() -> None:
    found = data_folder(settings_with(Path("/proc/self")))  # where not even root can make a file
    sound(found)
    assert one(found, "data.writable").mark is Mark.FAIL
    assert "data.hard_links" not in marks(found)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def as_nobody(work: Callable[[], list[Finding]]) -> list[Finding]:
    """Do something in a child process that has the rights of a user without any.

    It is done here first, because the child may not even read the modules that are imported on the way.
    """
    work()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.seteuid(65534)
            os.write(writer, json.dumps([finding.to_json() for finding in work()]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as stream:
        said = stream.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return [Finding(**{**one, "mark": Mark(one["mark"])}) for one in json.loads(said)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_another_user(shared_folder: Path) -> None:
    folder = shared_folder / "data"
    folder.mkdir(mode=0o700)
    found = as_nobody(lambda: data_folder(settings_with(folder)))
    beyond = as_nobody(lambda: data_folder(settings_with(folder / "deeper")))
    sound([*found, *beyond])
    owner = one(found, "data.owner")
    assert (owner.mark, owner.who) == (Mark.FAIL, US)
    assert "belongs to root" in owner.seen
    assert one(found, "data.writable").mark is Mark.FAIL
    assert "run the doctor as the user of the node" in one(beyond, "data.folder").remedy


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_doctor_of_another_user_says_so_and_goes_on(shared_folder: Path) -> None:
    config = shared_folder / "node.toml"
    config.write_text('[node]\ndata_dir = "data"\n')
    (shared_folder / "data").mkdir(mode=0o700)
    found = as_nobody(lambda: examine(Request(config)))
    sound(found)
    assert one(found, "data.writable").mark is Mark.FAIL
    assert one(found, "machine.unit")


def test_a_disk_that_is_nearly_full(tmp_path: Path, data: Path) -> None:
    free_mib = shutil.disk_usage(data).free // 1024**2
    fault = one(folder_of(tmp_path, min_free_mib=10 * free_mib)[1], "data.space")
    assert fault.mark is Mark.FAIL
    assert f"intake.min_free_mib is {10 * free_mib}" in fault.seen
    assert "0xA700" in fault.remedy
    assert one(folder_of(tmp_path, min_free_mib=int(free_mib / 1.5))[1], "data.space").mark is Mark.WARN


def test_titles_that_are_taken_differently_elsewhere(tmp_path: Path) -> None:
    assert titles(settings_with(tmp_path, peer_at(104))).mark is Mark.PASS
    odd = titles(settings_with(tmp_path, peer_at(104, title="Pacs 1")))
    assert odd.mark is Mark.WARN
    assert "'Pacs 1'" in odd.seen
    doubled = titles(settings_with(tmp_path, peer_at(104, title="JMMDA_NODE")))
    assert doubled.mark is Mark.WARN
    assert "also a title of peer 'pacs'" in doubled.seen


def test_the_unit_is_found_and_whether_it_is_enabled(tmp_path: Path) -> None:
    folder = tmp_path / "system"
    folder.mkdir()
    settings = settings_with(tmp_path)
    assert one(machine(settings, [folder]), "machine.unit").mark is Mark.WARN
    (folder / UNIT).write_text("[Unit]\n")
    assert "not enabled" in one(machine(settings, [folder]), "machine.unit").seen
    (folder / "multi-user.target.wants").mkdir()
    (folder / "multi-user.target.wants" / UNIT).symlink_to(folder / UNIT)
    found = machine(settings, [folder])
    sound(found)
    assert one(found, "machine.unit").mark is Mark.PASS


def test_a_time_zone_that_is_not_that_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        here = one(machine(settings_with(tmp_path, output={"time_zone": "Asia/Tokyo"})), "machine.time_zone")
        elsewhere = one(machine(settings_with(tmp_path)), "machine.time_zone")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert here.mark is Mark.PASS
    assert elsewhere.mark is Mark.WARN
    assert "+0900" in elsewhere.seen


def of_model(settings: Settings, command: tuple[str, ...] = SILENT, limit_s: float = 0.5) -> list[Finding]:
    found = model(settings, command, limit_s, None)
    sound(found)
    return found


def with_bundle(tmp_path: Path, bundle: Path | str, *peers: Peer, **more: object) -> Settings:
    return settings_with(tmp_path, *peers, model={"bundle": str(bundle), "device": "cpu", "threads": 1, **more})


def test_a_bundle_that_is_missing_or_damaged(tmp_path: Path, tiny_bundle: Path) -> None:
    absent = one(of_model(with_bundle(tmp_path, tmp_path / "absent")), "model.bundle")
    assert (absent.mark, absent.who) == (Mark.FAIL, US)
    assert "missing" in absent.seen
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle, copy)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    damaged = one(of_model(with_bundle(tmp_path, copy)), "model.bundle")
    assert damaged.mark is Mark.FAIL
    assert damaged.seen.startswith("hash:")


def test_a_bundle_that_may_not_leave(tmp_path: Path, tiny_bundle: Path) -> None:
    held = one(of_model(with_bundle(tmp_path, tiny_bundle, peer_at(104))), "model.phantom")
    assert held.mark is Mark.FAIL
    assert "no result is sent to pacs" in held.seen
    assert "allow_phantom_bundle" in held.remedy
    allowed = with_bundle(tmp_path, tiny_bundle, peer_at(104), allow_phantom_bundle=True)
    assert one(of_model(allowed), "model.phantom").mark is Mark.WARN
    assert one(of_model(with_bundle(tmp_path, "builtin", peer_at(104))), "model.phantom").mark is Mark.FAIL
    assert one(of_model(with_bundle(tmp_path, tiny_bundle)), "model.phantom").mark is Mark.PASS


def test_a_worker_that_is_not_ready_in_time_or_dies(tmp_path: Path, tiny_bundle: Path) -> None:
    settings = with_bundle(tmp_path, tiny_bundle)
    late = one(of_model(settings), "model.device")
    assert late.mark is Mark.FAIL
    assert "not ready within 0.5 s" in late.seen
    died = one(of_model(settings, (sys.executable, "-c", "import os; os._exit(70)"), 30), "model.device")
    assert died.mark is Mark.FAIL
    assert "ended with 70" in died.seen


def test_a_real_worker_is_asked_for_its_device(tmp_path: Path, tiny_bundle: Path) -> None:
    settings = with_bundle(tmp_path, tiny_bundle)
    command = worker_command(bundle=str(tiny_bundle), device="cpu", precision="auto", threads=1)
    ready = one(of_model(settings, command, 120), "model.device")
    assert ready.mark is Mark.PASS, ready
    assert "cpu in fp32" in ready.seen
    absent = worker_command(bundle=str(tiny_bundle), device="cuda:77", precision="auto", threads=1)
    fault = one(of_model(settings, absent, 120), "model.device")
    assert fault.mark is Mark.FAIL
    assert "cuda:77" in fault.seen


def test_the_workers_own_word_is_taken_where_the_node_runs(tmp_path: Path, tiny_bundle: Path) -> None:
    settings = with_bundle(tmp_path, tiny_bundle)
    ready = model(settings, ("/no/such/program",), 1, {"state": "working", "device": "cuda:0", "precision": "fp16"})
    assert one(ready, "model.device").mark is Mark.PASS
    stuck = model(settings, ("/no/such/program",), 1, {"state": "cannot start", "code": "x", "reason": "no device"})
    assert "no device" in one(stuck, "model.device").seen


def test_torch_is_not_imported(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from dicom_node.cli import app\n"
        "try:\n    app(['doctor', '--config', sys.argv[1], '--model-timeout', '1'])\n"
        "except SystemExit as end:\n    assert end.code == 1, end.code\n"
        "assert 'jmmda_model.bundle' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "data"\n[model]\ndevice = "cuda:77"\n')
    done = subprocess.run(
        [sys.executable, "-c", script, str(config)], capture_output=True, text=True, timeout=120, env={**os.environ}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model.device" in done.stdout
