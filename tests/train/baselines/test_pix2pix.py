"""pix2pix and its U-Net with L1 alone: sizes of the table, learning, and what the discriminator sees.

Leaves out what all methods share (test_registry.py).
"""

from __future__ import annotations

import math

import pytest
import torch
from baseline_cases import check_falls, drawn_batch, meta_networks, parameters_m, small_method, take_steps

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
    torch.nn.init.zeros_(method.network("discriminator").logits.weight)
    (report,) = take_steps(method, drawn_batch(32), 1)
    assert float(report.terms["discriminator"]) == pytest.approx(math.log(2.0))


def test_the_generator_does_not_train_the_discriminator() -> None:
    method = small_method(PIX2PIX, 32)
    method.update(drawn_batch(32), None)  # type: ignore[arg-type]
    before = [parameter.detach().clone() for parameter in method.network("discriminator").parameters()]
    gradients = [parameter.grad for parameter in method.network("discriminator").parameters()]
    fake = method.generator(drawn_batch(32).ct, drawn_batch(32).mask)
    loss = method.still["discriminator"](torch.cat([drawn_batch(32).ct, fake], dim=1))[-1].mean()
    loss.backward()
    after = method.network("discriminator").parameters()
    assert all(torch.equal(a, b) and b.grad is g for a, b, g in zip(before, after, gradients, strict=True))
