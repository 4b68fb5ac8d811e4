"""Pictures for people: CT, brain mask, synthetic DWI and (on a phantom) the truth, slice beside slice.

matplotlib is imported when a picture is drawn, so commands that draw nothing start without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

#: Display window of the CT row: the stroke window W80 L40, in Hounsfield units.
CT_WINDOW_HU = (0.0, 80.0)


@dataclass(frozen=True, slots=True)
class MontageRow:
    """One row of a montage.

    Attributes
    ----------
    label : str
        Printed at the left of the row.
    images : numpy.ndarray
        (S, rows, cols), any numeric type.
    limits : tuple of float
        Values shown as black and white.
    outline : numpy.ndarray, optional
        (S, rows, cols) bool; its edge is drawn over the images.
    outline_colour : str
        matplotlib colour of that edge.
    """

    label: str
    images: npt.NDArray[np.generic]
    limits: tuple[float, float]
    outline: npt.NDArray[np.bool_] | None = None
    outline_colour: str = "#ffb000"


def ct_row(hu: npt.NDArray[np.float32], label: str = "CT (W80 L40)") -> MontageRow:
    """Row of the CT in the stroke window."""
    return MontageRow(label, hu, CT_WINDOW_HU)


def mask_row(hu: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], label: str = "brain mask") -> MontageRow:
    """Row of the CT with the outline of the brain mask."""
    return MontageRow(label, hu, CT_WINDOW_HU, outline=mask)


def synthetic_row(pixels: npt.NDArray[np.uint16], label: str = "SYNTHETIC DWI") -> MontageRow:
    """Row of stored values 0..4095, shown on the half of the range that brain tissue uses."""
    return MontageRow(label, pixels, (0.0, 3000.0))


def choose_slices(weight: Sequence[float], count: int) -> list[int]:
    """Indices of at most `count` slices spread evenly over those whose weight (for example mask area) is above zero."""
    used = [index for index, value in enumerate(weight) if value > 0]
    if len(used) <= count:
        return used or list(range(min(count, len(weight))))
    return [used[round(position)] for position in np.linspace(0, len(used) - 1, count)]


def write_montage(
    path: Path,
    rows: Sequence[MontageRow],
    slices: Sequence[int],
    *,
    title: str,
) -> None:
    """Draw the rows as a PNG file, whole frames, so that the watermark is in the picture too.

    Parameters
    ----------
    path : pathlib.Path
        File to write.
    rows : sequence of MontageRow
        From top to bottom; all on the same grid.
    slices : sequence of int
        Slice indices, from left to right.
    title : str
        One line above the picture; must say that the images are synthetic where they are.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(rows),
        len(slices),
        squeeze=False,
        figsize=(2.1 * len(slices) + 0.4, 2.1 * len(rows) + 0.45),
        facecolor="black",
        gridspec_kw={
            "wspace": 0.02,
            "hspace": 0.02,
            "left": 0.035,
            "right": 0.998,
            "top": 0.93,
            "bottom": 0.005,
        },
    )
    for line, row in zip(axes, rows, strict=True):
        for axis, index in zip(line, slices, strict=True):
            axis.imshow(
                np.asarray(row.images[index], dtype=np.float32),
                cmap="gray",
                vmin=row.limits[0],
                vmax=row.limits[1],
                interpolation="antialiased",
            )
            if row.outline is not None and row.outline[index].any():
                axis.contour(row.outline[index], levels=[0.5], colors=[row.outline_colour], linewidths=0.7)
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        line[0].set_ylabel(row.label, color="white", fontsize=8)
    figure.suptitle(title, color="white", fontsize=9)
    figure.savefig(path, dpi=110, facecolor="black")
    plt.close(figure)
