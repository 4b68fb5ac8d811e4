"""Reports of `train.evaluate` as JSON, CSV and the page docs/results.md."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train.evaluation.scoring import METRICS, REGIONS, VolumeScore
from train.evaluation.summary import patient_mean
from train.report_tables import (
    AUC_WORDS,
    HEADINGS,
    STRATA_HEADINGS,
    data_words,
    group_names,
    is_phantom,
    report_lines,
    stratum_lines,
    tables_of,
)

__all__ = [
    "HEADINGS",
    "STRATA_HEADINGS",
    "data_words",
    "group_names",
    "markdown_report",
    "markdown_table",
    "opening_words",
    "report_lines",
    "stratum_lines",
    "write_csv",
    "write_report",
]


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "| " + " | ".join("---" for _ in headings) + " |"]
    lines.extend("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join(lines)


def opening_words(report: Mapping[str, Any]) -> str:
    """What was measured on what, in one sentence."""
    what = "Digital phantom, not patients." if is_phantom(report) else f"{data_words(report)}."
    return f"{what} Network: {report['network']}. Conventions: {report['conventions']}."


def markdown_report(report: Mapping[str, Any]) -> str:
    """The tables of a report: targets, every centre, the clean DWI, strata, image and lesion metrics."""
    parts = [opening_words(report), AUC_WORDS]
    for table in tables_of(report):
        parts.append(f"### {table.title}")
        parts.append(markdown_table(table.headings, table.rows))
        if table.note:
            parts.append(table.note)
    return "\n\n".join(parts) + "\n"


def write_csv(methods: Mapping[str, Sequence[VolumeScore]], folder: Path) -> tuple[Path, Path]:
    """Write ``slices.csv`` and ``patients.csv``: a row a method and slice, and a row a method and patient.

    Parameters
    ----------
    methods : Mapping[str, sequence of VolumeScore]
        Scores of every method.
    folder : Path
        Made when missing.

    Returns
    -------
    (Path, Path)
        The two files. An empty cell means that the region or the label does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "slices.csv", folder / "patients.csv"
    for file, rows in zip(files, (_slice_rows(methods), _patient_rows(methods)), strict=True):
        first = next(rows)
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(first))
            writer.writeheader()
            writer.writerow(first)
            writer.writerows(rows)
    return files


def _cell(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.6g}"


def _truths(methods: Mapping[str, Sequence[VolumeScore]]) -> list[str]:
    return sorted({truth for scores in methods.values() for score in scores for truth in score.against})


def _slice_rows(methods: Mapping[str, Sequence[VolumeScore]]) -> Iterator[dict[str, str]]:
    truths = _truths(methods)
    for method, scores in methods.items():
        for score in scores:
            columns: dict[str, Any] = {}
            for truth in truths:
                for region in REGIONS:
                    sums = score.against.get(truth, {}).get(region)
                    for metric in METRICS:
                        nothing = np.full(len(score.slices), np.nan)
                        columns[f"{truth}.{region}.{metric}"] = sums.metric(metric) if sums else nothing
            for row, number in enumerate(score.slices):
                yield {
                    "method": method,
                    "patient": score.facts.patient,
                    "centre": score.facts.centre,
                    "source": score.facts.source,
                    "slice": str(int(number)),
                    **{name: _cell(float(values[row])) for name, values in columns.items()},
                }


def _patient_rows(methods: Mapping[str, Sequence[VolumeScore]]) -> Iterator[dict[str, str]]:
    truths = _truths(methods)
    detectors = sorted({name for scores in methods.values() for score in scores for name in score.findings})
    for method, scores in methods.items():
        for score in scores:
            facts = score.facts
            row = {
                "method": method,
                "patient": facts.patient,
                "centre": facts.centre,
                "source": facts.source,
                "slices": str(len(score.slices)),
                "lesion_ml": _cell(facts.lesion_ml),
                "lesion_kind": facts.lesion_kind or "",
                "hu_drop": _cell(facts.hu_drop),
                "lesion_auc": _cell(score.histogram.auc()),
                "contrast": _cell(score.contrast),
                "contrast_measured": _cell(score.contrast_measured),
            }
            for truth in truths:
                for region in REGIONS:
                    sums = score.against.get(truth, {}).get(region)
                    for metric in METRICS:
                        row[f"{truth}.{region}.{metric}"] = _cell(patient_mean(sums, metric) if sums else None)
            for name in detectors:
                found = score.findings.get(name)
                for figure in ("dice", "truth_ml", "found_ml", "both_ml", "false_ml"):
                    row[f"{name}.{figure}"] = _cell(getattr(found, figure) if found else None)
            yield row
