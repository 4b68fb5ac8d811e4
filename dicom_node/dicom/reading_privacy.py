"""Keep DICOM libraries from telling patient data: their log records and warnings are reduced to keyword and rule."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from pydicom.datadict import keyword_for_tag

__all__ = ["install_pydicom_privacy", "quiet_pydicom", "reduce_message"]

logger = logging.getLogger(__name__)

_LIBRARIES: Final = ("pydicom", "pynetdicom", "highdicom")

# Phrases of library messages that may stay: each is constant text of the library, none is followed by data here.
_RULES: Final[tuple[tuple[str, str], ...]] = (
    ("exceeds the maximum length", "value too long"),
    ("invalid value for vr", "value not allowed by its VR"),
    ("unknown encoding", "unknown character set"),
    ("incorrect value for specific character set", "unknown character set"),
    ("failed to decode byte string", "text does not fit its character set"),
    ("but found", "VR encoding differs from the transfer syntax"),
    ("end of file", "end of file reached too early"),
    ("delimiter", "sequence or item delimiter missing"),
    ("deferred read", "deferred read"),
    ("association accepted", "association accepted"),
    ("accepting association", "association accepted"),
    ("association rejected", "association rejected"),
    ("rejecting association", "association rejected"),
    ("association released", "association released"),
    ("association aborted", "association aborted"),
    ("aborting association", "association aborted"),
    ("requesting association", "association requested"),
    ("peer aborted", "association aborted by the peer"),
    ("connection closed", "connection closed"),
    ("unable to connect", "no connection"),
    ("timeout", "time-out"),
    ("exception raised in user's", "exception in an event handler"),
)
_TAG_TEXT: Final = re.compile(r"\(?\b([0-9A-Fa-f]{4}),\s?([0-9A-Fa-f]{4})\b\)?")
_VR_TEXT: Final = re.compile(r"\bVR '?([A-Z]{2})\b")


def reduce_message(text: str) -> str:
    """Reduce a message of a DICOM library to keyword and rule.

    Parameters
    ----------
    text : str
        A message that may quote a value of the data set.

    Returns
    -------
    str
        Keyword of the attribute and VR where the message names them, and the rule in our own words. Nothing of the
        text itself is copied.

    Examples
    --------
    >>> reduce_message("Invalid value for VR UI: 'DOE^JANE'.")
    'VR UI: value not allowed by its VR'
    >>> reduce_message("DOE^JANE is odd")
    'text withheld'
    """
    parts = []
    tag = _TAG_TEXT.search(text)
    if tag is not None:
        keyword = keyword_for_tag(int(tag.group(1) + tag.group(2), 16))
        if keyword:
            parts.append(keyword)
    vr = _VR_TEXT.search(text)
    if vr is not None:
        parts.append(f"VR {vr.group(1)}")
    lower = text.lower()
    rule = next((rule for phrase, rule in _RULES if phrase in lower), "text withheld")
    return ": ".join([*parts, rule])


def _reduce_record(record: logging.LogRecord) -> logging.LogRecord:
    """Replace what a library wanted to log by keyword, rule and the place in the library that spoke."""
    try:
        text = record.getMessage()
    except (TypeError, ValueError):
        text = ""
    kind = f" [{record.exc_info[0].__name__}]" if record.exc_info and record.exc_info[0] else ""
    record.msg = f"{reduce_message(text)}{kind} ({Path(record.pathname).name}:{record.lineno})"
    record.args = None
    record.exc_info = None
    record.exc_text = None
    record.stack_info = None
    return record


class _ReducingFilter(logging.Filter):
    """Logger filter for pydicom, whose only logger is ``pydicom``: records pass, reduced."""

    def filter(self, record: logging.LogRecord) -> bool:
        _reduce_record(record)
        return True


def _reducing_factory(inner: Any) -> Any:  # noqa: ANN401  (logging types its factories so)
    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401
        record: logging.LogRecord = inner(*args, **kwargs)
        if record.name.partition(".")[0] in _LIBRARIES:
            _reduce_record(record)
        return record

    factory.jmmda_reducing = True  # type: ignore[attr-defined]
    return factory


def _show_reduced_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: IO[str] | None = None,
    line: str | None = None,
) -> None:
    """Replace `warnings.showwarning`: category, place and rule, never the text (the source line could hold one too)."""
    del file, line
    logger.warning("%s: %s (%s:%d)", category.__name__, reduce_message(str(message)), Path(filename).name, lineno)


def install_pydicom_privacy() -> None:
    """Make this process keep silent about values: call it once at the start of every process, before any DICOM is read.

    Records of pydicom, pynetdicom and highdicom (their child loggers included) and every `warnings.warn` are reduced to
    keyword and rule. pynetdicom's debug records, which dump whole data sets, are switched off. Calling it again changes
    nothing.
    """
    factory = logging.getLogRecordFactory()
    if not getattr(factory, "jmmda_reducing", False):
        logging.setLogRecordFactory(_reducing_factory(factory))
    network = logging.getLogger("pynetdicom")
    network.setLevel(max(network.level, logging.INFO))
    warnings.showwarning = _show_reduced_warning


# Importing this module is enough to reduce what pydicom's own logger says, for tools that do not call the above.
_PYDICOM_LOGGER: Final = logging.getLogger("pydicom")
_PYDICOM_LOGGER.addFilter(_ReducingFilter())

_QUIET_LOCK: Final = threading.RLock()


@contextmanager
def quiet_pydicom() -> Iterator[list[str]]:
    """Collect pydicom's warnings, reduced to keyword and rule, instead of showing them.

    Yields
    ------
    list of str
        Filled when the block ends: one reduced message per different warning.

    Notes
    -----
    `warnings.catch_warnings` changes the state of the whole interpreter, so blocks of several threads wait for each
    other. A warning of another library in another thread meanwhile is collected too, which is harmless: it is reduced.
    """
    reduced: list[str] = []
    with _QUIET_LOCK:
        disabled, _PYDICOM_LOGGER.disabled = _PYDICOM_LOGGER.disabled, True
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield reduced
        finally:
            _PYDICOM_LOGGER.disabled = disabled
        reduced.extend(dict.fromkeys(reduce_message(str(item.message)) for item in caught))
