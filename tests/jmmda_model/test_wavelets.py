"""Wavelet layers against PyWavelets, against pytorch_wavelets, and their gradients.

Left out: boundary modes other than periodization, which the layers do not offer, and speed (benchmarks).
"""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from torch import nn

from jmmda_model.network.wavelets import Dwt2d, Idwt2d

WAVELETS = ("haar", "db2", "db4", "sym4", "coif1", "bior2.2")


def _image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_transform_equals_pywavelets(wavelet: str) -> None:
    x = _image(2, 3, 32, 48)
    low, high = Dwt2d(wavelet)(x)
    expected_low, bands = pywt.dwt2(x.double().numpy(), wavelet, mode="periodization", axes=(-2, -1))
    expected_high = np.stack(bands, axis=2)
    tolerance = 1e-6 * max(1.0, float(x.abs().max()))
    np.testing.assert_allclose(low.numpy(), expected_low, rtol=0, atol=tolerance)
    np.testing.assert_allclose(high.numpy(), expected_high, rtol=0, atol=tolerance)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_inverse_restores_the_image(wavelet: str) -> None:
    x = _image(2, 3, 32, 48)
    restored = Idwt2d(wavelet)(*Dwt2d(wavelet)(x))
    torch.testing.assert_close(restored, x, rtol=0, atol=3e-6)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_inverse_equals_pywavelets_on_free_sub_bands(wavelet: str) -> None:
    low, high = _image(1, 2, 16, 16), _image(1, 2, 3, 16, 16, seed=1)
    expected = pywt.idwt2(
        (low.double().numpy(), tuple(high.double().numpy().transpose(2, 0, 1, 3, 4))),
        wavelet,
        mode="periodization",
        axes=(-2, -1),
    )
    np.testing.assert_allclose(Idwt2d(wavelet)(low, high).numpy(), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_gradient_equals_a_finite_difference(wavelet: str) -> None:
    # The transform is linear, so a central difference is exact up to rounding, at the borders too.
    dwt = Dwt2d(wavelet).double()
    generator = torch.Generator().manual_seed(3)
    x, direction = (torch.randn(1, 2, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    low_weight = torch.randn(1, 2, 8, 8, generator=generator, dtype=torch.float64)
    high_weight = torch.randn(1, 2, 3, 8, 8, generator=generator, dtype=torch.float64)

    def scalar(value: torch.Tensor) -> torch.Tensor:
        low, high = dwt(value)
        return (low * low_weight).sum() + (high * high_weight).sum()

    (gradient,) = torch.autograd.grad(scalar(x), x)
    with torch.no_grad():
        difference = (scalar(x + 0.5 * direction) - scalar(x - 0.5 * direction)).item()
    assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_gradient_of_the_inverse_equals_a_finite_difference(wavelet: str) -> None:
    idwt = Idwt2d(wavelet).double()
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    low, high = draw(1, 2, 8, 8).requires_grad_(), draw(1, 2, 3, 8, 8).requires_grad_()
    low_step, high_step, weight = draw(1, 2, 8, 8), draw(1, 2, 3, 8, 8), draw(1, 2, 16, 16)
    gradients = torch.autograd.grad((idwt(low, high) * weight).sum(), (low, high))
    along = (gradients[0] * low_step).sum() + (gradients[1] * high_step).sum()
    with torch.no_grad():
        change = ((idwt(low + low_step, high + high_step) - idwt(low, high)) * weight).sum()
    assert along.item() == pytest.approx(change.item(), rel=1e-9, abs=1e-9)


def _haar_of_pytorch_wavelets(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from pytorch_wavelets import DWTForward

    low, highs = DWTForward(J=1, wave="haar", mode="periodization")(x)
    return low, highs[0]


def test_the_strided_haar_equals_pytorch_wavelets_in_values_and_gradients() -> None:
    ours, theirs = (_image(2, 5, 32, 64, seed=5).requires_grad_() for _ in range(2))
    low, high = Dwt2d("haar")(ours)
    low_reference, high_reference = _haar_of_pytorch_wavelets(theirs)
    tolerance = 1e-6 * float(ours.detach().abs().max())
    torch.testing.assert_close(low, low_reference, rtol=0, atol=tolerance)
    torch.testing.assert_close(high, high_reference, rtol=0, atol=tolerance)
    seeds = [torch.randn(y.shape, generator=torch.Generator().manual_seed(6)) for y in (low, high)]
    torch.autograd.backward([low, high], seeds)
    torch.autograd.backward([low_reference, high_reference], seeds)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=4e-6)


def test_low_of_a_constant_is_twice_the_constant() -> None:
    low, high = Dwt2d("haar")(torch.full((1, 1, 4, 4), 0.75))
    assert torch.equal(low, torch.full((1, 1, 2, 2), 1.5))
    assert torch.count_nonzero(high) == 0


def test_a_horizontal_edge_answers_in_the_first_sub_band_only() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[:, :, 1:] = 1.0
    _, high = Dwt2d("haar")(image)
    energy = high.square().sum(dim=(0, 1, 3, 4))
    assert energy[0] > 0
    assert torch.equal(energy[1:], torch.zeros(2))


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_an_odd_size_is_refused(wavelet: str) -> None:
    with pytest.raises(ValueError, match="even height and width"):
        Dwt2d(wavelet)(torch.zeros(1, 1, 7, 8))


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_filters_stay_out_of_the_state_dict(wavelet: str) -> None:
    assert Dwt2d(wavelet).state_dict() == {}
    assert Idwt2d(wavelet).state_dict() == {}


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_autocast_does_not_lower_the_precision(wavelet: str) -> None:
    x = _image(1, 2, 16, 16)
    plain = Dwt2d(wavelet)(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = Dwt2d(wavelet)(x)
    for expected, got in zip(plain, cast, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(expected, got)


def test_the_strided_haar_exports() -> None:
    exported = torch.export.export(nn.Sequential(Dwt2d("haar")), (torch.zeros(1, 2, 8, 8),)).module()
    x = _image(1, 2, 8, 8)
    for expected, got in zip(Dwt2d("haar")(x), exported(x), strict=True):
        torch.testing.assert_close(got, expected)
