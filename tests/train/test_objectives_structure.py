"""Wavelet, MS-SSIM, gradient-difference and lesion-contrast terms against PyWavelets, torchmetrics, SciPy and NumPy.

Leaves out the transform's own gradients, which the network's tests cover.
"""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from scipy import ndimage
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from jmmda_model.imaging.symmetry import mirror_slices
from train.objectives import (
    ObjectiveError,
    gradient_difference_loss,
    lesion_contrast_loss,
    mirrored,
    ms_ssim,
    ms_ssim_loss,
    smallest_ms_ssim_side,
    sub_bands,
    wavelet_loss,
)
from train.objectives.structure import centroid_lines


def smooth_pair(size: int, seed: int = 0, noise: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Two related smooth images (2, 1, size, size) in [-1, 1], float64."""
    rng = np.random.default_rng(seed)
    base = ndimage.gaussian_filter(rng.standard_normal((2, 1, size, size)), (0, 0, 3, 3))
    base /= np.abs(base).max()
    return base, np.clip(base + noise * rng.standard_normal(base.shape), -1, 1)


def disc(size: int, radius: float, centre: tuple[float, float] | None = None) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    row, column = centre or ((size - 1) / 2, (size - 1) / 2)
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2).astype(np.float64)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_sub_bands_are_those_of_pywavelets(wavelet: str) -> None:
    image, _ = smooth_pair(32)
    image = image.astype(np.float32)
    bands = sub_bands(torch.from_numpy(image), 3, wavelet)
    theirs = pywt.wavedec2(image, wavelet, mode="periodization", level=3)[1:][::-1]
    for ours, details in zip(bands, theirs, strict=True):
        np.testing.assert_allclose(ours.numpy(), np.stack(details, axis=2), atol=1e-6)


def test_wavelet_loss_is_the_mean_difference_of_pywavelets_coefficients() -> None:
    one, other = smooth_pair(32)
    levels = [pywt.wavedec2(image, "haar", mode="periodization", level=3)[1:][::-1] for image in (one, other)]
    each = [
        np.mean([np.abs(a - b).mean() for a, b in zip(mine, theirs, strict=True)]) / 2**level
        for level, (mine, theirs) in enumerate(zip(*levels, strict=True))
    ]
    loss = wavelet_loss(torch.from_numpy(one), torch.from_numpy(other), levels=3)
    assert float(loss) == pytest.approx(np.mean(each), rel=1e-9)


def test_wavelet_loss_sees_edges_in_the_brain_and_no_change_of_level() -> None:
    one, other = (torch.from_numpy(image) for image in smooth_pair(32))
    brain = torch.from_numpy(disc(32, 9.0)).expand(2, 1, 32, 32)
    assert float(wavelet_loss(one + 0.3, one)) == pytest.approx(0.0, abs=1e-12)
    outside = one + (other - one) * (1 - torch.from_numpy(disc(32, 20.0)))
    assert float(wavelet_loss(outside, one, brain)) == 0.0
    assert float(wavelet_loss(outside, one)) > 0.001
    everywhere = wavelet_loss(one, other, torch.ones_like(one))
    torch.testing.assert_close(everywhere, wavelet_loss(one, other))


def test_wavelet_loss_says_which_size_does_not_divide() -> None:
    image = torch.zeros(1, 1, 12, 12)
    with pytest.raises(ObjectiveError, match="12 x 12 pixels do not divide into 3 levels"):
        wavelet_loss(image, image)


def ms_ssim_in_numpy(x: np.ndarray, y: np.ndarray, brain: np.ndarray | None, size: int, sigma: float) -> float:
    """MS-SSIM of two images (H, W), data range 2, after Wang's msssim.m: valid windows, 2 x 2 means."""
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    taps /= taps.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            image = ndimage.correlate1d(image, taps, axis=axis)
        return image[size // 2 : -(size // 2), size // 2 : -(size // 2)]

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    result = 1.0
    for scale, exponent in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):
        if scale:
            x, y = (i.reshape(len(i) // 2, 2, -1, 2).mean(axis=(1, 3)) for i in (x, y))
            brain = None if brain is None else brain.reshape(len(brain) // 2, 2, -1, 2).mean(axis=(1, 3))
        mx, my = blur(x), blur(y)
        vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        index = (2 * vxy + c2) / (vx + vy + c2)
        if scale == 4:
            index = index * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        edge = size // 2
        result *= np.average(index, weights=None if brain is None else brain[edge:-edge, edge:-edge]) ** exponent
    return float(result)


def test_ms_ssim_is_that_of_numpy_in_frame_and_brain() -> None:
    x, y = smooth_pair(112)
    brain = disc(112, 35.0)
    for mask in (None, brain):
        given = None if mask is None else torch.from_numpy(mask).expand(2, 1, 112, 112)
        ours = ms_ssim(torch.from_numpy(x), torch.from_numpy(y), given)
        wanted = [ms_ssim_in_numpy(x[i, 0], y[i, 0], mask, 7, 1.5) for i in range(2)]
        np.testing.assert_allclose(ours.numpy(), wanted, rtol=1e-9)
        assert 0.2 < min(wanted) < 0.99


def test_ms_ssim_is_that_of_torchmetrics_with_the_same_window() -> None:
    x, y = (torch.from_numpy(image) for image in smooth_pair(128, seed=2))
    # torchmetrics takes its taps from sigma (7 for this one), and kernel_size for its check of the image size only.
    theirs = multiscale_structural_similarity_index_measure(
        x, y, sigma=0.9, kernel_size=7, data_range=2.0, reduction="none", normalize="relu"
    )
    # Its coarsest scale pads by reflection where the article leaves the border out: 2 x 2 windows against 8 x 8.
    torch.testing.assert_close(ms_ssim(x, y, sigma=0.9), theirs, rtol=2e-3, atol=0.0)


def test_ms_ssim_loss_is_zero_for_equal_images_and_has_finite_gradients_for_opposite_ones() -> None:
    x, _ = (torch.from_numpy(image).float() for image in smooth_pair(112))
    assert float(ms_ssim_loss(x, x)) == pytest.approx(0.0, abs=1e-6)
    opposite = (-x).requires_grad_()
    loss = ms_ssim_loss(opposite, x)
    loss.backward()
    assert float(loss.detach()) > 0.9
    assert torch.isfinite(opposite.grad).all()


def test_ms_ssim_has_the_slope_of_finite_differences() -> None:
    x, y = (torch.from_numpy(image[:1]) for image in smooth_pair(112))
    x.requires_grad_()
    brain = torch.from_numpy(disc(112, 35.0)).view(1, 1, 112, 112)
    (gradient,) = torch.autograd.grad(ms_ssim_loss(x, y, brain), x)
    with torch.no_grad():
        way = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
        slope = float(ms_ssim_loss(x + 1e-5 * way, y, brain) - ms_ssim_loss(x - 1e-5 * way, y, brain)) / 2e-5
    assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-5)


def test_ms_ssim_counts_an_empty_brain_as_agreement() -> None:
    x, y = (torch.from_numpy(image).float() for image in smooth_pair(112))
    brain = torch.zeros_like(x)
    brain[1, :, 30:80, 30:80] = 1
    values = ms_ssim(x, y, brain)
    assert float(values[0]) == 1.0
    assert float(values[1]) < 0.99


def test_ms_ssim_needs_112_pixels_and_says_so() -> None:
    assert smallest_ms_ssim_side() == 112
    image = torch.zeros(1, 1, 128, 96)
    with pytest.raises(ObjectiveError, match="needs 112 x 112 pixels, not 128 x 96") as caught:
        ms_ssim_loss(image, image)
    assert caught.value.code == "image_too_small"


def test_gradient_difference_is_that_of_numpy() -> None:
    x, y = smooth_pair(24)
    wanted = sum(np.abs(np.abs(np.diff(x, axis=a)) - np.abs(np.diff(y, axis=a))).mean() for a in (-2, -1))
    loss = gradient_difference_loss(torch.from_numpy(x), torch.from_numpy(y))
    assert float(loss) == pytest.approx(wanted, rel=1e-9)


def test_gradient_difference_counts_pairs_of_brain_pixels() -> None:
    x, y = (image[:1] for image in smooth_pair(24))
    brain = disc(24, 7.0)
    wanted = 0.0
    for axis in (0, 1):
        apart = np.abs(np.abs(np.diff(x[0, 0], axis=axis)) - np.abs(np.diff(y[0, 0], axis=axis)))
        both = np.diff(np.cumsum(brain, axis=axis), axis=axis) * np.delete(brain, -1, axis=axis)
        wanted += apart[both > 0].mean()
    loss = gradient_difference_loss(
        torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(brain).view(1, 1, 24, 24)
    )
    assert float(loss) == pytest.approx(wanted, rel=1e-9)


def test_mirror_is_that_of_the_node_s_symmetry_line() -> None:
    rng = np.random.default_rng(5)
    image = ndimage.gaussian_filter(rng.random((2, 40, 48)), (0, 2, 2)).astype(np.float32)
    lines = [(0.15, 2.5), (-0.1, -1.25)]
    ours = mirrored(torch.from_numpy(image)[:, None], torch.tensor(lines))[:, 0].numpy()
    theirs = np.stack([mirror_slices(image[i : i + 1], lines[i])[0] for i in range(2)])
    np.testing.assert_allclose(ours[:, 10:30, 12:36], theirs[:, 10:30, 12:36], atol=1e-5)


def test_mirror_about_the_middle_column_is_a_flip() -> None:
    image = torch.rand(2, 1, 9, 12)
    torch.testing.assert_close(mirrored(image, torch.zeros(2, 2)), mirrored(image))
    torch.testing.assert_close(mirrored(image), image.flip(-1))


def test_centroid_line_follows_a_shifted_brain_and_stays_in_the_middle_without_one() -> None:
    brain = np.stack([disc(40, 8.0, (19.5, 23.5)), np.zeros((40, 40))])[:, None]
    np.testing.assert_allclose(centroid_lines(torch.from_numpy(brain)).numpy(), [[0.0, 4.0], [0.0, 0.0]], atol=1e-9)


def contrast_case() -> tuple[torch.Tensor, ...]:
    """Brain, a lesion on one side, and a target whose lesion is 0.8 above the rest; three slices, the last healthy."""
    brain = torch.from_numpy(disc(48, 18.0)).expand(3, 1, 48, 48).clone()
    lesion = torch.from_numpy(disc(48, 4.0, (24, 14))).expand(3, 1, 48, 48).clone()
    lesion[2] = 0
    return brain, lesion, -0.2 * brain + 0.8 * lesion


def test_lesion_contrast_is_the_difference_of_two_means() -> None:
    brain, lesion, target = contrast_case()
    prediction = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, target.shape))
    each = []
    for i in range(2):
        inside = lesion[i, 0].numpy() > 0
        other = inside[:, ::-1]
        contrast = [
            image[i, 0].numpy()[inside].mean() - image[i, 0].numpy()[other].mean() for image in (prediction, target)
        ]
        each.append(abs(contrast[0] - contrast[1]))
    assert float(lesion_contrast_loss(prediction, target, brain, lesion)) == pytest.approx(np.mean(each), rel=1e-9)


def test_lesion_contrast_forgives_a_change_of_level_and_not_a_missing_lesion() -> None:
    brain, lesion, target = contrast_case()
    assert float(lesion_contrast_loss(target + 0.3, target, brain, lesion)) == pytest.approx(0.0, abs=1e-9)
    assert float(lesion_contrast_loss(-0.2 * brain, target, brain, lesion)) == pytest.approx(0.8, rel=1e-9)


def test_lesion_contrast_uses_the_line_it_is_given() -> None:
    brain, lesion, target = contrast_case()
    moved = [image.roll(6, dims=-1) for image in (brain, lesion, target)]
    lines = torch.tensor([[0.0, 6.0]], dtype=torch.float64).expand(3, 2)
    rng = torch.Generator().manual_seed(0)
    prediction = torch.rand(target.shape, generator=rng, dtype=torch.float64)
    here = lesion_contrast_loss(prediction.roll(6, dims=-1), moved[2], moved[0], moved[1], lines)
    torch.testing.assert_close(here, lesion_contrast_loss(prediction, target, brain, lesion), rtol=1e-6, atol=1e-9)


def test_lesion_contrast_leaves_out_slices_without_lesion_or_without_another_side() -> None:
    brain, lesion, target = contrast_case()
    prediction = torch.zeros_like(target).requires_grad_()
    both_sides = lesion + lesion.flip(-1)
    for marked in (torch.zeros_like(lesion), both_sides):
        loss = lesion_contrast_loss(prediction, target, brain, marked)
        (gradient,) = torch.autograd.grad(loss, prediction)
        assert float(loss.detach()) == 0.0
        assert not gradient.any()
