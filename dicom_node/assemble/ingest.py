"""From the receiver's files to series in the spool and rows in the ledger, so that a crash loses and doubles nothing.

One file goes through four steps: a second name (hard link) below its series, the commit to the ledger, the line in the
series' journal, and only then the end of its first name in the association's folder. Whatever step a crash cuts off,
the next scan finds the first name and does the rest; each step may be done twice without harm.

The first copy of an instance wins. The same bytes again are noted and dropped; other bytes under the same UID are kept
aside and reported, as are files that cannot be read.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sqlalchemy import select

from dicom_node.assemble.content import content_sha256
from dicom_node.assemble.late import LOOP_GUARD, reopen_series, reopen_study
from dicom_node.assemble.quarantine import Aside, set_aside
from dicom_node.assemble.quiet import QuietClock
from dicom_node.dicom.geometry import normal_of, offset_along
from dicom_node.dicom.values import InstanceKind, SliceHeader, read_header
from dicom_node.errors import Permanent
from dicom_node.ledger.place import place_of
from dicom_node.ledger.spool import (
    Incoming,
    IncomingAssociation,
    fsync_folder,
    name_hash,
)
from dicom_node.ledger.states import State, StudyState
from dicom_node.ledger.store import Ledger, Transaction
from dicom_node.ledger.tables import Association, Instance, Job, Series, Study
from dicom_node.settings import LateSlices

logger = logging.getLogger(__name__)

#: Files that share one commit and one fsync of the journal.
BATCH: Final = 64
_DONE_PREFIX: Final = ".done-"
#: A hidden folder this old belongs to a receiver that was killed while it opened an association.
_UNBORN_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class _Arrival:
    """One readable file of a batch with all that is decided outside of the transaction."""

    path: Path
    header: SliceHeader
    target: Path
    content_sha256: str
    first_sha256: str
    received_at: datetime


class Ingest:
    """Takes what the receiver acknowledged into series and ledger.

    Parameters
    ----------
    ledger : Ledger
        Open ledger; its `paths` name the spool.
    quiet : QuietClock
        Told about every arrival.
    late_slices : callable
        Returns the policy in force for slices that come late.
    """

    def __init__(self, ledger: Ledger, quiet: QuietClock, late_slices: Callable[[], LateSlices]) -> None:
        self._ledger = ledger
        self._paths = ledger.paths
        self._quiet = quiet
        self._late_slices = late_slices
        self._incoming = Incoming(ledger.paths.incoming)

    def recover(self) -> None:
        """Sweep away folders of associations that had been taken in completely, or that never came into being."""
        for entry in self._paths.incoming.iterdir():
            unborn = entry.name.startswith(".") and time.time() - entry.stat().st_mtime > _UNBORN_S
            if unborn or entry.name.startswith(_DONE_PREFIX):
                shutil.rmtree(entry)

    def scan(self) -> int:
        """Take in every complete file of every association.

        Returns
        -------
        int
            Number of files that were taken in.

        Raises
        ------
        OSError
            When the disk is full or gone; nothing is lost, the next scan goes on.
        """
        taken = 0
        for association in self._incoming.associations():
            self._note_association(association)
            for start in range(0, len(association.files), BATCH):
                batch = association.files[start : start + BATCH]
                self._take(batch, association)
                taken += len(batch)
            if association.outcome != "open":
                self._finish(association)
        return taken

    def _note_association(self, association: IncomingAssociation) -> None:
        """Have the association in the ledger while it is open, because completion asks for it."""
        with self._ledger.reading() as session:
            if session.scalar(select(Association.id).where(Association.key == association.key)):
                return
        with self._ledger.transaction() as change:
            opened = association.opened_at
            change.session.add(
                Association(
                    key=association.key,
                    calling_ae=association.calling_ae,
                    called_ae=association.called_ae,
                    host=association.host,
                    opened_at=datetime.fromisoformat(opened) if opened else change.at,
                    outcome="open",
                )
            )

    def _take(self, files: Sequence[Path], association: IncomingAssociation) -> None:
        arrivals: list[_Arrival] = []
        asides: list[Aside] = []
        for path in files:
            try:
                arrivals.append(self._look_at(path))
            except Permanent as error:
                asides.append(Aside(path, error.code, error.reason))
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 - border: a file that breaks the parser may not block the others
                logger.error("a file broke the parser: %s", place_of(error))
                asides.append(Aside(path, "internal", f"the parser failed: {place_of(error)}"))
        for folder in {arrival.target.parent for arrival in arrivals}:
            fsync_folder(folder)
        with self._ledger.transaction() as change:
            asides.extend(self._register(change, arrivals, association))
            set_aside(change, self._paths, asides, association.key)
        for path in files:
            path.unlink()
        fsync_folder(association.folder)

    def _look_at(self, path: Path) -> _Arrival:
        """Read one file and give it its second name below its series.

        Raises
        ------
        Permanent
            When it cannot be identified.
        """
        header = read_header(path)
        folder = self._paths.series_folder(header.study_instance_uid, header.series_instance_uid)
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            fsync_folder(folder.parent)
        target = folder / f"{name_hash(header.sop_instance_uid)}.dcm"
        content = content_sha256(path)
        first = content
        try:
            os.link(path, target)
        except FileExistsError:
            first = content if target.samefile(path) else content_sha256(target)
        received_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return _Arrival(path, header, target, content, first, received_at)

    def _register(
        self, change: Transaction, arrivals: Sequence[_Arrival], association: IncomingAssociation
    ) -> Iterator[Aside]:
        """Write the rows of a batch and yield what has to be kept aside."""
        by_series: dict[tuple[str, str], list[_Arrival]] = defaultdict(list)
        for arrival in arrivals:
            by_series[arrival.header.study_instance_uid, arrival.header.series_instance_uid].append(arrival)
        for group in by_series.values():
            series = self._series_of(change, group[0], association)
            yield from self._register_series(change, series, group, association)

    def _series_of(self, change: Transaction, first: _Arrival, association: IncomingAssociation) -> Series:
        """Return the row of a series, made (with its study) when this is its first instance."""
        header = first.header
        session = change.session
        study = session.scalar(select(Study).where(Study.study_instance_uid == header.study_instance_uid))
        if study is None:
            study = Study(
                study_instance_uid=header.study_instance_uid,
                state=StudyState.OPEN,
                opened_at=first.received_at,
                last_arrival_at=first.received_at,
            )
            session.add(study)
        series = next((one for one in study.series if one.series_instance_uid == header.series_instance_uid), None)
        if series is not None:
            return series
        series = Series(
            series_instance_uid=header.series_instance_uid,
            folder=first.target.parent.name,
            modality=header.modality[:16],
            state=State.RECEIVING,
            figures={},
            signs=[],
            calling_ae=association.calling_ae,
            host=association.host,
            first_arrival_at=first.received_at,
            last_arrival_at=first.received_at,
            changed_at=change.at,
        )
        study.series.append(series)
        session.flush()
        change.journal(
            series,
            {
                "event": "series",
                "at": first.received_at.isoformat(),
                "study_instance_uid": study.study_instance_uid,
                "series_instance_uid": series.series_instance_uid,
                "modality": series.modality,
                "calling_ae": series.calling_ae,
                "host": series.host,
            },
        )
        return series

    def _register_series(
        self, change: Transaction, series: Series, group: Sequence[_Arrival], association: IncomingAssociation
    ) -> Iterator[Aside]:
        known = {one.sop_instance_uid: one for one in series.instances}
        fresh: list[_Arrival] = []
        again = 0
        for arrival in group:
            uid = arrival.header.sop_instance_uid
            before = known.get(uid)
            if before is None:
                before = known[uid] = self._add_instance(change, series, arrival, association)
                fresh.append(arrival)
            elif arrival.target.samefile(arrival.path):
                # A crash came between the commit and the end of the first name: only the journal may lack it.
                change.journal(series, _instance_line(before))
                continue
            elif before.content_sha256 == arrival.content_sha256:
                again += 1
            if before.content_sha256 != arrival.content_sha256:
                yield Aside(
                    arrival.path,
                    "other_bytes",
                    "an instance of this SOP Instance UID is here already with other bytes; the first copy is used",
                    arrival.header.sop_instance_uid,
                    arrival.header.series_instance_uid,
                )
        if again:
            change.remark(
                series,
                "duplicate",
                code="duplicate",
                reason="instances that were here already came again with the same bytes and were dropped",
                figures={"instances": again, "association": association.key},
            )
        if fresh:
            self._arrived(change, series, fresh, association)

    def _add_instance(
        self, change: Transaction, series: Series, arrival: _Arrival, association: IncomingAssociation
    ) -> Instance:
        instance = Instance(
            sop_instance_uid=arrival.header.sop_instance_uid,
            file_name=arrival.target.name,
            content_sha256=arrival.first_sha256,
            received_at=arrival.received_at,
            association_key=association.key,
            offset_mm=_offset(arrival.header),
            slice_thickness_mm=arrival.header.slice_thickness_mm,
            images_in_acquisition=arrival.header.images_in_acquisition,
            series_related_instances=arrival.header.series_related_instances,
        )
        series.instances.append(instance)
        change.journal(series, _instance_line(instance))
        return instance

    def _arrived(
        self, change: Transaction, series: Series, fresh: Sequence[_Arrival], association: IncomingAssociation
    ) -> None:
        """Update times, open again what had been closed, and keep our own results from going round."""
        newest = max(arrival.received_at for arrival in fresh)
        series.last_arrival_at = max(series.last_arrival_at, newest)
        series.first_arrival_at = min([series.first_arrival_at, *(arrival.received_at for arrival in fresh)])
        series.study.last_arrival_at = max(series.study.last_arrival_at, newest)
        series.calling_ae, series.host = association.calling_ae, association.host
        change.journal(
            series,
            {
                "event": "association",
                "key": association.key,
                "calling_ae": association.calling_ae,
                "called_ae": association.called_ae,
                "host": association.host,
                "opened_at": association.opened_at or change.at.isoformat(),
                "outcome": "open",
            },
        )
        self._quiet.arrived(series)
        if series.code == LOOP_GUARD and series.state is State.SKIPPED:
            return
        reason = _loop_reason(change, series, [arrival.header for arrival in fresh])
        policy = LateSlices.SUPERSEDE if reason is not None else self._late_slices()
        if not reopen_series(change, series, policy):
            self._quiet.forget(series)
            return
        if reason is not None:
            change.move(series, State.SKIPPED, code=LOOP_GUARD, reason=reason)
            return
        reopen_study(change, series.study)

    def _finish(self, association: IncomingAssociation) -> None:
        """Record how an association ended and remove its folder, which holds no complete file any more."""
        with self._ledger.transaction() as change:
            row = change.session.scalars(select(Association).where(Association.key == association.key)).one()
            row.outcome = association.outcome
            row.closed_at = datetime.fromisoformat(association.closed_at) if association.closed_at else change.at
            touched = select(Instance.series_id).where(Instance.association_key == association.key).distinct()
            for series in change.session.scalars(select(Series).where(Series.id.in_(touched.scalar_subquery()))):
                change.journal(
                    series,
                    {
                        "event": "association",
                        "key": row.key,
                        "calling_ae": row.calling_ae,
                        "called_ae": row.called_ae,
                        "host": row.host,
                        "opened_at": row.opened_at.isoformat(),
                        "closed_at": row.closed_at.isoformat(),
                        "outcome": row.outcome,
                    },
                )
        done = association.folder.with_name(_DONE_PREFIX + association.key)
        association.folder.rename(done)
        shutil.rmtree(done)


def _offset(header: SliceHeader) -> float | None:
    """Return the position along the slice's own normal (mm), where the header tells it."""
    if header.image_position_patient is None or header.image_orientation_patient is None:
        return None
    try:
        return offset_along(header, normal_of(header.image_orientation_patient))
    except ValueError:
        return None


def _instance_line(instance: Instance) -> dict[str, object]:
    return {
        "event": "instance",
        "sop_instance_uid": instance.sop_instance_uid,
        "file_name": instance.file_name,
        "content_sha256": instance.content_sha256,
        "received_at": instance.received_at.isoformat(),
        "association_key": instance.association_key,
        "offset_mm": instance.offset_mm,
        "slice_thickness_mm": instance.slice_thickness_mm,
        "images_in_acquisition": instance.images_in_acquisition,
        "series_related_instances": instance.series_related_instances,
    }


def _is_derived_image(header: SliceHeader) -> bool:
    return "DERIVED" in header.image_type[:1] and header.kind is not InstanceKind.SCREEN


def _loop_reason(change: Transaction, series: Series, headers: Sequence[SliceHeader]) -> str | None:
    """Say why a series must never be processed, or None.

    Synthetic data and our own results condemn the series at once, derived images only when nothing else is in it: the
    geometry gate copes with a screen inside a series of images.
    """
    if any(header.synthetic for header in headers):
        return "it holds synthetic data (0008,001C); what a node made is stored and never processed"
    own = select(Job.id).where(Job.result_series_uid == series.series_instance_uid)
    if change.session.scalar(own.limit(1)):
        return "it is a result of this node that came back; it is stored and never processed"
    only_these = len(series.instances) == len(headers)
    # Screens are left to the choice of the series, which can say what they are.
    if only_these and all(_is_derived_image(header) for header in headers):
        return "its images are DERIVED, not original (ImageType value 1); such series are never processed"
    return None
