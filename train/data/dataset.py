"""Training batches: choice of slices, augmentation, change of resolution, and the network's channels.

The choice of slices and every random number of a batch are a function of (seed, step), so a resumed run draws what
the interrupted one would have drawn, and nothing about the data has to be kept in a checkpoint.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jmmda_model.imaging.context import context_planes, ct_channels, neighbour_slices, regional_asymmetry
from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.intensity import mask_channels
from train.data.cache import CachedCase
from train.recipe import AugmentRecipe

#: A slice is trained on when its brain fills this fraction of the frame: the gradient of an empty slice is far above
#: the usual one.
MIN_BRAIN_FRACTION = 0.005
#: A slice counts as a lesion slice from this fraction of the frame on (about 0.4 ml of a 5 mm slice).
MIN_LESION_FRACTION = 0.0015
#: Air, which fills what rotation and shift bring in from outside.
_AIR_HU = -1024.0
#: Range in which the contrast of tissue is varied.
_TISSUE_HU = (0.0, 80.0)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one training step sees; all float32, B slices of H x W.

    Attributes
    ----------
    ct : Tensor
        (B, contract.ct_channel_count, H, W) in [-1, 1].
    mask : Tensor
        (B, mask channels, H, W).
    target : Tensor
        (B, 1, H, W) in [-1, 1], -1 outside the brain.
    brain, lesion : Tensor
        (B, 1, H, W), 0 or 1. The lesion is for the loss and the scores only.
    lesion_known : Tensor
        (B,) 1 where a lesion label exists (it may be empty), else 0.
    """

    ct: Tensor
    mask: Tensor
    target: Tensor
    brain: Tensor
    lesion: Tensor
    lesion_known: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return Batch(*(getattr(self, item.name).to(device, non_blocking=True) for item in dataclasses.fields(self)))


@dataclass(frozen=True, slots=True)
class Planes:
    """Slices on the grid of the cache, before windowing: what augmentation moves.

    Attributes
    ----------
    hu : Tensor
        (B, P, H, W) float32 in HU: the slice, its neighbours, its mirror image, asymmetries, see `context_planes`.
    own : int
        How many of the P planes are images with noise of their own; the others are asymmetries.
    labels : Tensor
        (B, 3, H, W) float32: target in [-1, 1], brain and lesion in 0..1.
    lesion_known : Tensor
        (B,) 1 where a lesion label exists.
    """

    hu: Tensor
    own: int
    labels: Tensor
    lesion_known: Tensor


class SliceDataset:
    """Slices of a split with brain, and batches drawn from them.

    Parameters
    ----------
    cases : sequence of CachedCase
        Patients of one split.
    contract : PreprocessingContract
        What the network sees; its grid must be that of the cache.
    lesion_share : float
        Share of a batch that comes from lesion slices, where there are any.
    balance : str
        ``none``: slices are drawn alike; ``centre``: each centre is drawn alike, however many slices it has.

    Raises
    ------
    ValueError
        When no slice has brain.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        contract: PreprocessingContract,
        *,
        lesion_share: float = 0.5,
        balance: Literal["none", "centre"] = "none",
    ) -> None:
        self.cases = tuple(cases)
        self.contract = contract
        self.lesion_share = lesion_share
        index, has_lesion = [], []
        for number, case in enumerate(self.cases):
            frame = case.brain.shape[1] * case.brain.shape[2]
            brain = np.count_nonzero(case.brain, axis=(1, 2)) / frame
            lesion = np.count_nonzero(case.lesion_slices(), axis=(1, 2)) / frame
            for row in np.flatnonzero(brain >= MIN_BRAIN_FRACTION):
                index.append((number, int(row)))
                has_lesion.append(bool(lesion[row] >= MIN_LESION_FRACTION))
        if not index:
            raise ValueError("the split holds no slice with brain")
        self.index: NDArray[np.intp] = np.array(index, dtype=np.intp)
        self.lesion_rows: NDArray[np.intp] = np.flatnonzero(has_lesion)
        centres = np.array([self.cases[number].facts.centre for number in self.index[:, 0]])
        names = sorted(set(centres.tolist())) if balance == "centre" else []
        self._pools = [np.flatnonzero(centres == name) for name in names] or [np.arange(len(self.index))]
        self._sides: dict[int, NDArray[np.float16]] = {}
        self._lesion_pools = [np.intersect1d(pool, self.lesion_rows) for pool in self._pools]

    def __len__(self) -> int:
        return len(self.index)

    def choose(self, size: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Draw rows of `index`: ``lesion_share`` from lesion slices (when there are any), the rest from all slices."""
        from_lesion = round(size * self.lesion_share)
        rows = []
        for place, number in enumerate(rng.integers(0, len(self._pools), size)):
            lesion = self._lesion_pools[number]
            rows.append(rng.choice(lesion if place < from_lesion and lesion.size else self._pools[number]))
        return np.array(rows, dtype=np.intp)

    def planes(self, rows: NDArray[np.intp]) -> Planes:
        """Read rows of `index` from the cache."""
        hu, labels, known = [], [], []
        for row in rows:
            number, where = self.index[row]
            case, one = self.cases[number], np.array([where])
            hu.append(case_planes(case, one, self.contract, self._asymmetry(int(number)))[0])
            brain = np.asarray(case.brain[where], np.float32)
            labels.append(np.stack([case.target_slices(where), brain, case.lesion_slices(where).astype(np.float32)]))
            known.append(float(case.has_lesion_label))
        stacked = torch.from_numpy(np.stack(hu)), torch.from_numpy(np.stack(labels))
        return Planes(stacked[0], self.contract.ct_plane_count, stacked[1], torch.tensor(known))

    def _asymmetry(self, number: int) -> NDArray[np.float32]:
        """Asymmetry of a case, computed once: it takes the whole stack, and the maps are small."""
        if number not in self._sides:
            self._sides[number] = case_asymmetry(self.cases[number], self.contract).astype(np.float16)
        return self._sides[number].astype(np.float32)

    def training_batch(self, size: int, grid_px: int, augment: AugmentRecipe, seed: Sequence[int]) -> Batch:
        """The batch of one step: drawn, augmented, at ``grid_px``; a function of ``seed`` alone."""
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


def case_asymmetry(case: CachedCase, contract: PreprocessingContract) -> NDArray[np.float32]:
    """Regional asymmetry of a whole case, (S, scales, h, w), see `regional_asymmetry`; empty when not asked for."""
    facts = case.facts
    if not contract.asymmetry_mm:
        return np.zeros((len(case.hu), 0, 1, 1), np.float32)
    return regional_asymmetry(case.hu_slices(), case.brain, np.array(facts.slice_offsets_mm), facts.symmetry, contract)


def case_planes(
    case: CachedCase,
    rows: NDArray[np.intp],
    contract: PreprocessingContract,
    asymmetry: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """What the network sees of some slices of a case, in HU: (n, P, H, W), see `context_planes`.

    ``asymmetry`` is that of `case_asymmetry` where it is at hand. Only the slices that are needed leave the disk.
    """
    sides = case_asymmetry(case, contract) if asymmetry is None else asymmetry
    offsets = np.array(case.facts.slice_offsets_mm)
    needed = np.unique(np.concatenate([rows, neighbour_slices(offsets, contract)[rows].ravel()]))
    place = np.searchsorted(needed, rows)
    return context_planes(case.hu_slices(needed), offsets[needed], case.facts.symmetry, sides[needed], contract, place)


def _evenly(pool: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    count = min(count, len(pool))
    return pool[np.linspace(0, len(pool) - 1, count).round().astype(np.intp)] if count else pool[:0]


def augment_planes(planes: Planes, augment: AugmentRecipe, rng: np.random.Generator) -> Planes:
    """Vary slices at random; each slice is left alone with probability 1 - ``augment.probability`` except for the flip.

    Parameters
    ----------
    planes : Planes
        Slices.
    augment : AugmentRecipe
        Ranges. Flip, rotation, scale and shift move all planes alike; gamma, blur, noise and offset touch the HU only.
    rng : numpy.random.Generator
        Source of all choices.

    Returns
    -------
    Planes
        Brain and lesion stay binary and the target stays -1 outside the brain.
    """
    hu, labels = planes.hu.clone(), planes.labels.clone()
    for number in range(hu.shape[0]):
        if augment.flip and rng.random() < 0.5:
            hu[number], labels[number] = hu[number].flip(-1), labels[number].flip(-1)
        if rng.random() < augment.probability:
            hu[number], labels[number] = _moved(hu[number], planes.own, labels[number], augment, rng)
        hu[number, : planes.own] = _other_scanner(hu[number, : planes.own], augment, rng)
    return Planes(hu, planes.own, labels, planes.lesion_known)


def _moved(
    hu: Tensor, own: int, labels: Tensor, augment: AugmentRecipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    angle = math.radians(rng.uniform(-augment.rotation_deg, augment.rotation_deg))
    scale = 1.0 + rng.uniform(-augment.scale, augment.scale)
    shift = rng.uniform(-2.0 * augment.shift, 2.0 * augment.shift, 2)  # affine_grid counts the frame as 2 wide
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    theta = torch.tensor([[[cos, -sin, shift[0]], [sin, cos, shift[1]]]], dtype=torch.float32)
    # Zeros come in from outside: air and "no target" must be zero while the planes are moved.
    lift = torch.tensor([-_AIR_HU] * own + [0.0] * (len(hu) - own) + [1.0, 0.0, 0.0]).view(-1, 1, 1)
    lifted = (torch.cat([hu, labels]) + lift)[None]
    grid = functional.affine_grid(theta, list(lifted.shape), align_corners=False)
    moved = functional.grid_sample(lifted, grid, mode="bilinear", align_corners=False)[0] - lift
    return moved[: len(hu)], _binary(moved[len(hu) :])


def _other_scanner(hu: Tensor, augment: AugmentRecipe, rng: np.random.Generator) -> Tensor:
    """Change blur, contrast, noise and calibration of the planes (P, H, W) of one slice, as another scanner would."""
    if augment.blur_px > 0.0:
        hu = _blurred(hu, augment.blur_px * rng.random())
    if augment.gamma > 0.0:
        gamma = math.exp(rng.uniform(-augment.gamma, augment.gamma))
        tissue = hu.clamp(*_TISSUE_HU)
        hu = hu - tissue + _TISSUE_HU[1] * (tissue / _TISSUE_HU[1]) ** gamma
    noise_hu = augment.noise_hu * rng.random()
    offset_hu = rng.uniform(-augment.offset_hu, augment.offset_hu)
    noise = torch.from_numpy(rng.standard_normal(tuple(hu.shape), dtype=np.float32))
    return hu + noise * float(noise_hu) + float(offset_hu)


def _blurred(hu: Tensor, sigma_px: float) -> Tensor:
    """Gaussian blur of (P, H, W) planes, kernel of three sigma."""
    radius = max(1, math.ceil(3.0 * sigma_px))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / max(sigma_px, 1e-3)) ** 2)
    taps = (taps / taps.sum()).view(1, 1, 1, -1)
    padded = functional.pad(hu[:, None], (radius,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, taps), taps.transpose(2, 3))[:, 0]


def _binary(labels: Tensor) -> Tensor:
    """Make brain and lesion 0 or 1 again, and the target -1 outside the brain; (..., 3, H, W)."""
    brain = (labels[..., 1, :, :] >= 0.5).float()
    lesion = (labels[..., 2, :, :] >= 0.5).float() * brain
    target = torch.where(brain > 0, labels[..., 0, :, :], torch.full_like(brain, -1.0))
    return torch.stack([target, brain, lesion], dim=-3)


def to_batch(planes: Planes, contract: PreprocessingContract, grid_px: int) -> Batch:
    """Bring planes to the resolution of a stage and make the network's channels with the functions the node uses.

    A coarser stage sees the mean of k x k pixels of the full grid; the distance channel is computed on the coarse
    brain with the coarse spacing, so that it keeps meaning millimetres.

    Parameters
    ----------
    planes : Planes
        On the full grid.
    contract : PreprocessingContract
        Of the full grid.
    grid_px : int
        Divides ``contract.grid_px``.

    Raises
    ------
    ValueError
        When the grids do not divide.
    """
    size = planes.hu.shape[-1]
    if size % grid_px:
        raise ValueError(f"a stage of {grid_px} pixels does not divide the grid of {size}")
    hu, labels, factor = planes.hu, planes.labels, size // grid_px
    if factor > 1:
        hu, labels = functional.avg_pool2d(hu, factor), _binary(functional.avg_pool2d(labels, factor))
    stage = dataclasses.replace(
        contract, grid_px=grid_px, grid_spacing_mm=contract.grid_spacing_mm * contract.grid_px / grid_px
    )
    target, brain, lesion = (labels[:, number] for number in range(3))
    return Batch(
        ct=torch.from_numpy(ct_channels(hu.numpy(), stage)),
        mask=torch.from_numpy(mask_channels(brain.numpy(), stage)),
        target=target[:, None],
        brain=brain[:, None],
        lesion=lesion[:, None],
        lesion_known=planes.lesion_known,
    )
