"""Command line of the training side: ``jmmda-node train phantom | fit | evaluate | export``.

Exit codes: 0 done, 1 failed, 2 wrong usage or a faulty recipe. Heavy modules are imported inside the commands, so
that ``--help`` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from train.recipe import Recipe

app = typer.Typer(
    name="train",
    help="Make phantom data, train, evaluate and export models. All figures are phantom figures.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

OK, FAILED, USAGE = 0, 1, 2


def _fail(reason: object, code: int = FAILED) -> NoReturn:
    Console(stderr=True).print(f"[red]failed:[/red] {escape(str(reason))}", soft_wrap=True)
    raise typer.Exit(code)


def _load(path: Path) -> Recipe:
    from train.recipe import RecipeError, load_recipe

    try:
        return load_recipe(path)
    except RecipeError as error:
        for fault in error.faults:
            Console(stderr=True).print(escape(str(fault)), soft_wrap=True, highlight=False)
        raise typer.Exit(USAGE) from error
    except OSError as error:
        _fail(f"{path}: {error.strerror}", USAGE)


@app.command(epilog="Example: `jmmda-node train phantom --out phantoms --centre A --n 8 --format dicom`")
def phantom(
    out: Annotated[Path, typer.Option(help="Folder to write to; made when missing.")],
    centre: Annotated[Literal["A", "B", "C"], typer.Option(help="Simulated centre.")] = "A",
    n: Annotated[int, typer.Option(min=1, help="Number of volumes.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first volume; the next ones count on.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    format: Annotated[  # noqa: A002  (the name of the option)
        Literal["npz", "nifti", "dicom"], typer.Option(help="npz, nifti (a folder a patient) or dicom (CT study).")
    ] = "npz",
    matrix: Annotated[int, typer.Option(min=32, help="Rows and columns of a slice.")] = 256,
) -> None:
    """Write paired phantom volumes (CT, DWI, ADC, lesion, brain): synthetic data for tests and tutorials."""
    from train.data.phantom_sets import SetGeometry, write_set
    from train.runlog import progress_bar

    with progress_bar("phantom volumes") as bar:
        write_set(
            out,
            centre,
            n,
            seed,
            workers=workers,
            format=format,
            progress=lambda done, total: bar.update(done, total, "phantom volumes"),
            geometry=SetGeometry(matrix=matrix),
        )
    Console().print(f"{n} phantom volumes of centre {centre} in {escape(str(out))}")


@app.command(epilog="Example: `jmmda-node train fit config/train/quick.toml --out runs/quick`")
def fit(
    recipe: Annotated[Path, typer.Argument(help="Recipe (TOML).")],
    out: Annotated[Path, typer.Option(help="Run folder: log, checkpoints, sample pictures.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Time limit of training in minutes; default the recipe's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Where preprocessed volumes are kept and shared by runs; default OUT/cache.")
    ] = None,
) -> None:
    """Train a recipe; Ctrl-C stops after the current step with a checkpoint, and --resume goes on from it."""
    import dataclasses

    from train.fit import fit_recipe
    from train.state import TrainingError

    loaded = _load(recipe)
    if max_minutes is not None:
        loaded = dataclasses.replace(loaded, max_minutes=max_minutes)
    try:
        result = fit_recipe(loaded, out, cache_root=cache, resume=resume, device=device)
    except TrainingError as error:
        _fail(error)
    state = "finished" if result.finished else "stopped; go on with --resume"
    Console().print(
        f"{loaded.name}: {state} after {result.steps} steps ({result.skipped} skipped) and {result.minutes:.1f} minutes"
    )


@app.command(epilog="Example: `jmmda-node train evaluate runs/quick --volumes 4 --json`")
def evaluate(
    subject: Annotated[str, typer.Argument(help="Run folder, bundle folder, or `builtin`.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe that names the test volumes; a run brings its own.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the full report here (JSON).")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables here (Markdown).")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw examples here (PNG), chosen by rule.")] = None,
    volumes: Annotated[int | None, typer.Option(min=1, help="At most this many test volumes a centre.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where preprocessed volumes are kept.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the full report as JSON.")] = False,
) -> None:
    """Measure a run or a bundle on unseen phantom volumes, beside simple controls."""
    from jmmda_model.bundle import BundleError
    from train.evaluate import evaluate_subject
    from train.report import markdown_report, write_report
    from train.runlog import progress_bar

    test_recipe = _load(recipe) if recipe else None
    try:
        with progress_bar("test volumes", show=not as_json) as bar:
            report = evaluate_subject(
                subject,
                test_recipe,
                cache_root=cache,
                volumes=volumes,
                picture=picture,
                progress=lambda done, total: bar.update(done, total, "test volumes"),
            )
    except (BundleError, FileNotFoundError, ValueError) as error:
        _fail(error)
    if out is not None:
        write_report(report, out)
    if markdown is not None:
        markdown.write_text(markdown_report(report), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(report, indent=1, allow_nan=False))
    else:
        _print_report(report)


def _print_report(report: dict[str, Any]) -> None:
    from train.report import HEADINGS, group_names, report_lines

    for group in group_names(report):
        table = Table(title=f"Digital phantom, {group}: {report['network']}")
        for heading in HEADINGS:
            table.add_column(heading)
        for row in report_lines(report, group):
            table.add_row(*row)
        Console().print(table)


@app.command(epilog="Example: `jmmda-node train export runs/quick --out quick-bundle --report report.json`")
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the bundle; default the recipe's.")] = None,
    stage: Annotated[str | None, typer.Option(help="Weights at the end of this stage; default the newest.")] = None,
    report: Annotated[Path | None, typer.Option(help="Report of `evaluate --out` to put on the card.")] = None,
    flip_average: Annotated[
        bool, typer.Option("--flip-average", help="Average with the mirrored slice: better, twice the time.")
    ] = False,
) -> None:
    """Write a model bundle: fp16 weights, output recalibration and a card with what was measured."""
    from jmmda_model.bundle import BundleError
    from train.export import export_run

    try:
        figures = json.loads(report.read_text(encoding="utf-8")) if report else None
        bundle = export_run(run, out, name=name, stage=stage, report=figures, flip_average=flip_average)
    except (BundleError, FileNotFoundError, ValueError) as error:
        _fail(error)
    size_mib = sum(file.stat().st_size for file in bundle.path.iterdir()) / 2**20
    Console().print(
        f"bundle {bundle.card.name}: {size_mib:.1f} MiB, SHA-256 {bundle.sha256}; {bundle.card.training_data}",
        soft_wrap=True,
    )
