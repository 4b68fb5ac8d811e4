"""Masked residual U-Net: size, resolution, the masked L1 by hand, learning, limits, resuming, empty slices.

Leaves out what all methods share (test_registry.py), and how good it gets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from baseline_cases import (
    ONE_CT,
    answers_of,
    check_empty_slice,
    check_falls,
    check_resumes,
    drawn_batch,
    meta_networks,
    parameters_m,
    plain,
    small_method,
    take_steps,
)
from torch import nn
from torch.nn import functional

from train.baselines.resunet import ENTRIES, ResUNetOptions, Widening
from train.data.dataset import Batch

(ENTRY,) = ENTRIES


def test_size_is_that_of_the_layers() -> None:
    widths, blocks = (32, 64, 128, 256, 512, 512, 512), (1, 3, 4, 6, 6, 6, 6)
    count = 9 * 32 + 2 * 32  # stem and its norm
    before = 32
    for width, units in zip(widths, blocks, strict=True):
        count += 9 * before * width + (2 * units - 1) * 9 * width**2 + 2 * units * 2 * width
        count += before * width + 2 * width if before != width else 0
        before = width
    for inner, outer in zip(widths[1:], widths[:-1], strict=True):
        count += inner * outer + outer + 9 * 2 * outer * outer + 2 * outer
    count += 32 + 1
    assert parameters_m(meta_networks(ENTRY)["generator"]) == pytest.approx(count / 1e6, abs=1e-9)


def test_the_innermost_map_of_256_pixels_has_four() -> None:
    network = small_method(ENTRY, 256).generator.eval()
    seen = answers_of(network.core.stages[-1])
    with torch.no_grad():
        image = network(torch.zeros(1, 1, 256, 256), torch.zeros(1, 1, 256, 256))
    assert seen[0].shape[2:] == (4, 4)
    assert image.shape == (1, 1, 256, 256)


def test_a_widening_narrows_what_bilinear_interpolation_makes_and_keeps_the_skip() -> None:
    torch.manual_seed(3)
    widening = Widening(4, 2)
    widening.fuse = nn.Identity()
    x, skip = torch.randn(1, 4, 5, 6), torch.randn(1, 2, 10, 12)
    fused = widening(x, skip)
    up = functional.interpolate(x, (10, 12), mode="bilinear", align_corners=False)
    assert torch.equal(fused[:, :2], skip)
    assert torch.allclose(fused[:, 2:], widening.narrow(up), atol=1e-5)


@pytest.mark.parametrize(("grid_px", "stages"), [(256, 7), (128, 6), (96, 5), (80, 4), (32, 4), (8, 2)])
def test_depth_follows_the_image(grid_px: int, stages: int) -> None:
    adapted = ENTRY.method.adapted(ENTRY.options, grid_px)
    assert adapted.stages == stages
    assert grid_px % ENTRY.method.grid_step(adapted) == 0


def test_learns() -> None:
    check_falls(take_steps(small_method(ENTRY, 32), drawn_batch(32), 12), "masked_l1")


def test_the_loss_is_the_mean_error_in_the_brain_and_a_share_of_that_outside() -> None:
    method = small_method(ENTRY, 32, background_weight=0.3)
    batch = drawn_batch(32)
    answers = answers_of(method.generator.core)
    (report,) = take_steps(method, batch, 1)
    errors, brains = np.abs(plain(answers[0]) - plain(batch.target)), batch.brain.numpy() > 0
    by_hand = [error[brain].mean() + 0.3 * error[~brain].mean() for error, brain in zip(errors, brains, strict=True)]
    assert float(report.terms["masked_l1"]) == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_without_background_weight_the_target_outside_the_brain_is_not_looked_at() -> None:
    batch = drawn_batch(32)
    other = Batch(
        batch.ct, batch.mask, batch.target + 0.7 * (1.0 - batch.brain), batch.brain, batch.lesion, batch.lesion_known
    )
    losses = [
        float(take_steps(small_method(ENTRY, 32, background_weight=weight), seen, 1)[0].loss)
        for weight in (0.0, 0.1)
        for seen in (batch, other)
    ]
    assert losses[0] == losses[1]
    assert losses[2] != losses[3]


def test_predictions_are_limited_and_training_is_not() -> None:
    method = small_method(ENTRY, 32)
    for network in (method.generator, method.average.network):
        nn.init.zeros_(network.core.head.weight)
        nn.init.constant_(network.core.head.bias, 5.0)
    batch = drawn_batch(32)
    assert torch.equal(method.predict(batch.ct, batch.mask), torch.ones_like(batch.target))
    (report,) = take_steps(method, batch, 1)
    assert float(report.loss) > 3.0
    assert float(report.gradient_norm) > 0.1


def test_a_resumed_run_goes_on_the_same() -> None:
    check_resumes(lambda: small_method(ENTRY, 32), drawn_batch(32), steps=3)


@pytest.mark.parametrize("changes", [{}, {"mask": True}])
def test_one_empty_slice_is_finite(changes: dict[str, Any]) -> None:
    check_empty_slice(small_method(ENTRY, 32, **changes))


def test_the_mask_is_an_input_only_where_asked_for() -> None:
    for mask in (False, True):
        translator = ENTRY.method.translator(ResUNetOptions(width=0.125, mask=mask, stages=3), ONE_CT).eval()
        ct = drawn_batch(32).ct
        with torch.no_grad():
            apart = translator(ct, torch.ones_like(ct)) - translator(ct, torch.zeros_like(ct))
        assert bool(apart.abs().max() > 0) is mask
