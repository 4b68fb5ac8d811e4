"""Is it a head, and are vertex and base there: heads and trunks computed from ellipsoids, a real head cut in two.

The generated heads are pictures of what the rule looks for, so the real head says whether its thresholds hold. Left
out: whether there is a brain at all, which the mask judges on the whole volume.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_node.dicom.gate import GateOutcome, GateStatus, check_stack
from dicom_node.dicom.pixels import pixel_digest, read_slice_hu
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings
from dicom_node.dicom.values import SliceHeader, read_header
from dicom_node.errors import Permanent, Transient
from dicom_node.offline import OfflineRules, plan_study
from tests.dicom_node.dicom.builders import ct_dataset, header_stack, write

SIZE = 96  # px
SPACING_MM = 4.0
HALF_HEIGHT_MM = 60.0
SLICES = 24


def _plane_mm() -> tuple[np.ndarray, np.ndarray]:
    """Heights of the rows (SIZE, 1) and places of the columns (SIZE,) about the centre of a slice."""
    axis = (np.arange(SIZE) - (SIZE - 1) / 2.0) * SPACING_MM
    return axis[:, None], axis


def _head(z: float, centre_mm: float) -> np.ndarray:
    """A brain in a skull of 7 mm, 160 x 190 mm wide and 120 mm high, at height `z` of a stack."""
    y, x = _plane_mm()
    image = np.full((SIZE, SIZE), -1000.0, np.float32)
    for inset, hu in ((0.0, 1000.0), (7.0, 35.0)):
        inside = (
            (x / (80.0 - inset)) ** 2 + (y / (95.0 - inset)) ** 2 + ((z - centre_mm) / (HALF_HEIGHT_MM - inset)) ** 2
        )
        image[inside < 1.0] = hu
    return image


def _trunk() -> np.ndarray:
    """A trunk of 340 x 240 mm with a spine: 641 cm2."""
    y, x = _plane_mm()
    image = np.full((SIZE, SIZE), -1000.0, np.float32)
    image[(x / 170.0) ** 2 + (y / 120.0) ** 2 < 1.0] = 40.0
    image[(x / 20.0) ** 2 + ((y - 70.0) / 20.0) ** 2 < 1.0] = 600.0
    return image


def _stack(*, flipped: bool = False) -> list[SliceHeader]:
    return header_stack(SLICES, flipped=flipped, rows=SIZE, columns=SIZE, pixel_spacing_mm=(SPACING_MM, SPACING_MM))


def _height(header: SliceHeader) -> float:
    assert header.image_position_patient is not None
    return header.image_position_patient[2]


def _check(headers: list[SliceHeader], read, **thresholds: float) -> GateOutcome:
    return check_stack(headers, GeometrySettings(**thresholds), pixel_digest=str, read_slice=read)


def _codes(outcome: GateOutcome) -> list[str]:
    return [note.partition(":")[0] for note in outcome.notes]


@pytest.mark.parametrize("flipped", [False, True], ids=["towards the head", "towards the feet"])
@pytest.mark.parametrize(
    ("centre_mm", "codes"),
    [(57.5, []), (97.5, ["vertex_cut_off"]), (17.5, ["base_cut_off"])],
    ids=["whole", "vertex", "base"],
)
def test_cut_ends_are_noted_whichever_way_the_normal_points(flipped: bool, centre_mm: float, codes: list[str]) -> None:
    outcome = _check(_stack(flipped=flipped), lambda header: _head(_height(header), centre_mm))
    assert outcome.code is None
    assert _codes(outcome) == codes
    sections = outcome.figures["sections_cm2"]
    assert isinstance(sections, list)
    assert len(sections) == 5
    # From the feet upwards: what is cut off at the top has its largest section above the middle of the stack.
    assert int(np.argmax(sections)) == {57.5: 2, 97.5: 3, 17.5: 1}[centre_mm]


def test_a_slab_inside_the_brain_has_both_ends_cut_off() -> None:
    outcome = _check(_stack()[:20], lambda header: _head(0.2 * (_height(header) - 47.5), 0.0))
    assert _codes(outcome) == ["base_cut_off", "vertex_cut_off"]


def test_the_figure_is_the_area_inside_the_skull() -> None:
    # The topmost slice cuts the inner ellipsoid at 17.5 of 53 mm; the bridge takes up to two pixels off its rim.
    outcome = _check(_stack(), lambda header: _head(_height(header), 97.5))
    shrink = np.sqrt(1.0 - (17.5 / 53.0) ** 2)
    whole = np.pi * 73.0 * 88.0 * shrink**2 / 100.0
    rim = np.pi * (73.0 * shrink - 8.0) * (88.0 * shrink - 8.0) / 100.0
    brain = outcome.figures["vertex_brain_cm2"]
    assert isinstance(brain, float)
    assert rim <= brain <= whole


def test_a_trunk_is_refused_with_its_sections() -> None:
    outcome = _check(_stack(), lambda header: _trunk())
    assert outcome.code == "not_a_head"
    assert outcome.figures["sections_cm2"] == pytest.approx([641.0] * 5, rel=0.03)
    assert outcome.figures["slices_concerned"] == 5
    assert _check(_stack(), lambda header: _trunk(), max_head_section_cm2=700).code is None


def test_a_head_with_its_shoulders_is_a_head() -> None:
    def read(header: SliceHeader) -> np.ndarray:
        return _trunk() if _height(header) < 40.0 else _head(_height(header), 80.0)

    outcome = _check(_stack(), read)
    assert outcome.code is None
    assert "base_cut_off" not in _codes(outcome)


def test_a_headrest_and_a_slit_in_the_skull_do_not_matter() -> None:
    def read(header: SliceHeader) -> np.ndarray:
        image = _head(_height(header), 97.5)
        image[-3:, :] = 200.0
        image[: SIZE // 2, SIZE // 2] = 35.0
        return image

    outcome = _check(_stack(), read)
    assert outcome.code is None
    assert _codes(outcome) == ["vertex_cut_off"]


def test_pixels_that_do_not_decode_are_left_to_the_worker() -> None:
    def read(header: SliceHeader) -> np.ndarray:
        if _height(header) > 100.0:
            raise Permanent("pixel_data", "truncated")
        return _head(_height(header), 97.5)

    outcome = _check(_stack(), read)
    assert outcome.status is GateStatus.NOTE
    assert outcome.notes == ("pixels_unseen: 1 of 5 slices looked at do not decode",)
    assert "vertex_brain_cm2" not in outcome.figures

    def never(header: SliceHeader) -> np.ndarray:
        raise Permanent("pixel_data", "truncated")

    assert _codes(_check(_stack(), never)) == ["pixels_unseen"]


def test_a_failing_disk_is_no_finding() -> None:
    def fail(header: SliceHeader) -> np.ndarray:
        raise Transient("storage", "errno 5")

    with pytest.raises(Transient, match="storage"):
        _check(_stack(), fail)


def test_pixels_are_looked_at_only_when_the_geometry_is_sound() -> None:
    def never(header: SliceHeader) -> np.ndarray:
        raise AssertionError("a refused stack needs no pixels")

    assert _check(_stack()[:5], never).code == "coverage"


# --- real files --------------------------------------------------------------------------------------------------


def test_a_folder_with_a_trunk_named_head_is_refused(tmp_path: Path) -> None:
    headers = [
        read_header(
            write(
                ct_dataset(
                    k,
                    position=(-190.0, -190.0, 5.0 * k),
                    pixel_spacing=(SPACING_MM, SPACING_MM),
                    pixels=(_trunk() + 1024.0).astype(np.uint16),
                ),
                tmp_path / f"{k}.dcm",
            )
        )
        for k in range(SLICES)
    ]
    rules = OfflineRules(selection=SelectionSettings())
    plan = plan_study("1.2.3", {headers[0].series_instance_uid: headers}, rules)
    assert plan.gate is not None
    assert plan.gate.code == "not_a_head"


@pytest.mark.parametrize(
    ("first", "last", "codes"),
    [
        (0, 28, []),
        (0, 20, ["vertex_cut_off"]),
        (8, 28, ["base_cut_off"]),
        (8, 24, ["base_cut_off", "vertex_cut_off"]),
    ],
)
def test_a_real_head_whole_and_cut(shared_data: Path, first: int, last: int, codes: list[str]) -> None:
    headers = [read_header(path) for path in sorted((shared_data / "ge_head_ct").iterdir())][first:last]
    thresholds = GeometrySettings(min_coverage_mm=60)
    outcome = check_stack(headers, thresholds, pixel_digest=pixel_digest, read_slice=read_slice_hu)
    assert outcome.code is None
    assert _codes(outcome) == ["tilt", "mixed_thickness", "overlap", *codes]
    sections = outcome.figures["sections_cm2"]
    assert isinstance(sections, list)
    assert max(sections) < 300.0


def test_an_empty_skull_is_no_cut_head(shared_data: Path) -> None:
    headers = [read_header(path) for path in sorted((shared_data / "philips_study").iterdir())]
    axial = [header for header in headers if header.series_number == 201]
    outcome = check_stack(axial, GeometrySettings(), pixel_digest=pixel_digest, read_slice=read_slice_hu)
    assert outcome.status is GateStatus.PASS
