"""The geometry gate: may this stack be processed? Pass, note, repair, or refuse with numbers and the slices concerned.

Every rule of `gate_rules.RULES` looks at the stack in turn. It may drop an instance (a repair that is noted), leave a
note, or refuse; the first refusal ends the walk. The order is fixed: identity before geometry, and what makes a later
measurement meaningless before that measurement.

====================== ============================================================================== ==============
code                   seen                                                                           outcome
====================== ============================================================================== ==============
identity_conflict      PatientID, StudyInstanceUID, SeriesInstanceUID or FrameOfReferenceUID differ   refuse
no_position            a slice without ImagePositionPatient or ImageOrientationPatient                refuse
no_spacing             a slice without PixelSpacing, Rows or Columns                                  refuse
orientation            direction cosines that are no axes; slices tilted too far                      refuse
orientation_spread     slices that are not parallel                                                   refuse
in_plane_mismatch      different matrix or pixel spacing                                              refuse
duplicate_position     one position twice with other pixels (with the same pixels: one is dropped)    refuse, repair
gap                    a slice is missing in the middle                                               refuse
coverage               too few slices, or too short a stack                                           refuse
====================== ============================================================================== ==============

A localizer, dose screen or other non-image instance inside the series is dropped with a note. Tilt within the limit,
mixed thickness, overlap, uneven spacing, sideways shift and an unknown thickness leave a note. Feet first, prone,
decubitus and reversed order are no finding at all: positions say where a slice lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from dicom_node.dicom.gate_rules import LISTED, RULES, Refusal, Stack, number_of, where
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import SliceHeader

__all__ = ["GateOutcome", "GateStatus", "check_stack"]


class GateStatus(Enum):
    """Outcome of the gate."""

    PASS = "pass"  # noqa: S105  (no password)
    NOTE = "note"
    REPAIR = "repair"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """What the gate says of one stack.

    Attributes
    ----------
    status : GateStatus
        REPAIR when an instance was dropped, NOTE when there is something to know, PASS otherwise.
    code : str or None
        Reason code of a refusal.
    reason : str
        One sentence for a person, without patient data.
    notes : tuple of str
        ``code: text`` each; also there on a refusal, for what was seen before it.
    figures : Mapping[str, object]
        JSON-serialisable numbers, units in the keys; on a refusal ``slices`` lists those concerned by InstanceNumber
        and position along the normal.
    headers : tuple of SliceHeader
        What may be processed, ascending along the normal; empty on a refusal.
    """

    status: GateStatus
    code: str | None
    reason: str
    notes: tuple[str, ...]
    figures: Mapping[str, object]
    headers: tuple[SliceHeader, ...]


def check_stack(
    headers: Sequence[SliceHeader], thresholds: GeometrySettings, *, pixel_digest: Callable[[SliceHeader], str]
) -> GateOutcome:
    """Decide whether the instances of one series may be processed as a stack.

    Parameters
    ----------
    headers : sequence of SliceHeader
        All instances of one series, in any order.
    thresholds : GeometrySettings
        Section ``[geometry]`` of the configuration.
    pixel_digest : callable
        Digest of the pixels of a slice, `dicom_node.dicom.pixels.pixel_digest`; asked only for slices at one position.

    Returns
    -------
    GateOutcome
        Bad geometry is an outcome, never an exception, and does not depend on the order of `headers`.

    Raises
    ------
    dicom_node.errors.NodeError
        Only what `pixel_digest` raises.
    """
    # The order of arrival must not show anywhere, not even in the order of a list in the figures.
    ordered = sorted(headers, key=lambda header: (number_of(header), header.sop_instance_uid, str(header.path)))
    stack = Stack(ordered, thresholds, pixel_digest)
    stack.figures["instances"] = len(ordered)
    for rule in RULES:
        refusal = rule(stack)
        if refusal is not None:
            return _refuse(stack, refusal)
    status = GateStatus.REPAIR if stack.repaired else GateStatus.NOTE if stack.notes else GateStatus.PASS
    reason = f"{len(stack.headers)} slices, {stack.figures['coverage_mm']} mm"
    if stack.notes:
        reason += f", {len(stack.notes)} note" + ("s" if len(stack.notes) > 1 else "")
    return GateOutcome(status, None, reason, tuple(stack.notes), stack.figures, tuple(stack.headers))


def _refuse(stack: Stack, refusal: Refusal) -> GateOutcome:
    concerned = [where(header, stack.normal) for header in refusal.slices[:LISTED]]
    figures = {**stack.figures, "slices_concerned": len(refusal.slices), "slices": concerned}
    return GateOutcome(GateStatus.REFUSE, refusal.code, refusal.reason, tuple(stack.notes), figures, ())
