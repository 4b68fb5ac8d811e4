"""Rules of the gate about what belongs together: one patient, one study, one frame of reference, slices only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from dicom_node.dicom.gate_stack import Refusal, Stack, plural
from dicom_node.dicom.values import InstanceKind, SliceHeader

__all__ = ["drop_non_images", "no_uid_twice", "one_frame_of_reference", "one_patient_one_study"]


def one_patient_one_study(stack: Stack) -> Refusal | None:
    """All instances, screens and localizers included, belong to one patient, study and series."""
    # Screens and localizers are asked too: a foreign patient's dose screen is as alarming as a foreign slice.
    return _first_conflict(
        stack,
        {
            "PatientID": lambda header: header.patient_key,
            "StudyInstanceUID": lambda header: header.study_instance_uid,
            "SeriesInstanceUID": lambda header: header.series_instance_uid,
        },
    )


def drop_non_images(stack: Stack) -> Refusal | None:
    """Leave out what is no slice: localizers, screens, other objects."""
    dropped = [header for header in stack.headers if header.kind is not InstanceKind.IMAGE]
    if not dropped:
        return None
    stack.leave_out(dropped)
    for kind, count in sorted(Counter(header.kind.value for header in dropped).items()):
        stack.note("not_a_slice", f"{plural(count, 'instance')} of kind {kind} dropped")
    stack.figures["dropped_non_images"] = len(dropped)
    return None


def one_frame_of_reference(stack: Stack) -> Refusal | None:
    """All slices lie in one frame of reference (PS3.3 C.7.4.1.1.1), else their positions cannot be compared."""
    refusal = _first_conflict(stack, {"FrameOfReferenceUID": lambda header: header.frame_of_reference_uid or ""})
    if refusal is None and stack.headers and stack.headers[0].frame_of_reference_uid is None:
        stack.note("no_frame_of_reference", "FrameOfReferenceUID is missing; viewers cannot link the result by it")
    return refusal


def no_uid_twice(stack: Stack) -> Refusal | None:
    """No two slices share a SOPInstanceUID, from which the UID of the result's slice is made; frames count apart."""
    # Asked after copies of one slice were dropped, so what still shares a UID lies at two positions.
    counts = Counter((header.sop_instance_uid, header.frame_number) for header in stack.headers)
    shared = [header for header in stack.headers if counts[header.sop_instance_uid, header.frame_number] > 1]
    if not shared:
        return None
    stack.figures["conflicting_attribute"] = "SOPInstanceUID"
    stack.figures["different_values"] = len({header.sop_instance_uid for header in shared})
    reason = f"{plural(len(shared), 'slice')} at different positions share a SOPInstanceUID with another"
    return Refusal("identity_conflict", reason, shared)


def _first_conflict(stack: Stack, attributes: Mapping[str, Callable[[SliceHeader], str]]) -> Refusal | None:
    for keyword, value_of in attributes.items():
        counts = Counter(value_of(header) for header in stack.headers)
        if len(counts) > 1:
            # The commonest value is taken for the right one; of equally common ones the first in sort order.
            usual = min(counts, key=lambda value: (-counts[value], value))
            odd = [header for header in stack.headers if value_of(header) != usual]
            stack.figures["conflicting_attribute"] = keyword
            stack.figures["different_values"] = len(counts)
            reason = f"{keyword} differs within the series: {len(counts)} values, {plural(len(odd), 'instance')} odd"
            return Refusal("identity_conflict", reason, odd)
    return None
