"""Tables of an experiment as grids of cells, built once for Markdown, LaTeX and HTML; no figure is copied by hand.

The brain is the primary region. The whole frame, whose black background flatters every method, stands beside the
figures of JEIT250643 in the convention that fits them. Where a budget is only a check of the pipeline, it has a mark:
then p-values, effect sizes and the best of a column are left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from train.evaluation.groups import SIZES
from train.evaluation.targets import MEASURED
from train.experiments.layout import DASH, Column, Grid, TableScores, mean_sd, pooled_text, text
from train.experiments.paper import TABLES, PaperRow
from train.experiments.pooling import RowScores, paired, row_scores
from train.experiments.records import Scores, Table
from train.experiments.statistics import Level, compare_methods, p_text
from train.report_tables import METRIC_WORDS

#: Metrics in the printed tables; files have all.
IMAGE_METRICS = ("mse", "psnr_db", "ssim")
#: Metrics of the frame that stand beside the paper's -> those that are compared, which differ by a factor at most.
PAPER_METRICS: Mapping[str, str] = {
    "frame.mse_paper": "frame.mse",
    "frame.psnr_db": "frame.psnr_db",
    "frame.ssim": "frame.ssim",
}
_WORDS: Mapping[str, tuple[str, int]] = {
    **METRIC_WORDS,
    "mse_paper": ("3 x MSE", 4),
    "r": ("r", 3),
    "spearman": ("Spearman", 3),
    "ccc": ("CCC", 3),
    "slope": ("slope", 3),
}
#: Figures of a detector after its rates -> digits.
_DETECTION: Mapping[str, int] = {
    "dice_per_volume": 2,
    "sensitivity": 2,
    "volume_error_ml": 1,
    "false_ml_per_lesion_free_slice": 2,
    "false_ml_per_lesion_free_volume": 1,
}
_OTHER_R = re.compile(r"superpixel_\d+\.r")
_NO_ROW = PaperRow(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
_AGAINST = "against the measured DWI"
_PAPER_WORDS = (
    "3 x MSE: squared error summed over three equal channels, the convention that fits JEIT250643. Its images are "
    "others, and private: values must not be compared with those here"
)
_EFFECT_WORDS = (
    "Effect: matched-pairs rank-biserial correlation, 1 when ours is the larger in every pair. Patients are the "
    "primary unit, because slices of a patient are not independent."
)
_LESION_WORDS = (
    "In brackets: 95 % interval, bootstrap over volumes. AUC: chance that a lesion voxel is brighter than other brain; "
    "knowing where lesions tend to lie is enough for more than 0.5. Contrast: mean in the lesion over the mean at the "
    "mirrored place, 1 is none."
)
_DETECTION_WORDS = (
    "A lesion is a connected component of at least 0.05 ml; it is detected when a tenth of its voxels is marked. In "
    "brackets: 95 % interval, bootstrap over volumes."
)


def gather(table: Table, book: Mapping[tuple[str, str], Scores], *, data: str, mark: str) -> TableScores:
    """Collect what the rows of a table scored, and compare ours with every other row unless there is a mark.

    Parameters
    ----------
    table : Table
        Its rows name what to look up.
    book : Mapping
        (key of a training or control, key of a test set) -> scores.
    data, mark : str
        See `TableScores`.
    """
    rows = tuple(row_scores(row, book) for row in table.rows)
    ours = next((row for row in rows if row.row.label == table.ours and row.scores), None)
    others = [row for row in rows if row is not ours and row.row.control != MEASURED]
    families = {}
    if not mark and ours is not None and others:
        for name, metrics in _families(table).items():
            known = [metric for metric in metrics if metric in ours.metrics]
            if known:
                # Rows without scores have no p and still count: the size of a family does not depend on what failed.
                values = {row.row.label: paired(row, ours, known) for row in others}
                families[name] = compare_methods(paired(ours, ours, known), values)
    return TableScores(table, rows, data, mark, families)


def _families(table: Table) -> dict[str, list[str]]:
    """Metrics whose p-values are adjusted together."""
    regions = ("brain", "frame") if "image" in table.shows else ()
    families = {region: [f"{region}.{name}" for name in IMAGE_METRICS] for region in regions}
    return families | ({"superpixel": ["superpixel.r"]} if "superpixel" in table.shows else {})


def grids(scored: TableScores) -> Iterator[Grid]:
    """Every grid of a table, in the order of the page."""
    shows = scored.table.shows
    if "image" in shows:
        yield _image_grid(scored, "brain", f"brain, {_AGAINST}", ())
        if scored.table.paper:
            yield _paper_grid(scored)
        else:
            yield _image_grid(scored, "frame", f"whole frame, {_AGAINST}", (_brain_share(scored),))
    if "superpixel" in shows:
        yield from _superpixel_grids(scored)
    if scored.families:
        yield _comparison_grid(scored)
    if "lesion" in shows:
        yield _lesion_grid(scored)
        yield from _detection_grids(scored)


def _words(metric: str) -> tuple[str, int]:
    """Heading and digits of ``REGION.METRIC``."""
    return _WORDS[metric.rpartition(".")[2]]


def _p(scored: TableScores, family: str, row: RowScores, metric: str, *, patients: bool) -> str:
    """Print p on patients after Holm or on slices as it is; a dash for ours and for rows that are not compared."""
    found = scored.comparison(family, row, metric)
    if found is None or not row.scores:
        return DASH
    return p_text(found.patients.p_holm if patients else found.slices.test.p)


def _spread_grid(
    scored: TableScores, family: str, metrics: Sequence[str], part: str, notes: Sequence[str], *, ranked: bool = True
) -> Grid:
    """Mean ± sd of metrics over slices and over patients, with p where a metric was compared."""
    compared = {c.metric for c in scored.families[family].comparisons} if family in scored.families else set()
    columns, best = [Column("method")], dict[int, tuple[str, str]]()
    for name in metrics:
        group = _words(name)[0]
        best |= {len(columns): (name, "mean"), len(columns) + 1: (name, "patient_mean")}
        columns += [Column("slices", group), Column("patients", group)]
        columns += [Column("p", group)] if name in compared else []
    rows = []
    for row in scored.rows:
        cells = [scored.label(row)]
        for name in metrics:
            figure, digits = row.figure(name), _words(name)[1]
            cells.append(mean_sd(figure.mean, figure.sd, digits, figure.seed_sd))
            cells.append(mean_sd(figure.patient_mean, figure.patient_sd, digits))
            cells += [_p(scored, family, row, name, patients=True)] if name in compared else []
        rows.append(tuple(cells))
    words = [f"Mean ± standard deviation. {scored.counts(metrics[0])}"]
    if compared:
        words.append("p: Wilcoxon signed-rank test against ours on means of patients, Holm-adjusted.")
    return Grid(
        f"{scored.table.key}-{family}",
        scored.caption(part),
        tuple(columns),
        tuple(rows),
        (*words, *notes, *scored.notes()),
        scored.best(best) if ranked else frozenset(),
        scored.ours,
    )


def _image_grid(scored: TableScores, region: str, part: str, notes: Sequence[str]) -> Grid:
    return _spread_grid(scored, region, [f"{region}.{name}" for name in IMAGE_METRICS], part, notes)


def _brain_share(scored: TableScores) -> str:
    shares = [share for row in scored.scored if not math.isnan(share := row.fact("brain_fraction"))]
    rest = f"Brain is {100.0 * shares[0]:.0f} % of the frame; its" if shares else "The frame's"
    return f"{rest} black rest flatters every figure."


def _superpixel_grids(scored: TableScores) -> Iterator[Grid]:
    """Agreement over superpixels, and r again with other numbers of them."""
    known = {name for row in scored.rows for name in row.metrics if row.figure(name).n}
    first = ["superpixel.r", *(f"superpixel.{name}" for name in ("spearman", "ccc", "slope"))]
    facts = [row.summary("superpixels") for row in scored.scored]
    asked = sorted({str(found["segments"]) for found in facts if found.get("segments")})
    notes = ["Agreement of mean grey over superpixels of the measured DWI; r is averaged over Fisher's z."]
    notes += [f"Superpixels asked for in a slice: {', '.join(asked)}."] if asked else []
    notes += [f"Left out: {reason}." for reason in sorted({str(f["left_out"]) for f in facts if f.get("left_out")})]
    part = "mean grey of superpixels, synthetic against measured DWI"
    shown = [name for name in first if name in known] or first[:1]
    yield _spread_grid(scored, "superpixel", shown, part, notes, ranked=False)
    numbers = sorted(int(name[len("superpixel_") : -len(".r")]) for name in known if _OTHER_R.fullmatch(name))
    if numbers:
        columns = [Column("method"), *(Column(f"{number} superpixels", "r") for number in numbers)]
        rows = []
        for row in scored.rows:
            figures = [row.figure(f"superpixel_{number}.r") for number in numbers]
            rows.append((scored.label(row), *(mean_sd(f.mean, f.sd, 3, f.seed_sd) for f in figures)))
        title = scored.caption(f"{part}, with other numbers of superpixels")
        notes = ["Mean ± standard deviation of r over slices.", *scored.notes()]
        key = f"{scored.table.key}-segments"
        yield Grid(key, title, tuple(columns), tuple(rows), tuple(notes), ours=scored.ours)


def paper_figures(table: Table, label: str | None) -> Mapping[str, tuple[float, float, str | None]]:
    """Each of `PAPER_METRICS` -> mean, standard deviation and p of the paper's row; nan where it has none."""
    found = TABLES.get(table.paper or "", {}).get(label or "", _NO_ROW)
    figures = (
        (found.mse, found.mse_sd, found.p_mse),
        (found.psnr_db, found.psnr_sd, found.p_psnr),
        (found.ssim, found.ssim_sd, found.p_ssim),
    )
    return dict(zip(PAPER_METRICS, figures, strict=True))


def _paper_grid(scored: TableScores) -> Grid:
    """The paper's layout, ours beside the paper's: the whole frame, with p on slices."""
    columns, best = [Column("method")], {}
    for name in PAPER_METRICS:
        group = _words(name)[0]
        best[len(columns)] = (name, "mean")
        columns += [Column("here", group), Column("paper", group)]
        columns += [Column("p here", group), Column("p paper", group)] if scored.families else []
    rows = []
    for row in scored.rows:
        cells, printed = [scored.label(row)], paper_figures(scored.table, row.row.paper)
        for name, compared in PAPER_METRICS.items():
            figure, digits = row.figure(name), _words(name)[1]
            mean, sd, p = printed[name]
            longer = digits if math.isnan(mean) or round(mean, digits) == mean else digits + 1
            cells += [mean_sd(figure.mean, figure.sd, digits, figure.seed_sd), mean_sd(mean, sd, longer)]
            if scored.families:
                cells += [_p(scored, "frame", row, compared, patients=False), p or DASH]
        rows.append(tuple(cells))
    notes = [
        f"Mean ± standard deviation over slices. {scored.counts('frame.mse')}",
        f"{_PAPER_WORDS}{'' if scored.mark else ', only ranks and effects'}.",
        _brain_share(scored),
    ]
    if scored.families:
        notes.append("p: Wilcoxon signed-rank test against ours on slices, not adjusted, as the paper's seem to be.")
    return Grid(
        f"{scored.table.key}-paper",
        scored.caption("whole frame, beside the figures of JEIT250643"),
        tuple(columns),
        tuple(rows),
        (*notes, *scored.notes()),
        scored.best(best),
        scored.ours,
    )


def _level_cells(level: Level) -> tuple[str, ...]:
    effect = DASH if level.test.effect is None else f"{level.test.effect:.2f}"
    return effect, p_text(level.test.p), p_text(level.p_holm), str(level.test.n)


def _comparison_grid(scored: TableScores) -> Grid:
    """Differences with intervals, p-values on patients and slices, and effect sizes, in the primary region."""
    families = [scored.families[name] for name in ("brain", "superpixel") if name in scored.families]
    rows = []
    for found in (comparison for family in families for comparison in family.comparisons):
        heading, digits = _words(found.metric)
        difference = found.patients.difference
        low, high = text(difference.low, digits), text(difference.high, digits)
        rows.append(
            (
                found.method,
                f"{found.metric.partition('.')[0]} {heading}",
                f"{text(difference.value, digits)} ({low} to {high})",
                *_level_cells(found.patients),
                *_level_cells(found.slices),
            )
        )
    columns = [Column("against"), Column("figure"), Column("ours - theirs (95 %)", "patients")]
    columns += [Column(name, unit) for unit in ("patients", "slices") for name in ("effect", "p", "p Holm", "n")]
    facts = families[0].to_json()
    test = f"{facts['test']}. {facts['adjustment']} of a region, patients and slices each by themselves."
    notes = (test, f"Interval: {facts['interval']}.", _EFFECT_WORDS)
    title = scored.caption(f"{scored.table.ours} against every other row")
    return Grid(f"{scored.table.key}-tests", title, tuple(columns), tuple(rows), notes)


def _lesion_grid(scored: TableScores) -> Grid:
    rows = []
    for row in scored.rows:
        inside = [(row.figure(name), _words(name)[1]) for name in ("lesion.mse", "lesion.psnr_db")]
        rows.append(
            (
                scored.label(row),
                *(pooled_text(row.pooled(name), 3) for name in ("lesion_auc_pooled", "lesion_auc_per_volume")),
                *(pooled_text(row.pooled("contrast", key), 2) for key in ("prediction", "measured", "difference")),
                *(mean_sd(figure.mean, figure.sd, digits, figure.seed_sd) for figure, digits in inside),
            )
        )
    columns = [Column("method"), Column("pooled", "lesion AUC"), Column("a volume", "lesion AUC")]
    columns += [Column(name, "contrast") for name in ("synthetic", "measured", "absolute difference")]
    columns += [Column(name, "in the lesion") for name in ("MSE", "PSNR dB")]
    notes = (_LESION_WORDS, *scored.notes())
    key, title = f"{scored.table.key}-lesion", scored.caption(f"lesions, {_AGAINST}")
    return Grid(key, title, tuple(columns), tuple(rows), notes, ours=scored.ours)


def _detection_grids(scored: TableScores) -> Iterator[Grid]:
    """Detection by size of the lesion, a grid a detector."""
    detectors = {name: None for row in scored.rows for name in row.summary("detection")}
    columns = [Column("method"), *(Column(size.removeprefix("lesion "), "detected, lesion") for size in SIZES)]
    columns += [Column("Dice a volume"), Column("sensitivity"), Column("volume error ml")]
    columns += [Column(f"a lesion-free {unit}", "false ml") for unit in ("slice", "volume")]
    for detector in detectors:
        rows = []
        for row in scored.rows:
            cells = [scored.label(row)]
            for size in SIZES:
                count = row.fact("detection", detector, "rate", size, "lesions")
                rate = pooled_text(row.pooled("detection", detector, "rate", size), 2)
                cells.append(rate if math.isnan(count) else f"{rate}, n = {count:.0f}")
            for name, digits in _DETECTION.items():
                cells.append(pooled_text(row.pooled("detection", detector, name), digits))
            rows.append(tuple(cells))
        key, title = f"{scored.table.key}-{detector}", scored.caption(f"lesions found by the {detector} rule")
        yield Grid(key, title, tuple(columns), tuple(rows), (_DETECTION_WORDS, *scored.notes()), ours=scored.ours)
