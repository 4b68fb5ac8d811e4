"""``train export``: the weights of a run as a bundle the node takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from train.commands.border import fail

EPILOG = "Example: `jmmda-node train export runs/quick --out quick-bundle --report report.json`"


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the bundle; default the recipe's.")] = None,
    stage: Annotated[str | None, typer.Option(help="Weights at the end of this stage; default the run's.")] = None,
    report: Annotated[Path | None, typer.Option(help="Report of `evaluate --out` to put on the card.")] = None,
    flip_average: Annotated[
        bool, typer.Option("--flip-average", help="Average with the mirrored slice: better, twice the time.")
    ] = False,
) -> None:
    """Write a model bundle: fp16 weights, output recalibration and a card with what was measured."""
    from jmmda_model.bundle import BundleError
    from train.export import export_run
    from train.state import TrainingError

    try:
        figures = json.loads(report.read_text(encoding="utf-8")) if report else None
        bundle = export_run(run, out, name=name, stage=stage, report=figures, flip_average=flip_average)
    except (BundleError, TrainingError) as error:
        fail(error.reason)
    except (FileNotFoundError, ValueError) as error:
        fail(error)
    size_mib = sum(file.stat().st_size for file in bundle.path.iterdir()) / 2**20
    Console().print(
        f"bundle {bundle.card.name}: {size_mib:.1f} MiB, SHA-256 {bundle.sha256}; {bundle.card.training_data}",
        soft_wrap=True,
    )
