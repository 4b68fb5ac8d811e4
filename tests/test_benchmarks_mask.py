"""What `benchmarks.mask` measures with: overlap and distance of masks whose relation is known.

Left out: the figures themselves, which the tests of the mask hold, and the pictures.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.mask_cases import phantom_cases
from benchmarks.mask_scores import dice, surface_distance_mm, visible
from jmmda_model.imaging import CtVolume


def stack(hu: np.ndarray) -> CtVolume:
    positions = np.stack([np.zeros(4), np.zeros(4), np.array([0.0, 4.0, 8.0, 15.0])], axis=1)
    return CtVolume(hu, positions, np.eye(3)[:2], (0.5, 2.0), np.full(4, 4.0))


def block(columns: slice, slices: slice = slice(None)) -> np.ndarray:
    mask = np.zeros((4, 40, 40), dtype=bool)
    mask[slices, 10:30, columns] = True
    return mask


def test_distance_counts_millimetres_of_the_patient():
    volume = stack(np.zeros((4, 40, 40)))
    first = block(slice(10, 30))
    assert surface_distance_mm(volume, first, first) == 0
    assert surface_distance_mm(volume, first, block(slice(13, 30)), quantile=1.0) == pytest.approx(6)
    assert surface_distance_mm(volume, first, block(slice(10, 30), slice(0, 3)), quantile=1.0) == pytest.approx(7)
    assert math.isnan(surface_distance_mm(volume, first, np.zeros_like(first)))


def test_overlap():
    first, half = block(slice(10, 30)), block(slice(10, 20))
    assert dice(first, first) == 1
    assert dice(first, half) == pytest.approx(2 / 3)
    assert math.isnan(dice(first & ~first, first & ~first))


def test_visible_is_what_bone_does_not_hide():
    hu = np.full((4, 40, 40), 30.0)
    hu[:, :, 20:] = 1000
    seen = visible(stack(hu), block(slice(10, 30)))
    assert seen[0, 20, 15]
    assert not seen[0, 20, 25]


def test_cases_have_names_of_their_own():
    names = [case.name for case in phantom_cases()]
    assert len(set(names)) == len(names) >= 40
