"""The generator: sizes and counts, shapes and range, ablations, start state, gradients.

Left out: image quality, which needs training (train), and speed (benchmarks).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jmmda_model.network.counting import count_gmac, count_parameters
from jmmda_model.network.generator import Generator, build_generator
from jmmda_model.network.layers import InstanceNorm, SingleChannelConv
from jmmda_model.network.mfab import HighPath, cross_groups
from jmmda_model.network.settings import SIZES, GeneratorSettings, Size


def _tiny(**changes: Any) -> Generator:
    torch.manual_seed(0)
    return build_generator(GeneratorSettings.for_size("tiny", **changes))


def _input(batch: int, size: int, *, empty: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clipped CT with a flat background, and a mask with its signed edge distance."""
    generator = torch.Generator().manual_seed(7)
    brain = torch.zeros(batch, 1, size, size)
    if not empty:
        brain[:, :, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1.0
    ct = torch.where(brain > 0, torch.randn(batch, 3, size, size, generator=generator).clamp(-1, 1), -1.0)
    return ct, torch.cat([brain, 2 * brain - 1], dim=1)


ABLATIONS: dict[str, dict[str, Any]] = {
    "A0": {"mgff": "none", "mfab": False},
    "A1": {"mfab": False},
    "A2": {"mgff": "none"},
    "A3": {},
    "A5": {"mgff": "concat"},
    "spade": {"mgff": "spade"},
    "mean": {"afw": "mean"},
    "concat": {"afw": "concat"},
    "channel_only": {"afw": "channel_only"},
    "spatial_only": {"afw": "spatial_only"},
    "low": {"mfab_paths": "low"},
    "high": {"mfab_paths": "high"},
    "hf_skip": {"hf_skip": True},
    "resize": {"decoder": "resize"},
    "db2": {"wavelet": "db2"},
    "sym4, 8 heads": {"wavelet": "sym4", "heads": 8},
    "1 head": {"heads": 1},
    "unmasked": {"mask_output": False},
    "A4c": {"mgff": "none", "mfab": False, "unet_skips": True},
    "pyramid": {"image_pyramid": True},
    "pyramid, low": {"image_pyramid": True, "mfab_paths": "low"},
    "idwt": {"decoder": "idwt"},
    "idwt, db2": {"decoder": "idwt", "wavelet": "db2"},
    "all": {"image_pyramid": True, "unet_skips": True, "hf_skip": True, "decoder": "idwt", "heteroscedastic": True},
}


@pytest.mark.parametrize(
    ("size", "millions"),
    [("paper", 190.339), ("base", 48.564), ("small", 12.633), ("compact", 7.133), ("tiny", 0.063)],
)
def test_every_size_builds_with_its_parameter_count(size: Size, millions: float) -> None:
    with torch.device("meta"):
        generator = build_generator(GeneratorSettings.for_size(size, in_channels=1, mask_channels=1))
        out = generator(torch.zeros(1, 1, 256, 256), torch.zeros(1, 1, 256, 256))
    assert count_parameters(generator) / 1e6 == pytest.approx(millions, abs=6e-4)
    assert out.shape == (1, 1, 256, 256)


@pytest.mark.parametrize(("n_down", "millions", "gmac"), [(4, 182.43, 53.6), (3, 45.58, 51.2)])
def test_without_modules_it_is_the_global_generator_of_pix2pixhd(n_down: int, millions: float, gmac: float) -> None:
    settings = GeneratorSettings.for_size(
        "paper", in_channels=1, mask_channels=1, n_down=n_down, mgff="none", mfab=False
    )
    with torch.device("meta"):
        generator = build_generator(settings)
        counted = count_gmac(generator, torch.zeros(1, 1, 256, 256), torch.zeros(1, 1, 256, 256))
    assert count_parameters(generator) / 1e6 == pytest.approx(millions, abs=5e-3)
    assert counted == pytest.approx(gmac, abs=0.05)


def test_attention_is_counted() -> None:
    ct, mask = _input(1, 64)
    settings = GeneratorSettings.for_size("tiny", heads=1)
    with torch.device("meta"):
        both = count_gmac(build_generator(settings), ct.to("meta"), mask.to("meta"))
    # Tokens 32 x 32 of width 16 and 16 x 16 of width 32: two products of N * N * d each.
    products = (2 * 1024**2 * 16 + 2 * 256**2 * 32) / 1e9
    assert both > products
    assert count_gmac(_tiny(heads=1), ct, mask) == pytest.approx(both, rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_cross_fusion_groups_that_divide(size: Size) -> None:
    settings = GeneratorSettings.for_size(size)
    for level in range(settings.n_down):
        channels = 2 * settings.ngf * 2**level
        assert channels % cross_groups(channels) == 0


@pytest.mark.parametrize(("batch", "size"), [(3, 64), (1, 128), (1, 256), (2, 36)])
def test_shape_and_range(batch: int, size: int) -> None:
    ct, mask = _input(batch, size)
    with torch.inference_mode():
        out = _tiny()(ct, mask)
    assert out.shape == (batch, 1, size, size)
    assert out.min() >= -1
    assert out.max() <= 1
    assert torch.isfinite(out).all()


def test_slices_of_a_batch_do_not_see_each_other() -> None:
    ct, mask = _input(3, 64)
    generator = _tiny().eval()
    with torch.inference_mode():
        together = generator(ct, mask)
        alone = torch.cat([generator(ct[i : i + 1], mask[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def _loss(generator: Generator, ct: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if not generator.settings.heteroscedastic:
        return (generator(ct, mask) - 0.3).square().mean()
    mean, log_scale = generator.forward_with_scale(ct, mask)
    return ((mean - 0.3).square() + (mean.detach() - 0.3).abs() * torch.exp(-log_scale) + log_scale).mean()


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_trains_even_with_an_empty_mask(name: str) -> None:
    # The output stays unmasked here: with it, an empty mask rightly stops every gradient.
    generator = _tiny(**{**ABLATIONS[name], "mask_output": False})
    ct, mask = _input(2, 32, empty=True)
    ct[:] = torch.randn(ct.shape, generator=torch.Generator().manual_seed(8)).clamp(-1, 1)
    optimiser = torch.optim.SGD(generator.parameters(), lr=0.1)
    for _ in range(4):  # layers behind a zero-initialised one get their gradient after the first steps
        optimiser.zero_grad()
        _loss(generator, ct, mask).backward()
        optimiser.step()
    for parameter_name, parameter in generator.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    dead = [n for n, p in generator.named_parameters() if "weight" in n and not p.grad.abs().max() > 0]
    assert dead == []


@pytest.mark.parametrize("name", ["A1", "A3"])
def test_mgff_starts_exactly_at_the_generator_without_it(name: str) -> None:
    with_mgff = _tiny(**ABLATIONS[name])
    without = _tiny(**{**ABLATIONS[name], "mgff": "none"})
    state = with_mgff.state_dict()
    shared = {key: state[key] for key in without.state_dict()}
    without.load_state_dict(shared)
    ct, mask = _input(2, 64)
    with torch.inference_mode():
        assert torch.equal(with_mgff(ct, mask), without(ct, mask))


def test_the_mask_changes_the_output_once_mgff_has_moved() -> None:
    generator = _tiny(mask_output=False)
    assert isinstance(generator.stem.last, torch.nn.Conv2d)
    torch.nn.init.normal_(generator.stem.last.weight, 0.0, 0.1)
    ct, mask = _input(1, 64)
    with torch.inference_mode():
        change = (generator(ct, mask) - generator(ct, torch.ones_like(mask))).abs().max()
    assert change > 1e-3


def test_the_mask_branch_is_alive_at_the_start() -> None:
    torch.manual_seed(0)
    generator = build_generator(GeneratorSettings.for_size("compact"))
    _, mask = _input(1, 64)
    branch = generator.stem.mask_branch
    assert isinstance(branch, torch.nn.Sequential)
    assert branch(mask).std() > 0.1


def test_the_output_is_black_outside_the_brain() -> None:
    ct, mask = _input(2, 64)
    with torch.inference_mode():
        out = _tiny(mask_output=True)(ct, mask)
        empty = _tiny(mask_output=True)(*_input(1, 64, empty=True))
    assert torch.equal(out[mask[:, :1] == 0], torch.full_like(out[mask[:, :1] == 0], -1.0))
    assert out[mask[:, :1] > 0].std() > 0
    assert torch.equal(empty, torch.full_like(empty, -1.0))


def test_no_unit_of_the_channel_gate_is_silent_at_the_start() -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        hidden = HighPath(8, 16).channel_hidden
        assert (hidden(torch.ones(16)) > 0).all()
        assert hidden.weight.min() < 0


def test_attention_starts_at_the_identity() -> None:
    generator = _tiny()
    low = generator.encoder[0].low
    tokens = torch.randn(2, 9, 16)
    assert torch.equal(low.attention(tokens), tokens)


def test_fusion_weights_are_returned_from_input_to_output() -> None:
    ct, mask = _input(2, 64)
    with torch.inference_mode():
        out, weights = _tiny(hf_skip=True).forward_with_weights(ct, mask)
        assert torch.equal(out, _tiny(hf_skip=True)(ct, mask))
    assert [tuple(w.shape) for w in weights] == [(2, 3, 16, 32, 32), (2, 3, 32, 16, 16), (2, 2, 16, 32, 32)]
    for weight in weights:
        torch.testing.assert_close(weight.sum(dim=1), torch.ones_like(weight[:, 0]))


def test_a_generator_without_fusion_returns_no_weights() -> None:
    with torch.inference_mode():
        assert _tiny(mfab=False).forward_with_weights(*_input(1, 32))[1] == []


@pytest.mark.parametrize(
    ("ct_shape", "mask_shape", "message"),
    [
        ((1, 1, 64, 64), (1, 2, 64, 64), "ct must be"),
        ((1, 3, 64, 64), (1, 1, 64, 64), "mask must be"),
        ((1, 3, 64, 64), (1, 2, 32, 32), "mask must be"),
        ((1, 3, 66, 64), (1, 2, 66, 64), "multiples of 4"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(
    ct_shape: tuple[int, ...], mask_shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _tiny()(torch.zeros(ct_shape), torch.zeros(mask_shape))


def test_two_pass_norm_equals_the_built_in_one_on_flat_backgrounds() -> None:
    x = torch.full((2, 3, 64, 64), -1.0)
    x[:, 0, 20:30, 20:30] = torch.rand(10, 10, generator=torch.Generator().manual_seed(9))
    x[:, 1] += 1e-3 * torch.rand(64, 64, generator=torch.Generator().manual_seed(10))
    reference = torch.nn.functional.instance_norm(x.double())
    for norm in (InstanceNorm(), InstanceNorm(two_pass=True)):
        for layout in (torch.contiguous_format, torch.channels_last):
            got = norm(x.contiguous(memory_format=layout))
            torch.testing.assert_close(got.double(), reference, rtol=0, atol=2e-4)
            assert got.is_contiguous(memory_format=layout)
    assert torch.count_nonzero(InstanceNorm(two_pass=True)(x)[:, 2]) == 0


@pytest.mark.parametrize("two_pass", [False, True])
def test_the_gradient_of_the_norm_equals_that_of_the_built_in_one(two_pass: bool) -> None:
    x, direction = _input(2, 32)[0].double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    x[:, 1] = -1.0  # flat
    ours, built_in = x.clone().requires_grad_(), x.clone().requires_grad_()
    InstanceNorm(two_pass=two_pass)(ours).backward(direction)
    torch.nn.functional.instance_norm(built_in).backward(direction)
    torch.testing.assert_close(ours.grad, built_in.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["all", "spade"])
def test_the_generator_compiles_without_a_graph_break(name: str) -> None:
    generator = _tiny(**ABLATIONS[name])
    ct, mask = _input(1, 32)
    run = generator.forward_with_scale if generator.settings.heteroscedastic else generator
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(ct, mask), run(ct, mask), rtol=0, atol=2e-5)


def test_channels_last_gives_the_same_image_and_gradients() -> None:
    ct, mask = _input(2, 32)
    generator, other = _tiny(hf_skip=True), _tiny(hf_skip=True).to(memory_format=torch.channels_last)
    expected = generator(ct, mask)
    got = other(ct.contiguous(memory_format=torch.channels_last), mask)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    for image in (expected, got):
        image.square().mean().backward()
    for a, b in zip(generator.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-6)


def test_two_pass_norm_keeps_half_precision_sums_in_single_precision() -> None:
    x = 100 + torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(11))
    half = InstanceNorm(two_pass=True)(x.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), InstanceNorm()(x.half().float()), rtol=0, atol=5e-3)


def test_single_channel_convolution_equals_the_plain_one() -> None:
    torch.manual_seed(2)
    ours = SingleChannelConv(5, 7)
    plain = torch.nn.Conv2d(5, 1, 7)
    plain.load_state_dict(ours.state_dict())
    x, y = (torch.randn(2, 5, 20, 16, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    x.requires_grad_()
    y.requires_grad_()
    torch.testing.assert_close(ours(x), plain(y))
    ours(x).square().sum().backward()
    plain(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)


def test_the_generator_exports_with_the_same_result_and_two_pass_norms() -> None:
    generator = _tiny().eval()
    ct, mask = _input(1, 64)
    exported = torch.export.export(generator, (ct, mask)).module()
    with torch.inference_mode():
        torch.testing.assert_close(exported(ct, mask), generator(ct, mask), rtol=0, atol=2e-5)
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert {name for name in called if "norm" in name} == {"aten.layer_norm.default"}


def test_the_same_seed_gives_the_same_network() -> None:
    first, second = _tiny().state_dict(), _tiny().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
