"""Held-out figures of a run or a bundle beside simple controls: image and lesion metrics, strata, targets.

Every pooled figure carries a bootstrap interval over volumes and is given against the measured DWI and, on phantoms,
against the clean one (no noise, bias, ghost or misregistration). A report says what its data are: ``phantom``, or the
layout that patients were read from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.cache import CachedCase
from train.evaluation.cases import GRID_KEYS, EvaluationCases, EvaluationError, open_cases
from train.evaluation.groups import KIND_PREFIX, SIZES, STRATA, groups_of, is_whole
from train.evaluation.lesions import DETECTED_SHARE, MIN_COMPONENT_ML
from train.evaluation.methods import Yardstick, compare_methods, evaluate_cases
from train.evaluation.scoring import MIN_BRAIN_FRACTION, VolumeScore, score_volume
from train.evaluation.summary import RESAMPLES, summarise, truths_of
from train.evaluation.targets import NETWORK, OTHER_PREFIX, ratios_of, targets_of
from train.fit import read_run
from train.metrics import MS_SSIM_BETAS, SSIM_RADIUS, SSIM_SIGMA
from train.predict import Predictor, bundle_predictor, weights_predictor
from train.recipe import Recipe
from train.registry import build_translator
from train.state import averaged_weights

if TYPE_CHECKING:
    from train.segmenter import Segmenter

__all__ = [
    "KIND_PREFIX",
    "SIZES",
    "STRATA",
    "Evaluation",
    "EvaluationError",
    "EvaluationOptions",
    "Subject",
    "VolumeScore",
    "evaluate",
    "evaluate_cases",
    "evaluate_subject",
    "groups_of",
    "open_subject",
    "score_volume",
    "summarise",
]

#: Layout of a report.
REPORT_SCHEMA = 2
#: Where phantoms are kept for a bundle, which has no run folder.
DEFAULT_CACHE = Path("phantom-cache")


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """Choices of one evaluation.

    Attributes
    ----------
    cache_root : Path or None
        Where phantom volumes are kept, or the prepared folder; default the run's or the recipe's.
    volumes : int or None
        At most this many test volumes a centre.
    centres : tuple of str
        Only these test centres; empty for all.
    segmenter : Path or None
        Weights of a segmenter trained on measured DWI (``train segmenter``).
    workers : int
        Processes for the controls.
    resamples : int
        Bootstrap draws.
    """

    cache_root: Path | None = None
    volumes: int | None = None
    centres: tuple[str, ...] = ()
    segmenter: Path | None = None
    workers: int = 1
    resamples: int = RESAMPLES


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A report and what it was made from, for tables and pictures.

    Attributes
    ----------
    report : dict
        JSON-serialisable.
    methods : Mapping[str, list[VolumeScore]]
        Scores of every method in the order of the cases.
    cases : tuple of CachedCase
        Test volumes.
    predictor : Predictor
        The network that was scored.
    """

    report: dict[str, Any]
    methods: Mapping[str, list[VolumeScore]]
    cases: tuple[CachedCase, ...]
    predictor: Predictor


def fixed_settings(yardstick: Yardstick, resamples: int) -> dict[str, Any]:
    """The settings behind every figure of a report."""
    return {
        "values": "[0, 1], prediction clipped, one channel",
        "scored_slices": f"brain >= {100 * MIN_BRAIN_FRACTION:.0f} % of the frame",
        "ssim": {"window": 2 * SSIM_RADIUS + 1, "sigma": SSIM_SIGMA, "data_range": 1, "covariance": "population"},
        "ms_ssim_exponents": list(MS_SSIM_BETAS),
        "nrmse": "root of summed squared error over summed squared truth",
        "psnr": "10 log10(1 / MSE), capped at 100 dB; pooled figures use the pooled MSE",
        "bootstrap": {"unit": "volume", "resamples": resamples, "seed": 0, "interval": "2.5 to 97.5 %"},
        "pixel_mm": yardstick.contract.grid_spacing_mm,
        "bright_level": yardstick.bright_level,
        "lesion": f"connected component (26 neighbours) of >= {MIN_COMPONENT_ML} ml",
        "detected": f">= {100 * DETECTED_SHARE:.0f} % of a lesion's voxels marked",
    }


def conventions_words(settings: Mapping[str, Any]) -> str:
    """The fixed settings in one sentence."""
    ssim = settings["ssim"]
    return (
        f"values on [0, 1]; slices with {settings['scored_slices']}; SSIM {ssim['window']} taps, "
        f"sigma {ssim['sigma']}, data range 1"
    )


def evaluate(
    recipe: Recipe,
    contract: PreprocessingContract,
    cases: EvaluationCases,
    predictor: Predictor,
    options: EvaluationOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    others: Sequence[Predictor] = (),
) -> Evaluation:
    """Held-out report of a predictor, with the measured DWI and the controls beside it.

    Parameters
    ----------
    recipe : Recipe
        Names the data.
    contract : PreprocessingContract
        Grid and target scale.
    cases : EvaluationCases
        Test and training volumes.
    predictor : Predictor
        The network under test.
    options : EvaluationOptions, optional
        Choices.
    progress : callable, optional
        Called with (done, total) after each scored volume.
    others : sequence of Predictor
        Networks to score beside it, on the same volumes and under the same bootstrap draws.

    Raises
    ------
    train.segmenter.SegmenterError
        When the segmenter is not usable.
    """
    options = options or EvaluationOptions()
    segmenter = _segmenter(options.segmenter)
    times = [time.monotonic()]
    yardstick = Yardstick.fit(cases.training, contract)
    times.append(time.monotonic())
    methods = compare_methods(
        predictor,
        cases.test,
        yardstick,
        segmenter=segmenter,
        workers=options.workers,
        others={f"{OTHER_PREFIX}{other.description}": other.predict_case for other in others},
        progress=progress,
    )
    times.append(time.monotonic())
    report = {
        "schema": REPORT_SCHEMA,
        "data": cases.source,
        "recipe": recipe.name,
        "network": predictor.description,
        "detectors": _detector_words(yardstick, segmenter),
        "centres_trained": list(cases.trained_centres),
        "n_training_volumes": len(cases.training),
        **_figures(methods, fixed_settings(yardstick, options.resamples), cases),
    }
    times.append(time.monotonic())
    names = ("fit_controls", "predict_and_score", "summarise")
    report["seconds"] = {name: round(b - a, 1) for name, a, b in zip(names, times[:-1], times[1:], strict=True)}
    return Evaluation(report, methods, cases.test, predictor)


def _figures(
    methods: Mapping[str, list[VolumeScore]], settings: Mapping[str, Any], cases: EvaluationCases
) -> dict[str, Any]:
    """Everything in a report that follows from the scores."""
    resamples = settings["bootstrap"]["resamples"]
    figures = {
        name: {
            group: summarise(chosen, resamples=resamples, detail=is_whole(group)) for group, chosen in groups_of(scores)
        }
        for name, scores in methods.items()
    }
    centres = sorted({case.facts.centre for case in cases.test})
    ratios = ratios_of(methods, centres)
    phantom = cases.source == "phantom"
    return {
        "conventions": conventions_words(settings),
        "settings": dict(settings),
        "truths": list(truths_of(methods[NETWORK])),
        "centres": centres,
        "methods": figures,
        "mse_to_best_control": ratios,
        "targets": targets_of(figures[NETWORK], ratios, cases.trained_centres, centres) if phantom else [],
    }


def _segmenter(file: Path | None) -> Segmenter | None:
    if file is None:
        return None
    from train.segmenter import load_segmenter

    return load_segmenter(file)


def _detector_words(yardstick: Yardstick, segmenter: Segmenter | None) -> dict[str, str]:
    words = {}
    if yardstick.bright_level is not None:
        words["bright"] = (
            f"brain whose Gaussian mean (sigma {SSIM_SIGMA} px) reaches {yardstick.bright_level:.3f} of the scale, the "
            "level with the best Dice on measured DWI of training volumes"
        )
    if segmenter is not None:
        dice = segmenter.card.dice.get("lesion")
        held_out = "" if dice is None else f", lesion Dice {dice:.2f} on held-out measured DWI"
        words["segmenter"] = f"small U-Net trained on measured DWI of the training split{held_out}"
    return words


@dataclass(frozen=True, slots=True)
class Subject:
    """A network to evaluate: what predicts, its contract, and for a run its recipe and where its volumes are."""

    predictor: Predictor
    contract: PreprocessingContract
    recipe: Recipe | None = None
    cache_root: Path | None = None


def open_subject(name: str) -> Subject:
    """Open a run folder, a bundle folder or a bundle by name.

    Raises
    ------
    FileNotFoundError
        When the run has no checkpoint.
    train.state.TrainingError
        When its checkpoint is damaged, or it is of another version of the program.
    jmmda_model.bundle.BundleError
        When the bundle is not usable.
    """
    folder = Path(name)
    if not (folder / "recipe.json").exists():
        bundle = bundle_predictor(name)
        return Subject(bundle, bundle.contract)
    recipe, data = read_run(folder)
    predictor = weights_predictor(
        build_translator(recipe), averaged_weights(folder), data.contract, f"run {recipe.name}"
    )
    root = data.cache if recipe.data.source == "prepared" else data.cache.parent
    return Subject(predictor, data.contract, recipe, root)


def evaluate_subject(
    subject: str,
    recipe: Recipe | None = None,
    options: EvaluationOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    beside: Sequence[str] = (),
) -> Evaluation:
    """Evaluate a run folder, a bundle folder or a bundle by name.

    Parameters
    ----------
    subject : str
        Folder or name.
    recipe : Recipe, optional
        Names the test volumes; needed for a bundle, a run has its own.
    options : EvaluationOptions, optional
        Choices; phantoms of a bundle are kept in ``phantom-cache`` below the working folder by default.
    progress : callable, optional
        Called with (done, total) after each scored volume.
    beside : sequence of str
        Runs or bundles to score beside it on the same volumes.

    Raises
    ------
    EvaluationError
        ``no_recipe`` when a bundle is given without a recipe, ``contract`` when a network beside it has another grid
        or target scale, and as `open_cases`.
    FileNotFoundError, train.state.TrainingError, jmmda_model.bundle.BundleError
        As `open_subject`.
    """
    options = options or EvaluationOptions()
    opened = open_subject(subject)
    others = [open_subject(name) for name in beside]
    for other in others:
        if any(getattr(other.contract, key) != getattr(opened.contract, key) for key in GRID_KEYS):
            raise EvaluationError("contract", "networks are compared on one grid: these have different contracts")
    wanted = recipe or opened.recipe
    if wanted is None:
        raise EvaluationError("no_recipe", "a bundle does not name test volumes: give --recipe")
    root = options.cache_root or prepared_folder(wanted) or opened.cache_root or DEFAULT_CACHE
    cases = open_cases(wanted.data, opened.contract, root, volumes=options.volumes, centres=options.centres)
    predictors = [other.predictor for other in others]
    return evaluate(wanted, opened.contract, cases, opened.predictor, options, progress, others=predictors)


def prepared_folder(recipe: Recipe) -> Path | None:
    """Prepared folder that a recipe names; None for phantoms."""
    return Path(recipe.data.folder) if recipe.data.source == "prepared" and recipe.data.folder else None
