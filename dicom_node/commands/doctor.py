"""`jmmda-node doctor`: everything that could keep the node from its work, and who has to change what."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_node.commands.config import find_config

if TYPE_CHECKING:
    from dicom_node.operate.doctor.findings import Finding
    from dicom_node.settings import Settings

_EXIT_FAILED: Final = 1
_NARROWEST: Final = 120

_HELP = """
Examine settings, data folder, ledger, processes, model, and every peer in both directions; say what was seen and who
has to change what: us, the administrator of a peer, or the network. Changes nothing.

[bold]Examples[/bold]

  jmmda-node doctor --config /etc/jmmda-node/node.toml

  jmmda-node doctor --peer pacs --no-model --json

[bold]Exit codes[/bold]: 0 nothing failed (warnings do not count), 1 something failed, 2 usage.
"""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file; looked for in the usual places when left out.")
]


def register(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command("doctor", help=_HELP, rich_help_panel="Node")(doctor)


def doctor(
    config: ConfigOption = None,
    peer: Annotated[str | None, typer.Option("--peer", metavar="NAME", help="Examine this peer alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="Do not look at bundle and device, which takes a while.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Longest wait for each step towards a peer, in seconds.")
    ] = 10.0,
    model_timeout_s: Annotated[
        float, typer.Option("--model-timeout", min=1.0, help="Longest wait for the model on its device, in seconds.")
    ] = 120.0,
    silent_days: Annotated[
        float, typer.Option("--silent-days", min=0.0, help="A source that was silent for longer is worth a warning.")
    ] = 7.0,
) -> None:
    """Examine the node; see the command's help."""
    from dicom_node.net.quiet import quiet_libraries
    from dicom_node.operate.doctor.examine import Request, examine

    path = find_config(config)
    _check_peer(path, peer)
    quiet_libraries()
    request = Request(
        config=path,
        peer=peer,
        timeout_s=timeout_s,
        silent_days=silent_days,
        model_command=None if no_model else _worker,
        model_timeout_s=model_timeout_s,
    )
    with Console(stderr=True).status("examining settings, peers and model"):
        found = examine(request)
    marks = Counter(finding.mark.value for finding in found)
    if as_json:
        document = {"ok": not marks["fail"], "counts": dict(marks), "findings": [one.to_json() for one in found]}
        typer.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        _show(found)
        typer.echo(f"doctor: {marks['pass']} passed, {marks['warn']} warnings, {marks['fail']} failed")
    if marks["fail"]:
        raise typer.Exit(_EXIT_FAILED)


def _check_peer(path: Path, peer: str | None) -> None:
    """Refuse a peer that the settings do not know; faults of the settings are the doctor's to tell."""
    from dicom_node.settings import SettingsError, load_settings
    from dicom_node.settings.spelling import suggestion

    try:
        settings = load_settings(path)
    except SettingsError:
        return
    if peer is not None and settings.peer(peer) is None:
        names = [one.name for one in settings.peers]
        message = f"no peer {peer!r} in the settings (known: {', '.join(names) or 'none'}){suggestion(peer, names)}"
        raise typer.BadParameter(message, param_hint="--peer")


def _worker(settings: Settings) -> tuple[str, ...]:
    from dicom_node.synthesize.client import worker_command

    model = settings.model
    return worker_command(
        bundle=model.bundle, device=model.device, precision=model.precision.value, threads=model.threads
    )


def _show(found: Sequence[Finding]) -> None:
    from dicom_node.operate.doctor.findings import GROUPS, Mark

    colours = {Mark.PASS: "green", Mark.WARN: "yellow", Mark.FAIL: "bold red"}
    console = Console()
    if console.width < _NARROWEST:
        console = Console(width=_NARROWEST)
    for group, title in GROUPS.items():
        rows = [finding for finding in found if finding.group == group]
        if not rows:
            continue
        table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        for column in ("", "check", "seen, and who has to change what"):
            table.add_column(column, overflow="fold", no_wrap=column == "check")
        for finding in rows:
            name = f"{finding.peer}: {finding.check}" if finding.peer else finding.check
            seen = escape(finding.seen)
            if finding.remedy:
                seen += f"\n[bold]{escape(finding.who)}:[/] {escape(finding.remedy)}"
            colour = colours[finding.mark]
            table.add_row(f"[{colour}]{finding.mark.value}[/]", escape(name), seen)
        console.print(table, highlight=False)
        console.print()
