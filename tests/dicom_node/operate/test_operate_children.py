"""Supervised child processes: started, heard, started again with patience, and ended with all they started.

Left out: what the supervisor does with their reports (`test_node`).
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from dicom_node.operate.children import Child
from tests.dicom_node.net.associations import wait_until

_CHILD = """
import json, subprocess, sys, time
print(json.dumps({"event": "ready", "line": sys.stdin.readline().strip()}), flush=True)
print("no event", flush=True)
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(json.dumps({"event": "helper", "pid": helper.pid}), flush=True)
for line in sys.stdin:
    print(json.dumps({"event": "echo", "line": line.strip()}), flush=True)
    if line.strip() == "end":
        sys.exit(7)
helper.kill()
"""
_STUBBORN = """
import json, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"event": "ready"}), flush=True)
time.sleep(60)
"""


def _heard(child: Child, event: str) -> dict:
    found: list[dict] = []

    def listen() -> bool:
        found.extend(one for one in child.events() if one.get("event") == event)
        return bool(found)

    assert wait_until(listen, 10)
    return found[0]


def _gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().split(") ")[1].startswith("Z")
    except FileNotFoundError:
        return True


@pytest.fixture
def child():
    made = Child("test child", (sys.executable, "-c", _CHILD), lambda: "first\n")
    yield made
    made.stop(5.0)


def test_it_gets_its_first_line_and_is_heard(child: Child):
    assert child.start_when_due()
    assert not child.start_when_due()
    assert _heard(child, "ready")["line"] == "first"
    child.send("more\n")
    assert _heard(child, "echo")["line"] == "more"


def test_it_starts_again_after_a_wait_that_grows(child: Child):
    waits = []
    for _ in range(3):
        assert wait_until(child.start_when_due, 10)
        child.send("end\n")
        assert wait_until(lambda: child.ended() is not None, 10)
        begun = time.monotonic()
        assert not child.start_when_due()
        waits.append(child._not_before - begun)
    assert 0.3 < waits[0] < 0.7
    assert waits[0] < waits[1] < waits[2]


def test_what_a_dead_child_started_dies_with_it(child: Child):
    child.start_when_due()
    helper = _heard(child, "helper")["pid"]
    child.signal(signal.SIGKILL)
    assert wait_until(lambda: child.ended() is not None, 10)
    assert wait_until(lambda: _gone(helper), 5)


def test_one_that_does_not_end_is_killed():
    child = Child("stubborn", (sys.executable, "-c", _STUBBORN))
    child.start_when_due()
    _heard(child, "ready")
    pid = child.pid
    assert pid is not None
    child.stop(0.3)
    assert _gone(pid)
    assert not child.start_when_due()


def test_a_child_that_is_gone_takes_no_line(child: Child):
    child.send("lost\n")
    child.signal(signal.SIGHUP)
    assert child.events() == []
    assert child.ended() is None
