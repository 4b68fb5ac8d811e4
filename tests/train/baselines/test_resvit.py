"""ResViT: size, shared transformer, positions on any grid, both losses by hand, order of updates, pre-training.

Leaves out what all methods share (test_registry.py), ImageNet weights, which there are none of, and how good it gets.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from baseline_cases import (
    ONE_CT,
    answers_of,
    built,
    calls_of,
    check_empty_slice,
    check_falls,
    check_order,
    check_resumes,
    drawn_batch,
    fix_verdict,
    meta_networks,
    parameters_m,
    plain,
    plain_recipe,
    small_method,
    take_steps,
    unchanging_step,
)
from torch import nn

from train.baselines.base import BaselineMethod, Channels
from train.baselines.resvit import ENTRIES, Aggregation, ResViTOptions, Transformer
from train.methods.base import Moment

(ENTRY,) = ENTRIES


def test_size_is_that_of_the_layers() -> None:
    hidden = 768
    layer = 12 * hidden**2 + (3 + 1 + 4 + 1) * hidden + 4 * hidden
    transformer = 12 * layer + 2 * hidden  # 85.06 M, as ViT-B has it
    down = 9 * (256 * 512 + 512 * 1024) + 2 * (512 + 1024)
    embed = 1024 * hidden + hidden + 256 * hidden
    up = 9 * (hidden * 512 + 512 * 256) + 2 * (512 + 256)
    compress = 9 * (512 * 256 + 256 * 256) + 512 * 256 + 3 * 2 * 256
    ends = 49 * 64 + 2 * 64 + 49 * 64 + 1
    halvings = 9 * (64 * 128 + 128 * 256) + 2 * (128 + 256)
    doublings = 9 * (256 * 128 + 128 * 64) + 2 * (128 + 64)
    residual = 9 * (2 * 9 * 256**2 + 2 * 2 * 256)
    count = transformer + 2 * (down + embed + up + compress) + ends + halvings + doublings + residual
    networks = meta_networks(ENTRY)
    assert parameters_m(networks["generator"].core.transformer) == pytest.approx(85.06, abs=0.005)
    assert parameters_m(networks["generator"]) == pytest.approx(count / 1e6, abs=1e-9)


def test_both_blocks_use_one_transformer_on_a_sixteenth_of_the_sides() -> None:
    network = small_method(ENTRY, 32).generator.eval()
    transformers = [module for module in network.modules() if isinstance(module, Transformer)]
    shapes: list[torch.Size] = []
    transformers[0].register_forward_hook(lambda module, given, answer: shapes.append(answer.shape))
    with torch.no_grad():
        image = network(torch.zeros(1, 1, 32, 64), torch.zeros(1, 1, 32, 64))
    assert len(transformers) == 1
    assert shapes == [(1, 2 * 4, 96)] * 2
    assert image.shape == (1, 1, 32, 64)


def test_positions_are_those_learnt_on_the_base_grid_and_follow_it_elsewhere() -> None:
    aggregation = Aggregation(4, 12)
    assert torch.equal(aggregation.positions_at(16, 16), aggregation.positions)
    with torch.no_grad():
        aggregation.positions.copy_(torch.arange(16.0).expand(1, 12, 16, 16))
        at = aggregation.positions_at(4, 8)
    assert at.shape == (1, 12, 4, 8)
    assert torch.allclose(at[0, 0, 0, 1:-1], torch.arange(2.5, 14.0, 2.0), atol=0.1)
    assert torch.allclose(at, at[:, :1, :1].expand_as(at), atol=1e-5)


def test_learns_with_the_mask_too() -> None:
    for mask in (False, True):
        reports = take_steps(small_method(ENTRY, 32, mask=mask), drawn_batch(32), 12)
        check_falls(reports, "l1")


def test_losses_of_a_discriminator_that_always_answers_a_quarter() -> None:
    method = small_method(ENTRY, 32)
    fix_verdict(method.network("discriminator"), 0.25)
    fakes, judged, batch = answers_of(method.generator.core), calls_of(method.network("discriminator")), drawn_batch(32)
    terms = unchanging_step(method, batch)
    l1 = np.abs(plain(fakes[0]) - plain(batch.target)).mean()
    expected = {"gan": 0.75**2, "l1": 100.0 * l1, "discriminator": 0.5 * (0.75**2 + 0.25**2)}
    assert terms == pytest.approx(expected, rel=1e-5)
    seen = [given[0] for given, _ in judged]
    assert torch.equal(seen[0], torch.cat([batch.ct, batch.target], dim=1))
    assert torch.equal(seen[1], torch.cat([batch.ct, fakes[0]], dim=1))


def weights_of(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_discriminator_learns_first_and_nothing_from_the_generators_loss() -> None:
    order = (("discriminator", {"discriminator"}), ("generator", {"generator"}))
    check_order(small_method(ENTRY, 32), drawn_batch(32), *order)


def staged_method() -> BaselineMethod[Any]:
    """The method with a stage before the transformers and one with them."""
    options = ResViTOptions(width=0.125, pretrain_stages=1)
    recipe = plain_recipe(ENTRY, 32, options)
    (only,) = recipe.stages
    recipe = replace(recipe, stages=(replace(only, name="convolutions"), replace(only, name="all")))
    return built(ENTRY, recipe, options)


def test_pre_training_leaves_the_transformers_out() -> None:
    method, batch = staged_method(), drawn_batch(32)
    core = method.generator.core
    for stage, moves in zip(method.recipe.stages, (False, True), strict=True):
        method.start_stage(stage)
        before = weights_of(core.transformer) + weights_of(core.blocks[0].aggregation)
        others = weights_of(core.encoder)
        method.step(batch, Moment(stage, 0, 1.0, logged=False))
        assert same(before, weights_of(core.transformer) + weights_of(core.blocks[0].aggregation)) is not moves
        assert not same(others, weights_of(core.encoder))
        image = method.predict(batch.ct, batch.mask)
        averaged = method.average.network.core
        kept = averaged.transformer[0].merge.weight.clone()
        averaged.transformer[0].merge.weight.normal_()
        assert torch.equal(image, method.predict(batch.ct, batch.mask)) is not moves
        averaged.transformer[0].merge.weight.copy_(kept)


def test_weights_of_the_pre_training_say_so() -> None:
    method, batch = staged_method(), drawn_batch(32)
    method.start_stage(method.recipe.stages[0])
    take_steps(method, batch, 1)
    read = ENTRY.method.translator(ResViTOptions(width=0.125), ONE_CT).eval()
    read.load_state_dict(method.evaluated_weights())
    with torch.no_grad():
        assert torch.equal(read(batch.ct, batch.mask), method.predict(batch.ct, batch.mask))


def test_a_resumed_run_goes_on_the_same() -> None:
    check_resumes(lambda: small_method(ENTRY, 32), drawn_batch(32), steps=3)


def test_one_empty_slice_is_finite() -> None:
    check_empty_slice(small_method(ENTRY, 32))


def test_takes_any_number_of_channels() -> None:
    translator = ENTRY.method.translator(ResViTOptions(width=0.125, mask=True), Channels(ct=3, mask=2)).eval()
    with torch.no_grad():
        assert translator(torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 32, 32)).shape == (1, 1, 32, 32)
