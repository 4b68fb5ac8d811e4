"""Is there a brain: what is refused, what is flagged, and that healthy and sick heads of every kind pass.

Heads are phantoms (changed where that is the point) and two real scans; objects are drawn or real. Figures on phantoms
are phantom figures. Left out: the mask's outline (`test_mask_synthetic`, `test_mask_real`), the page
(`test_eligibility_page`), the way of a flag into the image (`test_eligibility_reaches`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jmmda_model.eligibility_codes import CODES, FIGURES, is_refusal, plain_words
from jmmda_model.imaging import EligibilityLimits, ImagingError, brain_mask, ensure_eligible, with_age
from tests.jmmda_model import eligibility_cases as cases
from tests.jmmda_model.imaging_cases import part


def flags_of(volume, **limits):
    found = brain_mask(volume, limits=EligibilityLimits(**limits))
    assert set(found.figures) <= set(FIGURES)
    assert all(np.isfinite(value) for value in found.figures.values())
    return found.flags


def refusal_of(volume, **limits):
    found = brain_mask(volume, limits=EligibilityLimits(**limits))
    with pytest.raises(ImagingError) as caught:
        ensure_eligible(found)
    assert caught.value.figures == dict(found.figures)
    assert is_refusal(caught.value.code)
    assert caught.value.code in found.flags
    return caught.value.code


@pytest.mark.parametrize("centre", ["A", "B", "C"])
@pytest.mark.parametrize("seed", [0, 4])
def test_phantoms_pass_without_a_flag(centre, seed):
    assert flags_of(cases.head(seed, centre, 96, "random")[0]) == ()


@pytest.mark.slow
@pytest.mark.parametrize("centre", ["A", "B", "C"])
@pytest.mark.parametrize("seed", range(6))
def test_phantoms_of_every_lesion_pass(centre, seed):
    from train.data.phantom_lesions import LesionKind

    for kind in LesionKind:
        assert flags_of(cases.head(seed, centre, 96, kind.value)[0]) == (), kind


def test_a_quarter_of_a_turn_in_the_pixels_is_flagged():
    found = brain_mask(cases.quarter_turned())
    assert found.flags == ("turned_head",)
    ensure_eligible(found)


@pytest.mark.parametrize("diameter_mm", [60, 90, 120])
def test_a_craniotomy_goes_on_with_its_flag(diameter_mm):
    found = brain_mask(cases.craniotomy(diameter_mm))
    assert "open_skull" in found.flags
    ensure_eligible(found)


def test_gaps_on_both_sides_go_on_and_a_small_gap_is_none():
    found = brain_mask(cases.craniotomy(100, both_sides=True))
    assert "open_skull" in found.flags
    ensure_eligible(found)
    assert flags_of(cases.craniotomy(16)) == ()


@pytest.mark.parametrize(("volume_ml", "flagged"), [(5, False), (20, True), (60, True)])
def test_a_large_bleed_goes_on_with_its_flag(volume_ml, flagged):
    found = brain_mask(cases.bleed(volume_ml))
    assert found.flags == (("hyperdense",) if flagged else ())
    assert found.figures["hyperdense_ml"] == pytest.approx(volume_ml, rel=0.45)
    ensure_eligible(found)


def test_the_size_of_a_bleed_that_is_flagged_is_the_sites_choice():
    assert flags_of(cases.bleed(5), hyperdense_ml=2.0) == ("hyperdense",)
    assert flags_of(cases.bleed(20), hyperdense_ml=50.0) == ()


@pytest.mark.parametrize("top_hu", [3071.0, 12000.0])
def test_a_clip_goes_on_with_its_flag(top_hu):
    found = brain_mask(cases.clip(top_hu=top_hu))
    assert "metal" in found.flags
    assert 0 < found.figures["metal_near_ml"] < 1
    ensure_eligible(found)
    assert "metal" not in flags_of(cases.clip(top_hu=2200.0))


def test_an_infant_is_a_child_by_its_skull_and_everyone_by_age():
    infant = brain_mask(cases.infant())
    assert {"child", "volume"} <= set(infant.flags)
    ensure_eligible(infant)
    assert "child" not in with_age(infant, 40.0).flags
    adult = brain_mask(cases.head()[0])
    assert with_age(adult, None) is adult
    assert with_age(adult, 9.0).flags == ("child",)
    assert with_age(adult, 9.0).figures["age_years"] == 9.0
    assert with_age(adult, 16.0).flags == ()
    assert with_age(adult, 17.0, EligibilityLimits(child_below_years=18.0)).flags == ("child",)


OBJECTS = {
    "water bucket": cases.water_bucket,
    "bucket with a hard wall": lambda: cases.water_bucket(900.0),
    "quality phantom": cases.quality_phantom,
    "quality phantom in bone": cases.shell_of_bone,
    "skull full of water": lambda: cases.filled_skull(0.0),
    "skull full of resin": lambda: cases.filled_skull(35.0),
    "abdomen": cases.abdomen,
    "abdomen of a child": lambda: cases.abdomen(0.6),
    "pelvis": cases.pelvis,
    "pelvis of a child": lambda: cases.pelvis(0.75),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_no_brain_is_refused(name):
    assert refusal_of(OBJECTS[name]()) == "no_brain"


@pytest.mark.parametrize("keep", [0.4, 0.5, 0.6])
@pytest.mark.parametrize("cut", [cases.half_by_field, cases.half_by_padding])
def test_half_a_head_is_refused(keep, cut):
    assert refusal_of(cut(keep)) in {"half_brain", "no_brain"}


def test_a_cut_through_the_middle_has_its_own_name():
    assert refusal_of(cases.half_by_field(0.6)) == "half_brain"


def test_a_field_of_view_that_cuts_a_little_is_flagged():
    found = brain_mask(cases.without_forehead(8))
    assert "cut_off_side" in found.flags
    ensure_eligible(found)


@pytest.mark.parametrize("cut", [cases.top_of_head, cases.bottom_of_head])
def test_a_slab_of_less_than_half_the_height_is_refused(cut):
    assert refusal_of(cut(45.0)) == "half_brain"
    assert "half_brain" not in flags_of(cut(45.0), min_brain_height_mm=30.0)
    found = brain_mask(cut(80.0))
    assert "cut_off_scan" in found.flags
    ensure_eligible(found)


def test_a_slab_of_a_uniform_brain_is_not_held_against_it_and_a_whole_one_is():
    whole = cases.filled_skull(35.0)
    middle = part(whole, slice(19, 21))
    assert "no_brain" not in flags_of(middle)
    assert flags_of(whole) == ("no_brain",)


def test_an_empty_mask_is_refused_whatever_its_flags():
    found = brain_mask(cases.head()[0])
    with pytest.raises(ImagingError) as caught:
        ensure_eligible(replace(found, mask=np.zeros_like(found.mask), flags=()))
    assert caught.value.code == "no_brain"


def test_real_heads_pass_and_real_objects_do_not(shared_data):
    from tests.jmmda_model.imaging_cases import read_series

    head = read_series(shared_data / "ge_head_ct", "*.dcm")
    assert flags_of(head) == ()
    assert flags_of(part(head, slice(None), head.hu + np.random.default_rng(0).normal(0, 12, head.hu.shape))) == ()
    assert refusal_of(cases.empty_skull(shared_data / "philips_study")) == "no_brain"
    assert refusal_of(cases.chest_slices(shared_data / "ct_transfer_syntaxes")) == "no_brain"


def test_scrambled_pixels_are_refused(shared_data):
    for name in ("gantrytilting", "sliceincrement"):
        assert refusal_of(cases.scrambled(shared_data / "geometry_cases" / name / "001")) == "no_brain"


def test_every_refusal_and_flag_has_plain_words():
    for code in CODES.values():
        (words,) = plain_words([code.code])
        assert words.isascii()
        assert words.endswith(".")
        assert "_" not in words
    assert plain_words(["of_another_version"]) == ("of_another_version.",)
    assert not is_refusal("of_another_version")
