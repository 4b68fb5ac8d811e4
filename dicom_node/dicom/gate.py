"""The geometry gate: may this stack be processed? Pass, note, repair, or refuse with numbers and the slices concerned.

Every rule of `gate_rules.RULES` looks at the stack in turn. It may drop an instance (a repair that is noted), leave a
note, or refuse; the first refusal ends the walk. The order is fixed: identity before geometry, and what makes a later
measurement meaningless before that measurement. All codes are in `gate_codes.CODES`; docs/geometry.md is written from
that list.

Feet first, prone, decubitus and reversed order are no finding at all: positions say where a slice lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicom_node.dicom.gate_codes import GateStatus
from dicom_node.dicom.gate_rules import RULES
from dicom_node.dicom.gate_stack import LISTED, PixelDigest, ReadSlice, Refusal, Stack, number_of, where
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import SliceHeader

__all__ = ["GateOutcome", "GateStatus", "check_stack"]


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
        ``code: text`` each, repairs included; also there on a refusal, for what was seen before it.
    repairs : tuple of str
        Those of the notes that say what was done to the series.
    figures : Mapping[str, object]
        JSON-serialisable numbers, units in the keys; on a refusal ``slices`` lists those concerned by InstanceNumber
        and position along the normal. `gate_codes.FIGURES` says what each means.
    headers : tuple of SliceHeader
        What may be processed, ascending along the normal; empty on a refusal.
    """

    status: GateStatus
    code: str | None
    reason: str
    notes: tuple[str, ...]
    repairs: tuple[str, ...]
    figures: Mapping[str, object]
    headers: tuple[SliceHeader, ...]


def check_stack(
    headers: Sequence[SliceHeader],
    thresholds: GeometrySettings,
    *,
    pixel_digest: PixelDigest,
    read_slice: ReadSlice | None = None,
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
    read_slice : callable, optional
        Pixels of a slice in HU, `dicom_node.dicom.pixels.read_slice_hu`; asked for a few slices once the geometry is
        sound, to tell a trunk from a head and a cut one from a whole one. Without it nobody looks.

    Returns
    -------
    GateOutcome
        Bad geometry is an outcome, never an exception, and does not depend on the order of `headers`.

    Raises
    ------
    dicom_node.errors.NodeError
        What `pixel_digest` raises, and what `read_slice` raises beyond `dicom_node.errors.Permanent`.
    """
    # The order of arrival must not show anywhere, not even in the order of a list in the figures.
    ordered = sorted(headers, key=lambda header: (number_of(header), header.sop_instance_uid, str(header.path)))
    stack = Stack(ordered, thresholds, pixel_digest, read_slice)
    stack.figures["instances"] = len(ordered)
    for rule in RULES:
        refusal = rule(stack)
        if refusal is not None:
            return _refuse(stack, refusal)
    status = GateStatus.REPAIR if stack.repairs else GateStatus.NOTE if stack.notes else GateStatus.PASS
    reason = f"{len(stack.headers)} slices, {stack.figures['coverage_mm']} mm"
    if stack.notes:
        reason += f", {len(stack.notes)} note" + ("s" if len(stack.notes) > 1 else "")
    return _outcome(stack, status, None, reason, stack.figures, stack.headers)


def _refuse(stack: Stack, refusal: Refusal) -> GateOutcome:
    concerned = [where(header, stack.normal) for header in refusal.slices[:LISTED]]
    figures = {**stack.figures, "slices_concerned": len(refusal.slices), "slices": concerned}
    return _outcome(stack, GateStatus.REFUSE, refusal.code, refusal.reason, figures, ())


def _outcome(
    stack: Stack,
    status: GateStatus,
    code: str | None,
    reason: str,
    figures: Mapping[str, object],
    headers: Sequence[SliceHeader],
) -> GateOutcome:
    return GateOutcome(status, code, reason, tuple(stack.notes), tuple(stack.repairs), figures, tuple(headers))
