"""The segmenter on drawn cases: it learns, is reproducible, keeps its file honest, and serves as judge and features.

Leaves out its Dice on the phantom, which is measured when it is trained (``train segmenter``).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import CONTRACT, drawn_case

from train.evaluation.methods import with_segmenter
from train.evaluation.scoring import CaseTruth
from train.segmenter import (
    Segmenter,
    SegmenterCard,
    SegmenterError,
    dice_on,
    gather_slices,
    load_segmenter,
    save_segmenter,
    segmentation_loss,
    train_segmenter,
)

WIDTHS = (8, 16)


@pytest.fixture(scope="module")
def cases():
    return [drawn_case(seed, lesion=seed != 2) for seed in range(6)]


@pytest.fixture(scope="module")
def trained(cases) -> Segmenter:
    return train_segmenter(cases, CONTRACT, steps=80, widths=WIDTHS, learning_rate=1e-2, seed=1)


def test_it_learns_lesion_and_brain_of_measured_dwi(trained) -> None:
    dice = dice_on(trained, [drawn_case(50), drawn_case(51)])
    assert dice["lesion"] > 0.8
    assert dice["brain"] > 0.9
    assert (trained.card.source, trained.card.n_cases, trained.card.steps) == ("phantom", 6, 80)


def test_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(cases) -> None:
    state = torch.random.get_rng_state()
    first, second, other = (
        train_segmenter(cases, CONTRACT, steps=2, widths=WIDTHS, seed=seed).state_dict() for seed in (3, 3, 4)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_time_limit_ends_training(cases) -> None:
    stopped = train_segmenter(cases, CONTRACT, steps=10_000, max_minutes=1e-6, widths=WIDTHS)
    assert stopped.card.steps == 1


def test_default_network_is_small_and_takes_the_network_grid() -> None:
    network = Segmenter()
    assert sum(p.numel() for p in network.parameters()) == 275_174
    image = torch.zeros(1, 1, 256, 256, requires_grad=True)
    features = network.features(image)
    assert [tuple(f.shape[1:]) for f in features] == [(12, 128, 128), (24, 64, 64), (48, 32, 32), (96, 16, 16)]
    assert network(image).shape == (1, 2, 256, 256)
    sum(f.square().sum() for f in features).backward()  # the perceptual loss needs a gradient of the image
    assert image.grad is not None
    with pytest.raises(SegmenterError) as caught:
        network.features(torch.zeros(1, 1, 100, 100))
    assert caught.value.code == "grid"


def test_file_gives_the_same_network_frozen(tmp_path: Path, trained) -> None:
    save_segmenter(trained, tmp_path / "new" / "s.safetensors")
    again = load_segmenter(tmp_path / "new" / "s.safetensors")
    dwi = drawn_case(60).target_slices()
    np.testing.assert_array_equal(again.lesion(dwi), trained.lesion(dwi))
    assert not any(p.requires_grad for p in again.parameters())
    assert again.card == trained.card
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"s.safetensors", "s.json"}


def test_changed_or_missing_files_are_refused(tmp_path: Path, trained) -> None:
    file = tmp_path / "s.safetensors"

    def code() -> str:
        with pytest.raises(SegmenterError) as caught:
            load_segmenter(file)
        return caught.value.code

    assert code() == "missing"
    save_segmenter(trained, file)
    card = json.loads(file.with_suffix(".json").read_text())
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert code() == "hash"
    file.write_bytes(raw)
    file.with_suffix(".json").write_text(json.dumps(card | {"widths": [8, 8]}))
    assert code() == "weights"
    file.with_suffix(".json").write_text(json.dumps(card | {"schema": 9}))
    assert code() == "card"
    file.with_suffix(".json").write_text("{")
    assert code() == "card"


def test_unlabelled_cases_teach_the_brain_only(cases) -> None:
    unknown = replace(cases[0], lesion=None, facts=replace(cases[0].facts, lesion_ml=None))
    assert gather_slices([cases[1], unknown], 32).known.tolist() == [1, 1, 1, 0, 0, 0]
    with pytest.raises(SegmenterError) as caught:
        gather_slices([unknown], 32)
    assert caught.value.code == "no_labels"
    truth = torch.zeros(1, 2, 4, 4)
    logits = torch.full((1, 2, 4, 4), -20.0)
    wrong = logits.clone()
    wrong[:, 0] = 20.0
    nothing = torch.zeros(1)
    assert float(segmentation_loss(wrong, truth, nothing)) == pytest.approx(
        float(segmentation_loss(logits, truth, nothing))
    )
    assert float(segmentation_loss(wrong, truth, torch.ones(1))) > 5.0


def test_coarser_grid_is_the_mean_of_pixels_and_must_divide(cases) -> None:
    found = gather_slices(cases[:1], 16)
    dwi = cases[0].target_slices(slice(1, 4))
    np.testing.assert_allclose(found.dwi[:, 0], dwi.reshape(3, 16, 2, 16, 2).mean(axis=(2, 4)), atol=1e-6)
    assert set(torch.unique(found.truth).tolist()) == {0.0, 1.0}
    with pytest.raises(SegmenterError):
        gather_slices(cases[:1], 24)


def test_it_judges_a_prediction_beside_the_measured_dwi(trained) -> None:
    case = drawn_case(70)
    truth = CaseTruth(case, CONTRACT.grid_spacing_mm)
    flat = np.where(np.asarray(case.brain) > 0, np.float32(-0.33), np.float32(-1.0))
    ceiling, lost = (
        with_segmenter(truth.score(image), truth, image, trained).findings["segmenter"]
        for image in (case.target_slices(), flat)
    )
    assert ceiling.dice > 0.8
    assert ceiling.detected == (True,)
    assert lost.dice < 0.2


def test_card_refuses_widths_no_network_can_have() -> None:
    with pytest.raises(SegmenterError, match="multiples"):
        SegmenterCard.from_json({"schema": 1, "widths": [6], "grid_px": 32})
