"""What both stages are: a thread that takes jobs from the ledger and puts every outcome into a named state."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import ClassVar, Final

from sqlalchemy import Select

from dicom_node.errors import NodeError, Permanent, Refused, RetryPolicy, Transient
from dicom_node.ledger.place import place_of
from dicom_node.ledger.states import State
from dicom_node.ledger.store import Ledger, Transaction
from dicom_node.ledger.tables import Job
from dicom_node.operate.beats import Beats
from dicom_node.settings import Settings

logger = logging.getLogger(__name__)

#: Longest time between two rounds of an idle stage.
BEAT_LIMIT_S: Final = 60.0
_IDLE_S: Final = 1.0


class Stage(ABC):
    """A thread that does jobs one after the other.

    Parameters
    ----------
    ledger : Ledger
        Open ledger.
    settings : callable
        Returns the settings in force.
    beats : Beats
        Gets a sign of progress with every round.
    on_done : callable
        Called after a job has moved on, so that the next stage need not wait for its turn.
    """

    name: ClassVar[str]
    policy: ClassVar[RetryPolicy]

    def __init__(
        self, ledger: Ledger, settings: Callable[[], Settings], beats: Beats, on_done: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._beats = beats
        self._on_done = on_done
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def wake(self) -> None:
        """Look for work at once."""
        self._wanted.set()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End after the job under way, or give it up where that takes too long."""
        self._stopping.set()
        self._wanted.set()
        self._thread.join(timeout_s)

    @abstractmethod
    def _due(self) -> Select[Job]:
        """Return the query for jobs of this stage, without the waiting time."""

    @abstractmethod
    def _work(self, key: str) -> None:
        """Do one job; any `NodeError` that it raises is written down by the caller."""

    @abstractmethod
    def _failures(self, job: Job) -> int:
        """Return how often this stage has tried the job."""

    def _prepare(self) -> bool:
        """Get ready to work; False when that has to be tried again later."""
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._beats.beat(self.name, BEAT_LIMIT_S)
            try:
                busy = self._prepare() and self._one_job()
            except Exception as error:  # noqa: BLE001 - border of a task: the job keeps its state in the ledger
                logger.error("stage %s: %s; it goes on", self.name, place_of(error))
                busy = False
            if not busy:
                self._wanted.wait(_IDLE_S)
                self._wanted.clear()

    def _one_job(self) -> bool:
        """Do the oldest job that is due; False when there is none."""
        now = self._ledger.clock.now()
        query = (
            self._due().where((Job.next_try_at.is_(None)) | (Job.next_try_at <= now)).order_by(Job.queued_at).limit(1)
        )
        with self._ledger.reading() as session:
            job = session.scalar(query)
        if job is None:
            return False
        try:
            self._work(job.key)
        except NodeError as error:
            self._failed(job.key, error)
        except OSError as error:
            self._failed(job.key, Transient("storage", f"the file system failed: {error.strerror}"))
        except MemoryError:
            self._failed(job.key, Transient("out_of_memory", f"no memory left for the stage {self.name}"))
        except Exception as error:  # noqa: BLE001 - border of a task: the job ends in a named state
            logger.error("job %s in stage %s: %s", job.key, self.name, place_of(error))
            self._failed(job.key, Permanent("internal", f"stage {self.name}: {place_of(error)}"))
        self._on_done()
        return True

    @contextmanager
    def _current(self, key: str) -> Iterator[tuple[Transaction, Job] | None]:
        """Yield a transaction with the job, or None when the job has been taken away from this stage."""
        with self._ledger.transaction() as change:
            job = change.job(key)
            yield (change, job) if job is not None and job.state is State.SYNTHESIZING else None

    def _failed(self, key: str, error: NodeError) -> None:
        """Write down a failure by its class: refused, tried again, or dead letter."""
        with self._current(key) as current:
            if current is None:
                return
            change, job = current
            job.lease_until = None
            if isinstance(error, Refused):
                change.move_job(job, State.REFUSED, code=error.code, reason=error.reason, figures=error.figures)
            elif isinstance(error, Transient) and self._failures(job) < self.policy.attempts:
                wait_s = self.policy.wait_s(self._failures(job))
                job.next_try_at = change.at + timedelta(seconds=wait_s)
                logger.warning("job %s: %s; it is tried again in %.0f s", key, error, wait_s)
                self._try_again(change, job, error)
            else:
                logger.error("job %s is a dead letter: %s", key, error)
                change.move_job(job, State.FAILED, code=error.code, reason=error.reason, figures=error.figures)

    def _try_again(self, change: Transaction, job: Job, error: NodeError) -> None:
        """Leave the job where this stage finds it again."""
        change.touch(job)
