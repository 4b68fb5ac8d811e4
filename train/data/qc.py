"""Quality-control picture of one prepared case: CT and resampled DWI side by side, so that a person can refuse it.

Drawn for accepted and refused registrations alike. The name on the picture is that of the case's folder in the cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS: Final = ("CT 0-80 HU", "diffusion on the CT", "checkerboard", "brain (yellow), lesion (red)")
ROWS: Final = 6
TILES: Final = 8
CT_WINDOW_HU: Final = (0.0, 80.0)
DPI: Final = 70


@dataclass(frozen=True, slots=True)
class QcPicture:
    """What is drawn of one case, all arrays (S, H, W) on one grid.

    Attributes
    ----------
    name : str
        Name of the case in the cache.
    hu : numpy.ndarray
        CT in HU.
    dwi : numpy.ndarray
        Diffusion image at the CT's voxels, any unit.
    brain : numpy.ndarray
        Brain of the CT.
    lesion : numpy.ndarray or None
        Lesion, if known.
    accepted : bool
        Verdict.
    lines : tuple of str
        Text above the picture: figures and reasons.
    """

    name: str
    hu: npt.NDArray[Any]
    dwi: npt.NDArray[Any]
    brain: npt.NDArray[Any]
    lesion: npt.NDArray[Any] | None
    accepted: bool
    lines: tuple[str, ...]


def write_mosaic(path: Path, picture: QcPicture) -> None:
    """Draw a case as PNG: six slices through the brain, the one with most lesion among them.

    Raises
    ------
    OSError
        When it cannot be written; no half picture is left.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = chosen_slices(picture)
    brightest = _white(picture)
    figure = Figure(figsize=(3.0 * len(COLUMNS), 3.0 * len(rows) + 1.0), dpi=DPI, facecolor="black")
    FigureCanvasAgg(figure)
    axes = np.atleast_2d(figure.subplots(len(rows), len(COLUMNS)))
    box = _box(picture.brain)
    for row, index in enumerate(rows):
        _draw_row(list(axes[row]), picture, int(index), box, brightest)
    for axis, title in zip(axes[0], COLUMNS, strict=True):
        axis.set_title(title, color="white", fontsize=9)
    verdict, colour = ("accepted", "lightgreen") if picture.accepted else ("REFUSED", "salmon")
    top = 1 - 0.9 / figure.get_figheight()
    figure.suptitle(f"{picture.name}: {verdict}\n" + "\n".join(picture.lines), color=colour, fontsize=9, y=0.995)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=top - 0.02, wspace=0.02, hspace=0.02)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(part, format="png", facecolor="black")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def chosen_slices(picture: QcPicture) -> npt.NDArray[np.intp]:
    """Indices of the slices that are drawn: evenly through the brain, and the largest section of the lesion."""
    inside = np.flatnonzero(picture.brain.any(axis=(1, 2)))
    if not inside.size:
        inside = np.arange(picture.hu.shape[0])
    # The very first and last section show little more than a rim.
    spread = inside[np.linspace(0, inside.size - 1, ROWS + 2)[1:-1].round().astype(np.intp)]
    if picture.lesion is not None and picture.lesion.any():
        largest = int(np.argmax(np.count_nonzero(picture.lesion, axis=(1, 2))))
        spread[int(np.argmin(np.abs(spread - largest)))] = largest
    return np.unique(spread)


def checkerboard(first: npt.NDArray[Any], second: npt.NDArray[Any], tiles: int = TILES) -> npt.NDArray[Any]:
    """Alternate tiles of two (H, W) images of one scale; the tile at the origin is of the first."""
    rows, columns = (np.arange(size) * tiles // size for size in first.shape)
    return np.where((rows[:, None] + columns[None, :]) % 2 == 0, first, second)


def _white(picture: QcPicture) -> float:
    """Signal shown as white: high enough to keep lesions apart from cortex."""
    inside = picture.dwi[picture.brain > 0]
    values = inside if inside.size else picture.dwi
    return float(max(np.percentile(values, 99.5), 1e-6))


def _box(brain: npt.NDArray[Any], margin: int = 14) -> tuple[slice, slice]:
    spans = []
    for axis in (1, 2):
        hit = np.flatnonzero(brain.any(axis=(0, 3 - axis)))
        first, last = (int(hit[0]), int(hit[-1])) if hit.size else (0, brain.shape[axis] - 1)
        spans.append(slice(max(0, first - margin), last + margin + 1))
    return spans[0], spans[1]


def _draw_row(axes: list[Axes], picture: QcPicture, index: int, box: tuple[slice, slice], brightest: float) -> None:
    low, high = CT_WINDOW_HU
    ct = np.clip((picture.hu[index][box] - low) / (high - low), 0, 1)
    dwi = np.clip(picture.dwi[index][box] / brightest, 0, 1)
    for axis, image in zip(axes, (ct, dwi, checkerboard(ct, dwi), dwi), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_axis_off()
    brain = np.asarray(picture.brain[index][box], dtype=float)
    for axis in (axes[0], axes[3]):
        _outline(axis, brain, "yellow")
    if picture.lesion is not None:
        for axis in (axes[0], axes[3]):
            _outline(axis, np.asarray(picture.lesion[index][box], dtype=float), "red")
    axes[0].text(2, 8, str(index), color="white", fontsize=8)


def _outline(axis: Axes, mask: npt.NDArray[Any], colour: str) -> None:
    if mask.any() and not mask.all():
        axis.contour(mask, levels=[0.5], colors=[colour], linewidths=0.7)
