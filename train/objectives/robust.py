"""Barron's general robust loss, and its adaptive form that learns its own shape and scale.

Source: J. T. Barron, "A General and Adaptive Robust Loss Function", CVPR 2019 (equations 8 and 13 to 17). Which pixels
are counted is decided in `train.objectives.pixel`.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from train.objectives.errors import ObjectiveError

#: Range of the learnt shape: open at both ends, because the general form divides by alpha and by 2 - alpha.
ALPHA_RANGE = (0.001, 1.999)
#: Smallest learnt scale; without it the loss collapses onto regions that are predicted exactly.
MIN_SCALE_C = 0.02
#: Points of the table of the partition function.
TABLE_POINTS = 512

_LIMIT_TOLERANCE = 1e-6


def robust_rho(residual: Tensor, alpha: float, scale_c: float) -> Tensor:
    """Barron's general robust loss, element-wise.

    rho(e, a, c) = |a-2|/a * (((e/c)^2/|a-2| + 1)^(a/2) - 1), with the limits a = 2, a = 0 and a = -inf
    (Barron, CVPR 2019, equation 8).

    Parameters
    ----------
    residual : Tensor
        Prediction minus target, any shape.
    alpha : float
        Shape: 2 is squared error, 1 Charbonnier, 0 Cauchy, -inf Welsch.
    scale_c : float
        Residual at which the loss turns from quadratic to its tail.

    Returns
    -------
    Tensor
        Loss of each element, zero where the residual is zero.

    Raises
    ------
    ValueError
        When ``scale_c`` is not positive.
    """
    if scale_c <= 0.0:
        raise ValueError(f"scale_c must be positive, not {scale_c}")
    squared = (residual / scale_c) ** 2
    if abs(alpha - 2.0) < _LIMIT_TOLERANCE:
        return squared / 2.0
    if abs(alpha) < _LIMIT_TOLERANCE:
        return torch.log1p(squared / 2.0)
    if alpha == float("-inf"):
        return 1.0 - torch.exp(-squared / 2.0)
    distance = abs(alpha - 2.0)
    # expm1 and log1p: the plain power loses four digits in float32 when alpha is near 0.
    return distance / alpha * torch.expm1(alpha / 2.0 * torch.log1p(squared / distance))


def partition(alpha: float) -> float:
    """Z(alpha): integral of exp(-rho(x, alpha, 1)) over all x, which makes the loss a negative log-likelihood.

    With x = sinh(t) the integrand falls at least as fast as exp(-|t|), and the trapezoid rule over an analytic
    integrand converges beyond double precision at this step.

    Parameters
    ----------
    alpha : float
        Shape in 0..2; the integral diverges below 0.

    Raises
    ------
    ValueError
        When ``alpha`` is outside 0..2.
    """
    if not 0.0 <= alpha <= 2.0:
        raise ValueError(f"the partition function is tabulated for alpha in 0..2, not {alpha}")
    t = np.linspace(-40.0, 40.0, 1601)
    rho = robust_rho(torch.from_numpy(np.sinh(t)), alpha, 1.0).numpy()
    return float(np.sum(np.exp(np.log(np.cosh(t)) - rho)) * (t[1] - t[0]))


@functools.lru_cache(maxsize=1)
def log_partition_spline() -> npt.NDArray[np.float64]:
    """Cubic spline through log Z at `TABLE_POINTS` shapes in 0..2, made once per process.

    The points lie at alpha = 1 - cos(pi v) with v equally spaced in 0..1, dense at both ends: the slope of log Z grows
    like log(2 - alpha) towards 2, which equal steps of alpha miss by 1e-4.

    Returns
    -------
    numpy.ndarray
        (4, TABLE_POINTS - 1): coefficients of each interval of v, highest power of (v - left end) first.
    """
    from scipy.interpolate import CubicSpline

    v = np.linspace(0.0, 1.0, TABLE_POINTS)
    log_z = [math.log(partition(float(alpha))) for alpha in np.clip(1.0 - np.cos(np.pi * v), 0.0, 2.0)]
    coefficients: npt.NDArray[np.float64] = CubicSpline(v, log_z).c
    return coefficients


class AdaptiveRobust(nn.Module):
    """Negative log-likelihood of Barron's distribution, with a learnt shape alpha and scale c.

    rho(e, alpha, c) + log c + log Z(alpha), equation 16 of Barron (CVPR 2019). alpha lies in `ALPHA_RANGE` by a
    sigmoid and c above `MIN_SCALE_C` by a softplus, so that any value of the two latents is legal. Give the latents no
    weight decay: zero means nothing special for them.

    Parameters
    ----------
    alpha, scale_c : float
        Where training starts.

    Raises
    ------
    ObjectiveError
        When a start lies outside the open ranges above.
    """

    table: Tensor

    def __init__(self, alpha: float = 1.0, scale_c: float = 0.5) -> None:
        super().__init__()
        low, high = ALPHA_RANGE
        if not low < alpha < high:
            raise ObjectiveError("adaptive_start", f"adaptive alpha starts between {low} and {high}, not at {alpha}")
        if scale_c <= MIN_SCALE_C:
            raise ObjectiveError("adaptive_start", f"adaptive scale_c starts above {MIN_SCALE_C}, not at {scale_c}")
        share = (alpha - low) / (high - low)
        self.latent_alpha = nn.Parameter(torch.tensor(math.log(share / (1.0 - share))))
        self.latent_scale = nn.Parameter(torch.tensor(math.log(math.expm1(scale_c - MIN_SCALE_C))))
        self.register_buffer("table", torch.from_numpy(log_partition_spline()).float(), persistent=False)

    def alpha(self) -> Tensor:
        """Shape now; scalar, differentiable."""
        low, high = ALPHA_RANGE
        return low + (high - low) * torch.sigmoid(self.latent_alpha)

    def scale_c(self) -> Tensor:
        """Scale now; scalar, differentiable."""
        return MIN_SCALE_C + functional.softplus(self.latent_scale)

    def log_partition(self) -> Tensor:
        """Log Z at the shape now, from the table; scalar, differentiable."""
        v = torch.acos(1.0 - self.alpha()) / math.pi
        step = 1.0 / (TABLE_POINTS - 1)
        interval = (v.detach() / step).long().clamp(0, TABLE_POINTS - 2)
        cubic, square, linear, constant = self.table.index_select(1, interval.view(1)).view(4)
        x = v - interval * step
        value: Tensor = ((cubic * x + square) * x + linear) * x + constant
        return value

    def forward(self, residual: Tensor) -> Tensor:
        """Negative log-likelihood of each residual.

        Parameters
        ----------
        residual : Tensor
            Prediction minus target, any shape; leave out the background, where a residual of exactly 0 would pull c
            to its lower bound.

        Returns
        -------
        Tensor
            Same shape; may be negative, as any log-density.
        """
        alpha, scale = self.alpha(), self.scale_c()
        distance = 2.0 - alpha
        squared = (residual / scale).square()
        rho = distance / alpha * torch.expm1(alpha / 2.0 * torch.log1p(squared / distance))
        likelihood: Tensor = rho + torch.log(scale) + self.log_partition()
        return likelihood
