"""``train phantom``: sets of synthetic patients on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from train.commands.border import FAILED, USAGE, fail

if TYPE_CHECKING:
    from train.data.phantom_plans import PatientPlan
    from train.data.phantom_sets import SetSummary

EPILOG = "Example: `jmmda-node train phantom --out phantoms --centre A --centre B --n 8 --format dicom`"

#: Codes of `PhantomSetError` that stand for a wrong option and not for something that went wrong.
_WRONG_USE = frozenset({"centre", "lesion", "count", "format"})

Format = Literal["npz", "nifti", "dicom"]
VendorName = Literal["standard", "ge", "siemens", "toshiba"]

# Arguments and options, as the help shows them.
Out = Annotated[Path, typer.Option(help="Folder to write to; made when missing. A set there is continued.")]
Centre = Annotated[
    list[str] | None, typer.Option(help="Simulated centre A, B or C; give it more than once for several.")
]
Number = Annotated[int | None, typer.Option(min=1, help="Patients of each centre; default 1.")]
Like = Annotated[
    Literal["table1"] | None,
    typer.Option(help="table1: the paper's numbers of patients, sexes and slices (228 of A and 635 of B)."),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the first patient; the next ones count on.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
FormatName = Annotated[
    Format, typer.Option(help="npz, nifti (a folder a patient) or dicom (CT and DWI series a patient).")
]
Lesion = Annotated[str, typer.Option(help="random, none, or a kind such as mca_branch, for all patients.")]
Matrix = Annotated[int, typer.Option(min=32, help="Rows and columns of a CT slice.")]
Slices = Annotated[int | None, typer.Option(min=3, help="Slices; default 24.")]
Thickness = Annotated[float | None, typer.Option(min=0.5, max=8.0, help="Slice thickness, mm; default 5.")]
Vendor = Annotated[VendorName, typer.Option(help="Where the b value stands in DICOM files.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be made and its size.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


def phantom(
    out: Out,
    centre: Centre = None,
    n: Number = None,
    like: Like = None,
    seed: Seed = 0,
    workers: Workers = 2,
    format: FormatName = "npz",  # noqa: A002  (the name of the option)
    lesion: Lesion = "random",
    matrix: Matrix = 256,
    slices: Slices = None,
    slice_mm: Thickness = None,
    vendor: Vendor = "standard",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write paired phantom volumes (CT, DWI, ADC, lesion, brain): synthetic patients for training and tests."""
    from train.data.phantom_plans import PhantomSetError
    from train.data.phantom_sets import SetFormat, bytes_needed, write_plans
    from train.runlog import progress_bar

    if like is not None and (centre or n is not None or slices is not None or slice_mm is not None):
        raise typer.BadParameter("--like table1 sets centres, numbers and slices itself", param_hint="--like")
    try:
        plans = _plans(centre or ["A"], n or 1, seed, like, lesion, matrix, slices, slice_mm)
        size = bytes_needed(plans, SetFormat(format))
        if dry_run:
            _tell_plan(plans, format, size, like, as_json)
            return
        with progress_bar("phantom patients", show=not as_json) as bar:
            summary = write_plans(
                out,
                plans,
                workers=workers,
                format=format,
                vendor=vendor,
                progress=lambda done, total: bar.update(done, total, "phantom patients"),
                notes=_notes(plans, seed, like),
            )
    except PhantomSetError as error:
        fail(error.reason, USAGE if error.code in _WRONG_USE else FAILED)
    if as_json:
        typer.echo(json.dumps(_report(summary, plans, seed, like), indent=1))
    else:
        _print(summary, out, like)


def _plans(
    centres: list[str],
    n: int,
    seed: int,
    like: str | None,
    lesion: str,
    matrix: int,
    slices: int | None,
    slice_mm: float | None,
) -> tuple[PatientPlan, ...]:
    from train.data.phantom_plans import SetGeometry, plan_like_table1, plan_patients

    if like is not None:
        return plan_like_table1(seed, matrix=matrix, lesion=lesion)
    usual = SetGeometry()
    geometry = SetGeometry(
        matrix=matrix, n_slices=slices or usual.n_slices, slice_mm=usual.slice_mm if slice_mm is None else slice_mm
    )
    return plan_patients(centres, n, seed, geometry=geometry, lesion=lesion)


def _notes(plans: tuple[PatientPlan, ...], seed: int, like: str | None) -> dict[str, Any]:
    """What the manifest says beside the cases: for a set like table 1 what it shares with the paper and what not."""
    notes: dict[str, Any] = {"seed": seed, "split": "70/10/20 by patient, stratified by centre and lesion volume"}
    if like is None:
        return notes
    from train.data.phantom_plans import TABLE_1, TABLE_1_UNMATCHED

    rows = {}
    for name, row in TABLE_1.items():
        own = [plan for plan in plans if plan.centre == name]
        men = sum(plan.sex == "M" for plan in own)
        slices = sum(plan.geometry.n_slices for plan in own)
        rows[name] = {
            "patients": {"paper": row.patients, "set": len(own)},
            "men": {"paper": row.men, "set": men},
            "women": {"paper": row.women, "set": len(own) - men},
            "slices": {"paper": row.images, "set": slices},
            "mean_age_years": {"paper": row.mean_age_years},
        }
    return notes | {"like": "table 1 of JEIT250643", "table1": rows, "not_matched": list(TABLE_1_UNMATCHED)}


def _report(summary: SetSummary, plans: tuple[PatientPlan, ...], seed: int, like: str | None) -> dict[str, Any]:
    notes = _notes(plans, seed, like)
    for name, row in notes.get("table1", {}).items():
        row["mean_age_years"]["set"] = summary.centres[name]["mean_age_years"]
    facts = asdict(summary) | {"manifest": str(summary.manifest)}
    return {"data": "digital phantom, no patients", **facts, "notes": notes}


def _tell_plan(plans: tuple[PatientPlan, ...], form: str, size: int, like: str | None, as_json: bool) -> None:
    centres = {
        name: {"patients": len(own), "slices": sum(plan.geometry.n_slices for plan in own)}
        for name in sorted({plan.centre for plan in plans})
        for own in [[plan for plan in plans if plan.centre == name]]
    }
    if as_json:
        content = {"dry_run": True, "format": form, "bytes": size, "centres": centres}
        typer.echo(json.dumps(content | {"notes": _notes(plans, plans[0].seed, like)}, indent=1))
        return
    console = Console()
    for name, own in centres.items():
        console.print(f"centre {name}: {own['patients']} phantom patients, {own['slices']} slices")
    console.print(f"{form}, about {size / 2**20:.0f} MiB; nothing was written (--dry-run)")
    _print_unmatched(console, like)


def _print_unmatched(console: Console, like: str | None) -> None:
    if like is None:
        return
    from train.data.phantom_plans import TABLE_1_UNMATCHED

    console.print("As in the paper's table 1: patients, men and women, and slices of both data sets. Not as there:")
    for line in TABLE_1_UNMATCHED:
        console.print(f"- {line}", soft_wrap=True)


def _print(summary: SetSummary, out: Path, like: str | None) -> None:
    console = Console()
    names = list(summary.centres)
    table = Table(title="Phantom patients by lesion")
    table.add_column("lesion")
    for name in names:
        table.add_column(f"centre {name}", justify="right")
    for kind, counts in summary.lesion_kinds.items():
        table.add_row(kind, *(str(counts[name]) for name in names))
    table.add_section()
    for title, key in (("all", "patients"), ("slices", "slices"), ("mean age", "mean_age_years")):
        table.add_row(title, *(f"{summary.centres[name][key]:g}" for name in names))
    console.print(table)
    _print_unmatched(console, like)
    console.print(
        f"{summary.made} phantom patients made, {summary.kept} kept, in {summary.seconds:g} s; {escape(str(out))}"
    )
