"""The ledger itself: migrations, transactions, steps of a job mirrored by its series, journals after the commit.

Left out: what the stages do with it; the journals' way back into the ledger (`test_rebuild`).
"""

from __future__ import annotations

import sqlite3
import threading
from datetime import datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import StatementError

from dicom_node.errors import Permanent
from dicom_node.ledger.job_file import read_job_file
from dicom_node.ledger.spool import SpoolPaths, read_lines
from dicom_node.ledger.states import DeliveryState, IllegalTransition, State
from dicom_node.ledger.store import SERIES_JOURNAL, Ledger, Transaction
from dicom_node.ledger.tables import Base, Delivery, DeliveryInstance, Event, Job, Series, Study


@pytest.fixture
def ledger(tmp_path: Path):
    paths = SpoolPaths(tmp_path / "data")
    paths.make()
    made = Ledger.open(paths)
    yield made
    made.close()


def _series(change: Transaction, paths: SpoolPaths, uid: str = "1.2.3") -> Series:
    study = Study(study_instance_uid=f"{uid}.0", opened_at=change.at, last_arrival_at=change.at)
    series = Series(
        series_instance_uid=uid,
        folder=f"folder-{uid}",
        figures={},
        signs=[],
        first_arrival_at=change.at,
        last_arrival_at=change.at,
        changed_at=change.at,
        state=State.RECEIVING,
    )
    study.series.append(series)
    change.session.add(study)
    change.session.flush()
    (paths.series / series.folder).mkdir(exist_ok=True)
    return series


def _job(change: Transaction, series: Series, key: str, destinations: tuple[str, ...] = ("pacs",)) -> Job:
    job = Job(
        key=key,
        state=State.QUEUED,
        figures={},
        created_at=change.at,
        input_digest="d",
        sources={"files": []},
        notes=[],
        calling_ae="A",
        bundle={},
        result={},
        attempts=0,
        derive_attempts=0,
        first_arrival_at=change.at,
        last_arrival_at=change.at,
        queued_at=change.at,
    )
    for name in destinations:
        delivery = Delivery(destination=name, attempts=0, state=DeliveryState.PENDING)
        delivery.instances = [DeliveryInstance(sop_instance_uid="9.9", stored=False)]
        job.deliveries.append(delivery)
    series.jobs.append(job)
    series.job_key = key
    change.session.flush()
    change.touch(job)
    return job


def _to(change: Transaction, job: Job, *states: State) -> None:
    for state in states:
        change.move_job(job, state)


def test_the_migrations_make_exactly_the_tables_of_the_classes(ledger: Ledger):
    with ledger.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert connection.scalar(text("select version_num from alembic_version")) == "0004"


def test_a_ledger_of_the_first_version_gets_what_came_later(tmp_path: Path):
    from alembic import command
    from alembic.config import Config

    from dicom_node.ledger.store import MIGRATIONS

    paths = SpoolPaths(tmp_path)
    paths.make()
    engine = create_engine(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    moment = "2026-01-01 00:00:00"
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text(f"insert into studies values (1, '1.2', 'OPEN', '{moment}', '{moment}', null, null, null, null)")
        )
        columns = (
            "id, study_id, series_instance_uid, folder, modality, state, figures, calling_ae, host,"
            " first_arrival_at, last_arrival_at, changed_at, signs"
        )
        values = f"1, 1, '1.2.3', 'f', 'CT', 'RECEIVING', '{{}}', 'A', 'h', '{moment}', '{moment}', '{moment}', '[]'"
        connection.execute(text(f"insert into series ({columns}) values ({values})"))
        connection.execute(
            text("insert into deliveries (id, job_id, destination, state, attempts) values (1, 1, 'p', 'DELIVERED', 1)")
        )
        connection.commit()
    engine.dispose()
    with pytest.raises(Permanent) as caught:
        Ledger.open_to_read(paths)
    assert caught.value.code == "ledger_version"
    opened = Ledger.open(paths)
    with opened.reading() as session:
        series = session.scalars(select(Series)).one()
        assert (series.expected, series.signs) == ({}, [])
        delivery = session.scalars(select(Delivery)).one()
        assert (delivery.commitment, delivery.commitment_asked, delivery.commitment_tries) == (None, 0, 0)
    reading = Ledger.open_to_read(paths)
    assert reading is not None
    reading.close()
    opened.close()


def test_the_migration_can_be_undone(tmp_path: Path):
    from alembic import command
    from alembic.config import Config

    from dicom_node.ledger.store import MIGRATIONS

    engine = create_engine(f"sqlite:///{tmp_path / 'x.sqlite'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        command.downgrade(config, "base")
        tables = connection.scalars(text("select name from sqlite_master where type = 'table'")).all()
    engine.dispose()
    assert tables == ["alembic_version"]


def test_opening_twice_keeps_what_is_there(ledger: Ledger):
    with ledger.transaction() as change:
        _series(change, ledger.paths)
    again = Ledger.open(ledger.paths)
    with again.reading() as session:
        assert session.scalars(select(Series)).one().series_instance_uid == "1.2.3"
    again.close()


def test_every_commit_is_on_disk_and_readers_do_not_wait(ledger: Ledger):
    with ledger.engine.connect() as connection:
        assert connection.scalar(text("pragma journal_mode")) == "wal"
        assert connection.scalar(text("pragma synchronous")) == 2
        assert connection.scalar(text("pragma foreign_keys")) == 1
    with ledger.transaction() as change:
        _series(change, ledger.paths)
        outside = sqlite3.connect(ledger.paths.data_dir / "ledger.sqlite", timeout=0.1)
        assert outside.execute("select count(*) from series").fetchone() == (0,)
        outside.close()


def test_moments_come_back_with_their_offset_and_without_one_are_refused(ledger: Ledger):
    with ledger.transaction() as change:
        _series(change, ledger.paths)
        at = change.at
    with ledger.reading() as session:
        stored = session.scalars(select(Series)).one().first_arrival_at
    assert stored == at
    assert stored.utcoffset() is not None
    with ledger.reading() as session:
        session.scalars(select(Series)).one().changed_at = datetime(2026, 1, 1)
        with pytest.raises(StatementError, match="without time zone"):
            session.flush()


def test_a_step_has_its_event_and_its_line(ledger: Ledger):
    with ledger.transaction() as change:
        series = _series(change, ledger.paths)
        change.move(series, State.COMPLETE, figures={"instances": 3})
    with ledger.reading() as session:
        event = session.scalars(select(Event)).one()
    assert (event.before, event.after, event.figures) == ("RECEIVING", "COMPLETE", {"instances": 3})
    (line,) = read_lines(ledger.paths.series / "folder-1.2.3" / SERIES_JOURNAL)
    assert (line["event"], line["before"], line["after"]) == ("state", "RECEIVING", "COMPLETE")
    assert datetime.fromisoformat(str(line["at"])) == event.at


def test_an_illegal_step_undoes_the_whole_transaction_and_writes_no_line(ledger: Ledger):
    with ledger.transaction() as change:
        series = _series(change, ledger.paths)

    def take_two_steps() -> None:
        with ledger.transaction() as change:
            mine = change.session.get_one(Series, series.id)
            change.move(mine, State.COMPLETE)
            change.move(mine, State.DERIVED)

    with pytest.raises(IllegalTransition):
        take_two_steps()
    with ledger.reading() as session:
        assert session.get_one(Series, series.id).state is State.RECEIVING
        assert session.scalars(select(Event)).all() == []
    assert not (ledger.paths.series / "folder-1.2.3" / SERIES_JOURNAL).exists()


def test_the_series_follows_its_current_job_only(ledger: Ledger):
    with ledger.transaction() as change:
        series = _series(change, ledger.paths)
        change.move(series, State.COMPLETE)
        job = _job(change, series, "k1")
        change.move(series, State.QUEUED)
        change.move_job(job, State.SYNTHESIZING)
        assert series.state is State.SYNTHESIZING
        series.job_key = None
        change.move(series, State.RECEIVING)
        change.move_job(job, State.DERIVED)
        assert (series.state, job.state) == (State.RECEIVING, State.DERIVED)
    with ledger.reading() as session:
        kinds = session.scalars(select(Event.kind).order_by(Event.id)).all()
    assert kinds == ["state", "state", "state", "state", "job_state"]


def test_the_job_file_tells_what_the_rows_tell(ledger: Ledger):
    with ledger.transaction() as change:
        series = _series(change, ledger.paths)
        change.move(series, State.COMPLETE)
        job = _job(change, series, "k1")
        change.move(series, State.QUEUED)
        _to(change, job, State.SYNTHESIZING, State.DERIVED, State.DELIVERING)
    record = read_job_file(ledger.paths.jobs / "k1")
    assert record is not None
    assert (record["key"], record["state"], record["current"]) == ("k1", "DELIVERING", True)
    assert record["deliveries"][0]["destination"] == "pacs"
    assert record["deliveries"][0]["instances"] == [
        {
            "sop_instance_uid": "9.9",
            "status": None,
            "stored": False,
            "sent_at": None,
            "committed_at": None,
            "failure_reason": None,
        }
    ]


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ((DeliveryState.DELIVERED, DeliveryState.DELIVERED), State.DELIVERED),
        ((DeliveryState.DELIVERED, DeliveryState.FAILED), State.FAILED),
        ((DeliveryState.DELIVERED, DeliveryState.PENDING), State.DELIVERING),
        ((DeliveryState.FAILED, DeliveryState.PENDING), State.DELIVERING),
    ],
)
def test_a_job_ends_with_the_last_of_its_deliveries(ledger: Ledger, ends: tuple[DeliveryState, ...], state: State):
    with ledger.transaction() as change:
        series = _series(change, ledger.paths)
        change.move(series, State.COMPLETE)
        job = _job(change, series, "k1", ("a", "b"))
        change.move(series, State.QUEUED)
        _to(change, job, State.SYNTHESIZING, State.DERIVED, State.DELIVERING)
        for delivery, end in zip(job.deliveries, ends, strict=True):
            delivery.state = end
            delivery.code, delivery.reason = "code", "reason"
        change.finish_delivery(job.deliveries[0])
    assert job.state is state
    assert series.state is state
    assert (job.delivered_at is not None) == (state is State.DELIVERED)


def test_many_threads_may_write_at_once(ledger: Ledger):
    failures: list[Exception] = []

    def write(number: int) -> None:
        try:
            for k in range(5):
                with ledger.transaction() as change:
                    _series(change, ledger.paths, f"1.{number}.{k}")
        except Exception as error:  # collected, and reported below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with ledger.reading() as session:
        assert len(session.scalars(select(Series)).all()) == 30


def test_open_to_read_makes_no_ledger(tmp_path: Path):
    paths = SpoolPaths(tmp_path / "none")
    assert Ledger.open_to_read(paths) is None
    assert not paths.data_dir.exists()
