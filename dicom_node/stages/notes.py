"""The answer to a CT that was not processed: one note for each refusal class of a study, written, recorded, addressed.

A note is a job of its own (`JobKind.NOTE`), so that it is sent, tried again and replayed like a result, and never
touches the series that it speaks of. Its key is a function of the note's own UID, its content of the recorded refusal:
whatever is cut off, and however often the same refusal is made, there is one note, with the same bytes.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import exists, or_, select

from dicom_node.assemble.late import LOOP_GUARD
from dicom_node.dicom.companion_rules import NoteForm
from dicom_node.errors import Transient
from dicom_node.ledger.job_file import OUT_FOLDER
from dicom_node.ledger.spool import fsync_folder, name_hash
from dicom_node.ledger.states import JobKind, State, StudyState
from dicom_node.ledger.store import Ledger
from dicom_node.ledger.tables import Job, Series, Study
from dicom_node.settings import Settings
from dicom_node.stages.derivation import address

if TYPE_CHECKING:
    from dicom_node.derive.companions.request import CompanionFailure, CompanionSeries, NoteRequest

logger = logging.getLogger(__name__)

#: Refusals of longer ago are history: a site that switches the notes on does not get one for each of them.
TOLD_WITHIN: Final = timedelta(days=1)
#: Wait after a failure of the disk.
_AGAIN_AFTER: Final = timedelta(seconds=60)
#: Reason code of a study of which no CT series could be chosen.
NO_SERIES: Final = "no_series"
#: While another series of the study stands here, there is, or may be, a result, and nothing to tell.
_ANSWERED: Final = frozenset(State) - {State.SKIPPED, State.REFUSED, State.FAILED, State.SUPERSEDED}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a note is about.

    Attributes
    ----------
    series_id : int
        Row of the refused series.
    code, reason : str
        Of the refusal.
    figures : dict
        Its numbers.
    at : datetime
        When it was refused, whole seconds.
    """

    series_id: int
    code: str
    reason: str
    figures: dict[str, object]
    at: datetime


class Notes:
    """Writes the notes that are due and gives them their deliveries.

    Parameters
    ----------
    ledger : Ledger
        Open ledger.
    settings : callable
        Returns the settings in force.
    on_done : callable
        Called after a note has got its deliveries.
    """

    def __init__(self, ledger: Ledger, settings: Callable[[], Settings], on_done: Callable[[], None]) -> None:
        self._ledger = ledger
        self._settings = settings
        self._on_done = on_done
        self._rest_until: datetime | None = None

    def run(self) -> None:
        """Do one round; whatever cannot be written now is due again in the next."""
        settings = self._settings()
        now = self._ledger.clock.now()
        resting = self._rest_until is not None and now < self._rest_until
        if settings.output.not_processed_note is NoteForm.NONE or resting:
            return
        self._rest_until = None
        for refusal in self._due(settings):
            try:
                self._tell(refusal, settings)
            except (OSError, Transient) as error:
                logger.warning("a note cannot be written now: %s", type(error).__name__)
                self._rest_until = now + _AGAIN_AFTER
                return

    def _due(self, settings: Settings) -> list[Refusal]:
        now = self._ledger.clock.now()
        refused = exists().where(Series.study_id == Study.id, Series.state == State.REFUSED)
        query = select(Study).where(
            Study.state == StudyState.DECIDED,
            or_(refused, Study.code == NO_SERIES),
            Study.last_arrival_at >= now - TOLD_WITHIN,
            Study.last_arrival_at <= now - timedelta(seconds=settings.output.not_processed_wait_s),
        )
        with self._ledger.reading() as session:
            return [refusal for study in session.scalars(query) for refusal in refusals_to_tell(study)]

    def _tell(self, refusal: Refusal, settings: Settings) -> None:
        from dicom_node.derive.companions.writer import note_series_uid, write_note

        with self._ledger.reading() as session:
            series = session.get_one(Series, refusal.series_id)
            request = self._request(series, refusal, settings)
            key = name_hash(note_series_uid(request))
            if session.scalar(select(Job.id).where(Job.key == key)) is not None:
                return
        out = self._ledger.paths.jobs / key / OUT_FOLDER
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(mode=0o700, parents=True)
        fsync_folder(self._ledger.paths.jobs)
        written = write_note(request, out)
        self._record(refusal, key, written, settings)
        self._on_done()

    def _request(self, series: Series, refusal: Refusal, settings: Settings) -> NoteRequest:
        from dicom_node.derive.companions.request import NoteRequest

        folder = self._ledger.paths.series / series.folder
        return NoteRequest(
            form=settings.output.not_processed_note,
            source_paths=tuple(folder / one.file_name for one in series.instances),
            study_instance_uid=series.study.study_instance_uid,
            series_instance_uid=series.series_instance_uid,
            code=refusal.code,
            reason=refusal.reason,
            figures=refusal.figures,
            output=settings.output,
            node_id=settings.node.node_id,
            created=settings.output.clock(refusal.at),
        )

    def _record(
        self, refusal: Refusal, key: str, written: CompanionSeries | CompanionFailure, settings: Settings
    ) -> None:
        from dicom_node.derive.companions.request import CompanionFailure

        if isinstance(written, CompanionFailure) and written.transient:
            raise Transient(written.code, written.reason)
        with self._ledger.transaction() as change:
            series = change.session.get_one(Series, refusal.series_id)
            job = _note_job(series, refusal, key, change.at)
            series.jobs.append(job)
            change.session.flush()
            if isinstance(written, CompanionFailure):
                change.move_job(job, State.FAILED, code=written.code, reason=written.reason)
                return
            job.result = {"instances": [], "companions": [written.to_json()]}
            job.result_series_uid, job.derived_at = written.series_instance_uid, change.at
            change.move_job(job, State.DERIVED, code=refusal.code, figures={"note": written.kind})
            address(change, job, [peer.name for peer in settings.destinations_for(job.calling_ae)])


def refusals_to_tell(study: Study) -> Sequence[Refusal]:
    """Return the refusals of a decided study that no note speaks of yet, one for each reason code.

    A study that has, or may yet have, a result gets none. Where no CT series could be chosen at all, that is the
    refusal, told about the series that came nearest.

    Parameters
    ----------
    study : Study
        Row of an open session, in state DECIDED.

    Returns
    -------
    sequence of Refusal
        In the order of the series.
    """
    if any(one.state in _ANSWERED for one in study.series):
        return ()
    told = {str(job.sources.get("code")) for one in study.series for job in one.jobs if job.kind is JobKind.NOTE}
    found = {
        one.code or "refused": Refusal(
            one.id, one.code or "refused", one.reason or "", dict(one.figures), _second(one.changed_at)
        )
        for one in reversed(study.series)
        if one.state is State.REFUSED
    }
    if not found and study.code == NO_SERIES and study.decided_at is not None:
        found = _nothing_chosen(study, study.decided_at)
    return [refusal for code, refusal in reversed(found.items()) if code not in told]


def _nothing_chosen(study: Study, at: datetime) -> dict[str, Refusal]:
    """Say of the best CT series of a study why nothing was chosen; nothing is said of studies without one."""
    skipped = [
        one for one in study.series
        if one.state is State.SKIPPED and one.modality == "CT" and one.code != LOOP_GUARD
    ]  # fmt: skip
    if not skipped:
        return {}
    best = max(skipped, key=lambda one: (one.score or float("-inf"), len(one.instances), -one.id))
    reason = f"no CT series of the study can be processed; this one: {best.verdict_reason or best.reason}"
    return {NO_SERIES: Refusal(best.id, NO_SERIES, reason, {"series_seen": len(study.series)}, _second(at))}


def _note_job(series: Series, refusal: Refusal, key: str, now: datetime) -> Job:
    return Job(
        key=key,
        kind=JobKind.NOTE,
        # It moves on in the same transaction; no stage ever finds it here.
        state=State.SYNTHESIZING,
        created_at=refusal.at,
        input_digest="",
        sources={"files": [], "code": refusal.code},
        notes=[],
        figures={},
        calling_ae=series.calling_ae,
        bundle={},
        result={},
        attempts=0,
        derive_attempts=0,
        first_arrival_at=series.first_arrival_at,
        last_arrival_at=series.last_arrival_at,
        queued_at=now,
    )


def _second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
