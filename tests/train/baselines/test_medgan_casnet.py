"""MedGAN as the article has it: sizes, the cascade, losses by hand, three generator updates, small and empty images.

Leaves out what all methods share (test_registry.py) and image quality. Small cascades have two blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from baseline_cases import (
    answers_of,
    check_empty_slice,
    check_falls,
    check_resumes,
    descents,
    drawn_batch,
    judged_by_logs,
    log_loss,
    meta_networks,
    parameters_m,
    reaches,
    small_method,
    take_steps,
    values_of,
)
from torch import nn

from train.baselines.medgan_casnet import ENTRIES, casnet, content_loss, perceptual_loss, style_loss

(CASNET,) = ENTRIES


def small(**changes: Any) -> Any:
    return small_method(CASNET, 32, **({"n_blocks": 2} | changes))


def test_sizes_of_the_table() -> None:
    generator = meta_networks(CASNET)["generator"]
    assert parameters_m(generator) == pytest.approx(326.5, abs=0.05)
    assert [parameters_m(block) for block in generator.core] == pytest.approx([54.41] * 6, abs=0.005)


def test_shapes_at_256_pixels() -> None:
    networks = meta_networks(CASNET)
    between, middle = answers_of(networks["generator"].core[2]), answers_of(networks["generator"].core[5].down[-1])
    image = torch.empty(1, 1, 256, 256, device="meta")
    assert networks["generator"](image, image).shape == (1, 1, 256, 256)
    assert between[0].shape == (1, 1, 256, 256)
    assert middle[0].shape == (1, 512, 1, 1)
    sizes = [answer.shape for answer in networks["discriminator"](torch.cat([image, image], dim=1))]
    assert sizes == [(1, 64, 128, 128), (1, 128, 64, 64), (1, 1, 64, 64)]


def test_only_the_last_block_ends_with_tanh() -> None:
    network = casnet(3, [4, 8], 2)
    for block in network:
        nn.init.constant_(block.up[0][1].bias, 3.0)
        nn.init.zeros_(block.up[0][1].weight)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(network[0](x), torch.full((1, 1, 8, 8), 3.0))
    torch.testing.assert_close(network(x), torch.full((1, 1, 8, 8), float(np.tanh(3.0))))


def test_it_learns() -> None:
    check_falls(take_steps(small(), drawn_batch(32), 12), "perceptual")


def test_losses_on_features_by_hand() -> None:
    random = np.random.default_rng(3)
    shapes = [(2, 2, 4, 3), (2, 5, 2, 2)]
    ours, theirs = ([random.normal(size=shape) for shape in shapes] for _ in range(2))
    style = 0.0
    for a, b in zip(ours, theirs, strict=True):
        channels, pixels = a.shape[1], a.shape[2] * a.shape[3]
        grams = [np.einsum("bmhw,bnhw->bmn", f, f) / (channels * pixels) for f in (a, b)]
        style += ((grams[0] - grams[1]) ** 2).sum() / 2 / (4 * channels**2)
    pairs = [torch.from_numpy(f) for f in ours], [torch.from_numpy(f) for f in theirs]
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    assert float(style_loss(*pairs)) == pytest.approx(style)
    assert float(content_loss(*pairs)) == pytest.approx(sum((d**2).mean() for d in apart))
    assert float(perceptual_loss(*pairs)) == pytest.approx(sum(abs(d).mean() for d in apart))


def test_terms_and_weights_by_hand() -> None:
    method, batch = small(style_weight=0.5, content_weight=0.25), drawn_batch(32)
    fakes, steered = answers_of(method.generator.core), answers_of(method.still["discriminator"])
    verdicts = answers_of(method.network("discriminator"))
    (_, judged), (_, terms), *_ = descents(method, batch)
    fake, (*true, _), (*false, fooled) = fakes[0], *steered[:2]
    expected = judged_by_logs(*(answer[-1] for answer in verdicts))
    assert values_of(judged)["discriminator"] == pytest.approx(expected, rel=1e-5)
    expected_terms = {
        "gan": log_loss(fooled, real=True),
        "perceptual": 20.0
        * sum(float((a - b).detach().abs().mean()) for a, b in zip([fake, *false], [batch.target, *true], strict=True)),
        "style": 0.5 * float(style_loss(false, true).detach()),
        "content": 0.25 * float(content_loss(false, true).detach()),
    }
    assert values_of(terms) == pytest.approx(expected_terms, rel=1e-5)


def test_each_term_trains_one_network() -> None:
    method = small()
    (_, judged), (_, terms), *_ = descents(method, drawn_batch(32))
    generator, discriminator = method.network("generator"), method.network("discriminator")
    assert reaches(judged["discriminator"], discriminator)
    assert not reaches(judged["discriminator"], generator)
    for term in terms.values():
        assert reaches(term, generator)
        assert not reaches(term, discriminator)


@pytest.mark.parametrize("updates", [1, 3])
def test_the_generator_learns_several_times_after_the_discriminator(updates: int) -> None:
    method = small(generator_updates=updates)
    order = []
    descend = method.descend
    method.descend = lambda name, terms: order.append(name) or descend(name, terms)
    take_steps(method, drawn_batch(32), 1)
    assert order == ["discriminator"] + updates * ["generator"]
    states = {name: method.parts()[f"{name}_optimiser"].state_dict()["state"] for name in set(order)}
    taken = {name: int(state[0]["step"]) for name, state in states.items()}
    assert taken == {"discriminator": 1, "generator": updates}


def test_three_updates_judge_three_predictions() -> None:
    method = small()
    fakes = answers_of(method.generator.core)
    take_steps(method, drawn_batch(32), 1)
    assert len(fakes) == 3
    assert not torch.equal(fakes[0], fakes[1])
    assert not torch.equal(fakes[1], fakes[2])


def test_depth_of_small_images_a_batch_of_one_and_the_mask() -> None:
    assert CASNET.method.adapted(CASNET.options, 256) == CASNET.options
    assert CASNET.method.adapted(CASNET.options, 96).levels == 5
    method, batch = small(mask=True), drawn_batch(32, 1)
    assert CASNET.method.grid_step(method.options) == 32
    check_falls(take_steps(method, batch, 1))
    assert method.predict(batch.ct, batch.mask).shape == batch.target.shape


def test_an_empty_slice_is_finite_and_learnt_from() -> None:
    check_empty_slice(small(), size=2)


def test_a_resumed_run_goes_on_the_same() -> None:
    check_resumes(small, drawn_batch(32), steps=1)
