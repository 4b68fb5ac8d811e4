"""Opening the ledger, and the one way to change it: a transaction that also keeps the journals in the spool.

Only the service writes (design section 2). Inside the service several threads do, one at a time: SQLite has one writer
anyway, and a lock in the process gives an order instead of "database is locked".
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, inspect, make_url, select
from sqlalchemy.orm import Session, sessionmaker

from dicom_node.errors import Permanent
from dicom_node.ledger.clock import Clock
from dicom_node.ledger.durable import append_lines
from dicom_node.ledger.job_file import write_job_file
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.ledger.states import DeliveryState, State, StudyState, check_transition
from dicom_node.ledger.tables import Delivery, Event, Job, Series, Study

logger = logging.getLogger(__name__)

SERIES_JOURNAL: Final = "series.jsonl"
#: Journal of the files in the quarantine.
ASIDE_JOURNAL: Final = "quarantine.jsonl"
#: Bringing an older ledger up to date takes less.
_MIGRATION_WAIT_S: Final = 3.0
MIGRATIONS: Final = Path(__file__).parent / "migrations"


def ledger_url(paths: SpoolPaths, url: str | None) -> str:
    """Return the SQLAlchemy URL of the ledger: the configured one, or ``DATA_DIR/ledger.sqlite``."""
    return url or f"sqlite:///{paths.data_dir / 'ledger.sqlite'}"


def migrate(engine: Engine) -> None:
    """Bring the tables to the newest revision with the packaged Alembic migrations."""
    config = _alembic_config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _is_up_to_date(engine: Engine) -> bool | None:
    """Tell whether the tables are those of this version; None while there are none yet."""
    if not inspect(engine).has_table(Event.__tablename__):
        return None
    with engine.connect() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    return None if present is None else present == ScriptDirectory.from_config(_alembic_config()).get_current_head()


def _make_engine(url: str) -> Engine:
    engine = create_engine(url)
    if make_url(url).get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection has no common type
    cursor = connection.cursor()
    # FULL: a commit is on disk when it returns; readers (status) never wait for the writer thanks to WAL.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Ledger:
    """The open ledger of one node.

    Parameters
    ----------
    engine : Engine
        SQLAlchemy engine whose tables are at the newest revision.
    paths : SpoolPaths
        Where the journals are that follow every change.
    clock : Clock
        Source of the stored times.
    """

    def __init__(self, engine: Engine, paths: SpoolPaths, clock: Clock) -> None:
        self.engine = engine
        self.paths = paths
        self.clock = clock
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._writing = threading.RLock()

    @classmethod
    def open(cls, paths: SpoolPaths, url: str | None = None, clock: Clock | None = None) -> Ledger:
        """Open (or create) the ledger and migrate it.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError
            When the database cannot be reached or is not a ledger.
        """
        engine = _make_engine(ledger_url(paths, url))
        migrate(engine)
        return cls(engine, paths, clock or Clock())

    @classmethod
    def open_to_read(cls, paths: SpoolPaths, url: str | None = None) -> Ledger | None:
        """Open an existing ledger for queries without changing it; None where there is none yet.

        Raises
        ------
        Permanent
            ``ledger_version`` when another version of the node wrote it, and no service is just bringing it up to date.
        """
        address = make_url(ledger_url(paths, url))
        if address.get_backend_name() == "sqlite" and not Path(address.database or "").is_file():
            return None
        engine = _make_engine(address.render_as_string(hide_password=False))
        # A service that starts may just be making the tables, or changing those of an older version.
        until = time.monotonic() + _MIGRATION_WAIT_S
        while (up_to_date := _is_up_to_date(engine)) is False and time.monotonic() < until:
            time.sleep(0.05)
        if up_to_date:
            return cls(engine, paths, Clock())
        engine.dispose()
        if up_to_date is None:
            return None
        raise Permanent(
            "ledger_version",
            "the ledger was written by another version of jmmda-node; start this one (jmmda-node serve), which brings"
            " an older ledger up to date",
        )

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session for queries."""
        with self._sessions() as session:
            yield session

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Yield a transaction; it is committed at the end, or rolled back when an error passes through.

        The journals follow right after the commit. A crash in between is mended at the next start
        (`dicom_node.ledger.rebuild.sync_journals`).
        """
        with self._writing, self._sessions() as session:
            transaction = Transaction(session, self.clock.now())
            yield transaction
            session.commit()
            transaction.write_journals(self.paths)


class Transaction:
    """One unit of change: rows through `session`, steps of the journey through `move` and `move_job`."""

    def __init__(self, session: Session, at: datetime) -> None:
        self.session = session
        self.at = at
        self._lines: dict[str, list[Mapping[str, object]]] = defaultdict(list)
        self._jobs: dict[str, Job] = {}
        self._steps: list[tuple[str, State, State, str | None]] = []

    def move(
        self,
        series: Series,
        after: State,
        *,
        code: str | None = None,
        reason: str | None = None,
        figures: Mapping[str, object] | None = None,
    ) -> None:
        """Take a series one step further and record why.

        Raises
        ------
        IllegalTransition
            When the step is not in `dicom_node.ledger.states.ALLOWED`.
        """
        check_transition(series.state, after)
        before, series.state = series.state, after
        series.code, series.reason, series.figures = code, reason, dict(figures or {})
        series.changed_at = self.at
        self._steps.append((series.series_instance_uid, before, after, code))
        self._event("state", series, series.job_key, before, after, code, reason, figures)

    def move_job(
        self,
        job: Job,
        after: State,
        *,
        code: str | None = None,
        reason: str | None = None,
        figures: Mapping[str, object] | None = None,
    ) -> None:
        """Take a job one step further; its series follows when the job is the series' current one.

        Raises
        ------
        IllegalTransition
            When the step is not in `dicom_node.ledger.states.ALLOWED`.
        """
        check_transition(job.state, after)
        before, job.state = job.state, after
        job.code, job.reason, job.figures = code, reason, dict(figures or {})
        series = job.series
        if series.job_key == job.key and after is not State.SUPERSEDED:
            self.move(series, after, code=code, reason=reason, figures=figures)
        else:
            self._event("job_state", series, job.key, before, after, code, reason, figures)
        self.touch(job)

    def remark(
        self,
        series: Series,
        kind: str,
        *,
        code: str,
        reason: str,
        figures: Mapping[str, object] | None = None,
    ) -> None:
        """Record something worth knowing that changes no state (a duplicate, a better series that came late)."""
        self._event(kind, series, series.job_key, None, None, code, reason, figures)

    def decide(self, study: Study, state: StudyState, *, code: str, reason: str, chosen: str | None) -> None:
        """Record the decision about a study, or that it is open again, in the journals of all its series."""
        study.state, study.code, study.reason = state, code, reason
        study.chosen_series_uid = chosen
        study.decided_at = self.at if state is StudyState.DECIDED else None
        self.session.add(
            Event(at=self.at, kind="study", study_instance_uid=study.study_instance_uid, after=state.value, code=code,
                  reason=reason, figures={})
        )  # fmt: skip
        for series in study.series:
            self.journal(
                series,
                {"event": "study", "at": self.at.isoformat(), "state": state.value, "code": code, "reason": reason,
                 "chosen": chosen},
            )  # fmt: skip

    def journal(self, series: Series, record: Mapping[str, object]) -> None:
        """Have a line appended to the series' journal once this transaction is committed."""
        self._lines[series.folder].append(record)

    def touch(self, job: Job) -> None:
        """Have `job.json` written anew once this transaction is committed."""
        self._jobs[job.key] = job

    def job(self, key: str) -> Job | None:
        """Return the job of a key."""
        return self.session.scalar(select(Job).where(Job.key == key))

    def finish_delivery(self, delivery: Delivery) -> None:
        """End a job once none of its deliveries is under way: DELIVERED, or FAILED with the first reason."""
        job = delivery.job
        under_way = job.state in (State.DERIVED, State.DELIVERING)
        if not under_way or any(one.state is DeliveryState.PENDING for one in job.deliveries):
            return
        failed = [d for d in job.deliveries if d.state is DeliveryState.FAILED]
        if failed:
            self.move_job(
                job, State.FAILED, code=failed[0].code, reason=f"to {failed[0].destination}: {failed[0].reason}"
            )
            return
        job.delivered_at = self.at
        self.move_job(job, State.DELIVERED)

    def write_journals(self, paths: SpoolPaths) -> None:
        """Append the collected lines and write the job files; called after the commit."""
        for uid, before, after, code in self._steps:
            logger.info("series %s: %s -> %s%s", uid, before.value, after.value, f" ({code})" if code else "")
        for folder, lines in self._lines.items():
            append_lines(paths.series / folder / SERIES_JOURNAL, lines)
        for job in self._jobs.values():
            write_job_file(paths.jobs / job.key, job)

    def _event(
        self,
        kind: str,
        series: Series,
        job_key: str | None,
        before: State | None,
        after: State | None,
        code: str | None,
        reason: str | None,
        figures: Mapping[str, object] | None,
    ) -> None:
        values: dict[str, Any] = {
            "before": before.value if before else None,
            "after": after.value if after else None,
            "code": code,
            "reason": reason,
            "figures": dict(figures or {}),
            "job_key": job_key,
        }
        self.session.add(Event(at=self.at, kind=kind, series_id=series.id, **values))
        self.journal(series, {"event": kind, "at": self.at.isoformat(), **values})
