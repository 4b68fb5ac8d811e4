"""Metrics against independent implementations (scikit-image, SciPy's Mann-Whitney test) and their identities.

Leaves out the report that puts them together (test_evaluate.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from train.metrics import (
    PSNR_CAP_DB,
    ScoreHistogram,
    bootstrap,
    mse,
    mse_paper,
    pooled_auc,
    psnr_db,
    ssim,
    to_unit,
)


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = np.clip(rng.normal(0.4, 0.2, (40, 48)), 0, 1)
    truth[:10] = 0.0
    return np.clip(truth + rng.normal(0, 0.05, truth.shape), 0, 1), truth


def test_ssim_equals_scikit_image(pair) -> None:
    from skimage.metrics import structural_similarity

    theirs = structural_similarity(*pair, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    assert ssim(*pair) == pytest.approx(float(theirs), abs=1e-12)


def test_ssim_of_equal_images_is_one_and_its_region_counts(pair) -> None:
    assert ssim(pair[1], pair[1]) == pytest.approx(1.0)
    half = pair[1].copy()
    half[:, 24:] = 0.5
    left = np.zeros_like(half, bool)
    left[:, :12] = True
    assert ssim(half, pair[1], left) == pytest.approx(1.0)
    assert ssim(half, pair[1]) < 0.8
    assert np.isnan(ssim(half, pair[1], np.zeros_like(left)))


def test_psnr_equals_scikit_image_and_is_capped(pair) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    assert psnr_db(mse(*pair)) == pytest.approx(float(peak_signal_noise_ratio(pair[1], pair[0], data_range=1.0)))
    assert psnr_db(0.0) == PSNR_CAP_DB
    assert np.isnan(psnr_db(float("nan")))


def test_paper_convention_is_the_squared_error_summed_over_three_equal_channels(pair) -> None:
    rgb = [np.repeat(image[..., None], 3, axis=-1) for image in pair]
    height, width = pair[0].shape
    assert mse_paper(mse(*pair)) == pytest.approx(float(((rgb[0] - rgb[1]) ** 2).sum() / (height * width)))


def test_mse_in_region_and_of_nothing(pair) -> None:
    region = np.zeros(pair[0].shape, bool)
    assert np.isnan(mse(*pair, region))
    region[20, 7] = True
    assert mse(*pair, region) == pytest.approx(float((pair[0][20, 7] - pair[1][20, 7]) ** 2))


def test_to_unit_clips() -> None:
    assert to_unit(np.array([-2.0, -1.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 0.5, 1.0]


def test_auc_equals_the_mann_whitney_statistic_with_ties() -> None:
    rng = np.random.default_rng(2)
    prediction = np.round(rng.random(4000), 2)  # many ties
    lesion = rng.random(4000) < 0.2
    prediction[lesion] = np.clip(prediction[lesion] + 0.1, 0, 1)
    brain = rng.random(4000) < 0.8
    ours = ScoreHistogram.of(prediction, lesion, brain).auc()
    levels = np.rint(prediction * 4095)
    sick, well = levels[brain & lesion], levels[brain & ~lesion]
    u = stats.mannwhitneyu(sick, well).statistic
    assert ours == pytest.approx(float(u) / (sick.size * well.size), abs=1e-12)


def test_auc_of_perfect_reversed_and_missing_scores() -> None:
    lesion = np.array([True, True, False, False])
    brain = np.ones(4, bool)
    scores = np.array([0.9, 0.8, 0.2, 0.1])
    assert ScoreHistogram.of(scores, lesion, brain).auc() == 1.0
    assert ScoreHistogram.of(1 - scores, lesion, brain).auc() == 0.0
    assert ScoreHistogram.of(np.full(4, 0.5), lesion, brain).auc() == 0.5
    assert np.isnan(ScoreHistogram.of(scores, np.zeros(4, bool), brain).auc())
    assert np.isnan(pooled_auc([]))


def test_pooled_auc_is_that_of_all_voxels_together() -> None:
    rng = np.random.default_rng(3)
    volumes = [(rng.random(50), rng.random(50) < 0.3, np.ones(50, bool)) for _ in range(3)]
    pooled = pooled_auc([ScoreHistogram.of(*volume) for volume in volumes])
    together = ScoreHistogram.of(*(np.concatenate(part) for part in zip(*volumes, strict=True)))
    assert pooled == pytest.approx(together.auc())
    first = [ScoreHistogram.of(*volume) for volume in volumes]
    assert (first[0] + first[1] + first[2]).auc() == pytest.approx(pooled)


def test_bootstrap_interval_of_a_mean_is_near_theory_and_reproducible() -> None:
    values = np.random.default_rng(4).normal(10.0, 2.0, 100)
    interval = bootstrap(lambda which: float(values[which].mean()), 100, resamples=2000, seed=1)
    error = values.std() / 10.0
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.08)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.08)
    assert interval == bootstrap(lambda which: float(values[which].mean()), 100, resamples=2000, seed=1)


def test_bootstrap_without_volumes_is_none_in_json() -> None:
    assert bootstrap(lambda _: 1.0, 0).to_json() == {"value": None, "low": None, "high": None, "n": 0}
