"""Which way the slices look and lie: other views inside, tilt, turn, lean, position of the patient, pixels and field.

Left out: identity, duplicates, gaps and coverage (test_gate); the way back to the CT's orientation, which the imaging
room's grid tests and the offline command's orientation tests cover.
"""

from __future__ import annotations

import math

import pytest

from dicom_node.dicom.gate import GateStatus
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import SliceHeader
from tests.dicom_node.dicom.builders import axial_orientation, header_stack, make_header
from tests.dicom_node.dicom.gate_cases import LENIENT, check, codes, numbers

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def _scouts(n: int) -> list[SliceHeader]:
    """Localizers that ImageType does not tell, of another matrix, at heights of the stack's own slices."""
    views = (SAGITTAL, CORONAL)
    position = (-120.0, -130.0, 50.0)
    return [
        make_header(60 + k, image_orientation_patient=views[k % 2], image_position_patient=position, rows=800)
        for k in range(n)
    ]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_unmarked_localizer_inside_is_dropped_with_a_note(n: int) -> None:
    outcome = check([*_scouts(n), *header_stack(tilt_deg=20.0)])
    assert outcome.status is GateStatus.REPAIR
    assert codes(outcome) == ["other_view", "tilt"]
    assert [note.partition(":")[0] for note in outcome.repairs] == ["other_view"]
    assert [header.instance_number for header in outcome.headers] == list(range(1, 25))
    dropped = outcome.figures["dropped_other_view"]
    assert isinstance(dropped, list)
    assert [where["instance_number"] for where in dropped] == list(range(61, 61 + n))


def test_a_second_view_is_no_localizer() -> None:
    outcome = check([*_scouts(4), *header_stack()])
    assert outcome.code == "orientation_spread"
    assert numbers(outcome) == [61, 62, 63, 64]
    assert check([*_scouts(4), *header_stack()], GeometrySettings(max_other_view_slices=4)).code is None
    # Two slices and two scouts: nobody can say which is the series.
    assert check([*_scouts(2), *header_stack(2)], LENIENT).code == "orientation_spread"


# --- tilt and turn -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("tilt", "code", "notes"),
    [(0.3, None, []), (18.5, None, ["tilt"]), (29.9, None, ["tilt"]), (30.2, "orientation", [])],
)
def test_tilt(sign: int, tilt: float, code: str | None, notes: list[str]) -> None:
    outcome = check(header_stack(30, tilt_deg=sign * tilt))
    assert outcome.code == code
    assert codes(outcome) == notes
    assert outcome.figures["tilt_deg"] == pytest.approx(tilt, abs=0.01)


@pytest.mark.parametrize("cosines", [(1.0, 0, 0, 0, 0, -1), (0.0, 1, 0, 0, 0, -1)], ids=["coronal", "sagittal"])
def test_coronal_and_sagittal(cosines: tuple[float, ...]) -> None:
    outcome = check(header_stack(image_orientation_patient=cosines))
    assert outcome.code == "orientation"
    assert outcome.figures["tilt_deg"] == 90.0


def _turned(turn_deg: float) -> tuple[float, ...]:
    angle = math.radians(turn_deg)
    return (math.cos(angle), math.sin(angle), 0.0, -math.sin(angle), math.cos(angle), 0.0)


@pytest.mark.parametrize("quarter", [0, 90, 180, 270])
@pytest.mark.parametrize(
    ("turn", "code", "notes"),
    [(0.3, None, []), (-12.0, None, ["oblique"]), (29.9, None, ["oblique"]), (-30.2, "orientation", [])],
)
def test_rows_off_the_axes_of_the_patient(quarter: int, turn: float, code: str | None, notes: list[str]) -> None:
    outcome = check(header_stack(image_orientation_patient=_turned(quarter + turn)))
    assert outcome.code == code
    assert codes(outcome) == notes
    assert outcome.figures["turn_deg"] == pytest.approx(abs(turn), abs=0.01)


@pytest.mark.parametrize(
    ("cosines", "lies"),
    [
        ((1.0, 0, 0, 0, 1, 0), "LPH"),
        ((-1.0, 0, 0, 0, -1, 0), "RAH"),
        ((-1.0, 0, 0, 0, 1, 0), "RPF"),
        ((1.0, 0, 0, 0, -1, 0), "LAF"),
        ((0.0, 1, 0, -1, 0, 0), "PRH"),
        ((0.0, -1, 0, 1, 0, 0), "ALH"),
    ],
    ids=["supine", "prone", "feet first", "feet first prone", "right down", "left down"],
)
def test_every_way_to_lie_passes_and_is_named(cosines: tuple[float, ...], lies: str) -> None:
    outcome = check(header_stack(image_orientation_patient=cosines))
    assert outcome.status is GateStatus.PASS
    assert outcome.figures["lies"] == lies
    heights = [header.image_position_patient[2] for header in outcome.headers if header.image_position_patient]
    assert heights == sorted(heights, reverse=lies.endswith("F"))


# --- pixels and field --------------------------------------------------------------------------------------------


def test_a_matrix_that_is_not_square_passes_without_a_note() -> None:
    outcome = check(header_stack(rows=400, columns=512))
    assert outcome.status is GateStatus.PASS
    assert (outcome.figures["rows"], outcome.figures["columns"]) == (400, 512)


def test_pixels_that_are_not_square_are_noted() -> None:
    outcome = check(header_stack(pixel_spacing_mm=(0.5, 0.75)))
    assert codes(outcome) == ["non_square_pixels"]
    assert (outcome.figures["row_spacing_mm"], outcome.figures["column_spacing_mm"]) == (0.5, 0.75)
    assert check(header_stack(pixel_spacing_mm=(0.5, 0.500001))).notes == ()


@pytest.mark.parametrize(("columns", "notes"), [(319, ["small_field"]), (320, [])])
def test_a_field_smaller_than_a_head_is_noted(columns: int, notes: list[str]) -> None:
    assert codes(check(header_stack(columns=columns))) == notes


# --- lean --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lean_mm", "notes", "shear"), [(0.05, [], None), (0.5, ["shear"], 5.71), (-4.0, ["shear"], 38.66)]
)
def test_a_stack_that_leans_without_tilt_is_noted(lean_mm: float, notes: list[str], shear: float | None) -> None:
    headers = [make_header(k, image_position_patient=(lean_mm * k, 0.0, 5.0 * k)) for k in range(24)]
    outcome = check(headers)
    assert codes(outcome) == notes
    assert outcome.figures.get("shear_deg") == shear


def test_a_tilted_stack_without_lean_was_reformatted_and_is_no_news() -> None:
    normal = (0.0, math.sin(math.radians(15.0)), math.cos(math.radians(15.0)))
    headers = [
        make_header(
            k,
            image_orientation_patient=axial_orientation(15.0),
            image_position_patient=tuple(5.0 * k * value for value in normal),
        )
        for k in range(24)
    ]
    assert codes(check(headers)) == ["tilt"]
