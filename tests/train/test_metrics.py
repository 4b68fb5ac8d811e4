"""Metrics against independent implementations (scikit-image, torchmetrics, SciPy's Mann-Whitney test), and identities.

Leaves out the report that puts them together (test_evaluate.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from train.metrics import (
    MS_SSIM_BETAS,
    PSNR_CAP_DB,
    Interval,
    ScoreHistogram,
    aucs_of,
    bootstrap,
    draw_volumes,
    mae,
    ms_ssim,
    ms_ssim_betas,
    mse,
    mse_paper,
    nrmse,
    pooled_auc,
    psnr_db,
    ssim,
    to_unit,
    unit32,
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
    summed = float(((rgb[0] - rgb[1]) ** 2).sum() / (height * width))
    assert mse_paper(mse(*pair)) == pytest.approx(summed)
    # The identity by which the printed tables were read: PSNR lies 10 log10(3) = 4.77 dB above that of the summed MSE.
    assert psnr_db(mse(*pair)) == pytest.approx(psnr_db(summed) + 10 * np.log10(3))


def test_mae_and_nrmse_equal_their_definitions(pair) -> None:
    from skimage.metrics import normalized_root_mse

    assert nrmse(*pair) == pytest.approx(float(normalized_root_mse(pair[1], pair[0])))
    assert mae(*pair) == pytest.approx(float(np.abs(pair[0] - pair[1]).mean()))
    region = np.zeros(pair[0].shape, bool)
    assert np.isnan(mae(*pair, region))
    assert np.isnan(nrmse(*pair, region))
    region[:10] = True  # black truth has no energy to compare with
    assert np.isnan(nrmse(*pair, region))


def test_ms_ssim_equals_the_scales_of_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.image")
    rng = np.random.default_rng(5)
    truth = np.clip(rng.normal(0.4, 0.2, (192, 208)), 0, 1)
    prediction = np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1)
    pair = [torch.from_numpy(image)[None, None] for image in (prediction, truth)]
    value = 1.0
    for scale, beta in enumerate(MS_SSIM_BETAS):
        if scale:
            pair = [torch.nn.functional.avg_pool2d(image, 2) for image in pair]
        settings = {"data_range": 1.0, "reduction": "none"}
        measure = functional.structural_similarity_index_measure
        factor = float(measure(*pair, return_contrast_sensitivity=True, **settings)[1])
        if scale == len(MS_SSIM_BETAS) - 1:
            # At the coarsest scale torchmetrics averages over the padded border too; Wang et al. take whole windows.
            factor = float(measure(*pair, return_full_image=True, **settings)[1][..., 5:-5, 5:-5].mean())
        value *= factor**beta
    assert ms_ssim(prediction, truth) == pytest.approx(value, abs=1e-6)


def test_ms_ssim_of_a_region_sees_errors_there_and_not_far_away() -> None:
    truth = np.clip(np.random.default_rng(6).normal(0.5, 0.1, (192, 192)), 0, 1)
    region = np.zeros(truth.shape, bool)
    region[80:112, 80:112] = True
    near, far = truth.copy(), truth.copy()
    near[90:100, 90:100] += 0.3
    far[:4, :4] = 0.0
    assert ms_ssim(truth, truth, region) == pytest.approx(1.0)
    assert ms_ssim(near, truth, region) < 0.97
    assert ms_ssim(far, truth, region) == pytest.approx(1.0)
    assert np.isnan(ms_ssim(near, truth, np.zeros_like(region)))


def test_small_frames_have_fewer_scales_with_exponents_that_sum_to_one() -> None:
    assert ms_ssim_betas(256).tolist() == [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
    assert len(ms_ssim_betas(32)) == 2
    assert ms_ssim_betas(32).sum() == pytest.approx(1.0)


def test_mse_in_region_and_of_nothing(pair) -> None:
    region = np.zeros(pair[0].shape, bool)
    assert np.isnan(mse(*pair, region))
    region[20, 7] = True
    assert mse(*pair, region) == pytest.approx(float((pair[0][20, 7] - pair[1][20, 7]) ** 2))


def test_to_unit_clips() -> None:
    assert unit32(np.array([-2.0, -1.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 0.5, 1.0]
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


def test_drawn_weights_give_the_pooled_auc_of_the_drawn_volumes() -> None:
    rng = np.random.default_rng(8)
    volumes = [ScoreHistogram.of(rng.random(60), rng.random(60) < 0.3, np.ones(60, bool)) for _ in range(4)]
    counts = draw_volumes(4, resamples=6, seed=2)
    assert counts[0].tolist() == [1, 1, 1, 1]
    assert counts.sum(axis=1).tolist() == [4] * 7
    pooled = aucs_of(*(counts @ np.array([getattr(v, name) for v in volumes], float) for name in ("lesion", "other")))
    for row, weights in zip(pooled, counts, strict=True):
        drawn = [volume for volume, times in zip(volumes, weights, strict=True) for _ in range(int(times))]
        assert row == pytest.approx(pooled_auc(drawn))
    assert np.isnan(aucs_of(np.zeros((1, 5)), np.ones((1, 5)))[0])


def test_interval_of_draws_leaves_out_what_could_not_be_measured() -> None:
    interval = Interval.of(np.array([2.0, np.nan, 1.0, 3.0]), 5)
    assert (interval.value, interval.low, interval.high, interval.n) == (2.0, 1.05, 2.95, 5)
    assert Interval.of(np.full(3, np.nan), 5).to_json() == {"value": None, "low": None, "high": None, "n": 5}
