"""`jmmda-node config diff|reload`: what a change of the settings means, and a running node that takes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_node.commands.config import FileArgument, JsonOption, find_config
from dicom_node.errors import Refused
from dicom_node.settings import Settings, load_settings
from dicom_node.settings.changes import Change, changes

if TYPE_CHECKING:
    from dicom_node.ledger.spool import SpoolPaths

_EXIT_REFUSED: Final = 3
_NARROWEST: Final = 120

_DIFF_HELP = """
Show what differs between the settings of the running node and FILE, or between FILE and OTHER, key by key: what a
reload takes, what needs a restart, and what gives results of the same images new UIDs.

[bold]Examples[/bold]

  jmmda-node config diff /etc/jmmda-node/node.toml

  jmmda-node config diff node.toml node.toml.new --json

[bold]Exit codes[/bold]: 0 shown, 2 faults in a file, 3 no node runs on the data_dir of FILE.
"""
_RELOAD_HELP = """
Have the running node take its changed settings file, and wait for the outcome. Every process takes it or none does; no
association is dropped. The same as SIGHUP or systemctl reload, which do not wait.

[bold]Example[/bold]

  jmmda-node config reload /etc/jmmda-node/node.toml

[bold]Exit codes[/bold]: 0 taken, 1 no answer in time, 2 faults in the file, 3 not taken (with the reason), or no node
runs.
"""


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `jmmda-node config`."""
    app.command("diff", help=_DIFF_HELP)(diff)
    app.command("reload", help=_RELOAD_HELP)(reload)


def diff(
    file: FileArgument = None,
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="A second file; without it the running node is compared.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare settings; see the command's help."""
    path = find_config(file)
    settings = load_settings(path)
    if other is not None:
        words = (str(path), str(other))
        found = changes(settings, load_settings(other))
    else:
        words = ("running node", str(path))
        found = changes(_running(settings), settings)
    if as_json:
        document = {"before": words[0], "after": words[1], "changes": [change.to_json() for change in found]}
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    _show(found, words)


def reload(
    file: FileArgument = None,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1.0, help="Longest wait for the outcome, s.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Reload the running node; see the command's help."""
    from dicom_node.operate.reloading import request_reload
    from dicom_node.operate.state import settings_in_force

    path = find_config(file)
    settings = load_settings(path)
    paths = _paths(settings)
    running = settings_in_force(paths)
    if running is None:
        raise _not_running(paths)
    outcome = request_reload(paths, path, timeout_s=timeout_s)
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=1))
    elif outcome.taken:
        typer.echo(f"{path}: reloaded; changed: {', '.join(outcome.changed) or 'nothing'}")
        if any(change.new_uids for change in changes(running.settings, settings)):
            typer.echo("note: results from now on have other UIDs than earlier ones of the same images", err=True)
    else:
        for fault in outcome.faults:
            typer.echo(f"not reloaded: {fault}", err=True)
    if not outcome.taken:
        raise typer.Exit(_EXIT_REFUSED)


def _paths(settings: Settings) -> SpoolPaths:
    from dicom_node.ledger.spool import SpoolPaths

    return SpoolPaths(settings.node.data_dir)


def _running(settings: Settings) -> Settings:
    from dicom_node.operate.state import settings_in_force

    paths = _paths(settings)
    found = settings_in_force(paths)
    if found is None:
        raise _not_running(paths)
    return found.settings


def _not_running(paths: SpoolPaths) -> Refused:
    return Refused(
        "not_running",
        f"no node runs on {paths.data_dir}; it reads the file at its start (where data_dir itself was changed, restart"
        " the node)",
    )


def _show(found: Sequence[Change], words: tuple[str, str]) -> None:
    console = Console()
    if console.width < _NARROWEST:
        console = Console(width=_NARROWEST)
    if not found:
        typer.echo(f"{words[0]} and {words[1]}: no difference")
        return
    typer.echo(f"before: {words[0]}; after: {words[1]}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("key", "before", "after", "takes effect", "UIDs of results"):
        table.add_column(column, overflow="fold", no_wrap=column not in ("before", "after"))
    for change in found:
        effect = "after a restart" if change.needs_restart else "by a reload"
        uids = "[bold yellow]new[/]" if change.new_uids else "same"
        table.add_row(escape(change.key), _value(change.before), _value(change.after), effect, uids)
    console.print(table, highlight=False)
    restart = [change.key for change in found if change.needs_restart]
    if restart:
        typer.echo(f"A reload refuses the file as a whole: {', '.join(restart)} can only change by a restart.")


def _value(value: object) -> str:
    return "-" if value is None else escape(json.dumps(value, ensure_ascii=False))
