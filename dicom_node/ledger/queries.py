"""Questions to the ledger, answered as frozen records: what stands where, for how long, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.ledger.states import CommitmentState, DeliveryState, JobKind, State, StudyState
from dicom_node.ledger.tables import (
    Association,
    Delivery,
    DeliveryInstance,
    Event,
    Instance,
    Job,
    Series,
    SetAside,
    Study,
)

#: The stages of a journey in their order; each is the time between two moments of a job.
STAGES: Final[Mapping[str, tuple[str, str]]] = {
    "receive": ("first_arrival_at", "last_arrival_at"),
    "wait": ("last_arrival_at", "queued_at"),
    "queue": ("queued_at", "started_at"),
    "synthesize": ("started_at", "synthesized_at"),
    "derive": ("synthesized_at", "derived_at"),
    "deliver": ("derived_at", "delivered_at"),
    "total": ("last_arrival_at", "delivered_at"),
}


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long one stage took over the jobs that went through it: their number, median and 95th percentile, seconds."""

    jobs: int
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True, slots=True)
class AsideView:
    """One file that was acknowledged but set aside."""

    file_name: str
    at: datetime
    code: str
    reason: str
    sop_instance_uid: str | None
    series_instance_uid: str | None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; moments as ISO 8601."""
        return {key: _json_ready(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class StatusView:
    """The whole node in numbers."""

    series: Mapping[str, int]
    studies: Mapping[str, int]
    results: Mapping[str, int]
    notes: Mapping[str, int]
    deliveries: Mapping[str, int]
    commitments: Mapping[str, int]
    open_associations: int
    set_aside: int
    stages: Mapping[str, StageTime]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


#: What `status` shows where no ledger exists yet.
EMPTY_STATUS: Final = StatusView(
    series={state.value: 0 for state in State},
    studies={state.value: 0 for state in StudyState},
    results={state.value: 0 for state in State},
    notes={state.value: 0 for state in State},
    deliveries={state.value: 0 for state in DeliveryState},
    commitments={state.value: 0 for state in CommitmentState},
    open_associations=0,
    set_aside=0,
    stages={stage: StageTime(0, None, None) for stage in STAGES},
)


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One result on its way to one destination."""

    destination: str
    state: str
    attempts: int
    stored: int
    total: int
    next_try_at: datetime | None
    code: str | None
    reason: str | None
    commitment: str | None
    committed: int
    commitment_asked: int
    commitment_next_at: datetime | None
    commitment_code: str | None
    commitment_reason: str | None


@dataclass(frozen=True, slots=True)
class JobView:
    """One result of a series, finished or in the making."""

    key: str
    kind: str
    state: str
    code: str | None
    reason: str | None
    created_at: datetime
    attempts: int
    result_series_uid: str | None
    supersedes: str | None
    notes: tuple[str, ...]
    quality_flags: tuple[str, ...]
    figures: Mapping[str, Any]
    deliveries: tuple[DeliveryView, ...]


@dataclass(frozen=True, slots=True)
class SeriesView:
    """One series: where it stands and why."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    state: str
    code: str | None
    reason: str | None
    figures: Mapping[str, Any]
    instances: int
    calling_ae: str
    first_arrival_at: datetime
    last_arrival_at: datetime
    changed_at: datetime
    signs: tuple[str, ...]
    expected: Mapping[str, Any]
    score: float | None
    verdict_code: str | None
    verdict_reason: str | None
    study_state: str
    study_reason: str | None
    jobs: tuple[JobView, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; moments as ISO 8601."""
        return {key: _json_ready(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class EventView:
    """One line of a series' history."""

    at: datetime
    kind: str
    before: str | None
    after: str | None
    code: str | None
    reason: str | None
    figures: Mapping[str, Any]
    job_key: str | None

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; moments as ISO 8601."""
        return {key: _json_ready(value) for key, value in asdict(self).items()}


def status(session: Session) -> StatusView:
    """Count everything by state and take the stage times of the delivered results."""
    return StatusView(
        series=_counts(session, Series.state, State),
        studies=_counts(session, Study.state, StudyState),
        results=_counts(session, Job.state, State, Job.kind == JobKind.RESULT),
        notes=_counts(session, Job.state, State, Job.kind == JobKind.NOTE),
        deliveries=_counts(session, Delivery.state, DeliveryState),
        commitments=_counts(session, Delivery.commitment, CommitmentState),
        open_associations=session.scalar(
            select(func.count()).select_from(Association).where(Association.outcome == "open")
        )
        or 0,
        set_aside=session.scalar(select(func.count()).select_from(SetAside)) or 0,
        stages=stage_times(session),
    )


def stage_times(session: Session) -> dict[str, StageTime]:
    """Return p50 and p95 of every stage in seconds, over all jobs that went through it."""
    columns = sorted({name for pair in STAGES.values() for name in pair})
    query = select(*(getattr(Job, name) for name in columns)).where(Job.kind == JobKind.RESULT)
    rows = session.execute(query).mappings().all()
    times: dict[str, StageTime] = {}
    for stage, (begin, end) in STAGES.items():
        values = [(row[end] - row[begin]).total_seconds() for row in rows if row[begin] and row[end]]
        times[stage] = StageTime(len(values), percentile(values, 0.5), percentile(values, 0.95))
    return times


def percentile(values: Sequence[float], fraction: float) -> float | None:
    """Return the percentile by linear interpolation between ranks, or None of nothing.

    Examples
    --------
    >>> percentile([4.0, 1.0, 2.0, 3.0], 0.5)
    2.5
    """
    if not values:
        return None
    ordered = sorted(values)
    place = (len(ordered) - 1) * fraction
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return round(ordered[low] + (ordered[high] - ordered[low]) * (place - low), 3)


def list_series(
    session: Session, *, state: State | None = None, study_instance_uid: str | None = None, limit: int = 100
) -> list[SeriesView]:
    """Return series, the last changed first."""
    query = select(Series).join(Study).order_by(Series.changed_at.desc(), Series.id.desc()).limit(limit)
    if state is not None:
        query = query.where(Series.state == state)
    if study_instance_uid is not None:
        query = query.where(Study.study_instance_uid == study_instance_uid)
    return [series_view(session, series) for series in session.scalars(query)]


def find_series(session: Session, uid: str) -> list[Series]:
    """Return the series that a UID means: its own, that of its study, or that of a result made from it."""
    by_job = select(Job.series_id).where(Job.result_series_uid == uid)
    query = (
        select(Series)
        .join(Study)
        .where(
            (Series.series_instance_uid == uid)
            | (Study.study_instance_uid == uid)
            | (Series.id.in_(by_job.scalar_subquery()))
        )
        .order_by(Series.id)
    )
    return list(session.scalars(query))


def series_view(session: Session, series: Series) -> SeriesView:
    """Return one series with its results."""
    instances = session.scalar(select(func.count()).select_from(Instance).where(Instance.series_id == series.id))
    return SeriesView(
        study_instance_uid=series.study.study_instance_uid,
        series_instance_uid=series.series_instance_uid,
        modality=series.modality,
        state=series.state.value,
        code=series.code,
        reason=series.reason,
        figures=series.figures,
        instances=instances or 0,
        calling_ae=series.calling_ae,
        first_arrival_at=series.first_arrival_at,
        last_arrival_at=series.last_arrival_at,
        changed_at=series.changed_at,
        signs=tuple(series.signs),
        expected=series.expected,
        score=series.score,
        verdict_code=series.verdict_code,
        verdict_reason=series.verdict_reason,
        study_state=series.study.state.value,
        study_reason=series.study.reason,
        jobs=tuple(_job_view(session, job) for job in series.jobs),
    )


def history(session: Session, series: Series) -> list[EventView]:
    """Return every event of a series in its order."""
    events = session.scalars(select(Event).where(Event.series_id == series.id).order_by(Event.at, Event.id))
    return [EventView(e.at, e.kind, e.before, e.after, e.code, e.reason, e.figures, e.job_key) for e in events]


def set_aside(session: Session, limit: int = 100) -> list[AsideView]:
    """Return the files that were set aside, the newest first."""
    rows = session.scalars(select(SetAside).order_by(SetAside.at.desc()).limit(limit))
    return [AsideView(r.file_name, r.at, r.code, r.reason, r.sop_instance_uid, r.series_instance_uid) for r in rows]


def dead_letters(session: Session) -> list[SeriesView]:
    """Return the dead letter: every series that stands FAILED, or whose note about a refusal did not get out."""
    query = select(Series).where(is_dead_letter()).order_by(Series.changed_at.desc(), Series.id.desc())
    return [series_view(session, series) for series in session.scalars(query)]


def is_dead_letter() -> ColumnElement[bool]:
    """Return the condition on `Series` for the dead letter."""
    lost_note = exists().where(Job.series_id == Series.id, Job.kind == JobKind.NOTE, Job.state == State.FAILED)
    return or_(Series.state == State.FAILED, lost_note)


def _counts(
    session: Session,
    column: Any,  # noqa: ANN401 - any state column
    states: Iterable[Any],
    *conditions: ColumnElement[bool],
) -> dict[str, int]:
    query = select(column, func.count()).where(column.is_not(None), *conditions).group_by(column)
    found = {state.value: count for state, count in session.execute(query)}
    return {state.value: found.get(state.value, 0) for state in states}


def _job_view(session: Session, job: Job) -> JobView:
    return JobView(
        key=job.key,
        kind=job.kind.value,
        state=job.state.value,
        code=job.code,
        reason=job.reason,
        created_at=job.created_at,
        attempts=job.attempts,
        result_series_uid=job.result_series_uid,
        supersedes=job.supersedes,
        notes=tuple(job.notes),
        quality_flags=tuple(job.result.get("quality_flags", ())),
        figures=dict(job.result.get("figures", {})),
        deliveries=tuple(_delivery_view(session, delivery) for delivery in job.deliveries),
    )


def _delivery_view(session: Session, delivery: Delivery) -> DeliveryView:
    total, stored, committed = session.execute(
        select(
            func.count(),
            func.count().filter(DeliveryInstance.stored),
            func.count().filter(DeliveryInstance.committed_at.is_not(None)),
        ).where(DeliveryInstance.delivery_id == delivery.id)
    ).one()
    return DeliveryView(
        destination=delivery.destination,
        state=delivery.state.value,
        attempts=delivery.attempts,
        stored=stored,
        total=total,
        next_try_at=delivery.next_try_at,
        code=delivery.code,
        reason=delivery.reason,
        commitment=delivery.commitment.value if delivery.commitment else None,
        committed=committed,
        commitment_asked=delivery.commitment_asked,
        commitment_next_at=delivery.commitment_next_at,
        commitment_code=delivery.commitment_code,
        commitment_reason=delivery.commitment_reason,
    )


def _json_ready(value: Any) -> Any:  # noqa: ANN401 - any JSON type
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value
