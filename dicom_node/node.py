"""The node: a small supervisor that starts receivers and service, keeps them running, and passes on reloads and stops.

It does no work itself, so that nothing which may fail can take the front door down. What systemd is told comes from the
children: READY when every receiver listens and the service has started, WATCHDOG while the service reports progress.
"""

from __future__ import annotations

import argparse
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
from dicom_node.operate.children import Child
from dicom_node.operate.logs import set_up_logs
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
        self._service = Child(
            "service", (sys.executable, "-m", "dicom_node.node", "--service", "--config", str(config))
        )
        self._receivers: list[Child] = []
        self._set_receivers()
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
                    self._reload()
        finally:
            self._stop()

    def _attend(self, child: Child) -> None:
        for event in child.events():
            self._heard(child, event)
        code = child.ended()
        # One that was killed by a signal is started again like any other time.
        if code is not None and code > 0 and not self._announced:
            raise Permanent("cannot_start", f"the {child.name} ended with {code} at start; see the lines above")

    def _heard(self, child: Child, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "ready":
                child.ready = True
            case "listening":
                child.ready = True
                logger.info("%s listens on %s:%s", child.name, event.get("host"), event.get("port"))
            case "not_reloaded" if child is not self._service:
                logger.error("%s keeps its old settings: %s", child.name, event.get("reason"))
            case "beat" if all(one.ready for one in self.children):
                self._systemd.notify("WATCHDOG=1")
        if not self._announced and all(one.ready for one in self.children):
            self._announced = True
            logger.info("the node is ready as %s", self._settings.node.ae_title)
            self._systemd.notify("READY=1")

    def _reload(self) -> None:
        """Pass new settings on; a bad file changes nothing and says why."""
        try:
            fresh = load_settings(self._config)
        except SettingsError as error:
            for fault in error.faults:
                logger.error("not reloaded: %s", fault)
            return
        self._systemd.notify("RELOADING=1")
        self._settings = fresh
        set_up_logs(fresh.node.log_level.value)
        plan = receiver_plan(fresh).to_line()
        for receiver in self._receivers:
            receiver.send(plan)
        self._set_receivers()
        self._service.signal(signal.SIGHUP)
        self._systemd.notify("READY=1")

    def _set_receivers(self) -> None:
        """Have as many receivers as the settings ask for."""
        wanted = self._settings.workers.receivers
        for surplus in self._receivers[wanted:]:
            surplus.stop(_RECEIVER_STOP_S)
        del self._receivers[wanted:]
        for number in range(len(self._receivers) + 1, wanted + 1):
            command = (sys.executable, "-m", "dicom_node.receive")
            self._receivers.append(
                Child(f"receiver {number}", command, lambda: receiver_plan(self._settings).to_line())
            )

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
            receiver.stop(_RECEIVER_STOP_S)
        self._service.stop(_SERVICE_STOP_S)
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
