"""The network grid: orientation, crop, resampling, slab means, refusals, and the way back.

Independent references: Pillow's antialiased resize, SimpleITK's resampling in patient coordinates, slab means by
hand. Left out: the brain mask itself (`test_mask_*`), the intensities (`test_imaging_intensity`).
"""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jmmda_model.imaging import (
    ImagingError,
    PreprocessingContract,
    from_network_grid,
    place_grid,
    resample_from_grid,
    resample_to_grid,
    to_grid_stack,
    to_network_grid,
)
from jmmda_model.imaging.grid import scale_from_network_grid, slab_weights
from jmmda_model.imaging.resample import apply_weights, linear_weights
from jmmda_model.imaging.volume import CtVolume
from tests.jmmda_model.imaging_cases import ORIENTATIONS, Lattice, as_mask, ellipsoid, head_hu, part, tilted

CONTRACT = PreprocessingContract(grid_px=128, grid_spacing_mm=1.8)
ALL = {**ORIENTATIONS, "tilt +18": tilted(18), "tilt -25": tilted(-25)}


def landscape(points):
    """A smooth field without any symmetry, in HU of soft tissue."""
    x, y, z = np.moveaxis(points, -1, 0)
    return 40 + 15 * np.sin(x / 23 + 0.4) + 12 * np.cos(y / 31 - 0.2) + 5 * np.sin((x + 2 * y) / 40) + z / 10


def case(orientation, **lattice):
    """A volume of `landscape` with an off-centre ellipsoid as its brain."""
    grid = Lattice(orientation, **lattice)
    points = grid.points()
    volume = grid.volume(landscape(points))
    return volume, as_mask(volume, ellipsoid(points, (60, 70, 40), (6, -9, 3)) < 1), points


def grid_points(volume, placement):
    """Patient coordinates (S, px, px, 3) of every grid sample, from first principles."""
    n = placement.grid_px
    along = (np.arange(n) - (n - 1) / 2) * placement.grid_spacing_mm
    rows, columns = volume.orientation[1].copy(), volume.orientation[0].copy()
    spacing = volume.spacing_mm
    out = np.empty((placement.n_slices, n, n, 3))
    for index in range(placement.n_slices):
        row, column = placement.centre_px[index]
        shape = placement.canonical_shape
        row = shape[0] - 1 - row if placement.flip_rows else row
        column = shape[1] - 1 - column if placement.flip_columns else column
        if placement.transpose:
            row, column = column, row
        centre = volume.positions_mm[index] + rows * row * spacing[0] + columns * column * spacing[1]
        down, right = (columns, rows) if placement.transpose else (rows, columns)
        down = -down if placement.flip_rows else down
        right = -right if placement.flip_columns else right
        out[index] = centre + along[:, None, None] * down + along[None, :, None] * right
    return out


@pytest.mark.parametrize("name", ALL)
def test_grid_rows_run_to_the_back_and_columns_to_the_left_of_the_patient(name):
    volume, mask, _ = case(ALL[name])
    placement = place_grid(volume, mask.mask, CONTRACT)
    points = grid_points(volume, placement)
    assert (points[:, 1:, :, 1] > points[:, :-1, :, 1]).all()
    assert (points[:, :, 1:, 0] > points[:, :, :-1, 0]).all()


@pytest.mark.parametrize("name", ALL)
def test_a_marker_at_the_left_ear_and_one_at_the_nose_land_on_the_right_sides(name):
    lattice = Lattice(ALL[name])
    points = lattice.points()
    hu = np.full(points.shape[:-1], 30.0)
    hu[ellipsoid(points, (8, 8, 40), (50, 0, 0)) < 1] = 70  # left ear
    hu[ellipsoid(points, (8, 8, 40), (0, -60, 0)) < 1] = 10  # nose
    volume = lattice.volume(hu)
    stack = to_grid_stack(volume, as_mask(volume, ellipsoid(points, (70, 80, 40), (0, 0, 0)) < 1), CONTRACT)
    middle = stack.hu[stack.hu.shape[0] // 2]
    _, left_column = np.nonzero(middle > 60)
    nose_row, _ = np.nonzero((middle < 20) & (middle > 0))
    assert left_column.min() > CONTRACT.grid_px // 2 + 10
    assert nose_row.max() < CONTRACT.grid_px // 2 - 10


@pytest.mark.parametrize("name", ALL)
def test_grid_holds_the_field_at_its_own_patient_coordinates(name):
    volume, mask, _ = case(ALL[name])
    stack = to_grid_stack(volume, mask, CONTRACT)
    wanted = landscape(grid_points(volume, stack.placement))
    assert np.abs(stack.hu - wanted)[stack.brain].max() < 0.1


@pytest.mark.parametrize("name", ["HFP", "FFS", "FFP", "decubitus", "transposed"])
def test_every_orientation_of_one_head_gives_the_same_grid(name):
    reference = to_grid_stack(*case(ORIENTATIONS["HFS"])[:2], CONTRACT)
    other = to_grid_stack(*case(ORIENTATIONS[name])[:2], CONTRACT)
    upward = np.cross(*ORIENTATIONS[name])[2] > 0
    np.testing.assert_allclose(other.hu[:: 1 if upward else -1], reference.hu, atol=2e-3)
    np.testing.assert_array_equal(other.brain[:: 1 if upward else -1], reference.brain)


def test_the_centre_line_follows_the_normal_and_not_each_centroid():
    volume, mask, _ = case(tilted(18))
    placement = place_grid(volume, mask.mask, CONTRACT)
    n = CONTRACT.grid_px
    centres = grid_points(volume, placement)[:, n // 2 - 1 : n // 2 + 1, n // 2 - 1 : n // 2 + 1].mean(axis=(1, 2))
    across = centres - np.outer(centres @ volume.normal, volume.normal)
    np.testing.assert_allclose(across, np.broadcast_to(across[0], across.shape), atol=1e-6)


def test_grid_equals_simpleitk_where_it_does_not_shrink():
    volume, mask, _ = case(ORIENTATIONS["HFS"], spacing_mm=(2.1, 1.9))
    stack = to_grid_stack(volume, mask, CONTRACT)
    image = sitk.GetImageFromArray(volume.hu)
    image.SetOrigin(volume.positions_mm[0].tolist())
    image.SetSpacing((1.9, 2.1, 5.0))
    n, corner = CONTRACT.grid_px, grid_points(volume, stack.placement)[0, 0, 0]
    resampled = sitk.Resample(
        image, (n, n, volume.hu.shape[0]), sitk.Transform(), sitk.sitkLinear, corner.tolist(), (1.8, 1.8, 5.0)
    )
    np.testing.assert_allclose(stack.hu[stack.brain], sitk.GetArrayFromImage(resampled)[stack.brain], atol=1e-3)


@pytest.mark.parametrize(("n_in", "n_out"), [(512, 256), (300, 130), (64, 200)])
def test_weights_equal_pillows_antialiased_resize_away_from_the_border(n_in, n_out):
    image = np.random.default_rng(3).normal(size=(n_in, n_in)).astype(np.float32)
    scale = n_in / n_out
    weights = linear_weights(n_in, (scale - 1) / 2, scale, n_out)
    wanted = np.asarray(Image.fromarray(image).resize((n_out, n_out), Image.Resampling.BILINEAR))
    inner = slice(3, -3) if scale >= 1 else slice(8, -8)
    np.testing.assert_allclose(apply_weights(image, weights, weights)[inner, inner], wanted[inner, inner], atol=2e-6)


def test_a_stack_with_the_grids_spacing_passes_unchanged_and_returns_unchanged():
    lattice = Lattice(ORIENTATIONS["HFS"], shape=(9, 100, 110), spacing_mm=(1.8, 1.8))
    points = lattice.points()
    volume = lattice.volume(np.random.default_rng(1).normal(40, 20, points.shape[:-1]))
    mask = as_mask(volume, ellipsoid(points, (50, 60, 40), (5, 3, 0)) < 1)
    placement = place_grid(volume, mask.mask, CONTRACT)
    back = resample_from_grid(resample_to_grid(volume.hu, placement), placement)
    np.testing.assert_allclose(back, volume.hu, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_there_and_back_keeps_a_smooth_image(name):
    volume, mask, _ = case(ALL[name], shape=(7, 160, 150), spacing_mm=(1.1, 1.3))
    placement = place_grid(volume, mask.mask, CONTRACT)
    back = resample_from_grid(resample_to_grid(volume.hu, placement), placement)
    assert np.abs(back - volume.hu)[mask.mask].max() < 0.1


def test_once_on_the_grid_there_and_back_changes_nothing():
    volume, mask, _ = case(tilted(18), shape=(7, 220, 210), spacing_mm=(0.9, 0.9))
    placement = place_grid(volume, mask.mask, CONTRACT)
    once = resample_to_grid(volume.hu, placement)
    twice = resample_to_grid(resample_from_grid(once, placement), placement)
    inner = resample_to_grid(mask.mask, placement) > 0.999
    assert np.abs(twice - once)[inner].max() < 0.1


@given(st.floats(-180, 180), st.booleans(), st.integers(0, 1000))
def test_canonical_steps_are_undone_exactly(turn, flip, seed):
    angle = np.deg2rad(turn)
    along = np.array([np.cos(angle), np.sin(angle), 0])
    down = np.array([-np.sin(angle), np.cos(angle), 0]) * (-1 if flip else 1)
    lattice = Lattice(np.stack([along, down]), shape=(3, 40, 50))
    volume = lattice.volume(np.random.default_rng(seed).normal(size=lattice.shape))
    mask = ellipsoid(lattice.points(), (20, 20, 20), (2, 3, 0)) < 1
    placement = place_grid(volume, mask, CONTRACT)
    np.testing.assert_array_equal(placement.from_canonical(placement.to_canonical(volume.hu)), volume.hu)
    points = grid_points(volume, placement)
    assert (points[:, -1, 0] - points[:, 0, 0])[:, 1].min() > 0
    assert (points[:, 0, -1] - points[:, 0, 0])[:, 0].min() > 0


def test_labels_are_resampled_to_labels():
    volume, mask, points = case(ALL["tilt +18"])
    labels = np.where(mask.mask, np.where(points[..., 0] > 6, 7, 3), 0).astype(np.uint8)
    placement = place_grid(volume, mask.mask, CONTRACT)
    on_grid = resample_to_grid(labels, placement, nearest=True)
    assert on_grid.dtype == np.uint8
    assert set(np.unique(on_grid)) == {0, 3, 7}
    where = grid_points(volume, placement)
    assert (where[on_grid == 7][:, 0] > 6 - 1.5).all()
    assert (where[on_grid == 3][:, 0] < 6 + 1.5).all()


def test_network_input_is_float32_and_equal_in_every_run():
    volume, mask, _ = case(tilted(18))
    first, second = (to_network_grid(volume, mask, CONTRACT) for _ in range(2))
    assert first.ct.dtype == first.mask.dtype == np.float32
    assert first.ct.shape == (12, 3, 128, 128)
    assert first.mask.shape == (12, 2, 128, 128)
    assert first.ct.tobytes() == second.ct.tobytes()
    assert first.mask.tobytes() == second.mask.tobytes()


def test_ct_channels_are_not_masked():
    volume, mask, _ = case(ORIENTATIONS["HFS"])
    net = to_network_grid(volume, mask, CONTRACT)
    outside = (net.mask[:, 0] == 0) & net.has_brain[:, None, None]
    assert (net.ct[:, 0][outside] > -0.9).any()


def test_slices_without_brain_are_flagged_and_come_back_black():
    volume, mask, _ = case(ORIENTATIONS["HFS"], shape=(24, 96, 96))
    net = to_network_grid(volume, mask, CONTRACT)
    np.testing.assert_array_equal(net.has_brain, mask.mask.any(axis=(1, 2)))
    out = from_network_grid(np.full((24, 128, 128), 0.5), net, mask, CONTRACT)
    assert not out[~net.has_brain].any()
    assert out[net.has_brain].any(axis=(1, 2)).all()


@pytest.mark.parametrize("name", ALL)
def test_stored_values_fill_the_ct_mask_without_a_dark_seam_and_nothing_else(name):
    volume, mask, _ = case(ALL[name], spacing_mm=(0.9, 0.9), shape=(9, 200, 210))
    net = to_network_grid(volume, mask, CONTRACT)
    prediction = np.where(net.mask[:, 0] > 0, 0.25, -1).astype(np.float32)
    out = from_network_grid(prediction, net, mask, CONTRACT)
    assert out.dtype == np.uint16
    assert not out[~mask.mask].any()
    inside = out[mask.mask]
    assert (inside == round(1.25 / 2 * 4095)).mean() > 0.999


@pytest.mark.parametrize("name", ALL)
def test_a_prediction_comes_back_to_where_it_came_from(name):
    volume, mask, points = case(ALL[name], spacing_mm=(1.2, 1.2), shape=(9, 150, 160))
    net = to_network_grid(volume, mask, CONTRACT)
    wanted = landscape(points) / 50 - 1
    prediction = landscape(grid_points(volume, net.placement)) / 50 - 1
    out = from_network_grid(prediction, net, mask, CONTRACT) / 4095 * 2 - 1
    deep = ellipsoid(points, (56, 66, 40), (6, -9, 3)) < 1
    assert np.abs(out - wanted)[deep & mask.mask].max() < 0.01


@pytest.mark.parametrize("name", ["HFS", "FFS", "tilt +18"])
def test_an_edge_within_the_brain_stays_where_it_is_and_as_sharp_as_the_grid_allows(name):
    """A bright lesion with a straight border left of a plane: no blur beyond one sample of the grid."""
    volume, mask, points = case(ALL[name], spacing_mm=(0.5, 0.5), shape=(5, 320, 340))
    net = to_network_grid(volume, mask, CONTRACT)
    border_mm = 11.3
    prediction = np.where(grid_points(volume, net.placement)[..., 0] > border_mm, 0.6, -0.6)
    out = from_network_grid(prediction, net, mask, CONTRACT) / 4095 * 2 - 1
    beyond_mm = points[..., 0] - border_mm
    deep = mask.mask & (ellipsoid(points, (50, 60, 35), (6, -9, 3)) < 1)
    far = CONTRACT.grid_spacing_mm + 0.01
    np.testing.assert_allclose(out[deep & (beyond_mm > far)], 0.6, atol=1e-3)
    np.testing.assert_allclose(out[deep & (beyond_mm < -far)], -0.6, atol=1e-3)
    near = deep & (np.abs(beyond_mm) <= far)
    assert near.any()
    # Half way up lies within half a sample of the border.
    middle = beyond_mm[near & (np.abs(out) < 0.1)]
    assert np.abs(middle).max() < CONTRACT.grid_spacing_mm / 2 + 0.25
    assert -0.6 - 1e-3 <= out[deep].min() <= out[deep].max() <= 0.6 + 1e-3, "no overshoot that could pass for a rim"


def test_the_scale_is_one_for_all_slices_and_no_slice_depends_on_another():
    """No flicker: what a value of the network is stored as depends neither on its slice nor on the other slices."""
    volume, mask, _ = case(ORIENTATIONS["HFS"], shape=(9, 128, 128))
    net = to_network_grid(volume, mask, CONTRACT)
    even = np.full((9, 128, 128), -0.3, np.float32)
    stored = from_network_grid(even, net, mask, CONTRACT)
    assert set(np.unique(stored)) == {0, round(0.7 / 2 * 4095)}
    bright = even.copy()
    bright[4] = 1.0
    changed = from_network_grid(bright, net, mask, CONTRACT)
    others = np.arange(9) != 4
    np.testing.assert_array_equal(changed[others], stored[others])
    assert changed[4].max() == 4095


def test_brain_off_the_grid_is_refused_with_its_share():
    lattice = Lattice(ORIENTATIONS["HFS"], shape=(8, 160, 160))
    points = lattice.points()
    mask = ellipsoid(points, (60, 140, 60), (0, 0, 0)) < 1
    volume = lattice.volume(landscape(points))
    with pytest.raises(ImagingError, match="fov") as caught:
        to_network_grid(volume, as_mask(volume, mask), CONTRACT)
    assert caught.value.code == "fov"
    grid = grid_points(volume, place_grid(volume, mask, CONTRACT))
    half = CONTRACT.grid_spacing_mm / 2
    low, high = grid.min(axis=(0, 1, 2)) - half, grid.max(axis=(0, 1, 2)) + half
    off = ((points < low) | (points > high))[..., :2].any(axis=-1)
    assert caught.value.figures["off_grid_percent"] == pytest.approx(100 * off[mask].mean(), abs=0.05)


def test_an_empty_mask_is_refused():
    volume, mask, _ = case(ORIENTATIONS["HFS"])
    with pytest.raises(ImagingError) as caught:
        to_network_grid(volume, as_mask(volume, np.zeros_like(mask.mask)), CONTRACT)
    assert caught.value.code == "no_brain"


@pytest.mark.parametrize(("thickness", "refused"), [(8.0, False), (8.01, True), (10.0, True)])
def test_slices_thicker_than_the_contract_are_refused(thickness, refused):
    volume, mask, _ = case(ORIENTATIONS["HFS"], step_mm=thickness, shape=(10, 96, 96))
    if refused:
        with pytest.raises(ImagingError) as caught:
            to_network_grid(volume, mask, CONTRACT)
        assert caught.value.code == "thickness"
        assert caught.value.figures["thickness_mm"] == pytest.approx(thickness)
    else:
        assert to_network_grid(volume, mask, CONTRACT).source_slices[4] == (4,)


def test_a_thick_slice_without_brain_refuses_nothing():
    volume, mask, _ = case(ORIENTATIONS["HFS"], shape=(24, 96, 96))
    thickness = np.where(mask.mask.any(axis=(1, 2)), 5.0, 10.0)
    mixed = CtVolume(volume.hu, volume.positions_mm, volume.orientation, volume.spacing_mm, thickness)
    assert to_network_grid(mixed, mask, CONTRACT).has_brain.any()


def stack_of(offsets, thickness):
    n = len(offsets)
    positions = np.stack([np.zeros(n), np.zeros(n), np.asarray(offsets, dtype=float)], axis=1)
    return CtVolume(np.zeros((n, 4, 4)), positions, ORIENTATIONS["HFS"], (1.0, 1.0), np.broadcast_to(thickness, n))


@pytest.mark.parametrize(
    ("offsets", "thickness", "index", "wanted"),
    [
        ([0, 1, 2, 3, 4, 5, 6], 1.0, 3, {1: 0.2, 2: 0.2, 3: 0.2, 4: 0.2, 5: 0.2}),
        ([0, 1, 2, 3, 4, 5, 6], 1.0, 0, {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}),
        ([0, 4, 8], 4.0, 1, {0: 0.1, 1: 0.8, 2: 0.1}),
        ([0, 2.5, 5], 2.5, 1, {0: 0.25, 1: 0.5, 2: 0.25}),
        ([0, 10, 20], 4.0, 1, {1: 1.0}),
        ([0, 4.8, 9.6], 4.8, 1, {1: 1.0}),
        ([0, 5, 10], 5.0, 1, {1: 1.0}),
    ],
)
def test_slab_weights_are_shares_of_the_slab(offsets, thickness, index, wanted):
    row = slab_weights(stack_of(offsets, thickness), PreprocessingContract())[index]
    assert {i: pytest.approx(w) for i, w in enumerate(row) if w} == wanted


def test_mixed_thickness_averages_only_the_thin_part():
    weights = slab_weights(stack_of([0, 2, 4, 6, 12, 18], [2, 2, 2, 2, 6, 6]), PreprocessingContract())
    assert np.count_nonzero(weights[1]) == 3
    np.testing.assert_array_equal(weights[4], [0, 0, 0, 0, 1, 0])
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_missing_thickness_is_taken_from_the_spacing():
    weights = slab_weights(stack_of([0, 1, 2, 3, 4, 5, 6], 0.0), PreprocessingContract())
    assert np.count_nonzero(weights[3]) == 5


def test_slab_means_on_a_tilted_thin_stack_average_along_the_normal():
    volume, mask, _ = case(tilted(20), shape=(60, 96, 96), step_mm=1.25)
    net = to_grid_stack(volume, mask, CONTRACT)
    assert net.source_slices[30] == (28, 29, 30, 31, 32)
    assert any("slab means" in note for note in net.notes)
    wanted = landscape(grid_points(volume, net.placement))[
        30
    ]  # the field is linear over 5 mm, so the mean is its centre
    assert np.abs(net.hu[30] - wanted)[net.brain[30]].max() < 0.3


def test_slab_means_quieten_noise():
    lattice = Lattice(ORIENTATIONS["HFS"], shape=(40, 96, 96), step_mm=1.0)
    points = lattice.points()
    volume = lattice.volume(np.random.default_rng(0).normal(35, 10, points.shape[:-1]))
    mask = as_mask(volume, ellipsoid(points, (60, 70, 300), (0, 0, 0)) < 1)
    thin, thick = (
        to_grid_stack(volume, mask, CONTRACT),
        to_grid_stack(part(volume, slice(0, 1)), part_mask(mask), CONTRACT),
    )
    assert thin.hu[20][thin.brain[20]].std() < 0.5 * thick.hu[0][thick.brain[0]].std()


def part_mask(mask):
    return as_mask(stack_of([0.0], 5.0), mask.mask[:1])


@pytest.mark.parametrize("n", [1, 2])
def test_one_and_two_slices_go_there_and_back(n):
    lattice = Lattice(ORIENTATIONS["HFS"], shape=(n, 96, 96))
    hu, brain = head_hu(lattice.points())
    volume = lattice.volume(hu)
    net = to_network_grid(volume, as_mask(volume, brain), CONTRACT)
    out = from_network_grid(net.ct[:, 0], net, as_mask(volume, brain), CONTRACT)
    assert out.shape == (n, 96, 96)
    assert out.any()


def test_arrays_of_another_stack_are_refused():
    volume, mask, _ = case(ORIENTATIONS["HFS"])
    net = to_network_grid(volume, mask, CONTRACT)
    with pytest.raises(ImagingError, match="geometry"):
        from_network_grid(np.zeros((3, 128, 128)), net, mask, CONTRACT)
    with pytest.raises(ImagingError, match="finite"):
        from_network_grid(np.full((12, 128, 128), np.nan), net, mask, CONTRACT)
    with pytest.raises(ImagingError, match="geometry"):
        resample_to_grid(np.zeros((12, 5, 5)), net.placement)


@pytest.mark.parametrize("name", ["HFS", "FFS", "tilt +18"])
def test_the_expected_error_lies_where_the_prediction_lies(name):
    volume, mask, _ = case(ALL[name], spacing_mm=(1.2, 1.2), shape=(9, 150, 160))
    net = to_network_grid(volume, mask, CONTRACT)
    values = landscape(grid_points(volume, net.placement)) / 50
    error = scale_from_network_grid(values, net, mask, CONTRACT)
    assert error.dtype == np.float32
    assert not error[~mask.mask].any()
    stored = from_network_grid(values - 1, net, mask, CONTRACT)
    np.testing.assert_allclose(error, stored / 4095, atol=0.6 / 4095)
    with pytest.raises(ImagingError, match="not finite"):
        scale_from_network_grid(np.where(values > 0.5, np.inf, values), net, mask, CONTRACT)
