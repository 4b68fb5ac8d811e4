"""From a run to a model bundle: output recalibration, what the modules learnt, held-out figures, card.

The card states in words what the weights were trained on (and, for phantoms, that they never saw a patient), what was
measured on unseen volumes, the controls beside it, and what the network misses.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from jmmda_model.network.generator import Generator, build_generator
from train.data.cache import PHANTOM, CachedCase
from train.evaluation.groups import KIND_PREFIX
from train.fit import load_cases, read_run
from train.predict import NetworkPredictor, weights_predictor
from train.recipe import JMMDA, Recipe, generator_settings
from train.runlog import RunLog
from train.state import TrainingError, averaged_weights, load_stage_weights

if TYPE_CHECKING:
    from jmmda_model.bundle import Bundle

#: A kind of lesion with a lower AUC in a single volume counts as missed; 0.5 is chance.
MISSED_AUC = 0.7
#: Network under test in a report.
NETWORK = "jmmda"
_ON_PHANTOMS = "Trained on a digital phantom: it shows that the pipeline works and says nothing about patients."
_ON_AN_ARCHIVE = "Trained on a prepared archive; the figures hold for its patients and scanners only."
#: Slices of validation on which the modules are probed.
_PROBE_SLICES = 12


@dataclass(frozen=True, slots=True)
class ModuleFacts:
    """What the modules of the network do after training, measured on validation slices, inside the brain.

    Attributes
    ----------
    afw_deviation : tuple[float, ...]
        For each fusion from the input on: mean absolute difference of its weights from the even share 1/K.
    mgff_relative_rms : float
        RMS of what the mask-guided fusion adds to the CT features, relative to their RMS; 0 means it learnt nothing.
    ones_mask_change : float
        Mean absolute change of the output in [-1, 1] when the mask is replaced by ones.
    """

    afw_deviation: tuple[float, ...]
    mgff_relative_rms: float
    ones_mask_change: float


def fit_affine(predictor: NetworkPredictor, cases: Sequence[CachedCase]) -> tuple[float, float]:
    """Least-squares gain and offset that map raw predictions to targets in the brain of validation cases.

    A network trained with extra weight on lesions predicts with too much contrast; the affine takes that back and
    leaves every AUC as it is.

    Raises
    ------
    ValueError
        When the cases hold no brain, or the prediction is constant.
    """
    sums = np.zeros(5)
    for case in cases:
        brain = np.asarray(case.brain) > 0
        if not brain.any():
            continue
        x = predictor.predict_case(case)[brain].astype(np.float64)
        y = case.target_slices()[brain].astype(np.float64)
        sums += [x.size, x.sum(), y.sum(), (x * x).sum(), (x * y).sum()]
    n, sx, sy, sxx, sxy = sums
    variance = sxx / n - (sx / n) ** 2 if n else 0.0
    if variance <= 1e-12:
        raise ValueError("the prediction is constant in the brain of the validation cases: nothing to recalibrate")
    gain = (sxy / n - sx * sy / n**2) / variance
    return float(gain), float((sy - gain * sx) / n)


@torch.no_grad()
def probe_modules(predictor: NetworkPredictor, cases: Sequence[CachedCase]) -> ModuleFacts:
    """Measure what AFW and MGFF learnt; see `ModuleFacts`.

    Raises
    ------
    ValueError
        When no case has brain.
    """
    ct, mask = _probe_inputs(predictor, cases)
    network = cast(Generator, predictor.network)
    output, weights = network.forward_with_weights(ct, mask)
    brain = mask[:, :1] > 0.5
    deviation = tuple(float((weight - 1.0 / weight.shape[1]).abs().mean()) for weight in weights)
    ones = torch.ones_like(mask)
    change = (network(ct, ones) - output).abs()[brain].mean()
    return ModuleFacts(deviation, _mgff_share(network.stem, ct, mask), float(change))


def _mgff_share(stem: torch.nn.Module, ct: Tensor, mask: Tensor) -> float:
    plain = getattr(stem, "stem", None)
    if plain is None or not hasattr(stem, "last"):
        return 0.0
    features = plain(ct)
    added = stem(ct, mask) - features
    return float(added.square().mean().sqrt() / features.square().mean().sqrt())


def _probe_inputs(predictor: NetworkPredictor, cases: Sequence[CachedCase]) -> tuple[Tensor, Tensor]:
    places = []
    for case in cases:
        rows = np.flatnonzero(np.asarray(case.brain).any(axis=(1, 2)))
        if rows.size:
            places.append((case, int(rows[rows.size // 2])))
    if not places:
        raise ValueError("no validation case has brain")
    pairs = [predictor.inputs(case, np.array([row])) for case, row in places[:_PROBE_SLICES]]
    return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])


def training_words(recipe: Recipe, cases: Sequence[CachedCase]) -> str:
    """The training data in words; the word phantom marks the bundle in every label.

    Parameters
    ----------
    recipe : Recipe
        Of the run.
    cases : sequence of CachedCase
        Training cases, counted for prepared data; phantoms are counted by the recipe.
    """
    if recipe.data.source == "phantom":
        total = sum(recipe.data.train.values())
        words = _counted(recipe.data.train)
        return f"digital phantom only, no patient data: {total} generated CT/DWI volumes ({words})"
    layouts = sorted({case.facts.source for case in cases})
    words = f"{len(cases)} paired CT/DWI volumes prepared from {', '.join(layouts)}"
    if layouts == [PHANTOM]:
        words = f"digital phantom only, no patient data: {words}"
    return f"{words} ({_counted(Counter(case.facts.centre for case in cases))})"


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} of centre {centre}" for centre, number in sorted(numbers.items()))


def run_words(run: Path, recipe: Recipe) -> dict[str, Any]:
    """How the run went: recipe, seed, steps, minutes, device, torch; from its log."""
    lines = RunLog(run / "log.jsonl").read()
    started: dict[str, Any] = next((line for line in lines if line["event"] == "started"), {})
    last: dict[str, Any] = next((line for line in reversed(lines) if "minutes" in line), {})
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "steps": last.get("step"),
        "minutes": round(float(last.get("minutes") or 0.0), 1),
        "device": started.get("device"),
        "threads": started.get("threads"),
        "torch": started.get("torch"),
        "stages": [stage.name for stage in recipe.stages],
    }


def report_summary(report: Mapping[str, Any] | None, source: str) -> dict[str, Any]:
    """The figures of a report that a card carries: the network in every group, the controls over all and by centre."""
    if report is None:
        return {"data": source, "note": "no held-out report was given to this export"}
    methods = {
        method: {
            group: _card_figures(figures)
            for group, figures in groups.items()
            if method == NETWORK or group == "all" or group.startswith("centre")
        }
        for method, groups in report["methods"].items()
    }
    kept = {name: report[name] for name in ("targets", "mse_to_best_control") if report.get(name)}
    return {"data": report["data"], "conventions": report["conventions"], "methods": methods, **kept}


def _card_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    brain = figures["dwi.brain"]
    chosen = {
        "n_volumes": figures["n_volumes"],
        "n_lesion_volumes": figures["n_lesion_volumes"],
        "lesion_auc_pooled": figures["lesion_auc_pooled"],
        "lesion_auc_per_volume": figures["lesion_auc_per_volume"],
        "brain_mse": brain["mse"],
        "brain_psnr_db": brain["psnr_db"],
        "brain_ssim": brain["ssim"],
        "lesion_mse": figures["dwi.lesion"]["mse"],
    }
    if "dwi_clean.brain" in figures:
        chosen["brain_mse_clean"] = figures["dwi_clean.brain"]["mse"]
    return chosen


def misses_words(report: Mapping[str, Any] | None) -> str:
    """What the network misses, in words: the kinds of lesion whose AUC in a single volume is low, from a report."""
    if report is None:
        return "What it misses was not measured by this export."
    found: dict[str, list[str]] = {"missed": [], "seen": []}
    for name, figures in report["methods"][NETWORK].items():
        value = figures["lesion_auc_per_volume"]["value"]
        if name.startswith(KIND_PREFIX) and value is not None:
            words = f"{name.removeprefix(KIND_PREFIX)} {value:.2f} (n = {figures['n_lesion_volumes']})"
            found["missed" if value < MISSED_AUC else "seen"].append(words)
    if not any(found.values()):
        return "What it misses, by kind of lesion, is not known: the volumes have no kinds."
    parts = [
        "Mean voxel-wise lesion AUC in a single unseen phantom, by kind of lesion.",
        f"Missed or nearly so (below {MISSED_AUC}): {', '.join(found['missed']) or 'none'}.",
        f"Better: {', '.join(found['seen']) or 'none'}.",
        "It also brightens normal tissue, even on the wrong side. A normal-looking output does not exclude an infarct.",
    ]
    return " ".join(parts)


def export_run(
    run: Path,
    out: Path,
    *,
    name: str | None = None,
    stage: str | None = None,
    report: Mapping[str, Any] | None = None,
    max_cases: int | None = None,
    flip_average: bool = False,
) -> Bundle:
    """Write the bundle of a run.

    Parameters
    ----------
    run : Path
        Run folder; an unfinished run gives the averaged weights of its newest checkpoint.
    out : Path
        Bundle folder; a bundle in it is replaced.
    name : str, optional
        Name of the bundle; default the recipe's.
    stage : str, optional
        Take the weights at the end of this stage instead of the newest.
    report : Mapping, optional
        Held-out report of `train.evaluate.evaluate` for the card.
    max_cases : int, optional
        Validation volumes to recalibrate on; default all.
    flip_average : bool
        Let the bundle average with the mirrored slice, for twice the time.

    Raises
    ------
    FileNotFoundError
        When the run has no checkpoint or has not finished that stage.
    train.state.TrainingError
        When it is of a comparison method, its data are gone or its checkpoint is damaged.
    jmmda_model.bundle.BundleError
        When the bundle cannot be written.
    """
    from jmmda_model.bundle import BundleCard, save_bundle

    recipe, data = read_run(run)
    if recipe.method != JMMDA:
        raise TrainingError(
            "method", f"the node runs JMMDA-GAN; {run} holds {recipe.method}, which can be evaluated only"
        )
    weights = load_stage_weights(run, stage) if stage else averaged_weights(run)
    settings = generator_settings(recipe.generator)
    # The stored values are fp16: calibrate the network that will run, not the one that was trained.
    stored = {key: value.half().float() for key, value in weights.items()}
    predictor = weights_predictor(build_generator(settings), stored, data.contract, recipe.name)
    predictor.flip_average = flip_average
    cases = load_cases(recipe.data, data.cache, "validation")[:max_cases]
    training = load_cases(recipe.data, data.cache, "train")
    affine = fit_affine(predictor, cases)
    modules = probe_modules(predictor, cases)
    source = PHANTOM if any(case.facts.source == PHANTOM for case in training) else recipe.data.source
    origin = _ON_PHANTOMS if source == PHANTOM else _ON_AN_ARCHIVE
    card = BundleCard(
        name=name or recipe.name,
        generator=settings,
        contract=data.contract,
        training_data=training_words(recipe, training),
        trained=True,
        output_affine=affine,
        flip_average=flip_average,
        description=f"{recipe.description}. {origin} Not for diagnosis. {misses_words(report)}",
        metrics={
            "run": run_words(run, recipe) | {"weights": f"end of stage {stage}" if stage else "newest checkpoint"},
            "modules": {**asdict(modules), "afw_deviation": list(modules.afw_deviation)},
            "held_out": report_summary(report, source),
        },
        licence="MIT",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return save_bundle(out, weights, card)
