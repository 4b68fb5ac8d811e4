"""docs/geometry.md, written from the rules, codes, figures and thresholds of the geometry gate.

``python -m dicom_node.dicom.gate_page`` prints the page; ``make docs`` writes it, and a test compares the two.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from dicom_node.dicom.gate_codes import CODES, FIGURES, GateCode, GateStatus
from dicom_node.dicom.gate_rules import RULES
from dicom_node.dicom.rules import GeometrySettings

__all__ = ["main", "render"]

_HEAD: Final = """\
# The geometry gate

<!-- Written by `make docs` from dicom_node/dicom/gate_*.py and rules.py; change it there. -->

The series that was chosen passes this gate before anything is computed from it. Geometry comes from
ImagePositionPatient and ImageOrientationPatient alone; GantryDetectorTilt, SliceLocation, SpacingBetweenSlices and the
order of InstanceNumber are never used to compute. `jmmda-node synthesize FOLDER --explain` shows what the gate says of
a folder, `jmmda-node series show UID` what it said of a series that was received.

| outcome | meaning |
| --- | --- |
| `pass` | processed, nothing to say |
| `note` | processed; the notes stand in the record of the result |
| `repair` | processed after something was left out, which a note names |
| `refuse` | not processed: state `REFUSED` with code, reason, figures and the slices concerned |

The first refusal ends the walk; notes made before it are kept. The outcome never depends on the order in which the
instances arrived.

## No finding at all

Feet first, prone, decubitus (quarter turns and mirrorings are undone for the network and restored on the way back),
InstanceNumbers in any order or missing, a stack numbered from the feet or from the head, a matrix that is not square,
any position of the patient in the frame of reference.
"""
_TITLES: Final = {
    GateStatus.REFUSE: ("Refusals", "what follows"),
    GateStatus.REPAIR: ("Repairs", "what was done"),
    GateStatus.NOTE: ("Notes", "what follows"),
}
_TAIL: Final = """\
## After the gate

The worker sees every voxel and refuses with `no_brain`, `fov` or `thickness` where the gate could not know; a file that
does not decode ends the job with `pixel_data`. The notes `vertex_cut_off` and `base_cut_off` come from single slices;
the brain mask's own flag `cut_off_scan` comes from the whole volume.
"""


def render() -> str:
    """Write the page."""
    blocks = [_HEAD]
    for status, (title, done) in _TITLES.items():
        codes = [code for code in CODES.values() if code.status is status]
        header = ("code", "seen", done, "settings", "figures")
        blocks.append(f"## {title}\n\n{_table(header, (_code_row(code) for code in codes))}")
    blocks.append("## The walk\n\nThe rules, in their order:\n\n" + "".join(_walk()))
    blocks.append("## Figures\n\n" + _table(("figure", "meaning"), ((f"`{k}`", v) for k, v in FIGURES.items())))
    blocks.append("## Thresholds\n\nSection `[geometry]` of node.toml.\n\n" + _thresholds())
    blocks.append(_TAIL)
    return "\n".join(blocks)


def main() -> None:
    """Print the page."""
    sys.stdout.write(render())


def _code_row(code: GateCode) -> Sequence[str]:
    return f"`{code.code}`", code.seen, code.done, _names(code.settings), _names(code.figures)


def _walk() -> Iterable[str]:
    for number, rule in enumerate(RULES, start=1):
        yield f"{number}. {(rule.__doc__ or '').strip().splitlines()[0]}\n"


def _thresholds() -> str:
    rows = (
        (f"`{key}`", json.dumps(field.default), field.description or "")
        for key, field in GeometrySettings.model_fields.items()
    )
    return _table(("key", "default", "meaning"), rows)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
