"""The supervisor with real children but no model: systemd, start failures, a receiver that dies, draining.

Left out: everything that needs a result (`test_node`, `test_node_recovery`).
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.errors import NodeError
from dicom_node.net.scu import EncodedInstance, StoreSession, echo
from tests.dicom_node.net.associations import wait_until
from tests.dicom_node.node_cases import encoded, head_stack
from tests.dicom_node.running_node import PACS_AE, Node, Pacs, make_node


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node whose bundle does not exist: the worker cannot start, and everything else must run."""
    return make_node(tmp_path / "node", Pacs(), tmp_path / "no-such-bundle")


class Systemd:
    """The manager's end of the notification socket."""

    def __init__(self) -> None:
        name = f"jmmda-test-{secrets.token_hex(6)}"
        self.address = f"@{name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}")
        self._socket.settimeout(0.2)
        self.messages: list[str] = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                self.messages.append(self._socket.recv(4096).decode())
            except TimeoutError:
                continue

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    manager = Systemd()
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    yield manager
    manager.close()


def test_systemd_hears_ready_watchdog_reload_and_stop(node: Node, systemd: Systemd):
    with node.running():
        node.wait_for(lambda: "READY=1" in systemd.messages, "READY")
        node.wait_for(lambda: "WATCHDOG=1" in systemd.messages, "WATCHDOG")
        before = len(systemd.messages)
        assert node.process is not None
        node.process.send_signal(signal.SIGHUP)
        node.wait_for(lambda: "RELOADING=1" in systemd.messages[before:], "RELOADING")
        node.wait_for(lambda: "READY=1" in systemd.messages[before:], "READY after the reload")
        assert "STOPPING=1" not in systemd.messages
    assert wait_until(lambda: systemd.messages[-1:] == ["STOPPING=1"])


def test_without_a_model_the_door_is_open_and_status_says_what_is_wrong(node: Node):
    with node.running():
        node.wait_for(lambda: "code" in node.status()["processes"].get("worker", {}), "the worker's report")
        assert node.status()["processes"]["worker"]["code"] == "missing"
        assert echo(node.remote, PACS_AE).round_trip_s < 5.0


def test_a_stopped_service_gives_no_watchdog_beat(node: Node, systemd: Systemd):
    with node.running():
        node.wait_for(lambda: "WATCHDOG=1" in systemd.messages, "WATCHDOG")
        pid = node.processes()["service"]
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(1.0)
            before = systemd.messages.count("WATCHDOG=1")
            time.sleep(5.0)
            assert systemd.messages.count("WATCHDOG=1") == before
        finally:
            os.kill(pid, signal.SIGCONT)
        node.wait_for(lambda: systemd.messages.count("WATCHDOG=1") > before, "WATCHDOG after the pause")


def test_a_killed_receiver_is_back_in_a_moment_and_its_images_are_kept(node: Node):
    stack = [EncodedInstance.read(path) for path in _written(node.folder, 3)]
    with node.running():
        with StoreSession(node.remote, PACS_AE, {one.need for one in stack}) as session:
            assert session.send_encoded(stack[0]).status == 0
            node.kill("receiver")
            assert session.send_encoded(stack[1]).status is None

        def answers() -> bool:
            try:
                echo(node.remote, PACS_AE)
            except NodeError:
                return False
            return True

        node.wait_for(answers, "the receiver's return")
        with StoreSession(node.remote, PACS_AE, {one.need for one in stack}) as session:
            assert all(session.send_encoded(one).status == 0 for one in stack)
        node.wait_for(lambda: [one.instances for one in node.look()] == [3], "the intake")
        node.wait_for(lambda: node.status()["open_associations"] == 0, "the end of the dead receiver's association")


def _written(folder: Path, count: int) -> list[Path]:
    paths = []
    for number, dataset in enumerate(head_stack(count)):
        paths.append(folder / f"{number}.dcm")
        paths[-1].write_bytes(encoded(dataset))
    return paths


def test_an_open_association_may_end_before_the_node_does(node: Node):
    stack = [EncodedInstance.read(path) for path in _written(node.folder, 2)]
    with node.running():
        assert node.process is not None
        node.wait_for(lambda: "is ready as" in node.log.read_text(), "the start")
        with StoreSession(node.remote, PACS_AE, {one.need for one in stack}) as session:
            assert session.send_encoded(stack[0]).status == 0
            node.process.terminate()
            time.sleep(0.5)
            assert session.send_encoded(stack[1]).status == 0, "draining lets the association finish"
        assert node.process.wait(60) == 0
    assert sum(len(list(one.glob("*.dcm"))) for one in node.paths.incoming.iterdir()) + sum(
        one.instances for one in node.look()
    ) == len(stack)


def test_a_port_in_use_ends_the_start_with_a_reason(node: Node):
    with socket.create_server(("127.0.0.1", node.port)):
        command = [sys.executable, "-m", "dicom_node.cli", "serve", "--config", str(node.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert "cannot_start" in done.stderr


def test_a_bad_configuration_ends_the_start_with_its_faults(node: Node):
    node.config.write_text(node.config.read_text().replace("ae_title", "ae_tittle", 1))
    command = [sys.executable, "-m", "dicom_node.cli", "serve", "--config", str(node.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 2
    assert f"{node.config}:" in done.stderr
    assert not node.paths.data_dir.exists()
