"""pix2pix and its U-Net with L1 alone: sizes of the table, learning, and what the discriminator sees.

Leaves out what all methods share (test_registry.py).
"""

from __future__ import annotations

import math

import pytest
import torch
from baseline_cases import (
    check_falls,
    check_order,
    drawn_batch,
    fix_verdict,
    meta_networks,
    parameters_m,
    small_method,
    take_steps,
)

from train.baselines.pix2pix import ENTRIES

PIX2PIX, UNET_L1 = ENTRIES


def test_sizes_of_the_table() -> None:
    assert parameters_m(meta_networks(PIX2PIX)["generator"]) == pytest.approx(54.41, abs=0.005)


def test_the_middle_of_256_pixels_is_one_pixel() -> None:
    network = small_method(UNET_L1, 256).generator
    seen = {}
    network.core.down[-1].register_forward_hook(lambda module, given, answer: seen.update(shape=answer.shape))
    with torch.no_grad():
        image = network.eval()(torch.zeros(1, 1, 256, 256), torch.zeros(1, 1, 256, 256))
    assert seen["shape"][2:] == (1, 1)
    assert image.shape == (1, 1, 256, 256)


def test_both_learn() -> None:
    for entry in ENTRIES:
        reports = take_steps(small_method(entry, 32), drawn_batch(32), 12)
        check_falls(reports, "l1")


def test_an_undecided_discriminator_costs_log_2() -> None:
    method = small_method(PIX2PIX, 32)
    fix_verdict(method.network("discriminator"))
    (report,) = take_steps(method, drawn_batch(32), 1)
    assert float(report.terms["discriminator"]) == pytest.approx(math.log(2.0))


def test_the_discriminator_learns_first_and_each_learns_alone() -> None:
    order = (("discriminator", {"discriminator"}), ("generator", {"generator"}))
    check_order(small_method(PIX2PIX, 32), drawn_batch(32), *order)
