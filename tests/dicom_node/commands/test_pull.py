"""`jmmda-node pull` against a peer in the test's hand: what reaches the spool, what is remembered, and bad behaviour.

Covers hostile answers, failures of every kind, a full disk, an interrupt, and that nothing is acknowledged before it is
durable. Left out: real archives and the running node (`tests/peers/test_orthanc_pull`), the words for each status
(`tests/dicom_node/net/test_net_retrieve`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pynetdicom.dimse_primitives import C_GET
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from typer.testing import CliRunner

from dicom_node.commands import pull, pull_run
from dicom_node.ledger.spool import Incoming, SpoolPaths
from dicom_node.net import retrieve
from tests.dicom_node.commands.qr_peer import QrPeer
from tests.dicom_node.net.associations import PATIENT_ID, PATIENT_NAME, ct_dataset, wait_until

NODE = """
[node]
data_dir = "data"
port = {listen}
[intake]
min_free_mib = {free}
[[peers]]
name = "pacs"
ae_titles = ["PACS"]
host = "127.0.0.1"
port = {port}
roles = {roles}
"""
ALL_ROLES = '["source", "destination", "query"]'


def _study(
    number: int, count: int = 3, *, day: str = "20260110", series: int = 1, modality: str = "CT"
) -> list[Dataset]:
    made = []
    for index in range(count):
        ds = ct_dataset(number * 1000 + series * 100 + index)
        ds.StudyDate, ds.Modality = day, modality
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"2.25.5{number}", f"2.25.5{number}.{series}"
        made.append(ds)
    return made


class Desk:
    """A folder with settings for one peer, in which the command is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = SpoolPaths(folder / "data")

    def settings(self, port: int, *, roles: str = ALL_ROLES, free: int = 1, listen: int = 1) -> None:
        text = NODE.format(port=port, roles=roles, free=free, listen=listen)
        (self.folder / "node.toml").write_text(text)

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        app = typer.Typer(rich_markup_mode="rich")
        pull.register(app)
        done = CliRunner().invoke(app, ["pacs", "--json", "--timeout", "5", *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        for secret in (PATIENT_ID, PATIENT_NAME):
            assert secret not in done.output
        return done.exit_code, json.loads(done.stdout) if done.exit_code != 2 else {}

    def associations(self) -> list[Any]:
        folder = self.paths.incoming
        return list(Incoming(folder).associations()) if folder.is_dir() else []

    def files(self) -> int:
        return sum(len(one.files) for one in self.associations())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JMMDA_NODE_CONFIG", raising=False)
    return Desk(tmp_path)


def test_what_was_fetched_is_known_and_what_grew_is_fetched(desk: Desk):
    with QrPeer(_study(1)).listening() as peer:
        desk.settings(peer.port)
        code, told = desk.run("--study", "2.25.51", "--get")
        assert (code, told["studies"][0]["arrived"], told["studies"][0]["level"]) == (0, 3, "STUDY")
        assert (desk.run("--study", "2.25.51", "--get")[1]["known"], desk.files()) == (1, 3)
        assert desk.run("--study", "2.25.51", "--get", "--again")[1]["studies"][0]["arrived"] == 3
        peer.held += _study(1, 2, series=2)
        code, told = desk.run("--study", "2.25.51", "--get")
        assert (code, told["studies"][0]["series"], told["studies"][0]["level"]) == (0, {"2.25.51.2": 2}, "SERIES")
        peer.held += _study(1, 5)[3:]
        assert desk.run("--study", "2.25.51", "--get")[1]["studies"][0]["series"] == {"2.25.51.1": 5}
    assert {one.outcome for one in desk.associations()} == {"closed"}


def test_no_image_is_acknowledged_before_it_is_durable(desk: Desk):
    durable = []

    class Watching(QrPeer):
        def true_get(self, event):
            for number, item in enumerate(super().true_get(event)):
                if number > 1:
                    durable.append(desk.files())  # the response to the image before has just come
                yield item

    with Watching(_study(1, 4)).listening() as peer:
        desk.settings(peer.port)
        assert desk.run("--study", "2.25.51", "--get")[0] == 0
    assert durable == [1, 2, 3]


def test_a_range_takes_ct_only_day_by_day_and_keeps_to_the_limit(desk: Desk):
    held = [*_study(1), *_study(1, 2, series=2, modality="MR"), *_study(2, day="20260111"), *_study(3, day="20260201")]
    days = ("--from", "2026-01-09", "--to", "2026-01-12", "--get")
    with QrPeer(held).listening() as peer:
        desk.settings(peer.port)
        planned = desk.run(*days, "--dry-run")[1]
        assert [one["series"] for one in planned["studies"]] == [{"2.25.51.1": 3}, {"2.25.52.1": 3}]
        assert [level for _, level in peer.asked].count("STUDY") == 4
        assert not desk.paths.data_dir.exists(), "a dry run leaves nothing"
        assert desk.run(*days, "--limit", "1")[1]["studies"][0]["study_instance_uid"] == "2.25.51"
        rest = desk.run(*days)[1]
    assert ([one["study_instance_uid"] for one in rest["studies"]], rest["known"]) == (["2.25.52"], 1)
    assert desk.files() == 6


def test_hostile_answers_are_left_out_and_counted(desk: Desk):
    def answer(**values: Any) -> Dataset:
        ds = Dataset()
        for keyword, value in values.items():
            vr = dictionary_VR(keyword)
            ds.add(DataElement(keyword, vr, value, validation_mode=IGNORE))
        return ds

    def says(query: Dataset) -> list[Dataset]:
        if query.QueryRetrieveLevel == "STUDY":
            good = [answer(StudyInstanceUID="2.25.51", StudyDate="20260110")] * 50
            bad = [
                answer(StudyDate="20260110"),
                answer(StudyInstanceUID="../../etc/passwd"),
                answer(StudyInstanceUID="1" * 65),
            ]
            return [*good, *bad, answer(StudyInstanceUID="2.25.9", StudyDate="19990101")]
        return [
            answer(StudyInstanceUID="2.25.51", SeriesInstanceUID="2.25.51.1", Modality="CT",
                   NumberOfSeriesRelatedInstances="-7"),
            answer(StudyInstanceUID="2.25.666", SeriesInstanceUID="2.25.6", Modality="CT"),
            answer(SeriesInstanceUID="..", Modality="CT"),
            answer(SeriesInstanceUID="2.25.51.7"),
        ]  # fmt: skip

    with QrPeer(_study(1), says=says).listening() as peer:
        desk.settings(peer.port)
        code, told = desk.run("--from", "2026-01-10", "--get")
    assert (code, told["unusable_answers"], told["outside_range"]) == (0, 5, 1)
    (study,) = told["studies"]
    assert (study["series"], study["arrived"]) == ({"2.25.51.1": None}, 3)


def test_a_full_disk_is_told_to_the_peer_and_ends_the_pull(desk: Desk):
    with QrPeer([*_study(1), *_study(2)]).listening() as peer:
        desk.settings(peer.port, free=10**9)
        code, told = desk.run("--from", "2026-01-10", "--get")
    assert code == 1
    assert [one["code"] for one in told["studies"]] == ["disk_full"], "the second study is not begun"
    assert (told["studies"][0]["failed"], desk.files()) == (3, 0)
    assert not (desk.paths.data_dir / "pulled.jsonl").exists()


@pytest.mark.parametrize("end", ["abort", "silence"])
def test_what_came_before_a_break_is_kept_and_fetched_again_later(desk: Desk, end: str):
    calls = []

    def breaking(event):
        calls.append(event)
        if len(calls) > 1:
            yield from peer.true_get(event)
            return
        yield 3
        yield 0xFF00, peer.held[0]
        if end == "abort":
            event.assoc.abort()
        else:
            wait_until(lambda: not event.assoc.is_established, 20)

    with QrPeer(_study(1), get=breaking).listening() as peer:
        desk.settings(peer.port)
        code, told = desk.run("--study", "2.25.51", "--get", "--timeout", "0.5")
        assert (code, told["studies"][0]["code"]) == (1, {"abort": "peer_aborted", "silence": "peer_silent"}[end])
        assert [(one.outcome, len(one.files)) for one in desk.associations()] == [("aborted", 1)]
        assert desk.run("--study", "2.25.51", "--get")[1]["studies"][0]["arrived"] == 3


def test_a_peer_that_answers_without_end_is_left(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrieve, "_STANDSTILL", 1)
    with QrPeer(_study(1), get=_pending_for_ever).listening() as peer:
        desk.settings(peer.port)
        code, told = desk.run("--study", "2.25.51", "--get", "--timeout", "1.5")
    assert (code, told["studies"][0]["code"]) == (1, "retrieve_endless")


def _pending_for_ever(event):
    yield 1
    while event.assoc.is_established:
        event.assoc.dimse.send_msg(_pending(event), event.context.context_id)
        wait_until(lambda: not event.assoc.is_established, 0.05)


def _pending(event):
    answer = C_GET()
    answer.MessageIDBeingRespondedTo = event.request.MessageID
    answer.AffectedSOPClassUID = event.request.AffectedSOPClassUID
    answer.Status = 0xFF00
    answer.NumberOfRemainingSuboperations = 1
    return answer


def test_what_cannot_work_is_refused_before_the_peer_is_called(desk: Desk, free_port: int):
    desk.settings(free_port, roles='["source", "destination"]')
    code, told = desk.run("--study", "2.25.51", "--get")
    assert (code, told["error"]["code"]) == (3, "peer_roles")
    desk.settings(free_port)
    code, told = desk.run("--study", "2.25.51")
    assert (code, told["error"]["code"]) == (1, "node_not_listening")
    code, told = desk.run("--study", "2.25.51", "--get")
    assert (code, told["error"]["code"]) == (1, "peer_unreachable")


def test_files_of_another_user_are_not_made(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    desk.settings(104)
    desk.paths.make()
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    code, told = desk.run("--study", "2.25.51", "--get")
    assert (code, told["error"]["code"]) == (3, "wrong_user")


def test_a_peer_without_the_verb(desk: Desk):
    with QrPeer(_study(1), verbs=(StudyRootQueryRetrieveInformationModelFind,)).listening() as peer:
        desk.settings(peer.port)
        code, told = desk.run("--study", "2.25.51", "--get")
    assert (code, told["studies"][0]["code"]) == (3, "retrieve_unknown")


def test_success_without_an_image_is_no_success(desk: Desk):
    def nothing(event):
        yield 0

    with QrPeer(_study(1), get=nothing).listening() as peer:
        desk.settings(peer.port)
        code, told = desk.run("--study", "2.25.51", "--get")
    assert (code, told["studies"][0]["code"]) == (1, "retrieve_incomplete")


@pytest.mark.parametrize("arguments", [
    (), ("--study", "1", "--from", "2026-01-01"), ("--series", "1", "--from", "2026-01-01"),
    ("--study", "1", "--to", "2026-01-01"), ("--from", "2026-01-02", "--to", "2026-01-01"), ("--from", "tomorrow"),
    ("--from", "2026-01-01", "--limit", "0"), ("--from", "2026-01-01", "--rate", "0"),
])  # fmt: skip
def test_wrong_usage(desk: Desk, arguments: tuple[str, ...]):
    desk.settings(104)
    assert desk.run(*arguments)[0] == 2


def test_an_unknown_peer_is_named(desk: Desk):
    desk.settings(104)
    app = typer.Typer(rich_markup_mode="rich")
    pull.register(app)
    done = CliRunner().invoke(app, ["pcas", "--study", "1"])
    assert done.exit_code == 2
    assert "did you mean 'pacs'" in " ".join(done.output.replace("│", " ").split())


def test_studies_are_begun_at_the_pace_that_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    now, waits = [100.0], []
    monkeypatch.setattr(pull_run.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pull_run.time, "sleep", waits.append)
    pace = pull_run.Pace(10)
    pace.wait()
    now[0] += 2.0
    pace.wait()
    assert waits == [4.0]
    pull_run.Pace(None).wait()
    assert len(waits) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_half_done_and_the_same_command_goes_on(desk: Desk, number: signal.Signals):
    calls = []

    def slow(event):
        calls.append(event)
        if len(calls) == 2:  # the second study never ends
            yield 3
            yield 0xFF00, peer.held[3]
            wait_until(lambda: not event.assoc.is_established, 30)
            return
        yield from peer.true_get(event)

    with QrPeer([*_study(1), *_study(2)], get=slow).listening() as peer:
        desk.settings(peer.port)
        command = [sys.executable, "-m", "dicom_node.cli", "pull", "pacs", "--from", "2026-01-10", "--get", "--json"]
        # A job in the background ignores SIGINT, and hands that down.
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert wait_until(lambda: desk.files() == 4, 60)
        child.send_signal(number)
        output, _ = child.communicate(timeout=60)
        told = json.loads(output)
        assert (child.returncode, told["interrupted"], told["ok"]) == (1, True, False)
        assert [one["outcome"] for one in told["studies"]] == ["pulled", "planned"]
        assert [(one.outcome, len(one.files)) for one in desk.associations()] == [("closed", 3), ("aborted", 1)]
        code, told = desk.run("--from", "2026-01-10", "--get")
    assert (code, told["known"], [one["study_instance_uid"] for one in told["studies"]]) == (0, 1, ["2.25.52"])
