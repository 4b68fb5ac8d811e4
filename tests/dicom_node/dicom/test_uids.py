"""Deterministic UIDs and digests: legal, stable, and different whenever a part differs.

Left out: which facts of a request go into them (`tests/dicom_node/derive/test_derive_series.py`).
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.dicom.uids import (
    application_version,
    derived_frame_of_reference_uid,
    derived_series_uid,
    derived_sop_uid,
    derived_uid,
    highdicom_version,
    input_digest,
    slice_digest,
)

_PARTS = ("mr", "1.2.3", "ab" * 32, "cd" * 32, "ef" * 32, "node-1")
_TEXT = st.text(st.characters(min_codepoint=32), max_size=20)


@given(st.lists(_TEXT, min_size=1, max_size=5))
def test_every_derived_uid_is_legal(parts):
    uid = derived_uid(*parts)
    assert re.fullmatch(r"2\.25\.(0|[1-9][0-9]*)", uid)
    assert len(uid) <= 44


@given(st.lists(_TEXT, max_size=4), st.lists(_TEXT, max_size=4))
def test_different_parts_give_different_uids(first, second):
    assert (derived_uid(*first) == derived_uid(*second)) == (
        first == second or {tuple(first), tuple(second)} == {(), ("",)}
    )


def test_a_uid_is_the_same_for_ever():
    # This value is in archives: a change of the scheme would double every result.
    assert derived_uid("series", "mr", "1.2.3") == "2.25.178697254379516109829955221152563239537"


@pytest.mark.parametrize("index", range(len(_PARTS)))
def test_each_part_of_a_series_uid_counts(index):
    changed = [*_PARTS]
    changed[index] += "0"
    assert derived_series_uid(*changed) != derived_series_uid(*_PARTS)


def test_versions_are_part_of_a_series_uid(monkeypatch):
    before = derived_series_uid(*_PARTS)
    monkeypatch.setattr("dicom_node.dicom.uids.application_version", lambda: "99.0")
    changed = derived_series_uid(*_PARTS)
    monkeypatch.setattr("dicom_node.dicom.uids.highdicom_version", lambda: "99.0")
    assert len({before, changed, derived_series_uid(*_PARTS)}) == 3


def test_instances_differ_by_series_and_source():
    uids = {
        derived_sop_uid("mr", "2.25.1", "1.2.3"),
        derived_sop_uid("mr", "2.25.2", "1.2.3"),
        derived_sop_uid("mr", "2.25.1", "1.2.4"),
        derived_sop_uid("seg", "2.25.1", "1.2.3"),
        derived_frame_of_reference_uid("2.25.1", "1.2.3"),
    }
    assert len(uids) == 5


def test_the_separator_cannot_be_smuggled_in():
    with pytest.raises(ValueError, match="separator"):
        derived_uid("a\x1fb")


def test_versions_are_texts():
    assert re.match(r"\d", application_version())
    assert re.match(r"\d+\.\d+", highdicom_version())


def test_slice_digest_depends_on_rounded_units_only():
    hu = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    base = slice_digest("1.2", hu, b"header")
    assert slice_digest("1.2", (hu + 0.2).astype(np.float64), b"header") == base
    assert slice_digest("1.2", hu.astype(np.int16), b"header") == base
    others = [
        slice_digest("1.3", hu, b"header"),
        slice_digest("1.2", hu + 1, b"header"),
        slice_digest("1.2", hu.reshape(4, 3), b"header"),
        slice_digest("1.2", hu, b"headers"),
    ]
    assert base not in others


def test_input_digest_does_not_depend_on_the_order_of_slices():
    assert input_digest(["b", "a", "c"]) == input_digest(["a", "b", "c"])
    assert input_digest(["a", "b"]) != input_digest(["a", "b", "b"])
