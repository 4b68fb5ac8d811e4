"""Contract, volume geometry and intensities: windows, mask channels, target scale, stored values.

Independent reference for the distance channel: a brute-force search. Left out: resampling (`test_imaging_grid`).
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jmmda_model.imaging import (
    CtVolume,
    ImagingError,
    PreprocessingContract,
    mask_channels,
    normalise_target,
    stored_values,
    window_channels,
)
from jmmda_model.imaging.morphology import edge_distance_px
from tests.jmmda_model.imaging_cases import ORIENTATIONS, tilted

CONTRACT = PreprocessingContract()


def test_contract_survives_json():
    contract = PreprocessingContract(
        windows_hu=((0.0, 80.0),), mask_channels=("brain",), grid_px=64, neighbours=2, mirror=True, asymmetry_mm=(7.0,)
    )
    assert PreprocessingContract.from_json(json.loads(json.dumps(contract.to_json()))) == contract


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"neighbours": -1},
        {"neighbours": 9},
        {"neighbours": 1.0},
        {"neighbours": True},
        {"mirror": 1},
        {"asymmetry_mm": [0.0]},
        {"asymmetry_mm": 7.0},
        {"context_window_hu": [60, 10]},
        {"context_window_hu": [10]},
        {"version": None},
        {"surplus": 1},
        {"windows_hu": [[80, 0]]},
        {"windows_hu": []},
        {"mask_channels": ["edge_distance"]},
        {"mask_channels": ["brain", "lesion"]},
        {"grid_px": 0},
        {"grid_px": "many"},
        {"output_levels": 70000},
        {"max_thickness_mm": 1.0},
    ],
)
def test_contract_of_another_version_or_with_impossible_values_is_refused(change):
    with pytest.raises(ImagingError) as caught:
        PreprocessingContract.from_json(CONTRACT.to_json() | change)
    assert caught.value.code == "contract"


def test_contract_with_a_missing_key_is_refused():
    values = CONTRACT.to_json()
    del values["target_scale"]
    with pytest.raises(ImagingError, match="target_scale"):
        PreprocessingContract.from_json(values)


@given(st.floats(-2000, 4000))
def test_every_window_maps_its_bounds_to_minus_one_and_one_and_clips(hu):
    channels = window_channels(np.full((1, 2, 2), hu), CONTRACT.windows_hu)
    for index, (lower, upper) in enumerate(CONTRACT.windows_hu):
        wanted = np.clip((hu - lower) / (upper - lower) * 2 - 1, -1, 1)
        np.testing.assert_allclose(channels[0, index], wanted, atol=1e-5)


def brute_force_distance(plane):
    """Distance of each pixel centre to the nearest centre of the other kind, less the half pixel to the edge."""
    where = {kind: np.argwhere(plane == kind) for kind in (True, False)}
    out = np.empty(plane.shape)
    for (row, column), kind in np.ndenumerate(plane):
        nearest = np.sqrt(((where[not kind] - (row, column)) ** 2).sum(axis=1)).min() - 0.5
        out[row, column] = nearest if kind else -nearest
    return out


@pytest.mark.parametrize("backend", ["opencv", "scipy"])
def test_edge_distance_is_exact(backend):
    plane = np.random.default_rng(2).random((24, 31)) > 0.85
    distance = edge_distance_px(plane[None], backend=backend)[0]
    np.testing.assert_allclose(distance, brute_force_distance(plane), atol=1e-5)


def test_mask_channels_hold_brain_and_signed_distance_in_twenty_millimetres():
    brain = np.zeros((3, 64, 64), dtype=bool)
    brain[1, 10:60, 4:54] = True
    brain[2] = True
    channels = mask_channels(brain, CONTRACT)
    np.testing.assert_array_equal(channels[:, 0], brain)
    assert channels[1, 1, 35, 4] == pytest.approx(0.5 * 0.9 / 20)
    assert channels[1, 1, 35, 3] == pytest.approx(-0.5 * 0.9 / 20)
    assert channels[1, 1, 35, 29] == pytest.approx(1.0)
    assert (channels[0, 1] == -1).all()
    assert (channels[2, 1] == 1).all()


def test_mask_channels_follow_the_contracts_order():
    brain = np.ones((1, 8, 8), dtype=bool)
    brain[0, 0] = False
    swapped = PreprocessingContract(mask_channels=("edge_distance", "brain"))
    np.testing.assert_array_equal(mask_channels(brain, swapped), mask_channels(brain, CONTRACT)[:, ::-1])


@given(st.floats(0.01, 1e4))
def test_target_does_not_depend_on_the_scanners_scale(gain):
    rng = np.random.default_rng(0)
    dwi, brain = rng.gamma(8, 20, (2, 16, 16)), rng.random((2, 16, 16)) > 0.4
    np.testing.assert_allclose(
        normalise_target(dwi * gain, brain, CONTRACT), normalise_target(dwi, brain, CONTRACT), atol=1e-5
    )


def test_target_puts_the_brain_median_at_a_third_of_the_range_and_air_at_minus_one():
    dwi = np.full((1, 8, 8), 100.0)
    dwi[0, :2] = 900
    brain = np.ones((1, 8, 8), dtype=bool)
    brain[0, -1] = False
    target = normalise_target(dwi, brain, CONTRACT)
    assert target[0, 4, 4] == pytest.approx(1 / 3 * 2 - 1)
    assert (target[0, :2] == 1).all()
    assert (target[0, -1] == -1).all()


def test_a_bright_lesion_leaves_the_rest_of_the_target_as_it_was():
    rng = np.random.default_rng(1)
    dwi, brain = rng.normal(100, 10, (1, 64, 64)), np.ones((1, 64, 64), dtype=bool)
    lesion = dwi.copy()
    lesion[0, :10] *= 3
    change = normalise_target(lesion, brain, CONTRACT)[0, 10:] - normalise_target(dwi, brain, CONTRACT)[0, 10:]
    assert np.abs(change).max() < 0.03


@pytest.mark.parametrize(
    ("dwi", "brain", "code"), [(1.0, False, "no_brain"), (0.0, True, "target"), (float("nan"), True, "target")]
)
def test_a_target_without_brain_or_signal_is_refused(dwi, brain, code):
    with pytest.raises(ImagingError) as caught:
        normalise_target(np.full((1, 4, 4), dwi), np.full((1, 4, 4), brain), CONTRACT)
    assert caught.value.code == code


@given(st.floats(-3, 3))
def test_stored_values_are_fixed_steps_of_the_output(value):
    stored = int(stored_values(np.array([value]), CONTRACT)[0])
    assert abs(stored / 4095 * 2 - 1 - np.clip(value, -1, 1)) <= 1 / 4095 + 1e-6


def test_volume_uses_true_positions_and_half_gaps():
    positions = np.stack([np.zeros(4), np.zeros(4), [0.0, 4, 5, 12]], axis=1)
    volume = CtVolume(np.zeros((4, 10, 10)), positions, ORIENTATIONS["HFS"], (2.0, 0.5), np.array([4.0, 4, 7, 7]))
    np.testing.assert_allclose(volume.slice_extent_mm, [4, 2.5, 4, 7])
    assert volume.volume_ml(np.ones((4, 10, 10), dtype=bool)) == pytest.approx(0.1 * 17.5)


def test_slices_of_a_tilted_stack_are_counted_along_their_normal():
    positions = np.stack([np.zeros(3), np.zeros(3), [0.0, 5, 10]], axis=1)
    volume = CtVolume(np.zeros((3, 4, 4)), positions, tilted(20), (1.0, 1.0), np.full(3, 5.0))
    np.testing.assert_allclose(np.diff(volume.offsets_mm), 5 * np.cos(np.deg2rad(20)))


@pytest.mark.parametrize(
    "change",
    [
        {"hu": np.zeros((0, 4, 4)), "positions_mm": np.zeros((0, 3)), "thickness_mm": np.zeros(0)},
        {"hu": np.zeros((3, 4, 4))},
        {"hu": np.zeros((2, 16))},
        {"positions_mm": np.array([[0.0, 0, 5], [0, 0, 0]])},
        {"positions_mm": np.array([[0.0, 0, 5], [9, 0, 5]])},
        {"orientation": np.array([[1.0, 0, 0], [0.5, 1, 0]])},
        {"spacing_mm": (0.0, 1.0)},
    ],
)
def test_parts_that_do_not_describe_one_stack_are_refused(change):
    good = {
        "hu": np.zeros((2, 4, 4)),
        "positions_mm": np.array([[0.0, 0, 0], [0, 0, 5]]),
        "orientation": ORIENTATIONS["HFS"],
        "spacing_mm": (1.0, 1.0),
        "thickness_mm": np.full(2, 5.0),
    }
    with pytest.raises(ImagingError) as caught:
        CtVolume(**(good | change))
    assert caught.value.code == "geometry"


def test_importing_the_room_loads_no_heavy_library():
    code = (
        "import sys, jmmda_model.imaging; "
        "print(sorted({'torch', 'cv2', 'cc3d', 'SimpleITK', 'pydicom', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
