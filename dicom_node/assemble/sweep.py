"""The sweep: looks at everything that waits, closes what is complete, decides what is quiet.

It runs every second and after every poke, holds no state of its own, and may be cut off anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.assemble.completion import Completion, Evidence, judge
from dicom_node.assemble.decide import Decider
from dicom_node.assemble.quiet import QuietClock
from dicom_node.dicom.values import SliceHeader, read_header
from dicom_node.errors import Permanent, Transient
from dicom_node.ledger.place import place_of
from dicom_node.ledger.states import State, StudyState
from dicom_node.ledger.store import Ledger, Transaction
from dicom_node.ledger.tables import Association, Series, Study
from dicom_node.settings import SelectionSettings, Settings

logger = logging.getLogger(__name__)


class Sweep:
    """Completion and decision of all that waits.

    Parameters
    ----------
    ledger : Ledger
        Open ledger.
    quiet : QuietClock
        Tells how long nothing arrived.
    decider : Decider
        Decides studies.
    """

    def __init__(self, ledger: Ledger, quiet: QuietClock, decider: Decider) -> None:
        self._ledger = ledger
        self._quiet = quiet
        self._decider = decider

    def run(self, settings: Settings) -> None:
        """Do one round with the present settings."""
        self._complete_series(settings)
        self._decide_studies(settings)

    def _complete_series(self, settings: Settings) -> None:
        for series_id in self._ids(select(Series.id).where(Series.state == State.RECEIVING)):
            with self._ledger.reading() as session:
                series = session.get_one(Series, series_id)
                verdict = judge(self._evidence(series, settings), settings.intake, settings.geometry)
            if verdict.complete:
                with self._ledger.transaction() as change:
                    self._close(change, change.session.get_one(Series, series_id), verdict)

    def _close(self, change: Transaction, series: Series, verdict: Completion) -> None:
        series.signs = [sign.name.lower() for sign in verdict.signs]
        figures = {"instances": len(series.instances), "signs": series.signs}
        change.move(series, State.COMPLETE, figures=figures)
        self._quiet.forget(series)

    def _decide_studies(self, settings: Settings) -> None:
        waiting = select(Series.study_id).where(Series.state == State.COMPLETE).distinct()
        for study_id in self._ids(waiting):
            try:
                with self._ledger.transaction() as change:
                    self._decide_study(change, change.session.get_one(Study, study_id), settings)
            except (SQLAlchemyError, Transient, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - border: a study that breaks a rule may not block the others
                logger.error("study %d cannot be decided: %s", study_id, place_of(error))
                with self._ledger.transaction() as change:
                    _refuse_all(change, change.session.get_one(Study, study_id), place_of(error))

    def _decide_study(self, change: Transaction, study: Study, settings: Settings) -> None:
        if any(series.state is State.RECEIVING for series in study.series):
            return
        if study.state is StudyState.DECIDED:
            for series in study.series:
                if series.state is State.COMPLETE:
                    self._decider.after_decision(change, series, settings)
        elif self._quiet.study_quiet_s(study) >= settings.intake.study_quiet_s:
            self._decider.decide(change, study, settings)
            self._quiet.forget_study(study)

    def _evidence(self, series: Series, settings: Settings) -> Evidence:
        instances = series.instances
        counts = [one.images_in_acquisition for one in instances if one.images_in_acquisition]
        session_open = select(Association.id).where(
            Association.outcome == "open",
            Association.calling_ae == series.calling_ae,
            Association.host == series.host,
        )
        return Evidence(
            offsets_mm=[one.offset_mm for one in instances if one.offset_mm is not None],
            instances=len(instances),
            expected=max(counts) if counts else None,
            candidate=self._is_candidate(series, settings.selection),
            association_open=bool(self._ids(session_open.limit(1))),
            quiet_s=self._quiet.series_quiet_s(series),
            age_s=self._quiet.series_age_s(series),
        )

    def _is_candidate(self, series: Series, rules: SelectionSettings) -> bool:
        """Tell from the first instance whether such a series can ever be chosen."""
        if series.modality not in rules.modalities:
            return False
        first = self._ledger.paths.series / series.folder / series.instances[0].file_name
        try:
            return not _ruled_out(read_header(first), rules)
        except Permanent:
            # Its file has gone or gone bad: the decision will say so, and there is nothing to wait for.
            return False

    def _ids(self, query: object) -> Sequence[int]:
        with self._ledger.reading() as session:
            return list(session.scalars(query))  # type: ignore[call-overload]  # any select of one integer column


def _refuse_all(change: Transaction, study: Study, place: str) -> None:
    """Give what could not be decided a named state, from which it can be retried."""
    for series in study.series:
        if series.state is State.COMPLETE:
            change.move(series, State.REFUSED, code="internal", reason=f"the decision failed: {place}")


def _ruled_out(header: SliceHeader, rules: SelectionSettings) -> bool:
    excluded = {value.upper() for value in rules.exclude_image_type}
    return header.kind.name in ("LOCALIZER", "SCREEN") or bool(excluded & set(header.image_type))
