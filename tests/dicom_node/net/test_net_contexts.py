"""Which presentation contexts are accepted, and that the requestor's order decides.

Covers the tables and the choice by itself, and the choice in a real negotiation with pynetdicom's acceptor code.
Foreign senders are left to `test_receive_dcmtk`.
"""

from __future__ import annotations

import pydicom.uid as uid
import pytest
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor
from pynetdicom.sop_class import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    SegmentationStorage,
    StorageCommitmentPushModel,
    Verification,
    VideoEndoscopicImageStorage,
)

from dicom_node.net.contexts import (
    DECODABLE_SYNTAXES,
    STORAGE_CLASSES,
    STORED_ONLY_SYNTAXES,
    accepted_syntaxes,
    answer_in_requestors_order,
)


def propose(*pairs: tuple[str, list[str]]) -> list[PresentationContext]:
    contexts = []
    for index, (sop_class, syntaxes) in enumerate(pairs):
        context = build_context(sop_class, syntaxes)
        context.context_id = 2 * index + 1
        contexts.append(context)
    return contexts


def negotiate(proposed: list[PresentationContext], **options: bool) -> list[tuple[int, str]]:
    """Result and transfer syntax per context, by pynetdicom's own acceptor."""
    supported = answer_in_requestors_order(proposed, **options)
    results, _ = negotiate_as_acceptor(proposed, supported)
    return [(context.result, str(context.transfer_syntax[0])) for context in results]


@pytest.mark.parametrize("first", DECODABLE_SYNTAXES)
def test_the_first_syntax_of_the_requestor_wins(first: str) -> None:
    others = [syntax for syntax in DECODABLE_SYNTAXES if syntax != first]
    assert negotiate(propose((CTImageStorage, [first, *others]))) == [(0, first)]


@pytest.mark.parametrize("sop_class", [EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage])
def test_enhanced_ct_is_accepted_in_every_syntax_of_classic_ct(sop_class: str) -> None:
    assert accepted_syntaxes(sop_class) == accepted_syntaxes(CTImageStorage) == DECODABLE_SYNTAXES


def test_each_context_is_judged_by_its_own_order() -> None:
    jls, explicit = str(uid.JPEGLSLossless), str(uid.ExplicitVRLittleEndian)
    proposed = propose((CTImageStorage, [explicit, jls]), (CTImageStorage, [jls, explicit]), (CTImageStorage, [jls]))
    assert negotiate(proposed) == [(0, explicit), (0, jls), (0, jls)]


def test_unknown_syntaxes_and_classes_are_refused_without_harm_to_their_neighbours() -> None:
    private = "1.2.3.4.5"
    proposed = propose(
        ("1.2.840.113619.4.26", [uid.ImplicitVRLittleEndian]),  # a private storage class
        (CTImageStorage, [private]),
        (CTImageStorage, [private, uid.RLELossless]),
        (PatientRootQueryRetrieveInformationModelFind, [uid.ImplicitVRLittleEndian]),
    )
    results = negotiate(proposed)
    assert [result for result, _ in results] == [3, 4, 0, 3]
    assert results[2] == (0, str(uid.RLELossless))


def test_a_peer_that_may_not_store_may_still_echo() -> None:
    proposed = propose((Verification, [uid.ImplicitVRLittleEndian]), (CTImageStorage, [uid.ExplicitVRLittleEndian]))
    assert [result for result, _ in negotiate(proposed, may_store=False)] == [0, 3]


def test_what_a_pacs_forwards_is_accepted() -> None:
    for sop_class in (
        CTImageStorage,
        EnhancedCTImageStorage,
        MRImageStorage,
        SegmentationStorage,
        EncapsulatedPDFStorage,
    ):
        assert accepted_syntaxes(sop_class), sop_class
    assert len(STORAGE_CLASSES) > 128


def test_video_is_kept_but_never_as_ct() -> None:
    assert set(STORED_ONLY_SYNTAXES) <= set(accepted_syntaxes(VideoEndoscopicImageStorage))
    assert not set(STORED_ONLY_SYNTAXES) & set(accepted_syntaxes(CTImageStorage))


def test_every_accepted_ct_syntax_can_be_decoded_by_an_installed_plugin() -> None:
    from pydicom.pixels import get_decoder

    for syntax in DECODABLE_SYNTAXES:
        assert get_decoder(uid.UID(syntax)).is_available, uid.UID(syntax).name


def test_storage_commitment_is_for_those_who_ask_or_are_asked_in_either_role_and_never_deflated() -> None:
    deflated, implicit = str(uid.DeflatedExplicitVRLittleEndian), str(uid.ImplicitVRLittleEndian)
    proposed = propose((StorageCommitmentPushModel, [deflated, implicit]))
    assert negotiate(proposed, may_store=False, may_commit=False) == [(3, deflated)]
    (context,) = answer_in_requestors_order(proposed, may_store=False)
    assert (context.transfer_syntax, context.scu_role, context.scp_role) == ([implicit], True, True)
    results, (reply,) = negotiate_as_acceptor(proposed, [context], {uid.UID(StorageCommitmentPushModel): (False, True)})
    assert [(one.as_scu, one.as_scp) for one in results] == [(True, False)]
    assert (reply.scu_role, reply.scp_role) == (False, True)
