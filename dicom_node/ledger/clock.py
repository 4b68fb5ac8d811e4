"""The two clocks of the node behind one small class, so that tests can wind them.

Moments that are stored are UTC. Waits (quiet timers, leases) are measured on the monotonic clock, which no
correction of the system time can move.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The real clocks."""

    def now(self) -> datetime:
        """Return the present moment in UTC, for the record."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds on a clock that only runs forward, for waits."""
        return time.monotonic()
