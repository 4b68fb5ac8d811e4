"""A held-out report as one HTML page without any outside resource: tables, settings, pictures inline. Needs Jinja2."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from train.evaluation.groups import ALL
from train.evaluation.targets import NETWORK
from train.report import opening_words
from train.report_tables import AUC_WORDS, data_words, is_phantom, method_words, tables_of

if TYPE_CHECKING:
    from train.evaluate import Evaluation

_TEMPLATES = Path(__file__).parent / "templates"


def html_report(evaluation: Evaluation) -> str:
    """Render a report.

    Parameters
    ----------
    evaluation : Evaluation
        Its network predicts the example volumes again.

    Raises
    ------
    ModuleNotFoundError
        Without Jinja2 or Matplotlib.
    """
    import jinja2

    from train.pictures import RULE_WORDS, box_plots, example_pngs

    report, methods = evaluation.report, evaluation.methods
    ratio = report["mse_to_best_control"].get(ALL)
    drawn = [NETWORK, *([ratio["control"]] if ratio else [])]
    plots = box_plots(
        {name: methods[name] for name in drawn}, {name: method_words(name) for name in drawn}, data_words(report)
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        report=report,
        data=data_words(report),
        phantom=is_phantom(report),
        opening=opening_words(report),
        auc_words=AUC_WORDS,
        rule=RULE_WORDS,
        tables=list(tables_of(report)),
        settings={name: _plain(value) for name, value in report["settings"].items()},
        examples=[
            (caption, _inline(png))
            for caption, png in example_pngs(evaluation.cases, methods[NETWORK], evaluation.predictor)
        ],
        plots=_inline(plots),
    )


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "-" if value is None else str(value)


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def write_html(evaluation: Evaluation, path: Path) -> None:
    """Write `html_report` to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html_report(evaluation), encoding="utf-8")
