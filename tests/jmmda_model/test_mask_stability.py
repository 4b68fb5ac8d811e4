"""Brain mask of phantoms at every centre, however the scan lies and whatever surrounds the brain.

Each case has its own floor, a little below what it reaches, for the visible part of the truth (below 120 HU after
smoothing by 0.6 mm). The phantoms are those of `benchmarks.mask` on coarser slices; `docs/mask.md` has the figures at
full size. Left out: what is wrong inside the head (`test_mask_pathology`) and real scans (`test_mask_real`).
"""

from __future__ import annotations

import pytest

from benchmarks.mask import measure
from benchmarks.mask_cases import phantom_cases

CASES = {case.name: case for case in phantom_cases(matrix=128)}

CENTRES = [f"centre {centre}, seed {seed}" for centre in "ABC" for seed in (12, 13)]
FLOORS = {
    "tilt +28 deg": 0.99,
    "tilt -28 deg": 0.99,
    "thick slices 8 mm": 0.99,
    "thick slices 10 mm": 0.99,
    "cut off below": 0.99,
    "cut off above": 0.99,
    "rotated 30 deg in plane": 0.99,
    "prone": 0.99,
    "noise 15 HU more": 0.99,
    "neck in view": 0.99,
    "neck in view, tilt -20 deg": 0.99,
    "open skull base": 0.985,
    "open skull base, 8 mm": 0.985,
    "skull base without contrast": 0.985,
    "hard head holder": 0.99,
}
FLAGGED = {"cut off below": ("cut_off_scan",), "cut off above": ("cut_off_scan",)}


@pytest.mark.parametrize("name", CENTRES)
def test_the_brain_of_every_centre_is_found(name):
    row, _ = measure(CASES[name], CASES[name].make())
    assert row.dice_visible >= 0.985  # 0.97 is what is asked for
    assert row.distance_mm < 2.5
    assert abs(row.volume_error) < 0.02
    assert row.flags == ()


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_the_mask_is_stable(name):
    row, _ = measure(CASES[name], CASES[name].make())
    assert row.dice_visible >= FLOORS[name]
    assert row.distance_mm < 3.0
    assert row.flags == FLAGGED.get(name, ())
