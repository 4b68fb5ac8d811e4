"""docs/geometry.md is what the code says, and the code says all of it: each code, figure and threshold really occurs.

Left out: where exactly the limits lie (test_gate, test_gate_pixels).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dicom_node.dicom.gate import GateOutcome, GateStatus, check_stack
from dicom_node.dicom.gate_codes import CODES, FIGURES
from dicom_node.dicom.gate_page import main, render
from dicom_node.dicom.gate_stack import Refusal, Stack
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import SliceHeader
from dicom_node.errors import Permanent
from tests.dicom_node.dicom.builders import axial_orientation, header_stack, make_header

ROOT = Path(__file__).resolve().parents[3]


def _flat(hu: float) -> Callable[[SliceHeader], np.ndarray]:
    return lambda header: np.full((512, 512), hu, np.float32)


def _ring(header: SliceHeader) -> np.ndarray:
    radius = np.hypot(*(np.indices((512, 512)) - 255.5)) * 0.5
    return np.where(radius < 70, 35.0, np.where(radius < 78, 900.0, -1000.0)).astype(np.float32)


def _broken(header: SliceHeader) -> np.ndarray:
    raise Permanent("pixel_data", "truncated")


def _with(index: int, **changes: object) -> list[SliceHeader]:
    """Give a good stack with one slice that is different."""
    headers = header_stack()
    changes = {"image_position_patient": headers[index].image_position_patient, **changes}
    headers[index] = make_header(index, **changes)
    return headers


def _sagittal(index: int) -> SliceHeader:
    return make_header(index, image_orientation_patient=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))


#: For each code a stack that brings it out, and the pixels it shows.
CASES: dict[str, tuple[list[SliceHeader], Callable[[SliceHeader], np.ndarray] | None]] = {
    "identity_conflict": (_with(3, patient_key="0" * 64), None),
    "no_position": (_with(3, image_position_patient=None), None),
    "no_spacing": (_with(3, pixel_spacing_mm=None), None),
    "orientation": (header_stack(image_orientation_patient=(1.0, 0, 0, 0.6, 0.8, 0)), None),
    "orientation_spread": (_with(3, image_orientation_patient=axial_orientation(5.0)), None),
    "in_plane_mismatch": (_with(3, rows=256), None),
    "field_too_large": (header_stack(pixel_spacing_mm=(2.0, 2.0)), None),
    "duplicate_position": ([*header_stack(), make_header(3, sop_instance_uid="1.2.3", path=Path("other"))], None),
    "gap": (header_stack()[:9] + header_stack()[10:], None),
    "coverage": (header_stack(7), None),
    "not_a_head": (header_stack(), _flat(40.0)),
    "not_a_slice": ([*header_stack(), make_header(40, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))], None),
    "other_view": ([*header_stack(), _sagittal(40)], None),
    "duplicates": ([*header_stack(), make_header(3)], None),
    "no_frame_of_reference": (header_stack(frame_of_reference_uid=None), None),
    "tilt": (header_stack(tilt_deg=20.0), None),
    "oblique": (header_stack(image_orientation_patient=(0.96, 0.28, 0.0, -0.28, 0.96, 0.0)), None),
    "shear": ([make_header(k, image_position_patient=(k, 0.0, 5.0 * k)) for k in range(24)], None),
    "lateral_shift": (_with(3, image_position_patient=(-100.0, -130.0, 15.0)), None),
    "non_square_pixels": (header_stack(pixel_spacing_mm=(0.5, 0.6)), None),
    "small_field": (header_stack(rows=256), None),
    "thickness_unknown": (header_stack(slice_thickness_mm=None), None),
    "mixed_thickness": (_with(3, slice_thickness_mm=6.0), None),
    "overlap": (header_stack(48, spacing=2.5), None),
    "spaced": (header_stack(spacing=7.0), None),
    "vertex_cut_off": (header_stack(), _ring),
    "base_cut_off": (header_stack(), _ring),
    "pixels_unseen": (header_stack(), _broken),
}


def _outcome(code: str) -> GateOutcome:
    headers, read = CASES[code]
    return check_stack(headers, GeometrySettings(), pixel_digest=lambda header: str(header.path), read_slice=read)


def test_there_is_a_case_for_every_code() -> None:
    assert set(CASES) == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_code_occurs_with_its_status_and_figures(code: str) -> None:
    outcome, listed = _outcome(code), CODES[code]
    noted = {note.partition(":")[0] for note in outcome.notes}
    repaired = {note.partition(":")[0] for note in outcome.repairs}
    if listed.status is GateStatus.REFUSE:
        assert (outcome.status, outcome.code) == (GateStatus.REFUSE, code)
        assert outcome.headers == ()
    else:
        assert outcome.status is listed.status
        assert code in noted
        assert (code in repaired) == (listed.status is GateStatus.REPAIR)
    assert set(listed.figures) <= set(outcome.figures)


def test_every_figure_occurs_and_is_explained() -> None:
    seen = {figure for code in CASES for figure in _outcome(code).figures}
    assert seen == set(FIGURES)
    assert {figure for code in CODES.values() for figure in code.figures} <= set(FIGURES)


def test_every_threshold_belongs_to_a_code() -> None:
    assert {key for code in CODES.values() for key in code.settings} == set(GeometrySettings.model_fields)


def test_a_code_that_is_not_listed_cannot_be_given_out() -> None:
    stack = Stack([], GeometrySettings(), str)
    with pytest.raises(KeyError):
        stack.note("news", "text")
    with pytest.raises(KeyError):
        Refusal("news", "text")
    with pytest.raises(AssertionError):
        Refusal("tilt", "a note is no refusal")


def test_the_page_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    """To write it anew: make docs."""
    main()
    assert (ROOT / "docs" / "geometry.md").read_text("utf-8") == capsys.readouterr().out == render()


def test_the_page_tells_every_code_figure_and_threshold() -> None:
    page = render()
    for name in (*CODES, *FIGURES, *GeometrySettings.model_fields):
        assert f"| `{name}` |" in page, name
    # A vertical bar inside a cell would shift its row.
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.count("|") in {3, 4, 6}, line
