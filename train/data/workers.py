"""Worker processes that take one thread each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Let child processes start with one thread each: numerical libraries read these names once, at import."""
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(dict.fromkeys(_NAMES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
