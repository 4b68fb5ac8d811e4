"""Scores of one volume against the slow single-image metrics and scikit-image; contrast, detection, bright rule.

Leaves out groups, intervals and reports (test_evaluate.py).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from training_cases import CONTRACT, drawn_case

from train.data.cache import CachedCase, encode_target
from train.evaluation.lesions import contrast_ratio, finding, fit_bright_level, voxel_ml
from train.evaluation.scoring import METRICS, REGIONS, CaseTruth, score_volume
from train.metrics import mae, ms_ssim, mse, nrmse, psnr_db, ssim, to_unit

SPACING = CONTRACT.grid_spacing_mm


def wide_case(lesion: bool = True) -> CachedCase:
    """Three slices of 192 x 192 with an off-centre brain, so that the crop and all five scales of MS-SSIM matter."""
    rng = np.random.default_rng(11)
    rows, columns = np.mgrid[:192, :192]
    brain = np.repeat(((rows - 80) ** 2 + (columns - 100) ** 2 < 45**2)[None], 3, axis=0)
    sick = np.zeros_like(brain)
    sick[1:, 70:85, 115:130] = lesion
    value = np.where(brain, -0.3 + 0.7 * sick + rng.normal(0, 0.05, brain.shape), -1.0)
    facts = replace(
        drawn_case(0).facts,
        lesion_ml=3.0 if lesion else 0.0,
        slice_offsets_mm=(0.0, 5.0, 10.0),
        symmetry=(0.0, 100 - (192 - 1) / 2),
    )
    return CachedCase(
        facts,
        hu=np.where(brain, 35, -1000).astype(np.int16),
        target=encode_target(value),
        brain=brain.astype(np.uint8),
        lesion=sick.astype(np.uint8),
        clean=encode_target(np.where(brain, -0.3 + 0.7 * sick, -1.0)),
    )


def blurred(case: CachedCase) -> np.ndarray:
    brain = np.asarray(case.brain) > 0
    rng = np.random.default_rng(12)
    return np.where(brain, np.clip(case.target_slices() * 0.8 + rng.normal(0, 0.1, brain.shape), -1, 1), -1).astype(
        np.float32
    )


@pytest.mark.parametrize("outside", [False, True], ids=["black outside the brain", "something outside"])
def test_every_metric_equals_the_single_image_one_in_float64(outside: bool) -> None:
    case = wide_case()
    prediction = blurred(case)
    if outside:
        prediction[:, 170:180, 10:20] = 0.4
    score = score_volume(case, prediction, spacing_mm=0.9)
    regions = {"frame": None, "brain": np.asarray(case.brain) > 0, "lesion": case.lesion_slices()}
    singles = {"mse": mse, "ssim": ssim, "ms_ssim": ms_ssim, "mae": mae, "nrmse": nrmse}
    for truth, clean in (("dwi", False), ("dwi_clean", True)):
        target = case.target_slices(clean=clean)
        for region in REGIONS:
            where = regions[region]
            for row in range(3):
                pair = to_unit(prediction[row]), to_unit(target[row])
                for name in METRICS:
                    ours = score.against[truth][region].metric(name)[row]
                    single = mse if name == "psnr_db" else singles[name]
                    theirs = single(*pair, None if where is None else where[row])
                    theirs = psnr_db(theirs) if name == "psnr_db" else theirs
                    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6, nan_ok=True), (truth, region, row, name)


def test_whole_frame_ssim_equals_scikit_image_although_only_the_crop_is_computed() -> None:
    from skimage.metrics import structural_similarity

    case = wide_case()
    prediction = blurred(case)
    truth = CaseTruth(case, 0.9)
    assert truth.brain.shape[1:] < (192, 192)  # it is cropped
    ours = truth.score(prediction).against["dwi"]["frame"].metric("ssim")
    for row in range(3):
        theirs = structural_similarity(
            to_unit(prediction[row]),
            to_unit(case.target_slices(row)),
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ours[row] == pytest.approx(float(theirs), abs=1e-6)


def test_contrast_compares_with_the_mirrored_side() -> None:
    case = wide_case()
    level = np.full(case.brain.shape, -0.5, np.float32)
    level[case.lesion_slices()] = 0.5
    score = score_volume(case, np.where(np.asarray(case.brain) > 0, level, -1).astype(np.float32))
    assert score.contrast == pytest.approx(0.75 / 0.25)
    assert score.contrast_measured == pytest.approx(0.7 / 0.35, rel=0.02)
    wrong_side = level.copy()
    wrong_side[:, :, 70:86][case.lesion_slices()[:, :, 115:131][:, :, ::-1]] = 0.5
    assert score_volume(case, wrong_side).contrast == pytest.approx(1.0, abs=0.1)
    assert np.isnan(contrast_ratio(level, None))
    assert np.isnan(score_volume(wide_case(lesion=False), level).contrast)


def test_finding_counts_components_overlap_and_false_volume() -> None:
    case = wide_case()
    truth = CaseTruth(case, 0.9).lesion_truth
    assert truth is not None
    assert truth.voxel_ml == pytest.approx(0.9**2 * 5 / 1000)
    assert truth.sizes_ml == pytest.approx([15 * 15 * 2 * truth.voxel_ml])
    marked = np.zeros_like(truth.lesion)
    marked[0, 20:30, 20:30] = True  # on the slice without lesion
    found = finding(marked, truth)
    assert (found.detected, found.dice, found.free_slices) == ((False,), 0.0, 1)
    assert found.false_ml == pytest.approx(100 * truth.voxel_ml)
    marked |= truth.lesion
    marked[2] = False
    half = finding(marked, truth)
    assert half.detected == (True,)
    assert half.marked_share == pytest.approx([0.5])
    assert half.dice == pytest.approx(2 * 225 / (450 + 325))


def test_two_lesions_of_one_volume_are_counted_apart_and_specks_are_not() -> None:
    case = wide_case()
    lesion = np.asarray(case.lesion).copy()
    lesion[0, 100:112, 70:82] = 1
    lesion[0, 60, 80] = 1  # a speck of 0.004 ml
    truth = CaseTruth(replace(case, lesion=lesion), 0.9).lesion_truth
    assert truth is not None
    assert sorted(truth.sizes_ml) == pytest.approx([144 * truth.voxel_ml, 450 * truth.voxel_ml])


def test_bright_rule_finds_the_lesion_in_the_measured_dwi_and_nothing_in_a_flat_image() -> None:
    case = wide_case()
    level = fit_bright_level([case, wide_case(lesion=False)])
    assert level is not None
    assert 0.35 < level < 0.7  # between brain and lesion
    measured = score_volume(case, case.target_slices(), bright_level=level).findings["bright"]
    assert measured.dice > 0.9
    flat = np.where(np.asarray(case.brain) > 0, -0.3, -1).astype(np.float32)
    nothing = score_volume(case, flat, bright_level=level).findings["bright"]
    assert (nothing.found_ml, nothing.detected) == (0.0, (False,))
    assert fit_bright_level([wide_case(lesion=False)]) is None


def test_unknown_lesion_gives_image_metrics_and_no_lesion_figure() -> None:
    case = replace(wide_case(), lesion=None, clean=None, facts=replace(wide_case().facts, lesion_ml=None))
    score = score_volume(case, blurred(case), bright_level=0.5)
    assert set(score.against) == {"dwi"}
    assert np.isfinite(score.against["dwi"]["brain"].metric("ssim")).all()
    assert np.isnan(score.against["dwi"]["lesion"].metric("mse")).all()
    assert (score.findings, score.has_lesion) == ({}, False)
    assert np.isnan(score.contrast)


def test_slices_with_little_brain_do_not_count() -> None:
    case = drawn_case(0)
    score = score_volume(case, case.target_slices(), spacing_mm=SPACING)
    assert score.slices.tolist() == [1, 2, 3]  # the first of four slices has no brain
    assert score.against["dwi"]["frame"].pixels.tolist() == [32 * 32] * 3
    assert score.against["dwi"]["lesion"].pixels.sum() == np.count_nonzero(case.lesion)


def test_voxel_volume_of_a_single_slice_is_unknown_and_counts_as_nothing() -> None:
    case = replace(drawn_case(0), facts=replace(drawn_case(0).facts, slice_offsets_mm=(0.0,)))
    assert voxel_ml(case, 0.9) == 0.0
