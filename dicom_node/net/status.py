"""What the status of a C-STORE response means for the sender (PS3.4 table B.2-1 and PS3.7 annex C), and failures."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class StoreCategory(StrEnum):
    """What to do after one instance was sent."""

    SUCCESS = "success"
    WARNING = "warning"
    TRANSIENT = "transient failure"
    PERMANENT = "permanent failure"

    @property
    def is_stored(self) -> bool:
        """Whether the peer has the instance."""
        return self in (StoreCategory.SUCCESS, StoreCategory.WARNING)


_SUCCESS: Final = 0x0000

#: Stored all the same: attribute list and value errors, and 0x0111, which says that the peer has this very instance
#: already. Our UIDs are a function of the content, so that is what we wanted.
_GENERAL_WARNINGS: Final = frozenset({0x0001, 0x0107, 0x0111, 0x0116})

#: Processing failure and resource limitation: many systems answer so for troubles that pass.
_GENERAL_TRANSIENT: Final = frozenset({0x0110, 0x0213})

_MEANINGS: Final = {
    0x0000: "stored",
    0x0107: "stored, attribute list error",
    0x0110: "processing failure",
    0x0111: "already stored (duplicate SOP instance)",
    0x0116: "stored, attribute value out of range",
    0x0117: "invalid SOP instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xB000: "stored, elements coerced",
    0xB006: "stored, elements discarded",
    0xB007: "stored, data set does not match SOP class",
}

_RANGES: Final = (
    (0xA700, 0xA7FF, "out of resources"),
    (0xA800, 0xA8FF, "SOP class not supported"),
    (0xA900, 0xA9FF, "data set does not match SOP class"),
    (0xB000, 0xBFFF, "stored with a warning"),
    (0xC000, 0xCFFF, "cannot understand"),
)


def categorise(status: int) -> StoreCategory:
    """Return what a status asks of the sender; one that the standard does not know is a permanent failure."""
    if status == _SUCCESS:
        return StoreCategory.SUCCESS
    if status in _GENERAL_WARNINGS or 0xB000 <= status <= 0xBFFF:
        return StoreCategory.WARNING
    if status in _GENERAL_TRANSIENT or 0xA700 <= status <= 0xA7FF:
        return StoreCategory.TRANSIENT
    return StoreCategory.PERMANENT


def meaning(status: int) -> str:
    """Return the status in words."""
    if status in _MEANINGS:
        return _MEANINGS[status]
    return next((words for low, high, words in _RANGES if low <= status <= high), "unknown status")


#: Statuses of DIMSE-N (PS3.7 annex C), which are also the Failure Reasons (0008,1197) of a report of storage commitment
#: (PS3.3 section C.14.1.1).
_FAILURES: Final = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0113: "no such event type",
    0x0114: "no such argument",
    0x0115: "invalid argument value",
    0x0117: "invalid object instance",
    0x0118: "no such SOP class",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0123: "no such action type",
    0x0124: "not authorised",
    0x0131: "duplicate Transaction UID",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
}


def failure_words(reason: int) -> str:
    """Return a status of DIMSE-N, or a Failure Reason, in words."""
    return _FAILURES.get(reason, f"unknown reason 0x{reason:04X}")
