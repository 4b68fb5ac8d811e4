"""The geometry gate: each row of its table has its outcome, code, numbers and slices; real series have theirs.

Generated stacks are in test_gate_properties, what the pixels show in test_gate_pixels, the list of codes in
test_gate_page, views and tilt in test_gate_views. Left out: brain and grid, which the worker judges on the volume.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.dicom.gate import GateStatus
from dicom_node.dicom.pixels import pixel_digest
from dicom_node.dicom.rules import GeometrySettings
from dicom_node.dicom.values import SliceHeader, read_header
from dicom_node.errors import Permanent
from tests.dicom_node.dicom.builders import axial_orientation, ct_stack, header_stack, make_header
from tests.dicom_node.dicom.gate_cases import LENIENT, check, codes, numbers

# --- pass --------------------------------------------------------------------------------------------------------


def test_a_plain_stack_passes_without_a_note() -> None:
    outcome = check(header_stack())
    assert outcome.status is GateStatus.PASS
    assert outcome.notes == ()
    assert [header.instance_number for header in outcome.headers] == list(range(1, 25))
    assert outcome.figures["coverage_mm"] == 120.0
    assert outcome.figures["slice_count"] == 24


@pytest.mark.parametrize("position", ["HFS", "FFS", "HFP", "FFP", "HFDR", "FFDL", ""])
@pytest.mark.parametrize("flipped", [False, True])
def test_patient_position_and_reversed_order_are_no_finding(position: str, flipped: bool) -> None:
    outcome = check(header_stack(flipped=flipped, patient_position=position))
    assert outcome.status is GateStatus.PASS


def test_decubitus_is_axial_all_the_same() -> None:
    outcome = check(header_stack(image_orientation_patient=(0.0, 1.0, 0.0, -1.0, 0.0, 0.0)))
    assert outcome.status is GateStatus.PASS


# --- identity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "keyword"),
    [
        ("patient_key", "0" * 64, "PatientID"),
        ("study_instance_uid", "1.2.3", "StudyInstanceUID"),
        ("series_instance_uid", "1.2.3", "SeriesInstanceUID"),
        ("frame_of_reference_uid", "1.2.3", "FrameOfReferenceUID"),
        ("frame_of_reference_uid", None, "FrameOfReferenceUID"),
    ],
)
def test_identity_conflict(field: str, value: object, keyword: str) -> None:
    headers = header_stack()
    headers[7] = make_header(7, **{field: value})
    outcome = check(headers)
    assert outcome.code == "identity_conflict"
    assert outcome.figures["conflicting_attribute"] == keyword
    assert numbers(outcome) == [8]
    assert "0000" not in outcome.reason


def test_a_foreign_screen_is_an_identity_conflict_too() -> None:
    foreign = make_header(30, sop_class_uid="1.2.840.10008.5.1.4.1.1.7", patient_key="0" * 64)
    assert check([*header_stack(), foreign]).code == "identity_conflict"


def test_a_stack_without_frame_of_reference_passes_with_a_note() -> None:
    assert codes(check(header_stack(frame_of_reference_uid=None))) == ["no_frame_of_reference"]


# --- what is no slice --------------------------------------------------------------------------------------------


def test_a_localizer_and_a_screen_inside_are_dropped_with_a_note() -> None:
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    localizer = make_header(
        40,
        image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"),
        image_orientation_patient=sagittal,
        frame_of_reference_uid="1.2.9",
        rows=512,
    )
    screen = make_header(41, sop_class_uid="1.2.840.10008.5.1.4.1.1.7", image_position_patient=None)
    outcome = check([localizer, *header_stack(), screen])
    assert outcome.status is GateStatus.REPAIR
    assert len(outcome.headers) == 24
    assert outcome.figures["dropped_non_images"] == 2
    assert codes(outcome) == ["not_a_slice", "not_a_slice"]


@pytest.mark.parametrize("headers", [[], [make_header(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))]])
def test_nothing_left_is_refused(headers: list[SliceHeader]) -> None:
    assert check(headers).code == "coverage"


# --- geometry that cannot be used --------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["image_position_patient", "image_orientation_patient"])
def test_no_position(field: str) -> None:
    headers = header_stack()
    headers[3] = make_header(3, **{field: None})
    outcome = check(headers)
    assert outcome.code == "no_position"
    assert numbers(outcome) == [4]


@pytest.mark.parametrize("field", ["pixel_spacing_mm", "rows", "columns"])
def test_no_spacing(field: str) -> None:
    assert check(header_stack(**{field: None})).code == "no_spacing"


@pytest.mark.parametrize(
    "cosines", [(1.0, 0, 0, 0.6, 0.8, 0), (0.0, 0, 0, 0, 1, 0), (1.0, 0, 0, 1, 0, 0), (2.0, 0, 0, 0, 2, 0)]
)
def test_cosines_that_are_no_axes(cosines: tuple[float, ...]) -> None:
    assert check(header_stack(image_orientation_patient=cosines)).code == "orientation"


@pytest.mark.parametrize(
    ("extra_deg", "code"), [(0.08, None), (0.12, "orientation_spread"), (15.0, "orientation_spread")]
)
def test_orientation_spread(extra_deg: float, code: str | None) -> None:
    headers = header_stack()
    odd = make_header(11, image_position_patient=headers[11].image_position_patient)
    headers[11] = make_header(
        11,
        image_position_patient=odd.image_position_patient,
        image_orientation_patient=axial_orientation(extra_deg),
    )
    outcome = check(headers)
    assert outcome.code == code
    assert outcome.figures["orientation_spread_deg"] == pytest.approx(extra_deg, abs=1e-3)
    if code:
        assert numbers(outcome) == [12]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rows": 32}, "in_plane_mismatch"),
        ({"columns": 32}, "in_plane_mismatch"),
        ({"pixel_spacing_mm": (0.5, 0.51)}, "in_plane_mismatch"),
        ({"pixel_spacing_mm": (0.5, 0.5000002)}, None),
    ],
)
def test_in_plane_mismatch(changes: dict[str, object], code: str | None) -> None:
    headers = header_stack()
    headers[0] = make_header(0, **changes)
    outcome = check(headers)
    assert outcome.code == code
    if code:
        assert numbers(outcome) == [1]


# --- duplicates --------------------------------------------------------------------------------------------------


def test_the_same_pixels_twice_are_dropped_with_a_note() -> None:
    copy = make_header(40, image_position_patient=(-120.0, -130.0, 50.0))
    outcome = check([copy, *header_stack()], digest=lambda header: "same")
    assert outcome.status is GateStatus.REPAIR
    assert codes(outcome) == ["duplicates"]
    assert [header.instance_number for header in outcome.headers] == list(range(1, 25))
    assert outcome.figures["dropped_duplicates"] == [{"instance_number": 41, "position_mm": 50.0}]


def test_other_pixels_at_one_position_are_refused() -> None:
    copy = make_header(40, image_position_patient=(-120.0, -130.0, 50.005))
    outcome = check([copy, *header_stack()], digest=lambda header: header.sop_instance_uid)
    assert outcome.code == "duplicate_position"
    assert numbers(outcome) == [11, 41]


def test_two_slices_side_by_side_in_one_plane_are_no_copies() -> None:
    # One picture in two places is as wrong as two pictures in one; the pixels need not be read to know.
    beside = make_header(40, image_position_patient=(-118.0, -130.0, 50.0))
    outcome = check([*header_stack(), beside])
    assert outcome.code == "duplicate_position"
    assert numbers(outcome) == [11, 41]


def test_one_uid_at_two_positions_is_an_identity_conflict() -> None:
    headers = header_stack()
    headers[4] = make_header(4, sop_instance_uid=headers[9].sop_instance_uid)
    outcome = check(headers)
    assert outcome.code == "identity_conflict"
    assert outcome.figures["conflicting_attribute"] == "SOPInstanceUID"
    assert numbers(outcome) == [5, 10]


def test_the_same_file_twice_is_a_copy() -> None:
    outcome = check([*header_stack(), *header_stack(3)], digest=lambda header: "same")
    assert outcome.status is GateStatus.REPAIR
    assert outcome.figures["slice_count"] == 24


def test_duplicates_are_told_by_decoded_pixels(tmp_path: Path) -> None:
    headers = [read_header(path) for path in ct_stack(tmp_path)]
    again = [read_header(path) for path in ct_stack(tmp_path / "again", n=3)]
    assert check([*headers, *again], digest=pixel_digest).figures["slice_count"] == 24
    other = read_header(ct_stack(tmp_path / "other", n=1, intercept=-1000.0)[0])
    assert check([*headers, other], digest=pixel_digest).code == "duplicate_position"


def test_unreadable_pixels_are_the_callers_affair() -> None:
    def fail(header: SliceHeader) -> str:
        raise Permanent("pixel_data", "truncated")

    with pytest.raises(Permanent, match="pixel_data"):
        check([*header_stack(), make_header(0)], digest=fail)


# --- gap, thickness, coverage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("thickness", [5.0, 4.9999, 1 / 3 + 4])
def test_one_missing_slice_is_a_gap(thickness: float) -> None:
    headers = header_stack(40, thickness=thickness, tilt_deg=12.0)
    del headers[9]
    outcome = check(headers)
    assert outcome.code == "gap"
    assert numbers(outcome) == [9, 11]
    gaps = outcome.figures["gaps"]
    assert isinstance(gaps, list)
    assert gaps[0]["gap_mm"] == pytest.approx(2 * thickness, abs=2e-3)


def test_a_gap_below_the_limit_passes_with_a_note() -> None:
    outcome = check(header_stack(spacing=9.5))
    assert outcome.status is GateStatus.NOTE
    assert codes(outcome) == ["spaced"]


def test_the_thicker_neighbour_decides() -> None:
    # 2 mm slices beside 8 mm slices: 10 mm between their centres would be a gap among the thin ones only.
    thin = [make_header(k, slice_thickness_mm=2.0, image_position_patient=(0, 0, 2.0 * k)) for k in range(10)]
    thick = [
        make_header(10 + k, slice_thickness_mm=8.0, image_position_patient=(0, 0, 28.0 + 8.0 * k)) for k in range(12)
    ]
    assert "mixed_thickness" in codes(check([*thin, *thick]))
    far = make_header(99, image_position_patient=(0, 0, 2000.0))
    assert check([*thin, *thick, far]).code == "gap"


def test_overlap_passes_with_a_note() -> None:
    assert codes(check(header_stack(48, spacing=2.5))) == ["overlap"]


def test_an_unknown_thickness_is_taken_from_the_spacing() -> None:
    outcome = check(header_stack(slice_thickness_mm=None))
    assert codes(outcome) == ["thickness_unknown"]
    headers = header_stack(30, slice_thickness_mm=None)
    del headers[4]
    assert check(headers).code == "gap"


def test_a_slice_beside_the_stack_is_noted() -> None:
    headers = header_stack()
    headers[5] = make_header(5, image_position_patient=(-100.0, -130.0, 25.0))
    assert codes(check(headers)) == ["lateral_shift"]


@pytest.mark.parametrize(
    ("n", "thickness", "code"),
    [(7, 20.0, "coverage"), (8, 20.0, None), (19, 5.0, "coverage"), (20, 5.0, None), (1, 5.0, "coverage")],
)
def test_coverage(n: int, thickness: float, code: str | None) -> None:
    outcome = check(header_stack(n, thickness=thickness))
    assert outcome.code == code
    assert outcome.figures["coverage_mm"] == pytest.approx(n * thickness if n > 1 else thickness)


def test_the_thresholds_are_settings() -> None:
    headers = header_stack(4, tilt_deg=40.0)
    assert check(headers, GeometrySettings(min_slices=4, min_coverage_mm=20, max_tilt_deg=45)).code is None


def test_many_slices_are_counted_not_listed() -> None:
    outcome = check(header_stack(2000, thickness=1.0, image_orientation_patient=(1.0, 0, 0, 0, 0, -1)))
    assert outcome.figures["slices_concerned"] == 2000
    assert len(numbers(outcome)) == 20


# --- real series -------------------------------------------------------------------------------------------------


def _series(folder: Path, number: int | None = None) -> list[SliceHeader]:
    headers = [read_header(path) for path in sorted(folder.iterdir())]
    return [header for header in headers if number is None or header.series_number == number]


def test_the_tilted_head_passes_with_its_three_notes(shared_data: Path) -> None:
    outcome = check(_series(shared_data / "ge_head_ct"), digest=pixel_digest)
    assert outcome.status is GateStatus.NOTE
    assert codes(outcome) == ["tilt", "mixed_thickness", "overlap"]
    assert [header.instance_number for header in outcome.headers] == list(range(1, 29))
    assert outcome.figures["tilt_deg"] == 18.5
    assert outcome.figures["spacing_min_mm"] == pytest.approx(1.08, abs=0.01)


def test_the_philips_head_passes(shared_data: Path) -> None:
    outcome = check(_series(shared_data / "philips_study", 201))
    assert outcome.status is GateStatus.PASS
    assert outcome.figures["coverage_mm"] == 140.0


@pytest.mark.parametrize(
    ("case", "code", "lenient_code", "notes"),
    [
        ("gantrytilting", "coverage", None, ["no_frame_of_reference", "tilt", "thickness_unknown"]),
        ("notavolume", "duplicate_position", "duplicate_position", ["no_frame_of_reference"]),
        ("sliceincrement", "gap", "gap", ["no_frame_of_reference", "thickness_unknown"]),
    ],
)
def test_geometry_cases(shared_data: Path, case: str, code: str, lenient_code: str | None, notes: list[str]) -> None:
    headers = _series(shared_data / "geometry_cases" / case / "001")
    outcome = check(headers, digest=pixel_digest)
    assert outcome.code == code
    assert codes(outcome) == notes
    assert check(headers, LENIENT, digest=pixel_digest).code == lenient_code
