"""The digital phantom: geometry, reproducibility, tissues, lesions, and the figures that make it fair to train on.

Left out: whether it looks like a head (for people to judge), DICOM and sets (their own modules), and timing.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from scipy import ndimage, stats

from train.data.phantom import CENTRES, LesionKind, PhantomCase, Tissue, generate_case
from train.data.phantom_lesions import KIND_SHARES, draw_plan, hu_drop_at

ARRAYS = ("ct_hu", "dwi", "b0", "adc", "dwi_clean", "lesion", "brain", "labels")
PARENCHYMA = (Tissue.CORTEX, Tissue.WHITE_MATTER, Tissue.DEEP_GREY, Tissue.CEREBELLUM, Tissue.BRAINSTEM)


@cache
def head(seed: int, centre: str = "A", lesion: str = "random", side: str = "random") -> PhantomCase:
    """A whole head on a coarse grid: quick, and enough for figures over volumes."""
    return generate_case(seed, centre, matrix=96, n_slices=12, slice_mm=6.0, lesion=lesion, side=side)


def slab(seed: int, **changes: object) -> PhantomCase:
    """Four slices at the level of the basal ganglia."""
    settings: dict[str, object] = {"matrix": 64, "n_slices": 4, "slice_mm": 5.0} | changes
    return generate_case(seed, "B", **settings)  # type: ignore[arg-type]


def core(case: PhantomCase, tissue: Tissue) -> np.ndarray:
    """Voxels well inside a tissue, away from the lesion: no partial volume within the slice."""
    return ndimage.binary_erosion(case.labels == tissue, np.ones((1, 3, 3))) & ~case.lesion


def test_arrays_have_the_shapes_and_types_of_the_contract() -> None:
    case = slab(1)
    assert {name: getattr(case, name).shape for name in ARRAYS} == dict.fromkeys(ARRAYS, (4, 64, 64))
    assert [getattr(case, name).dtype.name for name in ARRAYS] == [
        "int16",
        *["float32"] * 4,
        "bool",
        "bool",
        "uint8",
    ]
    assert case.spacing_mm == pytest.approx((5.0, 3.6, 3.6))
    for name in ("dwi", "b0", "adc", "dwi_clean"):
        assert np.isfinite(getattr(case, name)).all()
        assert getattr(case, name).min() >= 0


def test_same_seed_gives_the_same_arrays_in_another_process() -> None:
    code = (
        "import hashlib; from train.data.phantom import generate_case\n"
        "case = generate_case(11, 'B', matrix=64, n_slices=4)\n"
        f"print(hashlib.sha256(b''.join(getattr(case, n).tobytes() for n in {ARRAYS!r})).hexdigest())"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
    one, two = slab(11), slab(11)
    assert all(np.array_equal(getattr(one, name), getattr(two, name)) for name in ARRAYS)


def test_seed_and_centre_change_the_patient() -> None:
    assert not np.array_equal(slab(1).brain, slab(2).brain)
    ages = {generate_case(1, centre, matrix=32, n_slices=2).age_years for centre in CENTRES}
    assert len(ages) == 3


def test_the_patient_does_not_depend_on_matrix_or_slice_count() -> None:
    small, large = slab(5, matrix=64), slab(5, matrix=192, n_slices=6)
    shrunk = large.brain[1:5].reshape(4, 64, 3, 64, 3).mean(axis=(2, 4)) > 0.5
    assert np.mean(shrunk != small.brain) < 0.01
    assert small.hu_drop == large.hu_drop
    assert small.age_years == large.age_years


@pytest.mark.parametrize(("side", "sign"), [("left", 1), ("right", -1)])
@pytest.mark.parametrize("kind", [LesionKind.MCA_DIVISION, LesionKind.DEEP, LesionKind.CEREBELLAR])
def test_a_left_lesion_lies_at_the_patients_left(kind: str, side: str, sign: int) -> None:
    case = head(21, "A", kind, side)
    assert case.side == side
    _, rows, columns = np.nonzero(case.lesion)
    corner, row_way = case.positions_mm[0], case.orientation[0]
    x_mm = corner[0] + columns * case.spacing_mm[2] * row_way[0]
    # LPS: x grows to the patient's left.
    assert (np.sign(x_mm) == sign).mean() > 0.98
    assert rows.size > 20


def test_slices_ascend_to_the_head_and_rows_to_posterior() -> None:
    case = head(3)
    top, bottom = case.brain[-3].sum(), case.brain[0].sum()
    assert case.positions_mm[-1, 2] > case.positions_mm[0, 2]
    # The posterior fossa lies behind: in the lowest slices brain is found in the posterior half only.
    low = np.nonzero(case.brain[1])[0]
    assert low.mean() > case.brain.shape[1] / 2
    assert top > 0
    assert bottom < case.brain.sum(axis=(1, 2)).max()


def test_a_tilted_scan_shows_the_same_head() -> None:
    straight, tilted = slab(8, n_slices=12), slab(8, n_slices=12, tilt_deg=15.0)
    volume = tilted.ct_volume()
    assert volume.normal == pytest.approx([0, -np.sin(np.deg2rad(15)), np.cos(np.deg2rad(15))])
    # The same physical point of the skull base wall: sample the straight stack at the tilted voxels' coordinates.
    s, r, c = np.meshgrid(np.arange(4, 8), np.arange(64), np.arange(64), indexing="ij")
    points = tilted.positions_mm[s] + r[..., None] * 3.6 * tilted.orientation[1] + c[..., None] * 3.6 * np.eye(3)[0]
    where = (points - straight.positions_mm[0]) @ np.diag([1 / 3.6, 1 / 3.6, 1 / 5.0])
    found = ndimage.map_coordinates(straight.brain.astype(float), np.moveaxis(where[..., ::-1], -1, 0), order=1)
    here = tilted.brain[4:8]
    assert 2 * (found[here] > 0.5).sum() / (here.sum() + (found > 0.5).sum()) > 0.96


def test_volume_for_the_model_has_true_hu_and_positions() -> None:
    case = slab(1)
    volume = case.ct_volume()
    assert np.array_equal(volume.hu, case.ct_hu.astype(np.float32))
    centre = volume.positions_mm[0, :2] + np.array([63, 63]) / 2 * 3.6
    assert centre == pytest.approx([0, 0], abs=1e-9)
    assert np.diff(volume.offsets_mm) == pytest.approx(5.0)


@pytest.mark.parametrize("centre", sorted(CENTRES))
def test_hu_of_the_tissues(centre: str) -> None:
    cases = [head(seed, centre, "none") for seed in (1, 2)]
    offset = CENTRES[centre].ct_offset_hu

    def mean(tissue: Tissue) -> float:
        values = np.concatenate([case.ct_hu[core(case, tissue)] for case in cases])
        assert values.size > 30
        return float(values.mean()) - offset

    assert mean(Tissue.WHITE_MATTER) == pytest.approx(29, abs=2.0)
    assert mean(Tissue.DEEP_GREY) == pytest.approx(37, abs=2.0)
    assert mean(Tissue.VENTRICLE) == pytest.approx(8, abs=4.0)
    assert 600 < mean(Tissue.SKULL) < 1500
    assert mean(Tissue.DEEP_GREY) - mean(Tissue.WHITE_MATTER) > 4


def test_ischaemia_lowers_hu_along_the_published_curve() -> None:
    # Dzialowski 2004: about -1.5 HU at 1 h, -4 at 5 h; 7 to 8 at a day.
    assert [hu_drop_at(t) for t in (0, 1, 5, 24)] == pytest.approx([1.0, 1.74, 3.98, 7.51], abs=0.02)
    plans = [draw_plan(np.random.default_rng(seed), "random", "random") for seed in range(400)]
    drops = np.array([plan.hu_drop for plan in plans if plan.kind is not LesionKind.NONE])
    assert np.percentile(drops, [10, 50, 90]) == pytest.approx([2.0, 3.5, 6.4], abs=0.45)


def test_the_drop_is_in_the_pixels_and_only_in_the_lesion() -> None:
    ill, well = (
        generate_case(9, "A", matrix=128, n_slices=6, lesion=kind, side="left") for kind in ("mca_whole", "none")
    )
    change = ill.ct_hu.astype(float) - well.ct_hu
    grey = core(well, Tissue.DEEP_GREY) & ndimage.binary_erosion(ill.lesion, np.ones((1, 5, 5)))
    assert grey.sum() > 50
    assert change[grey].mean() == pytest.approx(-ill.hu_drop, abs=0.2 * ill.hu_drop)
    right = np.arange(128) < 50
    # Noise, anatomy and scanner are drawn apart from the lesion, so the other side is the same patient, to the bit.
    far = np.abs(change[:, :, right]) > 1
    assert far[ill.brain[:, :, right]].mean() < 0.001


def test_intensity_alone_finds_no_lesion() -> None:
    figures = []
    for seed, kind in enumerate(("mca_whole", "mca_division", "mca_branch", "deep", "pca", "aca")):
        case = generate_case(seed, "A", matrix=128, n_slices=9, lesion=kind)
        rest = case.brain & ~case.lesion
        figures.append(
            stats.mannwhitneyu(-case.ct_hu[case.lesion], -case.ct_hu[rest]).statistic / case.lesion.sum() / rest.sum()
        )
    assert 0.42 < np.mean(figures) < 0.60
    assert max(figures) < 0.75


@pytest.mark.parametrize(("centre", "snr"), [("A", 25), ("B", 39), ("C", 19)])
def test_dwi_noise_and_spread(centre: str, snr: float) -> None:
    case = head(2, centre)
    corner = case.dwi[:, :8, :8]
    # Background of a magnitude image is Rayleigh: its second moment is twice the variance of a channel.
    sigma = np.sqrt(np.mean(corner.astype(float) ** 2) / 2)
    assert case.dwi[case.brain].mean() / sigma == pytest.approx(snr, rel=0.15)
    tissue = np.isin(case.labels, PARENCHYMA) & ~case.lesion
    assert 0.13 < case.dwi[tissue].std() / case.dwi[tissue].mean() < 0.30


def test_lesions_are_bright_on_dwi_and_dark_on_adc() -> None:
    ratios = []
    for centre in CENTRES:
        case = head(5, centre, LesionKind.MCA_WHOLE)
        tissue = np.isin(case.labels, PARENCHYMA) & ~case.lesion
        ratios.append(case.dwi[case.lesion].mean() / case.dwi[tissue].mean())
        assert np.median(case.adc[case.lesion]) < 0.75 * np.median(case.adc[tissue])
        fluid = core(case, Tissue.VENTRICLE)
        assert np.median(case.adc[fluid]) > 1.8
    assert 1.4 < np.mean(ratios) < 2.0


def test_registration_error_is_small_and_reported() -> None:
    found = {centre: np.array([head(seed, centre).misregistration_mm for seed in (2, 5)]) for centre in CENTRES}
    for centre, values in found.items():
        assert np.all(np.abs(values / CENTRES[centre].misregistration_mm - 1) <= 0.25)
    assert found["C"].mean() > found["A"].mean()


@pytest.mark.parametrize("kind", [k for k in KIND_SHARES if k is not LesionKind.NONE])
def test_every_kind_of_lesion_is_made_inside_the_brain(kind: LesionKind) -> None:
    case = head(12, "B", kind)
    assert case.lesion_kind is kind
    assert case.lesion_ml > 0
    assert not (case.lesion & ~case.brain).any()
    assert case.lesion_ml == pytest.approx(case.lesion.sum() * 6.0 * 2.4**2 / 1000)


def test_a_case_without_lesion_says_so() -> None:
    case = head(1, "A", "none")
    assert not case.lesion.any()
    assert (case.lesion_ml, case.hu_drop, case.onset_h, case.side) == (0, 0, 0, "none")


def test_the_shares_of_the_kinds_sum_to_one() -> None:
    assert sum(KIND_SHARES.values()) == pytest.approx(1)
    assert set(KIND_SHARES) == set(LesionKind)


def test_clean_image_is_the_measured_one_without_its_errors() -> None:
    case = head(6, "A")
    tissue = np.isin(case.labels, PARENCHYMA)
    assert np.corrcoef(case.dwi[tissue], case.dwi_clean[tissue])[0, 1] > 0.6
    ventricle = core(case, Tissue.VENTRICLE)
    assert case.dwi_clean[ventricle].mean() < 0.6 * case.dwi_clean[tissue].mean()
    assert case.dwi_clean[:, :4].max() == 0


def test_the_nodes_own_mask_finds_the_brain() -> None:
    from jmmda_model.imaging.mask import brain_mask

    case = generate_case(4, "A", matrix=128, n_slices=24)
    found = brain_mask(case.ct_volume())
    visible = case.brain & (ndimage.gaussian_filter(case.ct_hu.astype(float), (0, 0.33, 0.33)) < 120)
    dice = 2 * (found.mask & visible).sum() / (found.mask.sum() + visible.sum())
    assert dice > 0.97
    assert found.flags == ()


@pytest.mark.parametrize(
    "wrong",
    [{"centre": "Z"}, {"lesion": "tumour"}, {"side": "up"}, {"n_slices": 1}, {"slice_mm": 0.0}],
)
def test_wrong_words_and_geometry_are_refused(wrong: dict[str, object]) -> None:
    given: dict[str, object] = {"seed": 1, "centre": "A", "matrix": 32, "n_slices": 2} | wrong
    with pytest.raises(ValueError, match=r"must be|not a volume|not a valid"):
        generate_case(**given)  # type: ignore[arg-type]
