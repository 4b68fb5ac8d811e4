"""A supervised child process: started, listened to, started again with growing patience, ended with all it started.

The children speak one JSON object a line on their standard output and end when their standard input does, so none
outlives the supervisor. Each leads its own process group: Ctrl-C in a terminal reaches the supervisor alone, and what a
killed child leaves behind (the worker of a service) can be ended by its group.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from dicom_node.errors import RETRY

logger = logging.getLogger(__name__)

#: A child that lived this long has its failures forgotten.
_SOUND_S: Final = 60.0


class Child:
    """One child process.

    Parameters
    ----------
    name : str
        For the log.
    command : sequence of str
        Command line.
    first_line : callable
        Returns what is written to its standard input at every start; empty for nothing.
    """

    def __init__(self, name: str, command: Sequence[str], first_line: Callable[[], str] = lambda: "") -> None:
        self.name = name
        self.ready = False
        self.stopping = False
        self._command = tuple(command)
        self._first_line = first_line
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._failures = 0
        self._started_at = 0.0
        self._not_before = 0.0

    @property
    def pid(self) -> int | None:
        """Process ID, None while it does not run."""
        return self._process.pid if self._process is not None else None

    @property
    def output(self) -> int | None:
        """File descriptor of its standard output, to wait on."""
        return self._process.stdout.fileno() if self._process is not None and self._process.stdout else None

    def start_when_due(self) -> bool:
        """Start it if it does not run and its wait is over; return whether it was started now."""
        if self._process is not None or self.stopping or time.monotonic() < self._not_before:
            return False
        self._started_at = time.monotonic()
        self._rest = b""
        self._process = subprocess.Popen(  # noqa: S603 - our own command line, no shell
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        line = self._first_line()
        if line:
            self.send(line)
        return True

    def send(self, line: str) -> None:
        """Write a line to its standard input; a child that is gone does not get it."""
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def events(self) -> list[dict[str, Any]]:
        """Return what it said since the last call."""
        descriptor = self.output
        if descriptor is None:
            return []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(descriptor, 65536):
                self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        return [event for event in map(_parsed, lines) if event is not None]

    def ended(self) -> int | None:
        """Return its exit code if it has ended since the last call, and set when it may start again."""
        if self._process is None or self._process.poll() is None:
            return None
        code = self._process.returncode
        self._clear_away()
        if time.monotonic() - self._started_at > _SOUND_S:
            self._failures = 0
        self._failures += 1
        wait_s = RETRY["child"].wait_s(self._failures)
        self._not_before = time.monotonic() + wait_s
        if not self.stopping:
            logger.error("%s ended with %s; it starts again in %.1f s", self.name, code, wait_s)
        return code

    def stop(self, timeout_s: float, heard: Callable[[dict[str, Any]], None] = lambda event: None) -> None:
        """Ask it to end, wait, and kill it with its group when that takes too long.

        Parameters
        ----------
        timeout_s : float
            How long to wait.
        heard : callable
            Gets what it still says.
        """
        self.stopping = True
        process = self._process
        if process is None:
            return
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while process.poll() is None and time.monotonic() < deadline:
            # Its reports have to be read, or a full pipe would keep it from ending.
            _each(self.events(), heard)
            time.sleep(0.02)
        if process.poll() is None:
            logger.error("%s did not end within %.0f s and is killed", self.name, timeout_s)
        _each(self.events(), heard)
        self._clear_away()

    def _clear_away(self) -> None:
        """End what is left of the process and of its group."""
        process, self._process, self.ready = self._process, None, False
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _each(events: list[dict[str, Any]], heard: Callable[[dict[str, Any]], None]) -> None:
    for event in events:
        heard(event)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
