"""The series choice: the right pick, and code and reason for each series that is not picked, by default and as set.

Left out: whether the chosen series passes the gate (test_gate), what a late series does (the assembler's tests), and
the page that describes all this (test_choice_page).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dicom_node.dicom import choice_rules
from dicom_node.dicom.choice import SeriesVerdict, choose_series
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings
from dicom_node.dicom.values import SliceHeader, read_header
from dicom_node.settings import SettingsError, parse_settings
from tests.dicom_node.dicom.builders import header_stack, make_header

RULES = SelectionSettings()
SCREEN = "1.2.840.10008.5.1.4.1.1.7"
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def _only(headers: Sequence[SliceHeader], rules: SelectionSettings = RULES, today: date | None = None) -> SeriesVerdict:
    verdicts = choose_series({"1.2.3": headers}, rules, today=today)
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


BY_DEFAULT: list[tuple[dict[str, object], str]] = [
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
    ({"image_position_patient": (0.0, 0.0, 0.0)}, "perfusion"),
    ({"body_part_examined": "", "series_description": "5.0 B31f", "protocol_name": "Thorax Routine"}, "not_head"),
    ({"body_part_examined": "", "series_description": "", "protocol_name": "HeadNeckStroke"}, "chosen"),
    # One protocol name serves the whole examination: what is closer to the series is believed before it.
    ({"body_part_examined": "HEAD", "series_description": "", "protocol_name": "Abdomen"}, "chosen"),
    ({"body_part_examined": "", "series_description": "BRAIN", "protocol_name": "Abdomen"}, "chosen"),
]


@pytest.mark.parametrize(("changes", "code"), BY_DEFAULT)
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


@pytest.mark.parametrize(
    "changes",
    [
        {"exclude_kernel": ("(",)},
        {"require_kernel": ("(",)},
        {"min_slice": 3},
        {"modalities": ()},
        {"min_slices": 30, "max_slices": 20},
        {"min_thickness_mm": 9.0},
        {"min_coverage_mm": 600.0},
        {"min_patient_age_years": 20, "max_patient_age_years": 10},
        {"better_series_later": "always"},
        {"score_geometry": -1.0},
    ],
)
def test_rules_that_make_no_sense_are_faults_of_the_configuration(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SelectionSettings.model_validate(changes)


def test_limits_in_the_wrong_order_are_a_fault_with_its_line() -> None:
    text = "[selection]\nmin_slices = 30\nmax_slices = 20\n"
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, file="node.toml", base=Path("/"))
    assert [str(fault) for fault in caught.value.faults] == [
        "node.toml:3: selection.max_slices: must not be smaller than min_slices"
    ]


# --- one series, by settings -------------------------------------------------------------------------------------

STUDY_DAY = date(2024, 1, 2)
BY_SETTINGS: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({"modalities": ("MR",)}, {}, "not_ct"),
    ({"modalities": ("ct",)}, {}, "chosen"),
    ({"min_slices": 25}, {}, "too_few_slices"),
    ({"min_slices": 24, "max_slices": 24}, {}, "chosen"),
    ({"max_slices": 23}, {}, "too_many_slices"),
    ({"min_coverage_mm": 120.5}, {}, "too_short"),
    ({"min_coverage_mm": 119.5, "max_coverage_mm": 120.5}, {}, "chosen"),
    ({"max_coverage_mm": 119.5}, {}, "too_long"),
    ({"min_coverage_mm": 120.5}, {"image_position_patient": None}, "chosen"),
    ({"min_thickness_mm": 5.1}, {}, "too_thin"),
    ({"min_thickness_mm": 5.0, "max_thickness_mm": 5.0}, {}, "chosen"),
    ({"max_thickness_mm": 4.9}, {}, "too_thick"),
    # SliceThickness is missing: the distance of neighbours speaks for it.
    ({"max_thickness_mm": 4.9}, {"slice_thickness_mm": None}, "too_thick"),
    ({"exclude_image_type": ()}, {"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, "chosen"),
    ({"require_image_type": ("original", "AXIAL")}, {}, "chosen"),
    ({"require_image_type": ("ORIGINAL", "HELICAL")}, {}, "image_type"),
    ({"exclude_description": ("5mm",)}, {}, "excluded_description"),
    ({"require_description": ("nativ", "brain")}, {}, "description"),
    ({"require_description": ("nativ", "head")}, {}, "chosen"),
    ({"require_description": ("nativ",)}, {"series_description": ""}, "description"),
    ({"bone_description": ("head",)}, {}, "bone_kernel"),
    ({"exclude_kernel": ("^H3",)}, {}, "bone_kernel"),
    ({"require_kernel": ("^J", "^H3")}, {}, "chosen"),
    ({"require_kernel": ("^J",)}, {}, "kernel"),
    ({"require_kernel": ("^J",)}, {"convolution_kernel": ""}, "kernel"),
    ({"contrast_description": ("head",)}, {}, "contrast"),
    ({"body_parts": ("CHEST",)}, {}, "not_head"),
    ({"body_parts": ("HEAD",)}, {"body_part_examined": ""}, "not_head"),
    ({"other_body_description": ("head",), "prefer_description": ()}, {}, "not_head"),
    ({"max_study_age_days": 1}, {"study_date": STUDY_DAY}, "study_too_old"),
    ({"max_study_age_days": 2}, {"study_date": STUDY_DAY}, "chosen"),
    ({"max_study_age_days": 1}, {"study_date": None}, "chosen"),
    ({"max_study_age_days": 1}, {"study_date": date(2031, 1, 1)}, "chosen"),
    ({"min_patient_age_years": 18}, {"patient_age_years": 17.9}, "patient_age"),
    ({"min_patient_age_years": 18, "max_patient_age_years": 80}, {"patient_age_years": 18.0}, "chosen"),
    ({"min_patient_age_years": 18, "max_patient_age_years": 80}, {"patient_age_years": 80.9}, "chosen"),
    ({"max_patient_age_years": 80}, {"patient_age_years": 81.0}, "patient_age"),
    ({"min_patient_age_years": 18, "max_patient_age_years": 80}, {"patient_age_years": None}, "chosen"),
]


@pytest.mark.parametrize(("rules", "changes", "code"), BY_SETTINGS)
def test_every_rule_can_be_set(rules: dict[str, object], changes: dict[str, object], code: str) -> None:
    headers = [replace(header, **changes) for header in header_stack()]  # type: ignore[arg-type]
    assert _only(headers, SelectionSettings.model_validate(rules), today=date(2024, 1, 4)).code == code


def test_orientation_and_repeats_can_be_set() -> None:
    tilted = header_stack(tilt_deg=20.0)
    assert _only(tilted).code == "chosen"
    assert _only(tilted, SelectionSettings(max_orientation_deg=19.9)).code == "orientation"
    twice = [replace(h, sop_instance_uid=f"1.2.{t}.{k}") for t in range(2) for k, h in enumerate(header_stack())]
    assert _only(twice).code == "chosen"
    assert _only(twice, SelectionSettings(max_repeats=2.0)).code == "perfusion"


def test_every_code_and_every_setting_of_the_rules_is_tried_here() -> None:
    tried = {code for _, code in BY_DEFAULT} | {code for _, _, code in BY_SETTINGS}
    assert {code for rule in choice_rules.RULES for code in rule.codes} <= tried
    by_value = {name for rules, _, _ in BY_SETTINGS for name in rules}
    by_name = {"max_orientation_deg", "max_repeats", "allow_contrast"}
    assert {name for rule in choice_rules.RULES for name in rule.settings} <= by_value | by_name


def test_ages_are_told_by_the_limit_alone() -> None:
    rules = SelectionSettings(max_study_age_days=30, min_patient_age_years=50)
    old = _only(header_stack(study_date=date(2019, 3, 7)), rules, today=date(2024, 1, 4))
    young = _only(header_stack(patient_age_years=37.0), rules)
    assert (old.reason, young.reason) == ("the study is older than 30 days", "the patient is younger than 50 years")
    assert "2019" not in repr((old, young))
    assert "37" not in repr((old, young))


@given(where=st.integers(0, 23), kind=st.sampled_from(["synthetic", "derived", "contrast"]))
def test_one_instance_anywhere_is_seen(where: int, kind: str) -> None:
    changes: dict[str, dict[str, object]] = {
        "synthetic": {"synthetic": True},
        "derived": {"image_type": ("DERIVED", "SECONDARY")},
        "contrast": {"contrast_bolus": True},
    }
    headers = header_stack()
    headers[where] = replace(headers[where], **changes[kind])  # type: ignore[arg-type]
    assert _only(headers).code == kind


@given(sharp=st.sets(st.integers(0, 23)))
def test_the_kernel_of_most_images_decides(sharp: set[int]) -> None:
    headers = [replace(h, convolution_kernel="H70h") if k in sharp else h for k, h in enumerate(header_stack())]
    assert _only(headers).code == ("bone_kernel" if len(sharp) > 12 else "chosen")


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
    assert choose_series(_study(broken=broken), RULES)[0].reason.endswith("the geometry gate would refuse it (gap)")
    # The gate's own settings count: with this one it would pass, and it covers more.
    lenient = GeometrySettings(max_gap_factor=3.0)
    verdicts = choose_series(_study(broken=broken, sound=sound), RULES, thresholds=lenient)
    assert verdicts[0].series_instance_uid == "broken"


def test_longer_coverage_wins_among_equals() -> None:
    assert _codes(_study(short=header_stack(21), long=header_stack(30)))["long"] == "chosen"


def test_thin_slices_without_a_thickness_do_not_win_by_it() -> None:
    thin = header_stack(120, thickness=1.0, slice_thickness_mm=None)
    assert _codes(_study(thin=thin, thick=header_stack()))["thick"] == "chosen"


@given(weights=st.lists(st.floats(0, 500), min_size=7, max_size=7))
def test_the_score_is_the_sum_of_the_points_that_are_shown(weights: list[float]) -> None:
    names = [name for name in SelectionSettings.model_fields if name.startswith("score_")]
    rules = SelectionSettings.model_validate(dict(zip(names, weights, strict=True)))
    study = _study(a=header_stack(26), b=header_stack(60, thickness=2.0, series_description=""))
    for verdict in choose_series(study, rules):
        assert verdict.score == pytest.approx(sum(verdict.points.values()), abs=1e-3)
        assert SeriesVerdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_the_weights_can_turn_the_choice() -> None:
    study = _study(thick=header_stack(24), thin=header_stack(140, thickness=1.0))
    assert _codes(study)["thick"] == "chosen"
    assert _codes(study, SelectionSettings(score_thickness_per_mm=0.0))["thin"] == "chosen"
    assert _codes(study, SelectionSettings(preferred_thickness_mm=1.0))["thin"] == "chosen"


def test_the_verdict_holds_what_was_measured() -> None:
    screen = make_header(41, sop_class_uid=SCREEN)
    verdict = _only([screen, *header_stack(26, thickness=4.0)])
    assert (verdict.series_number, verdict.instances, verdict.images) == (2, 27, 26)
    assert (verdict.thickness_mm, verdict.coverage_mm) == (4.0, 104.0)


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
