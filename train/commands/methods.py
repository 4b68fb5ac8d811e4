"""``train methods``: what a recipe's ``method`` may be."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from train.baselines.base import Entry

EPILOG = "Examples: `jmmda-node train methods` | `jmmda-node train methods --json`"


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, options included.")] = False,
) -> None:
    """List the comparison methods with their source, size and options; jmmda itself is described by its recipes."""
    from train.registry import BASELINES

    rows = [_facts(entry) for entry in BASELINES.values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(title="Comparison methods: method = NAME, [options] KEY = VALUE", title_justify="left")
    for heading in ("name", "method", "parameters, M", "companions, M", "reading of"):
        table.add_column(heading, justify="right" if heading.endswith(", M") else "left")
    for row in rows:
        sizes = (f"{row['parameters'] / 1e6:.2f}", f"{sum(row['companions'].values()) / 1e6:.2f}")
        table.add_row(row["name"], escape(row["title"]), *sizes, escape(row["source"]))
    Console().print(table)


def _facts(entry: Entry) -> dict[str, Any]:
    """One method with one CT channel, as plain values; nothing is computed on the meta device."""
    import torch

    from jmmda_model.network.counting import count_parameters
    from train.baselines.base import Channels

    channels = Channels(ct=1, mask=1)
    with torch.device("meta"):
        network = entry.method.translator(entry.options, channels)
        companions = entry.method.companions(entry.options, channels)
    return {
        "name": entry.name,
        "title": entry.title,
        "source": entry.source,
        "parameters": count_parameters(network),
        "companions": {name: count_parameters(found) for name, found in companions.items()},
        "options": asdict(entry.options),
        "schedule": asdict(entry.schedule),
    }
