"""The quarantine: files that were acknowledged but cannot be used are kept, and reported with their reason."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from dicom_node.ledger.job_file import row_to_json
from dicom_node.ledger.spool import SpoolPaths, append_lines
from dicom_node.ledger.store import ASIDE_JOURNAL, Transaction
from dicom_node.ledger.tables import SetAside

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Aside:
    """One file that will be kept aside."""

    path: Path
    code: str
    reason: str
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None


def set_aside(change: Transaction, paths: SpoolPaths, asides: Sequence[Aside], association_key: str) -> None:
    """Give files a second name in the quarantine, and report them there and in the ledger.

    Done twice it does no harm, so that a scan cut off by a crash may simply be repeated. The caller removes the first
    names once the transaction is committed.
    """
    lines: list[dict[str, object]] = []
    for aside in asides:
        name = f"{association_key}-{aside.path.name}"
        target = paths.quarantine / name
        if not target.exists():
            os.link(aside.path, target)
        if change.session.scalar(select(SetAside.id).where(SetAside.file_name == name)):
            continue
        row = SetAside(
            file_name=name,
            at=change.at,
            association_key=association_key,
            code=aside.code,
            reason=aside.reason,
            sop_instance_uid=aside.sop_instance_uid,
            series_instance_uid=aside.series_instance_uid,
        )
        change.session.add(row)
        lines.append(row_to_json(row))
        logger.warning("association %s: a file was set aside: %s: %s", association_key, aside.code, aside.reason)
    if lines:
        append_lines(paths.quarantine / ASIDE_JOURNAL, lines)
