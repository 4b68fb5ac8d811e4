"""Storage commitment of what we sent: asks the destination to confirm a delivered result (PS3.4 annex J, we are SCU).

Each request has a Transaction UID of its own, written down before it leaves, so that a report can never come for one
that the ledger does not know. One that is not answered in time is made again with another UID, a capped number of
times. The reports are taken in by `dicom_node.deliver.commitment_reports`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pydicom.uid import generate_uid
from sqlalchemy import ColumnElement, select

from dicom_node.deliver.commitment_state import CONFIRMABLE, confirm, give_up, unconfirmed
from dicom_node.deliver.policy import delivery_policy
from dicom_node.deliver.rounds import DeliveryRounds
from dicom_node.errors import NodeError, Permanent, Transient
from dicom_node.ledger.commitment_box import CommitmentBox, Kind
from dicom_node.ledger.durable import utc_now
from dicom_node.ledger.poke import poke
from dicom_node.ledger.states import CommitmentState, DeliveryState, TransactionState
from dicom_node.ledger.store import Ledger, Transaction
from dicom_node.ledger.tables import CommitmentTransaction, Delivery, Job
from dicom_node.net.commit import ask_for_commitment
from dicom_node.net.commitment_values import CommitmentReport, CommitmentRequest, Reference
from dicom_node.settings import Peer, Settings

logger = logging.getLogger(__name__)

#: Failures after which the request may have arrived, so that a report may still come.
_MAY_HAVE_ARRIVED: Final = frozenset({"commitment_unanswered", "commitment_busy"})


@dataclass(frozen=True, slots=True)
class _Question:
    """All that one request needs, read from the ledger before the network is touched."""

    delivery_id: int
    job_key: str
    peer: Peer
    request: CommitmentRequest


class CommitmentAsker(DeliveryRounds):
    """Has results confirmed by those who keep them.

    Parameters
    ----------
    ledger : Ledger
        Open ledger.
    settings : callable
        Returns the settings in force; asked anew for every request.
    """

    kind = "commitment"

    def __init__(self, ledger: Ledger, settings: Callable[[], Settings]) -> None:
        super().__init__(ledger, settings)
        self._box = CommitmentBox(ledger.paths.data_dir)

    def recover(self) -> None:
        """Have requests made again that a crash cut off before it was known whether they arrived."""
        self._box.sweep()
        with self._ledger.transaction() as change:
            cut_off = select(CommitmentTransaction).where(
                CommitmentTransaction.state == TransactionState.ASKED, CommitmentTransaction.accepted_at.is_(None)
            )
            for row in change.session.scalars(cut_off):
                row.state, row.code, row.reason = TransactionState.LOST, "interrupted", "the node ended meanwhile"
                if row.delivery.commitment is CommitmentState.WAITING:
                    row.delivery.commitment_asked -= 1
                    row.delivery.commitment_next_at = change.at
                change.touch(row.delivery.job)

    def _due(self) -> tuple[ColumnElement[bool], ...]:
        now = self._ledger.clock.now()
        return (
            Delivery.commitment == CommitmentState.WAITING,
            Delivery.state == DeliveryState.DELIVERED,
            Job.state.in_(CONFIRMABLE),
            (Delivery.commitment_next_at.is_(None)) | (Delivery.commitment_next_at <= now),
        )

    def _attempt(self, delivery_id: int) -> None:
        settings = self._settings()
        question = self._begin(delivery_id, settings)
        if question is None:
            return
        try:
            ask_for_commitment(
                question.peer,
                settings.node.ae_title,
                question.request,
                on_report=lambda report: self._keep(question.peer, report),
                on_accepted=lambda: self._conclude(question, None, settings),
                wait_s=settings.commitment.same_association_s,
                timeout_s=settings.delivery.association_timeout_s,
            )
        except NodeError as error:
            self._conclude(question, error, settings)

    def _keep(self, peer: Peer, report: CommitmentReport) -> None:
        """Make a report durable that came over the association on which we asked."""
        sender = {"at": utc_now(), "peer": peer.name, "calling_ae": peer.called_ae_title, "host": peer.host}
        self._box.leave(Kind.REPORT, {**sender, **report.to_json()})
        poke(self._ledger.paths.service_socket)

    def _begin(self, delivery_id: int, settings: Settings) -> _Question | None:
        """Write down the request before it leaves; None when there is nothing (more) to ask."""
        with self._ledger.transaction() as change:
            delivery = change.session.get_one(Delivery, delivery_id)
            if delivery.commitment is not CommitmentState.WAITING or delivery.state is not DeliveryState.DELIVERED:
                return None
            if not unconfirmed(delivery):
                confirm(change, delivery)
                return None
            waited = _expire(delivery)
            peer = settings.committer_of(delivery.destination)
            if peer is None:
                reason = f"no peer with role commitment answers for {delivery.destination} any more"
                give_up(change, delivery, "nobody_commits", reason)
                return None
            if delivery.commitment_asked >= settings.commitment.attempts:
                told = delivery.commitment_reason or f"no report came from {peer.name}"
                reason = f"{told}, after {delivery.commitment_asked} requests"
                give_up(change, delivery, delivery.commitment_code or "commitment_silent", reason)
                return None
            if waited:
                logger.warning("job %s: %s did not report in time and is asked again", delivery.job.key, peer.name)
            return self._question(change, delivery, peer, settings)

    def _question(self, change: Transaction, delivery: Delivery, peer: Peer, settings: Settings) -> _Question:
        classes = {one["sop_instance_uid"]: one["sop_class_uid"] for one in delivery.job.result["instances"]}
        references = tuple(
            Reference(classes[one.sop_instance_uid], one.sop_instance_uid) for one in unconfirmed(delivery)
        )
        row = CommitmentTransaction(
            transaction_uid=str(generate_uid(prefix=None)),
            peer=peer.name,
            state=TransactionState.ASKED,
            instances=len(references),
            asked_at=change.at,
        )
        delivery.transactions.append(row)
        delivery.commitment_asked += 1
        delivery.commitment_next_at = change.at + timedelta(seconds=settings.commitment.report_timeout_s)
        change.touch(delivery.job)
        return _Question(delivery.id, delivery.job.key, peer, CommitmentRequest(row.transaction_uid, references))

    def _conclude(self, question: _Question, trouble: NodeError | None, settings: Settings) -> None:
        """Write down how a request ended; whether a report has come meanwhile is not its business."""
        with self._ledger.transaction() as change:
            row = change.session.scalars(
                select(CommitmentTransaction).where(
                    CommitmentTransaction.transaction_uid == question.request.transaction_uid
                )
            ).one()
            delivery = row.delivery
            change.touch(delivery.job)
            if row.reported_at is not None or trouble is None:
                row.accepted_at = change.at
                delivery.commitment_tries = 0
                return
            row.code, row.reason = trouble.code, trouble.reason
            if isinstance(trouble, Permanent):
                row.state = TransactionState.REFUSED
                give_up(change, delivery, trouble.code, trouble.reason)
                return
            row.state = TransactionState.LOST
            delivery.commitment_asked -= 1
            if trouble.code not in _MAY_HAVE_ARRIVED:
                delivery.transactions.remove(row)
                change.session.delete(row)
            self._again(change, delivery, trouble, settings)

    def _again(self, change: Transaction, delivery: Delivery, trouble: NodeError, settings: Settings) -> None:
        """Try again later to ask, as patiently as results are sent."""
        assert isinstance(trouble, Transient)
        policy = delivery_policy(settings.delivery)
        delivery.commitment_tries += 1
        if delivery.commitment_tries >= policy.attempts:
            give_up(change, delivery, trouble.code, trouble.reason)
            return
        delivery.commitment_code, delivery.commitment_reason = trouble.code, trouble.reason
        wait_s = policy.wait_s(delivery.commitment_tries)
        delivery.commitment_next_at = change.at + timedelta(seconds=wait_s)
        logger.warning("job %s: %s; storage commitment is asked for in %.0f s", delivery.job.key, trouble, wait_s)


def _expire(delivery: Delivery) -> bool:
    """Close the newest request when it waited in vain; the peer may still report it."""
    newest = delivery.transactions[-1] if delivery.transactions else None
    if newest is None or newest.state is not TransactionState.ASKED:
        return False
    newest.state = TransactionState.EXPIRED
    newest.code, newest.reason = "commitment_silent", "no report came in time"
    delivery.commitment_code, delivery.commitment_reason = "commitment_silent", f"no report came from {newest.peer}"
    return True
