"""`jmmda-node model show|verify`: what a model bundle is, and whether it is whole."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Show and verify model bundles.", no_args_is_help=True, rich_markup_mode="rich")

_EXIT_FAILED = 1

_SHOW_HELP = """
Show the card of a bundle: network, preprocessing contract, training data, figures, hash. Loads no weights.

[bold]Examples[/bold]

  jmmda-node model show

  jmmda-node model show my-bundle --json
"""

_VERIFY_HELP = """
Check a bundle: card, contract version, hash, finite weights, and the answer to its built-in probe.

[bold]Examples[/bold]

  jmmda-node model verify

  jmmda-node model verify my-bundle

[bold]Exit codes[/bold]: 0 sound, 1 not sound.
"""

BundleArgument = Annotated[str, typer.Argument(help="builtin, or the path of a bundle folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def _rows(prefix: str, values: dict[str, Any]) -> list[tuple[str, str]]:
    """Flatten nested JSON values into dotted names, leaving lists on one line."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows.extend(_rows(f"{prefix}{name}.", value))
        else:
            rows.append((f"{prefix}{name}", json.dumps(value) if isinstance(value, list) else str(value)))
    return rows


@app.command("show", help=_SHOW_HELP)
def show(bundle: BundleArgument = "builtin", as_json: JsonOption = False) -> None:
    """Print the card of a bundle."""
    from jmmda_model.bundle import BundleError, load_bundle

    try:
        loaded = load_bundle(bundle)
    except BundleError as error:
        typer.echo(f"error: {error.code}: {error.reason}", err=True)
        raise typer.Exit(_EXIT_FAILED) from error
    card = loaded.card.to_json()
    card.pop("self_test", None)  # numbers for `verify`; they tell a person nothing
    if as_json:
        typer.echo(json.dumps({**card, "bundle_sha256": loaded.sha256, "path": str(loaded.path)}, indent=1))
        return
    console = Console(soft_wrap=True)
    if loaded.is_phantom:
        console.print(
            "[bold yellow]Trained on a digital phantom, not on patients; figures below are phantom figures.[/]"
        )
    if not loaded.card.trained:
        console.print("[bold red]Untrained: random weights, for tests of the pipeline only.[/]")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in [*_rows("", card), ("bundle_sha256", loaded.sha256), ("path", str(loaded.path))]:
        table.add_row(name, value)
    console.print(table, highlight=False)


@app.command("verify", help=_VERIFY_HELP)
def verify(bundle: BundleArgument = "builtin", as_json: JsonOption = False) -> None:
    """Check a bundle and say what was found."""
    from jmmda_model.bundle import verify_bundle

    console = Console(soft_wrap=True, stderr=as_json)
    with console.status("loading and testing the network"):
        verification = verify_bundle(bundle)
    if as_json:
        checks = [{"name": one.name, "passed": one.passed, "detail": one.detail} for one in verification.checks]
        typer.echo(json.dumps({"passed": verification.passed, "checks": checks}, indent=1))
    else:
        for one in verification.checks:
            mark = "[green]ok[/green]" if one.passed else "[red]NO[/red]"
            console.print(f"{mark}  {one.name}: {one.detail}", highlight=False)
    if not verification.passed:
        raise typer.Exit(_EXIT_FAILED)
