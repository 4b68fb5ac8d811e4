"""Precisions of inference, and the rule by which a reduced one may be used.

Reduced precision is never a matter of configuration alone: the network itself has to show at load time,
on its device, that its output keeps 60 dB and 8 of 4096 levels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

logger = logging.getLogger(__name__)

MIN_PSNR_DB = 60.0
"""Least agreement (peak 2) that a precision must reach."""
MAX_LEVELS = 8.0
"""Largest error, in levels of the stored output, that a precision may show."""


class Precision(Enum):
    """Arithmetic of the convolutions; sums of the normalisation are always in single precision."""

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"


#: Reduced precisions worth trying, fastest first. bf16 sits at the limit even with trained weights, and
#: has no speed that fp16 lacks.
CANDIDATES: dict[str, tuple[Precision, ...]] = {"cuda": (Precision.FP16, Precision.TF32), "cpu": ()}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well one computation reproduces another.

    Attributes
    ----------
    psnr_db
        With a peak of 2; infinite for equal outputs.
    max_levels
        Largest difference in levels of the stored output.
    """

    psnr_db: float
    max_levels: float

    @classmethod
    def between(cls, output: npt.NDArray[Any], reference: npt.NDArray[Any], output_levels: int) -> Self:
        """Compare two outputs in [-1, 1]."""
        difference = output.astype(np.float64) - reference.astype(np.float64)
        mean_square = float(np.mean(difference**2))
        if not math.isfinite(mean_square):
            return cls(float("nan"), float("nan"))
        psnr_db = float("inf") if mean_square == 0 else 10.0 * math.log10(4.0 / mean_square)
        return cls(psnr_db, float(np.abs(difference).max()) / 2.0 * output_levels)

    @property
    def holds(self) -> bool:
        """Whether the difference is small enough for images that are shown (NaN never is)."""
        return self.psnr_db >= MIN_PSNR_DB and self.max_levels <= MAX_LEVELS


def choose_precision(candidates: Sequence[Precision], measure: Callable[[Precision], Agreement]) -> Precision:
    """Return the first candidate whose measured agreement with single precision holds, else FP32.

    Parameters
    ----------
    candidates
        Reduced precisions, in order of preference.
    measure
        Gives a candidate's agreement with single precision; not called after the first that holds.
    """
    for candidate in candidates:
        agreement = measure(candidate)
        if agreement.holds:
            return candidate
        logger.info(
            "precision %s refused: %.1f dB, %.1f levels", candidate.value, agreement.psnr_db, agreement.max_levels
        )
    return Precision.FP32


@contextmanager
def arithmetic(device: torch.device, precision: Precision) -> Iterator[None]:
    """Set the arithmetic of convolutions and products for a block, and restore it after."""
    dtype = {Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}.get(precision)
    if device.type != "cuda":
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            yield
        return
    # cuDNN uses TF32 for single precision unless it is told not to.
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = "tf32" if precision is Precision.TF32 else "ieee"
    try:
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before
