"""Reports of `train.evaluate` as JSON, table rows and the page docs/results.md: no figure is copied by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEADINGS = ("method", "lesion AUC (95 %)", "AUC a volume", "brain MSE", "brain PSNR dB", "brain SSIM", "lesion MSE")

STRATA_HEADINGS = (
    "phantom volumes with",
    "n",
    "lesion AUC pooled (95 %)",
    "AUC a volume (95 %)",
    "same, mean image",
    "lesion MSE",
)

#: What the methods of a report are, in the order of the page.
METHOD_WORDS: Mapping[str, str] = {
    "jmmda": "JMMDA-GAN (our reconstruction)",
    "hu_polynomial": "control: HU polynomial at two scales + depth",
    "hu_lookup": "control: smoothed HU lookup",
    "mean_image": "control: mean training image",
    "constant_in_mask": "control: constant in mask",
    "identity_window": "control: CT window shown as DWI",
    "histogram_match": "control: histogram match",
}


_AUC_WORDS = (
    "Intervals: bootstrap over volumes, 95 %. AUC: chance that a lesion voxel is brighter than other brain, all "
    "volumes pooled; knowing where lesions tend to lie is enough for more than 0.5, see the mean training image."
)


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write a report as JSON."""
    path.write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")


def group_names(report: Mapping[str, Any]) -> list[str]:
    """Groups of a report in the order in which they are shown."""
    return list(report["methods"]["jmmda"])


def report_lines(report: Mapping[str, Any], group: str = "all", truth: str = "dwi") -> list[tuple[str, ...]]:
    """Rows of a table with the columns `HEADINGS`, one a method that has the group; ``truth`` is dwi or dwi_clean."""
    rows: list[tuple[str, ...]] = []
    for name, groups in report["methods"].items():
        if group not in groups:
            continue
        figures = groups[group]
        brain, lesion = figures[f"{truth}.brain"], figures[f"{truth}.lesion"]
        rows.append(
            (
                name,
                _interval(figures["lesion_auc_pooled"], 3),
                _text(figures["lesion_auc_per_volume"]["value"], 3),
                _text(brain["mse"]["value"], 5),
                _text(brain["psnr_db"]["value"], 2),
                _text(brain["ssim"]["value"], 3),
                _text(lesion["mse"]["value"], 5),
            )
        )
    return rows


def _interval(figure: Mapping[str, Any], digits: int) -> str:
    low, high = _text(figure["low"], digits), _text(figure["high"], digits)
    return f"{_text(figure['value'], digits)} ({low}-{high})"


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "| " + " | ".join("---" for _ in headings) + " |"]
    lines.extend("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join(lines)


def markdown_report(report: Mapping[str, Any]) -> str:
    """The tables of a report: conventions, all volumes and every centre against the DWI, the clean DWI, the strata."""
    groups = group_names(report)
    whole = [group for group in groups if group == "all" or group.startswith("centre")]
    parts = [
        f"Digital phantom, not patients. Network: {report['network']}. Conventions: {report['conventions']}.",
        _AUC_WORDS,
    ]
    for group in whole:
        figures = report["methods"]["jmmda"][group]
        count, sick = figures["n_volumes"], figures["n_lesion_volumes"]
        parts.append(f"### Phantom, {group}: {count} unseen volumes, {sick} with a lesion")
        parts.append(markdown_table(HEADINGS, _worded(report_lines(report, group))))
    parts.append("### Phantom, all, against the clean DWI (no noise, bias, ghost or misregistration)")
    parts.append(markdown_table(HEADINGS, _worded(report_lines(report, "all", "dwi_clean"))))
    parts.append("### Phantom, by HU drop, volume and kind of the lesion")
    parts.append(markdown_table(STRATA_HEADINGS, stratum_lines(report, [g for g in groups if g not in whole])))
    parts.append(_frame_words(report["methods"]["jmmda"]["all"]))
    return "\n\n".join(parts) + "\n"


def stratum_lines(report: Mapping[str, Any], groups: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows with the columns `STRATA_HEADINGS`; a control that the report lacks shows a dash."""
    rows: list[tuple[str, ...]] = []
    for group in groups:
        ours = report["methods"]["jmmda"][group]
        place = report["methods"].get("mean_image", {}).get(group)
        rows.append(
            (
                group,
                str(ours["n_lesion_volumes"]),
                _interval(ours["lesion_auc_pooled"], 2),
                _interval(ours["lesion_auc_per_volume"], 2),
                "-" if place is None else _text(place["lesion_auc_per_volume"]["value"], 2),
                _text(ours["dwi.lesion"]["mse"]["value"], 5),
            )
        )
    return rows


def _frame_words(figures: Mapping[str, Any]) -> str:
    frame = figures["dwi.frame"]
    share = 100.0 * (figures["brain_fraction"] or 0.0)
    return (
        f"Whole frame, only to compare conventions ({share:.0f} % is brain): MSE {_text(frame['mse']['value'], 5)}, "
        f"PSNR {_text(frame['psnr_db']['value'], 2)} dB, SSIM {_text(frame['ssim']['value'], 3)}; "
        f"MSE summed over three channels, the convention that fits JEIT250643: "
        f"{_text(figures['mse_paper_convention'], 5)}. Phantom and patient figures must not be compared."
    )


def _worded(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[METHOD_WORDS.get(row[0], row[0]), *row[1:]] for row in rows]
