"""The gate of a receiver: counts who is inside, admits or turns away, and writes down whom it turned away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pynetdicom.association import Association

from dicom_node.ledger.refusals import Refusal, note_refusal
from dicom_node.net.listener import secure_connection, tried_tls
from dicom_node.net.tls_words import explain
from dicom_node.receive.plan import ReceiverPlan
from dicom_node.receive.policy import Admission, Policy, Rejection, SecureChannel, normalised

_LOGGER: Final = logging.getLogger(__name__)


class Gate:
    """Admits association requests by a plan. Safe to use from many threads.

    Parameters
    ----------
    plan : ReceiverPlan
        Holds allow-list and limits.
    run : Path
        Folder of the journal of refusals.
    on_refusal : callable
        Called with every refusal, for the audit trail.
    """

    def __init__(
        self, plan: ReceiverPlan, run: Path, on_refusal: Callable[[Refusal], None] = lambda refusal: None
    ) -> None:
        self._run = run
        self._on_refusal = on_refusal
        self._plan = plan
        self._policy = Policy(plan)
        self._lock = threading.Lock()
        self._inside: dict[Association, str] = {}
        self.draining = False

    def reload(self, plan: ReceiverPlan) -> None:
        """Judge by another plan from now on."""
        self._plan, self._policy = plan, Policy(plan)

    def admit(self, assoc: Association) -> Admission:
        """Judge the request of an association; a refusal is in log and journal when this returns."""
        request = assoc.requestor.primitive
        calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        address = normalised(assoc.requestor.address)
        admission = self._judge(assoc, calling, called, address)
        if admission.rejection is not None:
            self._turned_away(Refusal(admission.code, admission.reason, address, calling, called))
        return admission

    def left(self, assoc: Association) -> None:
        """Count an association no longer."""
        with self._lock:
            self._inside.pop(assoc, None)

    def no_request(self, assoc: Association) -> None:
        """Write down a connection that brought no request because it spoke TLS on the plain port."""
        if not tried_tls(assoc):
            return
        tls = self._plan.tls
        remedy = f"call port {tls.port}" if tls is not None else "set port and certificate in [tls] of node.toml"
        address = normalised(assoc.requestor.address)
        reason = f"the peer at {address} spoke TLS on port {assoc.acceptor.port}, which is a plain one: {remedy}"
        self._turned_away(Refusal("tls_on_plain_port", reason, address))

    def no_secure_connection(self, host: str, error: OSError) -> None:
        """Write down a peer with which no TLS connection came about."""
        failure = explain(error)
        address = normalised(host)
        reason = f"the peer at {address} {failure.reason}"
        if failure.code == "tls_not_spoken":
            door = "there is no other" if self._plan.tls_only else f"the plain one is {self._plan.port}"
            reason += f", whose port is one for TLS ({door}): switch TLS on there"
        self._turned_away(Refusal(failure.code, reason, address))

    def _judge(self, assoc: Association, calling: str, called: str, address: str) -> Admission:
        if self.draining:
            reason = f"{calling!r} at {address}: the node is stopping"
            return Admission(Rejection.TEMPORARY_CONGESTION, reason, code="stopping")
        connection = secure_connection(assoc)
        secure = SecureChannel(connection.getpeercert()) if connection is not None else None
        with self._lock:
            self._inside = {one: name for one, name in self._inside.items() if one.is_alive()}
            most = self._plan.max_associations
            if len(self._inside) >= most:
                reason = f"{calling!r} at {address}: {most} associations are open, max_associations of [node]"
                return Admission(Rejection.LOCAL_LIMIT_EXCEEDED, reason, code="busy")
        admission = self._policy.admit(calling, called, address, secure)
        if admission.rejection is not None:
            return admission
        return self._count_in(assoc, admission, f"{calling!r} at {address}")

    def _count_in(self, assoc: Association, admission: Admission, who: str) -> Admission:
        caller = admission.caller
        name, most = (caller.name, caller.max_associations) if caller is not None else ("", 0)
        with self._lock:
            open_now = sum(inside == name for inside in self._inside.values())
            if most and open_now >= most:
                reason = f"{who}: {open_now} associations are open, max_associations of peer {name!r} is {most}"
                return Admission(Rejection.LOCAL_LIMIT_EXCEEDED, reason, code="peer_busy")
            self._inside[assoc] = name
        return admission

    def _turned_away(self, refusal: Refusal) -> None:
        _LOGGER.warning("association rejected: %s", refusal.reason)
        self._on_refusal(refusal)
        try:
            note_refusal(self._run, refusal)
        except OSError as error:
            _LOGGER.warning("the journal of refusals cannot be written: %s", error.strerror)
