"""The series choice: the right pick, and code and reason for each series that is not picked.

Left out: whether the chosen series passes the gate (test_gate) and what a late series does (the assembler's tests).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dicom_node.dicom.choice import SeriesVerdict, choose_series
from dicom_node.dicom.rules import SelectionSettings
from dicom_node.dicom.values import SliceHeader, read_header
from tests.dicom_node.dicom.builders import header_stack, make_header

RULES = SelectionSettings()
SCREEN = "1.2.840.10008.5.1.4.1.1.7"
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def _only(headers: Sequence[SliceHeader], rules: SelectionSettings = RULES) -> SeriesVerdict:
    verdicts = choose_series({"1.2.3": headers}, rules)
    assert len(verdicts) == 1
    assert verdicts[0].chosen == verdicts[0].eligible == (verdicts[0].code == "chosen")
    assert verdicts[0].reason
    return verdicts[0]


def _study(**series: Sequence[SliceHeader]) -> dict[str, list[SliceHeader]]:
    """Give each series its UID and SeriesNumber, in the order of the arguments."""
    return {
        name: [replace(header, series_instance_uid=name, series_number=header.series_number or k) for header in headers]
        for k, (name, headers) in enumerate(series.items(), start=1)
    }


def _codes(study: Mapping[str, Sequence[SliceHeader]], rules: SelectionSettings = RULES) -> dict[str, str]:
    verdicts = choose_series(study, rules)
    assert sum(verdict.chosen for verdict in verdicts) <= 1
    assert [verdict.chosen for verdict in verdicts[1:]].count(True) == 0
    return {verdict.series_instance_uid: verdict.code for verdict in verdicts}


# --- one series --------------------------------------------------------------------------------------------------


def test_a_plain_head_is_chosen() -> None:
    verdict = _only(header_stack())
    assert verdict.chosen
    assert verdict.score == pytest.approx(100 + 12 + 10 + 5 + 5)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"synthetic": True}, "synthetic"),
        ({"modality": "MR"}, "not_ct"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.4"}, "not_ct"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2.1"}, "enhanced_not_processed"),
        ({"number_of_frames": 30}, "enhanced_not_processed"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer"),
        ({"sop_class_uid": SCREEN, "image_type": ("DERIVED", "SECONDARY", "DOSE_INFO")}, "dose_screen"),
        ({"sop_class_uid": SCREEN, "series_description": "Dose Report"}, "dose_screen"),
        ({"sop_class_uid": SCREEN}, "secondary_capture"),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, "derived"),
        ({"image_type": ("ORIGINAL", "SECONDARY", "MPR")}, "derived"),
        ({"image_type": ("ORIGINAL", "SECONDARY", "AXIAL")}, "chosen"),
        ({"image_orientation_patient": SAGITTAL}, "orientation"),
        ({"image_orientation_patient": CORONAL}, "orientation"),
        ({"contrast_bolus": True}, "contrast"),
        ({"slice_thickness_mm": 10.0}, "too_thick"),
        ({"slice_thickness_mm": None}, "chosen"),
        ({"body_part_examined": "CHEST"}, "not_head"),
        ({"body_part_examined": "HEADNECK"}, "chosen"),
        ({"body_part_examined": ""}, "chosen"),
        ({"body_part_examined": "", "series_description": "C-SPINE 2MM"}, "not_head"),
        ({"body_part_examined": "", "series_description": "HEAD AND NECK"}, "chosen"),
        ({"image_position_patient": None}, "chosen"),
    ],
)
def test_code_of_one_series(changes: dict[str, object], code: str) -> None:
    headers = [replace(header, **changes) for header in header_stack()]  # type: ignore[arg-type]
    assert _only(headers).code == code


@pytest.mark.parametrize(
    ("description", "code"),
    [
        ("", "chosen"),
        ("Head 5.0 H31s", "chosen"),
        ("HEAD_WO_CONTRAST", "chosen"),
        ("Head without IV contrast", "chosen"),
        ("NON-CONTRAST BRAIN", "chosen"),
        ("Noncontrast", "chosen"),
        ("Schädel nativ ohne KM", "chosen"),
        ("low dose head", "chosen"),
        ("posterior fossa", "chosen"),
        ("HEAD C+", "contrast"),
        ("BRAIN W CONTRAST", "contrast"),
        ("CTA HEAD 5MM", "contrast"),
        ("Perfusion 10mm", "contrast"),
        ("head_angio", "contrast"),
        ("BONE 5MM", "bone_kernel"),
        ("Knochenfenster", "bone_kernel"),
        ("HEAD MIP 5MM", "excluded_description"),
        ("Topogram 0.6", "excluded_description"),
    ],
)
def test_words_of_the_description(description: str, code: str) -> None:
    assert _only(header_stack(series_description=description)).code == code


@pytest.mark.parametrize(
    "kernel", ["BONE", "BONEPLUS", "EDGE", "LUNG", "H60s", "Hr68f\\3", "J70h", "B70s", "FC30", "FC81", "YD", "D"]
)
def test_bone_kernels(kernel: str) -> None:
    assert _only(header_stack(convolution_kernel=kernel)).code == "bone_kernel"


@pytest.mark.parametrize(
    "kernel",
    ["STANDARD", "STD+", "SOFT", "H31s", "Hr40f\\3", "J30s", "J40s", "B31s", "FC21", "FC64", "UB", "UA", "B", ""],
)
def test_soft_kernels(kernel: str) -> None:
    assert _only(header_stack(convolution_kernel=kernel)).code == "chosen"


def test_contrast_can_be_allowed() -> None:
    rules = SelectionSettings(allow_contrast=True)
    assert _only(header_stack(contrast_bolus=True, series_description="CTA"), rules).code == "chosen"


def test_too_few_slices_counts_images_only() -> None:
    screens = [make_header(50 + k, sop_class_uid=SCREEN) for k in range(10)]
    verdict = _only([*header_stack(7), *screens])
    assert verdict.code == "too_few_slices"
    assert verdict.reason.startswith("7 image slices")


def test_repeated_positions_are_a_perfusion_series_whatever_its_name() -> None:
    dynamic = [
        replace(header, sop_instance_uid=f"1.2.{t}.{k}") for t in range(20) for k, header in enumerate(header_stack(8))
    ]
    assert _only(dynamic).code == "perfusion"


def test_one_marked_instance_rules_a_series_out() -> None:
    # The loop guard asks every instance: a peer may mix our result into the source series.
    headers = header_stack()
    headers[20] = replace(headers[20], synthetic=True)
    assert _only(headers).code == "synthetic"
    headers[20] = replace(headers[20], synthetic=False, image_type=("DERIVED", "SECONDARY", "OTHER"))
    assert _only(headers).code == "derived"


def test_localizer_and_screen_inside_an_axial_series_do_no_harm() -> None:
    localizer = make_header(40, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), image_orientation_patient=SAGITTAL)
    screen = make_header(41, sop_class_uid=SCREEN, image_type=("DERIVED", "SECONDARY", "DOSE_INFO"))
    assert _only([localizer, *header_stack(), screen]).code == "chosen"


def test_reasons_hold_no_text_of_the_header() -> None:
    name = "MEIERSDOTTER"
    changes = ({"modality": name}, {"body_part_examined": name}, {"series_description": f"{name} CTA"})
    for change in changes:
        assert name not in repr(_only(header_stack(**change)))  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"exclude_kernel": ("(",)}, {"min_slice": 3}, {"modalities": ()}])
def test_rules_that_make_no_sense_are_faults_of_the_configuration(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SelectionSettings.model_validate(changes)


# --- a whole study -----------------------------------------------------------------------------------------------


def test_the_right_series_of_a_full_study_and_a_reason_for_each_other() -> None:
    study = _study(
        topogram=[make_header(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), image_orientation_patient=SAGITTAL)],
        thin=header_stack(140, thickness=1.0),
        axial=header_stack(28, thickness=5.0),
        bone=header_stack(28, thickness=5.0, convolution_kernel="H60s"),
        angio=header_stack(200, thickness=0.75, contrast_bolus=True),
        coronal=header_stack(40, image_orientation_patient=CORONAL),
        dose=[make_header(sop_class_uid=SCREEN, image_type=("DERIVED", "SECONDARY", "DOSE_INFO"))],
        ours=[replace(header, modality="MR", synthetic=True) for header in header_stack(28)],
    )
    assert _codes(study) == {
        "axial": "chosen",
        "thin": "not_preferred",
        "topogram": "localizer",
        "bone": "bone_kernel",
        "angio": "contrast",
        "coronal": "orientation",
        "dose": "dose_screen",
        "ours": "synthetic",
    }


def test_a_series_with_a_gap_yields_to_a_sound_one() -> None:
    broken = header_stack(30)
    del broken[12]
    sound = header_stack(40, thickness=3.0)
    assert _codes(_study(broken=broken, sound=sound)) == {"sound": "chosen", "broken": "not_preferred"}
    # Alone it is chosen all the same, so that the gate refuses it with numbers.
    assert _codes(_study(broken=broken)) == {"broken": "chosen"}


def test_longer_coverage_wins_among_equals() -> None:
    assert _codes(_study(short=header_stack(21), long=header_stack(30)))["long"] == "chosen"


def test_nothing_to_choose() -> None:
    assert choose_series({}, RULES) == ()
    assert _codes({"1.2.3": []}) == {"1.2.3": "not_ct"}


def test_equal_series_are_decided_by_number_then_uid() -> None:
    def series(uid: str, number: int | None) -> list[SliceHeader]:
        return [replace(header, series_instance_uid=uid, series_number=number) for header in header_stack()]

    assert _codes({"1.9": series("1.9", 3), "1.1": series("1.1", 4)})["1.9"] == "chosen"
    assert _codes({"1.9": series("1.9", 3), "1.1": series("1.1", 3)})["1.1"] == "chosen"
    assert _codes({"1.1": series("1.1", None), "1.9": series("1.9", 3)})["1.9"] == "chosen"


@given(data=st.data())
def test_the_order_of_arrival_changes_nothing(data: st.DataObject) -> None:
    study = _study(
        a=header_stack(26),
        b=header_stack(26),
        thin=header_stack(50, thickness=2.5),
        bone=header_stack(convolution_kernel="BONE"),
    )
    expected = choose_series(study, RULES)
    names = data.draw(st.permutations(list(study)))
    shuffled = {name: data.draw(st.permutations(study[name])) for name in names}
    assert choose_series(shuffled, RULES) == expected


def test_the_philips_study(shared_data: Path) -> None:
    study: dict[str, list[SliceHeader]] = defaultdict(list)
    for path in sorted((shared_data / "philips_study").iterdir()):
        header = read_header(path)
        study[header.series_instance_uid].append(header)
    numbers = {uid: headers[0].series_number for uid, headers in study.items()}
    verdicts = choose_series(study, RULES)
    codes = {numbers[verdict.series_instance_uid]: verdict.code for verdict in verdicts}
    assert codes == {201: "chosen", 100: "localizer", 401: "dose_screen"}


@pytest.mark.parametrize(
    ("folder", "code"),
    [("ge_head_ct", "chosen"), ("ge_dwi", "not_ct"), ("toshiba_dwi", "not_ct"), ("siemens_mosaic", "not_ct")],
)
def test_real_series(shared_data: Path, folder: str, code: str) -> None:
    assert _only([read_header(path) for path in sorted((shared_data / folder).iterdir())]).code == code


def test_the_real_chest_is_no_head(shared_data: Path) -> None:
    header = read_header(shared_data / "ct_transfer_syntaxes" / "CTImage.dcm")
    stack = [replace(header, image_position_patient=(0, 0, 5.0 * k)) for k in range(30)]
    assert _only(stack).code == "not_head"
