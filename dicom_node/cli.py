"""The `jmmda-node` command: one door to the commands of `dicom_node.commands` and `train.cli`.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused with a reason.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from dicom_node import __version__
from dicom_node.commands import (
    config,
    config_changes,
    conformance,
    demo,
    doctor,
    journey,
    model,
    network,
    offline,
    pull,
)
from dicom_node.errors import NodeError, Refused
from dicom_node.ledger.place import place_of
from dicom_node.settings import SettingsError
from train import cli as training

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3

app = typer.Typer(
    name="jmmda-node",
    help="DICOM node: head CT in, labelled SYNTHETIC DWI series out. Research software, not for diagnosis.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jmmda-node {__version__}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options that belong to no command."""


journey.register(app)
network.register(app)
pull.register(app)
offline.register(app)
demo.register(app)
doctor.register(app)
conformance.register(app)
config_changes.register(config.app)
app.add_typer(config.app, name="config")
app.add_typer(model.app, name="model")
app.add_typer(training.app, name="train")


def main() -> None:
    """Run the command line and turn what went wrong into one clear line and an exit code."""
    try:
        app()
    except Refused as error:
        typer.echo(f"refused: {error}", err=True)
        sys.exit(EXIT_REFUSED)
    except SettingsError as error:
        typer.echo(str(error), err=True)
        sys.exit(EXIT_USAGE)
    except NodeError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_FAILED)
    except Exception as error:  # border of the command line: no library text, since it may quote a header
        if os.environ.get("JMMDA_DEBUG"):
            raise
        typer.echo(
            f"error: {place_of(error)}; set JMMDA_DEBUG=1 to see the whole traceback (which may show header values)",
            err=True,
        )
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
