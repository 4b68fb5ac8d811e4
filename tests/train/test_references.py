"""References of the phantom: prior, filter, discriminant, pooling over bands, and the run on small volumes.

Left out: the figures of full-size volumes, which are reported and not tested; what the phantom's noise and contrast are
has its own module.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from jmmda_model.imaging.contract import PreprocessingContract
from train.data.phantom_filter import (
    GridView,
    Knowledge,
    ReferenceCase,
    TerritoryPrior,
    box_of,
    drop_statistics,
    features,
    fit_discriminant,
    fit_prior,
    grid_view,
    prior_counts,
)
from train.data.phantom_plans import SetGeometry
from train.metrics import ScoreHistogram
from train.references import (
    FLOORS,
    SCORES,
    Cases,
    VolumeReference,
    measure_references,
    reference_cases,
    reference_rows,
)

SMALL = SetGeometry(matrix=96, n_slices=16, slice_mm=7.5)
COARSE = PreprocessingContract(grid_px=96, grid_spacing_mm=2.4)
FLAT = TerritoryPrior(np.zeros((2, 2, 2), np.float32))


def made_up(drop_hu: float, noise_hu: float = 4.0) -> GridView:
    """A brain of grey matter with a ball that lost HU, in white noise."""
    rng = np.random.default_rng(4)
    s, r, c = np.meshgrid(np.arange(8), np.arange(48), np.arange(48), indexing="ij")
    brain = (r - 24) ** 2 + (c - 24) ** 2 < 20**2
    lesion = ((s - 4) * 5) ** 2 + ((r - 20) * 0.9) ** 2 + ((c - 30) * 0.9) ** 2 < 7**2
    drop = (noise_hu * rng.standard_normal(brain.shape) + drop_hu * lesion).astype(np.float32)
    one, none = brain.astype(np.float32), np.zeros(brain.shape, np.float32)
    return GridView(
        drop=dict.fromkeys(Knowledge, drop),
        drop_share=one,
        tissue=one,
        brain=brain,
        lesion=lesion,
        box=box_of(brain),
        measured=none,
        clean=none,
        known=none,
        healthy=none,
        spacing_mm=(5.0, 0.9),
        hu_drop=drop_hu,
    )


def test_the_filter_finds_a_drop_that_single_voxels_hide() -> None:
    view = made_up(3.0)
    truth = view.lesion[view.brain]
    z = drop_statistics(view)

    def auc(score: np.ndarray) -> float:
        return ScoreHistogram.of((score + 20) / 40, truth, np.ones_like(truth)).auc()

    assert auc(view.drop[Knowledge.ANATOMY][view.brain]) < 0.75
    assert auc(z[1]) > 0.97
    # In units of the spread of the brain without a lesion.
    assert 1.4826 * np.median(np.abs(z - np.median(z, axis=1, keepdims=True)), axis=1) == pytest.approx(1, abs=1e-3)
    nothing = drop_statistics(made_up(0.0))
    assert nothing[1].std() == pytest.approx(1, abs=0.15)


def test_the_prior_is_the_frequency_by_place() -> None:
    counts = [prior_counts(ReferenceCase("A", seed, SetGeometry(matrix=48))) for seed in (5, 6, 7, 8)]
    lesions, brains = (np.sum(part, axis=0) for part in zip(*counts, strict=True))
    assert brains.sum() > 20_000
    prior = fit_prior(counts)
    share = 1 / (1 + np.exp(-prior.log_odds))
    assert np.sum(share * brains) == pytest.approx(lesions.sum(), rel=0.25)
    assert np.corrcoef(share.ravel(), (lesions / np.maximum(brains, 1)).ravel())[0, 1] > 0.6
    corner = np.array([[0.5], [0.5], [0.0]], np.float32)
    assert prior.at(corner)[0] == pytest.approx(prior.log_odds[5:7, 9:11, 0].mean(), abs=1e-5)


def test_the_box_folds_left_and_right() -> None:
    brain = np.zeros((4, 10, 12), bool)
    brain[1:3, 2:9, 3:10] = True
    box = box_of(brain)
    assert box[2][brain].min() == 0
    assert np.allclose(box[2][1, 4, 3:10], box[2][1, 4, 3:10][::-1])
    assert (box[0][1, 4, 4], box[0][2, 4, 4], box[1][1, 2, 4], box[1][1, 8, 4]) == (0, 1, 0, 1)


def test_the_discriminant_is_the_logistic_regression() -> None:
    rng = np.random.default_rng(2)
    rows = np.column_stack([np.ones(40_000), rng.standard_normal((40_000, 2)) * [1.0, 5.0]])
    chance = 1 / (1 + np.exp(-(rows @ [-1.0, 2.0, 0.3])))
    weights = fit_discriminant([(rows, rng.random(40_000) < chance)])
    assert weights == pytest.approx([-1.0, 2.0, 0.3], abs=0.08)


def test_a_view_is_what_evaluation_sees() -> None:
    view = grid_view(ReferenceCase("A", 9, SMALL), COARSE)
    grid = COARSE.grid_px
    assert view.brain.shape[1:] == (grid, grid)
    assert np.count_nonzero(view.brain, axis=(1, 2)).min() >= 0.05 * grid * grid
    assert not (view.lesion & ~view.brain).any()
    healthy = view.brain & ~view.lesion & (view.tissue > 0.9)
    for known in Knowledge:
        assert abs(float(np.median(view.drop[known][healthy]))) < 0.5
    # Who knows the texture too has less left over.
    left = [float(view.drop[known][healthy].std()) for known in (Knowledge.ALL_BUT_NOISE, Knowledge.ANATOMY)]
    assert left[0] < left[1]
    inside = view.lesion & (view.tissue > 0.9)
    if inside.any():
        assert view.drop[Knowledge.ALL_BUT_NOISE][inside].mean() > 0.4 * view.hu_drop
    for image in (view.measured, view.clean, view.known, view.healthy):
        assert 0 <= image.min() <= image.max() <= 1
    errors = [float(((image - view.clean)[view.brain] ** 2).mean()) for image in (view.known, view.healthy)]
    assert errors[0] < errors[1]
    assert features(view, FLAT).shape[0] == view.brain.sum()


def small_cases() -> Cases:
    return Cases(
        fitted=(ReferenceCase("A", 41, SMALL), ReferenceCase("B", 42, SMALL)),
        prior=tuple(ReferenceCase("A", seed, SetGeometry(matrix=32)) for seed in (43, 44)),
        test=(ReferenceCase("A", 9, SMALL), ReferenceCase("C", 12, SMALL)),
    )


def test_a_run_gives_every_figure() -> None:
    seen: list[tuple[str, int, int]] = []
    volumes = measure_references(small_cases(), COARSE, progress=lambda *told: seen.append(told))
    assert [v.centre for v in volumes] == ["A", "C"]
    assert seen[-1] == ("test volumes", 2, 2)
    assert {text for text, _, _ in seen} == {"territories", "training volumes", "test volumes"}
    rows = {(row.centre, row.band): row for row in reference_rows(volumes, resamples=20)}
    for centre in ("all", "A", "C"):
        row = rows[centre, "all"]
        assert set(row.auc) == set(SCORES)
        assert set(row.mse) == set(FLOORS)
        assert row.mse["known_but_texture"].value < row.mse["known_but_texture_and_lesion"].value
        assert row.auc["matched_filter_all_but_noise"].value > 0.8
    json.dumps([row.to_json() for row in rows.values()], allow_nan=False)


def counted(centre: str, drop: float, lesion_level: int) -> VolumeReference:
    """A volume whose lesion voxels all have one level, and its other voxels level 2000."""
    lesion, other = np.zeros(4096, np.int64), np.zeros(4096, np.int64)
    other[2000] = 900
    if drop > 0:
        lesion[lesion_level] = 100
    histogram = ScoreHistogram(lesion, other)
    return VolumeReference(
        centre, drop, dict.fromkeys(SCORES, histogram), dict.fromkeys(FLOORS, 10.0 * (drop + 1)), 1000
    )


def test_bands_and_centres_pool_their_own_volumes() -> None:
    volumes = [counted("A", 1.0, 1000), counted("A", 3.5, 3000), counted("B", 5.0, 3000), counted("B", 0.0, 0)]
    rows = {(row.centre, row.band): row for row in reference_rows(volumes, resamples=10)}
    assert {band for centre, band in rows if centre == "A"} == {"all", "drop < 2 HU", "drop 2-4 HU", "drop >= 3 HU"}
    assert (rows["A", "drop < 2 HU"].n, rows["all", "drop >= 3 HU"].n, rows["B", "all"].n) == (1, 2, 2)
    assert rows["A", "drop < 2 HU"].auc["measured_dwi"].value == 0.0
    assert rows["A", "all"].auc["measured_dwi"].value == 0.5
    assert rows["all", "drop >= 3 HU"].auc["matched_filter"].value == 1.0
    assert rows["A", "all"].mse["measured"].value == pytest.approx((20 + 45) / 2000)


def test_patients_are_those_of_evaluation_and_never_shared() -> None:
    cases = reference_cases(2, ("A", "C"), fitted=2, prior=3)
    assert [(case.centre, case.seed) for case in cases.test] == [
        ("A", 30_000_000),
        ("A", 30_000_001),
        ("C", 32_000_000),
        ("C", 32_000_001),
    ]
    assert {case.centre for case in cases.fitted + cases.prior} == {"A", "B"}
    keys = [(case.centre, case.seed) for case in cases.fitted + cases.prior + cases.test]
    assert len(set(keys)) == len(keys)


def test_the_command_refuses_an_unknown_centre() -> None:
    import typer

    from train.commands.references import references

    app = typer.Typer()
    app.command()(references)
    said = CliRunner().invoke(app, ["--centre", "Q"])
    assert said.exit_code == 2
    assert "Q" in said.output
