"""The answer to a CT that was not processed, as a Comprehensive 3D SR document with a tree of text."""

from __future__ import annotations

from typing import Final

from highdicom.sr import Comprehensive3DSR, ContainerContentItem, ContentSequence, ImageContentItem
from highdicom.sr.enum import RelationshipTypeValues

from dicom_node.derive.companions.document import device_context, text_item
from dicom_node.derive.companions.frame import Frame, finish, own_code
from dicom_node.derive.companions.note_text import NoteText
from dicom_node.derive.companions.sources import instance_stand_ins
from dicom_node.dicom.refusal_words import ABSENCE

#: So many instances of the refused series are listed as evidence; one is enough to find the series.
_MOST_EVIDENCE: Final = 1000


def encode_note_report(frame: Frame, text: NoteText) -> bytes:
    """Encode the note as a report."""
    evidence = instance_stand_ins(frame.images)[:_MOST_EVIDENCE]
    root = ContainerContentItem(name=own_code("NOT_PROCESSED", "CT not processed by AI software"))
    root.ContentSequence = ContentSequence()
    root.ContentSequence.extend(device_context(frame))
    paragraphs = (
        ("OUTCOME", "Outcome", f"{text.headline}. {text.series}"),
        ("WHY", "Why", text.why),
        ("ADVICE", "What to do", text.advice),
        ("ABSENCE", "What it means", ABSENCE),
        ("REASON_CODE", "Reason code", text.code),
        ("DETAIL", "Seen", text.detail),
        *(("FIGURE", "Figure", figure) for figure in text.figures),
        ("SOFTWARE", "Software", text.software),
    )
    for value, meaning, paragraph in paragraphs:
        if paragraph:
            root.ContentSequence.append(text_item(own_code(value, meaning), paragraph))
    root.ContentSequence.append(
        ImageContentItem(
            name=own_code("REFUSED_SERIES", "Image of the CT series that was not processed"),
            referenced_sop_class_uid=evidence[0].SOPClassUID,
            referenced_sop_instance_uid=evidence[0].SOPInstanceUID,
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
    )
    ds = Comprehensive3DSR(
        evidence=evidence,
        content=ContentSequence([root], is_root=True),
        is_complete=True,
        is_final=False,
        is_verified=False,
        **{key: value for key, value in frame.document().items() if key != "transfer_syntax_uid"},
    )
    return finish(ds, frame)
