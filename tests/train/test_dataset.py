"""Cache and training batches.

Covers: keys never shared by splits, preprocessing equal to the node's, atomic and resumable cache, batches a function
of their seed, augmentation that keeps labels aligned, coarser stages that keep meaning millimetres.

One phantom case is generated (a small matrix); what the phantom looks like is tested in its own module.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import CONTRACT, GRID_PX, drawn_case

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.grid import to_network_grid
from jmmda_model.imaging.intensity import ct_channels, mask_channels
from jmmda_model.imaging.mask import brain_mask
from train.data import cache as cache_module
from train.data.cache import HU_STEP, CaseKey, build_cache, build_case, cache_folder, case_keys, load_case, load_split
from train.data.dataset import SliceDataset, augment_planes, to_batch
from train.data.phantom import generate_case
from train.recipe import AugmentRecipe, DataRecipe

SMALL = DataRecipe(
    train={"A": 1}, validation={}, test={}, matrix=96, fov_mm=230.4, n_slices=10, slice_mm=12.0 / 2, workers=1
)
SMALL_CONTRACT = PreprocessingContract(grid_px=96, grid_spacing_mm=2.4)
STILL = AugmentRecipe(probability=0.0, flip=False, noise_hu=0.0, offset_hu=0.0)


@pytest.fixture
def dataset() -> SliceDataset:
    return SliceDataset([drawn_case(1), drawn_case(2, lesion=False), drawn_case(3)], CONTRACT)


def test_no_patient_is_in_two_splits_and_a_larger_recipe_keeps_the_first_patients() -> None:
    small = DataRecipe(train={"A": 3, "B": 2}, validation={"A": 2}, test={"A": 2, "C": 2})
    large = dataclasses.replace(small, train={"A": 500, "B": 400})
    keys = case_keys(large)
    assert len({key.seed for key in keys}) == len(keys)
    assert set(case_keys(small)) <= set(keys)


def test_cached_case_equals_what_the_node_would_feed(tmp_path: Path) -> None:
    key = CaseKey("train", "A", 10_000_000)
    cached = build_case(key, SMALL, SMALL_CONTRACT, tmp_path)
    case = generate_case(key.seed, "A", matrix=96, fov_mm=230.4, n_slices=10, slice_mm=6.0)
    volume = case.ct_volume()
    fed = to_network_grid(volume, brain_mask(volume), SMALL_CONTRACT)
    narrowest = min(high - low for low, high in SMALL_CONTRACT.windows_hu)
    np.testing.assert_allclose(
        ct_channels(cached.hu_slices(), SMALL_CONTRACT), fed.ct, rtol=0, atol=HU_STEP / narrowest + 1e-6
    )
    np.testing.assert_allclose(mask_channels(cached.brain, SMALL_CONTRACT), fed.mask, rtol=0, atol=1e-6)
    target = cached.target_slices()
    brain = np.asarray(cached.brain) > 0
    assert (target[~brain] == -1.0).all()
    assert float(np.median((target[brain] + 1) / 2)) == pytest.approx(1 / 3, abs=0.01)
    assert cached.facts.mask_dice > 0.8
    assert not (np.asarray(cached.lesion)[~brain] > 0).any()


def test_interrupted_case_is_not_taken_for_a_complete_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def dies(*_args: object, **_kwargs: object) -> None:
        raise Killed

    key = CaseKey("train", "A", 10_000_000)
    arrays = {name: np.zeros((2, 4, 4), np.int16) for name in ("hu", "target")}
    facts = drawn_case(1).facts
    with monkeypatch.context() as patch:
        patch.setattr(cache_module.json, "dumps", dies)
        with pytest.raises(Killed):
            cache_module._write_case(tmp_path / key.name, arrays, facts)
    assert not (tmp_path / key.name).exists()
    with pytest.raises(FileNotFoundError):
        load_case(tmp_path / key.name)


def test_cache_is_continued_and_refusals_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataclasses.replace(SMALL, train={"A": 2})
    made: list[str] = []

    def fake_job(job: cache_module._Job) -> str | None:
        made.append(job.key.name)
        if job.key.seed % 2:
            return "no_brain"
        drawn = drawn_case(1)
        arrays = {name: getattr(drawn, name) for name in cache_module._ARRAYS}
        cache_module._write_case(job.folder / job.key.name, arrays, drawn.facts)
        return None

    monkeypatch.setattr(cache_module, "_run_job", fake_job)
    folder = build_cache(tmp_path, data, SMALL_CONTRACT, splits=("train",))
    assert made == ["A-10000000", "A-10000001"]
    assert len(load_split(folder, data, "train")) == 1
    build_cache(tmp_path, data, SMALL_CONTRACT, splits=("train",))
    assert len(made) == 2
    assert json.loads((folder / "refused.jsonl").read_text())["code"] == "no_brain"


def test_other_settings_live_in_another_folder(tmp_path: Path) -> None:
    here = cache_folder(tmp_path, SMALL, SMALL_CONTRACT)
    assert here != cache_folder(tmp_path, SMALL, PreprocessingContract())
    assert here != cache_folder(tmp_path, dataclasses.replace(SMALL, matrix=128), SMALL_CONTRACT)
    assert here == cache_folder(tmp_path, dataclasses.replace(SMALL, train={"A": 9}), SMALL_CONTRACT)


def test_slices_without_brain_stay_out(dataset: SliceDataset) -> None:
    assert len(dataset) == 9  # three of four slices of each case
    assert all(row > 0 for _, row in dataset.index)
    assert len(dataset.lesion_rows) == 6
    with pytest.raises(ValueError, match="no slice with brain"):
        SliceDataset([], CONTRACT)


def test_first_half_of_a_batch_shows_lesions_and_the_seed_decides(dataset: SliceDataset) -> None:
    augment = AugmentRecipe()
    first = dataset.training_batch(4, GRID_PX, augment, (0, 1, 2))
    again = dataset.training_batch(4, GRID_PX, augment, (0, 1, 2))
    other = dataset.training_batch(4, GRID_PX, augment, (0, 1, 3))
    assert (first.lesion[:2].sum(dim=(1, 2, 3)) > 0).all()
    for field in dataclasses.fields(first):
        assert torch.equal(getattr(first, field.name), getattr(again, field.name))
    assert not torch.equal(first.ct, other.ct)


def test_batch_without_augmentation_is_the_cached_slice(dataset: SliceDataset) -> None:
    rows = np.array([0, 4])
    batch = dataset.fixed_batch(rows, GRID_PX)
    assert batch.ct.shape == (2, 3, GRID_PX, GRID_PX)
    for number, row in enumerate(rows):
        case, where = dataset.index[row]
        np.testing.assert_array_equal(batch.target[number, 0], dataset.cases[case].target_slices(where))
    assert torch.equal(augment_planes(dataset.planes(rows), STILL, np.random.default_rng(0)), dataset.planes(rows))


def test_coarse_stage_is_the_block_mean_with_distances_still_in_mm(dataset: SliceDataset) -> None:
    planes = dataset.planes(np.array([0]))
    full, half = to_batch(planes, CONTRACT, GRID_PX), to_batch(planes, CONTRACT, GRID_PX // 2)
    inside = half.brain[0, 0] > 0
    blocks = planes[0, 1].reshape(16, 2, 16, 2).mean(dim=(1, 3))
    torch.testing.assert_close(half.target[0, 0][inside], blocks[inside])
    assert (half.target[0, 0][~inside] == -1).all()
    assert set(half.mask[0, 0].unique().tolist()) == {0.0, 1.0}
    # The centre of the drawn brain lies 11.5 fine pixels, 82.8 mm, from its edge, whichever the grid: both saturate
    # at 20 mm.
    assert float(half.mask[0, 1].max()) == float(full.mask[0, 1].max()) == 1.0
    coarse = torch.nn.functional.avg_pool2d(full.mask[:, 1:], 2)
    assert float((coarse - half.mask[:, 1:]).abs().mean()) < 0.15
    with pytest.raises(ValueError, match="does not divide"):
        to_batch(planes, CONTRACT, 24)


def test_flip_and_moves_keep_lesion_on_its_bright_target(dataset: SliceDataset) -> None:
    strong = AugmentRecipe(probability=1.0, rotation_deg=30, scale=0.2, shift=0.1, noise_hu=0.0, offset_hu=0.0)
    planes = dataset.planes(np.repeat(dataset.lesion_rows, 4))
    moved = augment_planes(planes, strong, np.random.default_rng(5))
    assert not torch.equal(moved, planes)
    hu, target, brain, lesion = (moved[:, number] for number in range(4))
    assert set(brain.unique().tolist()) == {0.0, 1.0}
    assert set(lesion.unique().tolist()) == {0.0, 1.0}
    assert (lesion <= brain).all()
    assert (target[brain == 0] == -1).all()
    sick, well = (lesion > 0), (brain > 0) & (lesion == 0)
    assert float(target[sick].mean() - target[well].mean()) > 0.4
    assert float(hu[well].median() - hu[sick].median()) > 3.0
    assert float(hu[:, 0, 0].max()) < -900  # air comes in from outside


def test_noise_and_offset_touch_the_ct_only(dataset: SliceDataset) -> None:
    planes = dataset.planes(np.array([0, 1]))
    noisy = AugmentRecipe(probability=0.0, flip=False, noise_hu=3.0, offset_hu=2.0)
    moved = augment_planes(planes, noisy, np.random.default_rng(6))
    assert torch.equal(moved[:, 1:], planes[:, 1:])
    assert 0.1 < float((moved[:, 0] - planes[:, 0]).std()) < 4.0
