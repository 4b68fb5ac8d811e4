"""The doctor beside a node: ledger, processes, settings in force, and the way back to us, each seeded fault named.

One real node without a model runs for the tests of the running node. Left out: peers that are called
(`test_doctor_peers`), the machine (`test_doctor_here`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from dicom_node.ledger.states import DeliveryState, State
from dicom_node.ledger.tables import Association, Delivery, Job, Series
from dicom_node.net.scu import EncodedInstance, StoreSession
from dicom_node.operate.doctor import back
from dicom_node.operate.doctor.examine import Request, examine
from dicom_node.operate.doctor.findings import NETWORK, US, Finding, Mark
from dicom_node.operate.doctor.records import records
from dicom_node.settings import Role
from tests.dicom_node.node_cases import SOURCE_AE, Room, encoded, head_stack, node_settings, receive
from tests.dicom_node.operate.doctor_cases import marks, one, peer_at, settings_with, sound
from tests.dicom_node.running_node import PACS_AE, Node, Pacs, make_node


@pytest.fixture(scope="module")
def pacs() -> Iterator[Pacs]:
    one_pacs = Pacs()
    with one_pacs.listening():
        yield one_pacs


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pacs: Pacs) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("doctor")
    made = make_node(folder / "node", pacs, folder / "no-such-bundle")
    with made.running():
        made.wait_for(lambda: "is ready as" in made.log.read_text(), "the start")
        made.wait_for(lambda: (made.paths.run / "state.json").exists(), "the first sign of life")
        yield made


def doctor(config: Path, **more: object) -> list[Finding]:
    found = examine(Request(config, timeout_s=1.5, **more))  # type: ignore[arg-type]
    sound(found)
    return found


def altered(node: Node, old: str, new: str) -> Path:
    """Another settings file on the same data, as if the node's own had been changed."""
    text = node.config.read_text()
    assert old in text
    file = node.folder / "altered.toml"
    file.write_text(text.replace(old, new))
    return file


def test_a_running_node_passes(node: Node) -> None:
    found = doctor(node.config)
    assert [finding for finding in found if finding.mark is Mark.FAIL] == []
    assert {"settings.in_force", "node.running", "node.progress", "node.port", "back.door", "peer.store"} <= {
        check for check, mark in marks(found).items() if mark == "pass"
    }
    assert one(found, "node.port").seen == f"the node listens on {node.port}"
    assert f"answered the C-ECHO of '{PACS_AE}'" in one(found, "back.door").seen


NEWCOMER = """
[[peers]]
name = "ct9"
ae_titles = ["CT9"]
host = "127.0.0.1"
roles = ["source"]

[[routes]]
from_ae = "CT9"
destinations = ["minipacs"]
"""


def test_a_source_that_has_never_sent(node: Node) -> None:
    config = node.folder / "newcomer.toml"
    config.write_text(node.config.read_text() + NEWCOMER)
    never = one(doctor(config, peer="ct9"), "back.seen")
    assert never.mark is Mark.WARN
    assert never.who == "administrator of ct9"
    assert f"JMMDA_NODE at 127.0.0.1 port {node.port}" in never.remedy


def test_a_source_that_has_sent_is_seen(node: Node) -> None:
    [dataset] = head_stack(1, series="seen", study="seen")
    path = node.folder / "seen.dcm"
    path.write_bytes(encoded(dataset))
    instance = EncodedInstance.read(path)
    with StoreSession(node.remote, PACS_AE, {instance.need}) as session:
        assert session.send_encoded(instance).status == 0
    node.wait_for(lambda: any(view.instances for view in node.look()), "the intake")
    assert one(doctor(node.config), "back.seen").mark is Mark.PASS
    silent = one(doctor(node.config, silent_days=0.0), "back.seen")
    assert silent.mark is Mark.WARN
    assert "not seen since" in silent.seen


def test_settings_that_the_node_does_not_work_by(node: Node) -> None:
    changed = one(doctor(altered(node, "settle_s = 0.3", "settle_s = 0.4")), "settings.in_force")
    assert (changed.mark, changed.who) == (Mark.WARN, US)
    assert "intake.settle_s" in changed.seen
    assert "config reload" in changed.remedy
    fixed = one(doctor(altered(node, 'node_id = "test"', 'node_id = "x"')), "settings.in_force")
    assert "restart the node (node.node_id)" in fixed.remedy


def test_a_called_title_that_is_not_the_nodes(node: Node) -> None:
    door = one(doctor(altered(node, '"JMMDA_NODE"', '"ANOTHER"')), "back.door")
    assert (door.mark, door.who) == (Mark.FAIL, US)
    assert "another AE title than 'ANOTHER'" in door.seen


def test_a_caller_that_the_running_node_does_not_know(node: Node) -> None:
    door = one(doctor(altered(node, f'"{PACS_AE}"', '"NEWCOMER"')), "back.door")
    assert door.mark is Mark.FAIL
    assert "does not let 'NEWCOMER' call" in door.seen
    assert "reload" in door.remedy


def test_callers_of_this_machine_are_refused_as_the_settings_want(node: Node) -> None:
    settings = settings_with(
        node.paths.data_dir, peer_at(104, host="192.0.2.1"),
        node={"data_dir": node.paths.data_dir, "port": node.port},
    )  # fmt: skip
    door = back.door(settings, "127.0.0.1", 5.0)
    assert door.mark is Mark.PASS
    assert "refuses callers of this machine" in door.seen


def test_a_port_on_which_nobody_listens(node: Node, free_port: int) -> None:
    found = doctor(altered(node, f"port = {node.port}\n", f"port = {free_port}\n"))
    fault = one(found, "node.port")
    assert fault.mark is Mark.FAIL
    assert f"nobody listens on port {free_port}" in fault.seen
    assert one(found, "back.door").mark is Mark.FAIL


def test_a_port_on_which_somebody_else_listens(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = doctor(altered(node, f"port = {node.port}\n", f"port = {port}\n"), peer="minipacs")
        assert one(found, "back.door").mark is Mark.FAIL
        fault = one(doctor(altered(node, f"port = {node.port}\n", f"port = {port}\n")), "node.port")
    assert fault.mark is Mark.FAIL
    assert f"process {os.getpid()}" in fault.seen
    assert "not the node" in fault.seen


def test_one_peer_alone(node: Node) -> None:
    found = doctor(node.config, peer="minipacs")
    assert {finding.group for finding in found} == {"settings", "peer", "back"}


def test_a_service_that_stands_still(node: Node) -> None:
    pid = node.processes()["service"]
    state = node.paths.run / "state.json"
    os.kill(pid, signal.SIGSTOP)
    try:
        said = json.loads(state.read_bytes())
        said["at"] = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
        state.write_text(json.dumps(said))
        fault = one(doctor(node.config), "node.progress")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert fault.mark is Mark.FAIL
    assert "no sign of life since" in fault.seen
    node.wait_for(lambda: one(doctor(node.config), "node.progress").mark is Mark.PASS, "a new sign of life")


CONFIG = """
[node]
port = {port}
data_dir = "data"

[[peers]]
name = "scanner"
ae_titles = ["SCANNER"]
host = "127.0.0.1"
roles = ["source"]

[[peers]]
name = "pacs"
ae_titles = ["PACS"]
host = "127.0.0.1"
port = 11199
roles = ["destination"]
"""


@pytest.fixture
def config(tmp_path: Path, free_port: int) -> Path:
    file = tmp_path / "node.toml"
    file.write_text(CONFIG.format(port=free_port))
    return file


def test_a_node_that_never_ran_is_a_warning_and_one_that_stopped_a_failure(config: Path, tmp_path: Path) -> None:
    found = doctor(config)
    assert one(found, "node.running").mark is Mark.WARN
    assert "ledger.open" not in marks(found)
    assert not (tmp_path / "data").exists(), "the doctor changes nothing"
    Room(tmp_path / "data").ledger.close()
    stopped = one(doctor(config), "node.running")
    assert (stopped.mark, stopped.who) == (Mark.FAIL, US)
    assert "jmmda-node serve" in stopped.remedy


def test_another_program_holds_the_port_of_a_node_at_rest(config: Path, free_port: int) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        fault = one(doctor(config), "node.port")
    assert fault.mark is Mark.FAIL
    assert f"process {os.getpid()}" in fault.seen
    assert one(doctor(config), "node.port").mark is Mark.PASS


def test_faults_of_the_settings_are_all_that_is_said(config: Path) -> None:
    config.write_text("[node]\nport = 0\nhots = 3\n")
    found = doctor(config)
    assert [finding.check for finding in found] == ["settings.file"] * 2
    assert f"{config}:2: node.port" in found[0].seen


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "data")
    receive(made, head_stack(series="head"))
    made.settle()
    yield made
    made.ledger.close()


def settings_of(room: Room):
    return node_settings(room.paths.data_dir)


def test_a_ledger_in_order(room: Room) -> None:
    known = records(settings_of(room))
    sound(known.findings)
    assert marks(known.findings) == {
        "ledger.open": "pass", "ledger.dead_letters": "pass", "ledger.pending": "pass",
    }  # fmt: skip
    assert known.exists
    assert set(known.last_seen) == {SOURCE_AE}
    assert known.last_seen[SOURCE_AE].tzinfo is not None


def test_a_dead_letter(room: Room) -> None:
    with room.ledger.transaction() as change:
        change.session.execute(update(Series).values(state=State.FAILED, code="store_refused"))
    fault = one(records(settings_of(room)).findings, "ledger.dead_letters")
    assert fault.mark is Mark.WARN
    assert "1 series: store_refused 1 times" in fault.seen
    assert "dead-letter replay" in fault.remedy


def test_a_delivery_that_fails_again_and_again(room: Room) -> None:
    with room.ledger.transaction() as change:
        job = change.session.query(Job).one()
        delivery = Delivery(job_id=job.id, destination="pacs", state=DeliveryState.PENDING, attempts=7)
        delivery.code, delivery.reason = "peer_unreachable", "peer unreachable"
        job.derived_at = room.clock.now() - timedelta(hours=3)
        change.session.add(delivery)
    fault = one(records(settings_of(room)).findings, "ledger.pending")
    assert fault.mark is Mark.WARN
    assert "for 3.0 h to pacs" in fault.seen
    assert "7 tries failed, the last by peer_unreachable" in fault.seen


def test_a_damaged_ledger(room: Room) -> None:
    settings = settings_of(room)
    room.ledger.close()
    file = room.paths.data_dir / "ledger.sqlite"
    file.write_bytes(b"this is no database" * 500)
    fault = one(records(settings).findings, "ledger.open")
    assert (fault.mark, fault.who) == (Mark.FAIL, US)
    assert "rebuilt from the journals" in fault.remedy


def test_a_ledger_of_another_version(room: Room) -> None:
    settings = settings_of(room)
    room.ledger.close()
    with sqlite3.connect(room.paths.data_dir / "ledger.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    fault = one(records(settings).findings, "ledger.open")
    assert fault.mark is Mark.FAIL
    assert "another version" in fault.seen


def test_the_address_that_a_peer_has_to_call(tmp_path: Path) -> None:
    def found(peer_host: str, ours: str) -> tuple[Finding, str | None]:
        return back.address(peer_at(104, host=peer_host), settings_with(tmp_path, node={"host": ours}))

    reachable, at = found("127.0.0.1", "0.0.0.0")
    assert (reachable.mark, at) == (Mark.PASS, "127.0.0.1")
    elsewhere, at = found("127.0.0.1", "192.0.2.7")
    assert (elsewhere.mark, elsewhere.who, at) == (Mark.WARN, NETWORK, "192.0.2.7")
    nowhere, at = found("no-such-host.invalid", "0.0.0.0")
    assert (nowhere.mark, nowhere.who, at) == (Mark.WARN, NETWORK, None)


def test_listening_on_the_loopback_alone_while_peers_are_elsewhere(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 104))
        except OSError:
            pytest.skip("this machine has no route beyond itself")
    settings = settings_with(tmp_path, node={"host": "127.0.0.1"})
    fault, at = back.address(peer_at(104, host="192.0.2.1"), settings)
    assert (fault.mark, fault.who, at) == (Mark.FAIL, US, None)
    assert "we listen on 127.0.0.1 alone" in fault.seen


def test_associations_of_other_titles_do_not_count(room: Room) -> None:
    with room.ledger.transaction() as change:
        change.session.execute(update(Association).values(calling_ae="SOMEBODY"))
    known = records(settings_of(room))
    scanner = settings_of(room).peers[0]
    assert scanner.has_role(Role.SOURCE)
    never = back.seen(scanner, settings_of(room), known.last_seen, 7.0, at=None, offers=("C-MOVE",))
    assert never.mark is Mark.WARN
    assert "C-MOVE" in never.remedy
