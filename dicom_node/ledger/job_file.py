"""``jobs/<key>/job.json``: what the ledger knows of one job and its deliveries, written beside the result.

The file is a copy of the job's rows, made after every transaction that touched them. It serves two ends: the
ledger can be rebuilt from it, and a person can read in one place what became of a result. It holds UIDs, states and
numbers only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from dicom_node.ledger.durable import FOLDER_MODE, durable_write
from dicom_node.ledger.tables import Base, CommitmentTransaction, Delivery, DeliveryInstance, Job, Series, UtcDateTime

JOB_FILE: Final = "job.json"
#: Folder of the derived files beside `job.json`.
OUT_FOLDER: Final = "out"
VERSION: Final = 1
_ROW_KEYS: Final = frozenset({"id", "series_id", "job_id", "delivery_id"})


def write_job_file(folder: Path, job: Job) -> None:
    """Write `job.json` of one job durably; the folder is created when missing.

    Parameters
    ----------
    folder : Path
        ``jobs/<key>``.
    job : Job
        A row of an open session, so that its deliveries can be read.

    Raises
    ------
    OSError
        When the disk does not take it.
    """
    record = {
        "version": VERSION,
        "study_instance_uid": job.series.study.study_instance_uid,
        "series_instance_uid": job.series.series_instance_uid,
        "current": job.series.job_key == job.key,
        **row_to_json(job),
        "deliveries": [
            {
                **row_to_json(delivery),
                "instances": [row_to_json(item) for item in delivery.instances],
                "commitment_transactions": [row_to_json(item) for item in delivery.transactions],
            }
            for delivery in job.deliveries
        ],
    }
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    durable_write(folder / JOB_FILE, json.dumps(record, indent=1).encode())


def read_job_file(folder: Path) -> dict[str, Any] | None:
    """Return the content of `job.json`, or None where there is none that can be read."""
    try:
        record = json.loads((folder / JOB_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("version") == VERSION else None


def restore_job(session: Session, series: Series, record: Mapping[str, Any]) -> Job:
    """Make the rows of a job and its deliveries from the content of its `job.json`."""
    job = Job(series_id=series.id, **row_from_json(Job, record))
    session.add(job)
    session.flush()
    for entry in _mappings(record.get("deliveries")):
        delivery = Delivery(job_id=job.id, **row_from_json(Delivery, entry))
        session.add(delivery)
        session.flush()
        session.add_all(
            DeliveryInstance(delivery_id=delivery.id, **row_from_json(DeliveryInstance, item))
            for item in _mappings(entry.get("instances"))
        )
        session.add_all(
            CommitmentTransaction(delivery_id=delivery.id, **row_from_json(CommitmentTransaction, item))
            for item in _mappings(entry.get("commitment_transactions"))
        )
    if record.get("current"):
        series.job_key = job.key
    return job


def row_to_json(row: Base) -> dict[str, Any]:
    """Return the columns of a row, without its row numbers, as JSON types."""
    return {
        column.name: _plain(getattr(row, column.name))
        for column in row.__table__.columns
        if column.name not in _ROW_KEYS
    }


def row_from_json(table: type[Base], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments for a row of `table`; keys it does not know are left out."""
    values: dict[str, Any] = {}
    for column in table.__table__.columns:
        if column.name in _ROW_KEYS or column.name not in record:
            continue
        value = record[column.name]
        kind = column.type
        if value is not None and isinstance(kind, UtcDateTime):
            value = datetime.fromisoformat(value)
        elif value is not None and (enum_class := getattr(kind, "enum_class", None)):
            value = enum_class(value)
        values[column.name] = value
    return values


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Enum) else value


def _mappings(value: object) -> Iterable[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
