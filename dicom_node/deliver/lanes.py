"""One thread per peer, so that one that is down or slow delays nobody else."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

logger = logging.getLogger(__name__)


class Lanes:
    """Threads that sleep until work is wanted from them.

    Parameters
    ----------
    kind : str
        What they do, for the log.
    work : callable
        Does what is due in the lane of a name.
    """

    def __init__(self, kind: str, work: Callable[[str], None]) -> None:
        self._kind = kind
        self._work = work
        self._lanes: dict[str, _Lane] = {}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it is time to end."""
        return self._closed

    def want(self, names: Iterable[str]) -> None:
        """Have the lanes of these names work. Returns at once."""
        with self._lock:
            if self._closed:
                return
            for name in names:
                lane = self._lanes.get(name)
                if lane is None:
                    lane = self._lanes[name] = _Lane(f"{self._kind}-{name}", partial(self._work, name))
                    lane.start()
                lane.wanted.set()

    def stop(self, timeout_s: float) -> None:
        """Let what is under way end, as long as that takes no longer than the time given."""
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.stop()
        deadline = time.monotonic() + timeout_s
        for lane in lanes:
            lane.join(max(deadline - time.monotonic(), 0.0))


class _Lane(threading.Thread):
    """The thread of one peer: sleeps until wanted."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.wanted = threading.Event()
        self._work = work
        self._stopping = False

    def run(self) -> None:
        """Work whenever wanted; trouble with the ledger ends a round, and the next `wake` begins another."""
        while True:
            self.wanted.wait()
            self.wanted.clear()
            if self._stopping:
                return
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - border of a task: what is due stays due in the ledger
                logger.error("%s: %s; what is due stays due", self.name, type(error).__name__)

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopping = True
        self.wanted.set()
