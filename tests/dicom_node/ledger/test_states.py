"""The state machine: every step of the table and nothing else, for series and jobs.

Left out: which stage takes which step (`assemble`, `stages`, `deliver`).
"""

from __future__ import annotations

import itertools

import pytest

from dicom_node.ledger.states import ALLOWED, AT_REST, IllegalTransition, State, check_transition


def test_every_state_has_a_row():
    assert set(ALLOWED) == set(State)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_exactly_the_steps_of_the_table_are_possible(before: State, after: State):
    if after in ALLOWED[before]:
        check_transition(before, after)
    else:
        with pytest.raises(IllegalTransition) as caught:
            check_transition(before, after)
        assert caught.value.figures == {"before": before.value, "after": after.value}


def test_every_state_can_be_reached_from_receiving():
    reached, frontier = {State.RECEIVING}, [State.RECEIVING]
    while frontier:
        for after in ALLOWED[frontier.pop()] - reached:
            reached.add(after)
            frontier.append(after)
    assert reached == set(State)


def test_nothing_leaves_superseded_and_every_other_state_has_a_way_on():
    assert not ALLOWED[State.SUPERSEDED]
    assert all(ALLOWED[state] for state in State if state is not State.SUPERSEDED)


def test_no_step_leads_from_a_refusal_or_a_skip_straight_to_a_result():
    results = {State.DERIVED, State.DELIVERING, State.DELIVERED, State.COMMITTED}
    for end in (State.REFUSED, State.SKIPPED):
        assert end in AT_REST
        assert not ALLOWED[end] & results
