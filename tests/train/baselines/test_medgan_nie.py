"""MedGAN after Nie et al.: sizes, losses by hand, the long residual, what learns from what, small and empty images.

Leaves out what all methods share (test_registry.py) and image quality.
"""

from __future__ import annotations

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

from train.baselines.medgan_nie import ENTRIES, ResidualUNet, squared_gradient_difference

(MEDGAN,) = ENTRIES


def test_sizes_of_the_table() -> None:
    networks = meta_networks(MEDGAN)
    assert parameters_m(networks["generator"]) == pytest.approx(31.04, abs=0.005)
    assert parameters_m(networks["discriminator"]) == pytest.approx(25.88, abs=0.005)


def test_shapes_at_256_pixels() -> None:
    networks = meta_networks(MEDGAN)
    features = answers_of(networks["discriminator"].features)
    middle = answers_of(networks["generator"].core.down[-1])
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
    fakes, verdicts = answers_of(method.generator.core), answers_of(method.network("discriminator"))
    steered = answers_of(method.still["discriminator"])
    judged, terms = (terms for _, terms in descents(method, batch))
    fake = fakes[0].detach()
    assert values_of(judged)["discriminator"] == pytest.approx(judged_by_logs(*verdicts), rel=1e-5)
    expected_terms = {
        "gan": 0.3 * log_loss(steered[0], real=True),
        "mse": 2.0 * np.square((fake - batch.target).double().numpy()).mean(),
        "gradient": 7.0 * float(squared_gradient_difference(fake, batch.target)),
    }
    assert values_of(terms) == pytest.approx(expected_terms, rel=1e-5)


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
    check_empty_slice(small_method(MEDGAN, 32), size=2)


def test_a_resumed_run_goes_on_the_same() -> None:
    check_resumes(lambda: small_method(MEDGAN, 32), drawn_batch(32))
