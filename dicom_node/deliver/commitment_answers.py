"""Storage commitment of what we received: answers peers that ask whether we hold it (PS3.4 annex J, we are SCP).

An instance is committed when the ledger knows it, its file is in the spool and is of the class that was asked for. The
request file becomes an answer file, and that goes when the peer has taken the report; until then it is sent again as
patiently as results are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.deliver.lanes import Lanes
from dicom_node.deliver.policy import delivery_policy
from dicom_node.errors import DIMSE, NodeError, Permanent
from dicom_node.ledger.commitment_box import CommitmentBox, Kind, read_record
from dicom_node.ledger.store import Ledger
from dicom_node.ledger.tables import Instance, Series
from dicom_node.net.commit import send_report
from dicom_node.net.commitment_values import CommitmentReport, CommitmentRequest, FailedReference, Reference
from dicom_node.net.part10 import read_head
from dicom_node.settings import Peer, Settings

logger = logging.getLogger(__name__)

#: The file meta information ends far before this.
_HEAD_BYTES: Final = 16_384
#: Instances asked for in one query; SQLite takes 999 values.
_BATCH: Final = 500
#: How much longer than the receiver waits an answer is kept for a peer that cannot be called.
_SPARE_WAIT_S: Final = 60.0


class CommitmentAnswers:
    """Answers requests.

    Parameters
    ----------
    ledger : Ledger
        Open ledger.
    settings : callable
        Returns the settings in force.
    """

    def __init__(self, ledger: Ledger, settings: Callable[[], Settings]) -> None:
        self._ledger = ledger
        self._settings = settings
        self._box = CommitmentBox(ledger.paths.data_dir)
        self._lanes = Lanes("commitment-answers", self.send_due)

    def waiting(self) -> list[Path]:
        """Return the requests that wait now; before the spool is taken in, so that their images are known after it."""
        return self._box.waiting(Kind.REQUEST)

    def answer(self, requests: Sequence[Path]) -> None:
        """Turn requests into answers; `wake` sends them.

        Raises
        ------
        OSError
            When the disk is full or gone; the requests wait.
        """
        for path in requests:
            record = read_record(path)
            if record is None:
                continue
            with self._ledger.reading() as session:
                report = self._report(session, CommitmentRequest.from_json(record))
            who = {key: record[key] for key in ("at", "peer", "calling_ae", "host")}
            self._box.turn(path, Kind.REQUEST, Kind.ANSWER, {**who, "tries": 0, "next_at": None, **report.to_json()})
            logger.info(
                "transaction %s of %r: %d committed, %d not",
                report.transaction_uid,
                record["calling_ae"],
                len(report.committed),
                len(report.failed),
            )

    def wake(self) -> None:
        """Start sending whatever is due. Returns at once."""
        settings = self._settings()
        names: set[str] = set()
        for path, record in self._due():
            peer = _to_call(record, settings)
            if peer is None:
                self._leave_to_the_receiver(path, record, settings)
            else:
                names.add(peer.name)
        self._lanes.want(names)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let a report under way end; what is left is sent after the next start."""
        self._lanes.stop(timeout_s)

    def send_due(self, name: str) -> None:
        """Send every answer to one peer that is due now, the oldest first."""
        for path, record in self._due():
            if self._lanes.closed:
                return
            settings = self._settings()
            peer = _to_call(record, settings)
            if peer is not None and peer.name == name:
                self._send(path, record, peer, settings)

    def _due(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        now = self._ledger.clock.now()
        for path in self._box.waiting(Kind.ANSWER):
            record = read_record(path)
            if record is not None and (record["next_at"] is None or datetime.fromisoformat(record["next_at"]) <= now):
                yield path, record

    def _send(self, path: Path, record: dict[str, Any], peer: Peer, settings: Settings) -> None:
        report = CommitmentReport.from_json(record)
        try:
            send_report(
                peer,
                settings.node.ae_title,
                report,
                timeout_s=settings.delivery.association_timeout_s,
            )
        except NodeError as error:
            self._again(path, record, error, settings)
        else:
            self._box.drop(path)
            logger.info("transaction %s reported to %s", report.transaction_uid, peer.name)

    def _again(self, path: Path, record: dict[str, Any], error: NodeError, settings: Settings) -> None:
        policy = delivery_policy(settings.delivery)
        tries = int(record["tries"]) + 1
        if tries >= policy.attempts or isinstance(error, Permanent):
            self._lose(path, record, error.reason)
            return
        wait_s = policy.wait_s(tries)
        next_at = self._ledger.clock.now() + timedelta(seconds=wait_s)
        self._box.rewrite(path, {**record, "tries": tries, "next_at": next_at.isoformat()})
        logger.warning("report of transaction %s: %s; next try in %.0f s", record["transaction_uid"], error, wait_s)

    def _leave_to_the_receiver(self, path: Path, record: dict[str, Any], settings: Settings) -> None:
        """Keep an answer as long as the association that asked may wait for it: nobody can be called."""
        age_s = (self._ledger.clock.now() - datetime.fromisoformat(record["at"])).total_seconds()
        if age_s > settings.commitment.same_association_s + _SPARE_WAIT_S:
            reason = "the peer has no port to be called at, and its association ended before the report"
            self._lose(path, record, f"{reason}: give it a port in [[peers]]")

    def _lose(self, path: Path, record: dict[str, Any], reason: str) -> None:
        logger.error(
            "transaction %s of %r is not reported: %s", record["transaction_uid"], record["calling_ae"], reason
        )
        self._box.turn(path, Kind.ANSWER, Kind.GONE, {**record, "reason": reason})

    def _report(self, session: Session, request: CommitmentRequest) -> CommitmentReport:
        files = self._files(session, [one.sop_instance_uid for one in request.references])
        committed: list[Reference] = []
        failed: list[FailedReference] = []
        for reference in request.references:
            reason = _why_not(reference, files.get(reference.sop_instance_uid, ()))
            if reason is None:
                committed.append(reference)
            else:
                failed.append(FailedReference(reference.sop_class_uid, reference.sop_instance_uid, reason))
        return CommitmentReport(request.transaction_uid, tuple(committed), tuple(failed))

    def _files(self, session: Session, uids: Sequence[str]) -> dict[str, list[Path]]:
        """Return where the ledger says that these instances are; one that came in two studies has two places."""
        found: dict[str, list[Path]] = {}
        for start in range(0, len(uids), _BATCH):
            query = (
                select(Instance.sop_instance_uid, Series.folder, Instance.file_name)
                .join(Series)
                .where(Instance.sop_instance_uid.in_(uids[start : start + _BATCH]))
            )
            for uid, folder, name in session.execute(query):
                found.setdefault(uid, []).append(self._ledger.paths.series / folder / name)
        return found


def _why_not(reference: Reference, files: Sequence[Path]) -> int | None:
    """Return the Failure Reason of an instance (PS3.3 section C.14.1.1), or None when it is committed."""
    reason = DIMSE.NO_SUCH_INSTANCE
    for path in files:
        try:
            with path.open("rb") as file:
                sop_class_uid = read_head(file.read(_HEAD_BYTES)).sop_class_uid
        except FileNotFoundError:
            continue
        except (OSError, Permanent):
            reason = DIMSE.PROCESSING_FAILURE
            continue
        if sop_class_uid == reference.sop_class_uid:
            return None
        reason = DIMSE.CLASS_INSTANCE_CONFLICT
    return reason


def _to_call(record: dict[str, Any], settings: Settings) -> Peer | None:
    """Return the peer that asked, under the title that asked and waits for the report; None when it has no port."""
    title = str(record["calling_ae"])
    peer = settings.peer_of(title, str(record["host"]))
    if peer is None or peer.port is None:
        return None
    others = tuple(one for one in peer.ae_titles if one != title)
    return peer.model_copy(update={"ae_titles": (title, *others)})
