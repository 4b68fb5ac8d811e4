"""How long it has been quiet around a series or a study, on the monotonic clock.

The ledger is the truth about arrivals; this is only its translation to a clock that a correction of the system time
cannot move. After a restart the first question seeds it from the ledger.
"""

from __future__ import annotations

from datetime import datetime

from dicom_node.ledger.clock import Clock
from dicom_node.ledger.tables import Series, Study


class QuietClock:
    """Remembers when something last arrived for each series and study of this process's life."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[tuple[str, int], float] = {}

    def now(self) -> float:
        """Return the present moment on the clock of these times."""
        return self._clock.monotonic()

    def arrived(self, series: Series) -> None:
        """Note that an instance of the series (and so of its study) has just arrived."""
        now = self.now()
        self._last.setdefault(("first", series.id), now)
        self._last["series", series.id] = now
        self._last["study", series.study_id] = now

    def series_quiet_s(self, series: Series) -> float:
        """Seconds since the last instance of the series."""
        return self._quiet_s("series", series.id, series.last_arrival_at)

    def series_age_s(self, series: Series) -> float:
        """Seconds since the first instance of the series, or since the one that opened it again."""
        return self._quiet_s("first", series.id, series.changed_at)

    def study_quiet_s(self, study: Study) -> float:
        """Seconds since the last instance of any series of the study."""
        return self._quiet_s("study", study.id, study.last_arrival_at)

    def forget(self, series: Series) -> None:
        """Drop what is remembered of a series that no longer waits."""
        self._last.pop(("series", series.id), None)
        self._last.pop(("first", series.id), None)

    def forget_study(self, study: Study) -> None:
        """Drop what is remembered of a study that has been decided."""
        self._last.pop(("study", study.id), None)

    def _quiet_s(self, kind: str, row_id: int, last_at: datetime) -> float:
        now = self.now()
        if (kind, row_id) not in self._last:
            elapsed_s = max((self._clock.now() - last_at).total_seconds(), 0.0)
            self._last[kind, row_id] = now - elapsed_s
        return now - self._last[kind, row_id]
