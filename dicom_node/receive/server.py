"""The receiver process: listens, admits, stores, reloads and drains.

Protocol with the supervisor, one JSON object a line. On standard input: a `ReceiverPlan`; a later line replaces it; the
end of input means that the supervisor is gone. On standard output: ``listening`` with the port, then for every further
plan ``reloaded`` or ``not_reloaded`` with the reason, ``refused`` for every association that was, ``draining`` and
``stopped``.
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
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.association import Association

from dicom_node.errors import NodeError, Permanent
from dicom_node.ledger.refusals import Refusal
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.net.contexts import answer_in_requestors_order
from dicom_node.net.listener import apply_to, was_requested
from dicom_node.net.quiet import quiet_libraries
from dicom_node.receive.commitment import Asker, CommitmentDoor
from dicom_node.receive.doors import Doors
from dicom_node.receive.gate import Gate
from dicom_node.receive.plan import Caller, ReceiverPlan
from dicom_node.receive.policy import normalised
from dicom_node.receive.storing import Reception

_LOGGER = logging.getLogger(__name__)

_LINE_BYTES: Final = 1_048_576
_SAYING: Final = threading.Lock()


class Receiver:
    """One listening application entity with its spool.

    Parameters
    ----------
    plan : ReceiverPlan
        What to work by; its folders are created.
    tell : callable
        Gets the name and the details of what somebody else should know of: an association that was ``refused``.

    Raises
    ------
    OSError
        When the address cannot be listened on or the data folder cannot be made.
    Transient
        ``tls_files`` when certificate, key or authorities of TLS cannot be used.
    """

    def __init__(self, plan: ReceiverPlan, tell: Callable[..., None] = lambda event, **details: None) -> None:
        self._plan = plan
        self._tell = tell
        self._lock = threading.Lock()
        self._receptions: dict[Association, Reception] = {}
        self._callers: weakref.WeakKeyDictionary[Association, Caller] = weakref.WeakKeyDictionary()
        self._spool = SpoolPaths(Path(plan.data_dir))
        self._spool.make()
        self._gate = Gate(plan, self._spool.run, self._refused)
        self._commitment = CommitmentDoor(self._spool, lambda: self._plan)
        handlers = (
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_request),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_CONN_CLOSE, self._on_aborted),
        )
        self._doors = Doors(plan, handlers, self._gate.no_secure_connection)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port we listen on, of the plain port where there are two."""
        return self._doors.address

    @property
    def tls_port(self) -> int | None:
        """Port on which we speak TLS."""
        return self._doors.tls_port

    def reload(self, plan: ReceiverPlan) -> None:
        """Replace the plan; open associations go on.

        Raises
        ------
        Permanent
            ``needs_restart`` when the plan moves a port or the data folder; the old plan then stays.
        Transient
            ``tls_files`` when a certificate or key cannot be used; the old ones then stay.
        """
        self._doors.reload(plan)
        self._plan = plan
        self._gate.reload(plan)

    def drain(self) -> None:
        """Stop accepting, let open associations end within ``drain_s``, then abort the rest."""
        self._gate.draining = True
        self._doors.close()
        deadline = time.monotonic() + self._plan.drain_s
        while self._receptions and time.monotonic() < deadline:
            time.sleep(0.02)
        for assoc in self._doors.associations:
            assoc.abort()

    def _on_requested(self, event: Any) -> None:  # noqa: ANN401 - a pynetdicom event
        assoc = event.assoc
        if not was_requested(assoc):
            self._gate.no_request(assoc)
            return
        admission = self._gate.admit(assoc)
        if admission.rejection is not None:
            assoc.acse.send_reject(*admission.rejection.value)
            assoc.kill()
            return
        proposed = assoc.requestor.primitive.presentation_context_definition_list
        proposed[:] = [context for context in proposed if context.abstract_syntax and context.transfer_syntax]
        caller = admission.caller
        if caller is not None:
            self._callers[assoc] = caller
        may_commit = admission.may_store or (caller is not None and caller.may_report)
        supported = answer_in_requestors_order(proposed, may_store=admission.may_store, may_commit=may_commit)
        if not admission.may_store and len(supported) < len(proposed):
            _LOGGER.warning("%r may not store: its peer has no role source", assoc.requestor.primitive.calling_ae_title)
        assoc.acceptor.supported_contexts = supported
        if caller is not None:
            apply_to(
                assoc,
                network_timeout_s=caller.network_timeout_s or None,
                max_pdu_bytes=caller.max_pdu_bytes or None,
            )

    def _refused(self, refusal: Refusal) -> None:
        self._tell("refused", peer=refusal.calling_ae, host=refusal.host, reason=refusal.reason)

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

    def _on_request(self, event: Any) -> tuple[int, None]:  # noqa: ANN401 - a pynetdicom event
        return self._commitment.take_request(event, self._asker(event.assoc)), None

    def _on_report(self, event: Any) -> tuple[int, None]:  # noqa: ANN401 - a pynetdicom event
        return self._commitment.take_report(event, self._asker(event.assoc)), None

    def _asker(self, assoc: Association) -> Asker:
        title = assoc.requestor.primitive.calling_ae_title.strip()
        return Asker(title, normalised(assoc.requestor.address), self._callers.get(assoc))

    def _on_released(self, event: Any) -> None:  # noqa: ANN401 - a pynetdicom event
        self._end(event.assoc, "closed")

    def _on_aborted(self, event: Any) -> None:  # noqa: ANN401 - a pynetdicom event
        self._end(event.assoc, "aborted")

    def _end(self, assoc: Association, outcome: str) -> None:
        self._gate.left(assoc)
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
        receiver = Receiver(plan, _tell)
    except OSError as error:
        tls = f" or {plan.tls.port} (TLS)" if plan.tls is not None else ""
        _LOGGER.critical("cannot listen on %s:%d%s: %s", plan.host, plan.port, tls, error.strerror)
        return 1
    except NodeError as error:
        _LOGGER.critical("%s", error)
        return 1
    host, port = receiver.address
    _tell("listening", host=host, port=port, tls_port=receiver.tls_port, pid=os.getpid())
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
    except NodeError as error:
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
    line = json.dumps({"event": event, **details}) + "\n"
    try:
        with _SAYING:  # several associations may be refused at once
            sys.stdout.write(line)
            sys.stdout.flush()
    except BrokenPipeError:
        _LOGGER.warning("nobody listens to this receiver's reports any more")
