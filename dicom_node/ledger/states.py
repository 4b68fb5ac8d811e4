"""Where a series, a study and a delivery can stand, and which step may follow which.

The table `ALLOWED` is the whole state machine of the node on one screen. A step that is not in it raises
`IllegalTransition`: it would be a defect of the node, never something an input or a peer can cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from dicom_node.errors import Permanent


class State(Enum):
    """The journey of a series and of the job that works on it.

    A job begins at `QUEUED`; the series it belongs to mirrors its state for as long as the job is the current one.
    """

    RECEIVING = "RECEIVING"
    COMPLETE = "COMPLETE"
    QUEUED = "QUEUED"
    SYNTHESIZING = "SYNTHESIZING"
    DERIVED = "DERIVED"
    DELIVERING = "DELIVERING"
    DELIVERED = "DELIVERED"
    COMMITTED = "COMMITTED"
    SKIPPED = "SKIPPED"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    SUPERSEDED = "SUPERSEDED"


class StudyState(Enum):
    """Whether the study still waits for series or its one series has been chosen (or none)."""

    OPEN = "OPEN"
    DECIDED = "DECIDED"


class JobKind(Enum):
    """What a job makes: the synthetic series, or the note that tells a study why there is none."""

    RESULT = "RESULT"
    NOTE = "NOTE"


class DeliveryState(Enum):
    """What became of one result on its way to one destination."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class CommitmentState(Enum):
    """Whether a destination has confirmed that it keeps one result (storage commitment, PS3.4 annex J).

    A delivery that nobody is asked about has none of these.
    """

    WAITING = "WAITING"
    COMMITTED = "COMMITTED"
    UNCONFIRMED = "UNCONFIRMED"


class TransactionState(Enum):
    """What became of one request for storage commitment, which its Transaction UID names.

    LOST: it may not have arrived. REFUSED: the N-ACTION was answered with a failure. EXPIRED: no report came in time. A
    report that comes late is taken all the same.
    """

    ASKED = "ASKED"
    LOST = "LOST"
    REFUSED = "REFUSED"
    EXPIRED = "EXPIRED"
    COMMITTED = "COMMITTED"
    INCOMPLETE = "INCOMPLETE"
    FAILED = "FAILED"


#: Late slices bring a series back to RECEIVING from wherever it stands, and a better series of its study may take the
#: place of a chosen one, which is then SKIPPED. A job gives way by becoming SUPERSEDED.
_GIVES_WAY: Final = frozenset({State.RECEIVING, State.SKIPPED, State.SUPERSEDED})

#: A series whose very images have their result already goes where that result stands.
_SAME_INPUT: Final = frozenset({State.DELIVERING, State.DELIVERED, State.COMMITTED, State.FAILED})

#: What a destination cannot commit itself to is sent again, so DELIVERED goes back to DELIVERING.
#: An administrator's retry leads from an end back to the step before it. SUPERSEDED is the only state that nothing
#: leaves.
ALLOWED: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        State.RECEIVING: frozenset({State.COMPLETE, State.SKIPPED}),
        State.COMPLETE: frozenset({State.QUEUED, State.SKIPPED, State.REFUSED, State.RECEIVING, *_SAME_INPUT}),
        State.QUEUED: _GIVES_WAY | {State.SYNTHESIZING, State.FAILED, State.REFUSED},
        State.SYNTHESIZING: _GIVES_WAY | {State.QUEUED, State.DERIVED, State.REFUSED, State.FAILED},
        State.DERIVED: _GIVES_WAY | {State.DELIVERING, State.FAILED},
        State.DELIVERING: _GIVES_WAY | {State.DELIVERED, State.FAILED},
        State.DELIVERED: _GIVES_WAY | {State.COMMITTED, State.COMPLETE, State.DELIVERING},
        State.COMMITTED: _GIVES_WAY | {State.COMPLETE},
        State.SKIPPED: frozenset({State.RECEIVING, State.COMPLETE}),
        State.REFUSED: frozenset({State.RECEIVING, State.COMPLETE, State.QUEUED, State.SUPERSEDED}),
        State.FAILED: _GIVES_WAY | {State.COMPLETE, State.QUEUED, State.DELIVERING},
        State.SUPERSEDED: frozenset(),
    }
)

#: Nothing happens to an item in one of these states unless something arrives or somebody asks.
AT_REST: Final = frozenset(
    {State.DELIVERED, State.COMMITTED, State.SKIPPED, State.REFUSED, State.FAILED, State.SUPERSEDED}
)

#: A job in one of these states has sent nothing yet, so late slices may simply take its place.
UNSENT: Final = frozenset({State.QUEUED, State.SYNTHESIZING, State.DERIVED, State.REFUSED})


class IllegalTransition(Permanent):
    """Raise this when code asks for a step that `ALLOWED` does not hold: a defect, not an outcome."""

    def __init__(self, before: State, after: State) -> None:
        super().__init__(
            "illegal_transition",
            f"no step leads from {before.value} to {after.value}",
            {"before": before.value, "after": after.value},
        )


def check_transition(before: State, after: State) -> None:
    """Raise `IllegalTransition` unless the step is one of `ALLOWED`."""
    if after not in ALLOWED[before]:
        raise IllegalTransition(before, after)
