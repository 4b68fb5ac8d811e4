"""Figures of an experiment's tables: box plots, scatter of superpixel means, and slices side by side with error maps.

Every caption names the phantom and oracle masks, as those of the tables do, and every prediction is called synthetic.
Matplotlib is needed.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from train.evaluation.superpixels import agreement
from train.evaluation.targets import MEASURED
from train.experiments.layout import TableScores
from train.experiments.pooling import RowScores, paired

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Panels of the box plots: metric, heading, and what the table has to show for it.
_PANELS = (
    ("brain.mse", "brain MSE", "image"),
    ("brain.psnr_db", "brain PSNR dB", "image"),
    ("brain.ssim", "brain SSIM", "image"),
    ("lesion.mse", "MSE in the lesion", "lesion"),
    ("superpixel.r", "r of superpixel means", "superpixel"),
)
_OURS, _OTHER = "#31688e", "#c9d1d9"
#: Examples a table, methods a line of slices, and scatter plots a line.
EXAMPLES, _ACROSS, _SCATTERS_ACROSS = 3, 6, 4
#: Width of a slice, and gaps and titles, in inches.
_PANEL, _GAP, _TITLE, _BAR = 1.55, 0.06, 0.56, 0.75
#: DWI shown black to white, and error shown blue to red, both as a share of the scale (three times the brain median).
_DWI_SHOWN, _ERROR_SHOWN = 0.8, 0.3
_MARGIN_PX = 4
_COLOURS = 160


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure: end of its file name, caption, and PNG."""

    name: str
    caption: str
    png: bytes


def pictures_of(scored: TableScores) -> Iterator[Picture]:
    """Figures of a table, those for which there are scores.

    Raises
    ------
    ImportError
        When Matplotlib is not installed.
    """
    panels = [panel for panel in _PANELS if panel[2] in scored.table.shows and _has(scored, panel[0])]
    if panels:
        part = (
            "slices: box from the lower to the upper quartile, whiskers 1.5 box lengths, points beyond; diamonds are "
            "means of patients"
        )
        seeds = ", everything the mean over seeds" if any(len(row.scores) > 1 for row in scored.rows) else ""
        yield Picture("boxes", scored.caption(part + seeds), box_plots(scored, panels))
    if "superpixel" in scored.table.shows and any(_points(row).size for row in scored.scored):
        part = (
            "mean grey of superpixels, synthetic against measured DWI, first seed; dashed: identity, line: regression"
        )
        yield Picture("scatter", scored.caption(part), scatter(scored))
    for number, patient in enumerate(_patients(scored), start=1):
        part = (
            f"synthetic DWI of {patient} and below it its error, synthetic minus measured, blue -{_ERROR_SHOWN} to red "
            f"{_ERROR_SHOWN} of the scale; the true lesion is outlined; volume chosen by its lesion alone, slice with "
            "the largest lesion, first seed"
        )
        yield Picture(f"slices-{number}", scored.caption(part), slices(scored, patient))


def _has(scored: TableScores, metric: str) -> bool:
    return any(row.figure(metric).n for row in scored.rows)


def _new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need Matplotlib: pip install 'jmmda-node[train]'") from error
    return Figure(figsize=(width, height), layout=layout)


def _png(figure: Figure, dpi: int = 100) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi, format="png")
    # A palette is a third of the size, and the report holds a hundred figures.
    paletted = io.BytesIO()
    Image.open(stream).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(paletted, "PNG", optimize=True)
    return paletted.getvalue()


def _wrapped(label: str, width: int) -> str:
    return "\n".join(textwrap.wrap(label, width)) or label


def box_plots(scored: TableScores, panels: Sequence[tuple[str, str, str]]) -> bytes:
    """A box a row and a panel a metric, as PNG.

    Parameters
    ----------
    scored : TableScores
        Rows from top to bottom; the measured DWI, whose error is none, is left out.
    panels : sequence of (str, str, str)
        Metric, heading, and what is not looked at here.
    """
    rows = [row for row in scored.scored if row.row.control != MEASURED]
    height = 0.9 + 0.34 * len(rows)
    figure = _new_figure(11.0, height)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (metric, heading, _) in zip(axes, panels, strict=True):
        for place, row in enumerate(rows):
            values = paired(row, row, [metric])
            known = ~np.isnan(values.values[metric])
            if not known.any():
                continue
            ours = row.row.label == scored.table.ours
            axis.boxplot(
                values.values[metric][known],
                positions=[place],
                orientation="horizontal",
                widths=0.65,
                patch_artist=True,
                boxprops={"facecolor": _OURS if ours else _OTHER, "linewidth": 0.7},
                medianprops={"color": "white" if ours else "black"},
                flierprops={"marker": ".", "markersize": 2, "markeredgecolor": "#8b949e"},
                whiskerprops={"linewidth": 0.7},
                capprops={"linewidth": 0.7},
            )
            names = np.array(values.patients)[known]
            means = [values.values[metric][known][names == name].mean() for name in np.unique(names)]
            axis.plot(means, [place] * len(means), "D", color="#e07b39", markersize=2.5, alpha=0.8)
        axis.set_title(f"{heading} ({scored.data})", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", linewidth=0.3)
    axes[0].set_yticks(range(len(rows)), [_wrapped(scored.name(row), 28) for row in rows], fontsize=8)
    axes[0].invert_yaxis()
    return _png(figure)


def _points(row: RowScores) -> NDArray[np.float64]:
    return row.scores[0].superpixels if row.scores else np.empty((0, 2))


def scatter(scored: TableScores) -> bytes:
    """Means of superpixels of each row with the regression line, as PNG."""
    rows = [row for row in scored.scored if _points(row).size]
    lines = -(-len(rows) // _SCATTERS_ACROSS)
    figure = _new_figure(11.0, 2.9 * lines)
    axes = figure.subplots(lines, _SCATTERS_ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
    most = max(float(_points(row).max()) for row in rows)
    for axis, row in zip(axes, rows, strict=False):
        measured, synthetic = _points(row).T
        axis.plot([0.0, most], [0.0, most], "--", color="#8b949e", linewidth=0.8)
        axis.plot(measured, synthetic, ".", color=_OURS, markersize=3, alpha=0.45, markeredgewidth=0)
        title = _wrapped(scored.name(row), 30)
        if np.ptp(measured) > 0 and np.ptp(synthetic) > 0:
            line = agreement(measured, synthetic)
            ends = np.array([measured.min(), measured.max()])
            axis.plot(ends, line["intercept"] + line["slope"] * ends, color="#e07b39", linewidth=1.2)
            title += f"\nr {line['r']:.2f}, slope {line['slope']:.2f}, {len(measured)} superpixels"
        axis.set_title(title, fontsize=8)
        axis.set_aspect("equal")
        axis.tick_params(labelsize=7)
    for axis in axes[len(rows) :]:
        axis.set_axis_off()
    figure.supxlabel(f"measured DWI ({scored.data})", fontsize=8)
    figure.supylabel("synthetic DWI", fontsize=8)
    return _png(figure)


def _shown_rows(scored: TableScores) -> list[RowScores]:
    """Rows with pictures; the measured DWI stands beside them anyway."""
    return [row for row in scored.scored if row.row.control != MEASURED and row.scores[0].pictures]


def _patients(scored: TableScores) -> list[str]:
    """Volumes of which the first row with pictures has one."""
    return [patient for row in _shown_rows(scored)[:1] for patient in row.scores[0].pictures][:EXAMPLES]


def slices(scored: TableScores, patient: str) -> bytes:
    """CT and measured DWI, and of each row the prediction above its error, as PNG.

    Parameters
    ----------
    scored : TableScores
        Rows without a picture of that volume are left out.
    patient : str
        Key of `Scores.pictures`.
    """
    rows = [row for row in _shown_rows(scored) if patient in row.scores[0].pictures]
    planes = [row.scores[0].pictures[patient] for row in rows]
    box = _shown_box(planes[0][1])
    bands = -(-len(rows) // _ACROSS)
    across = -(-len(rows) // bands)
    sheet = _Sheet.of(bands, across + 1, planes[0][1][box].shape)
    word = "phantom" if scored.data == "Phantom" else "measured"
    for band in range(bands):
        lesion = planes[0][3][box]
        _draw(sheet.axis(band, 0), planes[0][0][box], lesion, f"{word} CT, 0-80 HU")
        _draw(sheet.axis(band, 0, below=True), planes[0][1][box] / _DWI_SHOWN, lesion, f"{word} DWI")
    for number, (row, plane) in enumerate(zip(rows, planes, strict=True)):
        band, column = divmod(number, across)
        title = f"SYNTHETIC\n{_wrapped(scored.name(row), 28)}"
        _draw(sheet.axis(band, column + 1), plane[2][box] / _DWI_SHOWN, plane[3][box], title)
        error = (plane[2].astype(np.float64) - plane[1])[box] / 255.0
        drawn = _draw_error(sheet.axis(band, column + 1, below=True), error, plane[3][box])
        if number == 0:
            sheet.bar(drawn, f"error: synthetic - {word} DWI")
    return _png(sheet.figure)


@dataclass(frozen=True, slots=True, eq=False)
class _Sheet:
    """A figure of panels of one size at fixed places, close together.

    Attributes
    ----------
    figure : Figure
        Empty at first.
    width, height : float
        Of the figure, in inches.
    tall : float
        Height of a panel, in inches.
    """

    figure: Figure
    width: float
    height: float
    tall: float

    @classmethod
    def of(cls, bands: int, across: int, shape: tuple[int, ...]) -> _Sheet:
        """A figure for bands of two lines of panels, which have the proportions of ``shape``."""
        tall = _PANEL * shape[0] / shape[1]
        width = across * (_PANEL + _GAP) + _GAP + _BAR
        height = bands * (_TITLE + 2.0 * tall + _TITLE / 2.0) + _GAP
        return cls(_new_figure(width, height, None), width, height, tall)

    def axis(self, band: int, column: int, *, below: bool = False) -> Any:  # noqa: ANN401
        """Axes of a panel."""
        top = _TITLE + band * (1.5 * _TITLE + 2.0 * self.tall) + (self.tall + _TITLE / 2.0 if below else 0.0)
        left, bottom = _GAP + column * (_PANEL + _GAP), self.height - top - self.tall
        axis = self.figure.add_axes(self._share(left, bottom, _PANEL, self.tall))
        axis.set_axis_off()
        return axis

    def bar(self, drawn: Any, words: str) -> None:  # noqa: ANN401
        """Scale of what was drawn, at the right of the first band."""
        left, bottom = self.width - _BAR + 2.0 * _GAP, self.height - 1.5 * _TITLE - 2.0 * self.tall
        bar = self.figure.colorbar(drawn, cax=self.figure.add_axes(self._share(left, bottom, 0.12, self.tall)))
        bar.set_label(words, fontsize=6)
        bar.ax.tick_params(labelsize=6)

    def _share(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def _shown_box(dwi: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns with any signal in the measured DWI, and a margin."""
    lit = dwi > 0
    if not lit.any():
        return slice(None), slice(None)
    found = [np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0)]
    first, second = (slice(max(0, int(n[0]) - _MARGIN_PX), int(n[-1]) + _MARGIN_PX + 1) for n in found)
    return first, second


def _draw(axis: Any, plane: NDArray[Any], lesion: NDArray[np.uint8], title: str) -> None:  # noqa: ANN401
    axis.imshow(plane, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _outline(axis, lesion, "#ffb000")
    axis.set_title(title, fontsize=7, pad=3)


def _draw_error(axis: Any, error: NDArray[np.float64], lesion: NDArray[np.uint8]) -> Any:  # noqa: ANN401
    drawn = axis.imshow(error, cmap="RdBu_r", vmin=-_ERROR_SHOWN, vmax=_ERROR_SHOWN, interpolation="nearest")
    _outline(axis, lesion, "black")
    return drawn


def _outline(axis: Any, lesion: NDArray[np.uint8], colour: str) -> None:  # noqa: ANN401
    if lesion.any() and not lesion.all():
        axis.contour(lesion > 0, levels=[0.5], colors=colour, linewidths=0.6)
