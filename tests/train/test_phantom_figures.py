"""Figures that the phantom promises, measured on enough volumes to be able to fail: noise, contrast, spread, case mix.

The targets are those of the prototype that the phantom replaces; where ours differ, the test says what ours are. Left
out: single cases, geometry and files, which have their own modules.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from train.data.phantom import CENTRES, LesionKind, PhantomCase, Tissue, draw_parts, generate_case
from train.data.phantom_anatomy import draw_patient
from train.data.phantom_centres import random_streams
from train.data.phantom_dwi import _distortion, _draw_motion
from train.data.phantom_expected import Expected, case_with_expectation
from train.data.phantom_fields import make_grid
from train.data.phantom_lesions import KIND_SHARES, draw_plan, hu_drop_at
from train.data.phantom_plans import SetGeometry
from train.metrics import ScoreHistogram, pooled_auc

PARENCHYMA = (Tissue.CORTEX, Tissue.WHITE_MATTER, Tissue.DEEP_GREY, Tissue.CEREBELLUM, Tissue.BRAINSTEM)
KINDS = ("mca_whole", "mca_division", "mca_branch", "deep")
#: Median drop of the case mix: contrasts are quoted at it.
TYPICAL_DROP = 3.4


@cache
def cases(centre: str) -> tuple[PhantomCase, ...]:
    """Four heads of a centre with lesions large enough to measure in."""
    return tuple(generate_case(500 + i, centre, matrix=128, lesion=kind) for i, kind in enumerate(KINDS))


@cache
def expected(centre: str) -> tuple[PhantomCase, Expected]:
    """A head and what is expected of it."""
    return case_with_expectation(31, centre, SetGeometry(matrix=128, n_slices=12), diffusion=False)


def tissue_of(case: PhantomCase) -> np.ndarray:
    return np.isin(case.labels, PARENCHYMA)


def centred(case: PhantomCase) -> np.ndarray:
    """HU minus the mean of the healthy tissue of the same kind: contrast within tissue."""
    rest = np.zeros(case.ct_hu.shape)
    for label in PARENCHYMA:
        own = case.labels == label
        if (own & ~case.lesion).any():
            rest[own] = case.ct_hu[own] - case.ct_hu[own & ~case.lesion].mean()
    return rest


@pytest.mark.parametrize(("centre", "snr"), [("A", 25.0), ("B", 39.0), ("C", 19.0)])
def test_snr_of_the_diffusion_images(centre: str, snr: float) -> None:
    found = []
    for case in cases(centre):
        corner = case.dwi[:, :6, :6].astype(float)
        # Rayleigh background: the second moment is twice the variance of a channel.
        found.append(case.dwi[case.brain].mean() / np.sqrt(np.mean(corner**2) / 2))
    assert np.mean(found) == pytest.approx(snr, rel=0.08)


@pytest.mark.parametrize(("centre", "noise_hu"), [("A", 4.6), ("B", 3.2), ("C", 6.0)])
def test_noise_of_the_ct(centre: str, noise_hu: float) -> None:
    case, ideal = expected(centre)
    inside = ndimage.binary_erosion(tissue_of(case), np.ones((1, 3, 3))) & ~ndimage.binary_dilation(case.lesion)
    rest = case.ct_hu[inside] - ideal.hu[inside]
    assert rest.std() == pytest.approx(noise_hu, rel=0.15)
    # The expectation is scanned in the same state: no offset is left between the two.
    assert abs(rest.mean()) < 0.15


@pytest.mark.parametrize("centre", sorted(CENTRES))
def test_hu_of_the_healthy_tissues(centre: str) -> None:
    figures = {Tissue.WHITE_MATTER: (29, 2.0), Tissue.DEEP_GREY: (38, 2.5), Tissue.VENTRICLE: (7, 4.5)}
    for tissue, (hu, allowed) in figures.items():
        values = [
            case.ct_hu[ndimage.binary_erosion(case.labels == tissue, np.ones((1, 3, 3))) & ~case.lesion]
            for case in cases(centre)
        ]
        assert np.concatenate(values).mean() - CENTRES[centre].ct_offset_hu == pytest.approx(hu, abs=allowed)
    bone = np.concatenate([case.ct_hu[case.labels == Tissue.SKULL] for case in cases(centre)])
    assert 650 < bone.mean() < 1350
    assert np.percentile(bone, 95) > 1100


def test_contrast_of_lesions_on_ct() -> None:
    single, averaged = [], []
    for centre in CENTRES:
        for case in cases(centre):
            inside, rest = tissue_of(case), centred(case)
            share = TYPICAL_DROP / case.hu_drop
            healthy = inside & ~case.lesion
            parts = (
                [(case.labels == t) & healthy for t in PARENCHYMA],
                [(case.labels == t) & case.lesion for t in PARENCHYMA],
            )
            kinds = [(well, ill) for well, ill in zip(*parts, strict=True) if min(well.sum(), ill.sum()) > 20]
            ratios = [-rest[ill].mean() / rest[well].std() for well, ill in kinds]
            single.append(np.average(ratios, weights=[ill.sum() for _, ill in kinds]) * share)
            box = (2, 6, 6)  # 10 mm
            pure = ndimage.binary_erosion(inside, np.ones((1, 3, 3)))  # no sulci in the means
            weight = ndimage.uniform_filter(pure.astype(float), box)
            mean = ndimage.uniform_filter(np.where(pure, rest, 0), box) / np.maximum(weight, 1e-3)
            load = ndimage.uniform_filter(case.lesion.astype(float), box)
            ill, well = (pure & (weight > 0.8) & where for where in (load > 0.6, load < 0.02))
            if ill.sum() > 50:
                averaged.append((mean[well].mean() - mean[ill].mean()) / mean[well].std() * share)
    # Single voxels: 0.12 to 0.37, means of 10 mm: 0.35 to 1.0 in the prototype.
    assert 0.12 < np.mean(single) < 0.45
    assert 0.35 < np.median(averaged) < 1.0
    assert np.median(averaged) > np.median(single)


def test_contrast_of_lesions_on_dwi() -> None:
    ratios = [
        case.dwi[case.lesion].mean() / case.dwi[tissue_of(case) & ~case.lesion].mean()
        for centre in CENTRES
        for case in cases(centre)
    ]
    # A real case: 1.58.
    assert 1.4 < np.mean(ratios) < 2.0
    assert min(ratios) > 1.15


def test_spread_of_the_diffusion_image_in_the_brain() -> None:
    for centre in CENTRES:
        healthy = [case.dwi[tissue_of(case) & ~case.lesion] for case in cases(centre)]
        in_tissue = np.mean([values.std() / values.mean() for values in healthy])
        whole = np.mean([case.dwi[case.brain].std() / case.dwi[case.brain].mean() for case in cases(centre)])
        # The prototype had 0.14 where a real brain has 0.23, which holds some fluid: ours lies on both sides of that.
        assert in_tissue > 0.15
        assert 0.2 < whole < 0.45


def test_intensity_alone_finds_no_lesion() -> None:
    for centre in CENTRES:
        found = pooled_auc(
            [ScoreHistogram.of(1 - case.ct_hu.clip(0, 80) / 80, case.lesion, case.brain) for case in cases(centre)]
        )
        assert 0.40 < found < 0.60


def test_time_from_onset_and_drop_of_the_case_mix() -> None:
    plans = [draw_plan(np.random.default_rng([9, seed]), "random", "random") for seed in range(3000)]
    ill = [plan for plan in plans if plan.kind is not LesionKind.NONE]
    drops = np.array([plan.hu_drop for plan in ill])
    # 2.1 / 3.4 / 6.4 HU in the prototype.
    assert np.percentile(drops, [10, 50, 90]) == pytest.approx([1.83, 3.4, 6.1], abs=0.15)
    ratio = drops / np.array([hu_drop_at(plan.onset_h) for plan in ill])
    assert (ratio.min(), ratio.max()) == (pytest.approx(0.7, abs=0.01), pytest.approx(1.2, abs=0.01))
    logs = np.log([plan.onset_h for plan in ill])
    assert np.exp(np.median(logs)) == pytest.approx(4.3, rel=0.06)
    assert np.std(logs) == pytest.approx(0.88, abs=0.06)
    late, early = (np.mean([p.t2_gain for p in ill if low <= p.onset_h < high]) for low, high in ((12, 49), (0, 2)))
    assert late > early + 0.1  # shine-through grows
    counts = Counter(plan.kind for plan in plans)
    for kind, share in KIND_SHARES.items():
        # Four standard deviations of a binomial share.
        assert counts[kind] / 3000 == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 3000))


def test_volumes_of_the_case_mix() -> None:
    volumes = np.array([generate_case(900 + seed, "A", matrix=48).lesion_ml for seed in range(24)])
    ill = volumes[volumes > 0]
    assert len(ill) >= 17
    low, middle, high = np.percentile(ill, [10, 50, 90])
    # 0.3 / 32 / 190 ml in the prototype; two dozen volumes tell no more than the order of size.
    assert 0.05 < low < 4
    assert 12 < middle < 75
    assert 110 < high < 260


@pytest.mark.parametrize(("centre", "age"), [("A", 58.0), ("B", 64.0), ("C", 70.0)])
def test_ages_of_the_centres(centre: str, age: float) -> None:
    scanner = CENTRES[centre]
    ages = [draw_patient(random_streams(s, scanner)["patient"], scanner.mean_age_years).age_years for s in range(300)]
    assert np.mean(ages) == pytest.approx(age, abs=2.2)
    assert np.std(ages) == pytest.approx(11, abs=1.8)


@pytest.mark.parametrize(("centre", "rms_mm"), [("A", 0.4), ("B", 0.4), ("C", 0.9)])
def test_misregistration_is_the_displacement_it_says(centre: str, rms_mm: float) -> None:
    grid = make_grid(32, 230.4, 12, 10.0)
    inside = np.zeros((12, 32, 32), bool)
    inside[2:10, 6:26, 8:24] = True
    found = []
    for seed in range(60):
        motion = _draw_motion(random_streams(seed, CENTRES[centre])["dwi"], grid, inside, rms_mm)
        squared = sum(np.broadcast_to(d, inside.shape)[inside] ** 2 for d in (motion.dx, motion.dy, motion.dz))
        assert np.sqrt(squared.mean()) == pytest.approx(motion.rms_mm, rel=1e-3)
        found.append(motion.rms_mm)
    assert CENTRES[centre].misregistration_mm == rms_mm
    assert np.mean(found) == pytest.approx(rms_mm, rel=0.08)


def test_epi_distortion_is_largest_beside_air_and_at_three_tesla() -> None:
    grid = make_grid(64, 230.4, 12, 5.0)
    air = np.zeros((12, 64, 64), np.float32)
    air[3:5, 8:12, 28:36] = 1  # a frontal sinus
    peaks = {}
    for centre in CENTRES.values():
        bends = [_distortion(np.random.default_rng(seed), grid, air, centre) for seed in range(8)]
        peaks[centre.name] = np.mean([bend.max() for bend in bends])
        assert peaks[centre.name] == pytest.approx(0.9 * centre.epi_shift_mm, rel=0.12)
        near, far = bends[0][3:5, 8:12, 28:36].mean(), bends[0][:, 48:].max()
        assert near > 5 * far
    assert peaks["B"] > peaks["C"] > peaks["A"]


def test_a_head_has_air_to_distort_the_field() -> None:
    """The same anatomy with and without distortion: measured images leave the clean ones where air is near."""
    for case in cases("B")[:1]:
        parts = draw_parts(case.seed, CENTRES["B"], make_grid(128, 230.4, 24, 5.0), KINDS[0])
        assert parts.skull.sinus.max() > 3
        tissue = ndimage.binary_erosion(tissue_of(case), np.ones((1, 3, 3))) & ~case.lesion
        error = np.abs(np.log(np.maximum(case.dwi, 1) / np.maximum(case.dwi_clean, 1)))
        rows = np.nonzero(tissue.any(axis=(0, 2)))[0]
        front = np.zeros_like(tissue)
        front[6:11, rows[0] : rows[0] + 10] = True
        assert error[tissue & front].mean() > 1.15 * error[tissue].mean()


def test_the_expected_head_is_the_measured_one_without_lesion() -> None:
    for centre in CENTRES:
        case, ideal = expected(centre)
        assert case.lesion.any()
        same = generate_case(31, centre, matrix=128, n_slices=12)
        assert np.array_equal(case.ct_hu, same.ct_hu)
        assert np.array_equal(case.dwi, same.dwi)
        well = generate_case(31, centre, matrix=128, n_slices=12, lesion="none")
        head = ideal.hu > -500
        # Noise and rounding are all that is between the two.
        assert abs((well.ct_hu - ideal.hu)[head].mean()) < 0.1
        assert np.abs(ideal.drop_share).max() <= 1.001
        inside = case.lesion & (ideal.tissue > 0.9)
        lost = (ideal.hu - case.ct_hu)[inside].sum() / ideal.drop_share[inside].sum()
        assert lost == pytest.approx(case.hu_drop, rel=0.25)
