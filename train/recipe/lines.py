"""Lines of a TOML file by dotted key, which `tomllib` does not tell."""

from __future__ import annotations

import re

_HEADER = re.compile(r"^\s*(\[\[?)\s*([\w.\-]+)\s*\]\]?")
_KEY = re.compile(r"^\s*([\w.\-]+)\s*=")
_TRIPLE = re.compile(r'"""|\'\'\'')


def line_numbers(text: str) -> dict[str, int]:
    r"""Map dotted keys to the line that sets them, counted from 1.

    Keys of inline tables are not listed: what is wrong in one is reported at the key that holds it.

    Examples
    --------
    >>> line_numbers('name = "x"\n[[stages]]\nsteps = 5\n')
    {'name': 1, 'stages[0]': 2, 'stages[0].steps': 3}
    """
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    in_string = False
    for number, line in enumerate(text.splitlines(), start=1):
        starts_in_string, in_string = in_string, in_string ^ (len(_TRIPLE.findall(line)) % 2 == 1)
        if starts_in_string:
            continue
        if header := _HEADER.match(line):
            prefix = header.group(2)
            if header.group(1) == "[[":
                index = counts.get(prefix, 0)
                counts[prefix] = index + 1
                prefix = f"{prefix}[{index}]"
            lines.setdefault(prefix, number)
        elif key := _KEY.match(line):
            dotted = f"{prefix}.{key.group(1)}" if prefix else key.group(1)
            lines.setdefault(dotted, number)
    return lines
