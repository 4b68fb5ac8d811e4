"""Tables for `dicom_node.commands.journey`: records of the ledger in, Rich tables out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from dicom_node.assemble.completion import Sign
from dicom_node.ledger.queries import AsideView, DeliveryView, EventView, JobView, SeriesView, StatusView
from dicom_node.ledger.refusals import RefusedCaller
from dicom_node.ledger.states import CommitmentState, JobKind
from jmmda_model.eligibility_codes import plain_words

_MOST_REFUSED: Final = 10


def show_status(console: Console, processes: Mapping[str, Any], numbers: StatusView) -> None:
    """Print processes, counts and stage times."""
    console.print(f"node: {_process_words(processes)}", highlight=False)
    counts = {
        "series": numbers.series,
        "results": numbers.results,
        "notes": numbers.notes,
        "deliveries": numbers.deliveries,
        "storage commitment": numbers.commitments,
        "studies": numbers.studies,
    }
    if not any(numbers.notes.values()):
        del counts["notes"]
    for what, states in counts.items():
        told = ", ".join(f"{state} {count}" for state, count in states.items() if count)
        console.print(f"{what}: {told or 'none'}", highlight=False)
    console.print(
        f"open associations: {numbers.open_associations}; files set aside: {numbers.set_aside}", highlight=False
    )
    table = _table("stage", "results", "p50 s", "p95 s", title="Stage times (total: last slice to result stored)")
    for stage, times in numbers.stages.items():
        table.add_row(stage, str(times.jobs), _seconds(times.p50_s), _seconds(times.p95_s))
    console.print(table)


def show_refused(console: Console, refused: Sequence[RefusedCaller]) -> None:
    """Print whom the front door turned away, the last one first, if anybody."""
    if not refused:
        return
    console.print("[bold]associations turned away[/bold] (run/refusals.jsonl)")
    for one in refused[:_MOST_REFUSED]:
        times = f"{one.count} x since {one.first_at[:16]}, " if one.count > 1 else ""
        console.print(
            f"{times}last {one.last_at[:19]}  {one.refusal.code}: {one.refusal.reason}", highlight=False, markup=False
        )
    if len(refused) > _MOST_REFUSED:
        console.print(f"... and {len(refused) - _MOST_REFUSED} others: status --json", highlight=False, markup=False)


def show_series_table(console: Console, series: Sequence[SeriesView]) -> None:
    """Print state, size, UID and reason of each series, so that the UID can be copied whole."""
    if not series:
        console.print("no series")
        return
    for one in series:
        console.print(
            f"{_moment(one.changed_at)}  [bold]{one.state:12}[/bold] {one.instances} instances from {one.calling_ae}",
            highlight=False,
        )
        console.print(f"  series {one.series_instance_uid}", highlight=False)
        because = _because(one.code or one.verdict_code, one.reason or one.verdict_reason)
        if because:
            console.print(f" {because}", highlight=False)
        for delivery in one.jobs[-1].deliveries if one.jobs else ():
            if delivery.commitment == CommitmentState.UNCONFIRMED.value:
                told = _because(delivery.commitment_code, delivery.commitment_reason)
                console.print(f"  storage commitment: not confirmed by {delivery.destination}{told}", highlight=False)


def show_asides(console: Console, asides: Sequence[AsideView]) -> None:
    """Print the files that were set aside, if any."""
    if not asides:
        return
    console.print("[bold]set aside[/bold] (spool/quarantine)")
    for one in asides:
        console.print(f"{_moment(one.at)}  {one.file_name}{_because(one.code, one.reason)}", highlight=False)


def show_story(console: Console, view: SeriesView, events: Sequence[EventView]) -> None:
    """Print everything about one series."""
    console.print(f"[bold]series {view.series_instance_uid}[/bold]", highlight=False)
    lines = {
        "study": f"{view.study_instance_uid}, {view.study_state}{_because(None, view.study_reason)}",
        "state": f"{view.state}{_because(view.code, view.reason)}",
        "images": f"{view.instances} from {view.calling_ae}",
        "choice": f"score {view.score:.1f}{_because(view.verdict_code, view.verdict_reason)}"
        if view.score is not None
        else "not judged yet",
        "signs of completion": "; ".join(_sign_words(name) for name in view.signs) or "none yet",
        "expected images": _expected_words(view.expected) or "nobody said",
    }
    for name, text in lines.items():
        console.print(f"  {name}: {text}", highlight=False)
    for name, value in view.figures.items():
        console.print(f"  figure {name}: {value}", highlight=False)
    for job in view.jobs:
        _show_job(console, job)
    for event in events:
        step = f"{event.before or '-'} -> {event.after}" if event.after else event.kind
        console.print(f"  {_moment(event.at)}  {step}{_because(event.code, event.reason)}", highlight=False)


def _sign_words(name: str) -> str:
    """Put a sign of the ledger into words; one of another version stays a name."""
    signs = {sign.name.lower(): sign.value for sign in Sign}
    return signs.get(name, name)


def _expected_words(expected: Mapping[str, Any]) -> str:
    parts = []
    if "source" in expected:
        parts.append(f"{expected['source']} at peer {expected.get('peer')} (C-FIND, {expected.get('by')})")
    if "header" in expected:
        parts.append(f"{expected['header']} by NumberOfSeriesRelatedInstances of the headers")
    if "acquisition" in expected:
        parts.append(f"{expected['acquisition']} by ImagesInAcquisition")
    return "; ".join(parts)


def _show_job(console: Console, job: JobView) -> None:
    is_note = job.kind == JobKind.NOTE.value
    what = "note about the refusal" if is_note else "job"
    console.print(f"  {what} {job.key}: {job.state}{_because(job.code, job.reason)}", highlight=False)
    if job.result_series_uid:
        told = "note" if is_note else "result"
        console.print(f"    {told}: {job.result_series_uid}{'' if is_note else ' (SYNTHETIC)'}", highlight=False)
    if job.supersedes:
        console.print(f"    replaces the result of job {job.supersedes}", highlight=False)
    for note in job.notes:
        console.print(f"    note: {note}", highlight=False)
    for flag, words in zip(job.quality_flags, plain_words(job.quality_flags), strict=True):
        console.print(f"    quality: {flag}: {words}", highlight=False)
    for delivery in job.deliveries:
        console.print(f"    to {delivery.destination}: {_delivery_words(delivery)}", highlight=False)
        if delivery.commitment is not None:
            console.print(f"      storage commitment: {_commitment_words(delivery)}", highlight=False)


def _delivery_words(delivery: DeliveryView) -> str:
    words = f"{delivery.state}, {delivery.stored} of {delivery.total} stored, {delivery.attempts} tries"
    if delivery.next_try_at is not None:
        words += f", next at {_moment(delivery.next_try_at)}"
    return words + _because(delivery.code, delivery.reason)


def _commitment_words(delivery: DeliveryView) -> str:
    words = f"{delivery.commitment}, {delivery.committed} of {delivery.total} confirmed"
    words += f", asked {delivery.commitment_asked} times"
    if delivery.commitment_next_at is not None:
        words += f", again at {_moment(delivery.commitment_next_at)}"
    return words + _because(delivery.commitment_code, delivery.commitment_reason)


def _process_words(processes: Mapping[str, Any]) -> str:
    if not processes["running"]:
        return "not running"
    worker = processes.get("worker") or {}
    words = "running, " + ("well" if processes.get("well") else "no progress")
    words += f"; worker {worker.get('state', 'unknown')}"
    if worker.get("reason"):
        words += f" ({worker['reason']})"
    elif worker.get("device"):
        words += f" on {worker['device']} with bundle {worker.get('bundle')}"
    reload_report = processes.get("reload")
    if reload_report and not reload_report["taken"]:
        words += f"; last reload not taken: {'; '.join(reload_report['faults'])}"
    return words


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _because(code: str | None, reason: str | None) -> str:
    if not code and not reason:
        return ""
    return f" ({': '.join(part for part in (code, reason) if part)})"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _moment(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
