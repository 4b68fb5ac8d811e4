"""The report of experiments: every table as Markdown, CSV and LaTeX, its figures, and one page that needs nothing else.

Tables are written first and need no further package; figures need Matplotlib, the page Jinja2.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.experiments.figures import Picture, pictures_of
from train.experiments.latex import latex_table
from train.experiments.layout import Grid, TableScores
from train.experiments.pages import Chapter, Section, file_stem, markdown, opening_of, write_pages
from train.experiments.pooling import RowScores
from train.experiments.records import Experiment, Scores
from train.experiments.statistics import Comparison
from train.experiments.tables import PAPER_METRICS, gather, grids, paper_figures

_TEMPLATES = Path(__file__).parent.parent / "templates"
#: Columns of the CSV files, which have every figure in full precision; an empty cell does not exist.
CSV_COLUMNS = (
    *("experiment", "table", "data", "mark", "method", "trained_on", "tested_on", "mask", "oracle"),
    *("noise_hu", "shift_mm", "rotation_deg", "seeds", "metric", "mean", "sd", "n_slices"),
    *("patient_mean", "patient_sd", "n_patients", "seed_sd", "low", "high", "paper_mean", "paper_sd", "paper_p"),
    *(
        f"{unit}_{figure}"
        for unit in ("patients", "slices")
        for figure in ("difference", "low", "high", "p", "p_holm", "effect", "n")
    ),
)
#: Figures of `Scores.summary` in the CSV files, by their path.
_POOLED = (
    ("lesion_auc_pooled",),
    ("lesion_auc_per_volume",),
    *(("contrast", name) for name in ("prediction", "measured", "difference")),
)


def write_report(
    experiments: Sequence[Experiment],
    book: Mapping[tuple[str, str], Scores],
    folder: Path,
    *,
    mark: str,
    source: str,
    facts: Mapping[str, str],
) -> list[Path]:
    """Write tables, figures and the page of experiments.

    Parameters
    ----------
    experiments : sequence of Experiment
        In the order of the page.
    book : Mapping
        (key of a training or control, key of a test set) -> scores; rows that are not in it show dashes.
    folder : Path
        Gets ``index.html``, a folder an experiment with ``TABLE.md``, ``.csv``, ``.tex`` and figures, and the folder
        ``pages`` (`train.experiments.pages`).
    mark : str
        What every table has to say of the budget; when it is not empty, nothing is ranked and no p is printed.
    source : str
        ``phantom``, or the archive in words.
    facts : Mapping[str, str]
        What else the page says of how it was made.

    Returns
    -------
    list of Path
        Everything that was written, the page first.

    Raises
    ------
    ImportError
        When Matplotlib or Jinja2 is not installed; the tables are there by then.
    """
    data = "Phantom" if source == "phantom" else f"Patients ({source})"
    written: list[Path] = []
    printed: dict[str, list[_Printed]] = {}
    for one in experiments:
        tables = [gather(table, book, data=data, mark=mark) for table in one.tables]
        printed[one.name] = [_Printed(one.name, table, tuple(grids(table))) for table in tables]
        written += [path for table in printed[one.name] for path in table.write(folder)]
    chapters = []
    for one in experiments:
        drawn = [(table, tuple(pictures_of(table.scored))) for table in printed[one.name]]
        written += [path for table, pictures in drawn for path in table.write_pictures(folder, pictures)]
        sections = tuple(table.section(pictures) for table, pictures in drawn)
        chapters.append(Chapter(one.name, one.title, sections))
    page = _write(folder / "index.html", _page(chapters, data=data, mark=mark, facts=facts))
    pages = write_pages(chapters, folder / "pages", opening=opening_of(data, mark), facts=facts)
    return [page, *written, *pages]


@dataclass(frozen=True, slots=True)
class _Printed:
    """A table of an experiment and its grids, which go to several files and to the page."""

    experiment: str
    scored: TableScores
    grids: tuple[Grid, ...]

    @property
    def stem(self) -> str:
        """Its files below the folder of the report, without ending."""
        return f"{file_stem(self.experiment)}/{file_stem(self.scored.table.key)}"

    def write(self, folder: Path) -> list[Path]:
        """Write what needs no further package."""
        return [
            _write(folder / f"{self.stem}.md", markdown(self.grids)),
            _write(folder / f"{self.stem}.csv", csv_text(self.experiment, self.scored)),
            _write(folder / f"{self.stem}.tex", "\n".join(latex_table(grid) for grid in self.grids)),
        ]

    def write_pictures(self, folder: Path, pictures: Sequence[Picture]) -> list[Path]:
        """Write its figures."""
        return [_write(folder / f"{self.stem}-{picture.name}.png", picture.png) for picture in pictures]

    def section(self, pictures: Sequence[Picture]) -> Section:
        """What the page shows of it."""
        files = tuple((ending, f"{self.stem}.{ending}") for ending in ("md", "csv", "tex"))
        return Section(self.scored.table.title, self.stem, self.grids, tuple(pictures), files)


def _write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def _inline(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")


def csv_text(experiment: str, scored: TableScores) -> str:
    """Every figure of a table, a line a row and metric."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in scored.rows:
        test = row.row.test
        facts = {
            "experiment": experiment,
            "table": scored.table.key,
            "data": scored.data,
            "mark": scored.mark,
            "method": row.row.label,
            "trained_on": "+".join(row.row.centres),
            "tested_on": "+".join(test.centres),
            "mask": test.mask,
            "oracle": "yes" if test.is_oracle else "no",
            "noise_hu": _cell(test.noise_hu),
            "shift_mm": _cell(test.shift_mm),
            "rotation_deg": _cell(test.rotation_deg),
            "seeds": str(len(row.scores)),
        }
        writer.writerows(facts | line for line in (*_metric_lines(scored, row), *_pooled_lines(row)))
        if not row.scores:
            writer.writerow(facts)
    return stream.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.8g}"


def _metric_lines(scored: TableScores, row: RowScores) -> Iterator[dict[str, str]]:
    """Every metric of a row, with the paper's figure and the comparison where there is one."""
    printed = paper_figures(scored.table, row.row.paper)
    for name in row.metrics:
        figure = row.figure(name)
        line = {
            "metric": name,
            "mean": _cell(figure.mean),
            "sd": _cell(figure.sd),
            "n_slices": str(figure.n),
            "patient_mean": _cell(figure.patient_mean),
            "patient_sd": _cell(figure.patient_sd),
            "n_patients": str(figure.n_patients),
            "seed_sd": _cell(figure.seed_sd),
        }
        if name in PAPER_METRICS:
            mean, sd, p = printed[name]
            line |= {"paper_mean": _cell(mean), "paper_sd": _cell(sd), "paper_p": "" if scored.mark else p or ""}
        compared = scored.comparison(name.partition(".")[0], row, name)
        yield line | (_comparison_cells(compared) if compared else {})


def _comparison_cells(compared: Comparison) -> dict[str, str]:
    cells: dict[str, str] = {}
    for unit, level in (("patients", compared.patients), ("slices", compared.slices)):
        cells |= {
            f"{unit}_difference": _cell(level.difference.value),
            f"{unit}_low": _cell(level.difference.low),
            f"{unit}_high": _cell(level.difference.high),
            f"{unit}_p": _cell(level.test.p),
            f"{unit}_p_holm": _cell(level.p_holm),
            f"{unit}_effect": _cell(level.test.effect),
            f"{unit}_n": str(level.test.n),
        }
    return cells


def _pooled_lines(row: RowScores) -> Iterator[dict[str, str]]:
    """Figures of lesions that were pooled over volumes."""
    detectors = {
        ("detection", detector, *path)
        for detector, figures in row.summary("detection").items()
        for name in figures
        for path in ([("rate", size) for size in figures["rate"]] if name == "rate" else [(name,)])
    }
    for path in (*_POOLED, *sorted(detectors)):
        figure = row.pooled(*path)
        if not math.isnan(figure.value):
            yield {
                "metric": ".".join(path),
                "mean": _cell(figure.value),
                "seed_sd": _cell(figure.seed_sd),
                "low": _cell(figure.low),
                "high": _cell(figure.high),
            }


def _page(chapters: Sequence[Chapter], *, data: str, mark: str, facts: Mapping[str, str]) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("the page needs Jinja2: pip install 'jmmda-node[train]'") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    template = environment.get_template("experiments.html.j2")
    return template.render(
        chapters=chapters, data=data, opening=opening_of(data, mark), facts=facts, spans=_spans, inline=_inline
    )


def _spans(grid: Grid) -> list[tuple[str, int]]:
    """Shared headings of neighbouring columns, with the number of columns; nothing when there are none."""
    if not any(column.group for column in grid.columns):
        return []
    spans: list[tuple[str, int]] = []
    for column in grid.columns:
        same = bool(spans) and spans[-1][0] == column.group
        spans = [*spans[:-1], (column.group, spans[-1][1] + 1)] if same else [*spans, (column.group, 1)]
    return spans
