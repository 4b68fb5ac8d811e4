"""Intensities of the contract: CT windows, mask channels, diffusion target and stored output values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jmmda_model.imaging.contract import EDGE_DISTANCE_SCALE_MM, PreprocessingContract
from jmmda_model.imaging.errors import ImagingError
from jmmda_model.imaging.morphology import edge_distance_px
from jmmda_model.imaging.volume import BoolArray, FloatArray


def window_channels(hu: npt.NDArray[Any], windows_hu: Sequence[tuple[float, float]]) -> FloatArray:
    """Window CT planes into channels.

    Parameters
    ----------
    hu : numpy.ndarray
        (..., H, W) in HU.
    windows_hu : sequence of (float, float)
        Lower and upper bound in HU of each channel.

    Returns
    -------
    numpy.ndarray
        (..., len(windows_hu), H, W) float32 in [-1, 1].

    Examples
    --------
    >>> window_channels(np.array([[-5.0, 40.0, 90.0]]), [(0.0, 80.0)])[0].tolist()
    [[-1.0, 0.0, 1.0]]
    """
    values = np.asarray(hu, dtype=np.float32)
    channels = np.empty((*values.shape[:-2], len(windows_hu), *values.shape[-2:]), dtype=np.float32)
    for index, (lower, upper) in enumerate(windows_hu):
        scaled = (values - np.float32(lower)) * np.float32(2 / (upper - lower)) - np.float32(1)
        np.clip(scaled, -1, 1, out=channels[..., index, :, :])
    return channels


def mask_channels(brain: npt.NDArray[Any], contract: PreprocessingContract) -> FloatArray:
    """Compute the mask channels of a stack on the network grid.

    Parameters
    ----------
    brain : numpy.ndarray
        (S, H, W) binary brain on the network grid.
    contract : PreprocessingContract
        Its ``mask_channels`` name what is computed, in that order; its grid spacing scales the distance.

    Returns
    -------
    numpy.ndarray
        (S, len(mask_channels), H, W) float32 in [-1, 1]. A slice without brain has distance -1 throughout.
    """
    inside = np.asarray(brain, dtype=bool)
    channels = np.empty((inside.shape[0], len(contract.mask_channels), *inside.shape[1:]), dtype=np.float32)
    for index, name in enumerate(contract.mask_channels):
        if name == "brain":
            channels[:, index] = inside
        else:
            scale = np.float32(contract.grid_spacing_mm / EDGE_DISTANCE_SCALE_MM)
            np.clip(edge_distance_px(inside) * scale, -1, 1, out=channels[:, index])
    return channels


def target_reference(dwi: npt.NDArray[Any], brain: npt.NDArray[Any]) -> float:
    """Return the median of ``dwi`` inside ``brain`` (same shape), the centre that scales the target.

    Raises
    ------
    ImagingError
        ``no_brain`` when the mask is empty, ``target`` when the median is not a positive finite number.
    """
    values = np.asarray(dwi)[np.asarray(brain, dtype=bool)]
    if values.size == 0:
        raise ImagingError("no_brain", "the diffusion target has no brain to be normalised in")
    reference = float(np.median(values))
    if not np.isfinite(reference) or reference <= 0:
        raise ImagingError("target", "the median of the diffusion target inside the brain is not positive")
    return reference


def normalise_target(
    dwi_grid: npt.NDArray[Any], brain_grid: npt.NDArray[Any], contract: PreprocessingContract
) -> FloatArray:
    """Scale a diffusion-weighted volume to the network's range.

    A robust centre and not a high percentile sets the scale: a bright lesion would darken everything else.

    Parameters
    ----------
    dwi_grid : numpy.ndarray
        (S, H, W) diffusion-weighted signal, arbitrary units, on the network grid.
    brain_grid : numpy.ndarray
        (S, H, W) binary brain; the median is taken over the whole volume's brain.
    contract : PreprocessingContract
        Its ``target_scale``.

    Returns
    -------
    numpy.ndarray
        (S, H, W) float32 in [-1, 1], outside the brain -1.

    Raises
    ------
    ImagingError
        ``no_brain`` or ``target``, see `target_reference`.
    """
    brain: BoolArray = np.asarray(brain_grid, dtype=bool)
    reference = target_reference(dwi_grid, brain)
    scaled = np.asarray(dwi_grid, dtype=np.float32) * np.float32(1 / (contract.target_scale * reference))
    return np.where(brain, np.clip(scaled, 0, 1) * 2 - 1, np.float32(-1)).astype(np.float32)


def stored_values(output: npt.NDArray[Any], contract: PreprocessingContract) -> npt.NDArray[np.uint16]:
    """Turn network output in [-1, 1] into stored values: round((clip(y) + 1) / 2 x output_levels), never rescaled.

    Examples
    --------
    >>> stored_values(np.array([-1.2, 0.0, 1.0]), PreprocessingContract()).tolist()
    [0, 2048, 4095]
    """
    clipped = np.clip(np.asarray(output, dtype=np.float32), -1, 1)
    return np.asarray(np.rint((clipped + 1) * np.float32(contract.output_levels / 2)), dtype=np.uint16)
