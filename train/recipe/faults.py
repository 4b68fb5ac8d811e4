"""What is wrong in a recipe file: one fault a line, all faults in one exception."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a recipe file; prints as ``FILE:LINE: key: reason``."""

    file: str
    line: int
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key}: {self.reason}"


class RecipeError(ValueError):
    """Raised when a recipe file is not usable; `faults` lists everything found wrong in one go."""

    code = "recipe"

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults: tuple[Fault, ...] = tuple(faults)

    @property
    def reason(self) -> str:
        """All faults, one a line."""
        return str(self)


def unknown_word(word: str, known: Collection[str]) -> str:
    """What follows "unknown ...": the nearest known word, or all of them.

    Examples
    --------
    >>> unknown_word("stepps", ("steps", "batch"))
    'did you mean steps?'
    >>> unknown_word("x", ("steps", "batch"))
    'known here: batch, steps'
    """
    near = difflib.get_close_matches(word.casefold(), known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
