"""Validation during training: figures of the evaluated weights on fixed slices, and sample pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from train.data.dataset import Batch, SliceDataset
from train.methods.base import Method
from train.metrics import ScoreHistogram, pooled_auc, psnr_db, to_unit
from train.runlog import sample_sheet, write_png

#: Slices a picture shows, and slices a forward pass takes.
_PICTURE_SLICES = 6
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Validation:
    """Figures of one validation.

    Attributes
    ----------
    brain_mse : float
        Over all brain pixels, images in 0..1.
    brain_psnr_db : float
        Mean over patients of the PSNR of each patient's brain pixels; what the best weights are chosen by.
    lesion_auc : float
        Pooled over the slices; nan where no lesion is labelled.
    fusion : list of list of float
        Mean weight of each input of each adaptive fusion.
    """

    brain_mse: float
    brain_psnr_db: float
    lesion_auc: float
    fusion: list[list[float]]


@dataclass(frozen=True, slots=True)
class Seen:
    """Images in 0..1 and masks of some slices, each (N, H, W), with the patient of each slice."""

    ct: NDArray[np.float64]
    brain: NDArray[np.bool_]
    lesion: NDArray[np.bool_]
    known: NDArray[np.bool_]
    prediction: NDArray[np.float64]
    truth: NDArray[np.float64]
    patients: NDArray[np.intp]


class Validator:
    """Runs a method over a fixed choice of validation slices.

    Parameters
    ----------
    dataset : SliceDataset
        Validation split.
    slices : int
        How many; half of them lesion slices where there are any.
    """

    def __init__(self, dataset: SliceDataset, slices: int) -> None:
        self.dataset = dataset
        self.rows = dataset.spread(slices)

    def run(self, method: Method, grid_px: int, device: torch.device) -> Validation:
        """Figures at a resolution."""
        seen = self.look(method, grid_px, device, self.rows)
        batch = self.dataset.fixed_batch(self.rows[:_AT_ONCE], grid_px).to(device)
        return Validation(
            brain_mse=float(((seen.prediction - seen.truth)[seen.brain] ** 2).mean()),
            brain_psnr_db=patient_psnr_db(seen),
            lesion_auc=_auc(seen),
            fusion=method.fusion_weights(batch.ct, batch.mask),
        )

    def picture(self, method: Method, grid_px: int, device: torch.device) -> NDArray[np.uint8]:
        """Sheet of CT, brain, prediction, truth and lesion of a few slices; uint8."""
        shown = self.rows[np.linspace(0, len(self.rows) - 1, min(_PICTURE_SLICES, len(self.rows))).round().astype(int)]
        seen = self.look(method, grid_px, device, shown)
        columns: Mapping[str, NDArray[Any]] = {
            "ct": seen.ct,
            "brain": seen.brain.astype(np.float64),
            "prediction": seen.prediction,
            "truth": seen.truth,
            "lesion": seen.lesion.astype(np.float64),
        }
        return sample_sheet(columns, low=0.0)

    def look(self, method: Method, grid_px: int, device: torch.device, rows: NDArray[np.intp]) -> Seen:
        """Predict some slices of the dataset."""
        predictions, batches = [], []
        for some in np.array_split(rows, math.ceil(len(rows) / _AT_ONCE)):
            batch = self.dataset.fixed_batch(some, grid_px)
            on_device = batch.to(device)
            predictions.append(method.predict(on_device.ct, on_device.mask).cpu())
            batches.append(batch)
        known = torch.cat([batch.lesion_known for batch in batches]).numpy() > 0.5
        return Seen(
            ct=(_joined(batches, "ct") + 1.0) / 2.0,
            brain=_joined(batches, "brain") > 0.5,
            lesion=_joined(batches, "lesion") > 0.5,
            known=known,
            prediction=to_unit(torch.cat(predictions).numpy()[:, 0]),
            truth=to_unit(_joined(batches, "target")),
            patients=self.dataset.index[rows, 0],
        )


def _joined(batches: list[Batch], name: str) -> NDArray[np.float64]:
    """First channel of a field of all batches, (N, H, W)."""
    return torch.cat([getattr(batch, name)[:, 0] for batch in batches]).numpy().astype(np.float64)


def _auc(seen: Seen) -> float:
    if not seen.known.any():
        return float("nan")
    known = seen.known
    return pooled_auc([ScoreHistogram.of(seen.prediction[known], seen.lesion[known], seen.brain[known])])


def patient_psnr_db(seen: Seen) -> float:
    """PSNR in dB of the brain pixels of each patient, mean over the patients that have some."""
    found = []
    for patient in np.unique(seen.patients):
        chosen = seen.patients == patient
        brain = seen.brain[chosen]
        if brain.any():
            found.append(psnr_db(float(((seen.prediction[chosen] - seen.truth[chosen])[brain] ** 2).mean())))
    return float(np.mean(found)) if found else float("nan")


def save_picture(path: Path, sheet: NDArray[np.uint8]) -> Path:
    """Write a sheet; its folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, sheet)
    return path
