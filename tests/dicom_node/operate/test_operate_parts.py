"""The small parts of running a node: lock, beats, schedule, requests, logs.

Left out: supervised children (`test_operate_children`) and the whole node (`test_node`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dicom_node.errors import Permanent, Refused, Transient
from dicom_node.ledger.place import place_of
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.operate.beats import Beats
from dicom_node.operate.guard import service_runs, spool_lock
from dicom_node.operate.requests import ask, serve_requests, sweep_answers
from dicom_node.operate.schedule import Schedule
from dicom_node.operate.state import process_report
from tests.dicom_node.net.associations import wait_until
from tests.dicom_node.node_cases import ManualClock


@pytest.fixture
def paths(tmp_path: Path) -> SpoolPaths:
    made = SpoolPaths(tmp_path / "data")
    made.make()
    return made


_HOLDER = """
import sys, time
from pathlib import Path
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.operate.guard import spool_lock
with spool_lock(SpoolPaths(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_service_is_refused_until_the_first_is_gone_even_by_kill(paths: SpoolPaths):
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(paths.data_dir)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert service_runs(paths)
    with pytest.raises(Permanent) as caught, spool_lock(paths):
        pass
    assert caught.value.code == "spool_in_use"
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not service_runs(paths)
    with spool_lock(paths):
        assert paths.service_lock.read_text() == f"{os.getpid()}\n"


def test_the_lock_waits_for_a_command_that_only_asks(paths: SpoolPaths):
    held = threading.Event()

    def hold() -> None:
        with spool_lock(paths):
            held.set()
            time.sleep(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    with spool_lock(paths, wait_s=5.0):
        pass
    thread.join()


def test_a_node_that_never_ran_does_not_run(tmp_path: Path):
    assert not service_runs(SpoolPaths(tmp_path / "none"))
    assert process_report(SpoolPaths(tmp_path / "none")) == {"running": False, "well": None}


def test_a_loop_without_progress_makes_the_whole_unwell():
    clock = ManualClock()
    beats = Beats(clock)
    assert beats.well
    beats.beat("fast", 2.0)
    beats.beat("slow", 100.0)
    clock.advance(3.0)
    assert not beats.well
    assert {name: pulse.well for name, pulse in beats.pulses().items()} == {"fast": False, "slow": True}
    beats.beat("fast", 2.0)
    assert beats.well


def test_scheduled_work_runs_again_after_it_failed_and_never_twice_at_once(caplog: pytest.LogCaptureFixture):
    runs: list[float] = []
    inside = threading.Semaphore(1)

    def work() -> None:
        assert inside.acquire(blocking=False)
        runs.append(time.monotonic())
        time.sleep(0.15)
        inside.release()
        if len(runs) == 1:
            raise ValueError("Doe^Jane")

    schedule = Schedule()
    schedule.every(0.05, "work", work)
    schedule.start()
    assert wait_until(lambda: len(runs) >= 3, 10)
    schedule.stop()
    assert "scheduled work work failed: ValueError" in caplog.text
    assert "Doe" not in caplog.text


def _server(paths: SpoolPaths, handler, done: threading.Event) -> threading.Thread:
    def serve() -> None:
        while not done.is_set():
            serve_requests(paths, handler)
            time.sleep(0.02)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_request_gets_its_answer_and_an_error_its_class(paths: SpoolPaths):
    def handler(request):
        if request["verb"] == "refuse":
            raise Refused("why", "because", {"n": 1})
        if request["verb"] == "break":
            raise ValueError("Doe^Jane")
        return {"did": request["verb"]}

    done = threading.Event()
    thread = _server(paths, handler, done)
    try:
        assert ask(paths, {"verb": "good"}) == {"did": "good"}
        with pytest.raises(Refused) as refused:
            ask(paths, {"verb": "refuse"})
        assert (refused.value.code, refused.value.figures) == ("why", {"n": 1})
        with pytest.raises(Permanent) as broken:
            ask(paths, {"verb": "break"})
        assert "Doe" not in str(broken.value)
    finally:
        done.set()
        thread.join()
    assert list((paths.run / "requests").iterdir()) == []


def test_a_request_that_nobody_answers_stays_for_the_service(paths: SpoolPaths):
    with pytest.raises(Transient) as caught:
        ask(paths, {"verb": "later"}, timeout_s=0.1)
    assert caught.value.code == "no_answer"
    seen: list[object] = []
    assert serve_requests(paths, seen.append) == 1
    assert seen == [{"verb": "later"}]
    (answer,) = (paths.run / "requests").iterdir()
    assert json.loads(answer.read_bytes()) == {"done": None}
    sweep_answers(paths)
    assert answer.exists()
    sweep_answers(paths, older_than_s=-1.0)
    assert not answer.exists()


def test_an_error_is_named_by_class_and_place_only():
    with pytest.raises(ValueError, match="Doe") as caught:
        int("Doe^Jane")
    place = place_of(caught.value)
    assert place.startswith(f"ValueError at {Path(__file__).name}:")
    assert "Doe" not in place


def test_logs_go_to_standard_error_and_libraries_are_reduced():
    code = """
import logging, warnings
from dicom_node.operate.logs import set_up_logs
set_up_logs("INFO")
set_up_logs("INFO")
logging.getLogger("dicom_node.x").info("ours")
logging.getLogger("dicom_node.x").debug("not ours")
logging.getLogger("pydicom").warning("Invalid value for VR PN: 'Doe^Jane'")
logging.getLogger("pynetdicom.acse").info("chatter")
warnings.warn("value 'Doe^Jane' is odd")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.count("ours") == 1
    assert "INFO dicom_node.x: ours" in done.stderr
    assert "Doe" not in done.stderr
    assert "chatter" not in done.stderr


def test_under_systemd_the_journal_adds_the_time():
    code = """
import logging
from dicom_node.operate.logs import set_up_logs
set_up_logs("INFO")
logging.getLogger("dicom_node").info("x")
"""
    environment = {**os.environ, "JOURNAL_STREAM": "8:1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == "INFO dicom_node: x\n"
