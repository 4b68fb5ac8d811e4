"""Keep what libraries say about data sets out of the log.

pydicom prints the offending text of an invalid element, pynetdicom's messages quote values, its debug level dumps data
sets, and an exception text may hold either. Any of these can be a patient's name. Their loggers and the warnings are
therefore reduced to where the message came from, how severe it is, and the tags and VRs that it mentions.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import Final, TextIO

_LOGGER = logging.getLogger(__name__)

#: Libraries whose messages may quote data sets.
LIBRARIES: Final = ("pydicom", "pynetdicom", "highdicom")

_TAG = re.compile(r"\([0-9A-Fa-f]{4},\s?[0-9A-Fa-f]{4}\)")
_VR = re.compile(r"\bVR (?:of )?'?([A-Z]{2})\b")


def quiet_libraries(level: int = logging.WARNING) -> None:
    """Install the reduction for this process; calling it again only changes the level.

    Parameters
    ----------
    level : int
        Least severe library message that is still reported, in reduced form.
    """
    logging.captureWarnings(False)
    warnings.showwarning = _show_reduced
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.setLevel(max(level, logging.WARNING))
        library.propagate = False
        library.handlers = [_Reducer()]


def reduced(text: str) -> str:
    """Return the tags and VRs that a message mentions, and nothing else of it.

    Examples
    --------
    >>> reduced("Invalid value for VR DA: 'Mustermann' in (0010,0030)")
    '(0010,0030) VR DA'
    """
    tags = [tag.replace(" ", "") for tag in _TAG.findall(text)]
    return " ".join(dict.fromkeys([*tags, *(f"VR {vr}" for vr in _VR.findall(text))]))


class _Reducer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0] if record.exc_info else None
        kind = error.__name__ if error else logging.getLevelName(record.levelno).lower()
        place = f"{record.name}.{record.funcName}:{record.lineno}"
        _LOGGER.log(record.levelno, "%s in %s %s", kind, place, reduced(record.getMessage()))


def _show_reduced(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _LOGGER.warning("%s in %s:%d %s", category.__name__, Path(filename).name, lineno, reduced(str(message)))
