"""Regional term: block means by a plain loop, blind to texture, the same size at every resolution, lesions and edges.

Left out: whether it helps; that is measured by training.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.objectives import ObjectiveError, regional_loss


def by_loops(residual: np.ndarray, brain: np.ndarray, lesion: np.ndarray, side: int, lesion_weight: float) -> float:
    """The definition, one block at a time, for one image."""
    costs, weights = [], []
    step = side // 2
    for top in range(0, residual.shape[0] - side + 1, step):
        for left in range(0, residual.shape[1] - side + 1, step):
            block = np.s_[top : top + side, left : left + side]
            share = brain[block].mean()
            if share == 0:
                continue
            mean = (residual[block] * brain[block]).mean() / max(share, 0.05)
            costs.append(mean**2 / 2)
            weights.append(share * (share > 0.05) + lesion_weight * (brain[block] * lesion[block]).mean())
    total = np.sum(weights)
    return float(np.dot(costs, weights) / total) if total else 0.0


@pytest.mark.parametrize("lesion_weight", [0.0, 6.0])
def test_it_is_the_weighted_mean_of_squared_block_means(lesion_weight: float) -> None:
    rng = np.random.default_rng(0)
    residual = rng.normal(size=(2, 32, 32))
    axis = np.arange(32) - 15.5
    brain = np.stack([axis[:, None] ** 2 + axis**2 < radius**2 for radius in (14.0, 9.0)]).astype(float)
    lesion = np.zeros_like(brain)
    lesion[0, 10:17, 18:24] = 1
    wanted = np.mean([by_loops(residual[i], brain[i], lesion[i], 4, lesion_weight) for i in range(2)])
    tensors = [torch.from_numpy(array)[:, None] for array in (residual, np.zeros_like(residual), brain, lesion)]
    found = regional_loss(*tensors, blocks=8, lesion_weight=lesion_weight)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def _image(value: float = 0.0, size: int = 64) -> torch.Tensor:
    return torch.full((1, 1, size, size), value)


def test_texture_of_mean_zero_costs_next_to_nothing_and_a_shift_costs_its_square() -> None:
    brain, none = _image(1.0), _image()
    rows = torch.arange(64)
    texture = (1.0 - 2.0 * ((rows[:, None] + rows) % 2)).view(1, 1, 64, 64)
    assert float(regional_loss(texture, none, brain, none)) == pytest.approx(0.0, abs=1e-12)
    assert float(regional_loss(_image(0.3), none, brain, none)) == pytest.approx(0.045)


def test_blocks_keep_their_size_in_millimetres_at_every_resolution() -> None:
    coarse = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    fine = coarse.repeat_interleave(4, -1).repeat_interleave(4, -2)
    values = [
        float(regional_loss(image, torch.zeros_like(image), torch.ones_like(image), torch.zeros_like(image)))
        for image in (coarse, fine)
    ]
    # blocks of 2 and of 8 pixels; they overlap by half, so the same means are taken
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_an_empty_brain_costs_nothing_and_has_a_finite_gradient() -> None:
    prediction = torch.randn(2, 1, 32, 32).requires_grad_()
    empty = torch.zeros(2, 1, 32, 32)
    loss = regional_loss(prediction, empty, empty, empty, lesion_weight=4.0)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert prediction.grad is not None
    assert bool(torch.isfinite(prediction.grad).all())


def test_unknown_lesions_have_no_weight() -> None:
    prediction = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    none, brain, lesion = torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    lesion[..., 8:16, 8:16] = 1
    with_label = regional_loss(prediction, none, brain, lesion, lesion_weight=5.0)
    unknown = regional_loss(prediction, none, brain, lesion, lesion_weight=5.0, lesion_known=torch.zeros(1))
    without = regional_loss(prediction, none, brain, none, lesion_weight=5.0)
    assert float(unknown) == pytest.approx(float(without))
    assert float(with_label) != pytest.approx(float(without), rel=1e-3)


def test_too_many_blocks_are_refused() -> None:
    image = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ObjectiveError) as caught:
        regional_loss(image, image, image, image, blocks=16)
    assert caught.value.code == "image_too_small"
