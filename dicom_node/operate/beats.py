"""Signs of real progress, from which health and the watchdog are fed.

A thread that only exists proves nothing. Each loop of the service gives a beat whenever it has got round, and one that
has not done so within its limit makes the whole service unwell, so that systemd restarts it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_node.ledger.clock import Clock


@dataclass(frozen=True, slots=True)
class Pulse:
    """One loop: seconds since its last beat, its limit, and whether it keeps to it."""

    age_s: float
    limit_s: float

    @property
    def well(self) -> bool:
        """Whether the last beat is young enough."""
        return self.age_s <= self.limit_s


class Beats:
    """The last sign of progress of every loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._loops: dict[str, tuple[float, float]] = {}

    def beat(self, loop: str, limit_s: float = 60.0) -> None:
        """Note progress of a loop, and how long the next sign may take."""
        with self._lock:
            self._loops[loop] = (self._clock.monotonic(), limit_s)

    def pulses(self) -> Mapping[str, Pulse]:
        """Return every loop's pulse."""
        now = self._clock.monotonic()
        with self._lock:
            return {loop: Pulse(round(now - at, 3), limit_s) for loop, (at, limit_s) in self._loops.items()}

    @property
    def well(self) -> bool:
        """Whether every loop keeps to its limit."""
        return all(pulse.well for pulse in self.pulses().values())
