"""`jmmda-node synthesize`: the node's pipeline on a folder of DICOM files."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicom_node.errors import Refused
from jmmda_model.eligibility_codes import plain_words

if TYPE_CHECKING:
    from dicom_node.offline import OfflineResult, OfflineRules, ScannedFolder, StudyPlan

_EXAMPLES = """
Make a labelled SYNTHETIC DWI series from a folder of DICOM files, exactly as the node would, without any network.

[bold]Examples[/bold]

  jmmda-node synthesize CT_FOLDER OUT

  jmmda-node synthesize CT_FOLDER OUT --bundle my-bundle --device cuda:0

  jmmda-node synthesize STUDY_FOLDER --explain

[bold]Exit codes[/bold]: 0 done, 1 failed, 2 usage, 3 refused with a reason.
"""

_STEPS = {
    "read": "reading the CT",
    "mask": "brain mask",
    "network": "JMMDA-GAN",
    "pixels": "back to the CT grid",
    "derive": "writing DICOM",
}


class StepBars:
    """One Rich progress bar per step of the pipeline."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        """Move the bar of a step, making it at the step's first sign."""
        if step not in self._tasks:
            self._tasks[step] = self._progress.add_task(_STEPS.get(step, step), total=total)
        self._progress.update(self._tasks[step], completed=done, total=total)


@contextmanager
def step_bars(console: Console) -> Iterator[StepBars]:
    """Show progress bars on a console for as long as the block runs."""
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield StepBars(progress)


def plan_as_json(plan: StudyPlan) -> dict[str, Any]:
    """Describe a plan as plain JSON data: verdicts and gate."""
    gate = plan.gate
    return {
        "study_instance_uid": plan.study_instance_uid,
        "series": [one.to_json() for one in plan.verdicts],
        "gate": None
        if gate is None
        else {
            "status": gate.status.name,
            "code": gate.code,
            "reason": gate.reason,
            "notes": list(gate.notes),
            "repairs": list(gate.repairs),
            "figures": dict(gate.figures),
        },
    }


def result_as_json(result: OfflineResult, montage: Path | None) -> dict[str, Any]:
    """Describe a finished series as plain JSON data."""
    return {
        **plan_as_json(result.plan),
        "derived_series_instance_uid": result.series.series_instance_uid,
        "instances": len(result.series.instances),
        "folder": str(result.series.instances[0].path.parent),
        "montage": str(montage) if montage else None,
        "companions": [one.to_json() for one in result.companions],
        "quality_flags": list(result.synthesis.quality_flags),
        "quality": list(plain_words(result.synthesis.quality_flags)),
        "notes": list(result.synthesis.notes),
        "figures": dict(result.synthesis.figures),
        "seconds": dict(result.synthesis.seconds),
    }


def _say_plan(console: Console, plan: StudyPlan) -> None:
    from dicom_node.commands.choice_table import Judged, print_choice

    print_choice(console, plan.study_instance_uid, [Judged(one) for one in plan.verdicts])
    if plan.gate is not None:
        console.print(f"geometry: [bold]{plan.gate.status.name}[/bold] {plan.gate.reason}", highlight=False)
        for note in plan.gate.notes:
            console.print(f"  {'repaired' if note in plan.gate.repairs else 'note'}: {note}", highlight=False)


def _say_result(console: Console, result: OfflineResult, montage: Path) -> None:
    seconds = ", ".join(f"{step} {value:.1f} s" for step, value in result.synthesis.seconds.items())
    flags = ", ".join(result.synthesis.quality_flags) or "none"
    words = "".join(f"\n  {sentence}" for sentence in plain_words(result.synthesis.quality_flags))
    console.print(
        f"[bold]{len(result.series.instances)} SYNTHETIC instances[/bold] in {result.series.instances[0].path.parent}\n"
        f"picture: {montage}\nquality flags: {flags}{words}\ntime: {seconds}",
        highlight=False,
    )
    for one in result.companions:
        told = one.to_json()
        outcome = f"left out: {told['code']}: {told['reason']}" if "code" in told else told["instances"][0]["file"]
        console.print(f"companion {one.kind}: {outcome}", highlight=False)


def _load_rules(config: Path | None) -> OfflineRules:
    from dicom_node.offline import OfflineRules

    if config is None:
        return OfflineRules()
    from dicom_node.settings import load_settings

    return OfflineRules.of(load_settings(config))


def _scan(source: Path, console: Console) -> ScannedFolder:
    from dicom_node.dicom.reading import install_pydicom_privacy
    from dicom_node.offline import scan

    install_pydicom_privacy()
    with console.status("reading headers") as status:
        scanned = scan(source, on_file=lambda count: status.update(f"reading headers: {count} files"))
    for path, reason in scanned.unreadable.items():
        console.print(f"[yellow]not readable[/yellow] {path}: {reason}", highlight=False)
    return scanned


def synthesize(
    source: Annotated[Path, typer.Argument(help="Folder (or file) with the CT; searched with its sub-folders.")],
    out: Annotated[Path | None, typer.Argument(help="Folder for the result; made when missing.")] = None,
    bundle: Annotated[str, typer.Option(help="Model bundle: builtin, or the path of a bundle folder.")] = "builtin",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the network; all cores when left out.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="node.toml whose selection, geometry, eligibility and output rules apply.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Only show which series would be taken, and why.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Run the pipeline on a folder; see the command's help."""
    console = Console(stderr=as_json, soft_wrap=True)
    if out is None and not explain:
        raise typer.BadParameter("needs a folder for the result (or --explain)", param_hint="OUT")
    rules = _load_rules(config)
    scanned = _scan(source, Console(stderr=True, soft_wrap=True))
    from dicom_node.offline import plan_study

    plans = [plan_study(uid, series, rules) for uid, series in scanned.studies.items()]
    for plan in plans:
        _say_plan(console, plan)
    if explain:
        if as_json:
            typer.echo(json.dumps([plan_as_json(plan) for plan in plans], indent=1))
        return
    assert out is not None
    reports, refusals = _run(plans, rules, out, console, (bundle, device, threads))
    if as_json:
        typer.echo(json.dumps(reports, indent=1))
    if refusals:
        for refusal in refusals[1:]:
            typer.echo(f"refused: {refusal}", err=True)
        raise refusals[0]


def _run(
    plans: list[StudyPlan], rules: OfflineRules, out: Path, console: Console, model: tuple[str, str, int | None]
) -> tuple[list[dict[str, Any]], list[Refused]]:
    """Process the plans one after the other; several studies get a sub-folder each."""
    from dicom_node.offline import synthesize_study, write_result_montage

    reports: list[dict[str, Any]] = []
    refusals: list[Refused] = []
    runtime = None
    for number, plan in enumerate(plans, start=1):
        try:
            plan.ensure_processable()
            runtime = runtime or _load_runtime(console, *model)
            folder = out if len(plans) == 1 else out / f"study-{number:02d}"
            with step_bars(Console(stderr=True)) as bars:
                result = synthesize_study(plan, runtime, rules, folder, bars)
            montage = write_result_montage(result)
        except Refused as refusal:
            figures = ", ".join(f"{name} {value}" for name, value in refusal.figures.items())
            if figures:
                console.print(f"figures: {figures}", highlight=False)
            refusals.append(refusal)
            reports.append(
                {
                    **plan_as_json(plan),
                    "refused": {"code": refusal.code, "reason": refusal.reason, "figures": refusal.figures},
                }
            )
            continue
        _say_result(console, result, montage)
        reports.append(result_as_json(result, montage))
    return reports, refusals


def _load_runtime(console: Console, bundle: str, device: str, threads: int | None) -> Any:  # noqa: ANN401 - torch stays lazy
    with console.status("loading the model"), warnings.catch_warnings():
        from dicom_node.synthesize.pipeline import load_runtime

        return load_runtime(bundle, device=device, threads=threads)


def register(app: typer.Typer) -> None:
    """Add `synthesize` to the command line."""
    app.command("synthesize", help=_EXAMPLES, rich_help_panel="Work")(synthesize)
