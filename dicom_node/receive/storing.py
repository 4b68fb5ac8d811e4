"""The C-STORE handler: bytes to the spool, durable, and only then success.

Nothing is decoded here. Decoding can fail late, costs half the throughput, and is the service's business; whatever can
be written down is acknowledged, and what cannot is answered by a status that tells the sender whether to come again.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from dicom_node.errors import NodeError, Permanent, Refused, Transient, dimse_status
from dicom_node.ledger.spool import AssociationJournal, Incoming, InstanceMeta, SpoolPaths, poke
from dicom_node.net.part10 import encode_head
from dicom_node.receive.plan import ReceiverPlan

_LOGGER = logging.getLogger(__name__)

#: Shortest time between two pokes of one association; the service looks by itself every second.
_POKE_EVERY_S: Final = 0.2

_UID: Final = re.compile(r"[0-9.]{1,64}")


class Reception:
    """What one association brings. Its journal is opened with the first instance, so an echo costs no disk.

    Parameters
    ----------
    spool : SpoolPaths
        Where to store.
    plan : callable
        Gives the plan of the moment, so that a reload holds for open associations too.
    calling_ae, called_ae, host, port
        As the association request had them.
    """

    def __init__(
        self,
        spool: SpoolPaths,
        plan: Callable[[], ReceiverPlan],
        *,
        calling_ae: str,
        called_ae: str,
        host: str,
        port: int,
    ) -> None:
        self._spool = spool
        self._plan = plan
        self._calling_ae = calling_ae
        self._called_ae = called_ae
        self._host = host
        self._port = port
        self._lock = threading.Lock()  # the end of a connection is noticed in another thread than the storing one
        self._journal: AssociationJournal | None = None
        self._ended = False
        self._poked_at = 0.0
        self._stored = 0
        self._failed = 0
        self._bytes = 0

    def handle_store(self, event: Any) -> int:  # noqa: ANN401 - a pynetdicom event
        """Store the instance of a C-STORE request (PS3.7 section 9.1.1) and return the status to answer."""
        try:
            with self._lock:
                self._store(event)
            return dimse_status(None)
        except (NodeError, OSError, MemoryError) as error:
            failure: Exception = error
        except Exception as error:  # noqa: BLE001 - task border: the association handler answers whatever happens
            failure = error
        self._failed += 1
        status = dimse_status(failure)
        _LOGGER.warning(
            "instance %s from %r at %s not stored, answered 0x%04X: %s",
            _printable_uid(event.request.AffectedSOPInstanceUID),
            self._calling_ae,
            self._host,
            status,
            _reason(failure),
        )
        return status

    def end(self, outcome: str) -> None:
        """Close the journal; further calls do nothing.

        Parameters
        ----------
        outcome : {"closed", "aborted"}
            How the association ended.
        """
        with self._lock:
            if self._ended:
                return
            self._ended = True
            if self._journal is not None:
                try:
                    self._journal.close("closed" if outcome == "closed" else "aborted")
                except OSError as error:  # disk full: without the line the service takes it as aborted
                    _LOGGER.warning("end of association %s not written: %s", self._journal.key, _reason(error))
        if self._stored or self._failed:
            poke(self._spool.service_socket)
        _LOGGER.info(
            "association of %r at %s %s: %d stored (%.1f MB), %d not stored",
            self._calling_ae,
            self._host,
            outcome,
            self._stored,
            self._bytes / 1e6,
            self._failed,
        )

    def _store(self, event: Any) -> None:  # noqa: ANN401 - a pynetdicom event
        if self._ended:
            raise Transient("association_ended", "the association ended before the instance was stored")
        request, context = event.request, event.context
        if request.AffectedSOPClassUID != context.abstract_syntax:
            raise Refused("sop_class", "the request names another SOP class than its presentation context")
        data_set = request.DataSet.getbuffer() if request.DataSet is not None else memoryview(b"")
        if not data_set:
            raise Permanent("no_data_set", "the request has no data set")
        self._check_free_space(len(data_set))
        meta = InstanceMeta(
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            sop_class_uid=str(request.AffectedSOPClassUID),
            transfer_syntax_uid=str(context.transfer_syntax),
        )
        head = encode_head(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            source_ae_title=self._calling_ae,
        )
        self._open_journal().store((head, data_set), meta)
        self._stored += 1
        self._bytes += len(data_set)
        now = time.monotonic()
        if now - self._poked_at >= _POKE_EVERY_S:
            self._poked_at = now
            poke(self._spool.service_socket)

    def _open_journal(self) -> AssociationJournal:
        if self._journal is None:
            self._journal = Incoming(self._spool.incoming).open_association(
                calling_ae=self._calling_ae, called_ae=self._called_ae, host=self._host, port=self._port
            )
        return self._journal

    def _check_free_space(self, n_bytes: int) -> None:
        disk = os.statvfs(self._spool.data_dir)
        free = disk.f_bavail * disk.f_frsize
        if free - n_bytes < self._plan().min_free_bytes:
            raise Transient("disk_full", "free space is below min_free_mib", {"free_mib": free // 1024**2})


def _reason(error: Exception) -> str:
    """Words for the log that cannot quote a data set: ours, the system's, or the bare kind."""
    if isinstance(error, NodeError):
        return str(error)
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno else "input/output error"
    return type(error).__name__


def _printable_uid(value: object) -> str:
    text = str(value)
    return text if _UID.fullmatch(text) else "(malformed UID)"
