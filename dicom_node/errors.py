"""The three classes of failure, the retry table, and the one mapping from an error to a DIMSE status.

Every failure of the node is put into one of three classes, because the class decides what happens next:

- `Refused`: the input broke a documented rule. Nothing is tried again; the reason goes to the ledger and the user.
- `Permanent`: it failed and would fail again unchanged. The item goes to the dead letter and can be replayed.
- `Transient`: it failed for a reason that passes (peer down, disk full). It is tried again by `RETRY`.

No message may hold patient data: name the rule, the DICOM keyword, the numbers; never a value of an identity attribute.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final


class NodeError(Exception):
    """Base of the node's failures.

    Parameters
    ----------
    code : str
        Stable, lower-case reason code (``no_brain``, ``peer_unreachable``); stored in the ledger, counted in metrics.
    reason : str
        One sentence for a person, without patient data, saying what to do where that is known.
    figures : Mapping[str, object], optional
        The numbers behind the reason, JSON-serialisable, units in the keys (``gap_mm``).
    """

    def __init__(self, code: str, reason: str, figures: Mapping[str, object] | None = None) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.figures: dict[str, object] = dict(figures or {})


class Refused(NodeError):
    """Raise this when the input breaks a documented rule (geometry, eligibility): exit code 3, state REFUSED."""


class Permanent(NodeError):
    """Raise this when the same work would fail again unchanged (unreadable object, missing bundle): state FAILED."""


class Transient(NodeError):
    """Raise this when waiting may help (peer down, out of resources): the work is tried again by `RETRY`."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently one operation is tried again.

    Attributes
    ----------
    attempts : int
        Total number of tries before the item goes to the dead letter.
    first_wait_s, longest_wait_s : float
        Wait after the first failure, and its ceiling; waits double in between.
    jitter : float
        Fraction by which a wait is varied at random, so that many items do not knock at the same second.
    """

    attempts: int
    first_wait_s: float
    longest_wait_s: float
    jitter: float = 0.1

    def wait_s(self, failures: int, rng: random.Random | None = None) -> float:
        """Seconds to wait after the given number of failures (1 = the first failure)."""
        base = min(self.first_wait_s * 2.0 ** max(failures - 1, 0), self.longest_wait_s)
        spread = (rng or random).uniform(-self.jitter, self.jitter)
        return base * (1.0 + spread)


#: The whole retry policy of the node on one screen. Layers are not multiplied: an association that fails counts
#: as one try of "deliver", whatever number of instances it was to carry. The administrator changes "deliver" in
#: ``[delivery]`` of node.toml; the others are fixed.
RETRY: Final[Mapping[str, RetryPolicy]] = MappingProxyType(
    {
        "deliver": RetryPolicy(attempts=60, first_wait_s=5.0, longest_wait_s=600.0),
        "find": RetryPolicy(attempts=1_000_000, first_wait_s=5.0, longest_wait_s=60.0),
        "synthesize": RetryPolicy(attempts=2, first_wait_s=1.0, longest_wait_s=10.0),
        "derive": RetryPolicy(attempts=3, first_wait_s=2.0, longest_wait_s=30.0),
        "child": RetryPolicy(attempts=1_000_000, first_wait_s=0.5, longest_wait_s=30.0),
    }
)


@dataclass(frozen=True, slots=True)
class DimseStatus:
    """Status numbers of PS3.4 Annex B.2.3 and PS3.7 Annex C that the node uses."""

    SUCCESS: int = field(default=0x0000, init=False)
    OUT_OF_RESOURCES: int = field(default=0xA700, init=False)
    NOT_MATCHING_SOP_CLASS: int = field(default=0xA900, init=False)
    CANNOT_UNDERSTAND: int = field(default=0xC000, init=False)
    PROCESSING_FAILURE: int = field(default=0x0110, init=False)
    NO_SUCH_INSTANCE: int = field(default=0x0112, init=False)
    NO_SUCH_EVENT_TYPE: int = field(default=0x0113, init=False)
    INVALID_ARGUMENT: int = field(default=0x0115, init=False)
    CLASS_INSTANCE_CONFLICT: int = field(default=0x0119, init=False)
    NO_SUCH_ACTION: int = field(default=0x0123, init=False)
    NOT_AUTHORISED: int = field(default=0x0124, init=False)
    RESOURCE_LIMITATION: int = field(default=0x0213, init=False)


DIMSE: Final = DimseStatus()


def dimse_status(error: Exception | None) -> int:
    """Map the outcome of receiving one instance to the status answered to the peer.

    A full disk or another passing trouble asks the peer to send again (0xA700); a bad object tells it not to
    (0xC000); anything else is a processing failure (0x0110). This is the only place that chooses a status.
    """
    if error is None:
        return DIMSE.SUCCESS
    if isinstance(error, Transient | OSError | MemoryError):
        return DIMSE.OUT_OF_RESOURCES
    if isinstance(error, Refused):
        return DIMSE.NOT_MATCHING_SOP_CLASS
    if isinstance(error, Permanent):
        return DIMSE.CANNOT_UNDERSTAND
    return DIMSE.PROCESSING_FAILURE


_COMMITMENT_STATUS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "no_such_instance": DIMSE.NO_SUCH_INSTANCE,
        "no_such_event": DIMSE.NO_SUCH_EVENT_TYPE,
        "no_such_action": DIMSE.NO_SUCH_ACTION,
        "invalid_argument": DIMSE.INVALID_ARGUMENT,
        "not_authorised": DIMSE.NOT_AUTHORISED,
        "too_large": DIMSE.RESOURCE_LIMITATION,
    }
)


def commitment_status(error: Exception | None) -> int:
    """Map the outcome of taking a request or a report of storage commitment to the status answered to the peer.

    A full disk tells it that resources are short (0x0213), so that it comes again; what it got wrong is named.
    """
    if error is None:
        return DIMSE.SUCCESS
    if isinstance(error, OSError | MemoryError):
        return DIMSE.RESOURCE_LIMITATION
    code = error.code if isinstance(error, NodeError) else ""
    return _COMMITMENT_STATUS.get(code, DIMSE.PROCESSING_FAILURE)
