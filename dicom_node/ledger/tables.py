"""The tables of the ledger as typed SQLAlchemy classes.

They hold UIDs, states, numbers and reasons, and no patient data: neither names nor IDs nor free text of a header. Times
are UTC. Whatever stands here can be rebuilt from the journals in the spool (see `dicom_node.ledger.rebuild`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Dialect, Enum, ForeignKey, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from dicom_node.ledger.states import CommitmentState, DeliveryState, JobKind, State, StudyState, TransactionState

UID_LENGTH = 64

#: Remark about a series of which its source holds more than has come; its figures hold what `Series.expected` holds.
AWAITED_EVENT = "awaited"


class UtcDateTime(TypeDecorator[datetime]):
    """A moment with offset in Python, UTC in the database (SQLite itself knows no time zones)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn any moment into UTC; a moment without offset is a defect of the caller."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without time zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give the stored moment its offset back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Common base: names for every constraint, and how Python types become columns."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        list[str]: JSON(),
        State: Enum(State, native_enum=False, length=16),
        StudyState: Enum(StudyState, native_enum=False, length=16),
        DeliveryState: Enum(DeliveryState, native_enum=False, length=16),
        JobKind: Enum(JobKind, native_enum=False, length=16),
        CommitmentState: Enum(CommitmentState, native_enum=False, length=16),
        TransactionState: Enum(TransactionState, native_enum=False, length=16),
    }


class Study(Base):
    """One study: OPEN while its series arrive, then DECIDED for one series or none."""

    __tablename__ = "studies"

    id: Mapped[int] = mapped_column(primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH), unique=True)
    state: Mapped[StudyState] = mapped_column(default=StudyState.OPEN)
    opened_at: Mapped[datetime]
    last_arrival_at: Mapped[datetime]
    decided_at: Mapped[datetime | None]
    code: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(Text)
    chosen_series_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH))

    series: Mapped[list[Series]] = relationship(back_populates="study", order_by="Series.id")


class Series(Base):
    """One series of one study, the unit that travels through the node."""

    __tablename__ = "series"
    __table_args__ = (UniqueConstraint("study_id", "series_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id"), index=True)
    series_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH), index=True)
    folder: Mapped[str] = mapped_column(String(64))
    modality: Mapped[str] = mapped_column(String(16), default="")
    state: Mapped[State] = mapped_column(default=State.RECEIVING, index=True)
    code: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(Text)
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    calling_ae: Mapped[str] = mapped_column(String(16), default="")
    host: Mapped[str] = mapped_column(String(255), default="")
    first_arrival_at: Mapped[datetime]
    last_arrival_at: Mapped[datetime]
    changed_at: Mapped[datetime]
    signs: Mapped[list[str]] = mapped_column(default=list)
    expected: Mapped[dict[str, Any]] = mapped_column(default=dict)
    score: Mapped[float | None]
    verdict_code: Mapped[str | None] = mapped_column(String(64))
    verdict_reason: Mapped[str | None] = mapped_column(Text)
    job_key: Mapped[str | None] = mapped_column(String(64))

    study: Mapped[Study] = relationship(back_populates="series")
    instances: Mapped[list[Instance]] = relationship(back_populates="series", order_by="Instance.id")
    jobs: Mapped[list[Job]] = relationship(back_populates="series", order_by="Job.id")

    @property
    def results(self) -> list[Job]:
        """Jobs that make, or made, a synthetic series; the notes about refusals are not among them."""
        return [job for job in self.jobs if job.kind is JobKind.RESULT]


class Association(Base):
    """One association as the receiver's journal told it."""

    __tablename__ = "associations"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(String(255))
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    outcome: Mapped[str] = mapped_column(String(16), default="open", index=True)


class Instance(Base):
    """One received instance; the first copy wins."""

    __tablename__ = "instances"
    __table_args__ = (UniqueConstraint("series_id", "sop_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    file_name: Mapped[str] = mapped_column(String(64))
    content_sha256: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]
    association_key: Mapped[str] = mapped_column(String(64))
    offset_mm: Mapped[float | None]
    slice_thickness_mm: Mapped[float | None]
    images_in_acquisition: Mapped[int | None]
    series_related_instances: Mapped[int | None]

    series: Mapped[Series] = relationship(back_populates="instances")


class SetAside(Base):
    """A file that was acknowledged but cannot be used: unreadable, or a second copy with other bytes."""

    __tablename__ = "set_aside"

    id: Mapped[int] = mapped_column(primary_key=True)
    file_name: Mapped[str] = mapped_column(String(128), unique=True)
    at: Mapped[datetime]
    association_key: Mapped[str] = mapped_column(String(64))
    code: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text)
    sop_instance_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH))
    series_instance_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH), index=True)


class Job(Base):
    """One synthesis result in the making, or one note about a refusal; its folder is ``jobs/<key>``."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    kind: Mapped[JobKind] = mapped_column(default=JobKind.RESULT)
    state: Mapped[State] = mapped_column(default=State.QUEUED, index=True)
    code: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(Text)
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime]
    input_digest: Mapped[str] = mapped_column(String(64), index=True)
    sources: Mapped[dict[str, Any]] = mapped_column(default=dict)
    notes: Mapped[list[str]] = mapped_column(default=list)
    calling_ae: Mapped[str] = mapped_column(String(16))
    supersedes: Mapped[str | None] = mapped_column(String(64))
    superseded_series_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH))
    bundle: Mapped[dict[str, Any]] = mapped_column(default=dict)
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    result_series_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH), index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    derive_attempts: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]
    first_arrival_at: Mapped[datetime]
    last_arrival_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    synthesized_at: Mapped[datetime | None]
    derived_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]

    series: Mapped[Series] = relationship(back_populates="jobs")
    deliveries: Mapped[list[Delivery]] = relationship(back_populates="job", order_by="Delivery.id")


class Delivery(Base):
    """One result on its way to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (UniqueConstraint("job_id", "destination"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    destination: Mapped[str] = mapped_column(String(64), index=True)
    state: Mapped[DeliveryState] = mapped_column(default=DeliveryState.PENDING, index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime | None]
    code: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(Text)
    delivered_at: Mapped[datetime | None]
    commitment: Mapped[CommitmentState | None] = mapped_column(index=True)
    commitment_asked: Mapped[int] = mapped_column(default=0)
    commitment_tries: Mapped[int] = mapped_column(default=0)
    commitment_next_at: Mapped[datetime | None]
    commitment_code: Mapped[str | None] = mapped_column(String(64))
    commitment_reason: Mapped[str | None] = mapped_column(Text)

    job: Mapped[Job] = relationship(back_populates="deliveries")
    instances: Mapped[list[DeliveryInstance]] = relationship(back_populates="delivery", order_by="DeliveryInstance.id")
    transactions: Mapped[list[CommitmentTransaction]] = relationship(
        back_populates="delivery", order_by="CommitmentTransaction.id"
    )


class DeliveryInstance(Base):
    """The answer of one destination to one instance; a row without `sent_at` still has to go out."""

    __tablename__ = "delivery_instances"
    __table_args__ = (UniqueConstraint("delivery_id", "sop_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(UID_LENGTH))
    status: Mapped[int | None]
    stored: Mapped[bool] = mapped_column(default=False)
    sent_at: Mapped[datetime | None]
    committed_at: Mapped[datetime | None]
    failure_reason: Mapped[int | None]

    delivery: Mapped[Delivery] = relationship(back_populates="instances")


class CommitmentTransaction(Base):
    """One request for storage commitment of a delivery, and what came of it."""

    __tablename__ = "commitment_transactions"

    id: Mapped[int] = mapped_column(primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), index=True)
    transaction_uid: Mapped[str] = mapped_column(String(UID_LENGTH), unique=True)
    peer: Mapped[str] = mapped_column(String(64))
    state: Mapped[TransactionState] = mapped_column(default=TransactionState.ASKED)
    instances: Mapped[int]
    asked_at: Mapped[datetime]
    accepted_at: Mapped[datetime | None]
    reported_at: Mapped[datetime | None]
    report: Mapped[str | None] = mapped_column(String(128))
    code: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(Text)

    delivery: Mapped[Delivery] = relationship(back_populates="transactions")


class Event(Base):
    """One change or remark with its time, so that "when" and "why" are queries."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32), index=True)
    study_instance_uid: Mapped[str | None] = mapped_column(String(UID_LENGTH))
    series_id: Mapped[int | None] = mapped_column(ForeignKey("series.id"), index=True)
    job_key: Mapped[str | None] = mapped_column(String(64), index=True)
    before: Mapped[str | None] = mapped_column(String(16))
    after: Mapped[str | None] = mapped_column(String(16))
    code: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str | None] = mapped_column(Text)
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
