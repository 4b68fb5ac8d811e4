"""`jmmda-node config check|show|schema|init`: the settings file, before anything depends on it.

`diff` and `reload`, which concern a running node too, are in `dicom_node.commands.config_changes`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dicom_node.errors import Refused
from dicom_node.settings import NodeSettings, Peer, Role, Settings, SettingsError, load_settings, parse_settings
from dicom_node.settings.schema import json_schema
from dicom_node.settings.template import example_text, plain, render, template_text

#: Where a command looks for the settings file when it is not told, in this order.
CONFIG_VARIABLE: Final = "JMMDA_NODE_CONFIG"
CONFIG_PLACES: Final = (Path("node.toml"), Path("config/node.toml"), Path("/etc/jmmda-node/node.toml"))

_EXIT_USAGE = 2


class _Object(StrEnum):
    """Kind of image object, ``output.object``."""

    MR = "mr"
    SC = "sc"


#: One line of explanation for each.
_KINDS: Final = {
    _Object.MR: "mr = MR Image Storage: every viewer puts it on the CT; rules that react to MR series see it",
    _Object.SC: "sc = Secondary Capture, modality OT: no rule takes it for an MR; older viewers may not link it",
}

app = typer.Typer(no_args_is_help=True, help="Check, show and create the settings file (node.toml).")

FileArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE", help=f"Settings file; else ${CONFIG_VARIABLE}, ./node.toml, ./config, /etc/jmmda-node."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def find_config(given: Path | None) -> Path:
    """Return the settings file to use.

    Parameters
    ----------
    given : Path or None
        What the user named; taken as it is.

    Returns
    -------
    Path
        `given`, else what the environment variable names, else the first of `CONFIG_PLACES` that exists.

    Raises
    ------
    typer.BadParameter
        When nothing is named and nothing is found.
    """
    if given is not None:
        return given
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    for place in CONFIG_PLACES:
        if place.is_file():
            return place
    places = ", ".join(str(place) for place in CONFIG_PLACES)
    raise typer.BadParameter(f"no settings file: none of {places} exists; name one, or make one with 'config init'")


@app.command(
    epilog="Example: jmmda-node config check /etc/jmmda-node/node.toml. Exit codes: 0 no fault, 2 faults.",
)
def check(file: FileArgument = None, as_json: JsonOption = False) -> None:
    """Check a settings file strictly; each fault is one line FILE:LINE: key: reason."""
    path = find_config(file)
    try:
        settings = load_settings(path)
    except SettingsError as error:
        if as_json:
            faults = [dataclasses.asdict(fault) for fault in error.faults]
            typer.echo(json.dumps({"file": str(path), "ok": False, "faults": faults}, indent=1))
            raise typer.Exit(_EXIT_USAGE) from error
        for fault in error.faults:
            typer.echo(str(fault), err=True)
        raise typer.Exit(_EXIT_USAGE) from error
    if as_json:
        typer.echo(json.dumps({"file": str(path), "ok": True, "faults": []}, indent=1))
        return
    typer.echo(f"{path}: no fault; {len(settings.peers)} peers, {len(settings.routes)} routes")
    if not settings.peers:
        typer.echo("note: without [[peers]] nobody may send to this node", err=True)


@app.command(epilog="Example: jmmda-node config show --json | jq .node.ae_title. Exit codes: 0 done, 2 faults.")
def show(file: FileArgument = None, as_json: JsonOption = False) -> None:
    """Print the effective settings, defaults filled in, as TOML that can be used again."""
    settings = load_settings(find_config(file))
    if as_json:
        typer.echo(json.dumps(settings.model_dump(mode="json"), indent=1, ensure_ascii=False))
    else:
        typer.echo(plain(settings), nl=False)


@app.command(epilog="Example: jmmda-node config schema --out node.schema.json. Exit code: 0.")
def schema(
    out: Annotated[Path | None, typer.Option("--out", help="File to write; left out: standard output.")] = None,
) -> None:
    """Print the JSON schema of the settings, for editors and deployment tools."""
    text = json.dumps(json_schema(), indent=1, ensure_ascii=False)
    if out is None:
        typer.echo(text)
        return
    out.write_text(text + "\n", encoding="utf-8")
    typer.echo(f'{out} written. First line of a settings file beside it: "#:schema ./{out.name}"')


@app.command(
    epilog="Example: jmmda-node config init /etc/jmmda-node/node.toml --object sc. Exit codes: 0 written, 3 the file"
    " exists.",
)
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; never overwritten.")] = Path("node.toml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; write the annotated example.")] = False,
    kind: Annotated[
        _Object | None,
        typer.Option("--object", help="Kind of object of the results: " + "; ".join(_KINDS.values()) + "."),
    ] = None,
) -> None:
    """Write an annotated settings file, with your answers to a few questions or (--yes) with examples."""
    if file.exists():
        raise Refused("file_exists", f"{file} exists and is not overwritten; remove it first")
    if yes:
        text = template_text() if kind is None else example_text(output={"object": kind.value})
    else:
        text = render(_ask(file, kind))
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError as error:
        raise Refused("file_exists", f"{file} exists and is not overwritten; remove it first") from error
    typer.echo(f"{file} written. Next: edit it, then: jmmda-node config check {file}")


def _ask(file: Path, kind: _Object | None) -> Settings:
    """Ask for what no default can know: who we are, where the PACS is, and what a result may be there."""
    defaults = NodeSettings()
    node = {
        "ae_title": typer.prompt("AE title of this node", default=defaults.ae_title),
        "port": typer.prompt("Port to listen on", default=defaults.port, type=int),
        "data_dir": typer.prompt("Folder for spool and results", default=str(defaults.data_dir)),
    }
    peer = {
        "name": "pacs",
        "ae_titles": [typer.prompt("AE title of the PACS")],
        "host": typer.prompt("Host name or address of the PACS"),
        "port": typer.prompt("Port of the PACS", default=104, type=int),
        "roles": [Role.SOURCE.value, Role.DESTINATION.value],
    }
    text = _as_toml({"node": node, "output": {"object": kind.value if kind else _ask_kind()}, "peers": [peer]})
    return parse_settings(text, file="answers", base=file.absolute().parent)


def _ask_kind() -> str:
    """Ask for the kind of object: no default is right everywhere, so both are explained before the question."""
    typer.echo("\n".join(["Kind of object of the synthetic series (see docs/output.md):", *_KINDS.values()]))
    return str(typer.prompt("mr or sc", default=_Object.MR.value))


def _as_toml(raw: dict[str, Any]) -> str:
    """Write the answers as TOML, so that they are judged by the same rules as a file."""
    lines: list[str] = []
    for section in ("node", "output"):
        lines.append(f"[{section}]")
        lines += (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in raw[section].items())
    for peer in raw["peers"]:
        lines += [
            "[[peers]]",
            *(f"{key} = {json.dumps(peer[key], ensure_ascii=False)}" for key in Peer.model_fields if key in peer),
        ]
    return "\n".join(lines) + "\n"
