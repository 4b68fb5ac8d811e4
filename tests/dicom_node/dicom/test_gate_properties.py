"""Properties of the gate on generated stacks: shuffled, reversed, moved, sheared, turned, dropped, doubled, spoilt.

Each stack is contiguous and large enough by construction, so each change has one outcome that follows from the rules;
stacks that are spoilt at random must have some documented outcome. Left out: single rules and their limits (test_gate).
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.dicom.gate import GateOutcome, GateStatus, check_stack
from dicom_node.dicom.gate_codes import CODES, FIGURES
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import SliceHeader
from tests.dicom_node.dicom.builders import header_stack, make_header

stacks = st.builds(
    header_stack,
    n=st.integers(25, 40),
    thickness=st.floats(4.2, 8.0, allow_nan=False),
    tilt_deg=st.floats(-29.5, 29.5, allow_nan=False),
    flipped=st.booleans(),
)


def _check(headers: list[SliceHeader], *, same_pixels: bool = True) -> GateOutcome:
    def digest(header: SliceHeader) -> str:
        return "same" if same_pixels else str(header.path)

    return check_stack(headers, GeometrySettings(), pixel_digest=digest)


def _uids(outcome: GateOutcome) -> list[str]:
    return [header.sop_instance_uid for header in outcome.headers]


@given(stack=stacks, data=st.data())
def test_the_order_of_arrival_changes_nothing(stack: list[SliceHeader], data: st.DataObject) -> None:
    outcome = _check(stack)
    assert outcome.code is None
    assert sorted(_uids(outcome)) == sorted(header.sop_instance_uid for header in stack)
    assert _check(data.draw(st.permutations(stack))) == outcome


@given(stack=stacks, data=st.data())
def test_the_order_of_arrival_does_not_change_a_refusal_either(stack: list[SliceHeader], data: st.DataObject) -> None:
    broken = [*stack[:5], *stack[6:], replace(stack[10], path=stack[0].path)]
    outcome = _check(broken, same_pixels=False)
    assert outcome.status is GateStatus.REFUSE
    assert _check(data.draw(st.permutations(broken)), same_pixels=False) == outcome


@given(stack=stacks)
def test_reversed_positions_give_the_same_stack_upside_down(stack: list[SliceHeader]) -> None:
    swapped = [
        replace(header, image_position_patient=other.image_position_patient)
        for header, other in zip(stack, reversed(stack), strict=True)
    ]
    assert _uids(_check(swapped)) == list(reversed(_uids(_check(stack))))


@given(stack=stacks, index=st.integers(1, 23))
def test_a_slice_dropped_inside_is_a_gap(stack: list[SliceHeader], index: int) -> None:
    outcome = _check([header for k, header in enumerate(stack) if k != index])
    assert outcome.code == "gap"
    slices = outcome.figures["slices"]
    assert isinstance(slices, list)
    assert sorted(where["instance_number"] for where in slices) == [index, index + 2]


@given(stack=stacks, at_the_top=st.booleans())
def test_a_slice_dropped_at_an_end_is_none(stack: list[SliceHeader], at_the_top: bool) -> None:
    shorter = stack[:-1] if at_the_top else stack[1:]
    assert _check(shorter).code is None


@given(stack=stacks, doubled=st.sets(st.integers(0, 24), min_size=1, max_size=25))
def test_doubled_slices_are_dropped_or_refused_by_their_pixels(stack: list[SliceHeader], doubled: set[int]) -> None:
    copies = [replace(stack[k], sop_instance_uid=f"2.25.{k}", instance_number=1000 + k) for k in sorted(doubled)]
    repaired = _check([*copies, *stack])
    assert repaired.status is GateStatus.REPAIR
    assert _uids(repaired) == _uids(_check(stack))
    others = [replace(copy, path=copy.path.with_suffix(".other")) for copy in copies]
    assert _check([*others, *stack], same_pixels=False).code == "duplicate_position"


@given(
    stack=stacks,
    move=st.tuples(*[st.floats(-500, 500, allow_nan=False)] * 3),
    shear=st.tuples(*[st.floats(-0.4, 0.4, allow_nan=False)] * 2),
)
def test_neither_moving_nor_shearing_a_stack_matters(
    stack: list[SliceHeader], move: tuple[float, ...], shear: tuple[float, float]
) -> None:
    # A shear within the slice plane leaves the distances along the normal: it shifts images, it loses nothing.
    def moved(header: SliceHeader, k: int) -> SliceHeader:
        position, cosines = header.image_position_patient, header.image_orientation_patient
        assert position is not None
        assert cosines is not None
        return replace(
            header,
            image_position_patient=tuple(
                position[axis] + move[axis] + 5.0 * k * (shear[0] * cosines[axis] + shear[1] * cosines[3 + axis])
                for axis in range(3)
            ),
        )

    before, after = _check(stack), _check([moved(header, k) for k, header in enumerate(stack)])
    assert after.code is None
    assert _uids(after) == _uids(before)
    for figure in ("coverage_mm", "spacing_median_mm", "tilt_deg"):
        assert after.figures[figure] == pytest.approx(before.figures[figure], abs=0.02)


@given(tilt=st.floats(30.1, 89.0), sign=st.sampled_from([-1.0, 1.0]), flipped=st.booleans())
def test_any_larger_tilt_is_refused(tilt: float, sign: float, flipped: bool) -> None:
    outcome = _check(header_stack(30, tilt_deg=sign * tilt, flipped=flipped))
    assert outcome.code == "orientation"
    assert outcome.figures["tilt_deg"] == pytest.approx(tilt, abs=0.01)


def _turned_stack(turn_deg: float, tilt_deg: float, *, mirrored: bool) -> list[SliceHeader]:
    """A contiguous stack whose rows are turned about the body's axis and whose slices are tilted about their rows."""
    turn, tilt = math.radians(turn_deg), math.radians(tilt_deg)
    row = np.array([math.cos(turn), math.sin(turn), 0.0])
    column = np.array([-math.sin(turn) * math.cos(tilt), math.cos(turn) * math.cos(tilt), math.sin(tilt)])
    normal = np.cross(row, column)
    cosines = (*(-row if mirrored else row), *column)
    return [
        make_header(
            k,
            image_orientation_patient=tuple(float(value) for value in cosines),
            image_position_patient=tuple(float(value) for value in 5.0 * k * normal),
        )
        for k in range(25)
    ]


@given(
    quarter=st.sampled_from([0, 90, 180, 270]),
    turn=st.floats(-44.9, 44.9).filter(lambda turn: abs(abs(turn) - 30.0) > 0.01),
    tilt=st.floats(-60.0, 60.0).filter(lambda tilt: abs(abs(tilt) - 30.0) > 0.01),
    mirrored=st.booleans(),
)
def test_turn_and_tilt_alone_decide_about_an_oblique_stack(
    quarter: int, turn: float, tilt: float, mirrored: bool
) -> None:
    outcome = _check(_turned_stack(quarter + turn, tilt, mirrored=mirrored))
    assert outcome.code == ("orientation" if abs(tilt) > 30.0 or abs(turn) > 30.0 else None)
    assert outcome.figures["tilt_deg"] == pytest.approx(abs(tilt), abs=0.01)
    if abs(tilt) <= 30.0:
        assert outcome.figures["turn_deg"] == pytest.approx(abs(turn), abs=0.01)
    if outcome.code is None:
        noted = {note.partition(":")[0] for note in outcome.notes}
        assert noted - {"tilt", "oblique"} == set()


@given(stack=stacks, shear=st.floats(0.03, 0.9), towards=st.floats(0.0, 2 * math.pi))
def test_a_sheared_stack_passes_and_its_lean_is_told(stack: list[SliceHeader], shear: float, towards: float) -> None:
    # Origins along the normal, then moved sideways: the lean is the shear alone, whatever the tilt.
    cosines = np.array(stack[0].image_orientation_patient).reshape(2, 3)
    normal = np.cross(*cosines)
    sideways = math.cos(towards) * cosines[0] + math.sin(towards) * cosines[1]
    thickness = stack[0].slice_thickness_mm or 0.0
    leaning = [
        replace(header, image_position_patient=tuple((thickness * k * (normal + shear * sideways)).tolist()))
        for k, header in enumerate(stack)
    ]
    outcome = _check(leaning)
    assert outcome.code is None
    lean, tilt = math.degrees(math.atan(shear)), outcome.figures["tilt_deg"]
    assert isinstance(tilt, float)
    if abs(lean - tilt) > 1.02:
        assert outcome.figures["shear_deg"] == pytest.approx(lean, abs=0.01)
        assert outcome.headers == tuple(leaning)
    elif abs(lean - tilt) < 0.98:
        assert "shear_deg" not in outcome.figures


@given(stack=stacks, places=st.lists(st.integers(0, 25), min_size=1, max_size=6), coronal=st.booleans())
def test_a_localizer_anywhere_inside_changes_nothing_but_a_note(
    stack: list[SliceHeader], places: list[int], coronal: bool
) -> None:
    cosines = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0) if coronal else (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    mixed = list(stack)
    for k, place in enumerate(places):
        scout = make_header(100 + k, image_orientation_patient=cosines, rows=900, pixel_spacing_mm=(0.6, 0.6))
        mixed.insert(place, scout)
    outcome, alone = _check(mixed), _check(stack)
    if len(places) > 3:
        assert outcome.code == "orientation_spread"
        assert outcome.figures["slices_concerned"] == len(places)
    else:
        assert outcome.status is GateStatus.REPAIR
        assert outcome.headers == alone.headers
        assert outcome.notes[1:] == alone.notes


cosines = st.one_of(
    st.none(),
    st.sampled_from([(1.0, 0, 0, 0, 1, 0), (-1.0, 0, 0, 0, 1, 0), (0.0, 1, 0, 0, 0, -1), (0.0, 0, 0, 0, 0, 0)]),
    st.tuples(*[st.floats(-1e9, 1e9)] * 6),
)
spoilt = st.fixed_dictionaries(
    {},
    optional={
        "image_position_patient": st.one_of(st.none(), st.tuples(*[st.floats(-1e9, 1e9)] * 3)),
        "image_orientation_patient": cosines,
        "pixel_spacing_mm": st.one_of(st.none(), st.tuples(*[st.floats(1e-9, 1e9)] * 2)),
        "slice_thickness_mm": st.one_of(st.none(), st.floats(1e-9, 1e9)),
        "rows": st.one_of(st.none(), st.integers(0, 65535)),
        "instance_number": st.one_of(st.none(), st.integers(-(10**12), 10**12)),
        "number_of_frames": st.integers(-1, 3),
        "image_type": st.sampled_from([(), ("ORIGINAL", "PRIMARY", "LOCALIZER"), ("DERIVED",)]),
        "frame_of_reference_uid": st.sampled_from([None, "1.2.3"]),
        "sop_instance_uid": st.just("1.2.3"),
    },
)


@given(data=st.data(), every=st.booleans(), same_pixels=st.booleans())
def test_whatever_is_spoilt_there_is_a_documented_outcome(data: st.DataObject, every: bool, same_pixels: bool) -> None:
    changes = data.draw(spoilt)
    stack = [
        replace(header, **changes) if every else header
        for header in header_stack(data.draw(st.sampled_from([0, 1, 7, 24, 30])))
    ]
    for index in data.draw(st.sets(st.integers(0, 29), max_size=4)):
        if index < len(stack):
            stack[index] = replace(stack[index], **data.draw(spoilt))
    lenient = GeometrySettings(min_slices=1, min_coverage_mm=0, max_tilt_deg=45, max_turn_deg=45)
    for thresholds in (GeometrySettings(), lenient):
        outcome = check_stack(
            stack, thresholds, pixel_digest=lambda header: "same" if same_pixels else header.sop_instance_uid
        )
        json.dumps(outcome.figures, allow_nan=False)
        assert set(outcome.figures) <= set(FIGURES)
        assert {note.partition(":")[0] for note in outcome.notes} <= set(CODES)
        assert (outcome.code is None) == bool(outcome.headers)
        if outcome.code is not None:
            assert CODES[outcome.code].status is GateStatus.REFUSE
