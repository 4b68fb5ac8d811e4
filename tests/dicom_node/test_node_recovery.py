"""The node when its processes are killed, its ledger is lost, or its PACS is away: one result, none lost, none doubled.

Left out: a kill at every single step of ingest (`test_ingest`) and of receiving (`test_spool`, tests of `receive`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.net.scu import echo
from tests.dicom_node.running_node import PACS_AE, Pacs, make_node, send


@pytest.fixture
def source(phantom_ct: Path) -> list[Path]:
    return sorted(phantom_ct.rglob("*.dcm"))


def test_service_and_worker_killed_between_receive_and_result(tmp_path: Path, tiny_bundle: Path, source: list[Path]):
    pacs = Pacs()
    node = make_node(tmp_path / "node", pacs, tiny_bundle)
    with pacs.listening(), node.running():
        send(node, source[:12])
        node.wait_for(lambda: "service" in node.processes(), "the start of the service")
        node.kill("service")
        send(node, source[12:])
        assert echo(node.remote, PACS_AE).round_trip_s < 5.0, "the front door stays open"
        node.wait_for(lambda: node.states() in (["QUEUED"], ["SYNTHESIZING"]), "the queue")
        node.wait_for(lambda: "worker" in node.processes(), "the start of the worker")
        first = node.processes()
        node.kill("service")
        node.wait_for(
            lambda: {"service", "worker"} <= set(node.processes()) and node.processes()["service"] != first["service"],
            "the restart",
        )
        assert not Path(f"/proc/{first['worker']}").exists(), "the worker of the dead service died with it"
        node.kill("worker")
        node.wait_for(lambda: node.states() == ["DELIVERED"], "the delivery")
        (series,) = node.look()
        assert series.instances == len(source)
        assert len(series.jobs) == 1
    assert sorted(pacs.arrivals.values()) == [1] * len(source)
    assert len(pacs.series(tmp_path / "received")) == 1


def test_pacs_away_then_ledger_lost_then_lost_again_after_the_end(
    tmp_path: Path, tiny_bundle: Path, source: list[Path]
):
    pacs = Pacs()
    node = make_node(tmp_path / "node", pacs, tiny_bundle)
    with node.running():
        send(node, source)
        node.wait_for(lambda: node.states() == ["DELIVERING"], "the first try")
        node.wait_for(lambda: node.look()[0].jobs[0].deliveries[0].code == "peer_unreachable", "its failure")
    (half_done,) = node.look()
    node.lose_ledger()
    with pacs.listening(), node.running():
        node.wait_for(lambda: node.states() == ["DELIVERED"], "the delivery after the PACS came back")
    (finished,) = node.look()
    assert finished.jobs[0].key == half_done.jobs[0].key
    assert finished.jobs[0].result_series_uid == half_done.jobs[0].result_series_uid
    assert sorted(pacs.arrivals.values()) == [1] * len(source)

    before = node.status()
    node.lose_ledger()
    with pacs.listening(), node.running():
        node.wait_for(lambda: node.states() == ["DELIVERED"], "the ledger's return")
        send(node, source)
        node.wait_for(
            lambda: node.look()[0].changed_at and not list(node.paths.incoming.iterdir()), "the second intake"
        )
        (again,) = node.look()
        after = node.status()
    assert again.jobs == finished.jobs
    for part in ("series", "studies", "results", "deliveries", "stages"):
        assert after[part] == before[part]
    assert sorted(pacs.arrivals.values()) == [1] * len(source), "no second result"


def test_a_phantom_result_does_not_leave_unless_allowed(tmp_path: Path, tiny_bundle: Path, source: list[Path]):
    pacs = Pacs()
    node = make_node(tmp_path / "node", pacs, tiny_bundle, allow_phantom_bundle=False)
    with pacs.listening(), node.running():
        send(node, source)
        node.wait_for(lambda: node.states() == ["FAILED"], "the dead letter")
        (letter,) = node.ask("dead-letter", "list", "--json")
        assert letter["code"] == "phantom_bundle"
        assert "allow_phantom_bundle = true" in letter["reason"]
        assert not pacs.arrivals
        config = node.config.read_text()
        node.config.write_text(config.replace("allow_phantom_bundle = false", "allow_phantom_bundle = true"))
    with pacs.listening(), node.running():
        (remedy,) = node.ask("dead-letter", "replay", "--all", "--json")
        assert remedy["before"] == "FAILED"
        node.wait_for(lambda: node.states() == ["DELIVERED"], "the delivery after the replay")
    assert sorted(pacs.arrivals.values()) == [1] * len(source)
