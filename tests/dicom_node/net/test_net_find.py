"""C-FIND as requestor against a real acceptor and against peers that misbehave: an answer, or an error with a name.

Left out: what is made of the answers (`test_source`), and Orthanc (`tests/peers/test_orthanc_count`).
"""

from __future__ import annotations

import socket
import threading

import pytest
from pydicom.dataset import Dataset
from pynetdicom.sop_class import CTImageStorage

from dicom_node.errors import NodeError, Permanent, Transient
from dicom_node.net.find import FindSession
from dicom_node.net.remote import Remote
from tests.dicom_node.dicom.builders import uid
from tests.dicom_node.net.archive import Archive, series_answer
from tests.dicom_node.net.associations import raw_server

KEYS = {"StudyInstanceUID": uid("study"), "SeriesInstanceUID": "", "NumberOfSeriesRelatedInstances": ""}


def _ask(peer: Remote, *, timeout_s: float = 5.0, most: int = 100) -> list[Dataset]:
    with FindSession(peer, "JMMDA_NODE", timeout_s=timeout_s) as session:
        return session.find("SERIES", KEYS, most=most)


def _failure(peer: Remote, **options: object) -> NodeError:
    with pytest.raises(NodeError) as caught:
        _ask(peer, **options)  # type: ignore[arg-type]
    return caught.value


def test_every_match_comes_back_and_only_keys_were_asked_for() -> None:
    archive = Archive({uid("study"): {uid("a"): ["1.1", "1.2"], uid("b"): ["2.1"]}})
    with archive.listening():
        answers = _ask(archive.remote)
    assert {str(one.SeriesInstanceUID): int(one.NumberOfSeriesRelatedInstances) for one in answers} == {
        uid("a"): 2,
        uid("b"): 1,
    }
    assert {element.keyword for element in archive.asked[0]} == {"QueryRetrieveLevel", *KEYS}


def test_several_questions_go_over_one_association() -> None:
    archive = Archive({uid("study"): {uid("a"): ["1.1"]}})
    with archive.listening(), FindSession(archive.remote, "JMMDA_NODE", timeout_s=5.0) as session:
        assert len(session.find("SERIES", KEYS)) == 1
        assert session.find("SERIES", {**KEYS, "StudyInstanceUID": uid("another")}) == []
        keys = {"StudyInstanceUID": uid("study"), "SeriesInstanceUID": uid("a"), "SOPInstanceUID": ""}
        assert [str(one.SOPInstanceUID) for one in session.find("IMAGE", keys)] == ["1.1"]


def test_a_peer_that_knows_no_query(free_port: int) -> None:
    with Archive().listening(sop_class=CTImageStorage) as archive:
        error = _failure(archive.remote)
    assert isinstance(error, Permanent)
    assert error.code == "find_refused"
    assert _failure(Remote("pacs", "PACS", "127.0.0.1", free_port)).code == "peer_unreachable"
    assert _failure(Remote("pacs", "PACS", "127.0.0.1", None)).code == "peer_without_port"


def test_a_failure_is_told_with_its_status() -> None:
    with Archive(status=0xA700).listening() as archive:
        error = _failure(archive.remote)
    assert isinstance(error, Transient)
    assert (error.code, error.figures) == ("find_failed", {"status": "0xA700"})


def test_a_peer_without_end_is_cut_off() -> None:
    says = [series_answer(uid("study"), uid(number), 1) for number in range(50)]
    with Archive(says=says).listening() as archive:
        assert _failure(archive.remote, most=20).code == "find_endless"


def test_a_peer_that_falls_silent_in_the_middle() -> None:
    release = threading.Event()

    class Stalling(Archive):
        def _find(self, event):
            yield 0xFF00, series_answer(uid("study"), uid("a"), 1)
            release.wait(10)
            yield 0x0000, None

    with Stalling().listening() as archive:
        error = _failure(archive.remote, timeout_s=0.5)
        release.set()
    assert error.code == "peer_silent"


@pytest.mark.parametrize("script", [
    lambda connection: None,
    lambda connection: connection.shutdown(socket.SHUT_RDWR),
    lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8),
], ids=["silent", "hangs up", "speaks something else"])  # fmt: skip
def test_no_association(script) -> None:
    with raw_server(script) as peer:
        assert _failure(peer, timeout_s=0.4).code == "peer_aborted"
