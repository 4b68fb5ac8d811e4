"""What the service hears from its supervisor, what it waits for, and how it reports."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from dicom_node.errors import Permanent
from dicom_node.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Word:
    """One line of the supervisor: the settings, and the report of the last reload, if there was one."""

    settings: Settings
    reload: Mapping[str, Any] | None

    @classmethod
    def parse(cls, line: bytes) -> Word:
        """Read a line.

        Raises
        ------
        Permanent
            ``service_word`` when it is none of this version.
        """
        try:
            said = json.loads(line)
            return cls(Settings.model_validate(said["settings"]), said["reload"])
        except (ValueError, TypeError, KeyError) as error:
            raise Permanent(
                "service_word", f"not a word of this version's supervisor: {type(error).__name__}"
            ) from error


class Words:
    """Standard input line by line, read without a buffer that a selector would not know of."""

    def __init__(self) -> None:
        self._rest = b""

    def next(self) -> bytes | None:
        """Wait for one line and return it; None at the end of input."""
        while b"\n" not in self._rest:
            if not self.read():
                return None
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def read(self) -> bool:
        """Take in what is there; False at the end of input."""
        data = os.read(sys.stdin.fileno(), 65536)
        self._rest += data
        return bool(data)

    def lines(self) -> list[bytes]:
        """Return the whole lines that were taken in."""
        *lines, self._rest = self._rest.split(b"\n")
        return lines


class Wakeup:
    """What the main thread waits for: pokes, signals, and words of the supervisor or their end."""

    def __init__(self, pokes: socket.socket, words: Words) -> None:
        self.signals: set[signal.Signals] = set()
        self.words = words
        self._pokes = pokes
        self._pokes.setblocking(False)
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(pokes, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGTERM, self._noticed)
        # The terminal sends these to the whole process group; what follows from them is the supervisor's decision.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _noticed(self, number: int, frame: FrameType | None) -> None:
        self.signals.add(signal.Signals(number))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for something, or until the time is over; return False when it is time to stop."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._pokes:
                _drain(self._pokes)
            elif key.fileobj is self._woken:
                _drain(self._woken)
            elif not self.words.read():
                return False
        return signal.SIGTERM not in self.signals

    def close(self) -> None:
        """Give back the file descriptors."""
        signal.set_wakeup_fd(-1)
        self._selector.close()
        for end in (self._woken, self._wake, self._pokes):
            end.close()


def _drain(end: socket.socket) -> None:
    try:
        while end.recv(4096):
            pass
    except BlockingIOError:
        return


def tell(event: str, **details: object) -> None:
    """Report to the supervisor; without one (its pipe is closed) the report is lost and nothing else."""
    try:
        sys.stdout.write(json.dumps({"event": event, **details}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        logger.warning("nobody listens to the service's reports any more")
