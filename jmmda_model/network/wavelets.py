"""One level of the periodised discrete wavelet transform, as layers of a network.

pytorch_wavelets computes every wavelet, always in periodization mode: in its symmetric, reflect and
periodic modes the gradients at the border are wrong for every wavelet longer than haar, which a test of
perfect reconstruction cannot see. Haar, the default of the paper, is computed by an equal strided form
(values and gradients within 1e-6), which needs fewer passes over memory and can be compiled and exported.

Conventions are those of pytorch_wavelets: the sub-bands (LH, HL, HH) answer to horizontal, vertical and
diagonal edges (PyWavelets cH, cV, cD); the transform is orthonormal, so LL of a constant image is twice
the constant.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

_MODE = "periodization"


def _haar_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    upper, lower = x[..., ::2, :], x[..., 1::2, :]
    total, vertical = 0.5 * (upper + lower), 0.5 * (upper - lower)
    total_left, total_right = total[..., ::2], total[..., 1::2]
    vertical_left, vertical_right = vertical[..., ::2], vertical[..., 1::2]
    high = [vertical_left + vertical_right, total_left - total_right, vertical_left - vertical_right]
    return total_left + total_right, torch.stack(high, dim=2)


def _haar_inverse(low: Tensor, high: Tensor) -> Tensor:
    lh, hl, hh = high.unbind(dim=2)
    total_left, total_right = low + hl, low - hl
    vertical_left, vertical_right = lh + hh, lh - hh
    pixels = [
        total_left + vertical_left,
        total_right + vertical_right,
        total_left - vertical_left,
        total_right - vertical_right,
    ]
    return functional.pixel_shuffle(0.5 * torch.stack(pixels, dim=2).flatten(1, 2), 2)


def _full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast (which the meta device does not know)."""
    if x.device.type == "meta":
        return nullcontext()
    return torch.autocast(device_type=x.device.type, enabled=False)


def _forget_buffers(module: nn.Module) -> None:
    # Filters follow from the wavelet's name. In a state dict they would be rounded with the weights when
    # a bundle is stored in half precision, and the transform would no longer be a wavelet transform.
    for name, buffer in list(module.named_buffers(recurse=False)):
        module.register_buffer(name, buffer, persistent=False)


class Dwt2d(nn.Module):
    """Forward transform, one level, each channel by itself.

    Parameters
    ----------
    wavelet
        Name as PyWavelets spells it, for example ``haar``, ``db2``, ``sym4``, ``bior2.2``.
    """

    def __init__(self, wavelet: str = "haar") -> None:
        super().__init__()
        self.wavelet = wavelet
        self.transform: nn.Module | None = None
        if wavelet != "haar":
            from pytorch_wavelets import DWTForward  # slow to import, rarely needed

            self.transform = DWTForward(J=1, wave=wavelet, mode=_MODE)
            _forget_buffers(self.transform)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Split a map into sub-bands, in float32 at least, whatever the autocast state.

        Parameters
        ----------
        x
            Shape (B, C, H, W) with even H and W.

        Returns
        -------
        tuple
            ``ll`` (B, C, H/2, W/2) and ``high`` (B, C, 3, H/2, W/2).

        Raises
        ------
        ValueError
            If H or W is odd: a silent padding would break the equality of the sizes downstream.
        """
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            raise ValueError(f"the wavelet transform needs an even height and width, got {height} x {width}")
        with _full_precision(x):
            x = x if x.dtype == torch.float64 else x.float()
            if self.transform is not None:
                low, highs = self.transform(x)
                return cast(Tensor, low), cast(Tensor, highs[0])
            return _haar_forward(x)


class Idwt2d(nn.Module):
    """Inverse of :class:`Dwt2d`.

    Parameters
    ----------
    wavelet
        Name as PyWavelets spells it.
    """

    def __init__(self, wavelet: str = "haar") -> None:
        super().__init__()
        self.wavelet = wavelet
        self.transform: nn.Module | None = None
        if wavelet != "haar":
            from pytorch_wavelets import DWTInverse  # slow to import, rarely needed

            self.transform = DWTInverse(wave=wavelet, mode=_MODE)
            _forget_buffers(self.transform)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Join sub-bands into a map.

        Parameters
        ----------
        low
            Shape (B, C, H, W).
        high
            Shape (B, C, 3, H, W), in the order LH, HL, HH.

        Returns
        -------
        torch.Tensor
            Shape (B, C, 2H, 2W).
        """
        with _full_precision(low):
            if low.dtype != torch.float64:
                low, high = low.float(), high.float()
            if self.transform is not None:
                return cast(Tensor, self.transform((low, [high])))
            return _haar_inverse(low, high)
