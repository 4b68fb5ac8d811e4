"""Properties of the gate on generated stacks: shuffled, reversed, moved, sheared, with slices dropped and doubled.

Each stack is contiguous and large enough by construction, so each change has one outcome that follows from the rules.
Left out: single rules and their limits (test_gate).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.dicom.gate import GateOutcome, GateStatus, check_stack
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import SliceHeader
from tests.dicom_node.dicom.builders import header_stack

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
