"""Training that is killed with SIGKILL after a checkpoint, and stopped with SIGTERM.

Covers: the process really dies, the run goes on from its checkpoint, and every loss and the final weights are those of
a run that nobody touched. Leaves out power loss (the checkpoint is flushed to the disk before it gets its name).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from train.state import CHECKPOINT_NAME, averaged_weights

HERE = Path(__file__).parent

RUN = """
import dataclasses, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
torch.set_num_threads(1)
from training_cases import CONTRACT, drawn_case, tiny_recipe
from train import fit
from train.data.dataset import SliceDataset
run, resume, slow = Path(sys.argv[2]), sys.argv[3] == "resume", sys.argv[4] == "slow"
run.mkdir(exist_ok=True)
data = SliceDataset([drawn_case(seed, lesion=seed % 2 == 0) for seed in range(4)], CONTRACT)
class Slow:
    def update(self, done, total, text):
        import time
        if slow:
            time.sleep(0.2)
trainer = fit.Trainer(tiny_recipe(), run, data, data, torch.device("cpu"), Slow())
if resume:
    trainer.resume()
with fit._stops_on_signal(trainer):
    result = trainer.fit()
print(result.finished, result.steps)
"""


def start(run: Path, *, resume: bool = False, slow: bool = False) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-c",
        RUN,
        str(HERE),
        str(run),
        "resume" if resume else "start",
        "slow" if slow else "fast",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-2000:]
    return out.strip()


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not file.exists() and time.monotonic() < end:
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.02)
    assert file.exists()


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["event"] == "step"]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("untouched") / "run"
    assert finish(start(run)) == "True 7"
    return run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_run_goes_on_with_the_losses_of_one_that_was_not(tmp_path: Path, untouched: Path) -> None:
    run = tmp_path / "run"
    process = start(run, slow=True)
    wait_for(run / CHECKPOINT_NAME, process)
    time.sleep(0.3)  # into the steps after the checkpoint, which the continued run has to take again
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(losses(run)) < 7
    assert finish(start(run, resume=True)) == "True 7"
    assert losses(run) == losses(untouched)
    ours, theirs = averaged_weights(run), averaged_weights(untouched)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_term_signal_ends_the_run_with_a_checkpoint(tmp_path: Path, untouched: Path) -> None:
    run = tmp_path / "run"
    process = start(run, slow=True)
    wait_for(run / "log.jsonl", process)
    while '"step"' not in (run / "log.jsonl").read_text():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    finished, steps = finish(process).split()
    assert finished == "False"
    assert 0 < int(steps) < 7
    assert finish(start(run, resume=True)) == "True 7"
    assert losses(run) == losses(untouched)
