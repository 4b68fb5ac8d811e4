"""The pictures of docs/mask.md: outlines over slices, and the steps from CT to mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt

from benchmarks.mask_heads import Head, neck, scan_head
from benchmarks.mask_scores import visible
from jmmda_model.imaging import BrainMask, brain_mask, coarse
from jmmda_model.imaging.enclosure import N_DIRECTIONS
from jmmda_model.imaging.morphology import morphology

WINDOW_HU = (-60, 140)
FOUND, TRUE = "#ffd21f", "#27c4f5"


@dataclass(frozen=True, slots=True)
class Picture:
    """Which slices of a case are shown, and what is written below them."""

    file: str
    slices: tuple[int, ...]
    caption: str


SHOWN = {
    "centre A, seed 11": Picture("mask-centre-a", (4, 7, 9, 12, 17, 22), "Digital phantom, centre A"),
    "centre B, seed 11": Picture("mask-centre-b", (4, 7, 9, 12, 17, 22), "Digital phantom, centre B"),
    "centre C, seed 11": Picture("mask-centre-c", (4, 7, 9, 12, 17, 22), "Digital phantom, centre C"),
    "neck in view": Picture(
        "mask-neck", (8, 12, 15, 17, 20, 22), "Digital phantom with a drawn neck and an open foramen"
    ),
    "child, thin skull": Picture(
        "mask-child", (6, 9, 15, 19, 22, 23), "Digital phantom, thin bone, sutures, fontanelle"
    ),
    "subdural bleed 14 mm, 105 HU": Picture(
        "mask-subdural", (9, 10, 13, 17, 20, 22), "Digital phantom, subdural of 105 HU"
    ),
    "aneurysm clip with streaks": Picture("mask-clip", (8, 9, 10, 11, 12, 13), "Digital phantom, clip with streaks"),
    "craniotomy 60 mm": Picture(
        "mask-craniotomy", (9, 10, 11, 12, 14, 16), "Digital phantom, 60 mm of the vault missing"
    ),
    "craniectomy 110 mm, bulging 15 mm": Picture(
        "mask-failure-bulging", (7, 8, 10, 13, 17, 20), "FAILURE: digital phantom, brain bulging by 15 mm"
    ),
    "craniectomy 110 mm": Picture(
        "mask-failure-fossa",
        (7, 8, 9, 10, 13, 17),
        "FAILURE: digital phantom, side of the middle fossa missing",
    ),
    "ge_head_ct": Picture(
        "mask-ge", (5, 7, 9, 12, 18, 25), "Head CT: neurolabusc/dcm_qa_ct, BSD-2-Clause; blue: registered template"
    ),
}


def draw_case(name: str, head: Head, found: BrainMask, folder: Path) -> None:
    """Write the picture of a case, if it has one: yellow what was found, blue the visible part of the truth."""
    picture = SHOWN.get(name)
    if picture is None:
        return
    seen = None if head.brain is None else visible(head.volume, head.brain)
    figure, axes = _row(len(picture.slices), picture.caption)
    rows, columns = _frame(head.volume.hu)
    for axis, index in zip(axes, picture.slices, strict=True):
        axis.imshow(head.volume.hu[index, rows, columns], cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
        axis.set_title(f"slice {index}", color="white", fontsize=7, pad=2)
        for mask, colour in ((seen, TRUE), (found.mask, FOUND)):
            if mask is not None and mask[index].any():
                axis.contour(mask[index, rows, columns], [0.5], colors=colour, linewidths=0.8)
    _save(figure, folder / f"{picture.file}.png")


def draw_steps(folder: Path) -> None:
    """Write the figure of the steps: one section at the base, one at the vault, from CT to mask."""
    head = scan_head(21, "A", neck, n_slices=40, centre_z_mm=-27.0)
    grid, tools = coarse.coarse_grid(head.volume), morphology()
    trace = coarse.trace(grid, tools)
    found = brain_mask(head.volume)
    shown = (10, 18, 28)
    names = (
        "CT, 2 mm grid",
        "skull",
        "directions with bone",
        "seed",
        "after erosion, largest",
        "grown, cut, closed",
        "mask",
    )
    figure, axes = plt.subplots(
        len(shown), len(names), figsize=(1.5 * len(names), 1.75 * len(shown)), facecolor="black", squeeze=False
    )
    for line, index in zip(axes, shown, strict=True):
        planes = (trace.bone, trace.count, trace.seed, trace.core, trace.found.mask)
        line[0].imshow(grid.hu[index], cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
        for axis, plane in zip(line[1:-1], planes, strict=True):
            top = N_DIRECTIONS if plane is trace.count else 1
            axis.imshow(plane[index], cmap="viridis" if plane is trace.count else "gray", vmin=0, vmax=top)
        line[-1].imshow(head.volume.hu[index], cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
        if found.mask[index].any():
            line[-1].contour(found.mask[index], [0.5], colors=FOUND, linewidths=0.8)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, color="white", fontsize=7, pad=2)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.3)
    _save(figure, folder / "mask-steps.png")


def _row(count: int, caption: str) -> tuple[Any, Any]:
    figure, axes = plt.subplots(1, count, figsize=(1.75 * count, 2.35), facecolor="black")
    for axis in axes:
        axis.axis("off")
    figure.text(0.01, 0.02, caption, color="white", fontsize=7)
    figure.subplots_adjust(left=0.004, right=0.996, top=0.92, bottom=0.08, wspace=0.02)
    return figure, axes


def _frame(hu: npt.NDArray[np.floating]) -> tuple[slice, slice]:
    """Return rows and columns that hold the head."""
    body = np.count_nonzero(hu > -150, axis=0) >= 3
    spans = [np.flatnonzero(body.any(axis=axis)) for axis in (1, 0)]
    return slice(int(spans[0][0]), int(spans[0][-1]) + 1), slice(int(spans[1][0]), int(spans[1][-1]) + 1)


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401  (matplotlib has no types here)
    """Write a small PNG: 48 grey levels and colours are enough for outlines over a CT."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor="black")
    plt.close(figure)
    with Image.open(path) as image:
        image.convert("RGB").quantize(48, dither=Image.Dither.NONE).save(path, optimize=True)
