"""What is said in storage commitment: references, requests and reports, out of and into data sets (PS3.4 annex J).

pydicom, pynetdicom and the standard library only, because the receiver uses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from io import BytesIO
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from dicom_node.errors import DIMSE, Refused

PUSH_MODEL: Final = str(StorageCommitmentPushModel)
#: The well-known instance of the class (PS3.4 J.3.2): the only one there is.
PUSH_MODEL_INSTANCE: Final = str(StorageCommitmentPushModelInstance)

#: Action and event types of PS3.4 tables J.3-1 and J.3-2.
REQUEST_ACTION: Final = 1
ALL_COMMITTED_EVENT: Final = 1
SOME_FAILED_EVENT: Final = 2

#: A data set with more is not decoded; this is room for 100 000 references.
LARGEST_BYTES: Final = 16 * 1024**2

_UID: Final = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance in a request or a report."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class FailedReference:
    """One instance that is not committed, with its Failure Reason (0008,1197)."""

    sop_class_uid: str
    sop_instance_uid: str
    failure_reason: int


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """The action information of an N-ACTION (PS3.4 table J.3-1)."""

    transaction_uid: str
    references: tuple[Reference, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {"transaction_uid": self.transaction_uid, "references": [astuple(one) for one in self.references]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> CommitmentRequest:
        """Read what `to_json` returned."""
        return cls(str(record["transaction_uid"]), tuple(Reference(*one) for one in record["references"]))


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """The event information of an N-EVENT-REPORT (PS3.4 table J.3-2)."""

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[FailedReference, ...] = ()

    @property
    def event_type(self) -> int:
        """Event Type ID that goes with it."""
        return SOME_FAILED_EVENT if self.failed else ALL_COMMITTED_EVENT

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "transaction_uid": self.transaction_uid,
            "committed": [astuple(one) for one in self.committed],
            "failed": [astuple(one) for one in self.failed],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> CommitmentReport:
        """Read what `to_json` returned."""
        return cls(
            str(record["transaction_uid"]),
            tuple(Reference(*one) for one in record["committed"]),
            tuple(FailedReference(*one) for one in record["failed"]),
        )


def read_request(event: Any) -> CommitmentRequest:  # noqa: ANN401 - a pynetdicom event
    """Read an N-ACTION request that arrived.

    Raises
    ------
    Refused
        ``no_such_instance``, ``no_such_action``, ``invalid_argument`` or ``too_large`` when it is not one that can be
        answered: every instance it names has to be in the report.
    """
    _check_instance(event.request.RequestedSOPInstanceUID)
    if event.action_type != REQUEST_ACTION:
        raise Refused("no_such_action", "a request of another action type than 1")
    information = _decoded(event.request.ActionInformation, lambda: event.action_information)
    references = tuple(_references(information, "ReferencedSOPSequence"))
    if not references or not all(_is_uid(one.sop_instance_uid) and _is_uid(one.sop_class_uid) for one in references):
        raise Refused("invalid_argument", "a request without instances, or with a UID that is none")
    return CommitmentRequest(_transaction_uid(information), references)


def read_report(event: Any) -> CommitmentReport:  # noqa: ANN401 - a pynetdicom event
    """Read an N-EVENT-REPORT that arrived; entries that are no reference to an instance are left out.

    Raises
    ------
    Refused
        ``no_such_instance``, ``no_such_event``, ``invalid_argument`` or ``too_large``.
    """
    _check_instance(event.request.AffectedSOPInstanceUID)
    if event.event_type not in (ALL_COMMITTED_EVENT, SOME_FAILED_EVENT):
        raise Refused("no_such_event", "a report of another event type than 1 and 2")
    information = _decoded(event.request.EventInformation, lambda: event.event_information)
    failed = tuple(
        FailedReference(one.sop_class_uid, one.sop_instance_uid, reason)
        for one, reason in _with_reason(information, "FailedSOPSequence")
        if _is_uid(one.sop_instance_uid)
    )
    not_committed = {one.sop_instance_uid for one in failed}
    committed = tuple(
        one
        for one in _references(information, "ReferencedSOPSequence")
        if _is_uid(one.sop_instance_uid) and one.sop_instance_uid not in not_committed
    )
    return CommitmentReport(_transaction_uid(information), committed, failed)


def request_dataset(request: CommitmentRequest) -> Dataset:
    """Return the action information of a request."""
    ds = Dataset()
    ds.TransactionUID = request.transaction_uid
    ds.ReferencedSOPSequence = [_item(one) for one in request.references]
    return ds


def report_dataset(report: CommitmentReport) -> Dataset:
    """Return the event information of a report."""
    ds = Dataset()
    ds.TransactionUID = report.transaction_uid
    # Both sequences are required only where they have items (PS3.4 table J.3-2).
    if report.committed:
        ds.ReferencedSOPSequence = [_item(one) for one in report.committed]
    if report.failed:
        ds.FailedSOPSequence = [_item(one) for one in report.failed]
    return ds


def _item(reference: Reference | FailedReference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if isinstance(reference, FailedReference):
        item.FailureReason = reference.failure_reason
    return item


def _check_instance(uid: object) -> None:
    if str(uid) != PUSH_MODEL_INSTANCE:
        raise Refused("no_such_instance", "not the well-known instance of the Storage Commitment Push Model")


def _decoded(encoded: BytesIO | None, information: Callable[[], Dataset]) -> Dataset:
    """Decode a whole data set now, because pydicom would do it late and anywhere."""
    if encoded is not None and encoded.getbuffer().nbytes > LARGEST_BYTES:
        raise Refused("too_large", f"a data set of more than {LARGEST_BYTES // 1024**2} MiB")
    try:
        ds = information()
        for _ in ds.iterall():
            pass
    except Exception as error:
        raise Refused("invalid_argument", f"a data set that cannot be decoded ({type(error).__name__})") from error
    return ds


def _transaction_uid(information: Dataset) -> str:
    uid = str(information.get("TransactionUID", ""))
    if not _is_uid(uid):
        raise Refused("invalid_argument", "no Transaction UID")
    return uid


def _references(information: Dataset, keyword: str) -> Iterator[Reference]:
    for reference, _ in _with_reason(information, keyword):
        yield reference


def _with_reason(information: Dataset, keyword: str) -> Iterator[tuple[Reference, int]]:
    sequence = information.get(keyword)
    for item in sequence if isinstance(sequence, ItemSequence) else ():
        reason = item.get("FailureReason")
        reference = Reference(str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        yield reference, reason if isinstance(reason, int) else DIMSE.PROCESSING_FAILURE


def _is_uid(text: str) -> bool:
    return _UID.fullmatch(text) is not None
