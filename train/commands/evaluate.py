"""``train evaluate``: held-out figures of runs and bundles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from train.commands.border import FAILED, USAGE, fail, read_recipe

if TYPE_CHECKING:
    from train.evaluate import Evaluation

EPILOG = "Example: `jmmda-node train evaluate runs/quick --volumes 4 --html report.html`"

#: Codes of `EvaluationError` that stand for a wrong option.
_WRONG_USE = frozenset({"no_recipe", "contract"})

# Arguments and options, as the help shows them.
Subjects = Annotated[
    list[str], typer.Argument(help="Run folder, bundle folder, or `builtin`; more of them are scored beside it.")
]
RecipeFile = Annotated[Path | None, typer.Option(help="Recipe that names the test volumes; a run brings its own.")]
Out = Annotated[Path | None, typer.Option(help="Also write the full report here (JSON).")]
Markdown = Annotated[Path | None, typer.Option(help="Also write the tables here (Markdown).")]
Html = Annotated[Path | None, typer.Option(help="Also write a page with tables and pictures here (HTML).")]
Csv = Annotated[Path | None, typer.Option(help="Also write slices.csv and patients.csv into this folder.")]
PictureFile = Annotated[Path | None, typer.Option(help="Also draw examples here (PNG), chosen by rule.")]
Volumes = Annotated[int | None, typer.Option(min=1, help="At most this many test volumes a centre.")]
Centre = Annotated[list[str] | None, typer.Option(help="Only this centre; give it more than once for several.")]
SegmenterFile = Annotated[
    Path | None, typer.Option(help="Segmenter trained on measured DWI (`train segmenter`), to judge lesions.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that score the simple controls.")]
Cache = Annotated[Path | None, typer.Option(help="Where phantom volumes are kept, or a prepared folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the full report as JSON.")]


def evaluate(
    subjects: Subjects,
    recipe: RecipeFile = None,
    out: Out = None,
    markdown: Markdown = None,
    html: Html = None,
    csv: Csv = None,
    picture: PictureFile = None,
    volumes: Volumes = None,
    centre: Centre = None,
    segmenter: SegmenterFile = None,
    workers: Workers = 1,
    cache: Cache = None,
    as_json: AsJson = False,
) -> None:
    """Measure runs or bundles on unseen volumes, beside simple controls and the measured DWI itself."""
    from jmmda_model.bundle import BundleError
    from train.data.cache import CacheError
    from train.evaluate import EvaluationError, EvaluationOptions, evaluate_subject
    from train.runlog import progress_bar
    from train.segmenter import SegmenterError
    from train.state import TrainingError

    wanted = read_recipe(recipe) if recipe else None
    options = EvaluationOptions(
        cache_root=cache, volumes=volumes, centres=tuple(centre or ()), segmenter=segmenter, workers=workers
    )
    try:
        with progress_bar("test volumes", show=not as_json) as bar:
            done = evaluate_subject(
                subjects[0],
                wanted,
                options,
                lambda number, total: bar.update(number, total, "test volumes"),
                beside=subjects[1:],
            )
    except EvaluationError as error:
        fail(error.reason, USAGE if error.code in _WRONG_USE else FAILED)
    except (BundleError, CacheError, SegmenterError, TrainingError) as error:
        fail(error.reason)
    except FileNotFoundError as error:
        fail(str(error))
    _write(done, {"out": out, "markdown": markdown, "html": html, "csv": csv, "picture": picture})
    if as_json:
        typer.echo(json.dumps(done.report, indent=1, allow_nan=False))
    else:
        _print(done.report)


def _write(done: Evaluation, files: Mapping[str, Path | None]) -> None:
    """Write every output that was asked for."""
    from train.evaluation.targets import NETWORK
    from train.report import markdown_report, write_csv, write_report

    if (path := files["out"]) is not None:
        write_report(done.report, path)
    if (path := files["markdown"]) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(markdown_report(done.report), encoding="utf-8")
    if (path := files["csv"]) is not None:
        write_csv(done.methods, path)
    if (path := files["picture"]) is not None:
        from train.pictures import draw_examples

        draw_examples(done.cases, done.methods[NETWORK], done.predictor, path)
    if (path := files["html"]) is not None:
        from train.report_html import write_html

        write_html(done, path)


def _print(report: Mapping[str, Any]) -> None:
    from train.report_tables import tables_of

    console = Console()
    for table in tables_of(report):
        shown = Table(title=table.title, title_justify="left")
        for heading in table.headings:
            shown.add_column(heading)
        for row in table.rows:
            shown.add_row(*(escape(cell) for cell in row))
        console.print(shown)
        if table.note:
            console.print(escape(table.note), style="dim")
