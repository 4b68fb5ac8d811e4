"""Matched filter of the phantom: how well a lesion can be found on CT by whoever knows the head it is in.

The head is made again without lesion and noise and its CT subtracted from the measured one. What remains is noise and
the lesion's loss of HU, which is estimated at four scales; a logistic discriminant combines them with the frequency of
lesions at that place of the head.

How much is known makes the difference (`Knowledge`). With the anatomy alone, the texture of HU within tissues stays in
the remainder, and so does the state of the scanner, of which the median offset in the brain is corrected. With all
known but the noise, nothing is left to correct: the expectation is scanned in the same state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.grid import resample_to_grid, to_grid_stack
from jmmda_model.imaging.intensity import normalise_target
from jmmda_model.imaging.mask import brain_mask
from jmmda_model.imaging.volume import AIR_HU
from train.data.phantom import generate_case
from train.data.phantom_expected import case_with_expectation
from train.data.phantom_plans import SetGeometry
from train.metrics import to_unit

FloatArray = NDArray[np.float32]

#: Gaussian scales of the matched filter, mm; across slices the same where slices are thin enough.
SCALES_MM = (2.0, 4.0, 8.0, 16.0)
#: Slices count from this share of brain in the frame on, as in evaluation.
MIN_BRAIN_SHARE = 0.05
#: Cells of the prior: heights, rows and distances from the midline of the head's box.
_PRIOR_CELLS = (12, 20, 10)
#: Voxels of the whole brain's frequency that are added to each cell.
_PRIOR_LEAN = 50.0


class Knowledge(StrEnum):
    """What the matched filter knows beforehand."""

    ANATOMY = "anatomy"
    ALL_BUT_NOISE = "all_but_noise"


@dataclass(frozen=True, slots=True)
class ReferenceCase:
    """One patient of a reference run: centre, seed, geometry of the scan."""

    centre: str
    seed: int
    geometry: SetGeometry = SetGeometry()  # noqa: RUF009  (frozen)


@dataclass(frozen=True, slots=True)
class GridView:
    """A case and what is expected of it on the network grid, (S, H, W) of the slices that count.

    Attributes
    ----------
    drop
        Expected minus measured HU, by what is known.
    drop_share, tissue
        As in `Expected`.
    brain, lesion
        bool.
    box
        (3, S, H, W) place in the brain's box, 0..1: height, row, distance from the midline.
    measured, clean, known, healthy
        Normalised targets on [0, 1]; see `Expected`.
    spacing_mm
        Between slices and between pixels.
    hu_drop
        Of the lesion in grey matter; 0 without lesion.
    """

    drop: Mapping[Knowledge, FloatArray]
    drop_share: FloatArray
    tissue: FloatArray
    brain: NDArray[np.bool_]
    lesion: NDArray[np.bool_]
    box: FloatArray
    measured: FloatArray
    clean: FloatArray
    known: FloatArray
    healthy: FloatArray
    spacing_mm: tuple[float, float]
    hu_drop: float


def box_of(brain: NDArray[np.bool_]) -> FloatArray:
    """Place of each voxel in the box around a brain (S, H, W): (3, S, H, W), clipped to 0..1."""
    edges = []
    for axis in range(3):
        seen = np.flatnonzero(brain.any(axis=tuple(other for other in range(3) if other != axis)))
        edges.append((float(seen[0]), float(max(seen[-1] - seen[0], 1))))
    axes = [(np.arange(size) - low) / width for size, (low, width) in zip(brain.shape, edges, strict=True)]
    axes[2] = np.abs(2 * axes[2] - 1)
    return np.clip(np.stack(np.meshgrid(*axes, indexing="ij")), 0, 1).astype(np.float32)


def grid_view(case: ReferenceCase, contract: PreprocessingContract) -> GridView:
    """Make a patient and bring all of it to the network grid, as the node's own preprocessing does."""
    made, expected = case_with_expectation(case.seed, case.centre, case.geometry)
    volume = made.ct_volume()
    stack = to_grid_stack(volume, brain_mask(volume), contract)
    frame = stack.brain.shape[1] * stack.brain.shape[2]
    rows = np.flatnonzero(np.count_nonzero(stack.brain, axis=(1, 2)) >= MIN_BRAIN_SHARE * frame)
    brain = stack.brain

    def target(signal: NDArray[np.floating]) -> FloatArray:
        scaled = normalise_target(resample_to_grid(signal, stack.placement), brain, contract)
        return to_unit(scaled[rows]).astype(np.float32)

    def on_grid(values: NDArray[np.generic], fill: float = 0.0) -> FloatArray:
        return np.asarray(resample_to_grid(values, stack.placement, fill=fill), np.float32)

    lesion = np.asarray(resample_to_grid(made.lesion, stack.placement, nearest=True), dtype=bool)
    rest = on_grid(expected.hu_anatomy, AIR_HU) - stack.hu
    return GridView(
        drop={
            Knowledge.ANATOMY: (rest - np.float32(np.median(rest[brain])))[rows],
            Knowledge.ALL_BUT_NOISE: (on_grid(expected.hu, AIR_HU) - stack.hu)[rows],
        },
        drop_share=on_grid(expected.drop_share)[rows],
        tissue=on_grid(expected.tissue)[rows],
        brain=brain[rows],
        lesion=(lesion & brain)[rows],
        box=box_of(brain)[:, rows],
        measured=target(made.dwi),
        clean=target(made.dwi_clean),
        known=target(expected.dwi_known),
        healthy=target(expected.dwi_healthy),
        spacing_mm=(made.spacing_mm[0], contract.grid_spacing_mm),
        hu_drop=made.hu_drop,
    )


def drop_statistics(view: GridView, known: Knowledge = Knowledge.ANATOMY) -> FloatArray:
    """Matched filter at each scale, (len(SCALES_MM), n) for the brain's voxels, in units of its own spread.

    At every voxel the least-squares estimate of a drop that the neighbourhood shares, each voxel weighted with what it
    would take of it; divided by a robust spread over the brain, so that noise levels of scanners do not matter.
    """
    weight = np.where(view.brain, view.drop_share, 0).astype(np.float32)
    # The HU beside bone swing with the kernel's rounding of the grid: nothing there is a lesion of 20 HU.
    change = np.clip(view.drop[known], -20, 20) * weight
    found = []
    for scale in SCALES_MM:
        sigma = (scale / view.spacing_mm[0], scale / view.spacing_mm[1], scale / view.spacing_mm[1])
        top = ndimage.gaussian_filter(change, sigma, truncate=3.0)
        below = ndimage.gaussian_filter(weight * weight, sigma, truncate=3.0)
        value = (top / np.sqrt(np.maximum(below, 1e-3)))[view.brain]
        spread = 1.4826 * float(np.median(np.abs(value - np.median(value))))
        found.append(value / max(spread, 1e-6))
    return np.stack(found).astype(np.float32)


@dataclass(frozen=True, slots=True)
class TerritoryPrior:
    """Logarithm of the odds of a lesion at each place of the head's box, (heights, rows, distances from midline)."""

    log_odds: FloatArray

    def at(self, box: FloatArray) -> FloatArray:
        """Values at places (3, ...) of `box_of`."""
        shape = np.array(self.log_odds.shape).reshape(3, *([1] * (box.ndim - 1)))
        where = box * shape - 0.5
        return np.asarray(ndimage.map_coordinates(self.log_odds, where, order=1, mode="nearest"), np.float32)


def prior_counts(case: ReferenceCase) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lesion and brain voxels of one patient in each cell of the prior; the scan may be as coarse as one likes."""
    shape = case.geometry
    made = generate_case(
        case.seed,
        case.centre,
        matrix=shape.matrix,
        fov_mm=shape.fov_mm,
        n_slices=shape.n_slices,
        slice_mm=shape.slice_mm,
    )
    cells = np.array(_PRIOR_CELLS)
    place = np.minimum((box_of(made.brain)[:, made.brain].T * cells).astype(int), cells - 1)
    flat = np.ravel_multi_index(tuple(place.T), _PRIOR_CELLS)
    size = int(np.prod(cells))
    lesions = np.bincount(flat, made.lesion[made.brain], minlength=size).reshape(_PRIOR_CELLS)
    return lesions.astype(np.float64), np.bincount(flat, minlength=size).reshape(_PRIOR_CELLS).astype(np.float64)


def fit_prior(counts: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> TerritoryPrior:
    """Frequency of lesions by place, smoothed over one cell, as log odds."""
    lesions, brains = (ndimage.gaussian_filter(np.sum(part, axis=0), 0.7) for part in zip(*counts, strict=True))
    # Cells that few brains reach lean on the frequency in the whole brain.
    share = (lesions + _PRIOR_LEAN * lesions.sum() / brains.sum()) / (brains + _PRIOR_LEAN)
    share = np.clip(share, 1e-4, 0.999)
    return TerritoryPrior(np.log(share / (1 - share)).astype(np.float32))


def features(view: GridView, prior: TerritoryPrior, known: Knowledge = Knowledge.ANATOMY) -> NDArray[np.float64]:
    """Terms of the discriminant for the brain's voxels, (n, terms): filter outputs, their bends, prior, tissue."""
    z = np.clip(drop_statistics(view, known), -4, 12).astype(np.float64)
    tissue = np.clip(view.tissue[view.brain], 0, 1).astype(np.float64)
    place = prior.at(view.box[:, view.brain]).astype(np.float64)
    bends = np.maximum(z - 1.5, 0)
    ones = np.ones((1, z.shape[1]))
    most = np.maximum(tissue - 0.5, 0)
    return np.concatenate([ones, z, bends, place[None], tissue[None], most[None], z[1:3] * tissue]).T


def fit_discriminant(tables: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_]]]) -> NDArray[np.float64]:
    """Logistic regression by Newton steps with a small ridge; every volume counts the same.

    Parameters
    ----------
    tables
        Features (n, terms) and lesion (n,) of each volume.
    """
    weight = np.concatenate([np.full(len(truth), 1.0 / len(truth)) for _, truth in tables])
    rows = np.concatenate([table for table, _ in tables])
    truth = np.concatenate([lesion for _, lesion in tables]).astype(np.float64)
    scale = np.maximum(rows.std(axis=0), 1e-6)
    rows = rows / scale
    beta = np.zeros(rows.shape[1])
    ridge = 1e-4 * weight.sum() * np.eye(rows.shape[1])
    for _ in range(25):
        chance = 1 / (1 + np.exp(-np.clip(rows @ beta, -30, 30)))
        slope = rows.T @ (weight * (truth - chance)) - ridge @ beta
        bend = (rows * (weight * chance * (1 - chance))[:, None]).T @ rows + ridge
        step = np.linalg.solve(bend, slope)
        beta += step
        if np.abs(step).max() < 1e-5:
            break
    return np.asarray(beta / scale, np.float64)
