"""The audit trail: events are queued without ever waiting, and a thread carries them to their target.

Whatever the target does (absent, slow, full) costs events at most, never a moment of the node's work. Lost ones are
counted and the count is logged. One process of the node, the supervisor, carries the events of all: what the others
have to report comes over the pipe on which they speak to it, so that one writer rotates the file.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicom_node.ledger.place import place_of
from dicom_node.operate.audit_message import AuditEvent, AuditSource, to_xml
from dicom_node.operate.audit_sinks import Sink, make_sink
from dicom_node.settings import Settings

logger = logging.getLogger(__name__)

#: Wait after the first failure of the target; it doubles up to the longest.
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 60.0


@dataclass(slots=True)
class AuditCounts:
    """Events that were delivered, and that were lost because too many waited or they could not be written."""

    sent: int = 0
    lost: int = 0


class AuditTrail:
    """Carries events to one target.

    Parameters
    ----------
    settings : Settings
        Says where to; with ``audit.to = "none"`` events are dropped at once and not counted.
    """

    def __init__(self, settings: Settings) -> None:
        host = socket.gethostname() or "localhost"
        self.counts = AuditCounts()
        self._source = AuditSource(
            settings.node.node_id, settings.node.ae_title, host, os.getpid(), settings.audit.site
        )
        self._sink = make_sink(settings, host, os.getpid())
        self._waiting: queue.Queue[AuditEvent] = queue.Queue(settings.audit.queue)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        if self._sink is not None:
            self._thread = threading.Thread(target=self._run, args=(self._sink,), name="audit", daemon=True)
            self._thread.start()

    def put(self, event: AuditEvent) -> None:
        """Queue one event. Returns at once, whatever the target does."""
        if self._thread is None:
            return
        for part in event.parts():
            try:
                self._waiting.put_nowait(part)
            except queue.Full:
                self.counts.lost += 1
                if self.counts.lost == 1:
                    logger.error("audit events are lost: %d wait already (audit.queue)", self._waiting.qsize())

    def put_record(self, record: Mapping[str, Any]) -> None:
        """Queue what another process of the node reported; nonsense is counted as lost."""
        try:
            event = AuditEvent.from_json(record)
        except (ValueError, TypeError, AttributeError):
            self.counts.lost += 1
            logger.error("a process of the node reported an audit event that is none")
            return
        self.put(event)

    def close(self, timeout_s: float = 2.0) -> None:
        """Deliver what waits, for as long as that, then stop; the rest is counted as lost."""
        if self._thread is None:
            return
        deadline = time.monotonic() + timeout_s
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stopping.set()
        self._thread.join(timeout_s)
        self.counts.lost += self._waiting.qsize()
        if self.counts.lost:
            logger.error("audit: %d events delivered, %d lost", self.counts.sent, self.counts.lost)

    def _run(self, sink: Sink) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    event = self._waiting.get(timeout=0.2)
                except queue.Empty:
                    continue
                self._deliver(sink, event)
                self._waiting.task_done()
        finally:
            sink.close()

    def _deliver(self, sink: Sink, event: AuditEvent) -> None:
        """Try until the target takes the event, or the node stops."""
        xml = to_xml(event, self._source)
        failures = 0
        while True:
            try:
                sink.send(event.at, xml)
            except OSError as error:
                failures += 1
                if failures == 1:
                    logger.error("audit target away: %s; events wait", os.strerror(error.errno) if error.errno else "")
                wait_s = min(_FIRST_WAIT_S * 2.0 ** min(failures - 1, 10), _LONGEST_WAIT_S)
                if not self._stopping.wait(wait_s):
                    continue
                self.counts.lost += 1
            except Exception as error:  # noqa: BLE001 - border: one event that cannot be written must not stop the rest
                logger.error("an audit event could not be written: %s", place_of(error))
                self.counts.lost += 1
            else:
                self.counts.sent += 1
                if failures:
                    logger.warning(
                        "audit target is back; %d events wait, %d were lost", self._waiting.qsize(), self.counts.lost
                    )
            return


def changed_sections(before: Settings, after: Settings) -> str:
    """Name the sections in which two settings differ, without any value."""
    names = [name for name in Settings.model_fields if getattr(before, name) != getattr(after, name)]
    return ", ".join(names) or "none"
