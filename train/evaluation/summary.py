"""Figures of a group of volumes: pooled with bootstrap intervals over volumes, and mean and sd of images and patients.

Every pooled figure is a ratio of sums over volumes, so all bootstrap samples follow from one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.evaluation.groups import SIZES
from train.evaluation.lesions import Finding
from train.evaluation.scoring import METRICS, REGIONS, TRUTHS, SliceSums, VolumeScore
from train.metrics import Interval, aucs_of, draw_volumes, mse_paper, psnr_of

FloatArray = NDArray[np.float64]
RESAMPLES = 500


class Draws:
    """Bootstrap draws of a fixed number of volumes.

    Parameters
    ----------
    n_volumes : int
        Volumes to draw from.
    resamples, seed : int
        Number of draws and their seed: the same for every method, so that methods are compared as pairs.
    """

    def __init__(self, n_volumes: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.n = n_volumes
        self.counts = draw_volumes(n_volumes, resamples=resamples, seed=seed)

    def ratio(self, total: FloatArray, count: FloatArray) -> FloatArray:
        """Sum of ``total`` over sum of ``count``, both (n,), in every draw; nan where nothing was counted."""
        above, below = self.counts @ total, self.counts @ count
        out = np.full(len(above), np.nan)
        np.divide(above, below, out=out, where=below > 0)
        return out

    def mean(self, values: FloatArray) -> FloatArray:
        """Mean of (n,) values in every draw; volumes with nan do not count."""
        known = ~np.isnan(values)
        return self.ratio(np.where(known, values, 0.0), known.astype(np.float64))

    def json(self, values: FloatArray, n: int | None = None) -> dict[str, float | int | None]:
        """Interval of draws as plain values; ``n`` volumes are behind it, by default all."""
        return Interval.of(values, self.n if n is None else n).to_json()


def region_totals(scores: Sequence[VolumeScore], truth: str, region: str) -> Mapping[str, FloatArray]:
    """Sums over the slices of each volume, name of the field -> (n volumes,)."""
    sums = [score.against[truth][region] for score in scores]
    names = ("pixels", "squared", "absolute", "energy", "ssim_pixels", "ssim")
    totals = {name: np.array([getattr(item, name).sum() for item in sums]) for name in names}
    totals["ms_ssim"] = np.array([np.nansum(item.ms_ssim) for item in sums])
    totals["images"] = np.array([np.count_nonzero(~np.isnan(item.ms_ssim)) for item in sums], np.float64)
    return totals


def _pooled(draws: Draws, scores: Sequence[VolumeScore], truth: str, region: str) -> dict[str, Any]:
    t = region_totals(scores, truth, region)
    mse = draws.ratio(t["squared"], t["pixels"])
    figures = {
        "mse": mse,
        "psnr_db": psnr_of(mse),
        "ssim": draws.ratio(t["ssim"], t["ssim_pixels"]),
        "ms_ssim": draws.ratio(t["ms_ssim"], t["images"]),
        "mae": draws.ratio(t["absolute"], t["pixels"]),
        "nrmse": np.sqrt(draws.ratio(t["squared"], t["energy"])),
    }
    n = int(np.count_nonzero(t["pixels"]))
    return {name: draws.json(values, n) for name, values in figures.items()}


def spread(values: FloatArray) -> dict[str, float | int | None]:
    """Mean, standard deviation (n - 1) and number of values that are not nan."""
    known = values[~np.isnan(values)]
    mean = round(float(known.mean()), 6) if known.size else None
    sd = round(float(known.std(ddof=1)), 6) if known.size > 1 else None
    return {"mean": mean, "sd": sd, "n": int(known.size)}


def patient_mean(sums: SliceSums, metric: str) -> float:
    """Mean of a metric over the images of one patient in which the region exists; nan without any."""
    values = sums.metric(metric)
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _spreads(scores: Sequence[VolumeScore], truth: str, region: str) -> dict[str, Any]:
    """Mean and sd over images and over patients, the way papers print them."""
    sums = [score.against[truth][region] for score in scores]
    return {
        "per_image": {name: spread(np.concatenate([item.metric(name) for item in sums])) for name in METRICS},
        "per_patient": {name: spread(np.array([patient_mean(item, name) for item in sums])) for name in METRICS},
    }


def _auc(scores: Sequence[VolumeScore], resamples: int) -> dict[str, Any]:
    sick = [score for score in scores if score.has_lesion]
    draws = Draws(len(sick), resamples=resamples)
    if not sick:
        nothing = draws.json(np.full(1, np.nan))
        return {"lesion_auc_pooled": nothing, "lesion_auc_per_volume": nothing}
    lesion, other = (
        draws.counts @ np.array([getattr(score.histogram, name) for score in sick], np.float64)
        for name in ("lesion", "other")
    )
    single = np.array([score.histogram.auc() for score in sick])
    return {
        "lesion_auc_pooled": draws.json(aucs_of(lesion, other)),
        "lesion_auc_per_volume": draws.json(draws.mean(single)),
    }


def _contrast(draws: Draws, scores: Sequence[VolumeScore]) -> dict[str, Any]:
    ours = np.array([score.contrast for score in scores])
    measured = np.array([score.contrast_measured for score in scores])
    n = int(np.count_nonzero(~np.isnan(ours) & ~np.isnan(measured)))
    return {
        "prediction": draws.json(draws.mean(ours), n),
        "measured": draws.json(draws.mean(measured), n),
        "difference": draws.json(draws.mean(np.abs(ours - measured)), n),
    }


def _detection(draws: Draws, findings: Sequence[Finding | None]) -> dict[str, Any]:
    """Figures of one detector; a volume whose lesion is unknown has no finding and does not count."""

    def column(figure: str) -> FloatArray:
        return np.array([np.nan if item is None else float(getattr(item, figure)) for item in findings])

    truth, found, both, free = (np.nan_to_num(column(name)) for name in ("truth_ml", "found_ml", "both_ml", "false_ml"))
    free_slices = np.nan_to_num(column("free_slices"))
    known = ~np.isnan(column("truth_ml"))
    sick, healthy = (truth > 0) & known, (truth == 0) & known
    rates = {}
    for name, (low, high) in SIZES.items():
        seen = np.array([_detected(item, low, high) for item in findings], np.float64).reshape(-1, 2)
        rates[name] = draws.json(draws.ratio(seen[:, 0], seen[:, 1]), int((seen[:, 1] > 0).sum())) | {
            "lesions": int(seen[:, 1].sum())
        }
    error = np.where(sick, found - truth, np.nan)
    return {
        "rate": rates,
        "dice_pooled": draws.json(draws.ratio(2 * both, truth + found), int(known.sum())),
        "dice_per_volume": draws.json(draws.mean(np.where(sick, column("dice"), np.nan)), int(sick.sum())),
        "sensitivity": draws.json(draws.ratio(both, truth), int(sick.sum())),
        "volume_error_ml": draws.json(draws.mean(error), int(sick.sum())),
        "volume_error_absolute_ml": draws.json(draws.mean(np.abs(error)), int(sick.sum())),
        "false_ml_per_lesion_free_slice": draws.json(draws.ratio(free, free_slices), int((free_slices > 0).sum())),
        "false_ml_per_lesion_free_volume": draws.json(draws.mean(np.where(healthy, found, np.nan)), int(healthy.sum())),
    }


def _detected(item: Finding | None, low: float, high: float) -> tuple[int, int]:
    """Detected and all lesions of a size in one volume."""
    if item is None:
        return 0, 0
    hits = [hit for size, hit in zip(item.lesions_ml, item.detected, strict=True) if low <= size < high]
    return sum(hits), len(hits)


def truths_of(scores: Sequence[VolumeScore]) -> tuple[str, ...]:
    """Truths that every volume of a group has."""
    return tuple(truth for truth in TRUTHS if all(truth in score.against for score in scores))


def summarise(scores: Sequence[VolumeScore], *, resamples: int = RESAMPLES, detail: bool = True) -> dict[str, Any]:
    """Figures of a group of volumes, as plain values.

    Parameters
    ----------
    scores : sequence of VolumeScore
        At least one.
    resamples : int
        Bootstrap draws of volumes.
    detail : bool
        Also mean and sd over images and over patients.

    Returns
    -------
    dict
        ``n_volumes``, ``n_slices``, ``n_lesion_volumes``, ``n_unknown_volumes`` (no lesion label), ``brain_fraction``,
        ``lesion_auc_pooled``, ``lesion_auc_per_volume``, ``contrast``, ``detection`` (detector -> figures),
        ``mse_paper_convention`` and, as ``TRUTH.REGION``, the pooled metrics, each an interval of `Interval.to_json`;
        with ``detail`` their ``per_image`` and ``per_patient`` spreads.
    """
    draws = Draws(len(scores), resamples=resamples)
    frame = region_totals(scores, "dwi", "frame")["pixels"].sum()
    figures: dict[str, Any] = {
        "n_volumes": len(scores),
        "n_slices": sum(len(score.slices) for score in scores),
        "n_lesion_volumes": sum(score.has_lesion for score in scores),
        "n_unknown_volumes": sum(score.facts.lesion_ml is None for score in scores),
        "brain_fraction": float(region_totals(scores, "dwi", "brain")["pixels"].sum() / frame) if frame else None,
        **_auc(scores, resamples),
        "contrast": _contrast(draws, scores),
        "detection": {
            name: _detection(draws, [score.findings.get(name) for score in scores])
            for name in sorted({name for score in scores for name in score.findings})
        },
    }
    for truth in truths_of(scores):
        for region in REGIONS:
            figures[f"{truth}.{region}"] = _pooled(draws, scores, truth, region)
            if detail:
                figures[f"{truth}.{region}"] |= _spreads(scores, truth, region)
    value = figures["dwi.frame"]["mse"]["value"]
    figures["mse_paper_convention"] = None if value is None else mse_paper(value)
    return figures
