"""Context of a slice: neighbours at nominal distances, mirror image, regional asymmetry, order of the channels.

Independent references: a brute-force Gaussian mean over all voxels, SciPy's zoom. Left out: how well the mid-sagittal
line is found (`test_imaging_symmetry`).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from jmmda_model.imaging import (
    PreprocessingContract,
    context_planes,
    ct_channels,
    neighbour_slices,
    regional_asymmetry,
    window_channels,
)

PLAIN = PreprocessingContract()
UPRIGHT = (0.0, 0.0)


def no_sides(count: int) -> np.ndarray:
    return np.zeros((count, 0, 1, 1), np.float32)


def test_neighbours_are_the_nearest_slices_at_nominal_distances() -> None:
    contract = PreprocessingContract(neighbours=2)
    thin = neighbour_slices(np.arange(40.0), contract)  # slices of 1 mm: 5 and 10 of them away
    assert thin[20].tolist() == [15, 25, 10, 30]
    thick = neighbour_slices(np.arange(5) * 7.0, contract)  # 7 mm: the next slice stands for 5 mm, and for 10 mm too
    assert thick[2].tolist() == [1, 3, 1, 3]
    ends = neighbour_slices(np.arange(4) * 5.0, contract)
    assert ends[0].tolist() == [0, 1, 0, 2]
    assert ends[3].tolist() == [2, 3, 1, 3]


def test_below_and_above_keep_their_meaning_in_a_stack_that_runs_downwards() -> None:
    contract, z = PreprocessingContract(neighbours=1), np.arange(6) * 5.0
    upwards, downwards = neighbour_slices(z, contract), neighbour_slices(z[::-1], contract)
    np.testing.assert_array_equal(downwards, (5 - upwards)[::-1])


def test_context_is_own_slice_neighbours_mirror_image_and_sides_in_that_order() -> None:
    rng = np.random.default_rng(0)
    contract = PreprocessingContract(neighbours=1, mirror=True, asymmetry_mm=(7.0, 12.0), grid_px=16)
    hu = rng.uniform(0, 70, (5, 16, 16)).astype(np.float32)
    sides = rng.normal(0, 2, (5, 2, 4, 4)).astype(np.float32)
    planes = context_planes(hu, np.arange(5) * 5.0, UPRIGHT, sides, contract, np.array([1, 4]))
    assert planes.shape == (2, 6, 16, 16)
    np.testing.assert_array_equal(planes[0, :3], hu[[1, 0, 2]])
    np.testing.assert_array_equal(planes[1, :3], hu[[4, 3, 4]])
    np.testing.assert_allclose(planes[:, 3], hu[[1, 4]][..., ::-1], atol=1e-4)
    wanted = ndimage.zoom(sides[[1, 4]], (1, 1, 4, 4), order=1, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(planes[:, 4:], wanted, atol=1e-5)
    channels = ct_channels(planes, contract)
    assert channels.shape == (2, contract.ct_channel_count, 16, 16)
    assert channels.dtype == np.float32
    np.testing.assert_array_equal(channels[:, :3], window_channels(planes[:, 0], contract.windows_hu))
    np.testing.assert_allclose(channels[:, 3:6], np.clip((planes[:, 1:4] - 10) / 25 - 1, -1, 1), atol=1e-5)
    np.testing.assert_allclose(channels[:, 6:], np.clip(planes[:, 4:] / 4, -1, 1), atol=1e-5)


def test_without_context_only_the_windows_are_left() -> None:
    hu = np.full((3, 4, 4), 30.0, np.float32)
    planes = context_planes(hu, np.arange(3.0), UPRIGHT, no_sides(3), PLAIN)
    np.testing.assert_array_equal(ct_channels(planes, PLAIN), window_channels(hu, PLAIN.windows_hu))


def _stack(*, drop_hu: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(7, 64, 64) HU with noise, brain, and offsets of slices 5 mm apart; tissue on the left lowered by `drop_hu`."""
    rng = np.random.default_rng(4)
    axis = np.arange(64) - 31.5
    brain = np.repeat(((axis[:, None] / 28) ** 2 + (axis[None] / 24) ** 2 < 1)[None], 7, axis=0)
    hu = np.where(brain, 33.0, 1000.0) + rng.normal(0, 3, brain.shape)
    hu[:, :, 32:] -= drop_hu
    hu[:, 28:36, 28:36] = 6.0  # fluid is not tissue
    return hu.astype(np.float32), brain, np.arange(7) * 5.0


def test_asymmetry_is_the_difference_of_gaussian_means_of_tissue() -> None:
    contract = PreprocessingContract(grid_px=64, grid_spacing_mm=3.6, asymmetry_mm=(16.0,))
    hu, brain, offsets = _stack(drop_hu=3.0)
    maps = regional_asymmetry(hu, brain, offsets, UPRIGHT, contract)
    assert maps.shape == (7, 1, 16, 16)
    tissue = brain & (hu > 15) & (hu < 60)
    z, y, x = np.meshgrid(offsets, np.arange(64) * 3.6, np.arange(64) * 3.6, indexing="ij")

    def mean_around(place: tuple[float, float, float]) -> float:
        apart = (z - place[0]) ** 2 + (y - place[1]) ** 2 + (x - place[2]) ** 2
        weight = np.exp(-0.5 * apart / 16.0**2) * tissue
        return float((weight * hu).sum() / weight.sum())

    for row, column in ((5, 3), (8, 11), (11, 4)):
        at = (offsets[3], (row * 4 + 1.5) * 3.6, (column * 4 + 1.5) * 3.6)
        across = (at[0], at[1], 63 * 3.6 - at[2])
        assert maps[3, 0, row, column] == pytest.approx(mean_around(at) - mean_around(across), abs=0.25)


def test_asymmetry_changes_sign_with_the_side_and_vanishes_without_a_difference() -> None:
    contract = PreprocessingContract(grid_px=64, grid_spacing_mm=3.6, asymmetry_mm=(7.0, 12.0))
    hu, brain, offsets = _stack(drop_hu=3.0)
    maps = regional_asymmetry(hu, brain, offsets, UPRIGHT, contract)
    flipped = regional_asymmetry(hu[..., ::-1], brain[..., ::-1], offsets, UPRIGHT, contract)
    np.testing.assert_allclose(flipped, maps[..., ::-1], atol=1e-3)
    np.testing.assert_allclose(maps, -maps[..., ::-1], atol=1e-3)
    assert maps[3, 1, 8, 12] < -2.0
    even = regional_asymmetry(*_stack(drop_hu=0.0), UPRIGHT, contract)
    assert np.abs(even[:, 1]).max() < 0.8
    assert np.abs(even[:, 0]).std() > np.abs(even[:, 1]).std()


def test_where_there_is_no_tissue_there_is_no_asymmetry() -> None:
    contract = PreprocessingContract(grid_px=64, grid_spacing_mm=3.6, asymmetry_mm=(7.0,))
    hu, brain, offsets = _stack(drop_hu=3.0)
    assert not regional_asymmetry(hu, np.zeros_like(brain), offsets, UPRIGHT, contract).any()
    assert not regional_asymmetry(hu, brain, offsets, UPRIGHT, contract)[:, 0, 0, 0].any()


def test_a_lone_slice_has_context_too() -> None:
    contract = PreprocessingContract(grid_px=64, grid_spacing_mm=3.6, neighbours=1, mirror=True, asymmetry_mm=(7.0,))
    hu, brain, _ = _stack(drop_hu=2.0)
    lone = slice(3, 4)
    maps = regional_asymmetry(hu[lone], brain[lone], np.zeros(1), UPRIGHT, contract)
    planes = context_planes(hu[lone], np.zeros(1), UPRIGHT, maps, contract)
    assert planes.shape == (1, 5, 64, 64)
    np.testing.assert_array_equal(planes[0, 1], hu[3])
