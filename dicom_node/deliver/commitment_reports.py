"""Reports about our results: from the files that the receiver left into the ledger, each once.

A file is removed when the ledger has what it says. A report may come late, twice, never, for a part of what was asked,
from somebody else, or for a transaction that nobody here began; each has its outcome here. What is confirmed counts
whichever request it answers; failures count only in answer to the newest one, because the instance may have been sent
again since an older one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from dicom_node.deliver.commitment_state import COMMITMENT_EVENT, CONFIRMABLE, confirm, give_up, unconfirmed
from dicom_node.ledger.commitment_box import CommitmentBox, Kind, read_record
from dicom_node.ledger.states import CommitmentState, DeliveryState, State, TransactionState
from dicom_node.ledger.store import Ledger, Transaction
from dicom_node.ledger.tables import CommitmentTransaction, Delivery, DeliveryInstance
from dicom_node.net.commitment_values import CommitmentReport
from dicom_node.net.status import failure_words
from dicom_node.settings import Settings

logger = logging.getLogger(__name__)

#: The instance is there, the request was not understood: asking with another UID is enough.
_DUPLICATE_TRANSACTION: Final = 0x0131
#: The peer keeps the instance but commits itself to no object of its class, however often it is sent.
_CLASS_NOT_SUPPORTED: Final = 0x0122


class CommitmentReports:
    """Takes reports into the ledger.

    Parameters
    ----------
    ledger : Ledger
        Open ledger.
    settings : callable
        Returns the settings in force.
    """

    def __init__(self, ledger: Ledger, settings: Callable[[], Settings]) -> None:
        self._ledger = ledger
        self._settings = settings
        self._box = CommitmentBox(ledger.paths.data_dir)

    def take_in(self) -> int:
        """Take in every report that waits; return their number.

        Raises
        ------
        OSError
            When the disk is full or gone; what was not taken in waits.
        """
        paths = self._box.waiting(Kind.REPORT)
        for path in paths:
            record = read_record(path)
            if record is not None:
                self._take(path, record)
                self._box.drop(path)
        return len(paths)

    def _take(self, path: Path, record: Mapping[str, Any]) -> None:
        report = CommitmentReport.from_json(record)
        with self._ledger.transaction() as change:
            row = change.session.scalar(
                select(CommitmentTransaction).where(CommitmentTransaction.transaction_uid == report.transaction_uid)
            )
            if row is None:
                logger.warning(
                    "%r reported transaction %s, which nobody here began", record["calling_ae"], report.transaction_uid
                )
            elif row.report == path.name:
                logger.debug("%s is in the ledger already", path.name)
            elif not self._is_from(row.peer, str(record["calling_ae"])):
                _remark(
                    change,
                    row.delivery,
                    "commitment_other_peer",
                    f"AE title {record['calling_ae']!r} reported what {row.peer} was asked for; it does not count. If "
                    f"both are one system, add the title to ae_titles of peer {row.peer}",
                )
            else:
                self._apply(change, row, report, path.name)

    def _is_from(self, name: str, calling_ae: str) -> bool:
        peer = self._settings().peer(name)
        return peer is not None and calling_ae in peer.ae_titles

    def _apply(self, change: Transaction, row: CommitmentTransaction, report: CommitmentReport, file_name: str) -> None:
        delivery = row.delivery
        change.touch(delivery.job)
        again = row.reported_at is not None
        row.report = file_name
        row.reported_at = row.reported_at or change.at
        confirmed = {one.sop_instance_uid for one in report.committed}
        open_before = unconfirmed(delivery)
        for item in open_before:
            if item.sop_instance_uid in confirmed:
                item.committed_at, item.failure_reason = change.at, None
        still_open = [item for item in open_before if item.committed_at is None]
        reasons = {one.sop_instance_uid: one.failure_reason for one in report.failed}
        failed = [item for item in still_open if item.sop_instance_uid in reasons]
        if again:
            _remark(change, delivery, "commitment_again", "a request was reported twice", _numbers(row, report))
        else:
            _note_outcome(row, failed, still_open)
        if not still_open:
            if delivery.commitment is not CommitmentState.COMMITTED:
                reason = f"{delivery.destination} keeps all instances"
                _remark(change, delivery, "commitment_confirmed", reason, _numbers(row, report))
                confirm(change, delivery)
        elif again or row is not delivery.transactions[-1] or not _is_awaited(delivery):
            logger.info("transaction %s is not the newest of its delivery; it waits on", row.transaction_uid)
        elif failed:
            self._failed(change, delivery, row, {item: reasons[item.sop_instance_uid] for item in failed})
        else:
            reason = f"{len(still_open)} of {row.instances} instances are not in the report"
            self._ask_again(change, delivery, row, "commitment_incomplete", reason)

    def _failed(
        self,
        change: Transaction,
        delivery: Delivery,
        row: CommitmentTransaction,
        failed: Mapping[DeliveryInstance, int],
    ) -> None:
        """Send again what the peer has not kept; where that means nothing, only ask again or give up."""
        reason = f"{len(failed)} of {row.instances} instances are not kept: {_reason_words(failed.values())}"
        row.code, row.reason = "commitment_failed", reason
        for item, number in failed.items():
            item.failure_reason = number
        kinds = set(failed.values())
        if kinds <= {_DUPLICATE_TRANSACTION}:
            self._ask_again(change, delivery, row, "commitment_failed", reason)
        elif kinds <= {_CLASS_NOT_SUPPORTED}:
            give_up(change, delivery, "commitment_failed", reason)
        else:
            self._send_again(change, delivery, list(failed), reason)

    def _send_again(
        self, change: Transaction, delivery: Delivery, failed: Sequence[DeliveryInstance], reason: str
    ) -> None:
        settings, job = self._settings(), delivery.job
        for item in failed:
            item.stored = False
        delivery.code, delivery.reason = "commitment_failed", reason
        delivery.commitment_code, delivery.commitment_reason = "commitment_failed", reason
        given_up = delivery.commitment_asked >= settings.commitment.attempts
        if job.state in (State.DELIVERED, State.FAILED):
            change.move_job(
                job, State.DELIVERING, code="commitment_failed", reason=f"to {delivery.destination}: {reason}"
            )
        if given_up:
            logger.error("job %s to %s is a dead letter: %s", job.key, delivery.destination, reason)
            delivery.state, delivery.next_try_at = DeliveryState.FAILED, None
            delivery.commitment, delivery.commitment_next_at = CommitmentState.UNCONFIRMED, None
            change.finish_delivery(delivery)
            return
        logger.warning("job %s to %s: %s; they are sent again", job.key, delivery.destination, reason)
        delivery.state, delivery.attempts = DeliveryState.PENDING, 0
        delivery.next_try_at = change.at + timedelta(seconds=settings.delivery.first_wait_s)

    def _ask_again(
        self, change: Transaction, delivery: Delivery, row: CommitmentTransaction, code: str, reason: str
    ) -> None:
        wait_s = self._settings().delivery.first_wait_s
        row.code, row.reason = code, reason
        delivery.commitment = CommitmentState.WAITING
        delivery.commitment_code, delivery.commitment_reason = code, reason
        delivery.commitment_next_at = change.at + timedelta(seconds=wait_s)
        logger.warning("job %s to %s: %s; it is asked again", delivery.job.key, delivery.destination, reason)


def _is_awaited(delivery: Delivery) -> bool:
    """Tell whether failures of this delivery still matter."""
    wanted = delivery.commitment in (CommitmentState.WAITING, CommitmentState.UNCONFIRMED)
    return wanted and delivery.state is DeliveryState.DELIVERED and delivery.job.state in CONFIRMABLE


def _note_outcome(
    row: CommitmentTransaction, failed: Sequence[DeliveryInstance], still_open: Sequence[DeliveryInstance]
) -> None:
    row.code = row.reason = None
    if failed:
        row.state = TransactionState.FAILED
    elif still_open:
        row.state = TransactionState.INCOMPLETE
    else:
        row.state = TransactionState.COMMITTED


def _remark(
    change: Transaction, delivery: Delivery, code: str, reason: str, figures: Mapping[str, object] | None = None
) -> None:
    change.remark(delivery.job.series, COMMITMENT_EVENT, code=code, reason=reason, figures=figures)


def _numbers(row: CommitmentTransaction, report: CommitmentReport) -> dict[str, object]:
    return {
        "transaction_uid": row.transaction_uid,
        "asked": row.instances,
        "committed": len(report.committed),
        "failed": len(report.failed),
    }


def _reason_words(reasons: Any) -> str:  # noqa: ANN401 - any iterable of numbers
    counts = Counter(reasons)
    return ", ".join(f"{failure_words(number)} (0x{number:04X}) {count}" for number, count in sorted(counts.items()))
