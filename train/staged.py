"""A split staged on the training device: 16-bit planes in its memory, drawn and augmented there, batch-wise.

The slices a batch is made of are those that `train.data.dataset` would draw, and the ranges of the augmentation are
the same; its random numbers are others, because they are drawn for the batch at once. The distance channel of the mask
is computed once by the function the node uses, and moved with the slice instead of being computed anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jmmda_model.imaging.contract import ASYMMETRY_RANGE_HU, EDGE_DISTANCE_SCALE_MM, PreprocessingContract
from jmmda_model.imaging.morphology import edge_distance_px
from train.data.cache import HU_STEP, TARGET_STEP
from train.data.dataset import Batch, SliceDataset, case_planes
from train.recipe import AugmentRecipe, StageRecipe

_AIR_HU = -1024.0
_TISSUE_MAX_HU = 80.0
#: Distances to the brain edge are kept as int16 in steps of this many mm.
_DISTANCE_STEP_MM = 1.0 / 64.0


@dataclass(frozen=True, slots=True)
class Moves:
    """Random changes of one batch, one value a slice: (B,) float32 on the device.

    ``flip`` is 1 or -1, ``angle`` in radians, ``shift`` (B, 2) in half frames, ``blur`` in pixels.
    """

    flip: Tensor
    angle: Tensor
    scale: Tensor
    shift: Tensor
    blur: Tensor
    gamma: Tensor
    noise_hu: Tensor
    offset_hu: Tensor


class StagedSource:
    """All slices of a split with brain in the device's memory.

    Memory is 6 + 2 x planes bytes a pixel and slice: 6000 slices of 256 x 256 with one plane take 3.1 GB.

    Parameters
    ----------
    dataset : SliceDataset
        Slices; read once.
    augment : AugmentRecipe
        Ranges of the random changes.
    device : torch.device
        Where to keep them.
    """

    most_threads = 1

    def __init__(self, dataset: SliceDataset, augment: AugmentRecipe, device: torch.device) -> None:
        self.dataset, self.augment, self.device = dataset, augment, device
        contract = dataset.contract
        hu, target, distance, labels, known = [], [], [], [], []
        for number, case in enumerate(dataset.cases):
            rows = dataset.index[dataset.index[:, 0] == number, 1]
            if not rows.size:
                continue
            brain = np.asarray(case.brain[rows], dtype=bool)
            lesion = np.asarray(case.lesion_slices(rows), dtype=bool)
            hu.append(np.rint(case_planes(case, rows, contract) / HU_STEP).astype(np.int16))
            target.append(np.asarray(case.target[rows], dtype=np.int16))
            distance.append(distances_mm(brain, contract))
            labels.append(np.stack([brain, lesion], axis=1).astype(np.uint8))
            known.append(np.full(rows.size, float(case.has_lesion_label), np.float32))
        self._hu, self._target, self._distance, self._labels, self._known = (
            torch.from_numpy(np.concatenate(parts)).to(device) for parts in (hu, target, distance, labels, known)
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def draw(self, stage: StageRecipe, seed: tuple[int, ...], rank: int, world: int) -> Batch:
        """The part of a step's batch that process ``rank`` of ``world`` trains on, made on the device."""
        rows = self.dataset.choose(stage.batch * world, np.random.default_rng(list(seed)))[rank::world]
        rng = np.random.default_rng([*seed, rank])
        return self.batch(rows, stage.grid_px, draw_moves(self.augment, rows.size, rng, self.device), rng)

    def batch(self, rows: NDArray[np.intp], grid_px: int, moves: Moves, rng: np.random.Generator) -> Batch:
        """Given rows of the dataset's index, moved, at ``grid_px``."""
        where = torch.from_numpy(rows).to(self.device)
        contract = self.dataset.contract
        hu = self._hu[where].float() * HU_STEP
        # Zeros come in from outside: air, "no target", and far from the brain must be zero while the planes are moved.
        far_mm = 2.0 * EDGE_DISTANCE_SCALE_MM
        own, count = contract.ct_plane_count, hu.shape[1]
        lift = torch.tensor([-_AIR_HU] * own + [0.0] * (count - own), device=self.device).view(1, -1, 1, 1)
        planes = torch.cat(
            [
                hu + lift,
                self._target[where][:, None].float() * TARGET_STEP + 1.0,
                self._distance[where][:, None].float() * _DISTANCE_STEP_MM + far_mm,
                self._labels[where].float(),
            ],
            dim=1,
        )
        planes = moved(planes, moves)
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        hu = planes[:, :count] - lift
        images = blurred(hu[:, :own], moves.blur) if self.augment.blur_px > 0.0 else hu[:, :own]
        hu = torch.cat([other_scanner(images, moves, generator), hu[:, own:]], dim=1)
        factor = hu.shape[-1] // grid_px
        if factor > 1:
            hu, planes = functional.avg_pool2d(hu, factor), functional.avg_pool2d(planes, factor)
        target, distance, brain, lesion = (planes[:, number, None] for number in range(count, count + 4))
        brain = (brain >= 0.5).float()
        distance_mm = (distance - far_mm) * moves.scale.view(-1, 1, 1, 1)
        return Batch(
            ct=windowed(hu, contract),
            mask=mask_planes(brain, distance_mm, contract),
            target=torch.where(brain > 0, target - 1.0, -torch.ones_like(target)),
            brain=brain,
            lesion=(lesion >= 0.5).float() * brain,
            lesion_known=self._known[where],
        )


def distances_mm(brain: NDArray[np.bool_], contract: PreprocessingContract) -> NDArray[np.int16]:
    """Signed distance to the brain edge, (S, H, W) int16 in steps of 1/64 mm, beyond the range of the channel."""
    far = 2.0 * EDGE_DISTANCE_SCALE_MM
    distance = np.clip(edge_distance_px(brain) * contract.grid_spacing_mm, -far, far)
    steps: NDArray[np.int16] = np.rint(distance / _DISTANCE_STEP_MM).astype(np.int16)
    return steps


def draw_moves(augment: AugmentRecipe, size: int, rng: np.random.Generator, device: torch.device) -> Moves:
    """Draw the changes of ``size`` slices on the CPU; they reach the device in one copy."""
    moves = rng.random(size) < augment.probability

    def within(extent: float) -> NDArray[np.float64]:
        return rng.uniform(-extent, extent, size)

    values = [
        np.where(augment.flip & (rng.random(size) < 0.5), -1.0, 1.0),
        np.radians(within(augment.rotation_deg)) * moves,
        1.0 + within(augment.scale) * moves,
        within(2.0 * augment.shift) * moves,  # affine_grid counts the frame as 2 wide
        within(2.0 * augment.shift) * moves,
        augment.blur_px * rng.random(size),
        np.exp(within(augment.gamma)),
        augment.noise_hu * rng.random(size),
        within(augment.offset_hu),
    ]
    columns = torch.from_numpy(np.stack(values).astype(np.float32)).to(device)
    flip, angle, scale, right, down, blur, gamma, noise_hu, offset_hu = columns
    return Moves(flip, angle, scale, torch.stack([right, down], dim=1), blur, gamma, noise_hu, offset_hu)


def moved(planes: Tensor, moves: Moves) -> Tensor:
    """Flip, rotate, scale and shift planes (B, C, H, W) alike; zeros come in from outside."""
    cos, sin = torch.cos(moves.angle) / moves.scale, torch.sin(moves.angle) / moves.scale
    rows = [torch.stack([moves.flip * cos, -moves.flip * sin], dim=1), torch.stack([sin, cos], dim=1)]
    theta = torch.cat([torch.stack(rows, dim=1), moves.shift[:, :, None]], dim=2)
    grid = functional.affine_grid(theta, list(planes.shape), align_corners=False)
    return functional.grid_sample(planes, grid, mode="bilinear", align_corners=False)


def other_scanner(hu: Tensor, moves: Moves, generator: torch.Generator) -> Tensor:
    """Contrast, noise and calibration of another scanner on planes (B, P, H, W) in HU."""
    tissue = hu.clamp(0.0, _TISSUE_MAX_HU)
    changed = _TISSUE_MAX_HU * (tissue / _TISSUE_MAX_HU) ** moves.gamma.view(-1, 1, 1, 1)
    noise = torch.randn(hu.shape, generator=generator, device=hu.device)
    return hu - tissue + changed + noise * moves.noise_hu.view(-1, 1, 1, 1) + moves.offset_hu.view(-1, 1, 1, 1)


def blurred(hu: Tensor, sigma_px: Tensor) -> Tensor:
    """Gaussian blur with one sigma a slice (B,), up to three sigma of 8 pixels."""
    count, planes = hu.shape[:2]
    radius = 24
    steps = torch.arange(-radius, radius + 1, device=hu.device)
    taps = torch.exp(-0.5 * (steps / sigma_px.clamp(min=1e-3)[:, None]) ** 2)
    taps = (taps / taps.sum(dim=1, keepdim=True)).repeat_interleave(planes, dim=0).view(count * planes, 1, 1, -1)
    padded = functional.pad(hu, (radius,) * 4, mode="replicate").flatten(0, 1)[None]
    once = functional.conv2d(padded, taps, groups=count * planes)
    return functional.conv2d(once, taps.transpose(2, 3), groups=count * planes).view_as(hu)


def windowed(hu: Tensor, contract: PreprocessingContract) -> Tensor:
    """CT channels (B, ct_channel_count, H, W) of planes (B, P, H, W) in HU, equal to those the node makes."""
    span = (-ASYMMETRY_RANGE_HU, ASYMMETRY_RANGE_HU)
    contexts = [contract.context_window_hu] * (contract.ct_plane_count - 1)
    windows = [*contract.windows_hu, *contexts, *[span] * len(contract.asymmetry_mm)]
    sources = [hu[:, :1]] * len(contract.windows_hu) + [hu[:, number, None] for number in range(1, hu.shape[1])]
    channels = [
        ((plane - lower) * (2.0 / (upper - lower)) - 1.0).clamp(-1.0, 1.0)
        for plane, (lower, upper) in zip(sources, windows, strict=True)
    ]
    return torch.cat(channels, dim=1)


def mask_planes(brain: Tensor, distance_mm: Tensor, contract: PreprocessingContract) -> Tensor:
    """Mask channels (B, n, H, W) of brain and distance, each (B, 1, H, W)."""
    channels = {"brain": brain, "edge_distance": (distance_mm / EDGE_DISTANCE_SCALE_MM).clamp(-1.0, 1.0)}
    return torch.cat([channels[name] for name in contract.mask_channels], dim=1)


def staged_bytes(slices: int, contract: PreprocessingContract) -> int:
    """Device memory that `StagedSource` takes for a number of slices."""
    planes = contract.ct_plane_count + len(contract.asymmetry_mm)
    return math.prod((slices, contract.grid_px, contract.grid_px, 2 * planes + 6))
