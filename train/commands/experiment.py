"""``train experiment``: train, score and print the tables of the paper and ours; ``--plan`` tells what it takes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from train.commands.border import FAILED, fail

if TYPE_CHECKING:
    from train.experiments.budgets import ArchiveData, Budget
    from train.experiments.plan import Plan, PlannedNetwork
    from train.experiments.records import Experiment, Training
    from train.experiments.runner import Outcome

EPILOG = (
    "Examples: `jmmda-node train experiment all --budget quick --out experiments/quick` | "
    "`jmmda-node train experiment table3 --budget half --seeds 0 --devices cuda:0,cuda:1 --jobs 4 --plan`"
)
#: Known here without the modules of training, for the help; a test compares them with the catalogue.
ALL = "all"
NAMES = (
    *(f"table{number}" for number in range(2, 8)),
    *("sensitivity", "superpixel", "ablation", "anchors", "masks", "robustness", "detection", "length"),
)
#: Trainings side by side on CPUs when nothing is said: each keeps its networks in memory.
_MOST_JOBS = 8


@dataclass(frozen=True, slots=True)
class Setting:
    """What was asked for, checked.

    Attributes
    ----------
    experiments : tuple of Experiment
        What is run.
    trainings : tuple of Training
        Their networks, each once.
    budget : Budget
        With the seeds that were asked for.
    data : ArchiveData or None
        None for the phantom.
    folder, cache : Path
        Where runs, scores and report go, and where phantom volumes are.
    jobs, devices : int, tuple of str
        Trainings side by side, and where they compute.
    shows : bool
        Whether progress is shown.
    """

    experiments: tuple[Experiment, ...]
    trainings: tuple[Training, ...]
    budget: Budget
    data: ArchiveData | None
    folder: Path
    cache: Path
    jobs: int
    devices: tuple[str, ...]
    shows: bool


# Arguments and options, as the help shows them.
Name = Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}, or {ALL}.")]
BudgetName = Annotated[
    str, typer.Option(help="quick (all of them in an hour on two CPU cores), half or full (for GPUs).")
]
Out = Annotated[Path | None, typer.Option(help="Folder of runs, scores and report; default experiments/BUDGET.")]
Data = Annotated[Path | None, typer.Option(help="Prepared archive instead of the phantom; needs --centres.")]
Centres = Annotated[
    tuple[str, str] | None,
    typer.Option(help="Two centres of the archive, in the place of the paper's data sets 1 and 2."),
]
Seeds = Annotated[str | None, typer.Option(help="One network of each kind for each, e.g. 0,1,2; default the budget's.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Trainings side by side; default one a GPU, or one a core.")]
DeviceNames = Annotated[
    str, typer.Option(help="auto, cpu or cuda:N; several, e.g. cuda:0,cuda:1, are used side by side.")
]
Cache = Annotated[Path | None, typer.Option(help="Where phantom volumes are kept; default OUT/cache.")]
OnlyPlan = Annotated[bool, typer.Option("--plan", help="Print networks and the measured time, and train nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print plan, outcomes and files as JSON.")]


def experiment(
    name: Name,
    budget: BudgetName = "quick",
    out: Out = None,
    data: Data = None,
    centres: Centres = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    devices: DeviceNames = "auto",
    cache: Cache = None,
    plan: OnlyPlan = False,
    as_json: AsJson = False,
) -> None:
    """Train, score and report experiments; what is done is kept, so the same command goes on where it was stopped."""
    sized = _budget(budget, seeds)
    archive = _archive(data, centres)
    experiments = _experiments(name, sized, archive)
    folder, places = out or Path("experiments") / budget, _devices(devices)
    setting = Setting(
        experiments=experiments,
        trainings=_trainings(experiments),
        budget=sized,
        data=archive,
        folder=folder,
        cache=cache or folder / "cache",
        jobs=jobs or _default_jobs(places),
        devices=places,
        shows=not as_json,
    )
    planned = _planned(setting)
    if not as_json:
        _print_plan(planned, setting)
    if plan:
        if as_json:
            typer.echo(json.dumps({"plan": planned.to_json()}, indent=1))
        return
    outcomes = _train(setting)
    if any(outcome.state == "stopped" for outcome in outcomes):
        fail("stopped; the same command goes on")
    files, missing = _report(setting, outcomes)
    _tell(setting, planned, outcomes, files, missing, as_json=as_json)
    if missing or any(outcome.state == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)


def _budget(name: str, seeds: str | None) -> Budget:
    from train.experiments.budgets import BUDGETS

    if name not in BUDGETS:
        raise typer.BadParameter(f"is one of {', '.join(BUDGETS)}, not {name}", param_hint="--budget")
    if seeds is None:
        return BUDGETS[name]
    words = seeds.replace(",", " ").split()
    if not words or not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise typer.BadParameter("are different whole numbers of at least 0, e.g. 0,1,2", param_hint="--seeds")
    return dataclasses.replace(BUDGETS[name], seeds=tuple(int(word) for word in words))


def _archive(folder: Path | None, centres: tuple[str, str] | None) -> ArchiveData | None:
    from train.experiments.budgets import ArchiveData
    from train.state import TrainingError

    if (folder is None) != (centres is None):
        raise typer.BadParameter("go together", param_hint="--data and --centres")
    if folder is None or centres is None:
        return None
    try:
        return ArchiveData.open(folder, centres)
    except TrainingError as error:
        fail(error.reason)


def _experiments(name: str, budget: Budget, data: ArchiveData | None) -> tuple[Experiment, ...]:
    from train.experiments.catalogue import EXPERIMENTS, all_experiments
    from train.experiments.catalogue import experiment as one_experiment
    from train.recipe.faults import unknown_word

    if name == ALL:
        return all_experiments(budget, data=data)
    if name not in EXPERIMENTS:
        raise typer.BadParameter(f"unknown experiment; {unknown_word(name, (*EXPERIMENTS, ALL))}", param_hint="NAME")
    return (one_experiment(name, budget, data=data),)


def _trainings(experiments: Sequence[Experiment]) -> tuple[Training, ...]:
    from train.experiments.catalogue import all_trainings

    return all_trainings(experiments)


def _devices(words: str) -> tuple[str, ...]:
    from train.devices import choose_device
    from train.state import TrainingError

    names = tuple(words.replace(",", " ").split())
    if not names:
        raise typer.BadParameter("names at least one device", param_hint="--devices")
    try:
        return tuple(str(choose_device(name)) for name in names)
    except TrainingError as error:
        raise typer.BadParameter(error.reason, param_hint="--devices") from error


def _default_jobs(devices: Sequence[str]) -> int:
    if any(device.startswith("cuda") for device in devices):
        return len(devices)
    return min(_MOST_JOBS, len(os.sched_getaffinity(0)))


def _planned(setting: Setting) -> Plan:
    from train.experiments.plan import estimate
    from train.state import TrainingError

    try:
        return estimate(
            setting.trainings,
            setting.folder,
            cache_root=setting.cache,
            jobs=setting.jobs,
            devices=setting.devices,
        )
    except TrainingError as error:
        fail(error.reason)


def _train(setting: Setting) -> tuple[Outcome, ...]:
    from train.experiments.runner import run_trainings
    from train.runlog import progress_bar

    try:
        with progress_bar("trainings", show=setting.shows, line_every_s=None) as bar:
            return run_trainings(
                setting.trainings,
                setting.folder,
                cache_root=setting.cache,
                jobs=setting.jobs,
                devices=setting.devices,
                progress=bar,
            )
    except OSError as error:
        fail(f"{error.filename or setting.folder}: {error.strerror}")


def _report(setting: Setting, outcomes: Sequence[Outcome]) -> tuple[list[Path], Mapping[tuple[str, str], str]]:
    """Score and write the report; its files, and why some scores could not be made."""
    from train.experiments.report import write_report
    from train.experiments.store import score_all
    from train.runlog import progress_bar

    try:
        with progress_bar("scores", show=setting.shows, line_every_s=None) as bar:
            book = score_all(
                setting.experiments,
                setting.folder,
                setting.cache,
                setting.jobs,
                bar,
                devices=setting.devices,
            )
        files = write_report(
            setting.experiments,
            book,
            setting.folder / "report",
            mark=setting.budget.mark,
            source=setting.data.source if setting.data else "phantom",
            facts=facts_of(setting, outcomes),
        )
    except ImportError as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename or setting.folder}: {error.strerror}")
    return files, book.missing


def facts_of(setting: Setting, outcomes: Sequence[Outcome]) -> dict[str, str]:
    """What a reader of the report must know of how it came about."""
    import torch

    from jmmda_model import __version__

    budget, data = setting.budget, setting.data
    grid_px = data.grid_px if data else budget.grid_px
    length = f"{budget.images} slices a network" if budget.images else "as many epochs as the sources train"
    volumes = (
        f"prepared archive {data.folder.name}, centres {' and '.join(data.centres)}"
        if data
        else f"{budget.train} training, {budget.validation} validation and {budget.test} test phantoms a centre"
    )
    minutes = sum(outcome.minutes or 0.0 for outcome in outcomes)
    facts = {
        "budget": f"{budget.name}: {budget.width:g} of the channels, {grid_px} pixels, {length}",
        "learning rates": f"{budget.rate_factor:g} times those of the sources",
        "data": volumes,
        "seeds": ", ".join(map(str, budget.seeds)),
        "training": f"{len(outcomes)} networks, {minutes:.0f} minutes in {setting.jobs} processes "
        f"on {', '.join(dict.fromkeys(setting.devices))}",
        "program": f"jmmda-node {__version__}, torch {torch.__version__}",
    }
    failed = [f"{outcome.key} ({outcome.reason})" for outcome in outcomes if outcome.state == "failed"]
    return facts | ({"failed": "; ".join(failed)} if failed else {})


def _print_plan(planned: Plan, setting: Setting) -> None:
    rows = _first_rows(setting.experiments)
    table = Table(title=f"budget {setting.budget.name}: {len(planned.networks)} networks", title_justify="left")
    for heading in ("network", "first row", "parameters", "steps", "time"):
        table.add_column(heading, justify="left" if heading in ("network", "first row") else "right")
    for network in planned.networks:
        table.add_row(
            escape(network.name),
            escape(rows[network.key]),
            f"{network.parameters / 1e6:.3f} M",
            str(network.steps),
            _time_words(network),
        )
    console = Console()
    console.print(table)
    minutes = planned.minutes
    words = "not measured" if minutes is None else f"about {minutes:.0f} min"
    console.print(
        f"{len(planned.left)} networks to train, {setting.jobs} side by side on {', '.join(setting.devices)}: {words}, "
        f"and the time for {planned.volumes} phantom volumes and the scores",
        soft_wrap=True,
        highlight=False,
    )


def _first_rows(experiments: Sequence[Experiment]) -> dict[str, str]:
    """Key of a training -> table and label of the first row that needs it."""
    found: dict[str, str] = {}
    for table in (table for one in experiments for table in one.tables):
        for row in table.rows:
            for training in row.trainings:
                found.setdefault(training.key, f"{table.key}: {row.label}")
    return found


def _time_words(network: PlannedNetwork) -> str:
    if network.finished:
        return "done"
    return "not measured" if network.seconds is None else f"{network.seconds:.0f} s"


def _tell(
    setting: Setting,
    planned: Plan,
    outcomes: Sequence[Outcome],
    files: Sequence[Path],
    missing: Mapping[tuple[str, str], str],
    *,
    as_json: bool,
) -> None:
    if as_json:
        content = {
            "plan": planned.to_json(),
            "outcomes": [dataclasses.asdict(outcome) for outcome in outcomes],
            "missing": [{"key": key, "test": test, "reason": reason} for (key, test), reason in missing.items()],
            "files": [str(file) for file in files],
        }
        typer.echo(json.dumps(content, indent=1))
        return
    errors = Console(stderr=True)
    for outcome in outcomes:
        if outcome.state == "failed":
            errors.print(f"[red]failed:[/red] {escape(f'{outcome.key}: {outcome.reason}')}", soft_wrap=True)
    failed = {outcome.key for outcome in outcomes if outcome.state == "failed"}
    for (key, test), reason in missing.items():
        if key not in failed:
            errors.print(f"[red]not scored:[/red] {escape(f'{key} on {test}: {reason}')}", soft_wrap=True)
    trained = sum(outcome.state == "finished" for outcome in outcomes)
    console = Console()
    console.print(
        f"{trained} of {len(outcomes)} networks trained; {setting.folder / 'report' / 'index.html'}", soft_wrap=True
    )
