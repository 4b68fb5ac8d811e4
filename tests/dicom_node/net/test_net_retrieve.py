"""C-MOVE and C-GET as requestor: what is proposed, and what each answer of a peer means to an administrator.

Left out: images that arrive (`tests/dicom_node/commands/test_pull`), real archives (`tests/peers/test_orthanc_pull`).
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, StudyRootQueryRetrieveInformationModelMove

from dicom_node.errors import NodeError, Permanent, Transient
from dicom_node.net.contexts import CT_CLASSES, DECODABLE_SYNTAXES, STORAGE_CLASSES
from dicom_node.net.remote import Remote
from dicom_node.net.retrieve import MoveSession, get_contexts
from dicom_node.net.retrieve_status import RetrieveResult, counts_of, trouble

KEYS = {"StudyInstanceUID": "1.2.3"}


@contextmanager
def _mover(script, *, model: str = StudyRootQueryRetrieveInformationModelMove):
    """A peer that answers a C-MOVE with what a script says: (status, completed, failed, warnings, remaining)."""
    entity = AE("PACS")
    entity.add_supported_context(model)

    def move(event):
        from pynetdicom.dimse_primitives import C_MOVE

        for status, *counts in script(event):
            answer = C_MOVE()
            answer.MessageIDBeingRespondedTo = event.request.MessageID
            answer.AffectedSOPClassUID = event.request.AffectedSOPClassUID
            answer.Status = status
            names = ("Completed", "Failed", "Warning", "Remaining")
            for name, count in zip(names, counts, strict=False):
                setattr(answer, f"NumberOf{name}Suboperations", count)
            event.assoc.dimse.send_msg(answer, event.context.context_id)
        # What pynetdicom would send beside is kept back.
        event.assoc.dimse.send_msg = lambda *_: None
        yield None, None

    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_MOVE, move)])
    try:
        yield Remote("pacs", "PACS", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()
        for assoc in server.active_associations:
            assoc.abort()


def test_every_encoding_of_ct_has_a_context_and_none_is_over_the_limit() -> None:
    contexts = get_contexts()
    assert len(contexts) == 128
    single = Counter(
        (str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in contexts if len(one.transfer_syntax) == 1
    )
    assert {(ct, syntax) for ct in CT_CLASSES for syntax in DECODABLE_SYNTAXES} <= set(single)
    first = next(one for one in contexts if one.abstract_syntax == CTImageStorage)
    assert set(first.transfer_syntax) == set(DECODABLE_SYNTAXES)
    assert first.transfer_syntax[0] == ExplicitVRLittleEndian
    classes = {str(one.abstract_syntax) for one in contexts[1:]}
    assert classes <= STORAGE_CLASSES
    assert {"1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.4"} <= classes


def test_pending_answers_are_progress_and_the_last_one_is_the_result() -> None:
    seen: list[RetrieveResult] = []
    script = [(0xFF00, 1, 0, 0, 2), (0xFF00, 2, 0, 0, 1), (0xB000, 2, 0, 1)]
    with _mover(lambda event: script) as peer, MoveSession(peer, "ME", "ME", timeout_s=5.0) as session:
        result = session.retrieve("STUDY", KEYS, seen.append)
    assert [one.completed for one in seen] == [1, 2]
    assert (result.status, result.arrived, result.warnings) == (0xB000, 3, 1)
    assert trouble(peer, "C-MOVE", "ME", result) is None, "warnings alone are no failure"


@pytest.mark.parametrize(("status", "kind", "code", "words"), [
    (0xA801, Permanent, "move_destination_unknown", "does not know our AE title 'OURS' as a move destination"),
    (0xA701, Transient, "retrieve_resources", "out of resources"),
    (0xA702, Transient, "retrieve_resources", "a wrong address or port for 'OURS'"),
    (0xA900, Permanent, "retrieve_refused", "0xA900"),
    (0x0122, Permanent, "retrieve_unknown", "does not support C-MOVE"),
    (0x0124, Permanent, "retrieve_not_allowed", "ask the PACS administrator"),
    (0xFE00, Transient, "retrieve_cancelled", "cancelled"),
    (0xC123, Transient, "retrieve_failed", "0xC123"),
    (0x4711, Transient, "retrieve_failed", "0x4711"),
])  # fmt: skip
def test_every_status_is_named_with_who_must_change_what(status, kind, code, words) -> None:
    with _mover(lambda event: [(status,)]) as peer, MoveSession(peer, "OURS", "OURS", timeout_s=5.0) as session:
        result = session.retrieve("STUDY", KEYS)
    found = trouble(peer, "C-MOVE", "OURS", result)
    assert (type(found), found.code) == (kind, code)
    assert words in found.reason
    assert "peer 'pacs' (PACS at 127.0.0.1" in found.reason


@pytest.mark.parametrize(("result", "code"), [
    (RetrieveResult(0x0000, completed=3), None),
    (RetrieveResult(0x0000), None),
    (RetrieveResult(0x0000, completed=2, failed=1), "retrieve_incomplete"),
    (RetrieveResult(0xB000, completed=2, failed=1), "retrieve_incomplete"),
    (RetrieveResult(0xB000, completed=2, warnings=1, failed=0), None),
    (RetrieveResult(0xB000), "retrieve_incomplete"),
])  # fmt: skip
def test_success_counts_only_without_failures(result, code) -> None:
    found = trouble(Remote("pacs", "PACS", "h", 1), "C-GET", "OURS", result)
    assert (found and found.code) == code


def test_counts_that_make_no_sense_are_no_counts() -> None:
    status = Dataset()
    status.Status = 0x0000
    status.NumberOfCompletedSuboperations = 7
    status.NumberOfFailedSuboperations = [1, 2]
    result = counts_of(status, 0)
    assert (result.completed, result.failed) == (7, None)
    both = result.plus(RetrieveResult(0xB000, completed=1, failed=2))
    assert (both.status, both.completed, both.failed, both.warnings) == (0xB000, 8, 2, None)


def test_a_peer_that_ends_in_the_middle_or_knows_no_move() -> None:
    def aborting(event):
        event.assoc.abort()
        return []

    with _mover(aborting) as peer, pytest.raises(NodeError) as caught:  # noqa: SIM117
        with MoveSession(peer, "ME", "ME", timeout_s=5.0) as session:
            session.retrieve("STUDY", KEYS)
    assert caught.value.code == "peer_aborted"
    with _mover(lambda event: [], model=CTImageStorage) as peer, pytest.raises(Permanent) as refused:
        MoveSession(peer, "ME", "ME", timeout_s=5.0).__enter__()
    assert refused.value.code == "retrieve_unknown"
    assert "try --get" in refused.value.reason
