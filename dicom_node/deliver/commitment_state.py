"""Where one result stands with the storage commitment of its destinations: the steps that several modules take."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Final

from dicom_node.ledger.states import CommitmentState, DeliveryState, JobKind, State
from dicom_node.ledger.store import Transaction
from dicom_node.ledger.tables import Delivery, DeliveryInstance, Job
from dicom_node.settings import Settings

logger = logging.getLogger(__name__)

#: Kind of the events that tell of storage commitment.
COMMITMENT_EVENT: Final = "commitment"
#: A job in one of these states may still be confirmed; one that was superseded is nobody's result any more.
CONFIRMABLE: Final = (State.DELIVERING, State.DELIVERED, State.FAILED)


def await_commitment(delivery: Delivery, settings: Settings, at: datetime) -> None:
    """Have a delivery that is through confirmed, where the settings name a peer for it."""
    if delivery.job.kind is JobKind.NOTE or settings.committer_of(delivery.destination) is None:
        delivery.commitment = None
        return
    delivery.commitment = CommitmentState.WAITING
    delivery.commitment_next_at = at
    delivery.commitment_code = delivery.commitment_reason = None


def unconfirmed(delivery: Delivery) -> list[DeliveryInstance]:
    """Images of which the destination has not said yet that it keeps them.

    Companions are not asked about: they can neither fail a result nor keep it waiting.
    """
    images = {one["sop_instance_uid"] for one in delivery.job.result["instances"]}
    return [one for one in delivery.instances if one.committed_at is None and one.sop_instance_uid in images]


def confirm(change: Transaction, delivery: Delivery) -> None:
    """Note that a destination keeps all of a result."""
    delivery.commitment, delivery.commitment_next_at = CommitmentState.COMMITTED, None
    delivery.commitment_code = delivery.commitment_reason = None
    if delivery.state is DeliveryState.PENDING:
        # It was about to be sent again when an older request was confirmed after all.
        delivery.state, delivery.delivered_at = DeliveryState.DELIVERED, change.at
        delivery.code = delivery.reason = delivery.next_try_at = None
        for item in delivery.instances:
            item.stored = item.stored or item.committed_at is not None
        change.finish_delivery(delivery)
    change.touch(delivery.job)
    settle(change, delivery.job)


def settle(change: Transaction, job: Job) -> None:
    """Make a delivered job COMMITTED once every destination that is asked has confirmed all of it."""
    asked = [one for one in job.deliveries if one.commitment is not None]
    if job.state is not State.DELIVERED or not asked:
        return
    if all(one.commitment is CommitmentState.COMMITTED for one in asked):
        names = ", ".join(one.destination for one in asked)
        change.move_job(job, State.COMMITTED, reason=f"storage commitment: confirmed by {names}")


def give_up(change: Transaction, delivery: Delivery, code: str, reason: str) -> None:
    """Stop asking: the job stays DELIVERED, and says that nobody confirmed it and what can be done."""
    delivery.commitment, delivery.commitment_next_at = CommitmentState.UNCONFIRMED, None
    delivery.commitment_code, delivery.commitment_reason = code, reason
    series = delivery.job.series
    remedy = f"to ask again: jmmda-node series retry {series.series_instance_uid}"
    change.remark(
        series, COMMITMENT_EVENT, code=code, reason=f"not confirmed by {delivery.destination}: {reason}; {remedy}"
    )
    change.touch(delivery.job)
    logger.error("job %s is not confirmed by %s: %s: %s", delivery.job.key, delivery.destination, code, reason)
