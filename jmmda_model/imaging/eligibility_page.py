"""docs/eligibility.md, written from the codes, figures and limits of the eligibility check.

``python -m jmmda_model.imaging.eligibility_page`` prints the page; ``make docs`` writes it, and a test compares
the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Final

from jmmda_model.eligibility_codes import CODES, FIGURES, EligibilityCode, EligibilityLimits
from jmmda_model.imaging import eligibility as rules

__all__ = ["main", "render"]

_HEAD: Final = """\
# Is there a brain?

<!-- Written by `make docs` from jmmda_model/eligibility_codes.py and jmmda_model/imaging/eligibility*.py. -->

After the geometry gate (docs/geometry.md) the worker builds the brain mask and asks whether what it found is a brain,
and a whole one. The series is then refused with a code and figures, or processed. What is unusual but no reason to
refuse becomes a quality flag.

A refusal shows as state `REFUSED` with code, sentence and all figures in `jmmda-node series show UID`, in the ledger's
history and in the output of `jmmda-node synthesize FOLDER OUT` (exit code 3; `--json`: key `refused`). A quality flag
stands

- as a plain sentence in DerivationDescription and ImageComments of every image of the result,
- as a code in the JSON text of the private block,
- as code and sentence in `jmmda-node series show UID` and in the report of `jmmda-node synthesize FOLDER OUT`, with
  `--json` too (keys `quality_flags` and `quality`),
- with the figures in the job's record (`job.json`) and in the history of the series.

SeriesDescription and pixels stay as they are: lists truncate the one, and the other is for what the image is.
"""
_TAIL: Final = """\
## What it cannot see

- An anthropomorphic phantom with structured filling of brain density inside a skull of bone density passes as a brain.
- Contrast agent is the choice's business (docs/selection.md); dense vessels may raise `hyperdense`.
- Thin sheets of blood (a subdural of a few mm, subarachnoid) and small bleeds stay unflagged.
- Without an age in the header only small heads with thin skulls count as children; school children do not.
- A head without a strip at its side, blackened instead of cut by the image, counts as `open_skull` while its
  sections stay wider than half a head.
- A bone flap that was put back closes the vault: no flag.
- After a refusal `jmmda-node series retry UID` judges again, with the limits that are in force then.
"""
#: What stands beside the limits, each by the name of its constant.
_FIXED: Final = (
    "BRAIN_MEDIAN_HU",
    "SMALLEST_SECTION_CM2",
    "SPREAD_HU",
    "LARGEST_FAT_SHARE",
    "LEAST_SKULL_HU",
    "LARGEST_OPEN_SHARE",
    "LARGEST_IRREGULARITY",
    "LARGEST_SLAB_IRREGULARITY",
    "HALF_ROUNDNESS",
    "CYLINDER_RATIO",
    "CYLINDER_MM",
    "CUT_NOTED_SHARE",
    "TURNED_DEG",
    "TURNED_ROUNDNESS",
    "BLOOD_HU",
    "NEAR_METAL_MM",
    "FAR_METAL_ML",
    "CHILD_LENGTH_MM",
    "CHILD_SKULL_MM",
)


def render() -> str:
    """Write the page."""
    columns = ("code", "seen", "told to the reader", "what to do", "limits", "figures")
    blocks = [_HEAD]
    for title, refuses in (("Refusals", True), ("Quality flags", False)):
        rows = (_row(code) for code in CODES.values() if code.refuses is refuses)
        blocks.append(f"## {title}\n\n{_table(columns, rows)}")
    blocks.append("## Figures\n\n" + _table(("figure", "meaning"), ((f"`{k}`", v) for k, v in FIGURES.items())))
    blocks.append("## Limits\n\nSection `[eligibility]` of node.toml; used from the next job on.\n\n" + _limits())
    fixed = ((f"`{name}`", str(getattr(rules, name))) for name in _FIXED)
    text = "Anatomy, not policy: constants of `jmmda_model.imaging.eligibility`, with their reasons there.\n\n"
    blocks.append("## Fixed thresholds\n\n" + text + _table(("constant", "value"), fixed))
    blocks.append(_TAIL)
    return "\n".join(blocks)


def main() -> None:
    """Print the page."""
    sys.stdout.write(render())


def _row(code: EligibilityCode) -> Sequence[str]:
    return f"`{code.code}`", code.seen, code.words, code.advice, _names(code.limits), _names(code.figures)


def _limits() -> str:
    rows = ((f"`{one.name}`", f"{one.default:g}", str(one.metadata["meaning"])) for one in fields(EligibilityLimits))
    return _table(("key", "default", "meaning"), rows)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
