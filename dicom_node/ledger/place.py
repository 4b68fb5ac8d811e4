"""Where an error came from, for a log line or a reason: its class and place, never its text."""

from __future__ import annotations

import traceback
from pathlib import Path


def place_of(error: BaseException) -> str:
    """Return class and place of an error without its text, which may quote a header.

    Examples
    --------
    >>> place_of(ValueError("Doe^Jane"))
    'ValueError'
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
