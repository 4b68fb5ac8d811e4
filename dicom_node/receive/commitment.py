"""The front door of storage commitment: requests of peers and reports to us become files, and only then success.

What they mean for the ledger is the service's business. Only UIDs are taken out of a data set, and only what is a UID.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pynetdicom import evt
from pynetdicom.association import Association

from dicom_node.errors import NodeError, Refused, commitment_status
from dicom_node.ledger.commitment_box import CommitmentBox, Kind, read_record
from dicom_node.ledger.durable import utc_now
from dicom_node.ledger.poke import poke
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.net.commit import report_over
from dicom_node.net.commitment_values import CommitmentReport, read_report, read_request
from dicom_node.receive.plan import Caller, ReceiverPlan

_LOGGER = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Asker:
    """Who is at the other end of an association."""

    calling_ae: str
    host: str
    caller: Caller | None

    @property
    def may_ask(self) -> bool:
        """Whether it may ask what we hold: who may send to us."""
        return self.caller is None or self.caller.may_store

    @property
    def may_report(self) -> bool:
        """Whether it is one that we ask."""
        return self.caller is not None and self.caller.may_report

    def record(self) -> dict[str, Any]:
        """Return what the service has to know of it."""
        return {
            "at": utc_now(),
            "peer": self.caller.name if self.caller else "",
            "calling_ae": self.calling_ae,
            "host": self.host,
        }


class CommitmentDoor:
    """Takes requests and reports.

    Parameters
    ----------
    spool : SpoolPaths
        Where to keep them.
    plan : callable
        Gives the plan of the moment.
    """

    def __init__(self, spool: SpoolPaths, plan: Callable[[], ReceiverPlan]) -> None:
        self._spool = spool
        self._box = CommitmentBox(spool.data_dir)
        self._plan = plan

    def take_report(self, event: Any, asker: Asker) -> int:  # noqa: ANN401 - a pynetdicom event
        """Keep the report of an N-EVENT-REPORT request and return the status to answer (PS3.4 J.3.3)."""

        def work() -> None:
            if not asker.may_report:
                raise Refused("not_authorised", "a report from a peer without the role commitment")
            report = read_report(event)
            self._box.leave(Kind.REPORT, {**asker.record(), **report.to_json()})
            _LOGGER.info(
                "report of storage commitment from %r: %d committed, %d failed, transaction %s",
                asker.calling_ae,
                len(report.committed),
                len(report.failed),
                report.transaction_uid,
            )

        return self._answered("report", work, asker)

    def take_request(self, event: Any, asker: Asker) -> int:  # noqa: ANN401 - a pynetdicom event
        """Keep the request of an N-ACTION and return the status to answer (PS3.4 J.3.2)."""

        def work() -> None:
            if not asker.may_ask:
                raise Refused("not_authorised", "a request from a peer without the role source")
            request = read_request(event)
            path = self._box.leave(Kind.REQUEST, {**asker.record(), **request.to_json()})
            _LOGGER.info(
                "%r asks for storage commitment of %d instances, transaction %s",
                asker.calling_ae,
                len(request.references),
                request.transaction_uid,
            )
            if asker.caller is None or not asker.caller.has_port:
                self._report_over_the_same(event.assoc, path)

        return self._answered("request", work, asker)

    def _answered(self, what: str, work: Callable[[], None], asker: Asker) -> int:
        try:
            work()
        except NodeError as error:
            return self._not_taken(what, asker, error, error.reason)
        except OSError as error:
            return self._not_taken(what, asker, error, error.strerror or "input/output error")
        except Exception as error:  # noqa: BLE001 - task border: the association handler answers whatever happens
            return self._not_taken(what, asker, error, type(error).__name__)
        poke(self._spool.service_socket)
        return commitment_status(None)

    def _not_taken(self, what: str, asker: Asker, error: Exception, reason: str) -> int:
        status = commitment_status(error)
        _LOGGER.warning(
            "%s of storage commitment from %r at %s not taken, answered 0x%04X: %s",
            what,
            asker.calling_ae,
            asker.host,
            status,
            reason,
        )
        return status

    def _report_over_the_same(self, assoc: Association, request: Path) -> None:
        """Have the answer sent over the association that is open: a peer without a port has no other one for us."""
        sent = threading.Event()
        assoc.bind(evt.EVT_DIMSE_SENT, lambda _event: sent.set())
        answer = request.with_name(request.name.removesuffix(Kind.REQUEST.value) + Kind.ANSWER.value)
        threading.Thread(
            target=self._wait_and_report, args=(assoc, sent, answer), name="commitment-report", daemon=True
        ).start()

    def _wait_and_report(self, assoc: Association, sent: threading.Event, answer: Path) -> None:
        wait_s = self._plan().report_wait_s
        deadline = time.monotonic() + wait_s
        sent.wait(wait_s)  # the answer to the request leaves before the report does
        record: Mapping[str, Any] | None = None
        while assoc.is_established and record is None and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
            record = read_record(answer)
        if record is None or not assoc.is_established:
            return
        report = CommitmentReport.from_json(record)
        if report_over(assoc, report, timeout_s=max(wait_s, 1.0)) == 0:
            self._box.drop(answer)
            _LOGGER.info("transaction %s reported over the association that asked", report.transaction_uid)
