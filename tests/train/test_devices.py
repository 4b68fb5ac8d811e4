"""Devices of a run: Lightning Fabric alone and with two CPU processes under torchrun, and the stand-in without it.

Covers: two processes with half the batch each have the losses of one process with all of it, stop and resume together,
and only process 0 writes. Leaves out GPUs, NCCL and several machines (none in CI).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_cases import CONTRACT, drawn_case, tiny_recipe

from train.data.dataset import SliceDataset
from train.devices import FabricDevices, SingleDevice, choose_device, in_turn, open_devices
from train.recipe import Recipe
from train.state import TrainingError
from train.trainer import Trainer

HERE = Path(__file__).parent
CPU = torch.device("cpu")

PLAIN = {"probability": 0.0, "flip": False, "noise_hu": 0.0, "offset_hu": 0.0}

TOGETHER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_devices import cases, recipe
from train import schedule
from train.devices import in_turn, open_devices
from train.trainer import Trainer
schedule.AGREE_EVERY = 2
devices = open_devices("cpu")
built = in_turn(devices, lambda: devices.rank)
run = Path(sys.argv[2]) / f"of-process-{devices.rank}"
data = cases()
class Stopper:
    trainer = None
    def update(self, done, total, text):
        if self.trainer is not None and self.trainer.position.total == 3:
            self.trainer.stop()
first = Trainer(recipe(2), run, data, data, devices, Stopper())
if devices.rank == 1:
    first.progress.trainer = first  # only process 1 is asked to stop
cut = first.fit()
second = Trainer(recipe(2), run, data, data, devices)
second.resume()
result = second.fit()
print(devices.world, devices.rank, built, cut.finished, cut.steps, result.finished, result.steps, flush=True)
"""


def cases() -> SliceDataset:
    return SliceDataset([drawn_case(seed, lesion=seed % 2 == 0) for seed in range(4)], CONTRACT)


def recipe(batch: int) -> Recipe:
    stages = [
        {"name": "pixel", "grid_px": 16, "steps": 5, "batch": batch, "learning_rate": 1e-3},
        {"name": "gan", "grid_px": 32, "steps": 3, "batch": batch, "learning_rate": 1e-3, "adversarial": True},
    ]
    discriminator = {"ndf": 4, "n_layers": 1, "spectral_norm": True, "r1_gamma": 1.0, "r1_every": 2}
    return tiny_recipe(stages=stages, augment=PLAIN, discriminator=discriminator, loss={"pixel": "adaptive"})


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["event"] == "step"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_have_the_losses_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(TOGETHER, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *launcher, str(HERE), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(done.stdout.split("\n")[:2]) == ["2 0 0 False 4 True 8", "2 1 1 False 4 True 8"]
    assert not (tmp_path / "of-process-1").exists()

    Trainer(recipe(4), tmp_path / "alone", cases(), cases(), CPU).fit()
    together, alone = losses(tmp_path / "of-process-0"), losses(tmp_path / "alone")
    assert [step for step, _ in together] == [step for step, _ in alone] == list(range(8))
    assert [loss for _, loss in together] == pytest.approx([loss for _, loss in alone], rel=2e-4)


def test_fabric_on_one_cpu_trains_as_plain_torch_does(tmp_path: Path) -> None:
    devices = open_devices("cpu")
    assert isinstance(devices, FabricDevices)
    assert (devices.rank, devices.world, devices.device.type) == (0, 1, "cpu")
    Trainer(tiny_recipe(), tmp_path / "fabric", cases(), cases(), devices).fit()
    Trainer(tiny_recipe(), tmp_path / "plain", cases(), cases(), SingleDevice(CPU)).fit()
    assert losses(tmp_path / "fabric") == losses(tmp_path / "plain")


def test_one_device_serves_where_fabric_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with caplog.at_level(logging.INFO, logger="train.devices"):
        assert isinstance(open_devices("cpu"), SingleDevice)
    assert "not installed" in caplog.text
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="lightning-fabric") as caught:
        open_devices("cpu")
    assert caught.value.code == "fabric"


def test_one_process_takes_one_turn() -> None:
    calls: list[int] = []
    assert in_turn(SingleDevice(CPU), lambda: calls.append(1) or "built") == "built"
    assert calls == [1]


def test_device_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == CPU
    for name, reason in (("cuda:0", "no CUDA"), ("gpu", "is no device"), ("meta", "cpu or cuda")):
        with pytest.raises(TrainingError, match=reason):
            choose_device(name)
