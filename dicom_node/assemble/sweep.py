"""The sweep: looks at everything that waits, closes what is complete, decides what is quiet.

It runs every second and after every poke, holds no state of its own, and may be cut off anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.assemble.completion import Completion, Evidence, judge
from dicom_node.assemble.decide import Decider
from dicom_node.assemble.evidence import Witness, rest_s
from dicom_node.assemble.quiet import QuietClock
from dicom_node.assemble.source import Inquiry
from dicom_node.errors import Transient
from dicom_node.ledger.place import place_of
from dicom_node.ledger.states import State, StudyState
from dicom_node.ledger.store import Ledger, Transaction
from dicom_node.ledger.tables import AWAITED_EVENT, Series, Study
from dicom_node.settings import IntakeSettings, Settings

logger = logging.getLogger(__name__)

#: Remark that the source says that the study is here as a whole, so that study_quiet_s was not waited for.
WHOLE_EVENT: Final = "study_whole"


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
    inquiry : Inquiry, optional
        Asks sources what they hold; without one nobody is asked.
    """

    def __init__(self, ledger: Ledger, quiet: QuietClock, decider: Decider, inquiry: Inquiry | None = None) -> None:
        self._ledger = ledger
        self._quiet = quiet
        self._decider = decider
        self._witness = Witness(ledger.paths, quiet, inquiry)

    def run(self, settings: Settings) -> float | None:
        """Do one round with the present settings.

        Returns
        -------
        float or None
            Seconds until the next round can find something new even if nothing arrives; None when nothing waits.
        """
        due = [*self._complete_series(settings), *self._decide_studies(settings)]
        return min(due, default=None)

    def _complete_series(self, settings: Settings) -> list[float]:
        """Close what is complete; return when the others may be."""
        due: list[float] = []
        for series_id in self._ids(select(Series.id).where(Series.state == State.RECEIVING)):
            with self._ledger.reading() as session:
                series = session.get_one(Series, series_id)
                evidence = self._witness.of_series(session, series, settings)
                told = self._witness.told_of(series, settings)
                news = evidence.awaited and series.expected != told
            verdict = judge(evidence, settings.intake, settings.geometry)
            if verdict.complete:
                with self._ledger.transaction() as change:
                    self._close(change, change.session.get_one(Series, series_id), verdict, told)
                continue
            due += _moments(evidence, settings.intake)
            if news and evidence.quiet_s >= settings.intake.settle_s:
                with self._ledger.transaction() as change:
                    _tell_awaited(change, change.session.get_one(Series, series_id), told, settings.intake)
        return due

    def _close(self, change: Transaction, series: Series, verdict: Completion, told: dict[str, object]) -> None:
        series.signs = [sign.name.lower() for sign in verdict.signs]
        series.expected = told
        figures = {"instances": len(series.instances), "signs": series.signs, "expected": told}
        change.move(series, State.COMPLETE, figures=figures)
        self._quiet.forget(series)

    def _decide_studies(self, settings: Settings) -> list[float]:
        """Decide what is quiet; return when the others may be."""
        due: list[float] = []
        waiting = select(Series.study_id).where(Series.state == State.COMPLETE).distinct()
        for study_id in self._ids(waiting):
            try:
                with self._ledger.transaction() as change:
                    due += self._decide_study(change, change.session.get_one(Study, study_id), settings)
            except (SQLAlchemyError, Transient, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - border: a study that breaks a rule may not block the others
                logger.error("study %d cannot be decided: %s", study_id, place_of(error))
                with self._ledger.transaction() as change:
                    _refuse_all(change, change.session.get_one(Study, study_id), place_of(error))
        return due

    def _decide_study(self, change: Transaction, study: Study, settings: Settings) -> list[float]:
        if any(series.state is State.RECEIVING for series in study.series):
            return []
        if study.state is StudyState.DECIDED:
            for series in study.series:
                if series.state is State.COMPLETE:
                    self._decider.after_decision(change, series, settings)
        else:
            quiet_s = self._quiet.study_quiet_s(study)
            whole = self._witness.is_whole(study, settings) and quiet_s >= settings.intake.settle_s
            if not whole and quiet_s < settings.intake.study_quiet_s:
                moments = (rest_s(settings.intake), settings.intake.settle_s, settings.intake.study_quiet_s)
                return [moment - quiet_s for moment in moments if moment > quiet_s]
            if whole:
                _remark_whole(change, study)
            self._decider.decide(change, study, settings)
        self._quiet.forget_study(study)
        self._witness.forget(study)
        return []

    def _ids(self, query: object) -> Sequence[int]:
        with self._ledger.reading() as session:
            return list(session.scalars(query))  # type: ignore[call-overload]  # any select of one integer column


def _refuse_all(change: Transaction, study: Study, place: str) -> None:
    """Give what could not be decided a named state, from which it can be retried."""
    for series in study.series:
        if series.state is State.COMPLETE:
            change.move(series, State.REFUSED, code="internal", reason=f"the decision failed: {place}")


def _moments(evidence: Evidence, intake: IntakeSettings) -> list[float]:
    """Seconds until each moment at which the verdict about a series may turn."""
    quiet = (rest_s(intake), intake.settle_s, intake.quiet_s, max(intake.quiet_s, intake.expected_patience_s))
    waits = [*(moment - evidence.quiet_s for moment in quiet), intake.hard_cap_s - evidence.age_s]
    return [wait for wait in waits if wait > 0]


def _tell_awaited(change: Transaction, series: Series, told: dict[str, object], intake: IntakeSettings) -> None:
    """Write down that and why a series that looks quiet is waited for."""
    series.expected = told
    patience_s = max(intake.quiet_s, intake.expected_patience_s)
    reason = (
        f"peer {told['peer']} holds {told['source']} images of this series ({told['by']}), {len(series.instances)} are"
        f" here; waiting until {patience_s:g} s without a new one, at most {intake.hard_cap_s:g} s in all"
    )
    change.remark(series, AWAITED_EVENT, code="source_holds_more", reason=reason, figures={"expected": told})


def _remark_whole(change: Transaction, study: Study) -> None:
    reason = "the source holds no other series that could be chosen, so study_quiet_s was not waited for (C-FIND)"
    for series in study.series:
        if series.state is State.COMPLETE:
            change.remark(series, WHOLE_EVENT, code=WHOLE_EVENT, reason=reason)
