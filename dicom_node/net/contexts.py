"""What the node accepts: SOP classes and transfer syntaxes, and how they are chosen.

A PACS forwards whole studies. A sender that is refused one context often gives up the whole association, so the node
accepts every Storage SOP class of PS3.4 Annex B.5, stores what arrives, and processes CT alone. Private SOP classes are
refused context by context, which leaves the CT contexts beside them untouched.

Transfer syntaxes are those whose pixels the node can decode, plus, for classes that are only stored, video and
high-throughput JPEG 2000.
The order of preference is the requestor's: a sender that holds JPEG-LS proposes it first and must not be made to
decompress (PS3.8 section 9.3.2.2 leaves the choice to the acceptor).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydicom import uid
from pynetdicom import AllStoragePresentationContexts, build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    StorageCommitmentPushModel,
    Verification,
)

#: CT classes whose pixels we read.
CT_CLASSES: Final[frozenset[str]] = frozenset(
    str(sop_class) for sop_class in (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
)

#: Uncompressed encodings, in which one can be turned into another without touching pixels.
UNCOMPRESSED_SYNTAXES: Final[tuple[str, ...]] = (
    str(uid.ImplicitVRLittleEndian),
    str(uid.ExplicitVRLittleEndian),
    str(uid.DeflatedExplicitVRLittleEndian),
    str(uid.ExplicitVRBigEndian),
)

#: Accepted for storage commitment. Deflated is not: a few bytes could unfold into any number of references.
COMMITMENT_SYNTAXES: Final[tuple[str, ...]] = tuple(
    syntax for syntax in UNCOMPRESSED_SYNTAXES if syntax != str(uid.DeflatedExplicitVRLittleEndian)
)

#: Transfer syntaxes whose pixels the node can decode.
DECODABLE_SYNTAXES: Final[tuple[str, ...]] = (
    *UNCOMPRESSED_SYNTAXES,
    str(uid.JPEGBaseline8Bit),
    str(uid.JPEGExtended12Bit),
    str(uid.JPEGLossless),
    str(uid.JPEGLosslessSV1),
    str(uid.JPEGLSLossless),
    str(uid.JPEGLSNearLossless),
    str(uid.JPEG2000Lossless),
    str(uid.JPEG2000),
    str(uid.RLELossless),
)

#: Accepted for classes other than CT, because their objects are only kept.
STORED_ONLY_SYNTAXES: Final[tuple[str, ...]] = (
    str(uid.HTJ2KLossless),
    str(uid.HTJ2KLosslessRPCL),
    str(uid.HTJ2K),
    str(uid.MPEG2MPML),
    str(uid.MPEG2MPHL),
    str(uid.MPEG4HP41),
    str(uid.MPEG4HP41BD),
    str(uid.HEVCMP51),
    str(uid.HEVCM10P51),
)

#: Every Storage SOP class that is accepted.
STORAGE_CLASSES: Final[frozenset[str]] = frozenset(
    str(context.abstract_syntax) for context in AllStoragePresentationContexts
)

_VERIFICATION: Final = str(Verification)
_COMMITMENT: Final = str(StorageCommitmentPushModel)


def accepted_syntaxes(sop_class_uid: str, *, may_store: bool = True, may_commit: bool = True) -> tuple[str, ...]:
    """Transfer syntaxes accepted for a SOP class; empty when the class itself is refused.

    Parameters
    ----------
    sop_class_uid : str
        Abstract syntax of a proposed presentation context.
    may_store : bool
        Whether the caller may send objects at all.
    may_commit : bool
        Whether the caller has to do with storage commitment, as one who asks us or one whom we ask.
    """
    if sop_class_uid == _VERIFICATION:
        return UNCOMPRESSED_SYNTAXES
    if sop_class_uid == _COMMITMENT:
        return COMMITMENT_SYNTAXES if may_commit else ()
    if not may_store or sop_class_uid not in STORAGE_CLASSES:
        return ()
    return DECODABLE_SYNTAXES if sop_class_uid in CT_CLASSES else DECODABLE_SYNTAXES + STORED_ONLY_SYNTAXES


def answer_in_requestors_order(
    proposed: Iterable[PresentationContext], *, may_store: bool = True, may_commit: bool = True
) -> list[PresentationContext]:
    """Choose one transfer syntax for every proposed context: the first of the requestor's that we accept.

    pynetdicom walks the acceptor's list and would let our order win (pynetdicom issue 1085). Reducing each proposal
    to the one syntax to be accepted, before pynetdicom negotiates, keeps the rest of its negotiation as it is.

    Parameters
    ----------
    proposed : iterable of PresentationContext
        The contexts of the A-ASSOCIATE request; each that can be accepted is reduced in place.
    may_store : bool
        Whether the caller may send objects at all.
    may_commit : bool
        Whether the caller has to do with storage commitment.

    Returns
    -------
    list of PresentationContext
        What the acceptor is to support for this association, one entry per abstract syntax. Storage commitment is
        supported in either role, because a report comes from the side that opens the association.
    """
    supported: dict[str, list[str]] = {}
    for context in proposed:
        sop_class_uid = str(context.abstract_syntax)
        accepted = accepted_syntaxes(sop_class_uid, may_store=may_store, may_commit=may_commit)
        chosen = next((syntax for syntax in context.transfer_syntax if syntax in accepted), None)
        if chosen is not None:
            context.transfer_syntax = [chosen]
            supported.setdefault(sop_class_uid, []).append(chosen)
        elif accepted:
            supported.setdefault(sop_class_uid, []).append(accepted[0])
    contexts = [build_context(sop_class, list(dict.fromkeys(syntaxes))) for sop_class, syntaxes in supported.items()]
    for context in contexts:
        if context.abstract_syntax == _COMMITMENT:
            context.scu_role = context.scp_role = True
    return contexts
