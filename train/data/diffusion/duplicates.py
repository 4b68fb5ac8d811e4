"""Files that repeat an instance, and files that cannot belong to the series they claim."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from dicom_node.dicom.pixels import pixel_digest
from dicom_node.errors import NodeError
from train.data.diffusion.facts import Instance
from train.data.diffusion.pixels import stored_bytes

__all__ = ["Kept", "without_duplicates"]

DUPLICATE_UID: Final = "duplicate_uid"


@dataclass(frozen=True, slots=True)
class Kept:
    """The instances of one series, each once, and what was found on the way."""

    instances: tuple[Instance, ...]
    n_repeated: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def without_duplicates(instances: Sequence[Instance]) -> Kept:
    """Drop files that repeat an instance; find two series under one UID.

    A file repeats another when both have one SOPInstanceUID, or one place in the series (acquisition and instance
    number, position, weighting), and the same pixels. With other pixels, two series claim one UID, and the same holds
    when study, patient, modality or frame of reference differ (PS3.3 C.7.3.1, C.7.4.1: one series has one of each).
    Pixels are read only where two files compete.

    Parameters
    ----------
    instances : sequence of Instance
        All files with one SeriesInstanceUID, at least one.
    """
    by_uid: dict[str, Instance] = {}
    by_place: dict[Hashable, Instance] = {}
    kept: list[Instance] = []
    repeated = conflicts = 0
    for instance in instances:
        place = _place(instance)
        rival = by_uid.get(instance.header.sop_instance_uid) or by_place.get(place)
        if rival is None:
            kept.append(instance)
        elif _same_image(rival, instance):
            repeated += 1
            continue
        else:
            conflicts += 1
        by_uid.setdefault(instance.header.sop_instance_uid, instance)
        by_place.setdefault(place, instance)
    faults = (DUPLICATE_UID,) if conflicts or _mixed(instances) else ()
    notes = (f"{repeated} files repeat an instance",) if repeated else ()
    return Kept(tuple(kept), repeated, faults, notes)


def _mixed(instances: Sequence[Instance]) -> bool:
    headers = [instance.header for instance in instances]
    references = {h.frame_of_reference_uid for h in headers if h.frame_of_reference_uid is not None}
    return any(
        len(values) > 1
        for values in (
            {h.study_instance_uid for h in headers},
            {h.patient_key for h in headers},
            {h.modality for h in headers},
            references,
        )
    )


def _place(instance: Instance) -> Hashable:
    """Where an instance stands in its series; the instance itself where that is not known."""
    header = instance.header
    if header.instance_number is None or header.image_position_patient is None or header.number_of_frames > 1:
        return header.sop_instance_uid
    position = tuple(round(value, 2) for value in header.image_position_patient)
    first = instance.frames[0] if instance.frames else None
    weighting = first.weighting if first is not None else None
    acquisition = first.order[0] if first is not None else 0
    return header.instance_number, acquisition, position, header.image_type, weighting


def _same_image(first: Instance, second: Instance) -> bool:
    one, other = first.header, second.header
    if one.image_position_patient != other.image_position_patient or one.study_instance_uid != other.study_instance_uid:
        return False
    try:
        if one.transfer_syntax_uid == other.transfer_syntax_uid and one.number_of_frames == other.number_of_frames:
            return stored_bytes(one.path) == stored_bytes(other.path)
        return pixel_digest(one) == pixel_digest(other)
    except NodeError:
        # Without pixels nothing shows that they are one image.
        return False
