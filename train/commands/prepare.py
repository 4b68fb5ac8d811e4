"""``train prepare``: an archive of paired CT and diffusion images to a cache for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from train.commands.border import FAILED, REFUSED, USAGE, fail, read_recipe

if TYPE_CHECKING:
    from jmmda_model.imaging.contract import PreprocessingContract
    from train.data.prepare import PrepareResult
    from train.data.prepare_settings import PrepareSettings

EPILOG = (
    "Examples: `jmmda-node train prepare archive --out cache --centre north --workers 4`, then "
    "`jmmda-node train prepare other --out cache --centre south` for a second hospital in the same cache; "
    "`jmmda-node train prepare AISD --out cache --layout aisd --dry-run`"
)

# Arguments and options, as the help shows them.
Root = Annotated[Path, typer.Argument(help="Archive of pairs: a folder, or a table (csv).")]
Out = Annotated[Path, typer.Option(help="Cache to write; made when missing, continued when there.")]
Layout = Annotated[str, typer.Option(help="auto, or the name of a layout; a wrong one lists them.")]
Centre = Annotated[str | None, typer.Option(help="Name of the hospital; default what the archive says.")]
BValue = Annotated[
    float | None, typer.Option(min=50, help="DICOM: b value to take, or that of series without one, s/mm2.")
]
CtUnit = Annotated[Literal["hu", "window"], typer.Option(help="CT values are HU, or grey values of a window.")]
Window = Annotated[
    tuple[float, float] | None, typer.Option(help="With --ct-unit window: lower and upper HU of the window.")
]
BrainMask = Annotated[
    str | None,
    typer.Option(
        help="given: the archive's masks, or a pattern of files beside each case; default the node's own mask."
    ),
]
Transform = Annotated[Literal["rigid", "affine", "bspline", "none"], typer.Option(help="Freedom of the registration.")]
Target = Annotated[Literal["dwi", "adc"], typer.Option(help="Image to learn.")]
Split = Annotated[
    Literal["patient", "slice"], typer.Option(help="slice mimics the paper, and leaks between training and test.")
]
KeepNames = Annotated[
    bool, typer.Option("--keep-names", help="Name cases like their folders; these must be pseudonyms already.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
RecipeFile = Annotated[Path | None, typer.Option(help="Recipe (TOML) whose input contract is to be met.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List cases and the names they would get; write nothing.")]


def prepare(
    root: Root,
    out: Out,
    layout: Layout = "auto",
    centre: Centre = None,
    b_value: BValue = None,
    ct_unit: CtUnit = "hu",
    window_hu: Window = None,
    brain_mask: BrainMask = None,
    transform: Transform = "rigid",
    target: Target = "dwi",
    split: Split = "patient",
    keep_names: KeepNames = False,
    workers: Workers = 2,
    recipe: RecipeFile = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Register, check and cache an archive of CT/DWI pairs; exit code 3 when no case could be taken.

    Case names carry no patient data: those of AISD, ISLES'24 and APIS are kept, others become `<layout>-<number>`,
    a hash of centre and folder. Look at `OUT/report/report.html` before training.
    """
    from train.data.prepare import PrepareError
    from train.data.readers import LayoutError

    try:
        settings = _settings(
            recipe,
            layout,
            centre,
            b_value,
            ct_unit,
            window_hu,
            brain_mask,
            transform,
            target,
            split,
            keep_names,
            workers,
        )
        if dry_run:
            _list_cases(root, settings, as_json)
            return
        result = _run(root, out, settings, as_json)
    except (LayoutError, ValueError) as error:
        fail(error, USAGE)
    except PrepareError as error:
        fail(error, FAILED)
    _print(result, as_json)
    if not result.taken:
        raise typer.Exit(REFUSED)


def _settings(
    recipe: Path | None,
    layout: str,
    centre: str | None,
    b_value: float | None,
    ct_unit: Literal["hu", "window"],
    window_hu: tuple[float, float] | None,
    brain_mask: str | None,
    transform: str,
    target: Literal["dwi", "adc"],
    split: Literal["patient", "slice"],
    keep_names: bool,
    workers: int,
) -> PrepareSettings:
    from train.data.prepare_settings import PrepareSettings
    from train.data.readers import ReaderOptions
    from train.data.registration import TransformKind

    return PrepareSettings(
        contract=_contract(recipe),
        layout=layout,
        centre=centre,
        brain_mask=brain_mask,
        transform=TransformKind(transform),
        target=target,
        split=split,
        keep_names=keep_names,
        workers=workers,
        options=ReaderOptions(ct_unit=ct_unit, window_hu=window_hu, b_value=b_value, target=target),
    )


def _contract(recipe: Path | None) -> PreprocessingContract:
    from jmmda_model.imaging.contract import PreprocessingContract
    from train.recipe import contract_of

    return PreprocessingContract() if recipe is None else contract_of(read_recipe(recipe))


def _run(root: Path, out: Path, settings: PrepareSettings, quiet: bool) -> PrepareResult:
    from train.data.prepare import prepare as run
    from train.runlog import progress_bar

    with progress_bar("cases", show=not quiet) as bar:
        return run(root, out, settings, progress=lambda done, total: bar.update(done, total, "cases"))


def _list_cases(root: Path, settings: PrepareSettings, as_json: bool) -> None:
    """Show the names cases would get beside their folders: on this screen only, nothing of it is written."""
    from train.data.prepare import find_cases

    reader, cases = find_cases(root, settings)
    if as_json:
        rows = [{"case": case.name, "source": case.source.patient, "split": case.source.split} for case in cases]
        typer.echo(json.dumps({"layout": reader.name, "cases": rows}, indent=1))
        return
    table = Table(title=f"{len(cases)} cases, layout {reader.name}: {reader.description}")
    for heading in ("case", "found as", "centre", "official split"):
        table.add_column(heading)
    for case in cases:
        table.add_row(
            *map(escape, (case.name, case.source.patient, settings.centre_of(case.source), case.source.split or ""))
        )
    Console().print(table)


def _print(result: PrepareResult, as_json: bool) -> None:
    from train.data.prepare_outcome import COLUMNS, summary, table_row

    if as_json:
        typer.echo((result.report / "report.json").read_text(encoding="utf-8"))
        return
    table = Table(title=f"Layout {result.layout}")
    for heading in COLUMNS:
        table.add_column(heading, overflow="fold")
    for outcome in result.outcomes:
        table.add_row(*map(escape, table_row(outcome)), style=None if outcome.taken else "red")
    console = Console()
    console.print(table)
    counts = summary(result.outcomes)
    refused = ", ".join(f"{count} {code}" for code, count in counts["refused"].items()) or "none"
    splits = ", ".join(f"{count} {name}" for name, count in counts["splits"].items()) or "none"
    console.print(
        f"{counts['taken']} of {counts['cases']} cases taken ({splits}); refused: {refused}; "
        f"{result.finished_before} were done before. Report: {escape(str(result.report / 'report.html'))}",
        soft_wrap=True,
    )
    if result.warning:
        console.print(f"[yellow]warning:[/yellow] {escape(result.warning)}", soft_wrap=True)
