"""MedGAN as the article has it: sizes, the cascade, losses by hand, three generator updates, small and empty images.

Leaves out what all methods share (test_registry.py) and image quality. Small cascades have two blocks.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from baseline_cases import check_falls, drawn_batch, meta_networks, parameters_m, small_method, take_steps
from torch import Tensor, nn

from train.baselines.medgan_casnet import ENTRIES, casnet, content_loss, perceptual_loss, style_loss

(CASNET,) = ENTRIES


def small(**changes: Any) -> Any:
    return small_method(CASNET, 32, **({"n_blocks": 2} | changes))


def descents(method: Any, batch: Any) -> list[tuple[str, dict[str, Tensor]]]:
    """What an update descends, in order, without taking a step."""
    seen: list[tuple[str, dict[str, Tensor]]] = []
    method.descend = lambda name, terms: seen.append((name, dict(terms)))
    method.update(batch, None)
    return seen


def reaches(term: Tensor, network: nn.Module) -> bool:
    weights = list(network.parameters())
    gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def recorded(module: nn.Module) -> list[Any]:
    answers: list[Any] = []
    module.register_forward_hook(lambda module, given, answer: answers.append(answer))
    return answers


def test_sizes_of_the_table() -> None:
    generator = meta_networks(CASNET)["generator"]
    assert parameters_m(generator) == pytest.approx(326.5, abs=0.05)
    assert [parameters_m(block) for block in generator.core] == pytest.approx([54.41] * 6, abs=0.005)


def test_shapes_at_256_pixels() -> None:
    networks = meta_networks(CASNET)
    between, middle = recorded(networks["generator"].core[2]), recorded(networks["generator"].core[5].down[-1])
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
    fakes, steered = recorded(method.generator.core), recorded(method.still["discriminator"])
    verdicts = recorded(method.network("discriminator"))
    (_, judged), (_, terms), *_ = descents(method, batch)
    fake, (*true, _), (*false, fooled) = fakes[0], *steered[:2]
    real, found = (answer[-1].detach().double().numpy() for answer in verdicts)
    expected = 0.5 * (np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(found)).mean())
    assert float(judged["discriminator"].detach()) == pytest.approx(expected, rel=1e-5)
    expected_terms = {
        "gan": float(nn.functional.softplus(-fooled.detach()).mean()),
        "perceptual": 20.0
        * sum(float((a - b).detach().abs().mean()) for a, b in zip([fake, *false], [batch.target, *true], strict=True)),
        "style": 0.5 * float(style_loss(false, true).detach()),
        "content": 0.25 * float(content_loss(false, true).detach()),
    }
    assert {name: float(term.detach()) for name, term in terms.items()} == pytest.approx(expected_terms, rel=1e-5)


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
    fakes = recorded(method.generator.core)
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
    method, batch = small(), drawn_batch(32)
    empty = replace(batch, ct=-torch.ones_like(batch.ct), target=-torch.ones_like(batch.ct), mask=0.0 * batch.mask)
    check_falls(take_steps(method, empty, 2))
    assert method.guard.position.skipped == 0


def test_a_resumed_run_goes_on_the_same() -> None:
    method, batch = small(), drawn_batch(32)
    take_steps(method, batch, 1)
    saved = copy.deepcopy({name: part.state_dict() for name, part in method.parts().items()})
    (expected,) = take_steps(method, batch, 1, first=1)
    resumed = small()
    for name, part in resumed.parts().items():
        part.load_state_dict(saved[name])
    (found,) = take_steps(resumed, batch, 1, first=1)
    assert {name: float(term) for name, term in found.terms.items()} == {
        name: float(term) for name, term in expected.terms.items()
    }
