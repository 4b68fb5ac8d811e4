"""The whole node, processes and associations real: a study comes back once, labelled, and the node can be run.

Left out: what happens when processes die or the ledger is lost (`test_node_recovery`), and the parts' own tests.
"""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.net.scu import echo
from tests.dicom_node.running_node import PACS_AE, Node, Pacs, make_node, send


@dataclass
class Journey:
    """A node that has delivered one series, and still runs."""

    node: Node
    pacs: Pacs
    source: list[Path]
    received: list[Path]


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path, phantom_ct: Path) -> Iterator[Journey]:
    folder = tmp_path_factory.mktemp("node")
    pacs = Pacs()
    node = make_node(folder / "node", pacs, tiny_bundle)
    source = sorted(phantom_ct.rglob("*.dcm"))
    with pacs.listening(), node.running():
        send(node, source)
        node.wait_for(lambda: node.states() == ["DELIVERED"], "the delivery")
        yield Journey(node, pacs, source, pacs.write_to(folder / "received"))


def test_one_labelled_image_per_slice_comes_back_once(journey: Journey):
    assert set(journey.pacs.arrivals.values()) == {1}
    received = [dcmread(path) for path in journey.received]
    source = [dcmread(path, stop_before_pixels=True) for path in journey.source]
    assert len(received) == len(source)
    assert {tuple(ds.ImagePositionPatient) for ds in received} == {tuple(ds.ImagePositionPatient) for ds in source}
    assert {ds.StudyInstanceUID for ds in received} == {source[0].StudyInstanceUID}
    assert {ds.SyntheticData for ds in received} == {"YES"}
    assert all("SYNTHETIC" in ds.SeriesDescription for ds in received)


def test_status_tells_counts_stage_times_and_processes(journey: Journey):
    status = journey.node.status()
    assert status["series"]["DELIVERED"] >= 1
    assert status["deliveries"]["DELIVERED"] >= 1
    for stage in ("receive", "wait", "queue", "synthesize", "derive", "deliver", "total"):
        times = status["stages"][stage]
        assert times["jobs"] >= 1
        assert 0 <= times["p50_s"] <= times["p95_s"] < 120
    assert status["processes"]["running"]
    assert status["processes"]["well"]
    assert status["processes"]["worker"]["bundle"] == "untrained-tiny"
    assert set(journey.node.processes()) == {"supervisor", "service", "receiver", "worker"}


def test_series_show_tells_the_whole_story(journey: Journey):
    uid = str(dcmread(journey.source[0], stop_before_pixels=True).SeriesInstanceUID)
    (story,) = journey.node.ask("series", "show", uid, "--json")
    assert [event["after"] for event in story["history"] if event["kind"] == "state"] == [
        "COMPLETE",
        "QUEUED",
        "SYNTHESIZING",
        "DERIVED",
        "DELIVERING",
        "DELIVERED",
    ]
    assert story["signs"]
    (job,) = story["jobs"]
    result_uid = str(dcmread(journey.received[0], stop_before_pixels=True).SeriesInstanceUID)
    assert job["result_series_uid"] == result_uid
    assert journey.node.ask("series", "show", result_uid, "--json")[0]["series_instance_uid"] == uid


def test_the_study_sent_again_and_the_result_sent_back_make_no_second_result(journey: Journey):
    before = dict(journey.pacs.arrivals)
    send(journey.node, journey.source)
    send(journey.node, journey.received)
    journey.node.wait_for(lambda: journey.node.states() == ["DELIVERED", "SKIPPED"], "the loop guard")
    (skipped,) = [one for one in journey.node.look() if one.state == "SKIPPED"]
    assert skipped.code == "loop_guard"
    journey.node.wait_for(lambda: journey.node.status()["open_associations"] == 0, "the end of the associations")
    (delivered,) = [one for one in journey.node.look() if one.state == "DELIVERED"]
    assert len(delivered.jobs) == 1
    assert dict(journey.pacs.arrivals) == before


def test_a_second_node_on_the_same_data_is_refused(journey: Journey):
    config = journey.node.folder / "second.toml"
    port = f"port = {journey.node.port}"
    text = journey.node.config.read_text()
    assert port in text
    config.write_text(text.replace(port, f"port = {Pacs().remote.port}"))
    command = [sys.executable, "-m", "dicom_node.cli", "serve", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "spool_in_use" in done.stderr
    assert journey.node.status()["processes"]["running"]


_SECOND_SCANNER = """
[[peers]]
name = "ct2"
ae_titles = ["CT2"]
host = "127.0.0.1"
roles = ["source"]

[[routes]]
from_ae = "CT2"
destinations = ["minipacs"]
"""


def _reload_report(node: Node) -> dict:
    return node.status()["processes"]["reload"] or {}


def test_a_bad_reload_changes_nothing_and_says_why_and_a_good_one_counts(journey: Journey):
    node = journey.node
    assert node.process is not None
    good = node.config.read_text()
    try:
        node.config.write_text(good.replace("settle_s", "setle_s"))
        node.process.send_signal(signal.SIGHUP)
        # The supervisor checks first and does not even tell its children.
        node.wait_for(lambda: "setle_s" in node.log.read_text(), "the report of the fault")
        assert f"{node.config}:" in node.log.read_text()
        assert echo(node.remote, PACS_AE).round_trip_s < 5.0

        node.config.write_text(good + _SECOND_SCANNER)
        node.process.send_signal(signal.SIGHUP)
        node.wait_for(lambda: _reload_report(node).get("taken"), "the reload")

        def answers() -> bool:
            try:
                echo(node.remote, "CT2")
            except Exception:  # refused until the receiver has taken the new plan
                return False
            return True

        node.wait_for(answers, "the new peer's admission")
    finally:
        node.config.write_text(good)
        node.process.send_signal(signal.SIGHUP)


def test_everything_on_disk_is_private(journey: Journey):
    data = journey.node.paths.data_dir
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for path in data.rglob("*"):
        if not path.is_socket():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_no_patient_data_in_logs_journals_names_or_answers(journey: Journey):
    ds = dcmread(journey.source[0], stop_before_pixels=True)
    secrets = {str(ds.PatientID), str(ds.PatientBirthDate), *str(ds.PatientName).split("^")} - {""}
    secrets = {secret for secret in secrets if len(secret) >= 4}
    assert secrets
    data = journey.node.paths.data_dir
    texts = [journey.node.log.read_text(), str(journey.node.ask("series", "list", "--json"))]
    texts += [path.read_text(errors="replace") for path in data.rglob("*.json*")]
    texts += [str(path.relative_to(data)) for path in data.rglob("*")]
    texts.append((data / "ledger.sqlite").read_bytes().decode("latin-1"))
    for secret in secrets:
        assert not any(secret in text for text in texts), (
            "an identity attribute stands in a log, journal, name or answer"
        )
