"""Trainings side by side, their estimate, and ``train experiment`` from its arguments to its report.

Real networks of 32 pixels on drawn cases; one pair of phantom volumes is made. Leaves out several GPUs, and that a
training goes on exactly where it was (test_training_killed.py).
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from test_experiments_plan import write_archive
from typer.testing import CliRunner

from train.commands.experiment import EPILOG, experiment
from train.experiments import budgets
from train.experiments.budgets import ArchiveData, Budget, recipe_for
from train.experiments.plan import START_S, estimate
from train.experiments.records import Training
from train.experiments.runner import (
    DONE_NAME,
    PROCESS_LOG,
    last_line,
    make_volumes,
    phantom_data,
    run_folder,
    run_trainings,
)
from train.registry import build_translator
from train.runlog import RunLog
from train.state import CHECKPOINT_NAME, averaged_weights

TINY = Budget(
    "tiny",
    width=0.125,
    grid_px=32,
    matrix=64,
    n_slices=14,
    slice_mm=8.0,
    train=1,
    validation=1,
    test=1,
    images=8,
    batch=2,
    seeds=(0,),
    mark="pipeline check",
)

app = typer.Typer()
app.command(epilog=EPILOG)(experiment)
RUNNER = CliRunner()


class Watch:
    """A progress display that keeps what it is told, and may do something then."""

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        self.seen: list[tuple[int, int, str]] = []
        self.notes: list[str] = []
        self.then = then

    def update(self, done: int, total: int, text: str) -> None:
        self.seen.append((done, total, text))
        if self.then:
            self.then(done)

    def note(self, line: str) -> None:
        self.notes.append(line)


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveData:
    return ArchiveData.open(write_archive(tmp_path / "archive", "A", "B"), ("A", "B"))


def training_of(method: str, data: ArchiveData, *, images: int = 8) -> Training:
    return Training(recipe_for(method, ("A",), dataclasses.replace(TINY, images=images), 0, data=data))


@pytest.mark.slow
def test_networks_train_side_by_side_and_one_that_fails_stops_no_other(tmp_path: Path, archive: ArchiveData) -> None:
    absent = dataclasses.replace(archive, folder=tmp_path / "later")
    good = [training_of(method, archive) for method in ("jmmda", "unet_l1")]
    bad = training_of("unet_l1", absent)
    out, watch = tmp_path / "out", Watch()
    outcomes = run_trainings([good[0], bad, good[1]], out, cache_root=out / "cache", jobs=2, progress=watch)
    assert [outcome.state for outcome in outcomes] == ["finished", "failed", "finished"]
    assert "is no cache" in outcomes[1].reason
    assert "Traceback" in (run_folder(out, bad) / PROCESS_LOG).read_text(encoding="utf-8")
    assert watch.seen[-1][:2] == (300, 300)
    assert [done for done, _, _ in watch.seen] == sorted(done for done, _, _ in watch.seen)
    ended = [re.fullmatch(r"(.*): (finished|failed) after \d+ s, (\d) of 3", note) for note in watch.notes[1:]]
    assert {(found[1], found[2]) for found in ended if found} == {(one.key, one.state) for one in outcomes}
    assert [found[3] for found in ended if found] == ["1", "2", "3"]
    for training in good:
        run = run_folder(out, training)
        network = build_translator(training.recipe)
        network.load_state_dict(averaged_weights(run))
        assert all(torch.isfinite(value).all() for value in network.state_dict().values())
        assert not list(run.glob("stage-*.pt"))
        assert set(torch.load(run / CHECKPOINT_NAME, weights_only=True)["parts"]) == {"average"}

    before = [(run_folder(out, training) / CHECKPOINT_NAME).stat().st_mtime_ns for training in good]
    (tmp_path / "archive").rename(tmp_path / "later")
    again = run_trainings([*good, bad], out, cache_root=out / "cache", jobs=1)
    assert [outcome.state for outcome in again] == ["finished"] * 3
    assert again[0] == outcomes[0]
    assert [(run_folder(out, training) / CHECKPOINT_NAME).stat().st_mtime_ns for training in good] == before


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_with_a_checkpoint_and_the_next_call_goes_on(
    tmp_path: Path, archive: ArchiveData, asked: signal.Signals
) -> None:
    first, second = training_of("unet_l1", archive, images=800), training_of("jmmda", archive)
    watch = Watch(lambda done: os.kill(os.getpid(), asked) if done else None)
    before = signal.getsignal(asked)
    outcomes = run_trainings([first, second], tmp_path, cache_root=tmp_path / "cache", progress=watch)
    assert signal.getsignal(asked) is before
    assert [outcome.state for outcome in outcomes] == ["stopped", "stopped"]
    run = run_folder(tmp_path, first)
    assert (run / CHECKPOINT_NAME).exists()
    assert not (run / DONE_NAME).exists()
    assert not run_folder(tmp_path, second).exists()
    if asked == signal.SIGTERM:
        return
    (outcome,) = run_trainings([first], tmp_path, cache_root=tmp_path / "cache")
    assert outcome.state == "finished"
    lines = RunLog(run / "log.jsonl").read()
    assert [line["event"] for line in lines if line["event"] in ("started", "resumed")] == ["started", "resumed"]
    assert json.loads((run / DONE_NAME).read_text(encoding="utf-8"))["steps"] == 400


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_about(tmp_path: Path, archive: ArchiveData) -> None:
    def kill(done: int) -> None:
        if done:
            for process in multiprocessing.active_children():
                process.kill()

    (outcome,) = run_trainings(
        [training_of("unet_l1", archive, images=800)], tmp_path, cache_root=tmp_path / "cache", progress=Watch(kill)
    )
    assert (outcome.state, outcome.reason) == ("failed", "its process was ended by signal 9")


def test_the_last_line_of_a_process_without_the_name_of_the_error(tmp_path: Path) -> None:
    log = tmp_path / PROCESS_LOG
    log.write_text("Traceback (most recent call last):\n  ...\ntrain.state.TrainingError: a: b\n\n", encoding="utf-8")
    assert last_line(log) == "a: b"
    log.write_text("out of memory: killed\n", encoding="utf-8")
    assert last_line(log) == "out of memory: killed"
    log.write_text("", encoding="utf-8")
    assert last_line(log) == "no reason was printed"


def test_volumes_of_all_trainings_are_asked_for_once() -> None:
    more = dataclasses.replace(TINY, train=3, test=2)
    other = dataclasses.replace(TINY, matrix=96)
    trainings = [
        Training(recipe_for("unet_l1", centres, budget, 0))
        for centres, budget in ((("A",), TINY), (("B",), more), (("A", "B"), TINY), (("B",), other))
    ]
    joined, apart = phantom_data(trainings)
    assert (joined.data.train, joined.data.validation) == ({"A": 1, "B": 3}, {"A": 1, "B": 1})
    assert joined.data.test == {"A": 2, "B": 2}
    assert (apart.data.matrix, apart.data.train) == (96, {"B": 1})


@pytest.mark.slow
def test_an_estimate_counts_what_is_missing_and_measures_what_is_left(tmp_path: Path) -> None:
    trainings = [
        Training(recipe_for(method, ("A",), TINY, seed)) for method in ("jmmda", "hisgan_repo") for seed in (0, 1)
    ]
    cut = dataclasses.replace(trainings[0].recipe, max_minutes=1e-9)
    plan = estimate([*trainings[1:], Training(cut)], tmp_path, cache_root=tmp_path / "cache", jobs=2)
    assert not list(tmp_path.iterdir()), "nothing is written"
    assert plan.volumes == 1 + 1 + 2
    assert [network.steps for network in plan.networks] == [4] * 4
    seconds = [network.seconds or 0.0 for network in plan.networks]
    assert seconds[-1] == pytest.approx(START_S, abs=1e-6)
    assert min(seconds[:-1]) > START_S
    assert plan.minutes == pytest.approx(sum(seconds) / 2 / 60)

    make_volumes(trainings, tmp_path / "cache", jobs=1)
    run = run_folder(tmp_path, trainings[0])
    run.mkdir(parents=True)
    (run / DONE_NAME).write_text('{"minutes": 1.0, "steps": 4}', encoding="utf-8")
    plan = estimate(trainings[:2], tmp_path, cache_root=tmp_path / "cache", measure=False)
    assert (plan.volumes, [network.finished for network in plan.networks]) == (0, [True, False])
    assert plan.minutes is None
    assert estimate(trainings[:1], tmp_path, cache_root=tmp_path / "cache").minutes == 0.0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["tabel2"], "did you mean table2?"),
        (["table2", "--budget", "huge"], "is one of quick, half, full"),
        (["table2", "--seeds", "0,0"], "are different whole numbers"),
        (["table2", "--seeds", "one"], "are different whole numbers"),
        (["table2", "--data", "somewhere"], "go together"),
        (["table2", "--devices", "tpu"], "is no device"),
        (["table2", "--devices", ","], "at least one device"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(words: list[str], reason: str) -> None:
    done = RUNNER.invoke(app, words, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.replace("│", " ").split())


def test_an_archive_that_cannot_be_used(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["table2", "--data", str(tmp_path), "--centres", "A", "B"], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert "is no cache" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_from_the_command_to_the_report(tmp_path: Path, archive: ArchiveData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(budgets.BUDGETS, "quick", TINY)  # type: ignore[arg-type]
    out = tmp_path / "out"
    words = ["robustness", "--out", str(out), "--data", str(archive.folder), "--centres", "B", "A"]
    words += ["--devices", "cpu", "--jobs", "2"]
    planned = RUNNER.invoke(app, [*words, "--plan", "--json"])
    assert planned.exit_code == 0, planned.output
    assert not out.exists()
    plan = json.loads(planned.stdout)["plan"]
    assert (plan["left"], plan["volumes"], len(plan["networks"])) == (2, 0, 2)
    assert plan["minutes"] > 0.0

    done = RUNNER.invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [outcome["state"] for outcome in told["outcomes"]] == ["finished", "finished"]
    assert told["missing"] == []
    assert all(Path(file).is_file() for file in told["files"])
    page = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert TINY.mark in page.casefold()
    assert "centre A" in page

    again = RUNNER.invoke(app, words, env={"COLUMNS": "200"})
    assert again.exit_code == 0, again.output
    assert "2 of 2 networks trained" in again.stdout
    assert "0 networks to train" in again.stdout
