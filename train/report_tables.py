"""Tables of a held-out report, built once for every format; no figure is copied by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.evaluation.groups import ALL, SIZES, is_whole
from train.evaluation.scoring import METRICS, REGIONS
from train.evaluation.targets import MEASURED, NETWORK

HEADINGS = ("method", "lesion AUC (95 %)", "AUC a volume", "brain MSE", "brain PSNR dB", "brain SSIM", "lesion MSE")
STRATA_HEADINGS = (
    "volumes with",
    "n",
    "lesion AUC pooled (95 %)",
    "AUC a volume (95 %)",
    "same, mean image",
    "lesion MSE",
)

#: What the methods of a report are, in the order of the page.
METHOD_WORDS: Mapping[str, str] = {
    NETWORK: "JMMDA-GAN (our reconstruction)",
    MEASURED: "reference: the measured DWI itself",
    "hu_polynomial": "control: HU polynomial at two scales + depth",
    "hu_lookup": "control: smoothed HU lookup",
    "mean_image": "control: mean training image",
    "constant_in_mask": "control: constant in mask",
    "identity_window": "control: CT window shown as DWI",
    "histogram_match": "control: histogram match",
}
#: Metric -> heading and digits.
METRIC_WORDS: Mapping[str, tuple[str, int]] = {
    "mse": ("MSE", 5),
    "psnr_db": ("PSNR dB", 2),
    "ssim": ("SSIM", 3),
    "ms_ssim": ("MS-SSIM", 3),
    "mae": ("MAE", 4),
    "nrmse": ("NRMSE", 3),
}
AUC_WORDS = (
    "Intervals: bootstrap over volumes, 95 %. AUC: chance that a lesion voxel is brighter than other brain, all "
    "volumes pooled; knowing where lesions tend to lie is enough for more than 0.5, see the mean training image."
)
_DETECTION_WORDS = (
    "A lesion is a connected component of at least 0.05 ml; it is detected when a tenth of its voxels is marked. False "
    "positives are what is marked on slices, and in volumes, without any lesion. The measured DWI is the ceiling."
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title and a note below it."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def is_phantom(report: Mapping[str, Any]) -> bool:
    """Whether everything in a report was measured on phantoms."""
    return bool(report["data"] == "phantom")


def data_words(report: Mapping[str, Any]) -> str:
    """What the figures were measured on, to begin every title with."""
    return "Phantom" if is_phantom(report) else f"Patients ({report['data']})"


def text(value: float | None, digits: int) -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(figure: Mapping[str, Any], digits: int) -> str:
    """A figure with its interval; a dash where it could not be measured."""
    if figure["value"] is None:
        return "-"
    return f"{text(figure['value'], digits)} ({text(figure['low'], digits)}-{text(figure['high'], digits)})"


def _mean_sd(figure: Mapping[str, Any], digits: int) -> str:
    mean = text(figure["mean"], digits)
    return mean if figure["sd"] is None else f"{mean} ± {text(figure['sd'], digits)}"


def group_names(report: Mapping[str, Any]) -> list[str]:
    """Groups of a report in the order in which they are shown."""
    return list(report["methods"][NETWORK])


def method_words(name: str) -> str:
    """What a method is, in words; another network keeps its name."""
    return METHOD_WORDS.get(name, name)


def report_lines(report: Mapping[str, Any], group: str = ALL, truth: str = "dwi") -> list[tuple[str, ...]]:
    """Rows of a table with the columns `HEADINGS`, one a method that has the group; ``truth`` is dwi or dwi_clean."""
    rows: list[tuple[str, ...]] = []
    for name, groups in report["methods"].items():
        if group not in groups or f"{truth}.brain" not in groups[group]:
            continue
        figures = groups[group]
        brain, lesion = figures[f"{truth}.brain"], figures[f"{truth}.lesion"]
        rows.append(
            (
                name,
                interval(figures["lesion_auc_pooled"], 3),
                text(figures["lesion_auc_per_volume"]["value"], 3),
                text(brain["mse"]["value"], 5),
                text(brain["psnr_db"]["value"], 2),
                text(brain["ssim"]["value"], 3),
                text(lesion["mse"]["value"], 5),
            )
        )
    return rows


def stratum_lines(report: Mapping[str, Any], groups: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows with the columns `STRATA_HEADINGS`; a control that the report lacks shows a dash."""
    rows: list[tuple[str, ...]] = []
    for group in groups:
        ours = report["methods"][NETWORK][group]
        place = report["methods"].get("mean_image", {}).get(group)
        rows.append(
            (
                group,
                str(ours["n_lesion_volumes"]),
                interval(ours["lesion_auc_pooled"], 2),
                interval(ours["lesion_auc_per_volume"], 2),
                "-" if place is None else text(place["lesion_auc_per_volume"]["value"], 2),
                text(ours["dwi.lesion"]["mse"]["value"], 5),
            )
        )
    return rows


def tables_of(report: Mapping[str, Any]) -> Iterator[Table]:
    """Every table of a report, in the order of the page."""
    words = data_words(report)
    groups = group_names(report)
    whole = [group for group in groups if is_whole(group)]
    strata = [group for group in groups if not is_whole(group)]
    if report.get("targets"):
        yield _targets(report)
    for group in whole:
        title = f"{words}, {group}: {_count_words(report['methods'][NETWORK][group])}"
        yield Table(title, HEADINGS, _worded(report_lines(report, group)))
    if clean := report_lines(report, ALL, "dwi_clean"):
        title = f"{words}, all, against the clean DWI (no noise, bias, ghost or misregistration)"
        yield Table(title, HEADINGS, _worded(clean))
    if report.get("mse_to_best_control"):
        yield _ratios(report)
    if strata:
        title = f"{words}, by HU drop, volume and kind of the lesion"
        yield Table(title, STRATA_HEADINGS, tuple(stratum_lines(report, strata)))
    yield from _image_tables(report)
    yield from _lesion_tables(report)


def _count_words(figures: Mapping[str, Any]) -> str:
    words = f"{figures['n_volumes']} unseen volumes, {figures['n_lesion_volumes']} with a lesion"
    unknown = figures.get("n_unknown_volumes", 0)
    return f"{words}, {unknown} without a lesion label" if unknown else words


def _worded(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple((method_words(row[0]), *row[1:]) for row in rows)


def _targets(report: Mapping[str, Any]) -> Table:
    rows = tuple(
        (row["what"], row["group"], row["wanted"], interval(row, 3), "met" if row["met"] else "missed")
        for row in report["targets"]
    )
    trained = ", ".join(report["centres_trained"])
    return Table(
        f"{data_words(report)}, targets of the bundle",
        ("figure", "volumes", "target", "reached (95 %)", ""),
        rows,
        f"Trained on centre {trained}; any other centre is unseen.",
    )


def _ratios(report: Mapping[str, Any]) -> Table:
    rows = tuple(
        (group, interval(ratio, 3), method_words(ratio["control"]), ratio["truth"].replace("_", " "))
        for group, ratio in report["mse_to_best_control"].items()
        if ratio
    )
    headings = ("volumes", "network / control (95 %)", "best control there", "truth")
    return Table(f"{data_words(report)}, brain MSE over that of the best simple control", headings, rows)


def _image_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """Metrics of the network in each region: pooled, and mean and sd over images and over patients."""
    figures = report["methods"][NETWORK][ALL]
    for truth in report.get("truths", ("dwi",)):
        rows = []
        for region in REGIONS:
            part = figures[f"{truth}.{region}"]
            if "per_image" not in part or part["mse"]["value"] is None:
                continue
            kinds = (("per_image", "images"), ("per_patient", "patients"))
            rows.append((region, "pooled", *(interval(part[name], METRIC_WORDS[name][1]) for name in METRICS)))
            for key, unit in kinds:
                spreads = [_mean_sd(part[key][name], METRIC_WORDS[name][1]) for name in METRICS]
                rows.append((region, f"mean ± sd of {part[key]['mse']['n']} {unit}", *spreads))
        if rows:
            against = "the measured DWI" if truth == "dwi" else "the clean DWI"
            headings = ("region", "over", *(METRIC_WORDS[name][0] for name in METRICS))
            yield Table(
                f"{data_words(report)}, network against {against}", headings, tuple(rows), _frame_words(figures)
            )


def _frame_words(figures: Mapping[str, Any]) -> str:
    share = 100.0 * (figures["brain_fraction"] or 0.0)
    return (
        f"Brain is {share:.0f} % of the frame; black background flatters every figure of the whole frame. MSE of the "
        f"frame summed over three channels, the convention that fits JEIT250643: "
        f"{text(figures['mse_paper_convention'], 5)}. Phantom and patient figures must not be compared."
    )


def _lesion_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    methods = {name: groups[ALL] for name, groups in report["methods"].items()}
    contrast = tuple(
        (
            method_words(name),
            *(interval(figures["contrast"][key], 2) for key in ("prediction", "measured", "difference")),
        )
        for name, figures in methods.items()
        if figures["contrast"]["prediction"]["value"] is not None
    )
    if contrast:
        yield Table(
            f"{data_words(report)}, contrast of the lesion against the mirrored side",
            ("method", "prediction (95 %)", "measured DWI (95 %)", "mean absolute difference (95 %)"),
            contrast,
            "Mean in the lesion over the mean at the mirrored place, mean over volumes; 1 is no contrast.",
        )
    for detector, words in report.get("detectors", {}).items():
        rows = tuple(
            _detection_row(name, figures["detection"][detector])
            for name, figures in methods.items()
            if detector in figures["detection"]
        )
        if rows:
            headings = (
                "method",
                *(f"detected, {size}" for size in SIZES),
                "Dice a volume (95 %)",
                "sensitivity",
                "volume error ml",
                "false ml a lesion-free slice",
                "false ml a lesion-free volume",
            )
            yield Table(f"{data_words(report)}, lesions found by: {words}", headings, rows, _DETECTION_WORDS)


def _detection_row(name: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    rates = (f"{text(rate['value'], 2)} (n = {rate['lesions']})" for rate in figures["rate"].values())
    return (
        method_words(name),
        *rates,
        interval(figures["dice_per_volume"], 2),
        text(figures["sensitivity"]["value"], 2),
        text(figures["volume_error_ml"]["value"], 1),
        text(figures["false_ml_per_lesion_free_slice"]["value"], 2),
        text(figures["false_ml_per_lesion_free_volume"]["value"], 1),
    )
