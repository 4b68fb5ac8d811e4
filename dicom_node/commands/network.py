"""`jmmda-node echo PEER` and `send PEER PATH...`: the tools an administrator reaches for."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dicom_node.commands.config import find_config
from dicom_node.errors import NodeError

if TYPE_CHECKING:
    from dicom_node.deliver.sender import DeliveryReport
    from dicom_node.net.remote import RemoteEntity

_EXIT_FAILED: Final = 1
_EXIT_REFUSED: Final = 3

#: Error codes that mean that the peer said no, rather than that it could not be reached.
_REFUSALS: Final = frozenset({"peer_rejected", "echo_refused", "tls_refused"})

_AD_HOC: Final = re.compile(r"(?P<title>[^@]{1,16})@(?P<host>\[[^\]]+\]|[^:\s]+):(?P<port>\d{1,5})")

PeerArgument = Annotated[
    str,
    typer.Argument(
        metavar="PEER", help="Name of a peer in the settings, or AETITLE@HOST:PORT for one that is not there."
    ),
]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file with the peers.")]
CallingOption = Annotated[
    str | None, typer.Option("--calling-ae", help="Our AE title; the settings' ae_title when left out.")
]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, help="Longest wait for each step, in seconds.")]
TlsOption = Annotated[
    bool, typer.Option("--tls", help="Call AETITLE@HOST:PORT by TLS, with what [tls] says; a peer says it itself.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]

_ECHO_HELP = """
Ask a peer for a sign of life by C-ECHO, as our AE title, and say what is wrong if there is none.

[bold]Examples[/bold]

  jmmda-node echo pacs

  jmmda-node echo PACS@192.0.2.10:104 --calling-ae JMMDA_NODE

  jmmda-node echo PACS@pacs.example:2762 --tls

[bold]Exit codes[/bold]: 0 answered, 1 not reached, 2 usage or settings, 3 the peer refused us.
"""

_SEND_HELP = """
Send DICOM files, or folders of them, to a peer by C-STORE, and report the status of every instance.

[bold]Examples[/bold]

  jmmda-node send pacs OUT

  jmmda-node send PACS@192.0.2.10:104 1.dcm 2.dcm --json

[bold]Exit codes[/bold]: 0 all stored, 1 some not sent (try again), 2 usage or settings, 3 some refused for good.
"""


@dataclass(frozen=True, slots=True)
class Call:
    """Whom to call, and as whom."""

    peer: RemoteEntity
    calling_ae: str


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command("echo", help=_ECHO_HELP)(echo)
    app.command("send", help=_SEND_HELP)(send)


def resolve_call(peer: str, config: Path | None, calling_ae: str | None, *, tls: bool = False) -> Call:
    """Find out whom to call, and as whom.

    Parameters
    ----------
    peer : str
        Name of a peer in the settings, or ``AETITLE@HOST:PORT``.
    config : Path or None
        Settings file; looked for when None. Not needed when the peer is written out and `calling_ae` is given.
    calling_ae : str or None
        Our AE title; None takes that of the settings.
    tls : bool
        Call a peer that is written out by TLS.

    Raises
    ------
    typer.BadParameter
        When the settings know no such peer, or have no certificate to call with.
    SettingsError
        When the settings have faults.
    """
    from dicom_node.net.remote import Remote
    from dicom_node.settings import load_settings
    from dicom_node.settings.spelling import suggestion

    written_out = _AD_HOC.fullmatch(peer)
    if written_out:
        title, host, port = written_out["title"], written_out["host"].strip("[]"), int(written_out["port"])
        settings = load_settings(find_config(config)) if tls or not calling_ae else None
        calling = calling_ae or (settings.node.ae_title if settings is not None else "")
        tls_call = settings.tls.call_to_host(host) if tls and settings is not None else None
        if tls and tls_call is None:
            raise typer.BadParameter("the settings have no certificate and ca in [tls]", param_hint="--tls")
        return Call(Remote(peer, title, host, port, tls_call), calling)
    settings = load_settings(find_config(config))
    found = settings.peer(peer)
    if found is None:
        names = [known.name for known in settings.peers]
        known = ", ".join(names) or "none"
        message = f"no peer {peer!r} in the settings (known: {known}){suggestion(peer, names)}"
        raise typer.BadParameter(message, param_hint="PEER")
    return Call(found, calling_ae or settings.node.ae_title)


def echo(
    peer: PeerArgument,
    config: ConfigOption = None,
    calling_ae: CallingOption = None,
    timeout_s: TimeoutOption = 10.0,
    tls: TlsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send a C-ECHO; see the command's help."""
    from dicom_node.net import scu

    call = resolve_call(peer, config, calling_ae, tls=tls)
    where = f"{call.peer.called_ae_title} at {call.peer.host}:{call.peer.port}"
    try:
        result = scu.echo(call.peer, call.calling_ae, timeout_s=timeout_s)
    except NodeError as error:
        _fail(error, as_json, {"peer": call.peer.name, "calling_ae": call.calling_ae})
    if as_json:
        document = {"ok": True, "peer": call.peer.name, "calling_ae": call.calling_ae, **dataclasses.asdict(result)}
        typer.echo(json.dumps(document, indent=1))
        return
    typer.echo(
        f"{call.peer.name} ({where}) answered {call.calling_ae} in {result.round_trip_s * 1000:.1f} ms "
        f"(association {result.associate_s * 1000:.1f} ms, {result.implementation or 'implementation not named'})"
    )


def send(
    peer: PeerArgument,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="DICOM files, or folders searched with their sub-folders.")
    ],
    config: ConfigOption = None,
    calling_ae: CallingOption = None,
    timeout_s: TimeoutOption = 30.0,
    tls: TlsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send files by C-STORE; see the command's help."""
    from dicom_node.deliver.sender import send_instances

    call = resolve_call(peer, config, calling_ae, tls=tls)
    files, skipped = find_instances(paths)
    console = Console(stderr=True, soft_wrap=True)
    if skipped:
        console.print(f"{skipped} files skipped: not DICOM", highlight=False)
    if not files:
        raise typer.BadParameter("no DICOM file found", param_hint="PATH")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"to {call.peer.name}", total=len(files))
        report = send_instances(
            call.peer,
            call.calling_ae,
            files,
            on_result=lambda _path, _result: progress.advance(task),
            timeout_s=timeout_s,
        )
    if as_json:
        typer.echo(json.dumps(report_as_json(report), indent=1))
    else:
        _say_report(report, console)
    if report.error is not None and not report.outcomes:
        _fail(report.error, as_json=False, details={}, said=as_json)
    if report.to_retry:
        raise typer.Exit(_EXIT_FAILED)
    if report.failed:
        raise typer.Exit(_EXIT_REFUSED)


def find_instances(paths: Sequence[Path]) -> tuple[list[Path], int]:
    """Collect the DICOM files below some paths.

    Returns
    -------
    files : list of Path
        In the order of the arguments, those of a folder sorted by name.
    skipped : int
        How many files were no DICOM files.

    Raises
    ------
    typer.BadParameter
        When a path does not exist.
    """
    found: list[Path] = []
    skipped = 0
    for path in paths:
        if not path.exists():
            raise typer.BadParameter(f"{path} does not exist", param_hint="PATH")
        for file in sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path]:
            if _is_dicom(file):
                found.append(file)
            else:
                skipped += 1
    return found, skipped


def report_as_json(report: DeliveryReport) -> dict[str, Any]:
    """Describe a delivery as plain JSON data."""
    return {
        "ok": report.complete,
        "stored": len(report.stored),
        "failed": len(report.failed),
        "to_retry": len(report.to_retry),
        "error": None if report.error is None else {"code": report.error.code, "reason": report.error.reason},
        "instances": [
            {
                "path": str(outcome.path),
                "sop_instance_uid": outcome.result.sop_instance_uid,
                "status": None if outcome.result.status is None else f"0x{outcome.result.status:04X}",
                "category": outcome.result.category.value,
                "comment": outcome.result.comment,
            }
            for outcome in report.outcomes
        ],
        "unsent": [str(path) for path in report.unsent],
    }


def _say_report(report: DeliveryReport, console: Console) -> None:
    typer.echo(f"{len(report.stored)} of {len(report.outcomes) + len(report.unsent)} stored")
    others = Counter(
        (outcome.result.category.value, outcome.result.status, outcome.result.comment)
        for outcome in report.outcomes
        if outcome.result.status != 0
    )
    if others:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("instances", "outcome", "status", "meaning"):
            table.add_column(heading, overflow="fold")
        for (category, status, comment), count in others.items():
            table.add_row(str(count), category, "none" if status is None else f"0x{status:04X}", comment)
        console.print(table)
    if report.error is not None and report.outcomes:
        console.print(f"{len(report.unsent)} not tried: {report.error.reason}", highlight=False)


def _fail(error: NodeError, as_json: bool, details: dict[str, object], *, said: bool = False) -> NoReturn:
    """Say what went wrong and end with the exit code that fits."""
    if as_json:
        document = {"ok": False, **details, "code": error.code, "reason": error.reason}
        typer.echo(json.dumps(document, indent=1))
    elif not said:
        typer.echo(f"error: {error}", err=True)
    raise typer.Exit(_EXIT_REFUSED if error.code in _REFUSALS else _EXIT_FAILED) from error


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"
