"""Held-out figures of a run or a bundle beside simple controls: lesion AUC, MSE, PSNR and SSIM in three regions.

Every figure carries a bootstrap interval over volumes, is given against the measured DWI and against the clean one
(no noise, bias, ghost or misregistration), and is stratified by how much the lesion lowers the HU. All of it is
measured on the digital phantom, and every report says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jmmda_model.imaging.contract import PreprocessingContract
from train.controls import Control, fit_controls
from train.data.cache import CachedCase, build_cache, load_split
from train.fit import read_run
from train.metrics import SSIM_RADIUS as _EDGE
from train.metrics import ScoreHistogram, bootstrap, mse_paper, psnr_db, ssim_map, to_unit
from train.predict import Predictor, bundle_predictor, weights_predictor
from train.recipe import Recipe, generator_settings
from train.state import averaged_weights

#: Slices count from this share of brain in the frame on.
MIN_BRAIN_FRACTION = 0.05
#: Strata by the mean drop of HU in the lesion.
STRATA: Mapping[str, tuple[float, float]] = {
    "drop < 2 HU": (0.0, 2.0),
    "drop 2-4 HU": (2.0, 4.0),
    "drop > 4 HU": (4.0, float("inf")),
}
#: Strata by lesion volume.
SIZES: Mapping[str, tuple[float, float]] = {
    "lesion < 1 ml": (0.0, 1.0),
    "lesion 1-10 ml": (1.0, 10.0),
    "lesion > 10 ml": (10.0, float("inf")),
}
#: Groups by lesion kind are named with this before the kind.
KIND_PREFIX = "kind "
REGIONS = ("frame", "brain", "lesion")


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums of one region of one volume: pixels, squared errors, and SSIM values over their own pixels."""

    pixels: int
    squared: float
    ssim_pixels: int
    ssim: float


@dataclass(frozen=True, slots=True)
class VolumeScore:
    """What is kept of one predicted volume.

    Attributes
    ----------
    centre : str
        Of the phantom patient.
    hu_drop, lesion_ml : float
        Of its lesion; ``lesion_ml`` 0 without one.
    lesion_kind : str
        Vessel territory or kind, as the phantom names it.
    histogram : ScoreHistogram
        Predicted levels inside and outside the lesion, in brain.
    against : Mapping[str, Mapping[str, Moments]]
        ``dwi`` and ``dwi_clean`` -> region -> sums.
    """

    centre: str
    hu_drop: float
    lesion_ml: float
    lesion_kind: str
    histogram: ScoreHistogram
    against: Mapping[str, Mapping[str, Moments]]


def score_volume(case: CachedCase, prediction: NDArray[np.float32]) -> VolumeScore:
    """Score one prediction (S, H, W) in [-1, 1] on the slices that hold enough brain."""
    brain = np.asarray(case.brain) > 0
    frame = brain.shape[1] * brain.shape[2]
    rows = np.flatnonzero(np.count_nonzero(brain, axis=(1, 2)) >= MIN_BRAIN_FRACTION * frame)
    lesion, brain = np.asarray(case.lesion[rows]) > 0, brain[rows]
    ours = to_unit(prediction[rows])
    regions = {"frame": np.ones_like(brain), "brain": brain, "lesion": lesion}
    against = {}
    for name, clean in (("dwi", False), ("dwi_clean", True)):
        truth = to_unit(case.target_slices(rows, clean=clean))
        squared = (ours - truth) ** 2
        similar = np.stack([ssim_map(a, b) for a, b in zip(ours, truth, strict=True)])
        against[name] = {region: _moments(squared, similar, where) for region, where in regions.items()}
    facts = case.facts
    histogram = ScoreHistogram.of(ours, lesion, brain)
    return VolumeScore(facts.centre, facts.hu_drop, facts.lesion_ml, facts.lesion_kind, histogram, against)


def _moments(squared: NDArray[np.float64], similar: NDArray[np.float64], where: NDArray[np.bool_]) -> Moments:
    inner = where[:, _EDGE:-_EDGE, _EDGE:-_EDGE]
    return Moments(
        int(np.count_nonzero(where)),
        float(squared[where].sum()),
        int(np.count_nonzero(inner)),
        float(similar[:, _EDGE:-_EDGE, _EDGE:-_EDGE][inner].sum()),
    )


class _Sums:
    """Sums of one truth and region over volumes, as arrays, so that a bootstrap only adds numbers."""

    def __init__(self, scores: Sequence[VolumeScore], truth: str, region: str) -> None:
        moments = [score.against[truth][region] for score in scores]
        self.pixels = np.array([moment.pixels for moment in moments], np.float64)
        self.squared = np.array([moment.squared for moment in moments])
        self.ssim_pixels = np.array([moment.ssim_pixels for moment in moments], np.float64)
        self.similar = np.array([moment.ssim for moment in moments])

    def mse(self, which: NDArray[np.intp]) -> float:
        return _ratio(self.squared[which].sum(), self.pixels[which].sum())

    def psnr(self, which: NDArray[np.intp]) -> float:
        return psnr_db(self.mse(which))

    def ssim(self, which: NDArray[np.intp]) -> float:
        return _ratio(self.similar[which].sum(), self.ssim_pixels[which].sum())


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else float("nan")


class _Curves:
    """Histograms and single AUCs of the volumes with a lesion."""

    def __init__(self, scores: Sequence[VolumeScore]) -> None:
        # Floats multiply by BLAS, and counts below 2^53 stay exact.
        self.lesion = np.array([score.histogram.lesion for score in scores], np.float64)
        self.other = np.array([score.histogram.other for score in scores], np.float64)
        self.single = np.array([score.histogram.auc() for score in scores])

    def pooled(self, which: NDArray[np.intp]) -> float:
        times = np.bincount(which, minlength=len(self.single)).astype(np.float64)
        lesion, other = (times @ counts for counts in (self.lesion, self.other))
        return ScoreHistogram(lesion.astype(np.int64), other.astype(np.int64)).auc()

    def per_volume(self, which: NDArray[np.intp]) -> float:
        return float(self.single[which].mean())


def summarise(scores: Sequence[VolumeScore], *, resamples: int = 500) -> dict[str, Any]:
    """Figures of a group of volumes with bootstrap intervals, as plain values.

    Returns
    -------
    dict
        ``n_volumes``, ``n_lesion_volumes``, ``brain_fraction``, ``lesion_auc_pooled``, ``lesion_auc_per_volume`` and,
        for each truth and region, ``mse``, ``psnr_db``, ``ssim``; each an interval of `Interval.to_json`.
    """
    sick = [score for score in scores if score.histogram.lesion.any()]

    def interval(figure: Callable[[NDArray[np.intp]], float], count: int) -> dict[str, float | int | None]:
        return bootstrap(figure, count, resamples=resamples).to_json()

    curves = _Curves(sick)
    figures: dict[str, Any] = {
        "n_volumes": len(scores),
        "n_lesion_volumes": len(sick),
        "brain_fraction": _brain_fraction(scores),
        "lesion_auc_pooled": interval(curves.pooled, len(sick)),
        "lesion_auc_per_volume": interval(curves.per_volume, len(sick)),
    }
    for truth in ("dwi", "dwi_clean"):
        for region in REGIONS:
            sums = _Sums(scores, truth, region)
            figures[f"{truth}.{region}"] = {
                "mse": interval(sums.mse, len(scores)),
                "psnr_db": interval(sums.psnr, len(scores)),
                "ssim": interval(sums.ssim, len(scores)),
            }
    frame = figures["dwi.frame"]["mse"]["value"]
    figures["mse_paper_convention"] = None if frame is None else mse_paper(frame)
    return figures


def _brain_fraction(scores: Sequence[VolumeScore]) -> float | None:
    frame = sum(score.against["dwi"]["frame"].pixels for score in scores)
    return sum(score.against["dwi"]["brain"].pixels for score in scores) / frame if frame else None


def groups_of(scores: Sequence[VolumeScore]) -> Iterator[tuple[str, list[VolumeScore]]]:
    """All volumes, each centre, and each stratum of HU drop, lesion volume and lesion kind that has volumes."""
    yield "all", list(scores)
    for centre in sorted({score.centre for score in scores}):
        yield f"centre {centre}", [score for score in scores if score.centre == centre]
    sick = [score for score in scores if score.lesion_ml > 0]
    strata = [(name, [score for score in sick if low <= score.hu_drop < high]) for name, (low, high) in STRATA.items()]
    strata += [
        (name, [score for score in sick if low <= score.lesion_ml < high]) for name, (low, high) in SIZES.items()
    ]
    for kind in sorted({score.lesion_kind for score in sick}):
        strata.append((f"{KIND_PREFIX}{kind}", [score for score in sick if score.lesion_kind == kind]))
    yield from ((name, group) for name, group in strata if group)


def evaluate_cases(
    predict: Callable[[CachedCase], NDArray[np.float32]],
    cases: Sequence[CachedCase],
    progress: Callable[[int, int], None] | None = None,
) -> list[VolumeScore]:
    """Predict and score every case, in order."""
    scores = []
    for number, case in enumerate(cases, start=1):
        scores.append(score_volume(case, predict(case)))
        if progress:
            progress(number, len(cases))
    return scores


def control_scores(
    training: Sequence[CachedCase], cases: Sequence[CachedCase], contract: PreprocessingContract
) -> dict[str, list[VolumeScore]]:
    """Scores of every simple control, fitted on the training cases."""

    def apply(control: Control, case: CachedCase) -> NDArray[np.float32]:
        return control(case.hu_slices(), np.asarray(case.brain) > 0)

    controls = fit_controls(training, contract)
    return {name: evaluate_cases(partial(apply, control), cases) for name, control in controls.items()}


def evaluate(
    recipe: Recipe,
    contract: PreprocessingContract,
    cache_root: Path,
    predictor: Predictor,
    *,
    volumes: int | None = None,
    picture: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Held-out report of a predictor on the test volumes of a recipe, with the controls beside it.

    Parameters
    ----------
    recipe : Recipe
        Names the test volumes, and the training volumes on which the controls are fitted.
    contract : PreprocessingContract
        Grid and target scale.
    cache_root : Path
        Where volumes are, or are made.
    predictor : Predictor
        The network under test.
    volumes : int, optional
        Take only this many test volumes a centre.
    picture : Path, optional
        Draw examples here (PNG), chosen by rule.
    progress : callable, optional
        Called with (done, total) after each predicted volume.

    Returns
    -------
    dict
        JSON-serialisable: ``data`` ("phantom"), settings of the figures, and ``methods`` -> group -> figures.
    """
    data = recipe.data
    if volumes is not None:
        data = dataclasses.replace(data, test={centre: min(volumes, n) for centre, n in data.test.items()})
    cache = build_cache(cache_root, data, contract, splits=("train", "test"))
    cases = load_split(cache, data, "test")
    methods = {"jmmda": evaluate_cases(predictor.predict_case, cases, progress)}
    if picture is not None:
        from train.pictures import draw_examples

        draw_examples(cases, methods["jmmda"], predictor, picture)
    methods |= control_scores(load_split(cache, data, "train"), cases, contract)
    return {
        "data": "phantom",
        "recipe": recipe.name,
        "network": predictor.description,
        "conventions": "values on [0, 1]; slices with brain >= 5 % of the frame; SSIM 11 taps, sigma 1.5, data range 1",
        "methods": {
            name: {group: summarise(chosen) for group, chosen in groups_of(scores)} for name, scores in methods.items()
        },
    }


def evaluate_subject(
    subject: str,
    recipe: Recipe | None = None,
    *,
    cache_root: Path | None = None,
    volumes: int | None = None,
    picture: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a run folder, a bundle folder or a bundle by name.

    Parameters
    ----------
    subject : str
        Folder or name.
    recipe : Recipe, optional
        Names the test volumes; needed for a bundle, a run has its own.
    cache_root : Path, optional
        Where volumes are kept; default the run's, or ``phantom-cache`` below the working folder for a bundle.
    volumes, picture, progress
        As for `evaluate`.

    Raises
    ------
    ValueError
        When a bundle is given without a recipe.
    FileNotFoundError
        When the run has no checkpoint.
    jmmda_model.bundle.BundleError
        When the bundle is not usable.
    """
    folder = Path(subject)
    if (folder / "recipe.json").exists():
        own, data = read_run(folder)
        predictor = weights_predictor(
            generator_settings(own.generator), averaged_weights(folder), data.contract, f"run {own.name}"
        )
        root = cache_root or data.cache.parent
        return evaluate(
            recipe or own, data.contract, root, predictor, volumes=volumes, picture=picture, progress=progress
        )
    predictor = bundle_predictor(subject)
    if recipe is None:
        raise ValueError("a bundle does not name test volumes: give --recipe")
    root = cache_root or Path("phantom-cache")
    return evaluate(recipe, predictor.contract, root, predictor, volumes=volumes, picture=picture, progress=progress)
