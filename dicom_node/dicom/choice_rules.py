"""The rules that a series has to pass to be eligible, in their order; `dicom_node.dicom.choice` walks them.

A rule gets the facts of a series and the settings, and answers with a code and a reason, or None. It looks at all
instances (class, ImageType, positions, kernel, thickness), not at the description alone, which is free text and often
empty. What a header does not tell rules nothing out, except where the settings require it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

from dicom_node.dicom.choice_facts import SeriesFacts
from dicom_node.dicom.choice_words import any_kernel, matching_word, without_denials
from dicom_node.dicom.rules import SelectionSettings
from dicom_node.dicom.values import InstanceKind

__all__ = ["RULES", "Case", "No", "Rule", "first_no"]

_SCREEN_WORDS: Final = ("dose", "patient_info", "patient info", "exam summary", "protocol", "results")


@dataclass(frozen=True, slots=True)
class Case:
    """What a rule is asked about: a series, the settings, and the present day (None: ages of studies do not matter)."""

    facts: SeriesFacts
    settings: SelectionSettings
    today: date | None


@dataclass(frozen=True, slots=True)
class No:
    """Why a series is not eligible: a code of the rule, and a sentence without any text of the header."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its question, the codes of its answers with their meaning, and the settings that it obeys."""

    ask: Callable[[Case], No | None]
    codes: Mapping[str, str]
    settings: tuple[str, ...] = ()


def first_no(case: Case) -> No | None:
    """Ask the rules in turn and return the first objection, or None for an eligible series."""
    for rule in RULES:
        no = rule.ask(case)
        if no is not None:
            return no
    return None


# --- what the instances are --------------------------------------------------------------------------------------


def _not_synthetic(case: Case) -> No | None:
    marked = sum(header.synthetic for header in case.facts.headers)
    if not marked:
        return None
    total = len(case.facts.headers)
    return No("synthetic", f"{marked} of {total} instances are marked as synthetic; results are not processed")


def _right_modality(case: Case) -> No | None:
    allowed = {modality.upper() for modality in case.settings.modalities}
    if any(header.modality in allowed for header in case.facts.headers):
        return None
    return No("not_ct", f"Modality is not {' or '.join(sorted(allowed))}")


def _has_images(case: Case) -> No | None:
    facts = case.facts
    kinds = facts.kinds()
    if InstanceKind.ENHANCED in kinds:
        return No(
            "enhanced_not_processed",
            "multi-frame images that are no Enhanced CT, or whose functional groups do not tell each frame's plane",
        )
    if facts.images:
        return None
    if kinds == {InstanceKind.LOCALIZER}:
        return No("localizer", f"localizer only ({len(facts.headers)} instances)")
    if InstanceKind.SCREEN in kinds:
        words = " ".join(value.lower() for header in facts.headers for value in header.image_type[2:])
        told = matching_word(f"{words} {facts.descriptions}", _SCREEN_WORDS)
        code = "dose_screen" if told else "secondary_capture"
        what = "dose or information screens" if told else "captured screens"
        return No(code, f"{what}, no CT image ({len(facts.headers)} instances of Secondary Capture)")
    return No("not_ct", f"no CT image among {len(facts.headers)} instances")


def _image_type_allowed(case: Case) -> No | None:
    images = case.facts.images
    for value in (value.upper() for value in case.settings.exclude_image_type):
        count = sum(value in header.image_type for header in images)
        if count:
            code = "localizer" if value == "LOCALIZER" else "derived"
            return No(code, f"ImageType of {count} of {len(images)} images holds {value}")
    for value in (value.upper() for value in case.settings.require_image_type):
        count = sum(value not in header.image_type for header in images)
        if count:
            return No("image_type", f"ImageType of {count} of {len(images)} images does not hold {value}")
    return None


# --- how many, where, how thick ----------------------------------------------------------------------------------


def _enough_slices(case: Case) -> No | None:
    count, least = len(case.facts.images), case.settings.min_slices
    if count >= least:
        return None
    return No("too_few_slices", f"{count} image {'slice' if count == 1 else 'slices'}, at least {least} needed")


def _axial(case: Case) -> No | None:
    # Without any orientation the gate refuses and says so. The median decides, not one localizer that calls itself
    # axial.
    tilt, limit = case.facts.tilt_deg, case.settings.max_orientation_deg
    if tilt is None or tilt <= limit:
        return None
    return No("orientation", f"slices are {tilt:.0f} deg from the transverse plane, at most {limit:g} deg")


def _positions_taken_once(case: Case) -> No | None:
    placed, different = case.facts.placed, case.facts.positions
    # Two images a position may be an overlap or a resend, which the gate looks into.
    if not different or placed < case.settings.max_repeats * different:
        return None
    return No("perfusion", f"{placed} images at {different} positions: each was imaged several times")


def _not_too_many_slices(case: Case) -> No | None:
    count, most = len(case.facts.images), case.settings.max_slices
    return None if count <= most else No("too_many_slices", f"{count} image slices, at most {most} accepted")


def _head_sized(case: Case) -> No | None:
    covered = case.facts.coverage_mm
    if covered is None:
        return None
    least, most = case.settings.min_coverage_mm, case.settings.max_coverage_mm
    if covered < least:
        return No("too_short", f"covers {covered:.0f} mm along the normal, at least {least:g} mm needed")
    if covered > most:
        return No("too_long", f"covers {covered:.0f} mm along the normal, at most {most:g} mm accepted")
    return None


def _thickness_allowed(case: Case) -> No | None:
    thickness = case.facts.thickness_mm
    least, most = case.settings.min_thickness_mm, case.settings.max_thickness_mm
    if thickness is None or least <= thickness <= most:
        return None
    if thickness < least:
        return No("too_thin", f"median slice thickness {thickness:g} mm, at least {least:g} mm")
    return No("too_thick", f"median slice thickness {thickness:g} mm, at most {most:g} mm")


# --- how it was made ---------------------------------------------------------------------------------------------


def _no_contrast(case: Case) -> No | None:
    if case.settings.allow_contrast:
        return None
    images = case.facts.images
    marked = sum(header.contrast_bolus for header in images)
    if marked:
        return No("contrast", f"ContrastBolusAgent is set in {marked} of {len(images)} images")
    word = matching_word(without_denials(case.facts.descriptions), case.settings.contrast_description)
    return None if word is None else No("contrast", f"SeriesDescription holds '{word}'")


def _soft_kernel(case: Case) -> No | None:
    images = case.facts.images
    sharp = sum(any_kernel(header.convolution_kernel, case.settings.exclude_kernel) for header in images)
    if 2 * sharp > len(images):
        return No("bone_kernel", f"ConvolutionKernel of {sharp} of {len(images)} images is one for bone or lung")
    word = matching_word(case.facts.descriptions, case.settings.bone_description)
    if word is not None:
        return No("bone_kernel", f"SeriesDescription holds '{word}'")
    required = case.settings.require_kernel
    other = sum(not any_kernel(header.convolution_kernel, required) for header in images) if required else 0
    if other:
        return No("kernel", f"ConvolutionKernel of {other} of {len(images)} images is none of require_kernel")
    return None


# --- of what and of whom -----------------------------------------------------------------------------------------


def _head(case: Case) -> No | None:
    images, settings = case.facts.images, case.settings
    allowed = {part.upper() for part in settings.body_parts}
    # Some makers write "HEAD NECK" or "HEADNECK": the beginning decides, and the empty text allows only the empty text.
    begins = tuple(part for part in allowed if part)
    fitting = sum(_is_allowed_part(header.body_part_examined, allowed, begins) for header in images)
    if 2 * fitting < len(images):
        return No("not_head", f"BodyPartExamined of {len(images) - fitting} of {len(images)} images is no head")
    texts = [("SeriesDescription", case.facts.descriptions)]
    if not any(header.body_part_examined for header in images):
        # One protocol often covers the whole examination, so it is asked only where nothing closer speaks.
        texts.append(("ProtocolName", case.facts.protocols))
    for keyword, text in texts:
        if matching_word(text, settings.prefer_description) is not None:
            return None
        word = matching_word(text, settings.other_body_description)
        if word is not None:
            return No("not_head", f"{keyword} holds '{word}'")
    return None


def _is_allowed_part(part: str, allowed: set[str], begins: tuple[str, ...]) -> bool:
    return part in allowed or (bool(begins) and part.startswith(begins))


def _description_allowed(case: Case) -> No | None:
    word = matching_word(case.facts.descriptions, case.settings.exclude_description)
    if word is not None:
        return No("excluded_description", f"SeriesDescription holds '{word}'")
    required = case.settings.require_description
    if required and matching_word(case.facts.descriptions, required) is None:
        return No("description", "SeriesDescription holds no word of require_description")
    return None


def _study_recent(case: Case) -> No | None:
    limit = case.settings.max_study_age_days
    days = [header.study_date for header in case.facts.images if header.study_date is not None]
    if limit is None or case.today is None or not days or (case.today - max(days)).days <= limit:
        return None
    # Only the limit is told: how old the study is would give its date away.
    return No("study_too_old", f"the study is older than {limit} days")


def _age_allowed(case: Case) -> No | None:
    least, most = case.settings.min_patient_age_years, case.settings.max_patient_age_years
    ages = [header.patient_age_years for header in case.facts.images if header.patient_age_years is not None]
    if not ages:
        return None
    age = float(np.median(ages))
    if least is not None and age < least:
        return No("patient_age", f"the patient is younger than {least:g} years")
    # PatientAge counts whole years, so a patient of 80 is 80 until the next birthday.
    if most is not None and age >= most + 1:
        return No("patient_age", f"the patient is older than {most:g} years")
    return None


#: The rules, cheapest and surest first.
RULES: Final[tuple[Rule, ...]] = (
    Rule(_not_synthetic, {"synthetic": "an instance is marked as synthetic, our own results included (loop guard)"}),
    Rule(
        _right_modality,
        {"not_ct": "Modality is none of those configured, or no instance is a CT image"},
        ("modalities",),
    ),
    Rule(
        _has_images,
        {
            "enhanced_not_processed": "multi-frame images whose frames cannot be told apart; they are stored",
            "localizer": "nothing but localizers",
            "dose_screen": "nothing but dose reports or patient information screens",
            "secondary_capture": "nothing but other captured screens",
        },
    ),
    Rule(
        _image_type_allowed,
        {
            "derived": "ImageType of an image says that it is derived, reformatted or projected",
            "image_type": "ImageType of an image lacks a required value",
        },
        ("exclude_image_type", "require_image_type"),
    ),
    Rule(_enough_slices, {"too_few_slices": "fewer image slices than the configured minimum"}, ("min_slices",)),
    Rule(_axial, {"orientation": "coronal or sagittal slices, by their median"}, ("max_orientation_deg",)),
    Rule(_positions_taken_once, {"perfusion": "each position was imaged several times"}, ("max_repeats",)),
    Rule(_not_too_many_slices, {"too_many_slices": "more image slices than accepted"}, ("max_slices",)),
    Rule(
        _no_contrast,
        {"contrast": "contrast medium, told from ContrastBolusAgent or the description"},
        ("allow_contrast", "contrast_description"),
    ),
    Rule(
        _soft_kernel,
        {
            "bone_kernel": "more than half of the images, or the description, tell a kernel for bone or lung",
            "kernel": "the kernel of an image is none of the required ones",
        },
        ("exclude_kernel", "bone_description", "require_kernel"),
    ),
    Rule(
        _thickness_allowed,
        {"too_thin": "slices thinner than accepted, by their median", "too_thick": "slices thicker than accepted"},
        ("min_thickness_mm", "max_thickness_mm"),
    ),
    Rule(
        _head,
        {"not_head": "another part of the body, told from BodyPartExamined, the description or the protocol"},
        ("body_parts", "other_body_description", "prefer_description"),
    ),
    Rule(
        _head_sized,
        {"too_short": "covers less of the body than needed", "too_long": "covers more of the body than a head"},
        ("min_coverage_mm", "max_coverage_mm"),
    ),
    Rule(
        _description_allowed,
        {
            "excluded_description": "a word of the description rules the series out",
            "description": "the description holds none of the required words",
        },
        ("exclude_description", "require_description"),
    ),
    Rule(_study_recent, {"study_too_old": "the study is older than accepted"}, ("max_study_age_days",)),
    Rule(
        _age_allowed,
        {"patient_age": "the patient is younger or older than accepted"},
        ("min_patient_age_years", "max_patient_age_years"),
    ),
)
