"""The withdrawal of a superseded series as a Key Object document (PS3.16 TID 2010, CID 7010 and 7011)."""

from __future__ import annotations

from typing import Final

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr.coding import CodedConcept
from highdicom.sr.enum import RelationshipTypeValues
from highdicom.sr.value_types import CodeContentItem
from pydicom.sr.codedict import codes

from dicom_node.derive.companions.document import device_context
from dicom_node.derive.companions.frame import Frame, finish, own_code
from dicom_node.derive.companions.request import SeriesReference
from dicom_node.derive.companions.sources import series_stand_ins
from dicom_node.dicom.companion_labels import CLASSES, SUPERSEDED_CODE
from dicom_node.errors import Permanent

DESCRIPTION: Final = "WITHDRAWN synthetic series from CT (AI) - RESEARCH"
#: Classes of which an instance is no image: the others are referred to as images.
_DOCUMENTS: Final = frozenset(CLASSES[kind][0] for kind in ("sr", "gsps", "ko"))


def encode_withdrawal(frame: Frame, withdrawn: SeriesReference) -> bytes:
    """Encode the withdrawal of a series.

    Raises
    ------
    Permanent
        `companion_request` when the series has no instances.
    """
    if not withdrawn.instances:
        raise Permanent("companion_request", "the withdrawn series has no instances")
    is_image = withdrawn.instances[0].sop_class_uid not in _DOCUMENTS
    objects = series_stand_ins(withdrawn, (1, 1) if is_image else None)
    content = KeyObjectSelection(
        document_title=codes.DCM.RejectedForQualityReasons,
        referenced_objects=objects,
        observer_device_context=device_context(frame),
        description=(
            f"The synthetic series {withdrawn.series_instance_uid} is withdrawn: it was superseded by the series "
            f"{frame.facts.replaced_by}, which was made from a newer input. Do not use the withdrawn series."
        ),
    )
    # TID 2010 asks for the reason of a rejection, as the first items.
    content[0].ContentSequence.insert(
        0,
        CodeContentItem(
            name=CodedConcept("113011", "DCM", "Document Title Modifier"),
            value=own_code(SUPERSEDED_CODE, "Superseded by a newer result"),
            relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
        ),
    )
    return finish(KeyObjectSelectionDocument(evidence=objects, content=content, **frame.document()), frame)
