"""What a run writes: TensorBoard's files beside the log, lines that a resume takes back, digests of where it came from.

Also the lines of progress in a log file. Leaves out the pictures' content (test_trainer.py counts them), and bars.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from training_cases import drawn_case, tiny_recipe

from train import runlog
from train.recipe import Recipe
from train.recording import Recorder, data_digest, origin
from train.runlog import RunLog, progress_bar


def with_board() -> Recipe:
    return tiny_recipe(log={"tensorboard": True})


def write_some(recorder: Recorder) -> None:
    recorder.open(0)
    recorder.write("step", step=0, stage="one", loss=1.5, terms={"pixel": 1.25})
    recorder.picture("one", 3, np.zeros((4, 5), np.uint8))
    recorder.close()


def test_figures_and_pictures_reach_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_some(Recorder(tmp_path, with_board()))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("step/terms/pixel")] == [(0, 1.25)]
    assert events.Scalars("step/loss")[0].value == 1.5
    assert events.Images("samples/one")[0].step == 3


def test_run_goes_on_without_tensorboard_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("tensorboard", "torch.utils.tensorboard.writer"):
        monkeypatch.setitem(sys.modules, name, None)
    with caplog.at_level(logging.INFO, logger="train.recording"):
        write_some(Recorder(tmp_path, with_board()))
    assert [record.getMessage() for record in caplog.records] == [
        "tensorboard is not installed: scalars go to log.jsonl alone"
    ]
    assert RunLog(tmp_path / "log.jsonl").read()[0]["loss"] == 1.5
    assert (tmp_path / "samples" / "one-000003.png").exists()


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", with_board(), active=False)
    recorder.keep_recipe()
    write_some(recorder)
    assert not (tmp_path / "run").exists()


def test_resume_takes_back_what_will_be_written_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.write("started")
    log.write("stage", step=0)
    for step in range(5):
        log.write("step", step=step)
    log.write("validation", step=3)
    log.write("stage", step=3)
    log.write("validation", step=4)
    with log.path.open("a") as stream:
        stream.write('{"event": "step", "st')  # a line that the kill cut
    log.forget_after(3)
    kept = [(line["event"], line.get("step")) for line in log.read()]
    assert kept == [("started", None), ("stage", 0), ("step", 0), ("step", 1), ("step", 2), ("validation", 3)]
    log.forget_after(3)
    assert [(line["event"], line.get("step")) for line in log.read()] == kept
    assert all(json.loads(line) for line in log.path.read_text().splitlines())
    log.forget_after(0)
    assert log.read() == []


def test_other_data_and_another_recipe_have_other_digests() -> None:
    cases = [drawn_case(0), drawn_case(1)]
    first = origin(tiny_recipe(), cases)
    assert first == origin(tiny_recipe(), cases)
    assert origin(tiny_recipe(seed=5), cases)["recipe_sha256"] != first["recipe_sha256"]
    hu = cases[1].hu.copy()
    hu[2, 16, 16] += 1
    assert data_digest([cases[0], dataclasses.replace(cases[1], hu=hu)]) != first["data_sha256"]


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **settings: object) -> list[str]:
    """Lines of 200 steps of a second each, with a note after the 90th, where the output is no terminal."""
    now = [0.0]
    monkeypatch.setattr(runlog, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    with progress_bar("work", **settings) as bar:  # type: ignore[arg-type]
        for step in range(1, 201):
            now[0] += 1.0
            bar.update(step, 200, "steps")
            if step == 90:
                bar.note("one: finished")
    return capsys.readouterr().out.splitlines()


def test_a_log_file_gets_a_line_a_minute_the_notes_and_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["steps: 60 of 200", "one: finished", "steps: 120 of 200", "steps: 180 of 200", "steps: 200 of 200"]
    assert told(monkeypatch, capsys) == lines
    assert told(monkeypatch, capsys, line_every_s=None) == ["one: finished"]
    assert told(monkeypatch, capsys, show=False) == []
