"""Reloads of a real node: all of it or none, no association dropped, and every outcome told.

One node without a model runs for all tests; each puts the settings back. Left out: a receiver that says no
(`test_operate_reloading`), results that are delivered by new settings (`test_node`), and what `config diff` prints of
two files (`test_config_changes_command`).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.errors import NodeError
from dicom_node.net.scu import EncodedInstance, StoreSession, echo
from dicom_node.operate.state import settings_in_force
from tests.dicom_node.node_cases import encoded, head_stack
from tests.dicom_node.running_node import PACS_AE, Node, Pacs, make_node

SECOND = """
[[peers]]
name = "ct2"
ae_titles = ["CT2"]
host = "127.0.0.1"
roles = ["source"]

[[routes]]
from_ae = "CT2"
destinations = ["minipacs"]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("reload")
    node = make_node(folder / "node", Pacs(), folder / "no-such-bundle")
    with node.running():
        node.wait_for(lambda: "is ready as" in node.log.read_text(), "the start")
        yield node


@pytest.fixture
def node(running: Node) -> Iterator[Node]:
    good = running.config.read_text()
    yield running
    running.config.write_text(good)
    assert command(running, "reload").returncode == 0


def command(node: Node, verb: str, *options: str, file: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "dicom_node.cli", "config", verb, str(file or node.config), *options]
    return subprocess.run(words, capture_output=True, text=True, timeout=90)


def replace(node: Node, old: str, new: str) -> None:
    text = node.config.read_text()
    assert old in text
    node.config.write_text(text.replace(old, new))


def stack(node: Node, series: str, count: int = 4) -> list[EncodedInstance]:
    instances = []
    for number, dataset in enumerate(head_stack(count, series=series, study=series)):
        path = node.folder / f"{series}-{number}.dcm"
        path.write_bytes(encoded(dataset))
        instances.append(EncodedInstance.read(path))
    return instances


def counted(node: Node) -> int:
    return sum(one.instances for one in node.look())


def test_an_association_in_the_middle_of_sending_loses_nothing(node: Node) -> None:
    instances = stack(node, "middle")
    before = counted(node)
    replace(node, f'"{PACS_AE}"', '"OTHERPACS"')  # the very sender is struck from the list
    with StoreSession(node.remote, PACS_AE, {one.need for one in instances}) as session:
        assert session.send_encoded(instances[0]).status == 0
        done = command(node, "reload")
        assert done.returncode == 0, done.stderr
        assert "peers.minipacs.ae_titles" in done.stdout
        assert [session.send_encoded(one).status for one in instances[1:]] == [0, 0, 0]
        assert session.lost is None
        with pytest.raises(NodeError, match="peer_rejected"):
            echo(node.remote, PACS_AE)
        assert echo(node.remote, "OTHERPACS").round_trip_s >= 0
    node.wait_for(lambda: counted(node) == before + len(instances), "the intake of all instances")


def test_a_peer_that_was_added_can_send_at_once(node: Node) -> None:
    instances = stack(node, "added")
    before = counted(node)
    with pytest.raises(NodeError, match="peer_rejected"):
        echo(node.remote, "CT2")
    node.config.write_text(node.config.read_text() + SECOND)
    done = command(node, "reload", "--json")
    outcome = json.loads(done.stdout)
    assert outcome["taken"] is True
    assert outcome["changed"] == ["peers.ct2", "routes.CT2"]
    with StoreSession(node.remote, "CT2", {one.need for one in instances}) as session:
        assert [session.send_encoded(one).status for one in instances] == [0] * len(instances)
    node.wait_for(lambda: counted(node) == before + len(instances), "the intake of all instances")
    running = settings_in_force(node.paths)
    assert running is not None
    assert running.settings.destinations_for("CT2"), "the service knows the route"


def test_a_bad_file_changes_nothing_and_says_why(node: Node) -> None:
    node.config.write_text(node.config.read_text() + SECOND.replace("roles", "rolls"))
    done = command(node, "reload")
    assert done.returncode == 2
    assert "rolls: unknown key; did you mean 'roles'?" in done.stderr
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)

    def told() -> bool:
        report = node_report(node)
        return report is not None and not report["taken"]

    node.wait_for(told, "the outcome of the signal")
    assert "did you mean 'roles'" in str(node_report(node))
    with pytest.raises(NodeError, match="peer_rejected"):
        echo(node.remote, "CT2")
    assert echo(node.remote, PACS_AE).round_trip_s >= 0


def node_report(node: Node) -> dict[str, object] | None:
    return json.loads((node.paths.run / "state.json").read_bytes())["reload"]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('node_id = "test"', 'node_id = "another"', "node.node_id"),
        ('host = "127.0.0.1"', 'host = "127.0.0.2"', "node.host"),
    ],
)
def test_what_cannot_change_refuses_the_whole_file(node: Node, old: str, new: str, key: str) -> None:
    text = node.config.read_text()
    node.config.write_text(text.replace(old, new, 1) + SECOND)
    done = command(node, "reload")
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"{key}: cannot change from" in done.stderr
    assert "restart" in done.stderr
    with pytest.raises(NodeError, match="peer_rejected"):
        echo(node.remote, "CT2")
    shown = command(node, "diff", "--json")
    found = {one["key"]: one["needs_restart"] for one in json.loads(shown.stdout)["changes"]}
    assert found[key] is True
    assert found["peers.ct2"] is False


def test_another_file_or_another_folder_is_refused(node: Node) -> None:
    other = node.folder / "other.toml"
    other.write_text(node.config.read_text())
    done = command(node, "reload", file=other)
    assert done.returncode == 3
    assert "other_file" in done.stderr
    assert str(node.config) in done.stderr
    other.write_text(node.config.read_text().replace('data_dir = "data"', 'data_dir = "elsewhere"'))
    for verb in ("reload", "diff"):
        done = command(node, verb, file=other)
        assert done.returncode == 3
        assert "not_running" in done.stderr


def test_a_service_that_dies_comes_back_with_the_settings_in_force(node: Node) -> None:
    replace(node, "settle_s = 0.3", "settle_s = 0.4")
    assert command(node, "reload").returncode == 0
    node.config.write_text("this is no longer a settings file")
    before = node.processes()["service"]
    node.kill("service")

    def back() -> bool:
        return node.processes().get("service", before) != before and settings_in_force(node.paths) is not None

    node.wait_for(back, "the return of the service")
    running = settings_in_force(node.paths)
    assert running is not None
    assert running.settings.intake.settle_s == 0.4
    assert running.file == node.config
