"""AR-GAN in both readings: sizes, every term by hand, what is predicted, what the discriminator sees.

Leaves out what all methods share (test_registry.py).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from baseline_cases import (
    check_empty_slice,
    check_falls,
    check_order,
    check_resumes,
    drawn_batch,
    fix_verdict,
    meta_networks,
    parameters_m,
    sigmoid,
    small_method,
    take_steps,
    unchanging_step,
)

from train.baselines.argan import ENTRIES

SENSE, PUBLIC = ENTRIES


def test_sizes_of_the_table() -> None:
    for entry in ENTRIES:
        networks = meta_networks(entry)
        assert parameters_m(networks["generator"]) == pytest.approx(45.25, abs=0.005)
        assert parameters_m(networks["discriminator"]) == pytest.approx(2.76, abs=0.005)


def test_two_pixels_and_a_quarter_remain_of_256() -> None:
    network = meta_networks(SENSE)["generator"]
    shapes = []
    network.core.pre.down[-1].register_forward_hook(lambda module, given, answer: shapes.append(answer.shape))
    body = network.core.rectification.body
    widest = next(layer for layer in body if isinstance(layer, torch.nn.Conv2d) and layer.out_channels == 512)
    widest.register_forward_hook(lambda module, given, answer: shapes.append(answer.shape))
    image = network(torch.zeros(1, 1, 256, 256, device="meta"), torch.zeros(1, 1, 256, 256, device="meta"))
    assert shapes == [(1, 512, 2, 2), (1, 512, 64, 64)]
    assert image.shape == (1, 1, 256, 256)


def test_depth_follows_the_image() -> None:
    adapted = SENSE.method.adapted(SENSE.options, 96)
    assert adapted.levels == 5
    assert 96 % SENSE.method.grid_step(adapted) == 0
    assert SENSE.method.adapted(SENSE.options, 256) == SENSE.options


def test_both_learn() -> None:
    check_falls(take_steps(small_method(SENSE, 32), drawn_batch(32), 12), "l1", "spectrum")
    check_falls(take_steps(small_method(PUBLIC, 32), drawn_batch(32), 12), "l1")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_terms_on_images_by_hand(entry) -> None:
    method, batch = small_method(entry, 32), drawn_batch(32)
    method.generator.core.rectification.eval()  # no random slopes
    torch.nn.init.ones_(method.generator.core.rectification.body[-2].bias)  # a correction that one can see
    with torch.no_grad():
        pre, correction, rectified = (image.double().numpy() for image in method.generator.core(batch.ct))
    real, ct = batch.target.double().numpy(), batch.ct.double().numpy()
    total = pre + correction
    np.testing.assert_allclose(rectified, sigmoid(total) if entry is PUBLIC else total.clip(-1.0, 1.0), atol=1e-6)
    ours, theirs = (np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(image)))) for image in (rectified, real))
    if entry is PUBLIC:
        missed = real - ct
        p, q = sigmoid(ours), sigmoid(theirs)
        spectrum = -(q * np.log(p) + (1.0 - q) * np.log1p(-p)).mean()
    else:
        missed = real - pre
        spectrum = np.abs(ours - theirs).mean() / np.log(1.0 + 32 * 32)
    terms = unchanging_step(method, batch)
    assert terms["l1"] == pytest.approx(100.0 * np.abs(pre - real).mean(), rel=1e-4)
    assert terms["residual"] == pytest.approx(10.0 * np.abs(correction - missed).mean(), rel=1e-4)
    assert terms["spectrum"] == pytest.approx(10.0 * spectrum, rel=1e-4)


def test_what_was_missed_does_not_teach_the_first_network_to_miss() -> None:
    method, batch = small_method(SENSE, 32, l1_weight=0.0, spectrum_weight=0.0), drawn_batch(32)
    fix_verdict(method.network("discriminator"))
    last = method.generator.core.rectification.body[-2]
    torch.nn.init.zeros_(
        last.weight
    )  # a correction of 0: a gradient to the first network could come by the target only
    unchanging_step(method, batch)
    assert float(last.weight.grad.abs().max()) > 0.0
    assert all(float(p.grad.abs().max()) == 0.0 for p in method.generator.core.pre.parameters())


def test_what_is_predicted() -> None:
    batch = drawn_batch(32)
    for entry in ENTRIES:
        method = small_method(entry, 32)
        core = method.average.network.core
        torch.nn.init.ones_(core.rectification.body[-2].bias)
        with torch.no_grad():
            pre, correction, _ = core(batch.ct)
        expected = pre if entry is PUBLIC else (pre + correction).clamp(-1.0, 1.0)
        assert float(correction.abs().max()) > 1e-3
        torch.testing.assert_close(method.predict(batch.ct, batch.mask), expected)


def test_least_squares_of_a_constant_verdict() -> None:
    for entry, bias, on_both, on_fake in ((SENSE, 0.25, 0.3125, 0.5625), (PUBLIC, 100.0, 0.5, 0.0)):
        method = small_method(entry, 32)
        fix_verdict(method.network("discriminator"), bias)  # the public one's tanh makes 1 of 100
        terms = unchanging_step(method, drawn_batch(32))
        assert terms["discriminator"] == pytest.approx(on_both)
        assert terms["gan"] == pytest.approx(on_fake, abs=1e-6)


def test_the_pool_keeps_ct_and_rectified_image_together() -> None:
    method, batch = small_method(SENSE, 32), drawn_batch(32)
    with torch.no_grad():
        rectified = method.generator.core(batch.ct)[2]
    take_steps(method, batch, 1)
    torch.testing.assert_close(method.pool.state_dict()["images"], torch.cat([batch.ct, rectified], dim=1))


def test_the_discriminator_learns_first_and_each_learns_alone() -> None:
    order = (("discriminator", {"discriminator"}), ("generator", {"generator"}))
    check_order(small_method(SENSE, 32), drawn_batch(32), *order)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_resumed_run_goes_on_exactly(entry) -> None:
    def make():
        method = small_method(entry, 32)
        method.pool.size = 2  # full after one step
        return method

    check_resumes(make, drawn_batch(32), steps=3)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_one_empty_slice(entry) -> None:
    check_empty_slice(small_method(entry, 32))
