"""Example pictures of held-out phantom volumes, chosen by rule: good, middling, bad, and without a lesion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.data.cache import CachedCase
from train.evaluate import VolumeScore
from train.metrics import to_unit
from train.predict import Predictor

#: Share of the volumes with a lesion whose AUC is lower than that of the example.
EXAMPLE_RANKS = {"good (90th percentile)": 0.9, "middling (median)": 0.5, "bad (10th percentile)": 0.1}
#: DWI shown black to white, as a fraction of three times the brain median.
_SHOWN = (0.0, 0.8)
_TISSUE_HU = (0.0, 80.0)


def pick_examples(scores: Sequence[VolumeScore]) -> dict[str, int]:
    """Choose volumes at fixed ranks of their lesion AUC, and the first one without a lesion.

    Parameters
    ----------
    scores : sequence of VolumeScore
        Of the volumes to choose from.

    Returns
    -------
    dict[str, int]
        Words for the choice -> index into ``scores``.
    """
    aucs = np.array([score.histogram.auc() for score in scores])
    sick = np.flatnonzero(~np.isnan(aucs))
    ranked = sick[np.argsort(aucs[sick], kind="stable")]
    chosen: dict[str, int] = {}
    if ranked.size:
        for words, rank in EXAMPLE_RANKS.items():
            index = int(ranked[round(rank * (ranked.size - 1))])
            chosen[f"{words}, AUC {aucs[index]:.2f}"] = index
    well = np.flatnonzero(np.isnan(aucs))
    if well.size:
        chosen["no lesion"] = int(well[0])
    return chosen


def shown_slice(case: CachedCase) -> int:
    """Slice with the largest lesion; without a lesion, the one with the largest brain."""
    lesion = np.count_nonzero(case.lesion, axis=(1, 2))
    areas = lesion if lesion.any() else np.count_nonzero(case.brain, axis=(1, 2))
    return int(np.argmax(areas))


def draw_examples(cases: Sequence[CachedCase], scores: Sequence[VolumeScore], predictor: Predictor, path: Path) -> Path:
    """Draw CT, prediction, true DWI and true lesion of the chosen volumes, a row each; every row says phantom.

    Parameters
    ----------
    cases, scores
        Volumes and their scores in the same order.
    predictor : Predictor
        The network that was scored.
    path : Path
        PNG to write. Matplotlib is needed.
    """
    from matplotlib.figure import Figure

    chosen = pick_examples(scores)
    figure = Figure(figsize=(10.0, 2.7 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), 4, squeeze=False)
    for row, (words, index) in zip(axes, chosen.items(), strict=True):
        case = cases[index]
        where = shown_slice(case)
        box = _brain_box(np.asarray(case.brain[where]) > 0)
        low, high = _TISSUE_HU
        panels = {
            "phantom CT, 0-80 HU": (case.hu_slices(where) - low) / (high - low),
            "SYNTHETIC DWI": _shown(predictor.predict_case(case)[where]),
            "phantom DWI": _shown(case.target_slices(where)),
            "true lesion": np.asarray(case.lesion[where], np.float64),
        }
        for axis, (title, image) in zip(row, panels.items(), strict=True):
            axis.imshow(image[box], cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            axis.set_title(title, fontsize=8)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(f"{words}\ncentre {case.facts.centre}, {case.facts.lesion_kind}", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    return path


def _shown(image: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = _SHOWN
    return (to_unit(image) - low) / (high - low)


def _brain_box(brain: NDArray[np.bool_], margin: int = 8) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(brain.any(axis=1)), np.flatnonzero(brain.any(axis=0))
    return (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin),
    )
