"""From the worker's pixels to labelled DICOM files, and to the list of who gets them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Select, select

from dicom_node.assemble.decide import source_frames, source_paths
from dicom_node.errors import RETRY
from dicom_node.ledger.job_file import OUT_FOLDER
from dicom_node.ledger.result_file import SynthesisResult, read_result
from dicom_node.ledger.spool import fsync_folder
from dicom_node.ledger.states import State
from dicom_node.ledger.store import Transaction
from dicom_node.ledger.tables import Delivery, DeliveryInstance, Job
from dicom_node.settings import Settings
from dicom_node.stages.base import Stage
from dicom_node.stages.companions import make_companions, record_companions

if TYPE_CHECKING:
    from dicom_node.derive.companions.writer import CompanionFailure, CompanionSeries
    from dicom_node.derive.writer import BundleFacts, DerivedSeries

#: Longest time of deriving one series that still counts as progress (2000 slices on a slow disk).
_DERIVE_LIMIT_S: Final = 900.0
#: Code of the remark that names what a result copied from a header that is not clean.
COPIED_AS_IS: Final = "copied_as_is"
_MOST_WARNINGS: Final = 20


class DeriveStage(Stage):
    """Turns the worker's pixels into labelled DICOM files and addresses them."""

    name = "derive"
    policy = RETRY["derive"]

    def _due(self) -> Select[Job]:
        return select(Job).where(Job.state == State.SYNTHESIZING, Job.synthesized_at.is_not(None))

    def _failures(self, job: Job) -> int:
        return job.derive_attempts

    def _work(self, key: str) -> None:
        with self._current(key) as current:
            if current is None:
                return
            current[1].derive_attempts += 1
        self._beats.beat(self.name, _DERIVE_LIMIT_S)
        settings = self._settings()
        series, companions, result = self._derive(key, settings)
        with self._current(key) as current:
            if current is None:
                return
            change, job = current
            job.result = {
                **_result_record(series, result),
                "companions": record_companions(change, job, companions),
            }
            job.result_series_uid = series.series_instance_uid
            job.derived_at, job.next_try_at = change.at, None
            change.move_job(
                job, State.DERIVED, figures={"instances": len(series.instances), **_quality_figures(result)}
            )
            if series.warnings:
                change.remark(
                    job.series,
                    COPIED_AS_IS,
                    code=COPIED_AS_IS,
                    reason=f"copied into the result as it is: {'; '.join(series.warnings[:_MOST_WARNINGS])}",
                    figures={"warnings": len(series.warnings)},
                )
            address(change, job, [peer.name for peer in settings.destinations_for(job.calling_ae)])

    def _derive(
        self, key: str, settings: Settings
    ) -> tuple[DerivedSeries, tuple[CompanionSeries | CompanionFailure, ...], SynthesisResult]:
        from dicom_node.derive.writer import DeriveRequest, derive_series

        folder = self._ledger.paths.jobs / key
        result = read_result(folder)
        out = folder / OUT_FOLDER
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(mode=0o700)
        fsync_folder(folder)
        with self._ledger.reading() as session:
            job = session.scalars(select(Job).where(Job.key == key)).one()
            request = DeriveRequest(
                source_paths=source_paths(self._ledger.paths, job),
                pixels=result.pixels,
                mask=result.mask,
                source_slices=result.source_slices,
                bundle=_bundle_facts(job.bundle),
                output=settings.output,
                node_id=settings.node.node_id,
                created=settings.output.clock(job.created_at),
                notes=(*job.notes, *result.notes),
                quality_flags=result.quality_flags,
                superseded_series_uid=job.superseded_series_uid,
                source_frames=source_frames(job),
            )
            series = derive_series(request, out)
            companions = make_companions(session, job, (request, series), result, settings.output, out)
        return series, companions, result


def _bundle_facts(record: Mapping[str, Any]) -> BundleFacts:
    """Return the facts of the bundle that the worker named when it took the job."""
    from dicom_node.derive.writer import BundleFacts

    return BundleFacts(
        name=str(record["name"]),
        sha256=str(record["sha256"]),
        weights_sha256=str(record["weights_sha256"]),
        is_phantom=bool(record["is_phantom"]),
        trained=bool(record["trained"]),
        size=str(record["size"]),
        version=str(record.get("version", "")),
    )


def _quality_figures(result: SynthesisResult) -> dict[str, object]:
    """Return what the eligibility check saw, for the history of the series."""
    return {"quality_flags": list(result.quality_flags), **result.figures}


def _result_record(series: DerivedSeries, result: SynthesisResult) -> dict[str, Any]:
    return {
        "quality_flags": list(result.quality_flags),
        "figures": dict(result.figures),
        "series_instance_uid": series.series_instance_uid,
        "input_digest": series.input_digest,
        "label_facts": series.label_facts.to_json(),
        "warnings": list(series.warnings),
        "instances": [
            {
                "file": one.path.name,
                "sop_instance_uid": one.sop_instance_uid,
                "sop_class_uid": one.sop_class_uid,
                "source_sop_instance_uid": one.source_sop_instance_uid,
                "source_frame": one.source_frame,
                "sha256": one.sha256,
            }
            for one in series.instances
        ],
    }


def address(change: Transaction, job: Job, destinations: list[str]) -> None:
    """Give a derived result its deliveries; without a destination it is a dead letter that says so."""
    if not destinations:
        change.move_job(
            job,
            State.FAILED,
            code="no_destination",
            reason="no route leads from the sender of this series to a peer with role destination; "
            "complete [[routes]] and retry the series",
        )
        return
    known = {delivery.destination for delivery in job.deliveries}
    everything = (job.result, *job.result.get("companions", ()))
    uids = [item["sop_instance_uid"] for one in everything for item in one["instances"]]
    for destination in destinations:
        if destination not in known:
            delivery = Delivery(destination=destination, attempts=0)
            delivery.instances = [DeliveryInstance(sop_instance_uid=uid, stored=False) for uid in uids]
            job.deliveries.append(delivery)
