"""The audit trail: what an event says, where it goes, and that nothing ever waits for it.

Real sockets and files. Left out: what is taken for an event (`test_transfers`, `tests/dicom_node/test_node_audit`).
"""

from __future__ import annotations

import re
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dicom_node.operate.audit import AuditTrail, changed_sections
from dicom_node.operate.audit_message import AuditEvent, AuditSource, Kind, Outcome, to_xml
from dicom_node.settings import Settings, parse_settings
from tests.dicom_node.net.associations import wait_until

SOURCE = AuditSource("node-1", "JMMDA_NODE", "ctserver", 4711, "St. Elsewhere")
SYSLOG = re.compile(
    rb"<85>1 (\S+) (\S+) jmmda-node (\d+) DICOM\+RFC3881 - \xef\xbb\xbf(<AuditMessage>.*</AuditMessage>)"
)


def _settings(folder: Path, **audit: Any) -> Settings:
    return Settings.model_validate({"node": {"data_dir": folder}, "audit": audit})


def _code(node: ElementTree.Element | None) -> tuple[str | None, str | None]:
    assert node is not None
    assert node.get("codeSystemName") == "DCM"
    return node.get("csd-code"), node.get("originalText")


# --- what an event says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code", "type_code", "action"), [
    (Kind.START, ("110100", "Application Activity"), ("110120", "Application Start"), "E"),
    (Kind.STOP, ("110100", "Application Activity"), ("110121", "Application Stop"), "E"),
    (Kind.RECEIVING, ("110102", "Begin Transferring DICOM Instances"), None, "E"),
    (Kind.RECEIVED, ("110104", "DICOM Instances Transferred"), None, "C"),
    (Kind.SENDING, ("110102", "Begin Transferring DICOM Instances"), None, "E"),
    (Kind.SENT, ("110104", "DICOM Instances Transferred"), None, "R"),
    (Kind.REFUSED, ("110113", "Security Alert"), ("110126", "Node Authentication"), "E"),
    (Kind.CONFIGURATION, ("110113", "Security Alert"), ("110131", "Software Configuration"), "E"),
])  # fmt: skip
def test_every_kind_has_the_codes_of_the_standard(kind, code, type_code, action) -> None:
    root = ElementTree.fromstring(to_xml(AuditEvent(kind, peer="CT1", host="10.0.0.7"), SOURCE))
    assert [child.tag for child in root] == [
        "EventIdentification", "ActiveParticipant", "ActiveParticipant", "AuditSourceIdentification",
    ]  # fmt: skip
    head = root[0]
    assert (_code(head.find("EventID")), head.get("EventActionCode")) == (code, action)
    assert (type_code is None) == (head.find("EventTypeCode") is None)
    if type_code is not None:
        assert _code(head.find("EventTypeCode")) == type_code
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", head.get("EventDateTime", ""))
    assert (root[3].get("AuditSourceID"), root[3].get("AuditEnterpriseSiteID")) == ("node-1", "St. Elsewhere")


def test_a_transfer_names_both_sides_with_their_roles_and_the_studies() -> None:
    event = AuditEvent(Kind.RECEIVED, peer="CT1", host="10.0.0.7", studies={"1.2.3": 24, "1.2.4": 0})
    root = ElementTree.fromstring(to_xml(event, SOURCE))
    us, them = root.findall("ActiveParticipant")
    assert (us.get("AlternativeUserID"), us.get("UserIsRequestor")) == ("AETITLES=JMMDA_NODE", "false")
    assert (us.get("NetworkAccessPointID"), us.get("NetworkAccessPointTypeCode")) == ("ctserver", "1")
    assert (them.get("UserID"), them.get("UserIsRequestor")) == ("CT1", "true")
    assert (them.get("NetworkAccessPointID"), them.get("NetworkAccessPointTypeCode")) == ("10.0.0.7", "2")
    assert [_code(one.find("RoleIDCode"))[0] for one in (us, them)] == ["110152", "110153"]
    studies = root.findall("ParticipantObjectIdentification")
    assert [one.get("ParticipantObjectID") for one in studies] == ["1.2.3", "1.2.4"]
    assert _code(studies[0].find("ParticipantObjectIDTypeCode")) == ("110180", "Study Instance UID")
    counted = studies[0].find("ParticipantObjectDescription/SOPClass")
    assert counted is not None
    assert counted.get("NumberOfInstances") == "24"
    assert {one.get("ParticipantObjectTypeCode") for one in studies} == {"2"}, "no person"


def test_sending_has_the_roles_the_other_way_round() -> None:
    event = AuditEvent(Kind.SENT, peer="archive", host="https://archive.example/dicom-web")
    us, them = ElementTree.fromstring(to_xml(event, SOURCE)).findall("ActiveParticipant")
    assert [_code(one.find("RoleIDCode"))[0] for one in (us, them)] == ["110153", "110152"]
    assert (us.get("UserIsRequestor"), them.get("NetworkAccessPointTypeCode")) == ("true", "5")


def test_what_a_peer_chose_cannot_break_the_message() -> None:
    event = AuditEvent(
        Kind.REFUSED, outcome=Outcome.MINOR_FAILURE, reason='"><x>\x00\n]]>', peer="A\x01<&\n", host="::1"
    )
    text = to_xml(event, SOURCE)
    assert b"\n" not in text
    root = ElementTree.fromstring(text)
    assert root.findtext("EventIdentification/EventOutcomeDescription") == '"><x>  ]]>'
    assert root.findall("ActiveParticipant")[1].get("UserID") == "A <& "


def test_many_studies_are_told_in_several_messages() -> None:
    parts = list(AuditEvent(Kind.RECEIVED, studies={f"1.2.{n}": 1 for n in range(120)}).parts())
    assert [len(one.studies) for one in parts] == [50, 50, 20]
    assert len(list(AuditEvent(Kind.START).parts())) == 1


def test_events_travel_between_processes_and_nonsense_does_not() -> None:
    event = AuditEvent(
        Kind.SENT, outcome=Outcome.SERIOUS_FAILURE, reason="store_refused", peer="PACS", studies={"1.2": 3}
    )
    assert AuditEvent.from_json(event.to_json()) == event
    for nonsense in ({}, {"kind": "party"}, {"kind": "sent", "outcome": 9}, {"kind": "sent", "studies": {"1": "x"}}):
        with pytest.raises(ValueError, match=r"."):
            AuditEvent.from_json(nonsense)


# --- where it goes -----------------------------------------------------------------------------------------------


def test_a_file_is_private_holds_one_event_a_line_and_is_rotated(tmp_path: Path) -> None:
    trail = AuditTrail(_settings(tmp_path, to="file", file_max_mib=1, file_keep=2))
    reason = "x" * 60_000
    for _ in range(80):
        trail.put(AuditEvent(Kind.REFUSED, reason=reason))
    trail.close(30.0)
    assert (trail.counts.sent, trail.counts.lost) == (80, 0)
    files = sorted(tmp_path.glob("audit.xml*"))
    assert [one.name for one in files] == ["audit.xml", "audit.xml.1", "audit.xml.2"], "the oldest went"
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
    for line in b"".join(one.read_bytes() for one in files).splitlines():
        assert ElementTree.fromstring(line).tag == "AuditMessage"
    assert all(1024**2 <= one.stat().st_size < 1024**2 + 61_000 for one in files[1:])


def test_udp_carries_rfc_5424(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        trail = AuditTrail(_settings(tmp_path, to="udp", port=server.getsockname()[1]))
        trail.put(AuditEvent(Kind.START, at="2026-01-02T03:04:05.678+00:00"))
        message = server.recv(65536)
        trail.close()
    found = SYSLOG.fullmatch(message)
    assert found is not None
    assert (found[1], found[2].decode()) == (b"2026-01-02T03:04:05.678+00:00", socket.gethostname())
    assert ElementTree.fromstring(found[4]).tag == "AuditMessage"


def test_a_local_socket_gets_the_same(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "log"))
        server.settimeout(10)
        trail = AuditTrail(_settings(tmp_path, to="unix", socket=tmp_path / "log"))
        trail.put(AuditEvent(Kind.STOP))
        assert SYSLOG.fullmatch(server.recv(65536))
        trail.close()


class Syslog:
    """A syslog server over TCP (RFC 6587, octet counting)."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.messages: list[bytes] = []
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        data = b""
        while True:
            try:
                piece = connection.recv(65536)
            except OSError:
                return
            if not piece:
                return
            data += piece
            while b" " in data:
                length, _, rest = data.partition(b" ")
                if len(rest) < int(length):
                    break
                self.messages.append(rest[: int(length)])
                data = rest[int(length) :]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._connections:
            one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def _trail(settings: Settings) -> Iterator[AuditTrail]:
    made = AuditTrail(settings)
    try:
        yield made
    finally:
        made.close(0.1)


def test_a_syslog_server_that_goes_away_gets_everything_when_it_is_back(tmp_path: Path) -> None:
    first = Syslog()
    with _trail(_settings(tmp_path, to="tcp", port=first.port)) as trail:
        trail.put(AuditEvent(Kind.START))
        assert wait_until(lambda: len(first.messages) == 1)
        first.close()
        for number in range(20):
            trail.put(AuditEvent(Kind.REFUSED, reason=f"number {number}"))
        assert wait_until(lambda: trail._waiting.qsize() < 20)
        second = Syslog(first.port)
        assert wait_until(lambda: len(second.messages) == 20, 20)
        second.close()
    assert SYSLOG.fullmatch(second.messages[0])
    assert [re.search(rb"number \d+", one)[0] for one in second.messages] == [b"number %d" % n for n in range(20)]  # type: ignore[index]
    assert trail.counts.lost == 0


# --- nothing waits for it ----------------------------------------------------------------------------------------


def test_a_target_that_is_away_costs_events_and_they_are_counted(tmp_path: Path, free_port: int, caplog) -> None:
    trail = AuditTrail(_settings(tmp_path, to="tcp", port=free_port, queue=10))
    for _ in range(500):
        trail.put(AuditEvent(Kind.REFUSED))
    trail.close(0.2)
    assert trail.counts.sent == 0
    assert trail.counts.lost == 500
    assert "audit events are lost" in caplog.text
    assert "0 delivered" in caplog.text or "0 events delivered" in caplog.text


def test_a_target_that_takes_nothing_holds_up_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts in the kernel, never reads
        trail = AuditTrail(_settings(tmp_path, to="tcp", port=server.getsockname()[1], queue=10))
        for _ in range(200):
            trail.put(AuditEvent(Kind.REFUSED, reason="x" * 200_000))
        assert trail.counts.lost > 0
        trail.close(0.1)


def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "audit.xml").mkdir()
    with _trail(_settings(tmp_path, to="file")) as trail:
        trail.put(AuditEvent(Kind.START))
        assert wait_until(lambda: trail._waiting.qsize() == 0)
        (tmp_path / "audit.xml").rmdir()
        assert wait_until(lambda: trail.counts.sent == 1, 20)
    assert (tmp_path / "audit.xml").read_bytes().count(b"\n") == 1


def test_none_means_none(tmp_path: Path) -> None:
    trail = AuditTrail(_settings(tmp_path))
    trail.put(AuditEvent(Kind.START))
    trail.close()
    assert (trail.counts.sent, trail.counts.lost, list(tmp_path.iterdir())) == (0, 0, [])


def test_records_that_are_no_events_are_counted_and_stop_nothing(tmp_path: Path) -> None:
    with _trail(_settings(tmp_path, to="file")) as trail:
        for nonsense in ({"kind": "party"}, {"kind": "sent", "studies": 7}, {"kind": "sent", "studies": {"1": None}}):
            trail.put_record(nonsense)
        trail.put_record(AuditEvent(Kind.STOP).to_json())
        assert wait_until(lambda: trail.counts.sent == 1)
    assert trail.counts.lost == 3


def test_the_example_of_the_page_is_valid() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "audit.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    assert parse_settings(example, file="audit.md", base=Path("/")).audit.to == "udp"


def test_a_change_of_the_settings_is_named_by_section_and_without_values() -> None:
    before = Settings()
    after = Settings.model_validate({"node": {"ae_title": "OTHER"}, "delivery": {"attempts": 3}})
    assert changed_sections(before, after) == "node, delivery"
    assert changed_sections(before, before) == "none"
