"""Example pictures of held-out volumes, chosen by rule: best, median, worst, and without a lesion; box plots by centre.

Every picture of a phantom says phantom, and every output of a network says synthetic. Matplotlib is needed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from train.data.cache import CachedCase
from train.evaluation.scoring import VolumeScore
from train.evaluation.summary import patient_mean
from train.metrics import to_unit
from train.predict import Predictor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Share of the ranked volumes that are worse than the example.
EXAMPLE_RANKS = {"best": 1.0, "median": 0.5, "worst": 0.0}
RULE_WORDS = (
    "Chosen by rule, not by eye: the volumes with the best, the median and the worst lesion AUC (brain PSNR where no "
    "lesion is labelled), and the first one known to have no lesion; of each the slice with the largest lesion, or "
    "else the largest brain."
)
#: DWI shown black to white, as a fraction of three times the brain median; error shown blue to red.
_SHOWN = (0.0, 0.8)
_ERROR_SHOWN = 0.3
_TISSUE_HU = (0.0, 80.0)


@dataclass(frozen=True, slots=True)
class Example:
    """A chosen volume.

    Attributes
    ----------
    words : str
        Why it was chosen, with its figure.
    index : int
        Into the scores.
    """

    words: str
    index: int


def pick_examples(scores: Sequence[VolumeScore]) -> tuple[Example, ...]:
    """Choose volumes at fixed ranks of their lesion AUC, and the first one known to have no lesion.

    Parameters
    ----------
    scores : sequence of VolumeScore
        Of the volumes to choose from. Where none has a labelled lesion, the ranks are those of brain PSNR.
    """
    figure, name = np.array([score.histogram.auc() for score in scores]), "lesion AUC"
    healthy = [index for index, score in enumerate(scores) if score.facts.lesion_ml == 0.0]
    if np.isnan(figure).all():
        figure = np.array([patient_mean(score.against["dwi"]["brain"], "psnr_db") for score in scores])
        name, healthy = "brain PSNR", []
    known = np.flatnonzero(~np.isnan(figure))
    ranked = known[np.argsort(figure[known], kind="stable")]
    chosen = []
    for words, rank in EXAMPLE_RANKS.items() if ranked.size else ():
        index = int(ranked[round(rank * (ranked.size - 1))])
        chosen.append(Example(f"{words}, {name} {figure[index]:.2f}", index))
    if healthy:
        chosen.append(Example("no lesion", healthy[0]))
    return tuple(chosen)


def shown_slice(case: CachedCase) -> int:
    """Slice with the largest lesion; without a lesion, the one with the largest brain."""
    lesion = np.count_nonzero(case.lesion_slices(), axis=(1, 2))
    areas = lesion if lesion.any() else np.count_nonzero(case.brain, axis=(1, 2))
    return int(np.argmax(areas))


def case_words(case: CachedCase) -> str:
    """Centre, lesion and source of a case, in words; a phantom is called one."""
    facts = case.facts
    parts = [facts.source, f"centre {facts.centre}"]
    if facts.lesion_kind and facts.lesion_ml:
        parts.append(facts.lesion_kind.replace("_", " "))
    if facts.lesion_ml is None:
        parts.append("lesion not labelled")
    elif facts.lesion_ml:
        parts.append(f"lesion {facts.lesion_ml:.1f} ml")
    else:
        parts.append("no lesion")
    return ", ".join(parts)


def draw_case(axes: Sequence[Any], case: CachedCase, prediction: NDArray[np.float32]) -> None:
    """Draw CT, synthetic DWI, measured DWI and error of one slice, the true lesion outlined.

    Parameters
    ----------
    axes : sequence of matplotlib Axes
        Four.
    case : CachedCase
        The volume.
    prediction : ndarray
        (S, H, W) in [-1, 1].
    """
    where = shown_slice(case)
    box = _brain_box(np.asarray(case.brain[where]) > 0)
    low, high = _TISSUE_HU
    word = case.facts.source if case.facts.source == "phantom" else "measured"
    ours, truth = prediction[where], case.target_slices(where)
    panels = {
        f"{word} CT, 0-80 HU": ((case.hu_slices(where) - low) / (high - low), "gray", (0.0, 1.0)),
        "SYNTHETIC DWI": (_shown(ours), "gray", (0.0, 1.0)),
        f"{word} DWI": (_shown(truth), "gray", (0.0, 1.0)),
        f"synthetic - {word}, ±{_ERROR_SHOWN}": (
            to_unit(ours) - to_unit(truth),
            "RdBu_r",
            (-_ERROR_SHOWN, _ERROR_SHOWN),
        ),
    }
    lesion = case.lesion_slices(where)[box]
    for axis, (title, (image, colours, limits)) in zip(axes, panels.items(), strict=True):
        axis.imshow(image[box], cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
        if lesion.any():
            outline = "#ffb000" if colours == "gray" else "black"
            axis.contour(lesion, levels=[0.5], colors=outline, linewidths=0.7)
        axis.set_title(title, fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])


def draw_examples(cases: Sequence[CachedCase], scores: Sequence[VolumeScore], predictor: Predictor, path: Path) -> Path:
    """Draw the chosen volumes, a row each, into one PNG.

    Parameters
    ----------
    cases, scores
        Volumes and their scores in the same order.
    predictor : Predictor
        The network that was scored.
    path : Path
        PNG to write.
    """
    from matplotlib.figure import Figure

    chosen = pick_examples(scores)
    figure = Figure(figsize=(10.0, 2.9 * len(chosen)), layout="constrained")
    for row, example in zip(figure.subplots(len(chosen), 4, squeeze=False), chosen, strict=True):
        case = cases[example.index]
        draw_case(row, case, predictor.predict_case(case))
        row[0].set_ylabel(f"{example.words}\n{case_words(case)}", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    return path


def example_pngs(
    cases: Sequence[CachedCase], scores: Sequence[VolumeScore], predictor: Predictor
) -> list[tuple[str, bytes]]:
    """The chosen volumes, a PNG each, with a caption."""
    from matplotlib.figure import Figure

    pictures = []
    for example in pick_examples(scores):
        case = cases[example.index]
        figure = Figure(figsize=(11.0, 3.1), layout="constrained")
        draw_case(figure.subplots(1, 4), case, predictor.predict_case(case))
        caption = f"{example.words[0].upper()}{example.words[1:]}: {case_words(case)}, slice {shown_slice(case)}"
        pictures.append((caption, png_bytes(figure)))
    return pictures


def box_plots(methods: Mapping[str, Sequence[VolumeScore]], words: Mapping[str, str], data: str) -> bytes:
    """Box plots of patients by centre, a panel a figure and a box a method, as PNG.

    Parameters
    ----------
    methods : Mapping[str, sequence of VolumeScore]
        Methods to draw, in order.
    words : Mapping[str, str]
        What they are called in the legend.
    data : str
        What was measured on, for the title.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    centres = sorted({score.facts.centre for scores in methods.values() for score in scores})
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    panels = ("brain PSNR dB", "brain SSIM", "brain MS-SSIM", "lesion AUC")
    colours = ("#31688e", "#bbbbbb", "#35b779", "#e07b39")
    for axis, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for number, scores in enumerate(methods.values()):
            groups = [_known([_figure(s, panel) for s in scores if s.facts.centre == centre]) for centre in centres]
            where = [centre * (len(methods) + 1.0) + number for centre in range(len(centres))]
            boxes = axis.boxplot(groups, positions=where, widths=0.8, patch_artist=True, medianprops={"color": "black"})
            for patch in boxes["boxes"]:
                patch.set_facecolor(colours[number % len(colours)])
        middle = [centre * (len(methods) + 1.0) + (len(methods) - 1) / 2.0 for centre in range(len(centres))]
        axis.set_xticks(middle, [f"centre {centre}" for centre in centres], fontsize=8)
        axis.set_title(f"{panel} ({data})", fontsize=9)
        axis.tick_params(axis="y", labelsize=8)
    handles = [Patch(facecolor=colours[n % len(colours)], label=words[name]) for n, name in enumerate(methods)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return png_bytes(figure)


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if value == value]


def _figure(score: VolumeScore, panel: str) -> float:
    metric = {"brain PSNR dB": "psnr_db", "brain SSIM": "ssim", "brain MS-SSIM": "ms_ssim"}.get(panel)
    return patient_mean(score.against["dwi"]["brain"], metric) if metric else score.histogram.auc()


def png_bytes(figure: Figure, dpi: int = 90) -> bytes:
    """A Matplotlib figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=dpi, format="png")
    return stream.getvalue()


def _shown(image: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = _SHOWN
    return (to_unit(image) - low) / (high - low)


def _brain_box(brain: NDArray[np.bool_], margin: int = 8) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(brain.any(axis=1)), np.flatnonzero(brain.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin),
    )
