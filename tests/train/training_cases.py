"""Small drawn cases for the tests of training: round brain, bright lesion of slightly lower HU. Not the phantom."""

from __future__ import annotations

import numpy as np

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.cache import HU_STEP, TARGET_STEP, CachedCase, CaseFacts, Split
from train.recipe import Recipe, parse_recipe

GRID_PX = 32
CONTRACT = PreprocessingContract(grid_px=GRID_PX, grid_spacing_mm=7.2)


def drawn_case(
    seed: int, *, centre: str = "A", split: Split = "train", lesion: bool = True, n_slices: int = 4
) -> CachedCase:
    """A case of ``n_slices`` slices of 32 x 32; the first slice has no brain."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:GRID_PX, :GRID_PX] - (GRID_PX - 1) / 2
    brain = np.repeat((rows**2 + columns**2 < 11.5**2)[None], n_slices, axis=0)
    brain[0] = False
    spot = (rows - rng.uniform(-4, 4)) ** 2 + (columns - rng.choice([-5, 5])) ** 2 < 3.2**2
    sick = np.repeat(spot[None] & lesion, n_slices, axis=0) & brain
    hu = np.where(brain, 34.0 - 6.0 * sick, -1000.0) + rng.normal(0.0, 2.0, brain.shape)
    value = np.where(brain, -1.0 / 3.0 + 0.6 * sick, -1.0)
    noisy = np.where(brain, np.clip(value + rng.normal(0.0, 0.05, brain.shape), -1.0, 1.0), -1.0)
    facts = CaseFacts(
        patient=f"{centre}-{seed}",
        centre=centre,
        split=split,
        source="phantom",
        brain_ml=1400.0,
        lesion_ml=20.0 * lesion,
        slice_offsets_mm=tuple(5.0 * number for number in range(n_slices)),
        symmetry=(0.0, 0.0),
        seed=seed,
        lesion_kind="spot" if lesion else "none",
        hu_drop=6.0 * lesion,
        onset_h=8.0,
        mask_dice=1.0,
    )
    return CachedCase(
        facts,
        hu=np.rint(hu / HU_STEP).astype(np.int16),
        target=np.rint(noisy / TARGET_STEP).astype(np.int16),
        clean=np.rint(value / TARGET_STEP).astype(np.int16),
        brain=brain.astype(np.uint8),
        lesion=sick.astype(np.uint8),
    )


def tiny_recipe(**changes: object) -> Recipe:
    """A recipe of seconds for `drawn_case`: tiny network, one pixel stage and one adversarial stage."""
    values: dict[str, object] = {
        "name": "tiny",
        "description": "for tests",
        "seed": 3,
        "data": {"train": {"A": 2}, "validation": {"A": 1}, "test": {"A": 1}},
        "generator": {"size": "tiny"},
        "discriminator": {"ndf": 4, "n_layers": 1, "num_scales": 1},
        "log": {"every": 1, "validate_every": 100, "validation_slices": 4, "checkpoint_every": 2, "tensorboard": False},
        "stages": [
            {"name": "pixel", "grid_px": 16, "steps": 4, "batch": 2, "learning_rate": 1e-3},
            {"name": "gan", "grid_px": 32, "steps": 3, "batch": 2, "learning_rate": 1e-3, "adversarial": True},
        ],
    }
    return parse_recipe(values | changes, "test", "")
