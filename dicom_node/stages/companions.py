"""Which objects come beside a result: the request for them, and what of them enters the job record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.errors import Permanent
from dicom_node.ledger.store import Transaction
from dicom_node.ledger.tables import Job

if TYPE_CHECKING:
    from dicom_node.derive.companions.writer import CompanionFailure, CompanionSeries, SeriesReference
    from dicom_node.derive.writer import DerivedSeries, DeriveRequest
    from dicom_node.ledger.result_file import SynthesisResult
    from dicom_node.settings.sections import OutputSection

#: Kind and code of the remark that names a companion that could not be written.
NOT_WRITTEN: Final = "companion_not_written"


def make_companions(
    session: Session, job: Job, made: tuple[DeriveRequest, DerivedSeries], result: SynthesisResult,
    output: OutputSection, out: Path,
) -> tuple[CompanionSeries | CompanionFailure, ...]:  # fmt: skip
    """Write what the site wants beside a result, and the withdrawal of a result that this one replaces.

    Parameters
    ----------
    session : Session
        Open session of the ledger, for the result that is replaced.
    job : Job
        The job.
    made : tuple of DeriveRequest and DerivedSeries
        The images, already written.
    result : SynthesisResult
        What the worker left.
    output : OutputSection
        Choices of the site. A site that wants no companion gets no withdrawal either.
    out : Path
        Folder of the images.

    Returns
    -------
    tuple of CompanionSeries or CompanionFailure
        Never an exception for what a file holds.
    """
    if not output.companions:
        return ()
    series = made[1]
    withdrawn = (one for one in _sent_before(session, job) if one.series_instance_uid != series.series_instance_uid)
    return write_beside(
        made,
        result,
        output,
        out,
        gate=_gate_of(job),
        device=(str(job.bundle.get("device", "")), str(job.bundle.get("precision", ""))),
        withdrawn=tuple(withdrawn),
    )


def write_beside(
    made: tuple[DeriveRequest, DerivedSeries],
    result: SynthesisResult,
    output: OutputSection,
    out: Path,
    *,
    gate: str,
    device: tuple[str, str],
    withdrawn: tuple[SeriesReference, ...] = (),
) -> tuple[CompanionSeries | CompanionFailure, ...]:
    """Write what the site wants beside images that are there already.

    Parameters
    ----------
    made, result, output, out
        As for `make_companions`.
    gate : str
        Outcome of the geometry gate: ``pass``, ``note`` or ``repair``.
    device : tuple of str
        Device and precision that the network ran with.
    withdrawn : tuple of SeriesReference
        Series of the result that this one replaces.
    """
    from dicom_node.derive.companions.writer import CompanionRequest, SeriesReference, write_companions

    wanted, series = made
    reference = SeriesReference.from_record(
        {
            "series_instance_uid": series.series_instance_uid,
            "instances": [
                {"sop_class_uid": one.sop_class_uid, "sop_instance_uid": one.sop_instance_uid}
                for one in series.instances
            ],
        }
    )
    request = CompanionRequest(
        kinds=output.companions,
        source_paths=tuple(wanted.source_paths),
        source_frames=tuple(wanted.source_frames),
        mask=result.mask,
        result=reference,
        input_digest=series.input_digest,
        bundle=wanted.bundle,
        output=output,
        node_id=wanted.node_id,
        created=wanted.created,
        gate=gate,
        notes=tuple(wanted.notes),
        quality_flags=result.quality_flags,
        figures=result.figures,
        expected_error=result.expected_error,
        device=device[0],
        precision=device[1],
        withdrawn=withdrawn,
    )
    return write_companions(request, out)


def record_companions(
    change: Transaction, job: Job, outcomes: Sequence[CompanionSeries | CompanionFailure]
) -> list[dict[str, Any]]:
    """Return the companions for the job record; what was not written becomes a remark on the series."""
    from dicom_node.derive.companions.writer import CompanionSeries

    written = []
    for one in outcomes:
        if isinstance(one, CompanionSeries):
            written.append(one.to_json())
        else:
            reason = f"the companion {one.kind} was left out: {one.code}: {one.reason}"
            change.remark(job.series, NOT_WRITTEN, code=NOT_WRITTEN, reason=reason, figures={"kind": one.kind})
    return written


def _gate_of(job: Job) -> str:
    # A job that an older version put into the queue does not say.
    return str(job.sources.get("gate") or ("NOTE" if job.notes else "PASS")).lower()


def _sent_before(session: Session, job: Job) -> Iterator[SeriesReference]:
    """Series of the replaced result that a destination may have."""
    from dicom_node.derive.companions.writer import SeriesReference

    old = session.scalar(select(Job).where(Job.key == job.supersedes)) if job.supersedes else None
    if old is None:
        return
    stored = {item.sop_instance_uid for delivery in old.deliveries for item in delivery.instances if item.stored}
    for record in (old.result, *old.result.get("companions", ())):
        try:
            reference = SeriesReference.from_record(record)
        except Permanent:
            continue
        if any(one.sop_instance_uid in stored for one in reference.instances):
            yield reference
