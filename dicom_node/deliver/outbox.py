"""The outbox: every result reaches every destination, instance by instance, or ends in the dead letter with a reason.

One thread per destination, so that a PACS that is down delays nobody else. What was acknowledged is written down
before the next instance leaves; a retry sends only what is missing. Nothing is remembered here: each try reads the
ledger, and the node's scheduler calls `wake` when a wait is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, select

from dicom_node.deliver.commitment_state import await_commitment, settle
from dicom_node.deliver.companions import (
    NOT_DELIVERED,
    Companion,
    CompanionTrouble,
    missing_companions,
    send_companions,
)
from dicom_node.deliver.policy import delivery_policy
from dicom_node.deliver.rounds import DeliveryRounds
from dicom_node.deliver.sender import DeliveryReport, send_instances
from dicom_node.dicom.labels import LabelFacts, check_encoded
from dicom_node.errors import NodeError, Permanent, RetryPolicy, Transient
from dicom_node.ledger.job_file import OUT_FOLDER
from dicom_node.ledger.states import DeliveryState, JobKind, State
from dicom_node.ledger.store import Transaction
from dicom_node.ledger.tables import Delivery, DeliveryInstance, Job
from dicom_node.net.scu import StoreResult
from dicom_node.settings import Peer, Settings

logger = logging.getLogger(__name__)

#: `job.json` follows the ledger at least this often while a series is being sent.
_JOB_FILE_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Try:
    """All that one try needs, read from the ledger before the network is touched."""

    delivery_id: int
    job_key: str
    peer: Peer
    paths: tuple[Path, ...]
    facts: LabelFacts | None
    companions: tuple[Companion, ...]


def ensure_may_leave(bundle: Mapping[str, Any], settings: Settings) -> None:
    """Hold back what a phantom-trained or untrained network made, unless the site asked for it.

    Raises
    ------
    Permanent
        ``phantom_bundle``, saying which key of the configuration decides.
    """
    if settings.model.allow_phantom_bundle or (bundle.get("trained") and not bundle.get("is_phantom")):
        return
    what = "was trained on a digital phantom" if bundle.get("trained") else "is untrained"
    raise Permanent(
        "phantom_bundle",
        f"the model bundle {what}, so its results are not sent to a peer; set allow_phantom_bundle = true in [model] "
        "to allow it for tests, then replay the dead letter",
    )


class Outbox(DeliveryRounds):
    """Sends results to their destinations.

    Parameters
    ----------
    ledger : Ledger
        Open ledger.
    settings : callable
        Returns the settings in force; asked anew for every try, so a reload counts at once.
    """

    kind = "outbox"

    def _due(self) -> tuple[ColumnElement[bool], ...]:
        now = self._ledger.clock.now()
        return (
            Delivery.state == DeliveryState.PENDING,
            Job.state.in_((State.DERIVED, State.DELIVERING)),
            (Delivery.next_try_at.is_(None)) | (Delivery.next_try_at <= now),
        )

    def _attempt(self, delivery_id: int) -> None:
        """Make one try; whatever comes of it is in the ledger when this returns."""
        settings = self._settings()
        try:
            task = self._begin(delivery_id, settings)
            if task is None:
                return
            report = send_instances(
                task.peer,
                settings.node.ae_title,
                task.paths,
                check=None if task.facts is None else partial(check_encoded, facts=task.facts),
                on_result=self._recorder(task),
                timeout_s=task.peer.association_timeout_s or settings.delivery.association_timeout_s,
            )
        except NodeError as error:
            self._conclude(delivery_id, error, settings)
        except FileNotFoundError:
            self._conclude(
                delivery_id, Permanent("result_missing", "a result file is gone; use: series retry --new"), settings
            )
        except OSError as error:
            self._conclude(
                delivery_id, Transient("storage", f"a result file cannot be read: {error.strerror}"), settings
            )
        else:
            trouble = _trouble(report)
            self._conclude(delivery_id, trouble, settings, () if trouble else self._send_companions(task, settings))

    def _send_companions(self, task: _Try, settings: Settings) -> tuple[CompanionTrouble, ...]:
        return send_companions(
            task.peer,
            settings.node.ae_title,
            task.companions,
            judge=_trouble,
            on_result=self._recorder(task),
            timeout_s=settings.delivery.association_timeout_s,
        )

    def _begin(self, delivery_id: int, settings: Settings) -> _Try | None:
        with self._ledger.transaction() as change:
            delivery = change.session.get_one(Delivery, delivery_id)
            job = delivery.job
            if delivery.state is not DeliveryState.PENDING or job.state not in (State.DERIVED, State.DELIVERING):
                return None
            delivery.attempts += 1
            is_note = job.kind is JobKind.NOTE
            if not is_note:
                ensure_may_leave(job.bundle, settings)
            peer = settings.peer(delivery.destination)
            if peer is None:
                raise Permanent(
                    "unknown_destination", f"no peer is named {delivery.destination} any more; replay when it is back"
                )
            if job.state is State.DERIVED:
                change.move_job(job, State.DELIVERING)
            out = self._ledger.paths.jobs / job.key / OUT_FOLDER
            missing = {item.sop_instance_uid for item in delivery.instances if not item.stored}
            files = [item for item in job.result["instances"] if item["sop_instance_uid"] in missing]
            return _Try(
                delivery_id=delivery_id,
                job_key=job.key,
                peer=peer,
                paths=tuple(out / item["file"] for item in files),
                facts=None if is_note else LabelFacts.from_json(job.result["label_facts"]),
                companions=missing_companions(job.result, missing, out),
            )

    def _recorder(self, task: _Try) -> Callable[[Path, StoreResult], None]:
        """Return the callback that writes down each answer before the next instance leaves."""
        last_file = time.monotonic()

        def record(path: Path, result: StoreResult) -> None:
            nonlocal last_file
            with self._ledger.transaction() as change:
                row = change.session.scalars(
                    select(DeliveryInstance).where(
                        DeliveryInstance.delivery_id == task.delivery_id,
                        DeliveryInstance.sop_instance_uid == result.sop_instance_uid,
                    )
                ).one()
                row.status, row.stored, row.sent_at = result.status, result.category.is_stored, change.at
                if time.monotonic() - last_file >= _JOB_FILE_EVERY_S:
                    change.touch(row.delivery.job)
                    last_file = time.monotonic()

        return record

    def _conclude(
        self,
        delivery_id: int,
        trouble: NodeError | None,
        settings: Settings,
        companions: Sequence[CompanionTrouble] = (),
    ) -> None:
        """Write down how a try ended: delivered, tried again later, or given up.

        The images decide. A companion that may still get through makes another try; one that does not in the end is a
        remark. A note has no images: it decides for itself.
        """
        policy = delivery_policy(settings.delivery)
        with self._ledger.transaction() as change:
            delivery = change.session.get_one(Delivery, delivery_id)
            if delivery.state is not DeliveryState.PENDING:
                return
            change.touch(delivery.job)
            if trouble is None and companions:
                trouble = _of_companions(delivery, companions, policy)
            if trouble is None:
                for one in companions:
                    reason = one.told(delivery.destination)
                    change.remark(delivery.job.series, NOT_DELIVERED, code=one.error.code, reason=reason)
                delivery.state, delivery.delivered_at = DeliveryState.DELIVERED, change.at
                delivery.code = delivery.reason = delivery.next_try_at = None
                await_commitment(delivery, settings, change.at)
                change.finish_delivery(delivery)
                settle(change, delivery.job)
                return
            delivery.code, delivery.reason = trouble.code, trouble.reason
            if isinstance(trouble, Transient) and delivery.attempts < policy.attempts:
                wait_s = policy.wait_s(delivery.attempts)
                delivery.next_try_at = change.at + timedelta(seconds=wait_s)
                logger.warning(
                    "job %s to %s: %s; try %d of %d failed, next in %.0f s",
                    delivery.job.key,
                    delivery.destination,
                    trouble,
                    delivery.attempts,
                    policy.attempts,
                    wait_s,
                )
                return
            self._give_up(change, delivery, trouble)

    def _give_up(self, change: Transaction, delivery: Delivery, trouble: NodeError) -> None:
        logger.error("job %s to %s is a dead letter: %s", delivery.job.key, delivery.destination, trouble)
        delivery.state, delivery.next_try_at = DeliveryState.FAILED, None
        change.finish_delivery(delivery)


def _of_companions(delivery: Delivery, companions: Sequence[CompanionTrouble], policy: RetryPolicy) -> NodeError | None:
    """Return what is to be done about companions that did not get through, when everything else did."""
    if delivery.job.kind is JobKind.NOTE:
        return companions[0].error
    if delivery.attempts < policy.attempts:
        return next((one.error for one in companions if one.transient), None)
    return None


def _trouble(report: DeliveryReport) -> NodeError | None:
    """Return what kept a try from being complete, or None.

    While anything may still pass, the try counts as transient: an instance that the peer refuses for good is reported
    only when all the others are through.
    """
    if report.complete:
        return None
    if report.error is not None and not report.failed:
        return report.error
    outcomes = {outcome.path: outcome.result for outcome in report.outcomes}
    answers = [outcomes[path] for path in (*report.to_retry, *report.failed) if path in outcomes]
    comment = answers[0].comment if answers else str(report.error)
    figures: dict[str, object] = {
        "stored": len(report.stored),
        "to_retry": len(report.to_retry),
        "failed": len(report.failed),
        "statuses": sorted({f"0x{one.status:04X}" for one in answers if one.status is not None}),
    }
    if report.to_retry:
        return Transient("store_failed", f"{len(report.to_retry)} instances were not stored: {comment}", figures)
    return Permanent("store_refused", f"{len(report.failed)} instances were refused for good: {comment}", figures)
