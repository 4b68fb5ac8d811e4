"""A fixed head-like input, and the record of what a bundle's network answers to it.

The input is computed, not drawn, so that it is the same on every machine and with every library version.
It has the flat, clipped background of real CT, on which fused normalisation loses precision first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

PROBE_PX = 128
"""Default side of the probe; every size of the network accepts it."""

DEFAULT_TOLERANCE = 2e-3
"""Allowed deviation of a recorded value: 4 of 4095 output levels."""

_BLOCKS = 4


def probe_input(
    in_channels: int, mask_channels: int, *, batch: int = 2, size_px: int = PROBE_PX
) -> tuple[FloatArray, FloatArray]:
    """Return clipped CT of an elliptical head, and its brain mask.

    Parameters
    ----------
    in_channels, mask_channels
        Channels of the network.
    batch
        Number of slices; they differ.
    size_px
        Rows and columns.

    Returns
    -------
    tuple of numpy.ndarray
        CT (batch, in_channels, size_px, size_px) in [-1, 1], exactly -1 outside the head, and mask
        (batch, mask_channels, size_px, size_px): binary first, all others a signed distance in [-1, 1].
    """
    axis = (np.arange(size_px) + 0.5) / size_px * 2.0 - 1.0
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    radius = np.sqrt((rows / 0.85) ** 2 + (columns / 0.7) ** 2)
    head, brain = radius < 1.0, radius < 0.9
    ct = np.full((batch, in_channels, size_px, size_px), -1.0, dtype=np.float32)
    for index in range(batch):
        for channel in range(in_channels):
            pace = 7.0 + 5.0 * index + 3.0 * channel
            # Texture at several scales: sub-bands and attention must have something to answer to.
            tissue = 0.25 * np.sin(pace * rows) * np.cos((pace + 2.0) * columns)
            tissue += 0.1 * np.sin(8.0 * pace * rows + 3.0 * index) * np.sin(9.0 * pace * columns)
            lesion = -0.3 * (((rows - 0.1) ** 2 + (columns - 0.3 + 0.1 * index) ** 2) < 0.03)
            values = np.where(brain, tissue + lesion, 1.5)
            ct[index, channel] = np.where(head, np.clip(values, -1.0, 1.0), -1.0)
    mask = np.empty((batch, mask_channels, size_px, size_px), dtype=np.float32)
    mask[:, 0] = brain
    mask[:, 1:] = np.clip(3.0 * (0.9 - radius), -1.0, 1.0)
    return ct, mask


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """What a network answered to the probe: means of blocks, and the standard deviation of all pixels.

    Attributes
    ----------
    size_px
        Side of the probe.
    block_means
        Means of 4 x 4 blocks of every slice, row by row, in network units.
    standard_deviation
        Of the whole output.
    tolerance
        Largest deviation that still counts as the same network.
    """

    size_px: int
    block_means: tuple[float, ...]
    standard_deviation: float
    tolerance: float = DEFAULT_TOLERANCE

    @classmethod
    def of(cls, output: npt.NDArray[Any], *, tolerance: float = DEFAULT_TOLERANCE) -> Self:
        """Describe an output (batch, 1, size, size)."""
        batch, _, size, _ = output.shape
        side = size // _BLOCKS
        blocks = output.astype(np.float64).reshape(batch, _BLOCKS, side, _BLOCKS, side).mean(axis=(2, 4))
        return cls(
            size_px=size,
            block_means=tuple(round(float(value), 6) for value in blocks.ravel()),
            standard_deviation=round(float(output.astype(np.float64).std()), 6),
            tolerance=tolerance,
        )

    def deviation(self, other: Self) -> float:
        """Return the largest difference of a recorded value; infinite where the records do not compare."""
        if self.size_px != other.size_px or len(self.block_means) != len(other.block_means):
            return float("inf")
        ours = np.array([*self.block_means, self.standard_deviation])
        theirs = np.array([*other.block_means, other.standard_deviation])
        worst = float(np.abs(ours - theirs).max())
        return worst if np.isfinite(worst) else float("inf")

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "size_px": self.size_px,
            "block_means": list(self.block_means),
            "standard_deviation": self.standard_deviation,
            "tolerance": self.tolerance,
        }

    @classmethod
    def from_json(cls, values: object) -> Self:
        """Read a record back.

        Raises
        ------
        ValueError
            If a field is missing or unknown, or has the wrong type.
        """
        names = {"size_px", "block_means", "standard_deviation", "tolerance"}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError("the self-test record has missing or unknown fields")
        try:
            return cls(
                size_px=int(values["size_px"]),
                block_means=tuple(float(value) for value in values["block_means"]),
                standard_deviation=float(values["standard_deviation"]),
                tolerance=float(values["tolerance"]),
            )
        except TypeError as error:
            raise ValueError("a value of the self-test record has the wrong type") from error
