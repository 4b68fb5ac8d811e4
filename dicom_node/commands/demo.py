"""`jmmda-node demo`: the whole journey on this machine, with a phantom patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

_EXAMPLES = """
Run a throwaway node and a miniature PACS on free ports of this machine, send a phantom CT study over real DICOM, wait
for the SYNTHETIC DWI series and judge it against the phantom's truth. No patient, no network beyond this machine.

OUT then holds source/ (the CT study), received/ (what came back), montage.png, report.json and node/ (logs, settings).

[bold]Examples[/bold]

  jmmda-node demo --out demo-out

  jmmda-node demo --out demo-out --bundle my-bundle --device cuda:0

[bold]Exit codes[/bold]: 0 PASS, 1 FAIL.
"""


class _Teller:
    """Show the present step as one progress line, and each finished step as a line of its own."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._step = ""
        self._task: TaskID | None = None

    def __call__(self, step: str, share: float | None) -> None:
        if step != self._step:
            self.finish()
            self._step, self._task = step, self._progress.add_task(step, total=None)
        assert self._task is not None
        if share is not None:
            self._progress.update(self._task, total=1.0, completed=share)

    def finish(self) -> None:
        """Fill the bar of the last step."""
        if self._task is not None:
            self._progress.update(self._task, total=1.0, completed=1.0)
            self._progress.stop_task(self._task)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo leaves.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="Seed of the phantom patient.")] = 2025,
    bundle: Annotated[str, typer.Option(help="Model bundle: builtin, or the path of a bundle folder.")] = "builtin",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
) -> None:
    """Run the demonstration; see the command's help."""
    from dicom_node.demo.run import DemoPlan, run_demo

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        teller = _Teller(progress)
        verdict, report = run_demo(DemoPlan(out, seed, bundle, device), teller)
        teller.finish()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in verdict.checks:
        table.add_row("[green]ok[/green]" if check.passed else "[red]NO[/red]", check.name, check.seen)
    console.print(table)
    console.print("on the phantom, not on patients:", dict(verdict.metrics), highlight=False)
    seconds = report["seconds_from_last_ct_image_to_last_result_image"]
    outcome = "PASS" if verdict.passed else "FAIL"
    typer.echo(f"picture: {out / 'montage.png'}   report: {out / 'report.json'}")
    typer.echo(f"demo: {outcome} {len(verdict.checks)} checks, result {seconds:.1f} s after the last CT image")
    if not verdict.passed:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add `demo` to the command line."""
    app.command("demo", help=_EXAMPLES, rich_help_panel="Start here")(demo)
