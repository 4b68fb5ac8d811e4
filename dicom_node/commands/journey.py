"""`jmmda-node serve`, `status`, `series list|show|retry`, `dead-letter list|replay`: what is where, and why.

Reading goes straight to the ledger, whether or not the node runs. What changes something is asked of the running
service, because it alone writes the ledger; where none runs, the command holds the spool lock and does it itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from dicom_node.commands.config import find_config
from dicom_node.errors import Permanent, Refused

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dicom_node.settings import Settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file; looked for in the usual places when left out.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
UidArgument = Annotated[str, typer.Argument(help="UID of a series, of its study, or of a result made from it.")]

_SERVE_HELP = """
Run the node in the foreground: receivers, service and worker. SIGHUP reloads the settings, SIGTERM drains and ends.

[bold]Example[/bold]

  jmmda-node serve --config /etc/jmmda-node/node.toml

[bold]Exit codes[/bold]: 0 ended on request, 1 could not start (port or data folder in use), 2 faults in the settings.
"""
_STATUS_HELP = """
Show how many series stand where, how long each stage takes (p50, p95), how the processes are, and whom the node turned
away and why.

[bold]Examples[/bold]

  jmmda-node status

  jmmda-node status --json | jq .stages.total.p95_s

[bold]Exit codes[/bold]: 0 shown, 1 the node runs but makes no progress, 2 usage or settings.
"""
_LIST_HELP = """
List series with state and reason, the last changed first; files that were set aside follow.

[bold]Examples[/bold]

  jmmda-node series list --state REFUSED

  jmmda-node series list --study 1.2.840.113619.2 --json

[bold]Exit codes[/bold]: 0 shown, 2 usage or settings.
"""
_SHOW_HELP = """
Tell the whole story of a series: the table of all series of its study with score, code and reason of each (the same
that `synthesize --explain` prints), then every step with its time and reason, its results and their deliveries.

[bold]Example[/bold]

  jmmda-node series show 1.2.840.113619.2.55

[bold]Exit codes[/bold]: 0 shown, 2 usage or settings, 3 no such series.
"""
_RETRY_HELP = """
Process a series once more from where it failed, was refused or skipped; have storage commitment asked for again where
nobody confirmed the result. --new makes another result of a finished one, or takes a better series that came after the
decision in place of the chosen one.

[bold]Examples[/bold]

  jmmda-node series retry 1.2.840.113619.2.55

  jmmda-node series retry 1.2.840.113619.2.55 --new

[bold]Exit codes[/bold]: 0 set going, 1 the service did not answer, 2 usage or settings, 3 refused with a reason.
"""
_DEAD_LIST_HELP = """
List the dead letter: every series that FAILED, with the reason.

[bold]Example[/bold]

  jmmda-node dead-letter list

[bold]Exit codes[/bold]: 0 shown, 2 usage or settings.
"""
_REPLAY_HELP = """
Set dead letters going again: one by its UID, or all of them.

[bold]Examples[/bold]

  jmmda-node dead-letter replay 1.2.840.113619.2.55

  jmmda-node dead-letter replay --all

[bold]Exit codes[/bold]: 0 set going, 1 the service did not answer, 2 usage or settings, 3 refused with a reason.
"""

series_app = typer.Typer(help="Series: list, explain, retry.", no_args_is_help=True, rich_markup_mode="rich")
dead_letter_app = typer.Typer(
    help="Results that could not be made or delivered.", no_args_is_help=True, rich_markup_mode="rich"
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command("serve", help=_SERVE_HELP, rich_help_panel="Node")(serve)
    app.command("status", help=_STATUS_HELP, rich_help_panel="Node")(status)
    app.add_typer(series_app, name="series", rich_help_panel="Node")
    app.add_typer(dead_letter_app, name="dead-letter", rich_help_panel="Node")


def serve(config: ConfigOption = None) -> None:
    """Run the node; see `dicom_node.node`."""
    from dicom_node.node import serve as run_node

    run_node(find_config(config))


def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the whole node in numbers."""
    from dicom_node.commands.journey_view import show_refused, show_status
    from dicom_node.ledger import queries
    from dicom_node.ledger.refusals import read_refusals
    from dicom_node.operate.state import process_report

    settings = _load(config)
    processes = process_report(_paths(settings))
    refused = read_refusals(_paths(settings).run)
    days_left = _certificate_days_left(settings)
    with _session(settings) as session:
        numbers = queries.status(session) if session is not None else None
    if as_json:
        document = {"processes": processes, **(numbers or queries.EMPTY_STATUS).to_json()}
        document["certificate_days_left"] = days_left
        typer.echo(json.dumps({**document, "refused": [one.to_json() for one in refused]}, indent=1))
    else:
        console = Console(soft_wrap=True)
        show_status(console, processes, numbers or queries.EMPTY_STATUS)
        show_refused(console, refused)
        if days_left is not None:
            console.print(f"our TLS certificate: {days_left:.0f} days left", highlight=False)
    if processes["running"] and processes["well"] is False:
        raise typer.Exit(1)


def _certificate_days_left(settings: Settings) -> float | None:
    """Return the days until our certificate expires, None where there is none that can be read (`doctor` says why)."""
    from dicom_node.errors import NodeError
    from dicom_node.net.certificates import certificate_facts

    if settings.tls.certificate is None:
        return None
    try:
        return round(certificate_facts(settings.tls.certificate).days_left(), 1)
    except NodeError:
        return None


@series_app.command("list", help=_LIST_HELP)
def list_series(
    config: ConfigOption = None,
    state: Annotated[str | None, typer.Option(help="Only series in this state, such as REFUSED.")] = None,
    study: Annotated[str | None, typer.Option(help="Only series of this Study Instance UID.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List series and what was set aside."""
    from dicom_node.commands.journey_view import show_asides, show_series_table
    from dicom_node.ledger import queries
    from dicom_node.ledger.states import State

    wanted = None
    if state is not None:
        names = [one.value for one in State]
        if state.upper() not in names:
            raise typer.BadParameter(f"must be one of {', '.join(names)}", param_hint="--state")
        wanted = State(state.upper())
    with _session(_load(config)) as session:
        if session is None:
            found, asides = [], []
        else:
            found = queries.list_series(session, state=wanted, study_instance_uid=study, limit=limit)
            asides = queries.set_aside(session, limit) if state is None and study is None else []
    if as_json:
        document = {"series": [one.to_json() for one in found], "set_aside": [one.to_json() for one in asides]}
        typer.echo(json.dumps(document, indent=1))
        return
    console = Console(soft_wrap=True)
    show_series_table(console, found)
    show_asides(console, asides)


@series_app.command("show", help=_SHOW_HELP)
def show_series(uid: UidArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell the story of the series that a UID means."""
    from dicom_node.commands.choice_table import judged_in_ledger, print_choice
    from dicom_node.commands.journey_view import show_story
    from dicom_node.ledger import queries
    from dicom_node.ledger.verdicts import verdicts_of

    with _session(_load(config)) as session:
        found = queries.find_series(session, uid) if session is not None else []
        if session is None or not found:
            raise Refused("unknown_series", f"nothing here has the UID {uid}")
        stories = [(queries.series_view(session, one), queries.history(session, one)) for one in found]
        studies = {one.study.study_instance_uid: one.study for one in found}
        choices = {key: judged_in_ledger(verdicts_of(session, study)) for key, study in studies.items()}
    if as_json:
        document = [
            {
                **view.to_json(),
                "choice": [row.to_json() for row in choices[view.study_instance_uid]],
                "history": [event.to_json() for event in events],
            }
            for view, events in stories
        ]
        typer.echo(json.dumps(document, indent=1))
        return
    console = Console(soft_wrap=True)
    for key, rows in choices.items():
        print_choice(console, key, rows)
    for view, events in stories:
        show_story(console, view, events)


@series_app.command("retry", help=_RETRY_HELP)
def retry_series(
    uid: UidArgument,
    config: ConfigOption = None,
    new: Annotated[bool, typer.Option("--new", help="Make another result of a series that has one.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Set a series going again."""
    _tell_remedies(_request(_load(config), {"verb": "retry", "uid": uid, "new": new}), as_json)


@dead_letter_app.command("list", help=_DEAD_LIST_HELP)
def list_dead_letters(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List what FAILED."""
    from dicom_node.commands.journey_view import show_series_table
    from dicom_node.ledger import queries

    with _session(_load(config)) as session:
        found = queries.dead_letters(session) if session is not None else []
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in found], indent=1))
    else:
        show_series_table(Console(soft_wrap=True), found)


@dead_letter_app.command("replay", help=_REPLAY_HELP)
def replay_dead_letters(
    uid: Annotated[str | None, typer.Argument(help="UID of a series, its study or its result.")] = None,
    config: ConfigOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Set dead letters going again."""
    if (uid is None) != everything:
        raise typer.BadParameter("name one UID, or give --all", param_hint="UID")
    _tell_remedies(_request(_load(config), {"verb": "replay", "uid": uid}), as_json)


def _load(config: Path | None) -> Settings:
    from dicom_node.settings import load_settings

    return load_settings(find_config(config))


def _paths(settings: Settings) -> Any:  # noqa: ANN401 - SpoolPaths, imported late
    from dicom_node.ledger.spool import SpoolPaths

    return SpoolPaths(settings.node.data_dir)


@contextmanager
def _session(settings: Settings) -> Iterator[Session | None]:
    """Yield a session on the node's ledger, or None where the node has never run."""
    from dicom_node.ledger.store import Ledger

    ledger = Ledger.open_to_read(_paths(settings), settings.ledger.url)
    if ledger is None:
        yield None
        return
    try:
        with ledger.reading() as session:
            yield session
    finally:
        ledger.close()


def _request(settings: Settings, request: dict[str, object]) -> list[dict[str, str]]:
    """Do it here under the spool lock, or ask the service that holds it."""
    from dicom_node.operate.guard import spool_lock
    from dicom_node.operate.requests import ask

    paths = _paths(settings)
    paths.make()
    try:
        with spool_lock(paths):
            return _do(settings, request)
    except Permanent as error:
        if error.code != "spool_in_use":
            raise
    return list(ask(paths, request))


def _do(settings: Settings, request: dict[str, object]) -> list[dict[str, str]]:
    from dicom_node.ledger.store import Ledger
    from dicom_node.remedies import handle_request

    ledger = Ledger.open(_paths(settings), settings.ledger.url)
    try:
        return handle_request(ledger, settings, request)
    finally:
        ledger.close()


def _tell_remedies(remedies: Sequence[dict[str, str]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(remedies, indent=1))
        return
    if not remedies:
        typer.echo("nothing to do")
    for one in remedies:
        typer.echo(f"{one['series_instance_uid']}: {one['before']} -> {one['after']}: {one['told']}")
