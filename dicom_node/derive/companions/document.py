"""Content items that the structured reports share."""

from __future__ import annotations

from typing import Any

from highdicom.sr import (
    DeviceObserverIdentifyingAttributes,
    ObserverContext,
    TextContentItem,
)
from highdicom.sr.coding import CodedConcept
from highdicom.sr.enum import RelationshipTypeValues
from pydicom.sr.codedict import codes

from dicom_node.derive.companions.frame import Frame
from dicom_node.derive.origin import ascii_text
from dicom_node.dicom.labels import MANUFACTURER, MODEL_NAME
from dicom_node.dicom.uids import derived_uid


def device_context(frame: Frame) -> Any:  # noqa: ANN401 - highdicom publishes no types
    """Say that the node, a device, is the observer (PS3.16 TID 1002 and 1004)."""
    return ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", frame.node_id),
            name=MODEL_NAME,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=ascii_text(frame.node_id),
        ),
    )


def text_item(name: CodedConcept, text: str) -> Any:  # noqa: ANN401 - highdicom publishes no types
    """A paragraph of our own, as ASCII."""
    return TextContentItem(name=name, value=ascii_text(text), relationship_type=RelationshipTypeValues.CONTAINS)
