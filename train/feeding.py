"""Batches ahead of time, drawn in background threads; each is a function of its step, so that a resume is exact."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from train.data.dataset import Batch, SliceDataset, augment_planes, to_batch
from train.devices import Devices
from train.recipe import AugmentRecipe, Recipe, StageRecipe

#: Threads that draw batches: a GPU takes more slices a second than one thread can turn and window.
_THREADS = {"cpu": 1, "cuda": 4}


def _compute_alone() -> None:
    """Keep the OpenMP loops of this thread to one core.

    Every thread that enters such a loop starts a team of its own, and two teams that wait for each other's cores make
    a step of the networks twice as long. The setting is the thread's; `torch.set_num_threads` would reach the others.
    """
    for library in (Path(torch.__file__).parent / "lib").glob("lib*omp*.so*"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).omp_set_num_threads(1)


class BatchSource(Protocol):
    """Where batches come from: slices on disk, or staged on the device.

    Attributes
    ----------
    most_threads : int
        More threads than this would not draw faster.
    """

    most_threads: int

    def __len__(self) -> int:
        """Training slices."""

    def draw(self, stage: StageRecipe, seed: tuple[int, ...], rank: int, world: int) -> Batch:
        """The part of a step's batch that process ``rank`` of ``world`` trains on."""


class DiskSource:
    """Batches from memory-mapped arrays, augmented on the CPU.

    Parameters
    ----------
    dataset : SliceDataset
        Slices.
    augment : AugmentRecipe
        Random changes.
    """

    most_threads = 16

    def __init__(self, dataset: SliceDataset, augment: AugmentRecipe) -> None:
        self.dataset = dataset
        self.augment = augment

    def __len__(self) -> int:
        return len(self.dataset)

    def draw(self, stage: StageRecipe, seed: tuple[int, ...], rank: int, world: int) -> Batch:
        """Draw for all processes and read every ``world``-th slice: together they see one large batch."""
        if world == 1:
            return self.dataset.training_batch(stage.batch, stage.grid_px, self.augment, seed)
        rows = self.dataset.choose(stage.batch * world, np.random.default_rng(list(seed)))[rank::world]
        rng = np.random.default_rng([*seed, rank])
        planes = augment_planes(self.dataset.planes(rows), self.augment, rng)
        return to_batch(planes, self.dataset.contract, stage.grid_px)


class Feeder:
    """Hands out the batches of a stage in order and knows how long it was waited for.

    Parameters
    ----------
    source : BatchSource
        Where they come from.
    recipe : Recipe
        Its seed.
    devices : Devices
        Where they go, and which part is this process's.
    """

    def __init__(self, source: BatchSource, recipe: Recipe, devices: Devices) -> None:
        self.source, self.recipe, self.devices = source, recipe, devices
        self.waited_s = 0.0
        self._threads = min(source.most_threads, _THREADS.get(devices.device.type, 1))

    def batches(self, number: int, stage: StageRecipe, first: int, last: int) -> Generator[Batch, None, None]:
        """Batches of the steps ``first`` to ``last`` (exclusive) of stage ``number``, on the device."""
        pool = ThreadPoolExecutor(self._threads, initializer=_compute_alone)
        pending: deque[Future[Batch]] = deque()
        try:
            ahead = first
            for _ in range(first, last):
                while ahead < last and len(pending) <= self._threads:
                    pending.append(pool.submit(self._draw, number, stage, ahead))
                    ahead += 1
                started = time.monotonic()
                batch = pending.popleft().result()
                self.waited_s += time.monotonic() - started
                yield batch.to(self.devices.device)
        finally:
            pool.shutdown(cancel_futures=True)

    def _draw(self, number: int, stage: StageRecipe, step: int) -> Batch:
        batch = self.source.draw(stage, (self.recipe.seed, number, step), self.devices.rank, self.devices.world)
        if self.devices.device.type == "cuda" and batch.ct.device.type == "cpu":
            return pinned(batch)
        return batch


def pinned(batch: Batch) -> Batch:
    """The batch in page-locked memory, from which it goes to a GPU while that computes."""
    return dataclasses.replace(
        batch, **{item.name: getattr(batch, item.name).pin_memory() for item in dataclasses.fields(batch)}
    )


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; nothing to do on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
