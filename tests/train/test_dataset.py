"""Training batches: a function of their seed, context of a slice, augmentation, coarser stages.

Labels stay aligned whatever moves, and distances keep meaning millimetres. The cases are drawn, not phantoms.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from training_cases import CONTRACT, GRID_PX, drawn_case

from train.data.dataset import SliceDataset, augment_planes, to_batch
from train.recipe import AugmentRecipe

STILL = AugmentRecipe(probability=0.0, flip=False, noise_hu=0.0, offset_hu=0.0)
WITH_CONTEXT = dataclasses.replace(CONTRACT, neighbours=1, mirror=True, asymmetry_mm=(20.0,))


@pytest.fixture
def dataset() -> SliceDataset:
    return SliceDataset([drawn_case(1), drawn_case(2, lesion=False), drawn_case(3)], CONTRACT)


def test_slices_without_brain_stay_out(dataset: SliceDataset) -> None:
    assert len(dataset) == 9  # three of four slices of each case
    assert all(row > 0 for _, row in dataset.index)
    assert len(dataset.lesion_rows) == 6
    with pytest.raises(ValueError, match="no slice with brain"):
        SliceDataset([], CONTRACT)


def test_first_half_of_a_batch_shows_lesions_and_the_seed_decides(dataset: SliceDataset) -> None:
    augment = AugmentRecipe()
    first = dataset.training_batch(4, GRID_PX, augment, (0, 1, 2))
    again = dataset.training_batch(4, GRID_PX, augment, (0, 1, 2))
    other = dataset.training_batch(4, GRID_PX, augment, (0, 1, 3))
    assert (first.lesion[:2].sum(dim=(1, 2, 3)) > 0).all()
    for field in dataclasses.fields(first):
        assert torch.equal(getattr(first, field.name), getattr(again, field.name))
    assert not torch.equal(first.ct, other.ct)


def test_batch_without_augmentation_is_the_cached_slice(dataset: SliceDataset) -> None:
    rows = np.array([0, 4])
    batch = dataset.fixed_batch(rows, GRID_PX)
    assert batch.ct.shape == (2, 3, GRID_PX, GRID_PX)
    for number, row in enumerate(rows):
        case, where = dataset.index[row]
        np.testing.assert_array_equal(batch.target[number, 0], dataset.cases[case].target_slices(where))
    planes = dataset.planes(rows)
    still = augment_planes(planes, STILL, np.random.default_rng(0))
    assert torch.equal(still.hu, planes.hu)
    assert torch.equal(still.labels, planes.labels)


def test_coarse_stage_is_the_block_mean_with_distances_still_in_mm(dataset: SliceDataset) -> None:
    planes = dataset.planes(np.array([0]))
    full, half = to_batch(planes, CONTRACT, GRID_PX), to_batch(planes, CONTRACT, GRID_PX // 2)
    inside = half.brain[0, 0] > 0
    blocks = planes.labels[0, 0].reshape(16, 2, 16, 2).mean(dim=(1, 3))
    torch.testing.assert_close(half.target[0, 0][inside], blocks[inside])
    assert (half.target[0, 0][~inside] == -1).all()
    assert set(half.mask[0, 0].unique().tolist()) == {0.0, 1.0}
    # The centre of the drawn brain lies 11.5 fine pixels, 82.8 mm, from its edge, whichever the grid: both saturate
    # at 20 mm.
    assert float(half.mask[0, 1].max()) == float(full.mask[0, 1].max()) == 1.0
    coarse = torch.nn.functional.avg_pool2d(full.mask[:, 1:], 2)
    assert float((coarse - half.mask[:, 1:]).abs().mean()) < 0.15
    with pytest.raises(ValueError, match="does not divide"):
        to_batch(planes, CONTRACT, 24)


def test_flip_and_moves_keep_lesion_on_its_bright_target(dataset: SliceDataset) -> None:
    strong = AugmentRecipe(probability=1.0, rotation_deg=30, scale=0.2, shift=0.1, noise_hu=0.0, offset_hu=0.0)
    planes = dataset.planes(np.repeat(dataset.lesion_rows, 4))
    moved = augment_planes(planes, strong, np.random.default_rng(5))
    assert not torch.equal(moved.hu, planes.hu)
    hu = moved.hu[:, 0]
    target, brain, lesion = (moved.labels[:, number] for number in range(3))
    assert set(brain.unique().tolist()) == {0.0, 1.0}
    assert set(lesion.unique().tolist()) == {0.0, 1.0}
    assert (lesion <= brain).all()
    assert (target[brain == 0] == -1).all()
    sick, well = (lesion > 0), (brain > 0) & (lesion == 0)
    assert float(target[sick].mean() - target[well].mean()) > 0.4
    assert float(hu[well].median() - hu[sick].median()) > 3.0
    assert float(hu[:, 0, 0].max()) < -900  # air comes in from outside


def test_noise_and_offset_touch_the_ct_only(dataset: SliceDataset) -> None:
    planes = dataset.planes(np.array([0, 1]))
    noisy = AugmentRecipe(probability=0.0, flip=False, noise_hu=3.0, offset_hu=2.0)
    moved = augment_planes(planes, noisy, np.random.default_rng(6))
    assert torch.equal(moved.labels, planes.labels)
    assert 0.1 < float((moved.hu - planes.hu).std()) < 4.0


def test_gamma_changes_the_contrast_of_tissue_and_leaves_bone_and_air(dataset: SliceDataset) -> None:
    planes = dataset.planes(np.array([0, 1, 2]))
    planes.hu[:, :, :2] = 900.0
    varied = augment_planes(
        planes, AugmentRecipe(0.0, flip=False, noise_hu=0.0, offset_hu=0.0, gamma=0.3), np.random.default_rng(1)
    )
    outside = (planes.hu < 0) | (planes.hu > 80)
    torch.testing.assert_close(varied.hu[outside], planes.hu[outside])
    assert float((varied.hu - planes.hu)[~outside].abs().mean()) > 0.2


def test_blur_is_the_gaussian_of_scipy() -> None:
    from scipy import ndimage

    from train.data.dataset import _blurred

    noise = np.random.default_rng(0).normal(size=(2, 24, 24)).astype(np.float32)
    wanted = np.stack([ndimage.gaussian_filter(plane, 1.1, mode="nearest", radius=4) for plane in noise])
    np.testing.assert_allclose(_blurred(torch.from_numpy(noise), 1.1).numpy(), wanted, atol=1e-5)


def test_context_moves_with_the_slice() -> None:
    cases = [drawn_case(1, n_slices=6)]
    dataset = SliceDataset(cases, WITH_CONTEXT)
    rows = np.arange(len(dataset))
    planes = dataset.planes(rows)
    assert planes.hu.shape[1] == 5
    assert planes.own == 4
    flipped = augment_planes(planes, AugmentRecipe(0.0, flip=True, noise_hu=0.0, offset_hu=0.0), _AlwaysFlip())
    assert torch.equal(flipped.hu, planes.hu.flip(-1))
    batch = to_batch(planes, WITH_CONTEXT, GRID_PX)
    assert batch.ct.shape == (len(rows), WITH_CONTEXT.ct_channel_count, GRID_PX, GRID_PX)
    hu = cases[0].hu_slices()
    number, where = dataset.index[2]
    assert number == 0
    np.testing.assert_array_equal(planes.hu[2, 1], hu[where - 1])
    np.testing.assert_array_equal(planes.hu[2, 2], hu[where + 1])


class _AlwaysFlip(np.random.Generator):
    """Answers 0 to every draw of a single number, which flips every slice and adds nothing."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, *args: object, **kwargs: object) -> float:
        return 0.0


def test_unknown_lesions_are_marked_in_the_batch() -> None:
    known, unknown = drawn_case(1), dataclasses.replace(drawn_case(2), lesion=None)
    dataset = SliceDataset([known, unknown], CONTRACT)
    batch = dataset.fixed_batch(np.array([0, len(dataset) - 1]), GRID_PX)
    assert batch.lesion_known.tolist() == [1.0, 0.0]
    assert float(batch.lesion[1].sum()) == 0.0


def test_balanced_centres_are_drawn_alike_however_many_slices_they_have() -> None:
    cases = [drawn_case(seed) for seed in range(9)] + [drawn_case(9, centre="B")]
    rng = np.random.default_rng(0)
    shares = {}
    for balance in ("none", "centre"):
        dataset = SliceDataset(cases, CONTRACT, balance=balance)
        rows = dataset.choose(2000, rng)
        shares[balance] = np.mean([dataset.cases[number].facts.centre == "B" for number in dataset.index[rows, 0]])
    assert shares["none"] == pytest.approx(0.1, abs=0.03)
    assert shares["centre"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_lesion_share_is_kept(share: float) -> None:
    dataset = SliceDataset([drawn_case(1), drawn_case(2, lesion=False, n_slices=40)], CONTRACT, lesion_share=share)
    rows = dataset.choose(400, np.random.default_rng(0))
    from_lesion = np.isin(rows, dataset.lesion_rows)
    assert from_lesion[: int(400 * share)].all()
    assert from_lesion[int(400 * share) :].sum() < 0.3 * 400 * (1 - share) + 1


def test_noise_and_calibration_do_not_touch_the_asymmetry() -> None:
    dataset = SliceDataset([drawn_case(1, n_slices=6)], WITH_CONTEXT)
    planes = dataset.planes(np.arange(len(dataset)))
    noisy = AugmentRecipe(probability=0.0, flip=False, noise_hu=3.0, offset_hu=2.0, gamma=0.1, blur_px=0.5)
    varied = augment_planes(planes, noisy, np.random.default_rng(6))
    assert torch.equal(varied.hu[:, 4], planes.hu[:, 4])
    assert not torch.equal(varied.hu[:, 3], planes.hu[:, 3])
