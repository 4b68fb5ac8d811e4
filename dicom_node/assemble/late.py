"""What a new instance or a new series does to a series and a study that had already moved on.

A late slice makes a new result, or is only reported (``intake.late_slices``). A result of which nothing was sent yet
gives way at once; one that is out, or on its way, is finished and becomes SUPERSEDED when its successor is queued. So
it is too when a better series takes the place of the chosen one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dicom_node.ledger.states import UNSENT, CommitmentState, DeliveryState, State, StudyState
from dicom_node.ledger.store import Transaction
from dicom_node.ledger.tables import Job, Series, Study
from dicom_node.settings import LateSlices

LOOP_GUARD: Final = "loop_guard"
LATE: Final = "late_slices"
TOOK_OVER: Final = "better_series_took_over"
_RETRY: Final = "it is kept as it is (series retry --new makes one of all slices)"
_KEPT: Final[Mapping[LateSlices, str]] = {
    LateSlices.REOPEN: f"slices came after the result of this series was sent, or began to be; {_RETRY}",
    LateSlices.REPORT: f"slices came after this series was queued; its result is made without them, and {_RETRY}",
}


def reopen_series(change: Transaction, series: Series, policy: LateSlices = LateSlices.SUPERSEDE) -> bool:
    """Bring a series to which instances were added back to RECEIVING, unless the policy keeps its result.

    Parameters
    ----------
    change : Transaction
        The open transaction.
    series : Series
        To which something was added just now.
    policy : LateSlices
        What becomes of a result that is there, or being made. A series without one is always opened again.

    Returns
    -------
    bool
        Whether the series is being received now.
    """
    if series.state is State.RECEIVING:
        return True
    if series.code == LOOP_GUARD:
        return False
    job = change.job(series.job_key) if series.job_key else None
    if job is not None and _keeps(job, series, policy):
        change.remark(series, LATE, code=LATE, reason=_KEPT[policy])
        return False
    series.job_key = None
    change.move(series, State.RECEIVING, code=LATE, reason="more slices arrived after the series was complete")
    if job is not None and job.state in UNSENT:
        change.move_job(job, State.SUPERSEDED, code=LATE, reason="more slices arrived before anything was sent")
    return True


def _keeps(job: Job, series: Series, policy: LateSlices) -> bool:
    """Tell whether a policy keeps this result, although slices came that are not in it."""
    if policy is LateSlices.SUPERSEDE or job.state is State.REFUSED:
        return False
    sent = sent_result(series) is not None
    return sent if policy is LateSlices.REOPEN or job.state is State.FAILED else True


def reopen_study(change: Transaction, study: Study) -> None:
    """Open a decided study again when it has no result to show: nothing was chosen, or the choice was refused."""
    if study.state is StudyState.OPEN:
        return
    chosen = next((one for one in study.series if one.series_instance_uid == study.chosen_series_uid), None)
    if chosen is None or chosen.state is State.REFUSED:
        change.decide(
            study,
            StudyState.OPEN,
            code="more_arrived",
            reason="a series arrived after the decision, and the study has no result yet",
            chosen=None,
        )


def sent_result(series: Series) -> Job | None:
    """Return the newest result of which a destination has, or may have, at least one instance."""
    for job in reversed(series.results):
        stored = any(item.stored for delivery in job.deliveries for item in delivery.instances)
        under_way = job.state in (State.DELIVERING, State.DELIVERED, State.COMMITTED)
        if under_way or (job.state is State.FAILED and stored):
            return job
    return None


def supersede(change: Transaction, old: Job, new_key: str) -> None:
    """Mark a result as replaced and stop what was still to be sent of it."""
    for delivery in old.deliveries:
        if delivery.state is DeliveryState.PENDING:
            delivery.state = DeliveryState.CANCELLED
            delivery.code, delivery.reason = "superseded", f"replaced by job {new_key}"
        if delivery.commitment is CommitmentState.WAITING:
            delivery.commitment = delivery.commitment_next_at = None
    change.move_job(old, State.SUPERSEDED, code="superseded", reason=f"replaced by job {new_key}")


def step_back(change: Transaction, series: Series, heir: Series) -> None:
    """Take the chosen series out of the running once `heir`, the better one, is queued in its place.

    What was sent of its results was marked by `supersede` before; whatever else it has under way, or failed, ends here.
    """
    job = change.job(series.job_key) if series.job_key else None
    series.job_key = None
    if job is not None and job.state is not State.SUPERSEDED:
        change.move_job(job, State.SUPERSEDED, code=TOOK_OVER, reason=f"replaced by job {heir.job_key}")
    reason = f"a better series came later and took its place: {heir.series_instance_uid}"
    if series.state is not State.SKIPPED:
        change.move(series, State.SKIPPED, code=TOOK_OVER, reason=reason)
