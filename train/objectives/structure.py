"""Terms on structure: multi-scale SSIM, gradient difference, and contrast of a lesion against the other side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.objectives.errors import ObjectiveError
from train.objectives.wavelet import masked_mean

#: Exponents of the five scales (Wang et al., Asilomar 2003, section 3.2).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
#: Window: 7 and not the article's 11, so that images of 112 pixels and more have five scales.
MS_SSIM_WINDOW = 7
MS_SSIM_SIGMA = 1.5

_K1, _K2 = 0.01, 0.03
#: Lower bound of a scale's mean before its power below 1: at 0 the slope is infinite, below it there is no value.
_FLOOR = 1e-4
#: Fewest pixels of lesion, and of other side, whose mean is a contrast.
_FEWEST_PIXELS = 4.0


def smallest_ms_ssim_side(window: int = MS_SSIM_WINDOW, n_scales: int = len(MS_SSIM_WEIGHTS)) -> int:
    """Smallest height and width (pixels) whose coarsest scale still holds one window."""
    return int(window * 2 ** (n_scales - 1))


def _window(size: int, sigma: float, like: Tensor) -> Tensor:
    x = torch.arange(size, device=like.device, dtype=like.dtype) - (size - 1) / 2.0
    kernel = torch.exp(-x.square() / (2.0 * sigma**2))
    return kernel / kernel.sum()


def _blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Separable Gaussian, no padding: (B, C, h, w) -> (B, C, h - k + 1, w - k + 1)."""
    channels = image.shape[1]
    column = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return functional.conv2d(functional.conv2d(image, column, groups=channels), row, groups=channels)


def _ssim_maps(x: Tensor, y: Tensor, kernel: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure maps of SSIM (Wang et al., IEEE TIP 2004, equations 6 to 13)."""
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    moments = _blur(torch.cat([x, y, x * x, y * y, x * y], dim=1), kernel)
    mean_x, mean_y, square_x, square_y, product = moments.unbind(dim=1)
    variance = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2.0 * covariance + c2) / (variance + c2)
    return luminance[:, None], structure[:, None]


def _image_means(values: Tensor, share: Tensor | None) -> Tensor:
    """(B,) mean of each image, weighted by ``share``; 1, the value of perfect agreement, where there is no share."""
    if share is None:
        return values.mean(dim=(1, 2, 3))
    total = share.sum(dim=(1, 2, 3))
    means = (values * share).sum(dim=(1, 2, 3)) / total.clamp_min(1e-6)
    return torch.where(total > 0, means, torch.ones_like(means))


def ms_ssim(
    prediction: Tensor,
    target: Tensor,
    brain: Tensor | None = None,
    *,
    window: int = MS_SSIM_WINDOW,
    sigma: float = MS_SSIM_SIGMA,
    data_range: float = 2.0,
) -> Tensor:
    """Multi-scale structural similarity of each image (Wang, Simoncelli and Bovik, Asilomar 2003, equation 7).

    Gaussian window without padding, halving by 2 x 2 means, the published exponents; luminance at the coarsest scale
    only. The luminance there is taken point by point with the structure, as in the article's own program.

    Parameters
    ----------
    prediction, target : Tensor
        (B, 1, H, W).
    brain : Tensor, optional
        (B, 1, H, W) in 0..1: windows count as much as their middle pixel lies in the brain. None: the whole frame.
    window, sigma
        Of the Gaussian, in pixels of each scale.
    data_range : float
        Largest minus smallest possible value; 2 for images in [-1, 1].

    Returns
    -------
    Tensor
        (B,), at most 1.

    Raises
    ------
    ObjectiveError
        When the coarsest scale cannot hold one window.
    """
    smallest = smallest_ms_ssim_side(window)
    height, width = prediction.shape[-2:]
    if min(height, width) < smallest:
        raise ObjectiveError(
            "image_too_small",
            f"MS-SSIM with window {window} and {len(MS_SSIM_WEIGHTS)} scales needs {smallest} x {smallest} pixels, "
            f"not {height} x {width}; give this stage a larger grid or ms_ssim_weight = 0",
        )
    kernel = _window(window, sigma, prediction)
    edge = window // 2
    result = torch.ones(prediction.shape[0], device=prediction.device, dtype=prediction.dtype)
    for scale, exponent in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            prediction, target = functional.avg_pool2d(prediction, 2), functional.avg_pool2d(target, 2)
            brain = None if brain is None else functional.avg_pool2d(brain, 2)
        luminance, structure = _ssim_maps(prediction, target, kernel, data_range)
        values = structure * luminance if scale == len(MS_SSIM_WEIGHTS) - 1 else structure
        share = None if brain is None else brain[..., edge : brain.shape[-2] - edge, edge : brain.shape[-1] - edge]
        result = result * _image_means(values, share).clamp_min(_FLOOR) ** exponent
    return result


def ms_ssim_loss(prediction: Tensor, target: Tensor, brain: Tensor | None = None) -> Tensor:
    """1 - MS-SSIM of images in [-1, 1], mean over the batch; parameters and errors as `ms_ssim`; scalar."""
    return (1.0 - ms_ssim(prediction, target, brain)).mean()


def gradient_difference_loss(prediction: Tensor, target: Tensor, brain: Tensor | None = None) -> Tensor:
    """Difference between the absolute image gradients of prediction and truth (Mathieu et al., ICLR 2016, alpha = 1).

    Parameters
    ----------
    prediction, target : Tensor
        (B, 1, H, W).
    brain : Tensor, optional
        (B, 1, H, W) in 0..1: a difference of two neighbours counts where both lie in the brain. None: everywhere.

    Returns
    -------
    Tensor
        Scalar: mean absolute difference down the rows plus the same along the columns.
    """
    total = prediction.new_zeros(())
    for axis in (-2, -1):
        apart = (prediction.diff(dim=axis).abs() - target.diff(dim=axis).abs()).abs()
        share = None
        if brain is not None:
            length = brain.shape[axis] - 1
            share = torch.minimum(brain.narrow(axis, 0, length), brain.narrow(axis, 1, length))
        total = total + masked_mean(apart, share)
    return total


def mirrored(image: Tensor, lines: Tensor | None = None) -> Tensor:
    """Reflect images about the mid-sagittal line, bilinearly; zero comes in from outside.

    A point p (column, row, from the centre of the grid) goes to p - 2 (p . n - d) n, with n = (cos, sin) of the angle
    and d the offset: the lines of `jmmda_model.imaging.symmetry`.

    Parameters
    ----------
    image : Tensor
        (B, C, H, W).
    lines : Tensor, optional
        (B, 2): angle in radians and offset in pixels of each image's line. None: the middle column.

    Returns
    -------
    Tensor
        (B, C, H, W).
    """
    if lines is None:
        return image.flip(-1)
    height, width = image.shape[-2:]
    normal = torch.stack([torch.cos(lines[:, 0]), torch.sin(lines[:, 0])], dim=1)  # column, row
    offset = lines[:, 1]
    reflection = torch.eye(2, device=image.device, dtype=lines.dtype) - 2.0 * normal[:, :, None] * normal[:, None, :]
    # affine_grid counts half the frame as 1, along each axis.
    half = torch.tensor([width / 2.0, height / 2.0], device=image.device, dtype=lines.dtype)
    matrix = reflection * half[None, None, :] / half[None, :, None]
    shift = 2.0 * offset[:, None] * normal / half
    theta = torch.cat([matrix, shift[:, :, None]], dim=2).to(image.dtype)
    grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def centroid_lines(brain: Tensor) -> Tensor:
    """Upright lines through the centroid of each brain, for batches that carry no line of their own.

    Random shifts move the brain off the middle column by more than a small lesion is wide.

    Parameters
    ----------
    brain : Tensor
        (B, 1, H, W) in 0..1.

    Returns
    -------
    Tensor
        (B, 2): angle 0 and the offset of the centroid's column from the grid's centre in pixels, 0 without brain.
    """
    columns = torch.arange(brain.shape[-1], device=brain.device, dtype=brain.dtype) - (brain.shape[-1] - 1) / 2.0
    profile = brain.sum(dim=(1, 2))
    offset = (profile * columns).sum(dim=1) / profile.sum(dim=1).clamp_min(1e-6)
    return torch.stack([torch.zeros_like(offset), offset], dim=1)


def lesion_contrast_loss(
    prediction: Tensor, target: Tensor, brain: Tensor, lesion: Tensor, lines: Tensor | None = None
) -> Tensor:
    """Absolute error of the lesion's contrast: mean in the lesion minus mean of the same place on the other side.

    The other side is the mirrored lesion inside the brain without what is lesion itself. Ours; it asks for the right
    contrast and leaves the pattern inside the lesion to the other terms.

    Parameters
    ----------
    prediction, target : Tensor
        (B, 1, H, W).
    brain, lesion : Tensor
        (B, 1, H, W) in 0..1; a lesion that is not known is given as zeros.
    lines : Tensor, optional
        (B, 2), see `mirrored`.

    Returns
    -------
    Tensor
        Scalar: mean over the slices that have a lesion and another side to it, 0 (with a zero gradient) without any.
    """
    other = mirrored(lesion, lines) * brain * (1.0 - lesion)
    error = prediction - target  # the contrast is linear: that of the error is the error of the contrast
    in_lesion, in_other = lesion.sum(dim=(1, 2, 3)), other.sum(dim=(1, 2, 3))
    contrast = (error * lesion).sum(dim=(1, 2, 3)) / in_lesion.clamp_min(1.0)
    contrast = contrast - (error * other).sum(dim=(1, 2, 3)) / in_other.clamp_min(1.0)
    counted = ((in_lesion >= _FEWEST_PIXELS) & (in_other >= _FEWEST_PIXELS)).to(error.dtype)
    return (contrast.abs() * counted).sum() / counted.sum().clamp_min(1.0)
