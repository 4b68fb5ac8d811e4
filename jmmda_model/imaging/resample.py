"""Separable in-plane resampling by two sparse matrix products: linear, antialiased when it shrinks, exact and fast.

The same weights serve every direction of travel (CT to network grid and back, CT to the coarse grid of the mask), so
training and serving cannot drift apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from jmmda_model.imaging.volume import FloatArray


def linear_weights(n_in: int, start: float, step: float, n_out: int) -> sparse.csr_array:
    """Return the (n_out, n_in) weights that sample a line at ``start + step * k``, k = 0 .. n_out - 1.

    A triangle of half width max(1, ``step``) input samples: plain linear interpolation when the output is as fine as
    the input, its antialiased form when it is coarser. Weights over all samples, inside the line or not, sum to 1;
    those outside are dropped, which means that the line is continued by zeros.

    Parameters
    ----------
    n_in, n_out : int
        Samples of the input line and of the output.
    start, step : float
        First output position and distance between output positions, in input samples; ``step`` > 0.

    Examples
    --------
    >>> linear_weights(4, 0.5, 1.0, 3).toarray().tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    half = max(1.0, step)
    taps = int(np.ceil(2 * half)) + 1
    at = start + step * np.arange(n_out, dtype=np.float64)
    index = np.floor(at - half)[:, None].astype(np.int64) + np.arange(1, taps + 1)
    weight = np.clip(1 - np.abs(index - at[:, None]) / half, 0, None)
    weight /= weight.sum(axis=1, keepdims=True)
    rows = np.broadcast_to(np.arange(n_out)[:, None], index.shape)
    keep = (weight > 0) & (index >= 0) & (index < n_in)
    data = weight[keep].astype(np.float32)
    return sparse.csr_array((data, (rows[keep], index[keep])), shape=(n_out, n_in))


def apply_weights(
    image: npt.NDArray[Any], rows: sparse.csr_array, columns: sparse.csr_array, fill: float = 0.0
) -> FloatArray:
    """Return ``rows @ image @ columns.T`` as float32, the image being continued by ``fill`` outside.

    Parameters
    ----------
    image : numpy.ndarray
        (R, C).
    rows, columns : scipy.sparse.csr_array
        (R', R) and (C', C) weights of `linear_weights`.
    fill : float
        Value outside the image.
    """
    values = np.asarray(image, dtype=np.float32)
    if fill:
        values = values - np.float32(fill)
    out = (columns @ np.ascontiguousarray((rows @ values).T)).T
    return np.ascontiguousarray(out + np.float32(fill), dtype=np.float32)


def nearest_index(
    n_in: int, start: float, step: float, n_out: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the nearest input sample of each output sample, and whether that lies inside the line."""
    index = np.floor(start + step * np.arange(n_out, dtype=np.float64) + 0.5).astype(np.int64)
    return np.clip(index, 0, n_in - 1), (index >= 0) & (index < n_in)
