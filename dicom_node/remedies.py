"""What an administrator can ask for: process a series once more, or send a dead letter again.

Done by the service (which alone writes the ledger) or, where none runs, by the command that holds the spool lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import select

from dicom_node.assemble.decide import Decider
from dicom_node.assemble.late import LOOP_GUARD, reopen_study
from dicom_node.dicom.choice import BETTER_LATER
from dicom_node.errors import Refused
from dicom_node.ledger.queries import find_series, is_dead_letter
from dicom_node.ledger.states import CommitmentState, DeliveryState, JobKind, State, StudyState
from dicom_node.ledger.store import Ledger, Transaction
from dicom_node.ledger.tables import Delivery, Job, Series
from dicom_node.settings import Settings
from dicom_node.stages.derivation import address

_ENDS_WITH_RESULT: Final = frozenset({State.DELIVERED, State.COMMITTED})


@dataclass(frozen=True, slots=True)
class Remedy:
    """One series that was set going again."""

    series_instance_uid: str
    before: str
    after: str
    told: str


def handle_request(ledger: Ledger, settings: Settings, request: Mapping[str, Any]) -> list[dict[str, str]]:
    """Do a request that came through `dicom_node.operate.requests`.

    Raises
    ------
    Refused
        When it cannot be done, with the reason.
    """
    uid = request.get("uid")
    match request.get("verb"):
        case "retry" if isinstance(uid, str):
            remedies = retry_series(ledger, settings, uid, new=bool(request.get("new")))
        case "replay":
            remedies = replay_dead_letters(ledger, settings, None if uid is None else str(uid))
        case verb:
            raise Refused("unknown_request", f"the service knows no request {verb!r}")
    return [asdict(remedy) for remedy in remedies]


def replay_dead_letters(ledger: Ledger, settings: Settings, uid: str | None) -> list[Remedy]:
    """Set every FAILED series going again, or those that a UID names.

    Raises
    ------
    Refused
        ``no_dead_letter`` when the UID names none.
    """
    with ledger.transaction() as change:
        if uid is None:
            found = list(change.session.scalars(select(Series).where(is_dead_letter()).order_by(Series.id)))
        else:
            found = find_series(change.session, uid)
        remedies = [one for series in found for one in _replay(change, series, settings)]
        if uid is not None and not remedies:
            raise Refused("no_dead_letter", f"no dead letter belongs to {uid}; see: jmmda-node dead-letter list")
        return remedies


def retry_series(ledger: Ledger, settings: Settings, uid: str, *, new: bool) -> list[Remedy]:
    """Process series once more from where they failed, were refused or skipped.

    Parameters
    ----------
    ledger : Ledger
        Open ledger.
    settings : Settings
        In force.
    uid : str
        Of a series, of a study (then its failed and refused series), or of a result.
    new : bool
        Make a new result of a series that has one, or of a better one that came too late; the old one becomes
        SUPERSEDED.

    Raises
    ------
    Refused
        When nothing is known by that UID, or the series stands where a retry means nothing.
    """
    with ledger.transaction() as change:
        found = find_series(change.session, uid)
        if not found:
            raise Refused("unknown_series", f"nothing here has the UID {uid}")
        if len(found) > 1:
            found = [one for one in found if one.state in (State.FAILED, State.REFUSED)]
            if not found:
                raise Refused("nothing_to_retry", "no series of this study is failed or refused")
        decider = Decider(ledger.paths)
        return [_renew(change, one, settings, decider) if new else _retry(change, one, settings) for one in found]


def _replay(change: Transaction, series: Series, settings: Settings) -> Iterator[Remedy]:
    """Set going again what failed of a series: its result, and notes about a refusal that did not get out."""
    if series.state is State.FAILED:
        yield _retry_failed(change, series, settings)
    for job in series.jobs:
        if job.kind is JobKind.NOTE and job.state is State.FAILED and job.result:
            _send_again(change, job, settings)
            yield Remedy(series.series_instance_uid, State.FAILED.value, job.state.value, "its note is sent again")


def _renew(change: Transaction, series: Series, settings: Settings, decider: Decider) -> Remedy:
    before = series.state
    came_late = before is State.SKIPPED and series.code == BETTER_LATER
    if before not in _ENDS_WITH_RESULT | {State.FAILED, State.REFUSED} and not came_late:
        raise Refused("under_way", f"the series is {before.value}; --new is for one that has come to an end")
    change.move(series, State.COMPLETE, code="retry_new", reason="an administrator asked for a new result")
    if series.series_instance_uid == series.study.chosen_series_uid:
        decider.gate(change, series, settings, anew=True)
    else:
        decider.take_over(change, series, settings)
    return _remedy(series, before, "a new result is being made" if series.state is State.QUEUED else "refused again")


def _retry(change: Transaction, series: Series, settings: Settings) -> Remedy:
    match series.state:
        case State.FAILED:
            return _retry_failed(change, series, settings)
        case State.REFUSED:
            return _retry_refused(change, series)
        case State.SKIPPED:
            return _retry_skipped(change, series)
        case State.DELIVERED:
            return _confirm_again(change, series, settings)
        case State.COMMITTED:
            raise Refused("has_result", "the series has its result; --new makes another one")
        case state:
            raise Refused("under_way", f"the series is {state.value}, there is nothing to retry yet")


def _retry_failed(change: Transaction, series: Series, settings: Settings) -> Remedy:
    job = change.job(series.job_key) if series.job_key else None
    if job is None:
        change.move(series, State.COMPLETE, code="retry", reason="an administrator asked to try again")
        return _remedy(series, State.FAILED, "the series is judged again")
    if not job.result:
        return _requeue(change, series, job)
    _send_again(change, job, settings)
    return _remedy(series, State.FAILED, "what is missing is sent again")


def _send_again(change: Transaction, job: Job, settings: Settings) -> None:
    names = [peer.name for peer in settings.destinations_for(job.calling_ae)]
    if not job.deliveries and not names:
        raise Refused("no_destination", "still no route leads from the sender of this series to a destination")
    if not job.deliveries:
        address(change, job, names)
    for delivery in job.deliveries:
        if delivery.state is DeliveryState.FAILED:
            delivery.state, delivery.attempts = DeliveryState.PENDING, 0
            delivery.next_try_at = delivery.code = delivery.reason = None
            _ask_afresh(delivery)
    change.move_job(job, State.DELIVERING, code="replay", reason="an administrator asked to send again")


def _confirm_again(change: Transaction, series: Series, settings: Settings) -> Remedy:
    """Have a result that nobody confirmed asked about once more; one delivered before the peer had its role too."""
    job = change.job(series.job_key) if series.job_key else None
    asked = []
    for delivery in job.deliveries if job is not None and job.state is State.DELIVERED else ():
        unconfirmed = delivery.commitment in (None, CommitmentState.UNCONFIRMED)
        if unconfirmed and settings.committer_of(delivery.destination) is not None:
            _ask_afresh(delivery)
            delivery.commitment, delivery.commitment_next_at = CommitmentState.WAITING, change.at
            asked.append(delivery.destination)
    if job is None or not asked:
        raise Refused("has_result", "the series has its result; --new makes another one")
    change.touch(job)
    return _remedy(series, State.DELIVERED, f"storage commitment is asked for again: {', '.join(asked)}")


def _ask_afresh(delivery: Delivery) -> None:
    delivery.commitment_asked = delivery.commitment_tries = 0
    delivery.commitment_code = delivery.commitment_reason = None


def _retry_refused(change: Transaction, series: Series) -> Remedy:
    job = change.job(series.job_key) if series.job_key else None
    if job is not None and job.state is State.REFUSED:
        return _requeue(change, series, job)
    change.move(series, State.COMPLETE, code="retry", reason="an administrator asked to try again")
    return _remedy(series, State.REFUSED, "the series goes through the geometry gate again")


def _retry_skipped(change: Transaction, series: Series) -> Remedy:
    if series.code == LOOP_GUARD:
        raise Refused("loop_guard", f"this series is never processed: {series.reason}")
    reopen_study(change, series.study)
    if series.study.state is StudyState.DECIDED:
        raise Refused("study_decided", "the study has its series already; retry that one instead")
    change.move(series, State.COMPLETE, code="retry", reason="an administrator asked to decide again")
    return _remedy(series, State.SKIPPED, "the study is decided again")


def _requeue(change: Transaction, series: Series, job: Job) -> Remedy:
    before = series.state
    job.attempts = job.derive_attempts = 0
    job.next_try_at = None
    change.move_job(job, State.QUEUED, code="retry", reason="an administrator asked to try again")
    return _remedy(series, before, "the job is in the queue again")


def _remedy(series: Series, before: State, told: str) -> Remedy:
    return Remedy(series.series_instance_uid, before.value, series.state.value, told)
