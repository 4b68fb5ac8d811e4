"""Checks of the ledger: it opens, what it gave up, what waits, and when each sender was last here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from alembic.migration import MigrationContext
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.errors import Permanent
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.ledger.states import DeliveryState, State
from dicom_node.ledger.store import Ledger
from dicom_node.ledger.tables import Association, Delivery, Job, Series
from dicom_node.operate.doctor.findings import US, Finding, failed, passed, warned
from dicom_node.settings import Settings

_REBUILD: Final = (
    "stop the node, move ledger.sqlite and its -wal and -shm away, start it: the ledger is rebuilt from the journals"
)


@dataclass(frozen=True, slots=True)
class Records:
    """What the ledger says.

    Attributes
    ----------
    findings : tuple of Finding
        The checks.
    exists : bool
        Whether a node ever ran on this data folder.
    last_seen : Mapping
        When an association under each calling AE title was last opened that brought images.
    """

    findings: tuple[Finding, ...]
    exists: bool = False
    last_seen: Mapping[str, datetime] = field(default_factory=dict)


def records(settings: Settings) -> Records:
    """Examine the ledger without changing it."""
    try:
        ledger = Ledger.open_to_read(SpoolPaths(settings.node.data_dir), settings.ledger.url)
        if ledger is None:
            return Records((passed("ledger.open", "none yet; the first start of the node makes it"),))
        try:
            with ledger.reading() as session:
                return _read(session)
        finally:
            ledger.close()
    except Permanent as error:
        remedy = (
            "start this version of the node, which brings an older ledger up to date; a newer one needs its version"
        )
        return Records((failed("ledger.open", error.reason, US, remedy),), exists=True)
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or type(error).__name__
        return Records((failed("ledger.open", f"it does not open: {cause}", US, _REBUILD),), exists=True)


def _read(session: Session) -> Records:
    connection = session.connection()
    revision = MigrationContext.configure(connection).get_current_revision()
    whole = "ok"
    if connection.dialect.name == "sqlite":
        whole = str(session.scalar(text("PRAGMA quick_check(1)")))
    if whole != "ok":
        return Records((failed("ledger.open", f"it is damaged: {whole}", US, _REBUILD),), exists=True)
    opened = passed("ledger.open", f"whole, revision {revision}, the newest")
    seen = select(Association.calling_ae, func.max(Association.opened_at)).group_by(Association.calling_ae)
    last_seen = {title.strip(): _utc(moment) for title, moment in session.execute(seen)}
    return Records((opened, _dead_letters(session), _pending(session)), exists=True, last_seen=last_seen)


def _dead_letters(session: Session) -> Finding:
    codes = Counter(session.scalars(select(Series.code).where(Series.state == State.FAILED)))
    if not codes:
        return passed("ledger.dead_letters", "none")
    listed = ", ".join(f"{code or 'without code'} {count} times" for code, count in codes.most_common())
    remedy = "see: jmmda-node dead-letter list; mend the cause, then: jmmda-node dead-letter replay --all"
    return warned("ledger.dead_letters", f"{codes.total()} series: {listed}", US, remedy)


def _pending(session: Session) -> Finding:
    rows = session.execute(
        select(Delivery.destination, Delivery.attempts, Delivery.code, Delivery.reason, Job.derived_at, Job.created_at)
        .join(Job)
        .where(Delivery.state == DeliveryState.PENDING)
        .order_by(Delivery.id)
    ).all()
    if not rows:
        return passed("ledger.pending", "no delivery waits")
    oldest = rows[0]
    hours = (datetime.now(UTC) - _utc(oldest.derived_at or oldest.created_at)).total_seconds() / 3600
    seen = f"{len(rows)} wait, the oldest for {hours:.1f} h to {oldest.destination}"
    tried = next((row for row in rows if row.attempts and row.code), None)
    if tried is None:
        return passed("ledger.pending", seen)
    remedy = f"see the checks of peer {tried.destination}; deliveries go on by themselves once it takes them"
    return warned("ledger.pending", f"{seen}; {tried.attempts} tries failed, the last by {tried.code}", US, remedy)


def _utc(moment: datetime | str) -> datetime:
    """An aggregate loses the type of its column, and SQLite then gives the moment as text."""
    found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
