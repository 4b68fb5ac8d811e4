"""MedGAN after Nie et al.: sizes, losses by hand, the long residual, what learns from what, small and empty images.

Leaves out what all methods share (test_registry.py) and image quality.
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

from train.baselines.medgan_nie import ENTRIES, ResidualUNet, squared_gradient_difference

(MEDGAN,) = ENTRIES


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
    networks = meta_networks(MEDGAN)
    assert parameters_m(networks["generator"]) == pytest.approx(31.04, abs=0.005)
    assert parameters_m(networks["discriminator"]) == pytest.approx(25.88, abs=0.005)


def test_shapes_at_256_pixels() -> None:
    networks = meta_networks(MEDGAN)
    features = recorded(networks["discriminator"].features)
    middle = recorded(networks["generator"].core.down[-1])
    image = torch.empty(2, 1, 256, 256, device="meta")
    assert networks["generator"](image, image).shape == (2, 1, 256, 256)
    assert middle[0].shape == (2, 1024, 16, 16)
    assert networks["discriminator"](torch.cat([image, image], dim=1)).shape == (2, 1)
    assert features[0].shape == (2, 64, 28, 28)


def test_it_learns() -> None:
    check_falls(take_steps(small_method(MEDGAN, 32), drawn_batch(32), 12), "mse", "gradient")


def test_the_gradient_difference_by_hand() -> None:
    random = np.random.default_rng(3)
    a, b = random.normal(size=(2, 2, 1, 4, 5))
    down = [
        (abs(a[n, 0, i + 1, j] - a[n, 0, i, j]) - abs(b[n, 0, i + 1, j] - b[n, 0, i, j])) ** 2
        for n in range(2)
        for i in range(3)
        for j in range(5)
    ]
    along = [
        (abs(a[n, 0, i, j + 1] - a[n, 0, i, j]) - abs(b[n, 0, i, j + 1] - b[n, 0, i, j])) ** 2
        for n in range(2)
        for i in range(4)
        for j in range(4)
    ]
    found = float(squared_gradient_difference(torch.from_numpy(a), torch.from_numpy(b)))
    assert found == pytest.approx(np.mean(down) + np.mean(along))


def test_terms_and_weights_by_hand() -> None:
    method = small_method(MEDGAN, 32, adversarial_weight=0.3, mse_weight=2.0, gradient_weight=7.0)
    batch = drawn_batch(32)
    fakes, verdicts = recorded(method.generator.core), recorded(method.network("discriminator"))
    steered = recorded(method.still["discriminator"])
    judged, terms = (terms for _, terms in descents(method, batch))
    fake = fakes[0].detach()
    real, false, fooled = (answer.detach().double().numpy() for answer in (*verdicts, *steered))
    expected = 0.5 * (np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(false)).mean())
    assert float(judged["discriminator"].detach()) == pytest.approx(expected, rel=1e-5)
    expected_terms = {
        "gan": 0.3 * np.log1p(np.exp(-fooled)).mean(),
        "mse": 2.0 * np.square((fake - batch.target).double().numpy()).mean(),
        "gradient": 7.0 * float(squared_gradient_difference(fake, batch.target)),
    }
    assert {name: float(term.detach()) for name, term in terms.items()} == pytest.approx(expected_terms, rel=1e-5)


def test_the_discriminator_learns_first_and_each_term_trains_one_network() -> None:
    method = small_method(MEDGAN, 32)
    (first, judged), (second, terms) = descents(method, drawn_batch(32))
    assert (first, second) == ("discriminator", "generator")
    generator, discriminator = method.network("generator"), method.network("discriminator")
    assert reaches(judged["discriminator"], discriminator)
    assert not reaches(judged["discriminator"], generator)
    for term in terms.values():
        assert reaches(term, generator)
    assert not reaches(terms["gan"], discriminator)


def test_the_slice_itself_is_added_to_the_answer() -> None:
    network = ResidualUNet(3, [4, 8])
    nn.init.zeros_(network.head.weight)
    nn.init.constant_(network.head.bias, 0.25)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(x), x[:, :1] + 0.25)


def test_the_prediction_is_clipped_and_what_is_trained_is_not() -> None:
    network = small_method(MEDGAN, 32).generator.eval()
    nn.init.zeros_(network.core.head.weight)
    nn.init.constant_(network.core.head.bias, 1.5)
    ct = drawn_batch(32).ct
    torch.testing.assert_close(network(ct, ct), (ct + 1.5).clamp(-1.0, 1.0))
    assert float(network.core(ct).detach().max()) > 1.2


@pytest.mark.parametrize(
    ("grid_px", "halvings", "convs"), [(256, 4, 3), (64, 4, 3), (48, 4, 3), (40, 3, 3), (32, 4, 2), (16, 3, 1)]
)
def test_depth_of_small_images(grid_px: int, halvings: int, convs: int) -> None:
    adapted = MEDGAN.method.adapted(MEDGAN.options, grid_px)
    assert (adapted.halvings, adapted.discriminator_convs) == (halvings, convs)
    assert grid_px % MEDGAN.method.grid_step(adapted) == 0


@pytest.mark.parametrize("grid_px", [16, 64])
def test_a_batch_of_one_and_the_mask(grid_px: int) -> None:
    method = small_method(MEDGAN, grid_px, mask=True)
    before = [weight.detach().clone() for weight in method.network("discriminator").parameters()]
    batch = drawn_batch(grid_px, 1)
    check_falls(take_steps(method, batch, 1))
    after = method.network("discriminator").parameters()
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert method.predict(batch.ct, batch.mask).shape == batch.target.shape


def test_an_empty_slice_is_finite_and_learnt_from() -> None:
    method, batch = small_method(MEDGAN, 32), drawn_batch(32)
    empty = replace(batch, ct=-torch.ones_like(batch.ct), target=-torch.ones_like(batch.ct), mask=0.0 * batch.mask)
    check_falls(take_steps(method, empty, 2))
    assert method.guard.position.skipped == 0


def test_a_resumed_run_goes_on_the_same() -> None:
    method, batch = small_method(MEDGAN, 32), drawn_batch(32)
    take_steps(method, batch, 2)
    saved = copy.deepcopy({name: part.state_dict() for name, part in method.parts().items()})
    (expected,) = take_steps(method, batch, 1, first=2)
    resumed = small_method(MEDGAN, 32)
    for name, part in resumed.parts().items():
        part.load_state_dict(saved[name])
    (found,) = take_steps(resumed, batch, 1, first=2)
    assert {name: float(term) for name, term in found.terms.items()} == {
        name: float(term) for name, term in expected.terms.items()
    }
