"""The service's clock: APScheduler runs what depends on time; each job reads the ledger and holds no state."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node.ledger.place import place_of

logger = logging.getLogger(__name__)


class Schedule:
    """Runs callables at intervals, each in at most one thread at a time."""

    def __init__(self) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(4)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone=UTC,
        )

    def every(self, seconds: float, name: str, work: Callable[[], object]) -> None:
        """Register a callable; may be called before and after `start`."""
        self._scheduler.add_job(_bordered(name, work), "interval", seconds=seconds, id=name, replace_existing=True)

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """Let the jobs under way end, then stop."""
        self._scheduler.shutdown(wait=True)


def _bordered(name: str, work: Callable[[], object]) -> Callable[[], None]:
    """Keep an error of one run from being more than that: the next run reads the ledger again."""

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - border of a scheduler job; items keep their state in the ledger
            logger.error("scheduled work %s failed: %s; it runs again", name, place_of(error))

    return run
