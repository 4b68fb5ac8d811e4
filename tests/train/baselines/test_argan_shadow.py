"""ARGAN with its steps of attention and removal: the memory and a step by hand, losses, which lesions teach.

Leaves out what all methods share (test_registry.py). The article's sizes are not known, so none are compared.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_cases import (
    ONE_CT,
    check_empty_slice,
    check_falls,
    check_order,
    check_resumes,
    drawn_batch,
    fix_verdict,
    parameters_m,
    sigmoid,
    small_method,
    take_steps,
    unchanging_step,
)

from train.baselines.argan_shadow import ENTRIES, ConvLstm, known_cross_entropy

(ENTRY,) = ENTRIES
WEIGHTS = (0.49, 0.7, 1.0)


def test_shapes_and_shared_weights() -> None:
    with torch.device("meta"):
        networks = [ENTRY.method.translator(replace(ENTRY.options, steps=steps), ONE_CT) for steps in (1, 3)]
    assert parameters_m(networks[0]) == parameters_m(networks[1])
    empty = torch.zeros(1, 1, 256, 256, device="meta")
    images, logits = networks[1].core(empty)
    assert [image.shape for image in images + logits] == [(1, 1, 256, 256)] * 6
    assert networks[1].core.memory(torch.zeros(1, 32, 8, 8, device="meta"), None)[1].shape == (1, 32, 8, 8)


def test_the_memory_by_hand() -> None:
    torch.manual_seed(2)
    cell = ConvLstm(1, 1)
    with torch.no_grad():
        output, kept = cell(
            torch.full((1, 1, 1, 1), 0.7), (torch.full((1, 1, 1, 1), 0.2), torch.full((1, 1, 1, 1), 2.0))
        )
    weight = cell.gates.weight.detach().double().numpy()[:, :, 1, 1]  # one pixel meets only the middle of the kernel
    enter, keep, leave, news = weight @ np.array([0.7, 0.2]) + cell.gates.bias.detach().double().numpy()
    expected = sigmoid(keep) * 2.0 + sigmoid(enter) * np.tanh(news)
    assert float(kept) == pytest.approx(expected, rel=1e-5)
    assert float(output) == pytest.approx(sigmoid(leave) * np.tanh(expected), rel=1e-5)


def test_steps_by_hand_and_the_clipped_prediction() -> None:
    method, batch = small_method(ENTRY, 32), drawn_batch(32)
    network, residuals = method.average.network, []
    torch.nn.init.constant_(network.core.remover.up[0][1].bias, 0.3)  # three steps lead beyond 1
    network.core.remover.register_forward_hook(lambda module, given, answer: residuals.append(answer.numpy()))
    with torch.no_grad():
        images, logits = network.core(batch.ct)
    expected = batch.ct.numpy()
    for image, logit, residual in zip(images, logits, residuals, strict=True):
        attended = sigmoid(logit.numpy())
        expected = expected + 2.0 * (attended * residual[:, :1] + (1.0 - attended) * residual[:, 1:])
        np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)
    assert len(images) == 3
    assert expected.max() > 1.0
    predicted = method.predict(batch.ct, batch.mask).numpy()
    np.testing.assert_allclose(predicted, expected.clip(-1.0, 1.0), atol=1e-5)


def test_later_steps_remember_earlier_ones() -> None:
    network = small_method(ENTRY, 32).generator
    seen = []
    network.core.memory.register_forward_hook(lambda module, given, answer: seen.append((given[1], answer)))
    with torch.no_grad():
        network.core(drawn_batch(32).ct)
    assert seen[0][0] is None
    for (_, answer), (state, _) in itertools.pairwise(seen):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(answer, state, strict=True))


def test_it_learns() -> None:
    check_falls(take_steps(small_method(ENTRY, 32), drawn_batch(32), 12), "l1", "attention")


def test_terms_by_hand() -> None:
    method = small_method(ENTRY, 32)
    batch = replace(drawn_batch(32), lesion_known=torch.tensor([1.0, 0.0]))
    with torch.no_grad():
        images, logits = method.generator.core(batch.ct)
    real, lesion = batch.target.numpy(), batch.lesion.numpy()[:1]
    l1 = attention = 0.0
    for weight, image, logit in zip(WEIGHTS, images, logits, strict=True):
        l1 += weight * np.abs(image.numpy() - real).mean()
        p = sigmoid(logit.double().numpy()[:1])
        attention -= weight * (lesion * np.log(p) + (1.0 - lesion) * np.log(1.0 - p)).mean()
    terms = unchanging_step(method, batch)
    assert terms["l1"] == pytest.approx(10.0 * l1, rel=1e-4)
    assert terms["attention"] == pytest.approx(attention, rel=1e-4)


def test_attention_learns_from_known_lesions_alone() -> None:
    logits, lesion = torch.zeros(2, 1, 4, 4, requires_grad=True), torch.ones(2, 1, 4, 4)
    known_cross_entropy(logits, lesion, torch.tensor([0.0, 1.0])).backward()
    assert float(logits.grad[0].abs().max()) == 0.0
    assert float(logits.grad[1].sum()) == pytest.approx(-0.5)
    nothing = known_cross_entropy(logits, lesion, torch.zeros(2))
    assert float(nothing.detach()) == 0.0


def test_the_discriminator_judges_the_last_step_beside_the_ct() -> None:
    method, batch, seen = small_method(ENTRY, 32), drawn_batch(32), []
    with torch.no_grad():
        images, _ = method.generator.core(batch.ct)
    method.network("discriminator").register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    take_steps(method, batch, 1)
    on_real, on_fake = seen
    torch.testing.assert_close(on_real, torch.cat([batch.ct, batch.target], dim=1))
    torch.testing.assert_close(on_fake, torch.cat([batch.ct, images[-1]], dim=1))


def test_least_squares_of_a_constant_verdict() -> None:
    method = small_method(ENTRY, 32)
    fix_verdict(method.network("discriminator"), 0.25)
    terms = unchanging_step(method, drawn_batch(32))
    assert terms["discriminator"] == pytest.approx(0.3125)
    assert terms["gan"] == pytest.approx(0.5625)


def test_the_discriminator_learns_first_and_each_learns_alone() -> None:
    order = (("discriminator", {"discriminator"}), ("generator", {"generator"}))
    check_order(small_method(ENTRY, 32), drawn_batch(32), *order)


def test_a_resumed_run_goes_on_exactly() -> None:
    check_resumes(lambda: small_method(ENTRY, 32), drawn_batch(32))


@pytest.mark.parametrize("known", [0.0, 1.0])
def test_one_empty_slice(known: float) -> None:
    check_empty_slice(small_method(ENTRY, 32), known=known)
