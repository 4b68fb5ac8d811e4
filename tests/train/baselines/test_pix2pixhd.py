"""pix2pixHD with the global generator and with the local enhancer: sizes, shapes, losses by hand, who learns when.

Leaves out the discriminator's own shapes (test_network_discriminator.py), what all methods share (test_registry.py)
and whether it learns to synthesise: a dozen steps without a pixel loss say nothing about that.
"""

from __future__ import annotations

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
    judged_by_squares,
    meta_networks,
    parameters_m,
    plain,
    small_method,
    squares_from,
    take_steps,
    terms_of,
)

from train.baselines.layers import ResidualBlock
from train.baselines.pix2pixhd import ENTRIES

GLOBAL, LOCAL = ENTRIES


def with_options(entry, **changes):
    return replace(entry, options=replace(entry.options, **changes))


@pytest.mark.parametrize(
    ("entry", "generator_m"),
    [
        (GLOBAL, 182.43),
        (with_options(GLOBAL, n_down=3), 45.58),
        (with_options(GLOBAL, n_down=3, width=0.5), 11.40),
        (LOCAL, 182.69),
    ],
)
def test_sizes_of_the_table(entry, generator_m: float) -> None:
    networks = meta_networks(entry)
    assert parameters_m(networks["generator"]) == pytest.approx(generator_m, abs=0.005)
    if entry.options.width == 1.0:
        assert parameters_m(networks["discriminator"]) == pytest.approx(5.53, abs=0.005)


def test_three_scales_of_the_article() -> None:
    networks = meta_networks(with_options(GLOBAL, num_scales=3))
    assert parameters_m(networks["discriminator"]) == pytest.approx(8.29, abs=0.005)


@pytest.mark.parametrize(
    ("entry", "blocks"),
    [(GLOBAL, 9 * [(1024, 16, 16)]), (LOCAL, 9 * [(1024, 8, 8)] + 3 * [(64, 128, 128)])],
    ids=["global", "local"],
)
def test_shapes_at_256(entry, blocks: list[tuple[int, ...]]) -> None:
    network = meta_networks(entry)["generator"]
    seen = []
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.register_forward_hook(lambda module, given, answer: seen.append(tuple(answer.shape[1:])))
    image = network(torch.zeros(2, 1, 256, 256, device="meta"), torch.zeros(2, 1, 256, 256, device="meta"))
    assert image.shape == (2, 1, 256, 256)
    assert seen == blocks


def test_the_coarse_generator_of_the_enhancer_sees_means_without_padding_and_is_added() -> None:
    core = small_method(LOCAL, 32).generator.core
    seen = {}
    core.coarse.register_forward_hook(lambda module, given, answer: seen.update(halved=given[0], coarse=answer))
    core.front.register_forward_hook(lambda module, given, answer: seen.update(front=answer))
    core.back.register_forward_pre_hook(lambda module, given: seen.update(joined=given[0]))
    x = drawn_batch(32).ct + torch.linspace(0.0, 1.0, 32)
    with torch.no_grad():
        core(x)
    assert seen["halved"].shape[2:] == (16, 16)
    torch.testing.assert_close(seen["halved"][:, :, 0, 0], x[:, :, :2, :2].mean(dim=(2, 3)))
    torch.testing.assert_close(seen["halved"][:, :, 3, 5], x[:, :, 5:8, 9:12].mean(dim=(2, 3)))
    assert float(seen["coarse"].abs().max()) > 0.1
    torch.testing.assert_close(seen["joined"], seen["coarse"] + seen["front"])


@pytest.mark.parametrize(
    ("entry", "grid_px", "n_down"),
    [(GLOBAL, 256, 4), (GLOBAL, 64, 4), (GLOBAL, 32, 3), (GLOBAL, 24, 2), (LOCAL, 256, 4), (LOCAL, 32, 2)],
)
def test_depth_follows_the_image(entry, grid_px: int, n_down: int) -> None:
    options = entry.method.adapted(entry.options, grid_px)
    assert options == replace(entry.options, n_down=n_down)
    assert grid_px % entry.method.grid_step(options) == 0


def test_depth_that_was_asked_for_is_not_exceeded() -> None:
    assert GLOBAL.method.adapted(replace(GLOBAL.options, n_down=2), 256).n_down == 2


def test_the_grid_step_is_what_the_generators_need() -> None:
    global_side, local_side = side_keeper(GLOBAL), side_keeper(LOCAL)
    assert global_side(12) == 12
    assert global_side(14) != 14
    assert local_side(24) == 24
    with pytest.raises(RuntimeError, match="broadcast"):
        local_side(28)


def side_keeper(entry):
    """Side of the image that two halvings make of a side."""
    options = replace(entry.options, width=0.125, n_down=2, n_blocks=1)
    with torch.device("meta"):
        network = entry.method.translator(options, ONE_CT)
    step = entry.method.grid_step(options)
    assert step == {"pix2pixhd": 4, "pix2pixhd_local": 8}[entry.name]

    def side(given: int) -> int:
        empty = torch.zeros(1, 1, given, given, device="meta")
        return int(network(empty, empty).shape[-1])

    return side


@pytest.mark.parametrize("num_scales", [1, 3])
def test_terms_by_hand(num_scales: int) -> None:
    """Both losses belong to the weights before the step: those of the discriminator, too, and its prediction."""
    method = small_method(GLOBAL, 32, num_scales=num_scales, feature_weight=7.0)
    batch = drawn_batch(32)
    with torch.no_grad():
        fake = method.generator(batch.ct, batch.mask)
        on_real = method.network("discriminator")(torch.cat([batch.ct, batch.target], dim=1))
        on_fake = method.network("discriminator")(torch.cat([batch.ct, fake], dim=1))
    assert [len(scale) for scale in on_real] == num_scales * [5]
    gan = matching = judged = 0.0
    for real, false in zip(on_real, on_fake, strict=True):
        gan += squares_from(false[-1], 1.0)
        judged += judged_by_squares(real[-1], false[-1])
        for layer in range(4):
            apart = np.mean(np.abs(plain(real[layer]) - plain(false[layer])))
            matching += 7.0 * (4.0 / 4.0) * (1.0 / num_scales) * apart
    (report,) = take_steps(method, batch, 1)
    expected = {"gan": gan, "feature_matching": matching, "discriminator": judged}
    assert terms_of(report) == pytest.approx(expected, rel=1e-4)
    assert float(report.loss) == pytest.approx(gan + matching, rel=1e-4)


def test_feature_matching_weighs_ten_and_scales_are_summed() -> None:
    method = small_method(GLOBAL, 32)
    for scale in method.network("discriminator").scales:
        fix_verdict(scale)
    assert method.options.feature_weight == 10.0
    (report,) = take_steps(method, drawn_batch(32), 1)
    assert float(report.terms["gan"]) == pytest.approx(2 * 1.0)
    assert float(report.terms["discriminator"]) == pytest.approx(2 * 0.5)


@pytest.mark.parametrize("entry", ENTRIES, ids=["global", "local"])
@pytest.mark.parametrize(("feature_weight", "term"), [(10.0, "feature_matching"), (0.0, "gan")])
def test_the_generator_learns_against_a_discriminator_that_stands_still(entry, feature_weight, term) -> None:
    """Each term where it leads: with the weight of 10 the features pull against the verdict."""
    method = small_method(entry, 32, feature_weight=feature_weight)
    method.rate_shares = {"discriminator": 0.0}
    check_falls(take_steps(method, drawn_batch(32), 12), term)


def test_the_discriminator_learns_against_a_generator_that_stands_still() -> None:
    method = small_method(GLOBAL, 32)
    method.rate_shares = {"generator": 0.0}
    check_falls(take_steps(method, drawn_batch(32), 12), "discriminator")


@pytest.mark.parametrize("entry", ENTRIES, ids=["global", "local"])
def test_the_generator_learns_first_and_each_learns_alone(entry) -> None:
    order = (("generator", {"generator"}), ("discriminator", {"discriminator"}))
    check_order(small_method(entry, 32), drawn_batch(32), *order)


def test_the_enhancer_and_the_global_generator_learn_together() -> None:
    method = small_method(LOCAL, 32)
    take_steps(method, drawn_batch(32), 1)
    for part in (method.generator.core.coarse, method.generator.core.front, method.generator.core.back):
        assert all(float(weight.grad.abs().max()) > 0 for weight in part.parameters() if weight.ndim > 1)


def test_discriminators_see_what_the_generator_sees() -> None:
    method = small_method(GLOBAL, 32, mask=True)
    batch = drawn_batch(32)
    seen = []
    for network in (method.network("discriminator"), method.still["discriminator"]):
        network.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    with torch.no_grad():
        fake = method.generator(batch.ct, batch.mask)
    take_steps(method, batch, 1)
    condition = torch.cat([batch.ct, batch.mask], dim=1)
    expected = [torch.cat([condition, image], dim=1) for image in (batch.target, fake, fake)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(seen, expected, strict=True))


def test_a_resumed_run_goes_on_exactly() -> None:
    check_resumes(lambda: small_method(GLOBAL, 32), drawn_batch(32))


@pytest.mark.parametrize("entry", ENTRIES, ids=["global", "local"])
def test_an_empty_slice_is_learnt_from(entry) -> None:
    check_empty_slice(small_method(entry, 32))
