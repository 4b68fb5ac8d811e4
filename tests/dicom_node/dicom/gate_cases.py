"""Asking the gate and reading its answer, for the tests of the gate."""

from __future__ import annotations

import json
from collections.abc import Callable

from dicom_node.dicom.gate import GateOutcome, GateStatus, check_stack
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import SliceHeader

DEFAULTS = GeometrySettings()
LENIENT = GeometrySettings(min_slices=1, min_coverage_mm=0)


def never(header: SliceHeader) -> str:
    raise AssertionError("pixels are read only for slices at one position")


def check(
    headers: list[SliceHeader],
    thresholds: GeometrySettings = DEFAULTS,
    digest: Callable[[SliceHeader], str] = never,
) -> GateOutcome:
    outcome = check_stack(headers, thresholds, pixel_digest=digest)
    json.dumps(outcome.figures, allow_nan=False)
    assert set(outcome.repairs) <= set(outcome.notes)
    assert (outcome.status is GateStatus.REFUSE) == (outcome.code is not None) == (not outcome.headers)
    return outcome


def codes(outcome: GateOutcome) -> list[str]:
    return [note.partition(":")[0] for note in outcome.notes]


def numbers(outcome: GateOutcome) -> list[object]:
    slices = outcome.figures["slices"]
    assert isinstance(slices, list)
    return [where["instance_number"] for where in slices]
