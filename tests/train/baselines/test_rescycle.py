"""ResCycleGAN in both readings: sizes, losses by hand, who learns when, several CT channels, the mask.

Leaves out what all methods share (test_registry.py) and how well either reading synthesises.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_cases import (
    check_empty_slice,
    check_falls,
    check_order,
    check_resumes,
    drawn_batch,
    judged_by_squares,
    meta_networks,
    parameters_m,
    small_method,
    squares_from,
    take_steps,
    terms_of,
)

from train.baselines.base import Channels
from train.baselines.layers import ResidualBlock
from train.baselines.rescycle import ENTRIES
from train.data.dataset import Batch

REPO, PAPER = ENTRIES
BOTH = pytest.mark.parametrize("entry", ENTRIES, ids=["repo", "paper"])


def translations(method, batch: Batch) -> dict[str, torch.Tensor]:
    """What both generators make of a batch without mask, before any step."""
    there, back = method.generator.core, method.network("back")
    with torch.no_grad():
        fake_dwi, fake_ct = there(batch.ct), back(batch.target)
        return {
            "fake_dwi": fake_dwi,
            "fake_ct": fake_ct,
            "cycled_ct": back(fake_dwi),
            "cycled_dwi": there(fake_ct),
            "same_dwi": there(batch.target),
            "same_ct": back(batch.ct),
        }


def judged_by(method, name: str, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return method.network(name)(image)[-1]


@BOTH
def test_sizes_of_the_table(entry) -> None:
    sizes = {name: parameters_m(network) for name, network in meta_networks(entry).items()}
    expected = {"generator": 11.37, "back": 11.37, "discriminator": 2.76, "discriminator_ct": 2.76}
    assert sizes == pytest.approx(expected, abs=0.005)


def test_nine_blocks_at_a_quarter_of_the_side() -> None:
    networks, seen = meta_networks(REPO), []
    for module in networks["generator"].modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(lambda module, given, answer: seen.append(tuple(answer.shape[1:])))
    image = torch.zeros(1, 1, 256, 256, device="meta")
    assert networks["generator"](image, image).shape == image.shape
    assert networks["back"](image).shape == image.shape
    assert seen == 9 * [(256, 64, 64)]


@BOTH
def test_cycles_identities_and_pairs_are_learnt(entry) -> None:
    reports = take_steps(small_method(entry, 32), drawn_batch(32), 12)
    paired = ["distance", "distance_back", "gradient_back"] if entry is PAPER else []
    check_falls(reports, "cycle_ct", "cycle_dwi", "identity_dwi", "identity_ct", *paired)


def test_unpaired_terms_by_hand() -> None:
    """All terms belong to the weights before the step, those of the discriminators too: they learn second."""
    method, batch = small_method(REPO, 32), drawn_batch(32)
    images = translations(method, batch)
    ct, dwi = batch.ct.numpy(), batch.target.numpy()

    def apart(name: str, truth: np.ndarray) -> float:
        return float(np.mean(np.abs(images[name].numpy() - truth)))

    fake_dwi = judged_by(method, "discriminator", images["fake_dwi"])
    fake_ct = judged_by(method, "discriminator_ct", images["fake_ct"])
    real_dwi = judged_by(method, "discriminator", batch.target)
    real_ct = judged_by(method, "discriminator_ct", batch.ct)
    expected = {
        "gan": squares_from(fake_dwi, 1.0),
        "gan_back": squares_from(fake_ct, 1.0),
        "cycle_ct": 10.0 * apart("cycled_ct", ct),
        "cycle_dwi": 10.0 * apart("cycled_dwi", dwi),
        "identity_dwi": 0.5 * 10.0 * apart("same_dwi", dwi),
        "identity_ct": 0.5 * 10.0 * apart("same_ct", ct),
        "discriminator": judged_by_squares(real_dwi, fake_dwi),
        "discriminator_ct": judged_by_squares(real_ct, fake_ct),
    }
    (report,) = take_steps(method, batch, 1)
    assert terms_of(report) == pytest.approx(expected, rel=1e-4)
    assert float(report.loss) == pytest.approx(sum(expected[name] for name in list(expected)[:6]), rel=1e-4)


def test_paired_terms_by_hand() -> None:
    method, batch = small_method(PAPER, 32), drawn_batch(32)
    images = translations(method, batch)
    expected = {}
    for ending, name, truth in (("", "fake_dwi", batch.target), ("_back", "fake_ct", batch.ct)):
        image, target = images[name].numpy(), truth.numpy()
        expected[f"distance{ending}"] = 10.0 * np.mean(np.abs(image - target) ** 1.5)
        slopes = [np.abs(np.abs(np.diff(image, axis=a)) - np.abs(np.diff(target, axis=a))).mean() for a in (2, 3)]
        expected[f"gradient{ending}"] = 10.0 * sum(slopes)
    (report,) = take_steps(method, batch, 1)
    found = terms_of(report)
    unpaired = {name for name in found if name not in expected}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert unpaired == set(terms_of(take_steps(small_method(REPO, 32), batch, 1)[0]))


def test_without_identity_terms_they_are_not_computed() -> None:
    method = small_method(REPO, 32, identity_share=0.0)
    asked = []
    for core in (method.generator.core, method.network("back")):
        core.register_forward_pre_hook(lambda module, given: asked.append(module))
    (report,) = take_steps(method, drawn_batch(32), 1)
    assert not [name for name in report.terms if name.startswith("identity")]
    assert len(asked) == 4


@BOTH
def test_both_generators_learn_first_then_both_discriminators(entry) -> None:
    generators, discriminators = {"generator", "back"}, {"discriminator", "discriminator_ct"}
    order = (("generator", generators), ("discriminator", discriminators))
    check_order(small_method(entry, 32), drawn_batch(32), *order)


def test_both_generators_see_the_mask_and_no_discriminator_does() -> None:
    method, batch = small_method(REPO, 32, mask=True), drawn_batch(32)
    seen = {}
    for name, network in {**method.networks(), "generator": method.generator.core}.items():
        network.register_forward_pre_hook(lambda module, given, name=name: seen.setdefault(name, given[0].detach()))
    take_steps(method, batch, 1)
    assert torch.equal(seen["generator"], torch.cat([batch.ct, batch.mask], dim=1))
    assert torch.equal(seen["back"], torch.cat([batch.target, batch.mask], dim=1))
    assert torch.equal(seen["discriminator"], batch.target)
    assert torch.equal(seen["discriminator_ct"], batch.ct)


def test_several_ct_channels() -> None:
    """The DWI stands in for each channel, and the mean of the channels for the DWI."""
    method = small_method(PAPER, 32, channels=Channels(ct=3, mask=1), n_blocks=1)
    plain = drawn_batch(32)
    ct = torch.cat([plain.ct, -plain.ct, 0.5 * plain.ct], dim=1)
    batch = replace(plain, ct=ct)
    with torch.no_grad():
        same_dwi = method.generator.core(plain.target.repeat(1, 3, 1, 1))
        same_ct = method.network("back")(ct.mean(dim=1, keepdim=True))
    assert same_ct.shape == ct.shape
    (report,) = take_steps(method, batch, 1)
    found = terms_of(report)
    assert found["identity_dwi"] == pytest.approx(5.0 * float((same_dwi - plain.target).abs().mean()), rel=1e-4)
    assert found["identity_ct"] == pytest.approx(5.0 * float((same_ct - ct).abs().mean()), rel=1e-4)


@BOTH
def test_a_resumed_run_goes_on_exactly(entry) -> None:
    check_resumes(lambda: small_method(entry, 32), drawn_batch(32))


@BOTH
def test_an_empty_slice_is_learnt_from(entry) -> None:
    check_empty_slice(small_method(entry, 32))
