"""docs/bad-input.md, written from the tables that the tests hold the node to.

``python -m tests.dicom_node.bad_input.page`` prints the page; ``make docs`` writes it, and a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from tests.dicom_node.bad_input.case_table import Case
from tests.dicom_node.bad_input.damaged_cases import DAMAGED
from tests.dicom_node.bad_input.header_cases import HEADERS
from tests.dicom_node.bad_input.late_cases import LATE
from tests.dicom_node.bad_input.long_cases import LONG
from tests.dicom_node.bad_input.pixel_cases import PIXELS, UNDECODABLE
from tests.dicom_node.bad_input.real_data import REAL
from tests.dicom_node.bad_input.series_cases import SERIES
from tests.dicom_node.bad_input.transfer_cases import TRANSFER

TABLES: Final = (TRANSFER, DAMAGED, LATE, SERIES, LONG, HEADERS, PIXELS, UNDECODABLE)

_HEAD: Final = """\
# Bad input

<!-- Written by `make docs` from tests/dicom_node/bad_input; change it there. -->

What a hospital sends is not always a clean series. Each row below is sent to a real node by a test, which holds the
node to it: what the sender hears, where each series ends and with which code, that nothing which was acknowledged is
lost, and that a good study on a new association still gets through.

- `0x0000` means that the instance is on disk. `0xA700` asks the sender to come again; `0xA900` and `0xC000` tell it not
  to. What cannot be identified was acknowledged all the same and is kept in `spool/quarantine`, with its reason in
  `quarantine.jsonl` beside it.
- `QUEUED` means that the series is on its way to the worker. `SKIPPED`, `REFUSED` and `FAILED` are ends with a code;
  `jmmda-node series show UID` tells the reason with its figures. More slices open a series again from any end.
- Codes of the choice are explained in [selection.md](selection.md), codes of the geometry gate in
  [geometry.md](geometry.md).
"""
_COLUMNS: Final = ("what arrives", "what the node does", "answer, state and code", "what to do")
_REAL: Final = """\
## Public test images

The folders that `JMMDA_TEST_DATA` names, through `jmmda-node synthesize FOLDER OUT`:

"""


def render() -> str:
    """Write the page."""
    blocks = [_HEAD]
    blocks += [f"## {one.title}\n\n{_table(_COLUMNS, map(_row, one.cases.values()))}" for one in TABLES]
    columns = ("folder", "holds", "choice", "geometry gate", "end")
    blocks.append(_REAL + _table(columns, (_real_row(name) for name in REAL)))
    return "\n".join(blocks)


def main() -> None:
    """Print the page."""
    sys.stdout.write(render())


def _row(case: Case) -> Sequence[str]:
    return case.arrives, case.does, case.outcome, case.advice


def _real_row(name: str) -> Sequence[str]:
    folder = REAL[name]
    choice = ", ".join(f"{number}: `{code}`" for number, code in folder.series.items())
    notes = f" ({', '.join(f'`{note}`' for note in folder.notes)})" if folder.notes else ""
    end = folder.end if " synthetic " in folder.end else f"`{folder.end}`"
    return f"`{name}`", folder.holds, choice, f"{folder.gate or ''}{notes}", end


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
