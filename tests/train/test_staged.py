"""Slices staged on the device: the same batches as from disk where nothing is random, the same ranges where it is.

Leaves out CUDA (no device in CI); everything is torch code that does not ask where it runs.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import drawn_case, tiny_recipe

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.dataset import Batch, SliceDataset
from train.recipe import AugmentRecipe, StageRecipe
from train.staged import StagedSource, draw_moves, staged_bytes
from train.trainer import Trainer

CPU = torch.device("cpu")
CONTRACT = PreprocessingContract(grid_px=32, grid_spacing_mm=7.2, neighbours=1, mirror=True, asymmetry_mm=(20.0,))
STILL = AugmentRecipe(probability=0.0, flip=False, noise_hu=0.0, offset_hu=0.0)


@pytest.fixture(scope="module")
def dataset() -> SliceDataset:
    return SliceDataset([drawn_case(0), drawn_case(1, lesion=False)], CONTRACT)


def stage(grid_px: int) -> StageRecipe:
    return StageRecipe(name="x", grid_px=grid_px, steps=1, batch=6)


def differences(one: Batch, other: Batch) -> dict[str, float]:
    return {
        item.name: float((getattr(one, item.name) - getattr(other, item.name)).abs().max())
        for item in dataclasses.fields(Batch)
    }


def test_still_slices_are_those_of_the_disk(dataset: SliceDataset) -> None:
    staged = StagedSource(dataset, STILL, CPU).draw(stage(32), (1, 2, 3), 0, 1)
    found = differences(staged, dataset.training_batch(6, 32, STILL, (1, 2, 3)))
    assert found.pop("ct") < 1e-2  # steps of 1/16 HU for the mirror image and the asymmetry
    assert found.pop("mask") < 1e-3
    assert found == {"target": 0.0, "brain": 0.0, "lesion": 0.0, "lesion_known": 0.0} or max(found.values()) < 1e-6


def test_coarse_slices_are_those_of_the_disk_but_for_the_distance(dataset: SliceDataset) -> None:
    staged = StagedSource(dataset, STILL, CPU).draw(stage(16), (1, 2, 3), 0, 1)
    found = differences(staged, dataset.training_batch(6, 16, STILL, (1, 2, 3)))
    assert found["brain"] == found["lesion"] == 0.0
    assert found["ct"] < 1e-2
    assert found["target"] < 1e-5
    assert found["mask"] < 0.6  # mean of the fine distance, not that of the coarse brain: below one coarse pixel


def test_flip_alone_mirrors_every_plane_and_the_distance(dataset: SliceDataset) -> None:
    source = StagedSource(dataset, STILL, CPU)
    rng = np.random.default_rng(0)
    still = draw_moves(STILL, 4, rng, CPU)
    flipped = dataclasses.replace(still, flip=-torch.ones(4))
    rows = np.arange(4)
    one, other = source.batch(rows, 32, still, rng), source.batch(rows, 32, flipped, rng)
    for item in dataclasses.fields(Batch):
        ours, theirs = getattr(one, item.name), getattr(other, item.name)
        torch.testing.assert_close(ours.flip(-1) if ours.ndim == 4 else ours, theirs, rtol=1e-4, atol=1e-4)


def test_moved_slices_stay_consistent_and_within_their_ranges(dataset: SliceDataset) -> None:
    augment = AugmentRecipe(probability=1.0, rotation_deg=20, scale=0.2, shift=0.1, gamma=0.2, blur_px=0.5)
    source = StagedSource(dataset, augment, CPU)
    batch = source.draw(stage(32), (0, 0, 0), 0, 1)
    again = source.draw(stage(32), (0, 0, 0), 0, 1)
    assert max(differences(batch, again).values()) == 0.0
    assert max(differences(batch, source.draw(stage(32), (0, 0, 1), 0, 1)).values()) > 0.1
    assert set(batch.brain.unique().tolist()) == {0.0, 1.0}
    assert bool(((batch.target == -1.0) | (batch.brain > 0)).all())
    assert bool((batch.lesion <= batch.brain).all())
    assert float(batch.ct.abs().max()) <= 1.0
    moves = draw_moves(augment, 2000, np.random.default_rng(1), CPU)
    assert 0.3 < float(moves.angle.max()) <= np.radians(20) + 1e-6
    assert float(moves.scale.min()) >= 0.8 - 1e-6
    assert set(moves.flip.tolist()) == {-1.0, 1.0}
    assert float(moves.shift.abs().max()) <= 0.2 + 1e-6


def test_each_process_draws_its_part(dataset: SliceDataset) -> None:
    source = StagedSource(dataset, STILL, CPU)
    whole = source.draw(dataclasses.replace(stage(32), batch=8), (4,), 0, 1)
    parts = [source.draw(dataclasses.replace(stage(32), batch=4), (4,), rank, 2) for rank in range(2)]
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part.target, whole.target[rank::2])


def test_memory_is_told_in_advance(dataset: SliceDataset) -> None:
    source = StagedSource(dataset, STILL, CPU)
    tensors = (source._hu, source._target, source._distance, source._labels)
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == staged_bytes(len(dataset), CONTRACT)


def test_recipe_trains_from_the_device(tmp_path: Path) -> None:
    data = {"train": {"A": 2}, "validation": {"A": 1}, "test": {"A": 1}, "on_device": True}
    recipe = tiny_recipe(data=data, input={"neighbours": 1, "mirror": True, "asymmetry_mm": [20.0]})
    dataset = SliceDataset([drawn_case(0), drawn_case(1, lesion=False)], CONTRACT)
    run = Trainer(recipe, tmp_path, dataset, dataset, CPU)
    assert isinstance(run.feeder.source, StagedSource)
    assert run.fit().steps == 7
