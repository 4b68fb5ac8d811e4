"""docs/selection.md, written from the rules, the score and the settings themselves; `make docs` runs this module.

A test compares the page with what `render` gives, so that it cannot fall behind the code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from dicom_node.dicom.choice import BETTER_LATER, CHOSEN, NOT_PREFERRED
from dicom_node.dicom.choice_rules import RULES
from dicom_node.dicom.choice_score import TERMS
from dicom_node.dicom.rules import BetterSeriesLater, SelectionSettings

__all__ = ["render"]

_HEAD: Final = """\
# Which series is processed

<!-- Written by `python -m dicom_node.dicom.choice_page` from the code; `make docs` renews it. Do not edit. -->

A study is decided once all of its series are complete and nothing has arrived for `intake.study_quiet_s`. Then one of
its series is chosen, or none, and every other one gets a code and a reason.

1. Every series is asked the rules below, in this order, over all of its instances. The first rule that objects rules
   it out. What a header does not tell rules nothing out, except where a `require_` list asks for it.
2. What is left is scored. The highest score wins; equal scores are decided by the lower SeriesNumber, then by the
   SeriesInstanceUID, so the order of arrival never matters.
3. The chosen series goes through the geometry gate, which passes, repairs or refuses it with numbers. There is no
   second choice behind a refusal: a series that the gate would refuse loses the points for geometry, so it is chosen
   only when nothing better is eligible.

The node and `synthesize` run the same code and print the same table: `jmmda-node series show UID` for a study that the
node has received (UID of the study or of any of its series), `jmmda-node synthesize FOLDER --explain` for a folder.
Reasons name the words and limits of the settings, never the text of a header.
"""

_WORDS: Final = """\
Words are looked for at the beginning of a word and without regard to case; a word of three letters or fewer must be a
whole word. `exclude_kernel` and `require_kernel` are regular expressions. ImageType is compared value by value.
"""

_OTHER_CODES: Final = {
    CHOSEN: "the best of the eligible series",
    NOT_PREFERRED: "eligible, but another one scores higher",
    BETTER_LATER: "better than the chosen series, but complete only after the decision",
    "better_series_took_over": "was chosen first; a better series came later and took its place",
    "loop_guard": "a result of this or another node came back; it is stored and never judged",
    "not_judged": "still being received, or the study is not decided yet",
}

_LATER: Final = {
    BetterSeriesLater.REPORT: "The late series ends SKIPPED with the code `better_series_late`, and an event of that"
    " name is recorded. The study keeps its one result. `jmmda-node series retry UID --new` takes the late series all"
    " the same.",
    BetterSeriesLater.SUPERSEDE: "The late series goes through the geometry gate. If it passes, it is queued, the first"
    " result becomes SUPERSEDED and is named in the new DerivationDescription, what was still to be sent of it is not"
    " sent any more, and the first series ends SKIPPED with the code `better_series_took_over`. If it is refused, the"
    " first result stays.",
}

_LATER_HEAD: Final = """\
## A better series that comes after the decision

A series that is complete only after the study was decided is compared with the chosen one. Where the study has no
result (nothing was chosen, or the chosen series was refused) it is decided again. Where it has one, a series that loses
ends SKIPPED with its reason, and a series that wins is treated as `better_series_later` says. There are never two live
results of one study.
"""


def render() -> str:
    """Write the page.

    Returns
    -------
    str
        Markdown, with a line break at the end.
    """
    parts = [_HEAD, _rules(), _WORDS, _score(), _LATER_HEAD, _later(), _settings()]
    return "\n".join(parts)


def _rules() -> str:
    rows = [
        (str(number), f"`{code}`", meaning, _names(rule.settings))
        for number, rule in enumerate(RULES, start=1)
        for code, meaning in rule.codes.items()
    ]
    others = [("", f"`{code}`", meaning, "") for code, meaning in _OTHER_CODES.items()]
    head = ("rule", "code", "meaning", "settings of `[selection]`")
    return "\n".join(["## Rules and codes", "", *_table(head, [*rows, *others]), ""])


def _score() -> str:
    rows = [(f"`{name}`", term.meaning, _weights(term.settings)) for name, term in TERMS.items()]
    return "\n".join(["## Score", "", *_table(("term", "points", "settings and defaults"), rows), ""])


def _later() -> str:
    default = SelectionSettings().better_series_later
    rows = [(f"`{p.value}`" + (" (default)" if p is default else ""), text) for p, text in _LATER.items()]
    return "\n".join([*_table(("`better_series_later`", "what happens"), rows), ""])


def _settings() -> str:
    rows = []
    for name, field in SelectionSettings.model_fields.items():
        rows.append((f"`{name}`", _value(name), field.description or ""))
    return "\n".join(["## Every setting of `[selection]`", "", *_table(("key", "default", "meaning"), rows), ""])


def _names(settings: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in settings)


def _weights(settings: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" + (f" {_value(name)}" if name != "prefer_description" else "") for name in settings)


def _value(name: str) -> str:
    value = getattr(SelectionSettings(), name)
    if value is None:
        return "none"
    return "`" + json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False) + "`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _line(head)
    yield _line(["---"] * len(head))
    yield from (_line(row) for row in rows)


def _line(cells: Sequence[str]) -> str:
    # A bar inside a cell would end it.
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(render())
