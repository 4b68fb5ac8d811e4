"""Phantom volumes in the cache: keys never shared by splits, preprocessing equal to the node's, a cache that goes on.

One phantom case is generated (a small matrix); what the phantom looks like is tested in its own module.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from training_cases import drawn_case

from jmmda_model.imaging.context import ct_channels
from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.grid import to_network_grid
from jmmda_model.imaging.intensity import mask_channels
from jmmda_model.imaging.mask import brain_mask
from train.data import phantom_cache
from train.data.cache import HU_STEP, read_index, write_case
from train.data.dataset import case_planes
from train.data.phantom import generate_case
from train.data.phantom_cache import (
    CaseKey,
    build_cache,
    build_case,
    cache_folder,
    case_keys,
    load_phantom_split,
)
from train.recipe import DataRecipe

SMALL = DataRecipe(
    train={"A": 1}, validation={}, test={}, matrix=96, fov_mm=230.4, n_slices=10, slice_mm=12.0 / 2, workers=1
)
CONTRACT = PreprocessingContract(grid_px=96, grid_spacing_mm=2.4, neighbours=1, mirror=True, asymmetry_mm=(7.0, 12.0))


def test_no_patient_is_in_two_splits_and_a_larger_recipe_keeps_the_first_patients() -> None:
    small = DataRecipe(train={"A": 3, "B": 2}, validation={"A": 2}, test={"A": 2, "C": 2})
    large = dataclasses.replace(small, train={"A": 500, "B": 400})
    keys = case_keys(large)
    assert len({key.seed for key in keys}) == len(keys)
    assert set(case_keys(small)) <= set(keys)


def test_cached_case_equals_what_the_node_would_feed(tmp_path: Path) -> None:
    key = CaseKey("train", "A", 10_000_000)
    cached = build_case(key, SMALL, CONTRACT, tmp_path)
    case = generate_case(key.seed, "A", matrix=96, fov_mm=230.4, n_slices=10, slice_mm=6.0)
    volume = case.ct_volume()
    fed = to_network_grid(volume, brain_mask(volume), CONTRACT)
    narrowest = min(high - low for low, high in CONTRACT.windows_hu)
    seen = ct_channels(case_planes(cached, np.arange(10), CONTRACT), CONTRACT)
    np.testing.assert_allclose(seen, fed.ct, rtol=0, atol=HU_STEP / narrowest + 2e-4)
    np.testing.assert_allclose(mask_channels(cached.brain, CONTRACT), fed.mask, rtol=0, atol=1e-6)
    target = cached.target_slices()
    brain = np.asarray(cached.brain) > 0
    assert (target[~brain] == -1.0).all()
    assert float(np.median((target[brain] + 1) / 2)) == pytest.approx(1 / 3, abs=0.01)
    assert cached.facts.mask_dice is not None
    assert cached.facts.mask_dice > 0.8
    assert not cached.lesion_slices()[~brain].any()
    assert np.diff(cached.facts.slice_offsets_mm) == pytest.approx(6.0, abs=1e-3)


def test_cache_is_continued_and_refusals_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataclasses.replace(SMALL, train={"A": 2})
    made: list[str] = []

    def fake_job(job: phantom_cache._Job) -> str | None:
        made.append(job.key.name)
        if job.key.seed % 2:
            return "no_brain"
        drawn = drawn_case(1)
        arrays = {name: np.asarray(getattr(drawn, name)) for name in ("hu", "target", "brain", "lesion", "clean")}
        write_case(job.folder / job.key.name, dataclasses.replace(drawn.facts, patient=job.key.name), arrays)
        return None

    monkeypatch.setattr(phantom_cache, "_run_job", fake_job)
    folder = build_cache(tmp_path, data, CONTRACT, splits=("train",))
    assert made == ["A-10000000", "A-10000001"]
    assert len(load_phantom_split(folder, data, "train")) == 1
    assert len(load_phantom_split(folder, data, "train", centres={"B"})) == 0
    build_cache(tmp_path, data, CONTRACT, splits=("train",))
    assert len(made) == 2
    assert json.loads((folder / "refused.jsonl").read_text())["code"] == "no_brain"
    assert read_index(folder).source == "phantom"


def test_only_what_decides_the_arrays_names_the_folder(tmp_path: Path) -> None:
    here = cache_folder(tmp_path, SMALL, CONTRACT)
    assert here != cache_folder(tmp_path, SMALL, PreprocessingContract())
    assert here != cache_folder(tmp_path, dataclasses.replace(SMALL, matrix=128), CONTRACT)
    assert here == cache_folder(tmp_path, dataclasses.replace(SMALL, train={"A": 9}), CONTRACT)
    assert here == cache_folder(tmp_path, SMALL, dataclasses.replace(CONTRACT, neighbours=0, mirror=False))
