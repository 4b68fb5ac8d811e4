"""`jmmda-node pull PEER`: fetch studies from a PACS, one by its UID or all of a range of days."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dicom_node.commands.config import find_config
from dicom_node.errors import NodeError

if TYPE_CHECKING:
    from dicom_node.commands.pull_plan import Doubts, StudyPlan, Wanted
    from dicom_node.commands.pull_run import Puller, StudyOutcome
    from dicom_node.commands.pull_state import PulledBefore
    from dicom_node.net.retrieve_status import RetrieveResult
    from dicom_node.settings import Peer, Settings

_EXIT_FAILED: Final = 1
_EXIT_REFUSED: Final = 3
#: The peer said no for good, rather than that something passed.
_REFUSALS: Final = frozenset(
    {"peer_rejected", "move_destination_unknown", "retrieve_not_allowed", "retrieve_unknown", "retrieve_refused"}
)

_HELP = """
Fetch studies from a PACS with the roles query and source. What arrives takes the usual way: it is stored, one series is
chosen, a result is made and delivered.

--move (default) has the PACS send to the running node; the PACS must know our AE title, host and port. --get brings the
images over our own association, for a PACS that cannot call us; the node need not run, but run it as the node's user.

With --from and --to all studies of these days are fetched, one after the other. Whatever stops it, Ctrl-C too: the same
command goes on where it stood.

[bold]Examples[/bold]

  jmmda-node pull pacs --study 1.2.840.113619.2.55.3 --get

  jmmda-node pull pacs --from 2026-01-01 --to 2026-01-31 --body-part HEAD --rate 10 --dry-run

[bold]Exit codes[/bold]: 0 all came, 1 some did not (run it again), 2 usage or settings, 3 refused with a reason.
"""


@dataclass(slots=True)
class _Run:
    """What one run has done so far."""

    outcomes: list[StudyOutcome] = field(default_factory=list)
    planned: list[StudyPlan] = field(default_factory=list)
    known: int = 0
    errors: list[NodeError] = field(default_factory=list)
    interrupted: bool = False

    @property
    def troubles(self) -> list[NodeError]:
        return [*self.errors, *(one.trouble for one in self.outcomes if one.trouble is not None)]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("pull", help=_HELP)(pull)


def pull(
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Name of a peer in the settings.")],
    study: Annotated[str | None, typer.Option(help="StudyInstanceUID of the study to fetch.")] = None,
    series: Annotated[str | None, typer.Option(help="SeriesInstanceUID: only this series of --study.")] = None,
    first: Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First StudyDate.")] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last StudyDate; that of --from if left out.")
    ] = None,
    get: Annotated[bool, typer.Option("--get/--move", help="By C-GET, or by C-MOVE to the running node.")] = False,
    modality: Annotated[
        str | None,
        typer.Option(help="Only series of this modality, 'any' for all. Default: CT for a range, any for --study."),
    ] = None,
    body_part: Annotated[
        str, typer.Option(help="Only series whose BodyPartExamined is this, or is not told by the PACS.")
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Fetch at most so many studies in this run.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Begin at most so many studies a minute.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only ask and show what would be fetched.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Fetch also what was fetched before.")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Longest wait for each answer, seconds.")
    ] = 60.0,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file with the peers.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Fetch studies; see the command's help."""
    _check_usage(study, series, first, last)
    from dicom_node.commands.pull_plan import Doubts, Wanted
    from dicom_node.commands.pull_run import Pace, Puller, Verb, ensure_may_pull
    from dicom_node.commands.pull_state import PulledBefore
    from dicom_node.net.quiet import quiet_libraries
    from dicom_node.settings import load_settings

    quiet_libraries()
    settings = load_settings(find_config(config))
    source = _peer(settings, peer)
    verb = Verb.GET if get else Verb.MOVE
    chosen = modality or ("any" if study else "CT")
    wanted = Wanted("" if chosen == "any" else chosen, body_part, series or "")
    doubts = Doubts()
    puller = Puller(settings, source, verb, timeout_s)
    before = PulledBefore(settings.node.data_dir, source.name, forget=again)
    run = _Run()
    try:
        if not dry_run:
            ensure_may_pull(settings, source, verb)
        with _terminable():
            plans = _plans(puller, (study, first, last or first), wanted, doubts, before, run)
            _go_through(plans, puller, before, run, Pace(rate), limit, dry_run, verb.value)
    except NodeError as error:
        run.errors.append(error)
    except KeyboardInterrupt:
        run.interrupted = True
    _tell(run, doubts, source, verb.value, dry_run, as_json)
    _leave(run)


def _check_usage(study: str | None, series: str | None, first: datetime | None, last: datetime | None) -> None:
    if (study is None) == (first is None):
        raise typer.BadParameter("name a study (--study) or a range of days (--from, --to)", param_hint="--study")
    if series and not study:
        raise typer.BadParameter("needs --study as well", param_hint="--series")
    if study and last:
        raise typer.BadParameter("belongs to --from", param_hint="--to")
    if first and last and last < first:
        raise typer.BadParameter("lies before --from", param_hint="--to")


def _peer(settings: Settings, name: str) -> Peer:
    from dicom_node.settings.spelling import suggestion

    found = settings.peer(name)
    if found is None:
        names = [known.name for known in settings.peers]
        message = f"no peer {name!r} in the settings (known: {', '.join(names) or 'none'}){suggestion(name, names)}"
        raise typer.BadParameter(message, param_hint="PEER")
    return found


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C: the association is aborted, what was stored stays."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _plans(
    puller: Puller,
    what: tuple[str | None, datetime | None, datetime | None],
    wanted: Wanted,
    doubts: Doubts,
    before: PulledBefore,
    run: _Run,
) -> Iterator[StudyPlan]:
    """Yield one study after the other, less what was pulled before."""
    from dicom_node.commands.pull_plan import days_between, named_study, plan_study, studies_of_day

    study, first, last = what
    if study is not None:
        yield from _rest(named_study(puller.ask, study, wanted, doubts), before, run)
        return
    assert first is not None
    assert last is not None
    seen: set[str] = set()
    for day in days_between(first.date(), last.date()):
        for uid in studies_of_day(puller.ask, day, wanted.modality, doubts):
            if uid in seen:
                continue
            seen.add(uid)
            plan = plan_study(puller.ask, uid, wanted, doubts)
            if plan is not None:
                yield from _rest(plan, before, run)


def _rest(plan: StudyPlan, before: PulledBefore, run: _Run) -> Iterator[StudyPlan]:
    rest = plan.without(before.of(plan.study_instance_uid))
    if rest.series:
        yield rest
    else:
        run.known += 1


def _go_through(
    plans: Iterator[StudyPlan],
    puller: Puller,
    before: PulledBefore,
    run: _Run,
    pace: Any,  # noqa: ANN401 - Pace, imported late
    limit: int | None,
    dry_run: bool,
    verb: str,
) -> None:
    """Carry out the plans until they end, the limit is reached, or going on makes no sense."""
    from dicom_node.commands.pull_run import HOPELESS

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, soft_wrap=True)) as progress:
        task = progress.add_task("asking", total=None)
        for number, plan in enumerate(plans, start=1):
            run.planned.append(plan)
            if not dry_run:
                pace.wait()
                progress.update(task, description=f"study {number}", completed=0, total=plan.expected)
                outcome = puller.pull(plan, _bar(progress, task))
                run.outcomes.append(outcome)
                if outcome.trouble is None:
                    before.add(plan, verb)
                elif outcome.trouble.code in HOPELESS:
                    return
            if number == limit:
                return


def _bar(progress: Progress, task: TaskID) -> Any:  # noqa: ANN401 - OnProgress, imported late
    def show(result: RetrieveResult) -> None:
        progress.update(task, completed=result.arrived)

    return show


def _tell(run: _Run, doubts: Doubts, peer: Peer, verb: str, dry_run: bool, as_json: bool) -> None:
    from dicom_node.commands.pull_run import plan_to_json

    if as_json:
        studies = [{**plan_to_json(plan), "outcome": "planned"} for plan in run.planned]
        studies[: len(run.outcomes)] = [one.to_json() for one in run.outcomes]
        document = {
            "ok": not (run.troubles or run.interrupted),
            "peer": peer.name,
            "verb": verb,
            "dry_run": dry_run,
            "interrupted": run.interrupted,
            "known": run.known,
            "unusable_answers": doubts.unusable,
            "outside_range": doubts.outside,
            "studies": studies,
            "error": {"code": run.errors[0].code, "reason": run.errors[0].reason} if run.errors else None,
        }
        typer.echo(json.dumps(document, indent=1))
        return
    for plan in run.planned if dry_run else ():
        images = "?" if plan.expected is None else plan.expected
        typer.echo(f"{plan.study_instance_uid}: {len(plan.series)} series, {images} images")
    for one in run.outcomes:
        _tell_outcome(one)
    _tell_sum(run, doubts, dry_run)


def _tell_outcome(one: StudyOutcome) -> None:
    result = one.result
    expected = "?" if one.plan.expected is None else one.plan.expected
    text = f"{one.plan.study_instance_uid}: {result.arrived} of {expected} images"
    text += "".join(
        f", {count} {name}" for name, count in (("failed", result.failed), ("warnings", result.warnings)) if count
    )
    typer.echo(text)
    if one.trouble is not None:
        typer.echo(f"  {one.trouble}", err=True)


def _tell_sum(run: _Run, doubts: Doubts, dry_run: bool) -> None:
    done = len(run.planned) if dry_run else sum(one.trouble is None for one in run.outcomes)
    text = f"{done} studies {'to fetch' if dry_run else 'fetched'}, {run.known} fetched before"
    if not dry_run and len(run.outcomes) > done:
        text += f", {len(run.outcomes) - done} not complete"
    typer.echo(text)
    if doubts.unusable or doubts.outside:
        typer.echo(
            f"left out: {doubts.unusable} answers without a usable UID, {doubts.outside} studies of other days",
            err=True,
        )
    for error in run.errors:
        typer.echo(f"error: {error}", err=True)
    if run.interrupted:
        typer.echo("interrupted; the same command goes on where this one stood", err=True)


def _leave(run: _Run) -> None:
    from dicom_node.errors import Refused

    troubles = run.troubles
    if any(isinstance(one, Refused) or one.code in _REFUSALS for one in troubles):
        raise typer.Exit(_EXIT_REFUSED)
    if troubles or run.interrupted:
        raise typer.Exit(_EXIT_FAILED)
