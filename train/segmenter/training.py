"""Training of the segmenter on the measured DWI of the training split, and its Dice on held-out measured DWI."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.cache import CachedCase
from train.segmenter.network import DEFAULT_WIDTHS, PREDICT_BATCH, Segmenter, SegmenterCard, SegmenterError

#: A slice is used from this share of brain in the frame on, and is a lesion slice from this share of lesion on.
_MIN_BRAIN, _MIN_LESION = 0.02, 0.0005


@dataclass(frozen=True, slots=True)
class SegmenterSet:
    """Slices to train on, on the segmenter's grid.

    Attributes
    ----------
    dwi : Tensor
        (N, 1, h, w) float32 in [-1, 1], measured.
    truth : Tensor
        (N, 2, h, w) float32, lesion and brain, 0 or 1.
    known : Tensor
        (N,) 1 where the lesion is labelled.
    """

    dwi: Tensor
    truth: Tensor
    known: Tensor

    @property
    def lesion_rows(self) -> NDArray[np.intp]:
        """Slices with enough lesion."""
        share = self.truth[:, 0].mean(dim=(1, 2)).numpy()
        return np.flatnonzero(share >= _MIN_LESION)


def gather_slices(cases: Sequence[CachedCase], grid_px: int) -> SegmenterSet:
    """Take every slice with brain of some cases to a coarser grid; lesion and brain where half a pixel is covered.

    Raises
    ------
    SegmenterError
        ``grid`` when the grids do not divide, ``no_labels`` when no slice has brain or no case a lesion label.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for case in cases:
        side = case.brain.shape[-1]
        if side % grid_px and side > grid_px:
            raise SegmenterError("grid", f"a grid of {grid_px} pixels does not divide the cache's {side}")
        brain = np.asarray(case.brain) > 0
        rows = np.flatnonzero(brain.mean(axis=(1, 2)) >= _MIN_BRAIN)
        if not rows.size:
            continue
        planes = np.stack([case.target_slices(rows), case.lesion_slices(rows), brain[rows]], axis=1)
        pooled = functional.avg_pool2d(torch.from_numpy(planes.astype(np.float32)), max(1, side // grid_px))
        known = torch.full((len(rows),), float(case.has_lesion_label))
        parts.append((pooled[:, :1], (pooled[:, 1:] >= 0.5).float(), known))
    if not parts or not any(bool(known.any()) for _, _, known in parts):
        raise SegmenterError("no_labels", "no training case has both brain and a lesion label")
    return SegmenterSet(*(torch.cat(column) for column in zip(*parts, strict=True)))


def segmentation_loss(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice over the batch, lesion and brain alike; unlabelled lesions are left out.

    Parameters
    ----------
    logits, truth : Tensor
        (B, 2, h, w): lesion and brain.
    known : Tensor
        (B,) 1 where the lesion is labelled.
    """
    weight = torch.stack([known, torch.ones_like(known)], dim=1)[:, :, None, None].expand_as(logits)
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum") / weight.sum()
    chance = torch.sigmoid(logits) * weight
    both = 2.0 * (chance * truth).sum(dim=(0, 2, 3)) + 1.0
    total = chance.sum(dim=(0, 2, 3)) + (truth * weight).sum(dim=(0, 2, 3)) + 1.0
    return entropy + (1.0 - both / total).mean()


def _varied(dwi: Tensor, truth: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Flip half of the slices, change gain by 10 % and add a little noise: scanners differ, lesions do not."""
    flip = torch.from_numpy(rng.random(len(dwi)) < 0.5)[:, None, None, None]
    dwi, truth = (torch.where(flip, part.flip(-1), part) for part in (dwi, truth))
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, (len(dwi), 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(tuple(dwi.shape), dtype=np.float32)) * float(rng.uniform(0.0, 0.05))
    inside = truth[:, 1:]
    return torch.clamp((dwi + 1.0) * gain - 1.0 + noise * inside, -1.0, 1.0), truth


def train_segmenter(
    cases: Sequence[CachedCase],
    contract: PreprocessingContract,
    *,
    steps: int = 600,
    max_minutes: float = 10.0,
    batch: int = 8,
    learning_rate: float = 2e-3,
    seed: int = 0,
    grid_px: int = 128,
    widths: tuple[int, ...] = DEFAULT_WIDTHS,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Segmenter:
    """Train a segmenter on measured DWI, half of every batch from lesion slices.

    Parameters
    ----------
    cases : sequence of CachedCase
        Training split.
    contract : PreprocessingContract
        Of the cases; a grid coarser than ``grid_px`` is used as it is.
    steps, max_minutes : int, float
        Whichever ends first ends training; only a run that ends by steps is reproducible.
    batch, learning_rate, seed
        Slices a step, peak of the cosine schedule of Adam, seed of weights and choices.
    grid_px : int
        Grid to train on.
    widths : tuple of int
        Channels a level.
    device : torch.device, optional
        Default the CPU.
    progress : callable, optional
        Called with (done, total) after each step.

    Raises
    ------
    SegmenterError
        See `gather_slices`.
    """
    grid_px = min(grid_px, contract.grid_px)
    data = gather_slices(cases, grid_px)
    device = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Segmenter(SegmenterCard(widths=widths, grid_px=grid_px)).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps + 1)
    rng = np.random.default_rng(seed)
    started, done = time.monotonic(), 0
    network.train()
    for _ in range(steps):
        rows = torch.from_numpy(_choose(data, batch, rng))
        dwi, truth = _varied(data.dwi[rows], data.truth[rows], rng)
        loss = segmentation_loss(network(dwi.to(device)), truth.to(device), data.known[rows].to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        done += 1
        if progress:
            progress(done, steps)
        if time.monotonic() - started > 60.0 * max_minutes:
            break
    network.eval()
    network.card = replace(
        network.card,
        source=cases[0].facts.source,
        n_cases=len(cases),
        n_slices=len(data.dwi),
        steps=done,
        seed=seed,
        seconds=round(time.monotonic() - started, 1),
    )
    return network


def _choose(data: SegmenterSet, batch: int, rng: np.random.Generator) -> NDArray[np.intp]:
    sick = data.lesion_rows
    first = rng.choice(sick, batch // 2) if sick.size else np.empty(0, np.intp)
    return np.concatenate([first, rng.integers(0, len(data.dwi), batch - len(first))]).astype(np.intp)


def dice_on(network: Segmenter, cases: Sequence[CachedCase]) -> dict[str, float]:
    """Dice of lesion (labelled cases) and brain over all voxels of some cases' measured DWI, on the trained grid."""
    data = gather_slices(cases, network.card.grid_px)
    device = network.head.weight.device
    both, total = torch.zeros(2), torch.zeros(2)
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(data.dwi)), PREDICT_BATCH):
            truth = data.truth[rows]
            found = (network(data.dwi[rows].to(device)).cpu() > 0).float()
            weight = torch.stack([data.known[rows], torch.ones(len(rows))], dim=1)[:, :, None, None]
            both += 2.0 * (found * truth * weight).sum(dim=(0, 2, 3))
            total += ((found + truth) * weight).sum(dim=(0, 2, 3))
    return {name: round(float(both[k] / total[k]), 4) for k, name in enumerate(("lesion", "brain")) if total[k] > 0}


def with_dice(network: Segmenter, cases: Sequence[CachedCase]) -> Segmenter:
    """Measure Dice on held-out cases and put it on the network's card; returns the network."""
    network.card = replace(network.card, dice=dice_on(network, cases))
    return network
