"""The receiver process: listens, admits, stores, reloads and drains.

Protocol with the supervisor, one JSON object a line. On standard input: a `ReceiverPlan`; a later line replaces it; the
end of input means that the supervisor is gone. On standard output: ``listening`` with the port, then for every further
plan ``reloaded`` or ``not_reloaded`` with the reason, ``draining`` and ``stopped``.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.association import Association

from dicom_node.errors import Permanent
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.net.contexts import answer_in_requestors_order
from dicom_node.net.listener import Limits, Listener, was_requested
from dicom_node.net.quiet import quiet_libraries
from dicom_node.receive.plan import ReceiverPlan
from dicom_node.receive.policy import Admission, Policy, Rejection
from dicom_node.receive.storing import Reception

_LOGGER = logging.getLogger(__name__)

#: Fields of a plan that an open port cannot take on; a plan that changes one needs a new process.
_FIXED: Final = ("host", "port", "data_dir", "share_port")

_LINE_BYTES: Final = 1_048_576


class Receiver:
    """One listening application entity with its spool.

    Parameters
    ----------
    plan : ReceiverPlan
        What to work by; its folders are created.

    Raises
    ------
    OSError
        When the address cannot be listened on or the data folder cannot be made.
    """

    def __init__(self, plan: ReceiverPlan) -> None:
        self._plan = plan
        self._policy = Policy(plan)
        self._draining = False
        self._lock = threading.Lock()
        self._receptions: dict[Association, Reception] = {}
        self._spool = SpoolPaths(Path(plan.data_dir))
        self._spool.make()
        handlers = (
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_CONN_CLOSE, self._on_aborted),
        )
        self._listener = Listener(
            plan.ae_title, (plan.host, plan.port), handlers, _limits(plan), share_port=plan.share_port
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port we listen on."""
        return self._listener.address

    def reload(self, plan: ReceiverPlan) -> None:
        """Replace the plan; open associations go on.

        Raises
        ------
        Permanent
            ``needs_restart`` when the plan moves the port or the data folder; the old plan then stays.
        """
        changed = [name for name in _FIXED if getattr(plan, name) != getattr(self._plan, name)]
        if changed:
            raise Permanent("needs_restart", f"{', '.join(changed)} cannot change while the receiver runs")
        self._plan = plan
        self._policy = Policy(plan)
        self._listener.set_limits(_limits(plan))

    def drain(self) -> None:
        """Stop accepting, let open associations end within ``drain_s``, then abort the rest."""
        self._draining = True
        self._listener.close()
        deadline = time.monotonic() + self._plan.drain_s
        while self._receptions and time.monotonic() < deadline:
            time.sleep(0.02)
        for assoc in self._listener.associations:
            assoc.abort()

    def _on_requested(self, event: Any) -> None:  # noqa: ANN401 - a pynetdicom event
        assoc = event.assoc
        if not was_requested(assoc):
            return
        admission = self._admit(assoc)
        if admission.rejection is not None:
            _LOGGER.warning("association rejected: %s", admission.reason)
            assoc.acse.send_reject(*admission.rejection.value)
            assoc.kill()
            return
        proposed = assoc.requestor.primitive.presentation_context_definition_list
        proposed[:] = [context for context in proposed if context.abstract_syntax and context.transfer_syntax]
        supported = answer_in_requestors_order(proposed, may_store=admission.may_store)
        if not admission.may_store and len(supported) < len(proposed):
            _LOGGER.warning("%r may not store: its peer has no role source", assoc.requestor.primitive.calling_ae_title)
        assoc.acceptor.supported_contexts = supported

    def _admit(self, assoc: Association) -> Admission:
        request = assoc.requestor.primitive
        if self._draining:
            return Admission(Rejection.TEMPORARY_CONGESTION, f"{request.calling_ae_title!r}: the node is stopping")
        if len(self._receptions) >= self._plan.max_associations:
            reason = f"{request.calling_ae_title!r}: {len(self._receptions)} associations are open, max_associations"
            return Admission(Rejection.LOCAL_LIMIT_EXCEEDED, reason)
        return self._policy.admit(request.calling_ae_title, request.called_ae_title, assoc.requestor.address)

    def _on_established(self, event: Any) -> None:  # noqa: ANN401 - a pynetdicom event
        assoc = event.assoc
        request = assoc.requestor.primitive
        reception = Reception(
            self._spool,
            lambda: self._plan,
            calling_ae=request.calling_ae_title.strip(),
            called_ae=request.called_ae_title.strip(),
            host=assoc.requestor.address,
            port=assoc.requestor.port,
        )
        with self._lock:
            self._receptions[assoc] = reception

    def _on_store(self, event: Any) -> int:  # noqa: ANN401 - a pynetdicom event
        return self._receptions[event.assoc].handle_store(event)

    def _on_released(self, event: Any) -> None:  # noqa: ANN401 - a pynetdicom event
        self._end(event.assoc, "closed")

    def _on_aborted(self, event: Any) -> None:  # noqa: ANN401 - a pynetdicom event
        self._end(event.assoc, "aborted")

    def _end(self, assoc: Association, outcome: str) -> None:
        with self._lock:
            reception = self._receptions.pop(assoc, None)
        if reception is not None:
            reception.end(outcome)


def main() -> int:
    """Run the receiver process until it is told to stop.

    Returns
    -------
    int
        Exit code: 0 after draining, 1 when it could not listen, 2 when there was no plan.
    """
    quiet_libraries()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o077)
    control = _Control()
    try:
        plan = ReceiverPlan.from_line(next(control.lines(), b""))
    except Permanent as error:
        _LOGGER.critical("%s", error)
        return 2
    logging.getLogger("dicom_node").setLevel(plan.log_level)
    try:
        receiver = Receiver(plan)
    except OSError as error:
        _LOGGER.critical("cannot listen on %s:%d: %s", plan.host, plan.port, error.strerror)
        return 1
    host, port = receiver.address
    _tell("listening", host=host, port=port, pid=os.getpid())
    for line in control.lines():
        _reload(receiver, line)
    _tell("draining")
    receiver.drain()
    _tell("stopped")
    return 0


def _reload(receiver: Receiver, line: bytes) -> None:
    try:
        plan = ReceiverPlan.from_line(line)
        receiver.reload(plan)
    except Permanent as error:
        _LOGGER.error("plan not taken: %s", error)
        _tell("not_reloaded", code=error.code, reason=error.reason)
        return
    logging.getLogger("dicom_node").setLevel(plan.log_level)
    _tell("reloaded")


class _Control:
    """Standard input line by line, until its end or a signal to stop."""

    def __init__(self) -> None:
        self._woken, wake = socket.socketpair()
        wake.setblocking(False)
        self._wake = wake
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGTERM, _noticed)
        # The terminal sends these to the whole process group; whether to stop is the supervisor's decision.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._rest = b""

    def lines(self) -> Iterator[bytes]:
        """Yield whole lines; return at the end of input or when told to stop."""
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                while b"\n" in self._rest:
                    line, _, self._rest = self._rest.partition(b"\n")
                    yield line
                ready = {key.fd for key, _ in selector.select()}
                if self._woken.fileno() in ready:
                    return
                data = os.read(sys.stdin.fileno(), _LINE_BYTES)
                if not data:
                    return
                self._rest += data


def _noticed(number: int, frame: FrameType | None) -> None:
    """Do nothing: the signal has already woken the selector through its file descriptor."""


def _tell(event: str, **details: object) -> None:
    try:
        sys.stdout.write(json.dumps({"event": event, **details}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _LOGGER.warning("nobody listens to this receiver's reports any more")


def _limits(plan: ReceiverPlan) -> Limits:
    return Limits(
        max_associations=plan.max_associations,
        network_timeout_s=plan.network_timeout_s,
        acse_timeout_s=plan.acse_timeout_s,
        max_message_bytes=plan.max_message_bytes,
    )
