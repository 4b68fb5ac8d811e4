"""``train references``: what any network can reach on the phantom, before any is trained."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from train.metrics import Interval
    from train.references import ReferenceRow

EPILOG = "Example: `jmmda-node train references --volumes 12 --workers 2`"

_HEADINGS = {
    "matched_filter": "AUC, matched filter (anatomy known)",
    "matched_filter_all_but_noise": "AUC, matched filter (all but noise known)",
    "measured_dwi": "AUC, measured DWI",
    "measured": "MSE of measured DWI",
    "known_but_texture": "MSE, all known but texture",
    "known_but_texture_and_lesion": "MSE, and no lesion",
}


def references(
    volumes: Annotated[int, typer.Option(min=1, help="Test volumes a centre.")] = 50,
    centre: Annotated[
        list[str] | None, typer.Option(help="A, B or C, more than once for several; default all.")
    ] = None,
    fitted: Annotated[int, typer.Option(min=1, help="Training volumes of A and of B for the filter.")] = 6,
    prior: Annotated[int, typer.Option(min=1, help="Training volumes of A and of B for the lesion map.")] = 60,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Print the references of the phantom: matched filter with known anatomy, the DWI itself, floors of the error."""
    from train.data.phantom_plans import PhantomSetError, check_plan
    from train.references import measure_references, reference_cases, reference_rows
    from train.runlog import progress_bar

    centres = centre or ["A", "B", "C"]
    try:
        check_plan(centres, "random")
    except PhantomSetError as error:
        raise typer.BadParameter(error.reason, param_hint="--centre") from error
    with progress_bar("territories", show=not as_json) as bar:
        measured = measure_references(
            reference_cases(volumes, centres, fitted=fitted, prior=prior),
            workers=workers,
            progress=lambda text, done, total: bar.update(done, total, text),
        )
    rows = reference_rows(measured)
    if as_json:
        typer.echo(json.dumps(_report(rows, volumes, fitted, prior), indent=1, allow_nan=False))
    else:
        _print(rows)


def _report(rows: tuple[ReferenceRow, ...], volumes: int, fitted: int, prior: int) -> dict[str, Any]:
    return {
        "data": "digital phantom, no patients",
        "conventions": "values on [0, 1]; slices with brain >= 5 % of the frame; errors against dwi_clean in the brain",
        "volumes_a_centre": volumes,
        "filter_volumes_a_centre": fitted,
        "prior_volumes_a_centre": prior,
        "rows": [row.to_json() for row in rows],
    }


def _figure(interval: Interval, digits: int) -> str:
    if interval.value != interval.value:
        return "-"
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f}-{interval.high:.{digits}f})"


def _print(rows: tuple[ReferenceRow, ...]) -> None:
    table = Table(title="References on the digital phantom (95 % intervals over volumes)")
    for heading in ("centre", "band", "volumes", *_HEADINGS.values()):
        table.add_column(heading)
    for row in rows:
        figures = [_figure(row.auc[name], 3) for name in row.auc] + [_figure(row.mse[name], 4) for name in row.mse]
        table.add_row(row.centre, row.band, str(row.n), *figures)
    Console().print(table)
