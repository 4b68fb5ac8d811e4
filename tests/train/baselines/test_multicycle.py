"""Both readings of MultiCycleGAN: sizes, losses by hand, the latent vector, halves of a batch, what learns from what.

Leaves out what all methods share (test_registry.py) and image quality.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from baseline_cases import (
    ONE_CT,
    calls_of,
    check_empty_slice,
    check_falls,
    check_resumes,
    descents,
    drawn_batch,
    fix_verdict,
    meta_networks,
    parameters_m,
    reaches,
    small_method,
    squares_from,
    take_steps,
    values_of,
)
from torch import Tensor, nn

from train.baselines.base import BaselineMethod, Channels, Entry
from train.baselines.multicycle_paper import ENTRIES as PAPER_ENTRIES
from train.baselines.multicycle_repo import ENTRIES as REPO_ENTRIES
from train.baselines.multicycle_repo import divergence

(REPO,) = REPO_ENTRIES
(PAPER,) = PAPER_ENTRIES
BOTH = pytest.mark.parametrize("entry", [REPO, PAPER], ids=lambda entry: entry.name)


def small(entry: Entry, grid_px: int = 32, **changes: Any) -> BaselineMethod[Any]:
    fewer = {"n_blocks": 2} if entry is PAPER else {}
    return small_method(entry, grid_px, **(fewer | changes))


def from_target(scales: list[Tensor], target: float) -> float:
    return sum(squares_from(logits, target) for logits in scales)


class Scale(nn.Module):
    """Stands for a generator."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_sizes_of_the_table() -> None:
    repo, paper = meta_networks(REPO), meta_networks(PAPER)
    assert parameters_m(repo["generator"]) == pytest.approx(54.79, abs=0.005)
    assert parameters_m(repo["encoder"]) == pytest.approx(2.59, abs=0.005)
    assert parameters_m(repo["discriminator"]) == pytest.approx(3.46, abs=0.005)
    for name in ("generator", "back"):
        assert parameters_m(paper[name]) == pytest.approx(11.37, abs=0.005)
    for name in ("discriminator", "ct_discriminator"):
        assert parameters_m(paper[name]) == pytest.approx(2.76, abs=0.005)


def test_shapes_at_256_pixels() -> None:
    repo, paper = meta_networks(REPO), meta_networks(PAPER)
    image = torch.empty(1, 1, 256, 256, device="meta")
    pooled = calls_of(repo["encoder"].features[-2])
    assert repo["generator"](image, image).shape == image.shape
    assert [answer.shape for answer in repo["encoder"](image)] == [(1, 8), (1, 8)]
    assert pooled[0][0][0].shape == (1, 256, 8, 8)
    judged = repo["discriminator"](torch.cat([image, image], dim=1))
    assert [logits.shape[2:] for logits in judged] == [(30, 30), (14, 14)]
    assert paper["generator"](image, image).shape == paper["back"](image).shape == image.shape


def test_both_learn() -> None:
    check_falls(take_steps(small(REPO), drawn_batch(32), 12), "l1")
    check_falls(take_steps(small(PAPER), drawn_batch(32), 12), "paired", "cycle")


@BOTH
def test_generators_learn_first_and_terms_train_only_theirs(entry: Entry) -> None:
    method = small(entry)
    (first, terms), (second, judged) = descents(method, drawn_batch(32))
    assert (first, second) == ("generator", "discriminator")
    networks = method.networks()
    judges = {name: networks.pop(name) for name in list(networks) if "discriminator" in name}
    for term in terms.values():
        assert any(reaches(term, network) for network in networks.values())
        assert not any(reaches(term, judge) for judge in judges.values())
    for term in judged.values():
        assert any(reaches(term, judge) for judge in judges.values())
        assert not any(reaches(term, network) for network in networks.values())


@BOTH
def test_every_weight_is_trained(entry: Entry) -> None:
    method = small(entry)
    before = copy.deepcopy({name: network.state_dict() for name, network in method.networks().items()})
    take_steps(method, drawn_batch(32), 1)
    for name, network in method.networks().items():
        still = [key for key, weight in network.named_parameters() if torch.equal(weight, before[name][key])]
        assert not [key for key in still if key.endswith("weight")], name


@BOTH
def test_several_ct_channels_a_mask_and_a_batch_of_one(entry: Entry) -> None:
    method, batch = small(entry, channels=Channels(ct=3, mask=1), mask=True), drawn_batch(32, 1)
    batch = replace(batch, ct=torch.cat([batch.ct, batch.ct.flip(-1), -batch.ct], dim=1))
    check_falls(take_steps(method, batch, 1))
    assert method.guard.position.skipped == 0
    assert method.predict(batch.ct, batch.mask).shape == batch.target.shape


@BOTH
def test_an_empty_slice_is_finite_and_learnt_from(entry: Entry) -> None:
    check_empty_slice(small(entry), size=2)


@BOTH
def test_a_resumed_run_goes_on_the_same(entry: Entry) -> None:
    check_resumes(lambda: small(entry), drawn_batch(32), steps=1)


# multicycle_repo


def test_divergence_by_hand() -> None:
    random = np.random.default_rng(3)
    mean, log_variance = random.normal(size=(2, 3, 4))
    sd = np.exp(0.5 * log_variance)
    expected = (0.5 * (mean**2 + sd**2 - 1.0) - np.log(sd)).sum() / 3
    assert float(divergence(torch.from_numpy(mean), torch.from_numpy(log_variance))) == pytest.approx(expected)


def test_repo_terms_by_hand() -> None:
    method, batch = small(REPO, l1_weight=3.0, kl_weight=2.0, latent_weight=0.7), drawn_batch(32, 3)
    nn.init.constant_(method.network("encoder").log_variance.bias, -2.0)
    nn.init.constant_(method.network("encoder").mean.bias, 0.5)
    core, read = calls_of(method.generator.core), calls_of(method.network("encoder"))
    reread, steered = calls_of(method.still["encoder"]), calls_of(method.still["discriminator"])
    verdicts = calls_of(method.network("discriminator"))
    torch.manual_seed(5)
    (_, terms), (_, judged) = descents(method, batch)
    torch.manual_seed(5)
    noise, drawn = torch.randn(2, 8), torch.randn(2, 8)
    ((given_image,), (mean, log_variance)), ((seen, vectors), fakes) = read[0], core[0]
    torch.testing.assert_close(given_image, batch.target[:2])
    torch.testing.assert_close(seen, torch.cat([batch.ct[:2], batch.ct[:2]]))
    torch.testing.assert_close(vectors[:2], mean + noise * torch.exp(log_variance / 2.0))
    torch.testing.assert_close(vectors[2:], drawn)
    torch.testing.assert_close(reread[0][0][0], fakes[2:])
    expected = {
        "gan_encoded": from_target(steered[0][1], 1.0),
        "gan_drawn": from_target(steered[1][1], 1.0),
        "l1": 3.0 * float((fakes[:2] - batch.target[:2]).detach().abs().mean()),
        "kl": 2.0 * float(divergence(mean, log_variance).detach()),
        "latent": 0.7 * float((reread[0][1][0] - drawn).detach().abs().mean()),
    }
    assert values_of(terms) == pytest.approx(expected, rel=1e-5)
    (real, fake), (other, drawn_fake) = verdicts[:2], verdicts[2:]
    expected = {
        "discriminator_encoded": 0.5 * (from_target(real[1], 1.0) + from_target(fake[1], 0.0)),
        "discriminator_drawn": 0.5 * (from_target(other[1], 1.0) + from_target(drawn_fake[1], 0.0)),
    }
    assert values_of(judged) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("size", "first", "second"), [(1, [0], [0]), (3, [0, 1], [1, 2]), (4, [0, 1], [2, 3])])
def test_halves_of_a_batch(size: int, first: list[int], second: list[int]) -> None:
    method, batch = small(REPO), drawn_batch(32, size)
    verdicts = calls_of(method.network("discriminator"))
    descents(method, batch)
    pairs = torch.cat([batch.ct, batch.target], dim=1)
    (real, _), (other, _) = verdicts[0], verdicts[2]
    torch.testing.assert_close(real[0], pairs[first])
    torch.testing.assert_close(other[0], pairs[second])


def test_recovery_of_drawn_vectors_trains_the_generator_only() -> None:
    method = small(REPO)
    (_, terms), _ = descents(method, drawn_batch(32))
    trained = {
        name: (reaches(term, method.network("generator")), reaches(term, method.network("encoder")))
        for name, term in terms.items()
    }
    assert trained == {
        "gan_encoded": (True, True),
        "gan_drawn": (True, False),
        "l1": (True, True),
        "kl": (False, True),
        "latent": (True, False),
    }


def test_every_level_down_sees_the_vector() -> None:
    method = small(REPO)
    calls = [calls_of(down) for down in method.generator.core.down]
    vector = torch.arange(8.0)[None]
    method.generator.core(drawn_batch(32, 1).ct, vector)
    assert len(calls) == 5
    for ((given,), _), *_ in calls:
        torch.testing.assert_close(given[:, -8:], vector[:, :, None, None].expand(-1, -1, *given.shape[2:]))


def test_predictions_are_of_the_vector_0_or_the_mean_of_fixed_ones() -> None:
    batch = drawn_batch(32)
    plain = small(REPO)
    core = plain.average.network.core
    with torch.no_grad():
        expected = core(batch.ct, torch.zeros(2, 8))
    torch.testing.assert_close(plain.predict(batch.ct, batch.mask), expected)
    torch.manual_seed(11)
    averaged = small(REPO, samples=3)
    vectors = averaged.average.network.vectors
    assert vectors.shape == (3, 8)
    assert vectors.unique(dim=0).shape == (3, 8)
    with torch.no_grad():
        expected = sum(averaged.average.network.core(batch.ct, vector.expand(2, -1)) for vector in vectors) / 3
    found = averaged.predict(batch.ct, batch.mask)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(averaged.predict(batch.ct[:1], batch.mask[:1]), found[:1])
    assert torch.equal(small(REPO, samples=3).average.network.vectors, vectors)


@pytest.mark.parametrize(("grid_px", "levels", "halvings"), [(256, 8, 3), (96, 5, 3), (64, 6, 3), (32, 5, 2)])
def test_depth_of_small_images(grid_px: int, levels: int, halvings: int) -> None:
    adapted = REPO.method.adapted(REPO.options, grid_px)
    assert (adapted.levels, adapted.discriminator_halvings) == (levels, halvings)
    assert grid_px % REPO.method.grid_step(adapted) == 0


def test_64_pixels_with_the_whole_discriminator() -> None:
    method = small(REPO, 64)
    check_falls(take_steps(method, drawn_batch(64, 1), 1))


# multicycle_paper


def test_paper_terms_by_hand() -> None:
    method, batch = small(PAPER), drawn_batch(32)
    for name in ("discriminator", "ct_discriminator"):
        fix_verdict(method.network(name))
    a, b = 1.5, -0.4
    method.generator.core, back = Scale(a), Scale(b)
    network = method.network
    method.network = lambda name: back if name == "back" else network(name)
    (_, terms), (_, judged) = descents(method, batch)
    x, y = batch.ct.double().numpy(), batch.target.double().numpy()
    abs_x, abs_y = abs(x).mean(), abs(y).mean()
    expected = {
        "gan": 2.0,
        "cycle": 10.0 * abs(a * b - 1.0) * (abs_x + abs_y),
        "pseudo_cycle": 5.0 * abs(a * b - 1.0) * (abs(a) * abs_x + abs(b) * abs_y),
        "identity": 5.0 * (abs(a - 1.0) * abs_y + abs(b - 1.0) * abs_x),
        "paired": 10.0 * (abs(a * x - y).mean() + abs(b * y - x).mean()),
    }
    assert values_of(terms) == pytest.approx(expected, rel=1e-5)
    assert list(values_of(judged).values()) == pytest.approx([0.5, 0.5])


def test_paper_discriminators_see_their_own_domain() -> None:
    method, batch = small(PAPER), drawn_batch(32)
    seen = {name: calls_of(method.network(name)) for name in ("discriminator", "ct_discriminator")}
    descents(method, batch)
    torch.testing.assert_close(seen["discriminator"][0][0][0], batch.target)
    torch.testing.assert_close(seen["ct_discriminator"][0][0][0], batch.ct)


def test_paper_makes_every_ct_channel_on_the_way_back() -> None:
    with torch.device("meta"):
        networks = PAPER.method.companions(PAPER.options, Channels(ct=3, mask=1))
        one = PAPER.method.companions(PAPER.options, ONE_CT)
    image = torch.empty(1, 1, 32, 32, device="meta")
    assert networks["back"](image).shape == (1, 3, 32, 32)
    assert one["back"](image).shape == image.shape
