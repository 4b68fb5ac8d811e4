"""The verbs of storage commitment: ask a peer to confirm what it was sent, and tell a peer what we hold.

Storage Commitment Push Model (PS3.4 annex J). A request is an N-ACTION, its outcome an N-EVENT-REPORT, which comes over
the same association or over another one that the peer opens, with the roles turned round (PS3.7 annex D.3.3.4).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any, Final, TypeAlias

from pydicom.dataset import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import encode

from dicom_node.errors import NodeError, Permanent, Transient, commitment_status
from dicom_node.net.commitment_values import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_ACTION,
    CommitmentReport,
    CommitmentRequest,
    read_report,
    report_dataset,
    request_dataset,
)
from dicom_node.net.remote import RemoteEntity
from dicom_node.net.requestor import associate, finish, no_answer, words
from dicom_node.net.status import failure_words

#: Statuses of an N-ACTION response after which the same request may succeed later (PS3.7 annex C).
_PASSING: Final = frozenset({0x0110, 0x0213})
_LOOK_EVERY_S: Final = 0.1

_Primitive: TypeAlias = N_ACTION | N_EVENT_REPORT


# --- we ask ------------------------------------------------------------------------------------------------------


def ask_for_commitment(
    peer: RemoteEntity,
    calling_ae: str,
    request: CommitmentRequest,
    *,
    on_report: Callable[[CommitmentReport], None],
    on_accepted: Callable[[], None] = lambda: None,
    wait_s: float,
    timeout_s: float = 30.0,
) -> None:
    """Ask a peer to commit itself to instances, and stay for a report that comes over the same association.

    Parameters
    ----------
    peer : RemoteEntity
        Whom to ask.
    calling_ae : str
        Our AE title, to which the report comes when it comes over another association.
    request : CommitmentRequest
        With a Transaction UID that was never used before.
    on_report : callable
        Makes a report durable. It is answered with success only when this has returned.
    on_accepted : callable
        Called as soon as the peer has taken the request.
    wait_s : float
        How long the association stays open after the request for a report.
    timeout_s : float
        Longest wait for each step.

    Raises
    ------
    Transient
        ``peer_unreachable``, ``peer_rejected``, ``peer_busy``; the request has then certainly not left.
        ``commitment_unanswered`` when it may have arrived, ``commitment_busy`` when the peer asks for patience.
    Permanent
        ``peer_without_port``, ``commitment_refused`` with what the peer's administrator has to look at.
    """
    reported = threading.Event()

    def heard(event: Any) -> tuple[int, None]:  # noqa: ANN401 - a pynetdicom event
        return answer_report(event, on_report), None

    assoc = associate(
        peer, calling_ae, [build_context(PUSH_MODEL)], timeout_s, handlers=[(evt.EVT_N_EVENT_REPORT, heard)]
    )
    _note_served(assoc, reported)
    try:
        context_id = _context_of(assoc, peer)
        message = N_ACTION()
        message.MessageID = 1
        message.RequestedSOPClassUID = PUSH_MODEL
        message.RequestedSOPInstanceUID = PUSH_MODEL_INSTANCE
        message.ActionTypeID = REQUEST_ACTION
        message.ActionInformation = _encoded(request_dataset(request), assoc, context_id)
        _check_accepted(_exchange(assoc, message, context_id, timeout_s), peer)
        on_accepted()
        until = time.monotonic() + wait_s
        while assoc.is_established and time.monotonic() < until and not reported.wait(_LOOK_EVERY_S):
            pass
    finally:
        finish(assoc)


def answer_report(event: Any, keep: Callable[[CommitmentReport], None]) -> int:  # noqa: ANN401 - a pynetdicom event
    """Make a report that arrived durable and return the status to answer (PS3.4 J.3.3.3)."""
    try:
        keep(read_report(event))
    except (NodeError, OSError, MemoryError) as error:
        return commitment_status(error)
    return commitment_status(None)


def _check_accepted(status: int | None, peer: RemoteEntity) -> None:
    if status is None:
        raise Transient("commitment_unanswered", f"{words(peer)} did not answer the request for storage commitment")
    if status in _PASSING:
        reason = f"{words(peer)} cannot take a request for storage commitment now: {failure_words(status)}"
        raise Transient("commitment_busy", reason, {"status": f"0x{status:04X}"})
    if status != 0 and not 0xB000 <= status <= 0xBFFF:
        reason = (
            f"{words(peer)} refused the request for storage commitment with 0x{status:04X} ({failure_words(status)}); "
            "ask its administrator to allow it, or take the role commitment away from that peer"
        )
        raise Permanent("commitment_refused", reason, {"status": f"0x{status:04X}"})


# --- we report ---------------------------------------------------------------------------------------------------


def send_report(peer: RemoteEntity, calling_ae: str, report: CommitmentReport, *, timeout_s: float = 30.0) -> None:
    """Tell a peer over a new association what became of its request.

    Parameters
    ----------
    peer : RemoteEntity
        Who asked.
    calling_ae : str
        Our AE title.
    report : CommitmentReport
        Every instance of the request is in it.
    timeout_s : float
        Longest wait for each step.

    Raises
    ------
    Transient
        When it did not arrive, with the reasons of `dicom_node.net.requestor.associate`; ``report_refused`` when the
        peer answered with a failure or does not take reports.
    Permanent
        ``peer_without_port``.
    """
    roles = [build_role(PUSH_MODEL, scp_role=True)]
    assoc = associate(peer, calling_ae, [build_context(PUSH_MODEL)], timeout_s, roles=roles)
    try:
        if not assoc.accepted_contexts:
            raise Transient("report_refused", f"{words(peer)} takes no reports of storage commitment")
        started = time.monotonic()
        status = report_over(assoc, report, timeout_s=timeout_s)
    finally:
        finish(assoc)
    if status is None:
        raise no_answer(peer, time.monotonic() - started, timeout_s)
    if status != 0 and not 0xB000 <= status <= 0xBFFF:
        raise Transient("report_refused", f"{words(peer)} answered the report with 0x{status:04X}")


def report_over(assoc: Association, report: CommitmentReport, *, timeout_s: float) -> int | None:
    """Send a report over an association that is open, whoever opened it; return the status, None when there is none."""
    context_id = next((one.context_id for one in assoc.accepted_contexts if one.abstract_syntax == PUSH_MODEL), None)
    if context_id is None:
        return None
    message = N_EVENT_REPORT()
    message.MessageID = 1
    message.AffectedSOPClassUID = PUSH_MODEL
    message.AffectedSOPInstanceUID = PUSH_MODEL_INSTANCE
    message.EventTypeID = report.event_type
    message.EventInformation = _encoded(report_dataset(report), assoc, context_id)
    return _exchange(assoc, message, context_id, timeout_s)


# --- messages ----------------------------------------------------------------------------------------------------


def _context_of(assoc: Association, peer: RemoteEntity) -> int:
    if not assoc.accepted_contexts:
        reason = (
            f"{words(peer)} accepts associations but no storage commitment; ask its administrator to switch it on, or "
            "take the role commitment away from that peer"
        )
        raise Permanent("commitment_refused", reason)
    return int(assoc.accepted_contexts[0].context_id)


def _encoded(ds: Dataset, assoc: Association, context_id: int) -> BytesIO:
    syntax = next(one.transfer_syntax[0] for one in assoc.accepted_contexts if one.context_id == context_id)
    data = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    if data is None:
        raise Permanent("internal", "a data set of storage commitment could not be encoded")
    return BytesIO(data)


def _exchange(assoc: Association, message: _Primitive, context_id: int, timeout_s: float) -> int | None:
    """Send a request and return the status of its response; None when the association ended or time ran out.

    pynetdicom takes the next message for the answer and aborts when it is none. A peer may send its report before it
    answers the request, or go on storing while we report: a request that comes in between is served here.
    """
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        time.sleep(0.0001)
    try:
        assoc.dimse.send_msg(message, context_id)
        deadline = time.monotonic() + timeout_s
        while assoc.is_established and time.monotonic() < deadline:
            answered_in, answer = _next_message(assoc)
            if answer is None:
                if assoc.dul.peek_next_pdu() is not None or not assoc.dul.is_alive():
                    return None  # released or aborted, which the reactor will notice
            elif answer.is_valid_request:
                assoc._serve_request(answer, answered_in)
            elif isinstance(answer, type(message)) and answer.is_valid_response:
                return None if answer.Status is None else int(answer.Status)
        assoc.abort()
        return None
    finally:
        assoc._reactor_checkpoint.set()


def _next_message(assoc: Association) -> tuple[int | None, Any]:
    """Return the next message, or nothing after a moment, so that the end of an association is noticed soon."""
    try:
        context_id, message = assoc.dimse.msg_queue.get(timeout=_LOOK_EVERY_S)
    except queue.Empty:
        return None, None
    return context_id, message


def _note_served(assoc: Association, reported: threading.Event) -> None:
    """Have `reported` set once a report over this association has been answered."""
    serve = assoc._serve_request

    def serving(message: Any, context_id: int) -> None:  # noqa: ANN401 - a pynetdicom primitive
        serve(message, context_id)
        if isinstance(message, N_EVENT_REPORT) and message.is_valid_request:
            reported.set()

    assoc._serve_request = serving
