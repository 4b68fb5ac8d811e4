"""Report transfers for the audit trail, by looking at the ledger: what began and what ended since the last look.

Nothing that receives or delivers knows of the audit. A service that is killed between a change and the next look
leaves out that one report; what was under way at its end is reported by the next service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from dicom_node.ledger.states import DeliveryState
from dicom_node.ledger.store import Ledger
from dicom_node.ledger.tables import Association, Delivery, DeliveryInstance, Instance, Job, Series, Study
from dicom_node.operate.audit_message import AuditEvent, Kind, Outcome
from dicom_node.settings import Settings

#: Takes one event as JSON types.
Say = Callable[[Mapping[str, Any]], None]


class TransferWatch:
    """What was under way at the last look.

    Parameters
    ----------
    ledger : Ledger
        Open ledger; its present content counts as reported.
    settings : callable
        Returns the settings in force.
    say : callable
        Gets each event.
    """

    def __init__(self, ledger: Ledger, settings: Callable[[], Settings], say: Say) -> None:
        self._ledger = ledger
        self._settings = settings
        self._say = say
        with ledger.reading() as session:
            self._last_association = session.scalar(select(func.max(Association.id))) or 0
            self._last_delivery = session.scalar(select(func.max(Delivery.id))) or 0
            open_ones = select(Association.id).where(Association.outcome == "open")
            self._open = set(session.scalars(open_ones))
            pending = select(Delivery.id, Delivery.attempts).where(Delivery.state == DeliveryState.PENDING)
            self._pending = {number: attempts > 0 for number, attempts in session.execute(pending)}

    def look(self) -> None:
        """Report everything that began or ended since the last look."""
        with self._ledger.reading() as session:
            events = [*self._associations(session), *self._deliveries(session)]
        for event in events:
            self._say(event.to_json())

    def _associations(self, session: Session) -> list[AuditEvent]:
        events: list[AuditEvent] = []
        query = select(Association).where(or_(Association.id > self._last_association, Association.id.in_(self._open)))
        for row in session.scalars(query.order_by(Association.id)):
            if row.id > self._last_association:
                self._last_association = row.id
                self._open.add(row.id)
                events.append(
                    AuditEvent(Kind.RECEIVING, at=row.opened_at.isoformat(), peer=row.calling_ae, host=row.host)
                )
            if row.outcome != "open":
                self._open.discard(row.id)
                events.append(self._received(session, row))
        return events

    def _received(self, session: Session, row: Association) -> AuditEvent:
        studies = (
            select(Study.study_instance_uid, func.count())
            .join(Series, Series.study_id == Study.id)
            .join(Instance, Instance.series_id == Series.id)
            .where(Instance.association_key == row.key)
            .group_by(Study.study_instance_uid)
        )
        broken = row.outcome != "closed"
        return AuditEvent(
            Kind.RECEIVED,
            at=(row.closed_at or row.opened_at).isoformat(),
            outcome=Outcome.MINOR_FAILURE if broken else Outcome.SUCCESS,
            reason="the association was aborted; what had come is kept" if broken else "",
            peer=row.calling_ae,
            host=row.host,
            studies=dict(session.execute(studies).all()),
        )

    def _deliveries(self, session: Session) -> list[AuditEvent]:
        events: list[AuditEvent] = []
        query = select(Delivery).where(
            or_(
                Delivery.id > self._last_delivery,
                Delivery.id.in_(self._pending),
                # A dead letter that was replayed.
                Delivery.state == DeliveryState.PENDING,
            )
        )
        for row in session.scalars(query.order_by(Delivery.id)):
            self._last_delivery = max(self._last_delivery, row.id)
            if row.attempts and not self._pending.get(row.id, False):
                events.append(self._sent(session, row, Kind.SENDING))
            self._pending[row.id] = row.attempts > 0
            if row.state is not DeliveryState.PENDING:
                del self._pending[row.id]
                events.append(self._sent(session, row, Kind.SENT))
        return events

    def _sent(self, session: Session, row: Delivery, kind: Kind) -> AuditEvent:
        peer = self._settings().peer(row.destination)
        stored = select(func.count()).where(DeliveryInstance.delivery_id == row.id, DeliveryInstance.stored)
        study = (
            select(Study.study_instance_uid)
            .join(Series, Series.study_id == Study.id)
            .join(Job, Job.series_id == Series.id)
            .where(Job.id == row.job_id)
        )
        failed = kind is Kind.SENT and row.state is DeliveryState.FAILED
        more = {"at": row.delivered_at.isoformat()} if kind is Kind.SENT and row.delivered_at is not None else {}
        return AuditEvent(
            kind,
            outcome=Outcome.SERIOUS_FAILURE if failed else Outcome.SUCCESS,
            reason=(row.code or "") if failed else "",
            peer=(peer.called_ae_title if peer is not None else "") or row.destination,
            host="" if peer is None else peer.dicomweb_url or peer.host,
            studies={session.scalars(study).one(): session.scalar(stored) or 0 if kind is Kind.SENT else 0},
            **more,
        )
