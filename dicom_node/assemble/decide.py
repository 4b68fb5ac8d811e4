"""The decision about a study: one series or none, the geometry gate on it, and a job in the queue.

Choice and gate are the pure functions of `dicom_node.dicom`, the same that work offline; this module reads the headers
for them and writes down what they said, for every series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dicom_node.assemble.late import LOOP_GUARD, reopen_study, sent_result, step_back, supersede
from dicom_node.dicom.choice import BETTER_LATER, SeriesVerdict, choose_series
from dicom_node.dicom.gate import GateOutcome, GateStatus, check_stack
from dicom_node.dicom.pixels import pixel_digest, read_slice_hu
from dicom_node.dicom.rules import BetterSeriesLater
from dicom_node.dicom.slices import read_headers
from dicom_node.dicom.values import SliceHeader
from dicom_node.errors import Permanent
from dicom_node.ledger.spool import SpoolPaths, name_hash
from dicom_node.ledger.states import State, StudyState
from dicom_node.ledger.store import Transaction
from dicom_node.ledger.tables import Job, Series, Study
from dicom_node.ledger.verdicts import VERDICT_EVENT
from dicom_node.settings import Settings

_REPORTED = (
    "better than the chosen series, but it came after the decision; the study keeps its one result"
    " (series retry --new takes this series instead)"
)
#: Issues of headers that are listed one by one.
_MOST_ISSUES: Final = 20


class Decider:
    """Decides studies and queues jobs.

    Parameters
    ----------
    paths : SpoolPaths
        Where the files of the series lie.
    """

    def __init__(self, paths: SpoolPaths) -> None:
        self._paths = paths

    def decide(self, change: Transaction, study: Study, settings: Settings) -> None:
        """Choose the series of a study that is complete and quiet, and give every other one its reason."""
        candidates = [one for one in study.series if one.state is State.COMPLETE or _may_be_chosen_now(one)]
        verdicts = self._verdicts(change, candidates, settings)
        by_uid = {series.series_instance_uid: series for series in candidates}
        chosen = next((verdict for verdict in verdicts if verdict.chosen), None)
        for verdict in verdicts:
            self._note_verdict(change, by_uid[verdict.series_instance_uid], verdict)
        if chosen is None:
            change.decide(
                study,
                StudyState.DECIDED,
                code="no_series",
                reason="no series of the study can be processed",
                chosen=None,
            )
            return
        change.decide(
            study,
            StudyState.DECIDED,
            code=chosen.code,
            reason=chosen.reason,
            chosen=chosen.series_instance_uid,
        )
        series = by_uid[chosen.series_instance_uid]
        if series.state is State.SKIPPED:
            change.move(series, State.COMPLETE, code="chosen", reason="chosen when the study was decided again")
        self.gate(change, series, settings)

    def after_decision(self, change: Transaction, series: Series, settings: Settings) -> None:
        """Deal with a series that became complete when its study had been decided already."""
        study = series.study
        if series.series_instance_uid == study.chosen_series_uid:
            self.gate(change, series, settings)
            return
        reopen_study(change, study)
        if study.state is StudyState.OPEN:
            # The chosen series was refused while this one arrived: there is no result, and the next round decides.
            return
        chosen = _chosen_of(study)
        rivals = [series] if chosen is None else [series, chosen]
        verdicts = {one.series_instance_uid: one for one in self._verdicts(change, rivals, settings)}
        verdict = verdicts.get(series.series_instance_uid)
        if verdict is None:
            return
        if not verdict.chosen:
            self._note_verdict(change, series, verdict)
        elif settings.selection.better_series_later is BetterSeriesLater.SUPERSEDE:
            self._note_verdict(change, series, verdict)
            self.take_over(change, series, settings)
        else:
            self._note_verdict(change, series, replace(verdict, chosen=False, code=BETTER_LATER, reason=_REPORTED))
            change.remark(series, BETTER_LATER, code=BETTER_LATER, reason=_REPORTED)

    def take_over(self, change: Transaction, series: Series, settings: Settings) -> None:
        """Process a series in the place of the chosen one of its decided study, whose result it replaces.

        Nothing happens to the chosen series and its result when the gate refuses the new one.

        Parameters
        ----------
        change : Transaction
            The open transaction.
        series : Series
            In state COMPLETE, and not the chosen one.
        settings : Settings
            For the thresholds of the gate.
        """
        study, before = series.study, _chosen_of(series.study)
        self.gate(change, series, settings, in_place_of=before)
        if series.state is not State.QUEUED:
            return
        if before is not None:
            step_back(change, before, series)
        reason = "a better series came after the decision and took the place of the chosen one"
        change.decide(study, StudyState.DECIDED, code=BETTER_LATER, reason=reason, chosen=series.series_instance_uid)

    def gate(
        self,
        change: Transaction,
        series: Series,
        settings: Settings,
        *,
        anew: bool = False,
        in_place_of: Series | None = None,
    ) -> None:
        """Send the chosen series through the geometry gate: QUEUED, or REFUSED with numbers.

        Parameters
        ----------
        change : Transaction
            The open transaction.
        series : Series
            In state COMPLETE.
        settings : Settings
            For the thresholds.
        anew : bool
            Make a new result even if this very input has one (an administrator's ``series retry --new``).
        in_place_of : Series, optional
            The chosen series of the study, whose result this one's replaces.
        """
        try:
            headers = self.headers(series)
            _remark_issues(change, series, headers)
            outcome = check_stack(headers, settings.geometry, pixel_digest=pixel_digest, read_slice=read_slice_hu)
        except Permanent as error:
            change.move(series, State.REFUSED, code=error.code, reason=error.reason, figures=error.figures)
            return
        if outcome.status is GateStatus.REFUSE:
            change.move(
                series, State.REFUSED, code=outcome.code or "geometry", reason=outcome.reason, figures=outcome.figures
            )
            return
        replaced = None if in_place_of is None else sent_result(in_place_of)
        self._queue(change, series, outcome, replaced or sent_result(series), anew=anew)

    def _verdicts(self, change: Transaction, series: Sequence[Series], settings: Settings) -> tuple[SeriesVerdict, ...]:
        """Ask the choice about some series of one study; one whose files have become unreadable is refused instead."""
        headers: dict[str, list[SliceHeader]] = {}
        for one in series:
            try:
                headers[one.series_instance_uid] = self.headers(one)
            except Permanent as error:
                if one.state is State.COMPLETE:
                    change.move(one, State.REFUSED, code=error.code, reason=error.reason, figures=error.figures)
        today = change.at.astimezone().date()
        return choose_series(headers, settings.selection, thresholds=settings.geometry, today=today)

    def headers(self, series: Series) -> list[SliceHeader]:
        """Read the headers of a series from the spool: one per slice, or per frame of Enhanced CT."""
        folder = self._paths.series / series.folder
        return [header for one in series.instances for header in read_headers(folder / one.file_name)]

    def _note_verdict(self, change: Transaction, series: Series, verdict: SeriesVerdict) -> None:
        series.score = verdict.score
        series.verdict_code, series.verdict_reason = verdict.code, verdict.reason
        change.remark(series, VERDICT_EVENT, code=verdict.code, reason=verdict.reason, figures=verdict.to_json())
        if not verdict.chosen and series.state is State.COMPLETE:
            change.move(series, State.SKIPPED, code=verdict.code, reason=verdict.reason)

    def _queue(self, change: Transaction, series: Series, outcome: GateOutcome, old: Job | None, *, anew: bool) -> None:
        digest = input_digest(outcome.headers, {i.sop_instance_uid: i.content_sha256 for i in series.instances})
        if old is not None and old.input_digest == digest and not anew:
            series.job_key = old.key
            change.move(series, old.state, code="same_input", reason="this very input has its result already")
            return
        figures: dict[str, object] = {"slices": len(outcome.headers), "gate": outcome.status.name}
        job = Job(
            key=name_hash(
                series.study.study_instance_uid, series.series_instance_uid, digest, str(len(series.results))
            ),
            state=State.QUEUED,
            figures=figures,
            created_at=change.at.replace(microsecond=0),
            input_digest=digest,
            sources={
                "files": [header.path.name for header in outcome.headers],
                "sop_instance_uids": [header.sop_instance_uid for header in outcome.headers],
                "frames": [header.frame_number for header in outcome.headers],
                # The figures of a job change with every step; the report on its result has to know this one later.
                "gate": outcome.status.name,
            },
            notes=[*outcome.notes, *_missing_note(series)],
            calling_ae=series.calling_ae,
            supersedes=old.key if old else None,
            superseded_series_uid=old.result_series_uid if old else None,
            bundle={},
            result={},
            attempts=0,
            derive_attempts=0,
            first_arrival_at=series.first_arrival_at,
            last_arrival_at=series.last_arrival_at,
            queued_at=change.at,
        )
        series.jobs.append(job)
        change.session.flush()
        series.job_key = job.key
        if old is not None:
            supersede(change, old, job.key)
        change.move(series, State.QUEUED, code=None, reason=None, figures=figures)
        change.touch(job)


def _remark_issues(change: Transaction, series: Series, headers: Sequence[SliceHeader]) -> None:
    """Record which attributes do not parse or do not fit their character set: a warning, and no reason to stop."""
    issues = sorted({issue for header in headers for issue in header.issues})
    if issues:
        change.remark(
            series,
            "header_issues",
            code="header_issues",
            reason=f"no reason to stop: {'; '.join(issues[:_MOST_ISSUES])}",
            figures={"issues": len(issues)},
        )


def input_digest(headers: Sequence[SliceHeader], content: Mapping[str, str]) -> str:
    """Return the identity of an input: which instances with which bytes, whatever their order of arrival."""
    parts = sorted(
        f"{header.sop_instance_uid} {content[header.sop_instance_uid]}"
        # An instance is one input; which of its frames go in is part of it.
        + ("" if header.frame_number is None else f" frame {header.frame_number}")
        for header in headers
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def source_paths(paths: SpoolPaths, job: Job) -> tuple[Path, ...]:
    """Return the files that a job works on, in the order of the gate."""
    folder = paths.series / job.series.folder
    return tuple(folder / name for name in job.sources["files"])


def _missing_note(series: Series) -> list[str]:
    """Say in the result itself that it was made of fewer images than the source holds."""
    held = series.expected.get("source")
    if held is None or len(series.instances) >= held:
        return []
    return [f"made of {len(series.instances)} images; the source holds {held} of this series"]


def _chosen_of(study: Study) -> Series | None:
    return next((one for one in study.series if one.series_instance_uid == study.chosen_series_uid), None)


def source_frames(job: Job) -> tuple[int | None, ...]:
    """Return which frame of each file of `source_paths` a job works on, None for all of it."""
    return tuple(job.sources.get("frames") or (None,) * len(job.sources["files"]))


def _may_be_chosen_now(series: Series) -> bool:
    return series.state is State.SKIPPED and series.code != LOOP_GUARD
