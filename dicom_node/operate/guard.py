"""One service per data folder: a lock that the kernel releases whatever happens to its holder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dicom_node.errors import Permanent
from dicom_node.ledger.durable import FILE_MODE
from dicom_node.ledger.spool import SpoolPaths


@contextmanager
def spool_lock(paths: SpoolPaths, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the data folder for as long as the block runs.

    Parameters
    ----------
    paths : SpoolPaths
        Folders of the node.
    wait_s : float
        Keep trying for this long: a command that asks whether a service runs holds the lock for an instant.

    Raises
    ------
    Permanent
        ``spool_in_use`` when another process holds it.
    """
    descriptor = os.open(paths.service_lock, os.O_RDWR | os.O_CREAT, FILE_MODE)
    try:
        if not _locked(descriptor, wait_s):
            raise Permanent(
                "spool_in_use", f"another service works on {paths.data_dir}; two on one spool would do everything twice"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True


def service_runs(paths: SpoolPaths) -> bool:
    """Whether some process holds the data folder now."""
    try:
        with spool_lock(paths):
            return False
    except Permanent:
        return True
    except FileNotFoundError:
        return False
