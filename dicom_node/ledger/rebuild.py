"""Making the ledger again from the journals in the spool, and the journals again from the ledger.

Every transaction is committed first and journalled right after (`Ledger.transaction`). Two things can therefore go
wrong, and both are mended at start: the database is lost or empty (`restore_missing` reads the journals), or the
process died between a commit and its journal lines (`sync_journals` writes the newest state once more).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.ledger.durable import append_line, read_lines
from dicom_node.ledger.job_file import read_job_file, restore_job, row_from_json, write_job_file
from dicom_node.ledger.states import AT_REST, CommitmentState, State, StudyState
from dicom_node.ledger.store import ASIDE_JOURNAL, SERIES_JOURNAL, Ledger, Transaction
from dicom_node.ledger.tables import (
    AWAITED_EVENT,
    Association,
    Delivery,
    Event,
    Instance,
    Job,
    Series,
    SetAside,
    Study,
)

logger = logging.getLogger(__name__)

#: How many of the newest events may belong to transactions whose journal lines a crash has cut off.
_NEWEST_EVENTS: Final = 200


@dataclass(frozen=True, slots=True)
class Restored:
    """How much was read back from the journals."""

    series: int
    jobs: int


def restore_missing(ledger: Ledger) -> Restored:
    """Read back every series and job that has a journal in the spool but no row in the ledger.

    With an empty ledger that is all of them; with a whole one it is none, and costs one look at the folders.
    """
    restored_series = restored_jobs = 0
    with ledger.reading() as session:
        known_folders = set(session.scalars(select(Series.folder)))
        known_jobs = set(session.scalars(select(Job.key)))
    for folder in _folders(ledger.paths.series, known_folders):
        lines = list(read_lines(folder / SERIES_JOURNAL))
        if any(line.get("event") == "series" for line in lines):
            with ledger.transaction() as change:
                _replay(change, folder.name, lines)
            restored_series += 1
    for folder in _folders(ledger.paths.jobs, known_jobs):
        restored_jobs += _restore_job_folder(ledger, folder)
    _restore_set_aside(ledger)
    if restored_series or restored_jobs:
        logger.warning(
            "the ledger lacked %d series and %d jobs: restored from the journals", restored_series, restored_jobs
        )
    return Restored(restored_series, restored_jobs)


def sync_journals(ledger: Ledger) -> None:
    """Write the newest states to the journals once more where a crash may have cut them off."""
    with ledger.reading() as session:
        newest = select(Event.series_id).order_by(Event.id.desc()).limit(_NEWEST_EVENTS)
        for series in session.scalars(select(Series).where(Series.id.in_(newest.scalar_subquery()))):
            _sync_series(ledger, series)
        waiting = select(Delivery.job_id).where(Delivery.commitment == CommitmentState.WAITING)
        suspects = select(Job).where(
            Job.state.not_in(AT_REST)
            | Job.series_id.in_(newest.scalar_subquery())
            | Job.id.in_(waiting.scalar_subquery())
        )
        for job in session.scalars(suspects):
            write_job_file(ledger.paths.jobs / job.key, job)


def _sync_series(ledger: Ledger, series: Series) -> None:
    journal = ledger.paths.series / series.folder / SERIES_JOURNAL
    last = next((line for line in reversed(list(read_lines(journal))) if line.get("event") == "state"), None)
    if not journal.parent.is_dir() or (last or {}).get("after", State.RECEIVING.value) == series.state.value:
        return
    append_line(
        journal,
        {
            "event": "state",
            "at": series.changed_at.isoformat(),
            "before": None,
            "after": series.state.value,
            "code": series.code,
            "reason": series.reason,
            "figures": series.figures,
            "job_key": series.job_key,
        },
    )


def _folders(root: Path, known: set[str]) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name not in known)


def _restore_job_folder(ledger: Ledger, folder: Path) -> bool:
    record = read_job_file(folder)
    if record is None:
        return False
    with ledger.transaction() as change:
        series = change.session.scalar(
            select(Series)
            .join(Study)
            .where(
                Study.study_instance_uid == record.get("study_instance_uid"),
                Series.series_instance_uid == record.get("series_instance_uid"),
            )
        )
        if series is None:
            logger.warning("job %s belongs to a series that is not in the spool; left out", folder.name)
            return False
        job = restore_job(change.session, series, record)
        if series.job_key == job.key:
            # The job's own file is the younger of the two records of one and the same step.
            series.state, series.code, series.reason, series.figures = job.state, job.code, job.reason, job.figures
    return True


def _restore_set_aside(ledger: Ledger) -> None:
    lines = [line for line in read_lines(ledger.paths.quarantine / ASIDE_JOURNAL) if "file_name" in line]
    with ledger.transaction() as change:
        known = set(change.session.scalars(select(SetAside.file_name)))
        rows = {str(line["file_name"]): SetAside(**row_from_json(SetAside, line)) for line in lines}
        change.session.add_all(row for name, row in rows.items() if name not in known)


def _replay(change: Transaction, folder: str, lines: list[dict[str, Any]]) -> None:
    """Make the rows of one series from the lines of its journal, in their order."""
    first = next(line for line in lines if line.get("event") == "series")
    at = _moment(first["at"])
    study = _study(change.session, str(first["study_instance_uid"]), at)
    series = Series(
        study=study,
        series_instance_uid=str(first["series_instance_uid"]),
        folder=folder,
        modality=str(first.get("modality", "")),
        state=State.RECEIVING,
        figures={},
        signs=[],
        expected={},
        calling_ae=str(first.get("calling_ae", "")),
        host=str(first.get("host", "")),
        first_arrival_at=at,
        last_arrival_at=at,
        changed_at=at,
    )
    change.session.add(series)
    change.session.flush()
    for line in lines:
        handler = _HANDLERS.get(str(line.get("event")), _replay_remark)
        handler(change.session, series, line)


def _study(session: Session, uid: str, at: datetime) -> Study:
    study = session.scalar(select(Study).where(Study.study_instance_uid == uid))
    if study is None:
        study = Study(study_instance_uid=uid, state=StudyState.OPEN, opened_at=at, last_arrival_at=at)
        session.add(study)
        session.flush()
    study.opened_at = min(study.opened_at, at)
    return study


def _replay_nothing(session: Session, series: Series, line: Mapping[str, Any]) -> None:
    """Pass over the line that began the journal; it was read first."""


def _replay_instance(session: Session, series: Series, line: Mapping[str, Any]) -> None:
    values = row_from_json(Instance, line)
    if any(known.sop_instance_uid == values["sop_instance_uid"] for known in series.instances):
        return
    series.instances.append(Instance(**values))
    at = values["received_at"]
    series.last_arrival_at = max(series.last_arrival_at, at)
    series.study.last_arrival_at = max(series.study.last_arrival_at, at)


def _replay_association(session: Session, series: Series, line: Mapping[str, Any]) -> None:
    values = row_from_json(Association, line)
    known = session.scalar(select(Association).where(Association.key == values["key"]))
    if known is None:
        session.add(Association(**values))
        session.flush()
        return
    known.closed_at, known.outcome = values.get("closed_at"), values["outcome"]


def _replay_verdict(session: Session, series: Series, line: Mapping[str, Any]) -> None:
    # Version 0.1 wrote the score beside code and reason, and nothing else.
    series.score = (line.get("figures") or line).get("score")
    series.verdict_code, series.verdict_reason = line.get("code"), line.get("reason")
    if line.get("figures"):
        _replay_remark(session, series, line)


def _replay_study(session: Session, series: Series, line: Mapping[str, Any]) -> None:
    study, at = series.study, _moment(line["at"])
    if study.decided_at is not None and study.decided_at > at:
        return
    study.state = StudyState(line["state"])
    study.code, study.reason, study.chosen_series_uid = line.get("code"), line.get("reason"), line.get("chosen")
    study.decided_at = at if study.state is StudyState.DECIDED else None


def _replay_state(session: Session, series: Series, line: Mapping[str, Any]) -> None:
    series.state = State(line["after"])
    series.code, series.reason = line.get("code"), line.get("reason")
    series.figures = line.get("figures") or {}
    series.changed_at = _moment(line["at"])
    series.signs = (line.get("figures") or {}).get("signs", series.signs)
    _replay_expected(session, series, line)


def _replay_expected(session: Session, series: Series, line: Mapping[str, Any]) -> None:
    series.expected = (line.get("figures") or {}).get("expected", series.expected)
    _replay_remark(session, series, line)


def _replay_remark(session: Session, series: Series, line: Mapping[str, Any]) -> None:
    values = row_from_json(Event, {**line, "kind": line.get("event", "remark")})
    session.add(Event(series_id=series.id, **values))


def _moment(text: object) -> datetime:
    moment = datetime.fromisoformat(str(text))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_HANDLERS: Final[Mapping[str, Callable[[Session, Series, Mapping[str, Any]], None]]] = {
    "series": _replay_nothing,
    "instance": _replay_instance,
    "association": _replay_association,
    "verdict": _replay_verdict,
    "study": _replay_study,
    "state": _replay_state,
    AWAITED_EVENT: _replay_expected,
}
