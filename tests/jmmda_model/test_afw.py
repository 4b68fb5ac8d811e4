"""Adaptive fusion weighting: weights, start state, degenerate inputs, ablations.

Left out: what the weights learn, which only a trained network can show (train, evaluation).
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jmmda_model.network.afw import AdaptiveFusion
from jmmda_model.network.settings import Afw

WEIGHTED: tuple[Afw, ...] = ("full", "channel_only", "spatial_only")


def _maps(count: int, channels: int = 8, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, channels, 6, 10, generator=generator) for _ in range(count)]


def _trained(mode: Afw, inputs: int = 3, channels: int = 8) -> AdaptiveFusion:
    """Return a fusion whose weights are away from the start state."""
    torch.manual_seed(1)
    fusion = AdaptiveFusion(channels, inputs, mode)
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, 0.0, 0.15)
    return fusion


@pytest.mark.parametrize("mode", WEIGHTED)
def test_training_starts_from_the_mean(mode: Afw) -> None:
    maps = _maps(3)
    fused, weights = AdaptiveFusion(8, 3, mode).fuse_with_weights(maps)
    assert weights is not None
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3))
    torch.testing.assert_close(fused, torch.stack(maps).mean(dim=0))


@pytest.mark.parametrize("mode", WEIGHTED)
def test_weights_are_positive_sum_to_one_and_make_the_output(mode: Afw) -> None:
    maps = _maps(3)
    fused, weights = _trained(mode).fuse_with_weights(maps)
    assert weights is not None
    assert weights.shape == (3, 3, 8, 6, 10)
    assert weights.min() > 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3, 8, 6, 10))
    assert weights.std() > 0.05
    torch.testing.assert_close(fused, (weights * torch.stack(maps, dim=1)).sum(dim=1))


@pytest.mark.parametrize("mode", WEIGHTED)
def test_weights_depend_on_the_content(mode: Afw) -> None:
    fusion = _trained(mode)
    first, second = (fusion.fuse_with_weights(_maps(3, seed=seed))[1] for seed in (0, 1))
    assert first is not None
    assert second is not None
    assert (first - second).abs().max() > 1e-3


def test_the_ablations_vary_only_where_they_may() -> None:
    channel = _trained("channel_only").fuse_with_weights(_maps(3))[1]
    spatial = _trained("spatial_only").fuse_with_weights(_maps(3))[1]
    assert channel is not None
    assert spatial is not None
    assert channel.std(dim=(3, 4)).max() < 1e-6
    assert spatial.std(dim=2).max() < 1e-6
    assert spatial.std(dim=(3, 4)).max() > 1e-3


@pytest.mark.parametrize("mode", [*WEIGHTED, "mean"])
def test_identical_inputs_give_the_input_whatever_their_order(mode: Afw) -> None:
    x = _maps(1)[0]
    fused = _trained(mode)([x, x.clone(), x.clone()])
    torch.testing.assert_close(fused, x)


@pytest.mark.parametrize("mode", [*WEIGHTED, "mean"])
def test_a_single_input_is_returned(mode: Afw) -> None:
    x = _maps(1)[0]
    assert torch.equal(_trained(mode, inputs=1)([x]), x)


def test_mean_has_no_parameters_and_equal_weights() -> None:
    fusion = AdaptiveFusion(8, 3, "mean")
    assert list(fusion.parameters()) == []
    weights = fusion.fuse_with_weights(_maps(3))[1]
    assert weights is not None
    assert torch.equal(weights, torch.full((3, 3, 8, 6, 10), 1 / 3))


def test_concat_mixes_all_inputs_and_has_no_weights() -> None:
    fusion = _trained("concat")
    maps = _maps(3)
    fused, weights = fusion.fuse_with_weights(maps)
    assert weights is None
    torch.testing.assert_close(fused, fusion.mix(torch.cat(maps, dim=1)))


def test_the_split_convolution_equals_one_of_the_concatenation() -> None:
    # The logits are linear in `squeeze` before its ReLU, so this compares the whole weight map.
    fusion = _trained("spatial_only")
    maps = _maps(3)
    seen = torch.relu(fusion.look(torch.relu(fusion.squeeze(torch.cat(maps, dim=1)))))
    expected = torch.softmax(fusion.spatial_logits(seen), dim=1)
    weights = fusion.fuse_with_weights(maps)[1]
    assert weights is not None
    torch.testing.assert_close(weights[:, :, 0], expected)


def test_a_wrong_number_of_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 3 maps, got 2"):
        AdaptiveFusion(8, 3)(_maps(2))
