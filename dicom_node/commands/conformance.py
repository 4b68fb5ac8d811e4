"""`jmmda-node conformance`: the DICOM conformance statement, with what the settings of this node add."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from dicom_node.commands.config import find_config

_HELP: Final = """
Print the DICOM conformance statement as Markdown: objects attribute by attribute, SOP classes, transfer syntaxes, and
the addresses, limits and peers of this node's settings. It is made from the code, so it is true of this version.

[bold]Example[/bold]

  jmmda-node conformance --config /etc/jmmda-node/node.toml > conformance.md

[bold]Exit codes[/bold]: 0 printed, 2 usage or settings.
"""


def register(app: typer.Typer) -> None:
    """Add the command of this module to the command line."""
    app.command("conformance", help=_HELP, rich_help_panel="Node")(conformance)


def conformance(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file; looked for in the usual places when left out.")
    ] = None,
) -> None:
    """Print the statement; see the command's help."""
    from dicom_node.derive.conformance_page import render
    from dicom_node.settings import load_settings

    sys.stdout.write(render(load_settings(find_config(config))))
