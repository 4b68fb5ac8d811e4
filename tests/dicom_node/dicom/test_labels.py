"""Texts and facts of the labels, and the settings of `[output]` that shape them.

Left out: the check on encoded bytes, mark by mark (`tests/dicom_node/derive/test_label_marks.py`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dicom_node.dicom.labels import (
    DEFAULT_OBJECT,
    IMAGE_COMMENTS,
    OBJECT_CLASSES,
    PHANTOM_MARK,
    UNTRAINED_MARK,
    BundleFacts,
    LabelFacts,
    image_comments,
    series_description,
    training_sentence,
)
from dicom_node.dicom.output_rules import ObjectKind, OutputSettings
from dicom_node.errors import Permanent

PHANTOM = BundleFacts("builtin", "ab" * 32, "cd" * 32, True, True, "compact")
_DESCRIPTIONS = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\\"), max_size=55)


@pytest.mark.parametrize(
    ("is_phantom", "trained", "mark"),
    [(True, True, PHANTOM_MARK), (False, True, None), (False, False, UNTRAINED_MARK), (True, False, UNTRAINED_MARK)],
)
def test_training_mark_of_a_bundle(is_phantom, trained, mark):
    assert replace(PHANTOM, is_phantom=is_phantom, trained=trained).training_mark == mark


@given(_DESCRIPTIONS)
def test_marked_description_fits_and_keeps_first_word_and_mark(text):
    output = OutputSettings(series_description=f"SYNTHETIC{text}"[:64])
    for mark in (PHANTOM_MARK, UNTRAINED_MARK):
        described = series_description(output, mark)
        assert len(described) <= 64
        assert described.startswith("SYNTHETIC")
        assert described.endswith(f"- {mark}")


def test_default_description_loses_nothing_to_the_mark():
    output = OutputSettings()
    assert series_description(output, None) == output.series_description
    assert series_description(output, PHANTOM_MARK) == f"{output.series_description} - PHANTOM-TRAINED"


def test_comments_say_all_that_must_be_said():
    for words in ("SYNTHETIC", "Not an MR acquisition", "Not for primary diagnosis", "does not exclude infarction"):
        assert words in IMAGE_COMMENTS
    assert image_comments(None) == IMAGE_COMMENTS
    assert image_comments(PHANTOM_MARK) == f"{IMAGE_COMMENTS} Trained on a digital phantom."
    assert UNTRAINED_MARK in image_comments(UNTRAINED_MARK)
    assert training_sentence(None) == ""


def test_the_kinds_of_object_are_those_that_can_be_chosen():
    assert set(OBJECT_CLASSES) == set(get_args(ObjectKind))
    assert OutputSettings().object == DEFAULT_OBJECT
    for kind in OBJECT_CLASSES:
        assert LabelFacts.from_rules(PHANTOM, OutputSettings(object=kind)).object_kind == kind


def test_facts_follow_bundle_and_settings():
    facts = LabelFacts.from_rules(PHANTOM, OutputSettings())
    assert facts == LabelFacts("ab" * 32, PHANTOM_MARK, ("SYNTHETIC - NOT MR", "PHANTOM-TRAINED"))
    assert LabelFacts.from_rules(PHANTOM, OutputSettings(watermark=False)).watermark_lines == ()
    patient = replace(PHANTOM, is_phantom=False)
    assert LabelFacts.from_rules(patient, OutputSettings()).watermark_lines == ("SYNTHETIC - NOT MR",)


@pytest.mark.parametrize(
    "facts",
    [
        LabelFacts("ab" * 32, PHANTOM_MARK, ("A", "B")),
        LabelFacts("00" * 32, None, ()),
        LabelFacts("00" * 32, None, (), "sc"),
    ],
)
def test_facts_survive_the_job_record(facts):
    assert LabelFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"bundle_sha256": 7, "training_mark": None, "watermark_lines": []},
        {"bundle_sha256": "ab", "training_mark": "GOOD", "watermark_lines": []},
        {"bundle_sha256": "ab", "training_mark": None, "watermark_lines": "SYNTHETIC"},
        {"bundle_sha256": "ab", "training_mark": None, "watermark_lines": [], "object_kind": "ct"},
        {"bundle_sha256": "ab", "training_mark": None, "watermark_lines": [], "object_kind": None},
    ],
)
def test_a_damaged_record_is_no_licence_to_send(record):
    with pytest.raises(Permanent) as caught:
        LabelFacts.from_json(record)
    assert caught.value.code == "label_facts"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("series_description", "DWI SYNTHETIC", "must start with the word SYNTHETIC"),
        ("series_description", "SYNTHETIC" + "x" * 56, "has 65 characters"),
        ("series_description", "SYNTHETIC \xe4", "printable ASCII"),
        ("series_description", "SYNTHETIC\\DWI", "no backslash"),
        ("watermark_text", "NOT MR", "must contain the words"),
        ("watermark_text", "SYNTHETIC", "must contain the words"),
        ("watermark_text", "SYNTHETIC not NOT MR", "upper-case letters"),
        ("watermark_text", "SYNTHETIC - NOT MR" + " X" * 20, "at most 40"),
        ("series_number_offset", 0, "greater than or equal to 1"),
        ("object", "ct", "'mr'"),
        ("colour", "red", "Extra inputs"),
    ],
)
def test_bad_output_setting_is_refused_with_its_reason(key, value, reason):
    with pytest.raises(ValidationError, match=reason):
        OutputSettings.model_validate({key: value})


def test_output_settings_are_frozen_and_documented():
    with pytest.raises(ValidationError, match="frozen"):
        OutputSettings().watermark = False
    assert all(field.description for field in OutputSettings.model_fields.values())


def test_every_output_setting_changes_the_fingerprint():
    changes = {
        "object": "sc",
        "series_description": "SYNTHETIC",
        "series_number_offset": 1,
        "watermark": False,
        "watermark_text": "SYNTHETIC, NOT MR",
        "time_zone": "Europe/Berlin",
    }
    assert set(changes) == set(OutputSettings.model_fields)
    prints = {OutputSettings.model_validate({key: value}).fingerprint() for key, value in changes.items()}
    assert len(prints | {OutputSettings().fingerprint()}) == len(changes) + 1
