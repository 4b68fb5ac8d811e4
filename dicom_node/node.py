"""The node: a small supervisor that starts receivers and service, keeps them running, and passes on reloads and stops.

It does no work itself, so that nothing which may fail can take the front door down. What systemd is told comes from the
children: READY when every receiver listens and the service has started, WATCHDOG while the service reports progress.

It alone reads the settings file. Children are told what they need on their standard input, one JSON object a line: at
their start, and at a reload (`dicom_node.operate.reloading`), so that all of them work by the same reading of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from sdnotify import SystemdNotifier

from dicom_node.errors import NodeError, Permanent
from dicom_node.operate.audit import AuditTrail, changed_sections
from dicom_node.operate.audit_message import AuditEvent, Kind
from dicom_node.operate.audit_message import Outcome as AuditOutcome
from dicom_node.operate.children import Child
from dicom_node.operate.logs import set_up_logs
from dicom_node.operate.reloading import ReloadOutcome, Reloads
from dicom_node.receive.planning import receiver_plan
from dicom_node.settings import Settings, SettingsError, load_settings

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.5
#: A receiver waits this long for open associations (`ReceiverPlan.drain_s`) before it aborts them.
_RECEIVER_STOP_S: Final = 30.0
_SERVICE_STOP_S: Final = 30.0


class Supervisor:
    """Receivers and service of one node.

    Parameters
    ----------
    config : Path
        The settings file.
    settings : Settings
        Its present content.
    """

    def __init__(self, config: Path, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._systemd = SystemdNotifier()
        self._audit = AuditTrail(settings)
        self._reloads = Reloads(config, lambda settings: receiver_plan(settings).to_line())
        self._outcome: ReloadOutcome | None = None
        service = (sys.executable, "-m", "dicom_node.node", "--service", "--config", str(config))
        self._service = Child("service", service, self._service_line)
        self._receivers = [
            Child(f"receiver {number}", (sys.executable, "-m", "dicom_node.receive"), self._receiver_line)
            for number in range(1, settings.workers.receivers + 1)
        ]
        self._announced = False
        self._signals: set[signal.Signals] = set()
        self._woken, self._wake = socket.socketpair()

    @property
    def children(self) -> tuple[Child, ...]:
        """Service and receivers."""
        return (self._service, *self._receivers)

    def run(self) -> None:
        """Supervise until told to stop.

        Raises
        ------
        Permanent
            ``cannot_start`` when a child ends before everything was ready for the first time: its reason is in the log.
        """
        self._catch_signals()
        try:
            while not self._signals & {signal.SIGTERM, signal.SIGINT}:
                for child in self.children:
                    child.start_when_due()
                self._wait()
                for child in self.children:
                    self._attend(child)
                if signal.SIGHUP in self._signals:
                    self._signals.discard(signal.SIGHUP)
                    self._reloads.want()
                self._reload()
        finally:
            self._stop()

    def _attend(self, child: Child) -> None:
        for event in child.events():
            self._heard(child, event)
        code = child.ended()
        if code is not None:
            self._reloads.ended(child.name)
        # One that was killed by a signal is started again like any other time.
        if code is not None and code > 0 and not self._announced:
            raise Permanent("cannot_start", f"the {child.name} ended with {code} at start; see the lines above")

    def _heard(self, child: Child, event: dict[str, Any]) -> None:
        self._reloads.heard(child.name, event)
        match event.get("event"):
            case "ready":
                child.ready = True
            case "listening":
                child.ready = True
                tls = f", by TLS on port {event['tls_port']}" if event.get("tls_port") else ""
                logger.info("%s listens on %s:%s%s", child.name, event.get("host"), event.get("port"), tls)
            case "reload_wanted":
                self._reloads.want(str(event.get("request", "")))
            case "not_reloaded":
                logger.error("%s cannot take the new settings: %s", child.name, event.get("reason"))
            case "beat" if all(one.ready for one in self.children):
                self._systemd.notify("WATCHDOG=1")
            case _:
                self._report(event)
        if not self._announced and all(one.ready for one in self.children):
            self._announced = True
            logger.info("the node is ready as %s", self._settings.node.ae_title)
            self._audit.put(AuditEvent(Kind.START))
            self._systemd.notify("READY=1")

    def _report(self, event: dict[str, Any]) -> None:
        """Put into the audit trail what a child reports for it."""
        match event.get("event"):
            case "refused":
                self._audit.put_record({**event, "kind": Kind.REFUSED, "outcome": AuditOutcome.MINOR_FAILURE})
            case "audit":
                self._audit.put_record(event)

    def _reload(self) -> None:
        """Begin a reload that is wanted, and end one that every receiver has answered."""
        if self._reloads.wanted:
            if self._announced:
                self._systemd.notify("RELOADING=1")
            refused = self._reloads.begin(self._settings, self._receivers)
            if refused is not None:
                self._conclude(refused, None)
        concluded = self._reloads.conclude(self._receivers)
        if concluded is not None:
            self._conclude(*concluded)

    def _conclude(self, outcome: ReloadOutcome, fresh: Settings | None) -> None:
        """Work by the new settings, if they were taken, and let the outcome be known."""
        for fault in outcome.faults:
            logger.error("not reloaded: %s", fault)
        if fresh is None:
            reason = f"settings not taken: {len(outcome.faults)} faults"
            self._audit.put(AuditEvent(Kind.CONFIGURATION, outcome=AuditOutcome.MINOR_FAILURE, reason=reason))
        else:
            self._take(fresh)
            logger.info("settings reloaded; changed: %s", ", ".join(outcome.changed) or "nothing")
        self._outcome = outcome
        self._service.send(self._service_line())
        if self._announced:  # otherwise it is not ready yet
            self._systemd.notify("READY=1")

    def _take(self, fresh: Settings) -> None:
        reason = f"sections changed: {changed_sections(self._settings, fresh)}"
        self._audit.put(AuditEvent(Kind.CONFIGURATION, reason=reason))
        if fresh.audit != self._settings.audit:
            self._audit.close()
            self._audit = AuditTrail(fresh)
        self._settings = fresh
        set_up_logs(fresh.node.log_level.value)

    def _receiver_line(self) -> str:
        return receiver_plan(self._settings).to_line()

    def _service_line(self) -> str:
        reload_report = self._outcome.to_json() if self._outcome is not None else None
        return json.dumps({"settings": self._settings.model_dump(mode="json"), "reload": reload_report}) + "\n"

    def _wait(self) -> None:
        """Wait until a child says something, a signal comes, or it is time to look after the children."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for child in self.children:
                if child.output is not None:
                    selector.register(child.output, selectors.EVENT_READ)
            for key, _ in selector.select(_LOOK_EVERY_S):
                if key.fileobj is self._woken:
                    self._woken.recv(4096)

    def _catch_signals(self) -> None:
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._noticed)

    def _noticed(self, number: int, frame: FrameType | None) -> None:
        self._signals.add(signal.Signals(number))

    def _stop(self) -> None:
        """Close the door first, let what is open end, then stop the work."""
        logger.info("the node is stopping")
        self._systemd.notify("STOPPING=1")
        for receiver in self._receivers:
            receiver.stopping = True
            receiver.signal(signal.SIGTERM)
        for receiver in self._receivers:
            receiver.stop(_RECEIVER_STOP_S, self._report)
        self._service.stop(_SERVICE_STOP_S, self._report)
        if self._announced:
            self._audit.put(AuditEvent(Kind.STOP))
        self._audit.close()
        signal.set_wakeup_fd(-1)
        self._woken.close()
        self._wake.close()


def serve(settings_path: Path) -> None:
    """Run the node in the foreground until SIGTERM or SIGINT; SIGHUP reloads the settings.

    Parameters
    ----------
    settings_path : Path
        The settings file.

    Raises
    ------
    SettingsError
        When it is bad.
    Permanent
        ``cannot_start``: the port or the data folder is in use, or something else keeps a child from starting.
    """
    os.umask(0o077)
    config = settings_path.absolute()
    settings = load_settings(config)
    set_up_logs(settings.node.log_level.value)
    Supervisor(config, settings).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the supervisor, or with ``--service`` the service process that it starts."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.node", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the settings file")
    parser.add_argument("--service", action="store_true", help="run the service process (started by the supervisor)")
    arguments = parser.parse_args(argv)
    try:
        if arguments.service:
            from dicom_node.service import run_service

            return run_service(arguments.config)
        serve(arguments.config)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except NodeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
