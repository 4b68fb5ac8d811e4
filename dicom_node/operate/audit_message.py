"""Audit events as XML of DICOM PS3.15 section A.5.1, the successor of RFC 3881.

The messages of A.5.3 that name a patient leave the patient out: no attribute of a patient reaches any file but the
images, and the Study Instance UID leads whoever may know to the patient. This is the one deviation from A.5.3.6 and
A.5.3.7, whose Patient object is mandatory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from xml.etree import ElementTree

#: (code, meaning) of PS3.16 CID 400 to 403, coding scheme DCM.
_Code = tuple[str, str]

_APPLICATION: Final[_Code] = ("110150", "Application")
_DESTINATION: Final[_Code] = ("110152", "Destination Role ID")
_SOURCE: Final[_Code] = ("110153", "Source Role ID")
_STUDY: Final[_Code] = ("110180", "Study Instance UID")
_ALERT: Final[_Code] = ("110113", "Security Alert")
_ACTIVITY: Final[_Code] = ("110100", "Application Activity")
_BEGIN: Final[_Code] = ("110102", "Begin Transferring DICOM Instances")
_TRANSFERRED: Final[_Code] = ("110104", "DICOM Instances Transferred")

#: Studies of one message; a datagram has room for more than that.
_MOST_STUDIES: Final = 50
_ADDRESS: Final = re.compile(r"[0-9.]+|[0-9A-Fa-f:.%]*:[0-9A-Fa-f:.%]*")


class Kind(StrEnum):
    """What happened."""

    START = "start"
    STOP = "stop"
    RECEIVING = "receiving"
    RECEIVED = "received"
    SENDING = "sending"
    SENT = "sent"
    REFUSED = "refused"
    CONFIGURATION = "configuration"


class Outcome(StrEnum):
    """EventOutcomeIndicator (RFC 3881 section 5.1.4)."""

    SUCCESS = "0"
    MINOR_FAILURE = "4"
    SERIOUS_FAILURE = "8"


#: EventID, EventTypeCode and EventActionCode of every kind (PS3.15 A.5.3.1, A.5.3.4, A.5.3.7, A.5.3.11).
_EVENTS: Final[Mapping[Kind, tuple[_Code, _Code | None, str]]] = {
    Kind.START: (_ACTIVITY, ("110120", "Application Start"), "E"),
    Kind.STOP: (_ACTIVITY, ("110121", "Application Stop"), "E"),
    Kind.RECEIVING: (_BEGIN, None, "E"),
    Kind.RECEIVED: (_TRANSFERRED, None, "C"),
    Kind.SENDING: (_BEGIN, None, "E"),
    Kind.SENT: (_TRANSFERRED, None, "R"),
    Kind.REFUSED: (_ALERT, ("110126", "Node Authentication"), "E"),
    Kind.CONFIGURATION: (_ALERT, ("110131", "Software Configuration"), "E"),
}


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event, without patient data.

    Attributes
    ----------
    kind : Kind
        What happened.
    at : str
        ISO 8601 with offset.
    outcome : Outcome
        How it went.
    reason : str
        In words; AE titles, addresses, keys of the settings, codes.
    peer : str
        AE title (or name) of the other side; empty where there is none.
    host : str
        Address of the other side, or the root of its DICOMweb service.
    studies : Mapping
        Study Instance UIDs, and how many instances of each were transferred.
    """

    kind: Kind
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    outcome: Outcome = Outcome.SUCCESS
    reason: str = ""
    peer: str = ""
    host: str = ""
    studies: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> AuditEvent:
        """Read what `to_json` made.

        Raises
        ------
        ValueError
            When it is something else.
        """
        studies = record.get("studies") or {}
        return cls(
            kind=Kind(record.get("kind", "")),
            at=str(record.get("at", "")),
            outcome=Outcome(record.get("outcome", Outcome.SUCCESS)),
            reason=str(record.get("reason", "")),
            peer=str(record.get("peer", "")),
            host=str(record.get("host", "")),
            studies={str(uid): int(count) for uid, count in studies.items()},
        )

    def parts(self) -> Iterator[AuditEvent]:
        """Yield the event, in several where it names more studies than one message should."""
        uids = list(self.studies)
        for start in range(0, max(len(uids), 1), _MOST_STUDIES):
            yield replace(self, studies={uid: self.studies[uid] for uid in uids[start : start + _MOST_STUDIES]})


@dataclass(frozen=True, slots=True)
class AuditSource:
    """Who reports.

    Attributes
    ----------
    node_id, ae_title : str
        Of the node.
    host : str
        Name of the machine.
    process_id : int
        Of the supervisor.
    site : str
        AuditEnterpriseSiteID; may be empty.
    """

    node_id: str
    ae_title: str
    host: str
    process_id: int
    site: str = ""


def to_xml(event: AuditEvent, source: AuditSource) -> bytes:
    """Write one event as an AuditMessage: UTF-8, one line, without XML declaration."""
    event_id, event_type, action = _EVENTS[event.kind]
    root = ElementTree.Element("AuditMessage")
    head = _child(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=event.at,
        EventOutcomeIndicator=event.outcome.value,
    )
    _coded(head, "EventID", event_id)
    if event_type is not None:
        _coded(head, "EventTypeCode", event_type)
    if event.reason:
        _child(head, "EventOutcomeDescription").text = _legal(event.reason)
    _participants(root, event, source)
    site = {"AuditEnterpriseSiteID": source.site} if source.site else {}
    reporter = _child(root, "AuditSourceIdentification", AuditSourceID=source.node_id, **site)
    _child(reporter, "AuditSourceTypeCode", **{"csd-code": "4"})
    for uid, count in event.studies.items():
        _study(root, uid, count)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=False)
    return text


def _participants(root: ElementTree.Element, event: AuditEvent, source: AuditSource) -> None:
    """Write ourselves and the other side, each with the role it had."""
    sends = event.kind in (Kind.SENDING, Kind.SENT)
    transfers = sends or event.kind in (Kind.RECEIVING, Kind.RECEIVED)
    ours = (_SOURCE if sends else _DESTINATION) if transfers else _APPLICATION
    us = _child(
        root,
        "ActiveParticipant",
        UserID=str(source.process_id),
        AlternativeUserID=f"AETITLES={source.ae_title}",
        UserIsRequestor=str(event.kind is not Kind.RECEIVING and event.kind is not Kind.RECEIVED).lower(),
        NetworkAccessPointID=source.host,
        NetworkAccessPointTypeCode="1",
    )
    _coded(us, "RoleIDCode", ours)
    if not (event.peer or event.host):
        return
    them = _child(
        root,
        "ActiveParticipant",
        UserID=_legal(event.peer or event.host),
        UserIsRequestor=str(event.kind in (Kind.RECEIVING, Kind.RECEIVED)).lower(),
        **_access_point(event.host),
    )
    if transfers:
        _coded(them, "RoleIDCode", _DESTINATION if sends else _SOURCE)
    _coded(them, "UserIDTypeCode", ("110119", "Station AE Title"))


def _access_point(host: str) -> dict[str, str]:
    """Name an address: 1 a machine name, 2 an IP address, 5 a URI (RFC 3881 section 5.3.2)."""
    if not host:
        return {}
    kind = "5" if "://" in host else "2" if _ADDRESS.fullmatch(host) else "1"
    return {"NetworkAccessPointID": _legal(host), "NetworkAccessPointTypeCode": kind}


def _study(root: ElementTree.Element, uid: str, count: int) -> None:
    study = _child(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_legal(uid),
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    _coded(study, "ParticipantObjectIDTypeCode", _STUDY)
    if count:
        described = _child(study, "ParticipantObjectDescription")
        _child(described, "SOPClass", NumberOfInstances=str(count))


def _coded(parent: ElementTree.Element, name: str, code: _Code) -> None:
    _child(parent, name, **{"csd-code": code[0], "codeSystemName": "DCM", "originalText": code[1]})


def _child(parent: ElementTree.Element, name: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, name, attributes)


def _legal(text: str) -> str:
    """Leave out what XML cannot hold, and line ends, since an event is one line."""
    return "".join(one if one.isprintable() else " " for one in text)
