"""Normals, offsets, angles and spacing, against values worked out by hand. Left out: the decisions (test_gate)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dicom_node.dicom import geometry
from tests.dicom_node.dicom.builders import axial_orientation, header_stack, make_header


@pytest.mark.parametrize(
    ("orientation", "normal"),
    [
        ((1, 0, 0, 0, 1, 0), (0, 0, 1)),
        ((-1, 0, 0, 0, 1, 0), (0, 0, -1)),
        ((-1, 0, 0, 0, -1, 0), (0, 0, 1)),
        ((1, 0, 0, 0, 0, -1), (0, 1, 0)),
        ((0, 1, 0, 0, 0, -1), (-1, 0, 0)),
    ],
    ids=["supine head first", "feet first", "prone", "coronal", "sagittal"],
)
def test_normal(orientation: tuple[float, ...], normal: tuple[float, ...]) -> None:
    np.testing.assert_allclose(geometry.normal_of(orientation), normal, atol=1e-15)


def test_parallel_cosines_have_no_normal() -> None:
    with pytest.raises(ValueError, match="plane"):
        geometry.normal_of((1, 0, 0, 1, 0, 0))


@pytest.mark.parametrize("tilt", [0.0, 0.001, 18.5, -18.5, 30.0, 90.0])
@pytest.mark.parametrize("flipped", [False, True])
def test_tilt_has_no_sign_and_no_direction(tilt: float, flipped: bool) -> None:
    normal = geometry.normal_of(axial_orientation(tilt, flipped=flipped))
    assert geometry.tilt_deg(normal) == pytest.approx(abs(tilt), abs=1e-9)


def test_spread_is_the_largest_pairwise_angle() -> None:
    stack = [
        make_header(k, image_orientation_patient=axial_orientation(tilt)) for k, tilt in enumerate((-0.04, 0, 0.03))
    ]
    assert geometry.orientation_spread_deg(stack) == pytest.approx(0.07, abs=1e-9)
    assert geometry.orientation_spread_deg(stack[:1]) == 0.0


def test_a_rotation_in_the_plane_is_a_spread_too() -> None:
    # The normals agree, yet the images are turned against each other.
    angle = math.radians(1.0)
    turned = (math.cos(angle), math.sin(angle), 0.0, -math.sin(angle), math.cos(angle), 0.0)
    stack = [make_header(0), make_header(1, image_orientation_patient=turned)]
    assert geometry.orientation_spread_deg(stack) == pytest.approx(1.0, abs=1e-9)


def test_offsets_of_a_tilted_stack_are_perpendicular_distances() -> None:
    stack = header_stack(10, thickness=4.0, tilt_deg=18.5)
    normal = geometry.stack_normal(stack)
    np.testing.assert_allclose(np.diff(geometry.offsets_of(stack, normal)), 4.0, atol=1e-9)
    spacing = geometry.spacing_statistics(geometry.offsets_of(stack, normal))
    assert (spacing.minimum_mm, spacing.median_mm, spacing.maximum_mm) == pytest.approx((4.0, 4.0, 4.0))


def test_sorting_follows_positions_not_numbers() -> None:
    stack = header_stack(6)
    renumbered = [make_header(h.instance_number or 0, image_position_patient=h.image_position_patient) for h in stack]
    shuffled = [renumbered[k] for k in (3, 0, 5, 1, 4, 2)]
    positions = [header.image_position_patient for header in geometry.sort_stack(shuffled)]
    assert positions == [header.image_position_patient for header in stack]
    assert geometry.sort_stack([]) == ()


def test_sorting_ascends_along_the_normal_of_a_flipped_stack() -> None:
    # The normal points to the feet, so the topmost slice has the smallest offset.
    stack = geometry.sort_stack(header_stack(6, flipped=True))
    heights = [header.image_position_patient[2] for header in stack if header.image_position_patient]
    assert heights == sorted(heights, reverse=True)


def test_coverage_counts_half_a_slice_at_either_end() -> None:
    assert geometry.coverage_mm(np.array([0.0, 5.0, 10.0]), np.array([5.0, 5.0, 7.0])) == pytest.approx(16.0)
    assert geometry.coverage_mm(np.array([]), np.array([])) == 0.0


def test_lateral_deviation_ignores_shear_and_finds_a_shifted_slice() -> None:
    stack = header_stack(10, tilt_deg=20.0)
    normal = geometry.stack_normal(stack)
    positions = np.array([header.image_position_patient for header in stack])
    assert geometry.lateral_deviation_mm(positions, normal) == pytest.approx(0.0, abs=1e-9)
    positions[4, 0] += 10.0
    assert geometry.lateral_deviation_mm(positions, normal) > 5.0


@pytest.mark.parametrize("shifted", [None, 4])
def test_shear_is_the_lean_of_the_stack_and_not_of_one_slice(shifted: int | None) -> None:
    for tilt in (0.0, 20.0, -20.0):
        stack = header_stack(10, tilt_deg=tilt)
        positions = np.array([header.image_position_patient for header in stack])
        if shifted is not None:
            positions[shifted, 0] += 30.0
        assert geometry.shear_deg(positions, geometry.stack_normal(stack)) == pytest.approx(abs(tilt), abs=1e-6)
    assert geometry.shear_deg(positions[:1], geometry.stack_normal(stack)) == 0.0


@pytest.mark.parametrize(
    ("row_deg", "turn"), [(0, 0), (10, 10), (-10, 10), (45, 45), (50, 40), (90, 0), (100, 10), (180, 0), (269, 1)]
)
def test_turn_is_the_angle_to_the_nearest_axis(row_deg: float, turn: float) -> None:
    angle = math.radians(row_deg)
    cosines = (math.cos(angle), math.sin(angle), 0.0, -math.sin(angle), math.cos(angle), 0.0)
    assert geometry.turn_deg(cosines) == pytest.approx(turn, abs=1e-9)


@pytest.mark.parametrize("tilt", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("flipped", [False, True])
def test_gantry_tilt_is_no_turn(tilt: float, flipped: bool) -> None:
    assert geometry.turn_deg(axial_orientation(tilt, flipped=flipped)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("cosines", "defect"),
    [((1, 0, 0, 0, 1, 0), 0.0), ((1, 0, 0, 0, 0.5, 0), 0.5), ((1, 0, 0, 0.6, 0.8, 0), 0.6), ((0, 0, 0, 0, 1, 0), 1.0)],
)
def test_orientation_defect(cosines: tuple[float, ...], defect: float) -> None:
    assert geometry.orientation_defect(cosines) == pytest.approx(defect)


def test_missing_geometry_is_an_error_of_the_caller() -> None:
    normal = np.array([0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="ImagePositionPatient"):
        geometry.offset_along(make_header(image_position_patient=None), normal)
    for function in (geometry.stack_normal, geometry.orientation_spread_deg):
        with pytest.raises(ValueError, match="ImageOrientationPatient"):
            function([make_header(image_orientation_patient=None)])
