"""``train fit``: train a recipe, or with ``--dry-run`` say what it would do."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from train.commands.border import fail, read_recipe

if TYPE_CHECKING:
    from train.dryrun import RunPlan
    from train.recipe import Recipe
    from train.trainer import FitResult

EPILOG = (
    "Examples: `jmmda-node train fit config/train/quick.toml --out runs/quick` | "
    "`jmmda-node train fit config/train/plus.toml --dry-run --measure` | "
    "`torchrun --nproc-per-node 4 --no-python jmmda-node train fit config/train/plus.toml --out runs/plus`"
)


def fit(
    recipe: Annotated[Path, typer.Argument(help="Recipe (TOML).")],
    out: Annotated[
        Path | None, typer.Option(help="Run folder: log, checkpoints, sample pictures; needed unless --dry-run.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Time limit of training in minutes; default the recipe's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights and batches; default the recipe's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N; under torchrun only the kind counts.")] = "auto",
    cache: Annotated[
        Path | None, typer.Option(help="Where preprocessed volumes are kept and shared by runs; default OUT/cache.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print stages, networks, memory and data, and train nothing.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --dry-run: take a few steps of each stage and tell the time.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan or the result as JSON.")] = False,
) -> None:
    """Train a recipe; Ctrl-C stops after the current step with a checkpoint, and --resume goes on from it."""
    loaded = _changed(read_recipe(recipe), max_minutes, seed)
    if dry_run:
        _tell_plan(loaded, cache or (out or Path("runs") / loaded.name) / "cache", device, measure, as_json)
        return
    if out is None:
        raise typer.BadParameter("is needed to train", param_hint="--out")
    if measure:
        raise typer.BadParameter("goes with --dry-run", param_hint="--measure")
    result = _train(loaded, out, cache, resume, device, as_json)
    if int(os.environ.get("RANK", "0")) == 0:
        _tell_result(loaded, result, as_json)


def _changed(recipe: Recipe, max_minutes: float | None, seed: int | None) -> Recipe:
    return dataclasses.replace(
        recipe,
        max_minutes=recipe.max_minutes if max_minutes is None else max_minutes,
        seed=recipe.seed if seed is None else seed,
    )


def _train(recipe: Recipe, out: Path, cache: Path | None, resume: bool, device: str, as_json: bool) -> FitResult:
    from train.fit import fit_recipe
    from train.objectives import ObjectiveError
    from train.segmenter import SegmenterError
    from train.state import TrainingError

    try:
        return fit_recipe(recipe, out, cache_root=cache, resume=resume, device=device, show_progress=not as_json)
    except (TrainingError, ObjectiveError, SegmenterError) as error:
        fail(error.reason)
    except OSError as error:
        fail(f"{error.filename or out}: {error.strerror}")


def _tell_result(recipe: Recipe, result: FitResult, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"recipe": recipe.name, **dataclasses.asdict(result)}, indent=1))
        return
    state = "finished" if result.finished else "stopped; go on with --resume"
    Console().print(
        f"{recipe.name}: {state} after {result.steps} steps ({result.skipped} skipped) and {result.minutes:.1f} "
        f"minutes, {100.0 * result.waiting_share:.1f} % of them waiting for data",
        soft_wrap=True,
    )


def _tell_plan(recipe: Recipe, cache: Path, device: str, measure: bool, as_json: bool) -> None:
    from train.devices import choose_device
    from train.dryrun import plan_run
    from train.state import TrainingError

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if int(os.environ.get("RANK", "0")) > 0:
        return
    try:
        plan = plan_run(recipe, cache_root=cache, device=choose_device(device), processes=processes, measure=measure)
    except TrainingError as error:
        fail(error.reason)
    if as_json:
        typer.echo(json.dumps(plan.to_json(), indent=1))
    else:
        _print_plan(plan)


def _print_plan(plan: RunPlan) -> None:
    from train.dryrun import plan_lines

    table = Table(title=f"{plan.recipe}: stages")
    for heading in ("stage", "pixels", "steps", "batch", "images", "adversarial", "precision", "GFLOP/image", "s/step"):
        table.add_column(heading, justify="left" if heading in ("stage", "precision") else "right")
    for stage in plan.stages:
        table.add_row(
            stage.name,
            str(stage.grid_px),
            str(stage.steps),
            str(stage.batch),
            str(stage.images),
            "yes" if stage.adversarial else "no",
            stage.precision,
            "-" if stage.gflop_per_image is None else f"{stage.gflop_per_image:.1f}",
            "" if stage.seconds_per_step is None else f"{stage.seconds_per_step:.3f}",
        )
    console = Console()
    console.print(table)
    for name, value in plan_lines(plan):
        console.print(f"{name}: {escape(value)}", soft_wrap=True, highlight=False)
