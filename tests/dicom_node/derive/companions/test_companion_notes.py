"""The answer to a CT that was not processed: its words, its page, its name, and series of which little can be read.

Covers: a sentence for every code that refuses, the page dot by dot, once per study, series and reason, conflicting
identities, damaged files. Left out: when the journey asks for a note, and the sending of it.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_node.derive.companions.request import CompanionFailure, CompanionSeries
from dicom_node.derive.companions.writer import note_series_uid, write_note
from dicom_node.dicom.companion_rules import NoteForm
from dicom_node.dicom.gate_codes import CODES, GateStatus
from dicom_node.dicom.refusal_words import ABSENCE, GENERAL, WORDS, figure_lines, words_for
from dicom_node.dicom.text_page import INK, PAGE_PX, Line, page_glyph, render_page, wrap
from dicom_node.errors import Permanent
from tests.dicom_node.derive.companions.companion_cases import note_request, read, texts
from tests.dicom_node.derive.derive_cases import write_ct_series

#: Refusals of the worker and of reading, which stand in no list of the gate.
OTHER_CODES = ("no_brain", "half_brain", "fov", "thickness", "unreadable", "pixel_data", "no_series")


def test_every_code_that_refuses_has_words_of_its_own():
    refusing = {code for code, entry in CODES.items() if entry.status is GateStatus.REFUSE}
    assert set(WORDS) == refusing | set(OTHER_CODES)
    assert words_for("never heard of") == GENERAL


@pytest.mark.parametrize("code", [*WORDS, "unknown"])
def test_words_are_sentences_without_jargon(code):
    words = words_for(code)
    for text in (words.why, words.advice, ABSENCE):
        assert re.fullmatch(r"[A-Z][ -~]*\.", text)
        assert not re.search(r"[\\_]|[a-z][A-Z]", text), "a keyword or a code is no word for a reader"
        # Each letter has its glyph: none is drawn as the mark of an unknown one.
        assert not any(np.array_equal(page_glyph(c), page_glyph("?")) for c in text if c != "?")


@pytest.mark.parametrize("code", [*WORDS, "unknown"])
@pytest.mark.parametrize("form", ["sr", "sc"])
def test_each_refusal_gives_its_note(ct_paths, out_folder, form, code):
    note = write_note(note_request(ct_paths, form, code=code), out_folder)
    assert isinstance(note, CompanionSeries), note
    ds = read(note)
    told = "\n".join(texts(ds)) if form == "sr" else "\n".join(line for line, _ in note.facts.page)
    for part in (
        "NOT PROCESSED",
        "RESEARCH",
        code,
        words_for(code).why,
        words_for(code).advice,
        ABSENCE,
        "15.0 mm apart",
    ):
        assert part in told
    assert "gaps: from 12 to 27 mm" in told
    assert ds.SeriesNumber == 69203


def test_the_page_holds_exactly_the_rendered_text(ct_paths, out_folder):
    note = write_note(note_request(ct_paths, "sc"), out_folder)
    pixels = read(note).pixel_array
    assert pixels.shape == (PAGE_PX, PAGE_PX)
    np.testing.assert_array_equal(pixels, render_page(note.facts.lines()))
    assert set(np.unique(pixels)) == {0, INK}
    rows = np.flatnonzero(pixels.any(axis=1))
    assert rows.max() < PAGE_PX - 40 + 1, "the margin is free"
    assert read(note).BurnedInAnnotation == "NO"


def test_a_note_refers_to_the_series_that_was_refused(ct_paths, out_folder):
    uids = {dcmread(path).SOPInstanceUID for path in ct_paths}
    page = read(write_note(note_request(ct_paths, "sc"), out_folder))
    (series,) = page.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3.4.2"
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == uids
    assert "SyntheticData" not in page


def test_a_note_has_one_name_for_study_series_reason_form_and_node(ct_paths, out_folder):
    request = note_request(ct_paths, "sc")
    same = replace(request, reason="other words", figures={}, source_paths=ct_paths[:2])
    assert note_series_uid(same) == note_series_uid(request) == write_note(request, out_folder).series_instance_uid
    others = [
        replace(request, code="coverage"),
        replace(request, form=NoteForm.SR),
        replace(request, node_id="other"),
        replace(request, series_instance_uid="1.2.9"),
        replace(request, study_instance_uid="1.2.9"),
    ]
    assert len({note_series_uid(one) for one in (request, *others)}) == 6


def test_the_order_of_the_files_does_not_matter(ct_paths, out_folder):
    first = write_note(note_request(ct_paths, "sr"), out_folder)
    assert write_note(note_request(ct_paths[::-1], "sr"), out_folder) == first


def test_where_identities_conflict_the_note_goes_to_the_one_of_most_images(tmp_path, out_folder):
    def other_patient(ds, index):
        if index == 0:
            ds.PatientID, ds.PatientName = "OTHER", "Other^Person"

    paths = write_ct_series(tmp_path / "ct", change=other_patient)
    note = write_note(note_request(paths, "sc", code="identity_conflict"), out_folder)
    assert read(note).PatientID == "ID-0815"
    assert b"Other^Person" not in note.instances[0].path.read_bytes()


def test_an_image_of_another_study_is_no_source(tmp_path, out_folder):
    def other_study(ds, index):
        if index != 2:
            ds.StudyInstanceUID, ds.PatientID = "1.2.99", "OTHER"

    paths = write_ct_series(tmp_path / "ct", change=other_study)
    note = write_note(note_request(paths, "sc", study_instance_uid="1.2.3.4.1"), out_folder)
    assert (read(note).StudyInstanceUID, read(note).PatientID) == ("1.2.3.4.1", "ID-0815")


def test_one_readable_file_is_enough(tmp_path, out_folder):
    paths = write_ct_series(tmp_path / "ct")
    request = note_request(paths, "sr", code="unreadable")
    for path in paths[:3]:
        path.write_bytes(b"no DICOM")
    note = write_note(request, out_folder)
    assert isinstance(note, CompanionSeries), note
    paths[3].unlink()
    failure = write_note(request, out_folder)
    assert isinstance(failure, CompanionFailure)
    assert (failure.kind, failure.code) == ("note-sr", "source_header")


def test_slices_without_position_or_series_number_get_their_note(tmp_path, out_folder):
    def drop(ds, index):
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SeriesNumber", "PixelData"):
            del ds[keyword]

    paths = write_ct_series(tmp_path / "ct", change=drop)
    note = write_note(note_request(paths, "sc", code="no_position"), out_folder)
    assert isinstance(note, CompanionSeries), note
    assert "No synthetic series for this CT series." in [line for line, _ in note.facts.page]
    assert read(note).SeriesNumber == 69000


def test_the_form_none_has_nothing_to_write(ct_paths, out_folder):
    with pytest.raises(Permanent, match="companion_request"):
        write_note(note_request(ct_paths, "none"), out_folder)


def test_foreign_letters_and_endless_figures_still_give_a_page(ct_paths, out_folder):
    figures = {f"figure_{k}_mm": k * 1.5 for k in range(80)} | {"nan": float("nan"), "Größe": 3, "yes": True}
    request = note_request(ct_paths, "sc", reason="\u00fcber \\ 5 mm " * 90, figures=figures)
    note = write_note(request, out_folder)
    assert isinstance(note, CompanionSeries), note
    assert all(line.isascii() for line, _ in note.facts.page)
    assert figure_lines({"nan": float("nan"), "yes": True, "text": "x"}) == ()


FIGURE = st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none(), st.booleans())
FIGURES = st.one_of(FIGURE, st.lists(FIGURE, max_size=9), st.dictionaries(st.text(max_size=5), FIGURE, max_size=3))


@given(st.dictionaries(st.text(max_size=9), FIGURES, max_size=14))
def test_whatever_the_figures_are_the_lines_are_short_ascii(figures):
    lines = figure_lines(figures)
    assert len(lines) <= 12
    assert all(line.isascii() and "nan" not in line.rpartition(": ")[2] for line in lines)


@given(st.text(max_size=200), st.integers(min_value=1, max_value=60))
def test_wrapping_loses_no_letter_and_keeps_to_the_width(text, width):
    lines = wrap(text, width)
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_a_page_that_is_too_long_takes_smaller_letters_and_then_loses_its_end():
    lines = tuple(Line(f"line {number}") for number in range(60))
    page = render_page(lines)
    assert not np.array_equal(page, render_page(lines[:20]))
    np.testing.assert_array_equal(page, render_page((*lines, Line("one more"))))
    rows = np.flatnonzero(page.any(axis=1))
    assert rows.max() < PAGE_PX
