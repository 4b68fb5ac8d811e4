"""Training batches: choice of slices, augmentation, change of resolution, and the network's channels.

The choice of slices and every random number of a batch are a function of (seed, step), so a resumed run draws what
the interrupted one would have drawn, and nothing about the data has to be kept in a checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.intensity import ct_channels, mask_channels
from train.data.cache import CachedCase
from train.recipe import AugmentRecipe

#: A slice is trained on when its brain fills this fraction of the frame: the gradient of an empty slice is far above
#: the usual one.
MIN_BRAIN_FRACTION = 0.005
#: A slice counts as a lesion slice from this fraction of the frame on (about 0.4 ml of a 5 mm slice).
MIN_LESION_FRACTION = 0.0015
#: Air, which fills what rotation and shift bring in from outside.
_AIR_HU = -1024.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one training step sees; all float32, B slices of H x W.

    Attributes
    ----------
    ct : Tensor
        (B, windows, H, W) in [-1, 1].
    mask : Tensor
        (B, mask channels, H, W).
    target : Tensor
        (B, 1, H, W) in [-1, 1], -1 outside the brain.
    brain, lesion : Tensor
        (B, 1, H, W), 0 or 1. The lesion is for the loss and the scores only.
    """

    ct: Tensor
    mask: Tensor
    target: Tensor
    brain: Tensor
    lesion: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, item.name).to(device, non_blocking=True) for item in dataclasses.fields(self)))


class SliceDataset:
    """Slices of a split with brain, and batches drawn from them.

    Parameters
    ----------
    cases : sequence of CachedCase
        Patients of one split.
    contract : PreprocessingContract
        Of the cache.

    Raises
    ------
    ValueError
        When no slice has brain.
    """

    def __init__(self, cases: Sequence[CachedCase], contract: PreprocessingContract) -> None:
        self.cases = tuple(cases)
        self.contract = contract
        index, has_lesion = [], []
        for number, case in enumerate(self.cases):
            frame = case.brain.shape[1] * case.brain.shape[2]
            brain = np.count_nonzero(case.brain, axis=(1, 2)) / frame
            lesion = np.count_nonzero(case.lesion, axis=(1, 2)) / frame
            for row in np.flatnonzero(brain >= MIN_BRAIN_FRACTION):
                index.append((number, int(row)))
                has_lesion.append(bool(lesion[row] >= MIN_LESION_FRACTION))
        if not index:
            raise ValueError("the split holds no slice with brain")
        self.index: NDArray[np.intp] = np.array(index, dtype=np.intp)
        self.lesion_rows: NDArray[np.intp] = np.flatnonzero(has_lesion)

    def __len__(self) -> int:
        return len(self.index)

    def choose(self, size: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Draw rows of `index`: the first half from lesion slices (when there are any), the rest from all slices."""
        from_lesion = size // 2 if self.lesion_rows.size else 0
        lesion = rng.choice(self.lesion_rows, from_lesion) if from_lesion else np.empty(0, np.intp)
        return np.concatenate([lesion, rng.integers(0, len(self), size - from_lesion)]).astype(np.intp)

    def planes(self, rows: NDArray[np.intp]) -> Tensor:
        """(B, 4, H, W) float32 on the cache grid: HU, target, brain, lesion."""
        planes = []
        for row in rows:
            number, where = self.index[row]
            case = self.cases[number]
            planes.append(
                np.stack(
                    [
                        case.hu_slices(where),
                        case.target_slices(where),
                        np.asarray(case.brain[where], np.float32),
                        np.asarray(case.lesion[where], np.float32),
                    ]
                )
            )
        return torch.from_numpy(np.stack(planes))

    def training_batch(self, size: int, grid_px: int, augment: AugmentRecipe, seed: Sequence[int]) -> Batch:
        """The batch of one step: half lesion slices, augmented, at ``grid_px``, a function of ``seed`` alone."""
        rng = np.random.default_rng(list(seed))
        planes = augment_planes(self.planes(self.choose(size, rng)), augment, rng)
        return to_batch(planes, self.contract, grid_px)

    def fixed_batch(self, rows: NDArray[np.intp], grid_px: int) -> Batch:
        """Given rows of `index`, unchanged, at ``grid_px``."""
        return to_batch(self.planes(rows), self.contract, grid_px)

    def spread(self, count: int, *, lesion_half: bool = True) -> NDArray[np.intp]:
        """A fixed choice of rows, evenly spread; half of them lesion slices, for validation and pictures."""
        pool = np.arange(len(self))
        if not lesion_half or not self.lesion_rows.size:
            return _evenly(pool, count)
        return np.concatenate([_evenly(self.lesion_rows, count - count // 2), _evenly(pool, count // 2)])


def _evenly(pool: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    count = min(count, len(pool))
    return pool[np.linspace(0, len(pool) - 1, count).round().astype(np.intp)] if count else pool[:0]


def augment_planes(planes: Tensor, augment: AugmentRecipe, rng: np.random.Generator) -> Tensor:
    """Vary slices at random; each slice is left alone with probability 1 - ``augment.probability`` except for the flip.

    Parameters
    ----------
    planes : Tensor
        (B, 4, H, W): HU, target, brain, lesion.
    augment : AugmentRecipe
        Ranges. Rotation, scale and shift move all four planes alike; noise and offset touch the HU only.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    Tensor
        (B, 4, H, W); brain and lesion stay binary and the target stays -1 outside the brain.
    """
    planes = planes.clone()
    for number in range(planes.shape[0]):
        if augment.flip and rng.random() < 0.5:
            planes[number] = planes[number].flip(-1)
        if rng.random() < augment.probability:
            planes[number] = _moved(planes[number], augment, rng)
        noise_hu = augment.noise_hu * rng.random()
        offset_hu = rng.uniform(-augment.offset_hu, augment.offset_hu)
        noise = rng.standard_normal(tuple(planes.shape[-2:]), dtype=np.float32)
        planes[number, 0] += torch.from_numpy(noise) * float(noise_hu) + float(offset_hu)
    return planes


def _moved(planes: Tensor, augment: AugmentRecipe, rng: np.random.Generator) -> Tensor:
    angle = math.radians(rng.uniform(-augment.rotation_deg, augment.rotation_deg))
    scale = 1.0 + rng.uniform(-augment.scale, augment.scale)
    shift = rng.uniform(-2.0 * augment.shift, 2.0 * augment.shift, 2)  # affine_grid counts the frame as 2 wide
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    theta = torch.tensor([[[cos, -sin, shift[0]], [sin, cos, shift[1]]]], dtype=torch.float32)
    # Zeros come in from outside: air and "no target" must be zero while the planes are moved.
    lift = torch.tensor([-_AIR_HU, 1.0, 0.0, 0.0]).view(4, 1, 1)
    grid = functional.affine_grid(theta, [1, *planes.shape], align_corners=False)
    moved = functional.grid_sample((planes + lift)[None], grid, mode="bilinear", align_corners=False)[0] - lift
    return _binary(moved)


def _binary(planes: Tensor) -> Tensor:
    """Make brain and lesion 0 or 1 again, and the target -1 outside the brain; (..., 4, H, W)."""
    brain = (planes[..., 2, :, :] >= 0.5).float()
    lesion = (planes[..., 3, :, :] >= 0.5).float() * brain
    target = torch.where(brain > 0, planes[..., 1, :, :], torch.full_like(brain, -1.0))
    return torch.stack([planes[..., 0, :, :], target, brain, lesion], dim=-3)


def to_batch(planes: Tensor, contract: PreprocessingContract, grid_px: int) -> Batch:
    """Bring planes to the resolution of a stage and make the network's channels with the functions the node uses.

    A coarser stage sees the mean of k x k pixels of the full grid; the distance channel is computed on the coarse
    brain with the coarse spacing, so that it keeps meaning millimetres.

    Parameters
    ----------
    planes : Tensor
        (B, 4, contract.grid_px, contract.grid_px): HU, target, brain, lesion.
    contract : PreprocessingContract
        Of the full grid.
    grid_px : int
        Divides ``contract.grid_px``.

    Raises
    ------
    ValueError
        When the grids do not divide.
    """
    if planes.shape[-1] % grid_px:
        raise ValueError(f"a stage of {grid_px} pixels does not divide the grid of {planes.shape[-1]}")
    factor = planes.shape[-1] // grid_px
    if factor > 1:
        planes = _binary(functional.avg_pool2d(planes, factor))
    stage = dataclasses.replace(
        contract, grid_px=grid_px, grid_spacing_mm=contract.grid_spacing_mm * contract.grid_px / grid_px
    )
    hu, target, brain, lesion = (planes[:, number] for number in range(4))
    return Batch(
        ct=torch.from_numpy(ct_channels(hu.numpy(), stage)),
        mask=torch.from_numpy(mask_channels(brain.numpy(), stage)),
        target=target[:, None],
        brain=brain[:, None],
        lesion=lesion[:, None],
    )
