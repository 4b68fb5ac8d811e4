"""What is wrong with a settings file: every fault with file, line, key and reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dicom_node.errors import Permanent


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a settings file.

    Attributes
    ----------
    file : str
        Path of the file as it was given.
    line : int
        Line number from 1; 0 when the fault has no line (the file cannot be read).
    key : str
        Dotted key with array indices from 0 (``peers[1].port``); empty for a syntax error.
    reason : str
        What is wrong and, where known, what was probably meant.
    """

    file: str
    line: int
    key: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (f"{self.file}:{self.line}", self.key, self.reason) if part)


class SettingsError(Permanent):
    """Raise this when settings cannot be used; it carries all faults, not only the first.

    Parameters
    ----------
    faults : Iterable[Fault]
        At least one fault.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults: tuple[Fault, ...] = tuple(faults)
        super().__init__("settings", "\n".join(str(fault) for fault in self.faults))

    def __str__(self) -> str:
        return self.reason
