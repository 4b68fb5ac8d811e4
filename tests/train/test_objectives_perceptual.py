"""Perceptual terms: VGG-19 against plain functional calls and SciPy, its file checks, and a segmenter's features.

The VGG weights are random: what is tested is that the right layers are taken from the right tensors. Leaves out what
real ImageNet weights do for the pictures.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import signal
from torch.nn import functional

from train.objectives import ObjectiveError, SegmenterPerceptual, Vgg19Perceptual, build_perceptual
from train.objectives.perceptual import vgg_shapes
from train.recipe import LossRecipe
from train.segmenter import Segmenter, SegmenterCard, save_segmenter

VGG = LossRecipe(perceptual="vgg", perceptual_weight=1.0)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A state dict with torchvision's names, Kaiming-like random values, and a classifier that is not used."""
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in vgg_shapes().items():
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        tensors[name] = torch.randn(shape, generator=rng) * ((2 / fan_in) ** 0.5 if len(shape) > 1 else 0.1)
    return {**tensors, "classifier.6.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def vgg(state) -> Vgg19Perceptual:
    return Vgg19Perceptual(state)


def images(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return tuple(torch.rand(1, 1, size, size, generator=rng) * 2 - 1 for _ in range(2))  # type: ignore[return-value]


def test_layers_are_torchvision_s_vgg19_up_to_relu5_1() -> None:
    convolutions = [int(name.split(".")[1]) for name in vgg_shapes() if name.endswith("weight")]
    assert convolutions == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28]
    assert vgg_shapes()["features.28.weight"] == (512, 512, 3, 3)
    assert sum(np.prod(shape) for shape in vgg_shapes().values()) == 12_944_960


def test_features_are_those_of_plain_calls(vgg, state) -> None:
    image, _ = images()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    x = (image.repeat(1, 3, 1, 1) * 0.5 + 0.5 - mean) / std
    wanted = []
    for block in ([0, 2], [5, 7], [10, 12, 14, 16], [19, 21, 23, 25], [28]):
        for number in block:
            x = functional.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1)
            x = functional.relu(x)
            if number == block[0]:
                wanted.append(x)
        x = functional.max_pool2d(x, 2)
    found = vgg.features(image)
    assert [tuple(f.shape[1:]) for f in found] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_first_layer_is_a_correlation_of_scipy(vgg, state) -> None:
    image, _ = images(16)
    scaled = (image[0, 0].double().numpy() + 1) / 2
    channels = [(scaled - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    kernel, bias = state["features.0.weight"][7].double().numpy(), float(state["features.0.bias"][7])
    wanted = sum(signal.correlate2d(c, k, mode="same") for c, k in zip(channels, kernel, strict=True)) + bias
    np.testing.assert_allclose(vgg.features(image)[0][0, 7].numpy(), np.maximum(wanted, 0), atol=1e-5)


def test_distance_weighs_the_layers_as_pix2pixhd_and_only_moves_the_prediction(vgg) -> None:
    prediction, target = images()
    prediction.requires_grad_()
    target.requires_grad_()
    loss = vgg(prediction, target)
    loss.backward()
    ours, theirs = vgg.features(prediction.detach()), vgg.features(target.detach())
    parts = [float((a - b).abs().mean()) for a, b in zip(ours, theirs, strict=True)]
    assert float(loss.detach()) == pytest.approx(np.dot(parts, [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1]), rel=1e-5)
    assert target.grad is None
    assert float(prediction.grad.abs().sum()) > 0
    assert all(not p.requires_grad and p.grad is None for p in vgg.parameters())
    assert float(vgg(target.detach(), target.detach())) == 0.0


@pytest.mark.parametrize("name", ["vgg19.safetensors", "vgg19.pth"])
def test_weights_come_from_a_local_file(tmp_path: Path, state, vgg, name: str) -> None:
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    term = build_perceptual(dataclasses.replace(VGG, perceptual_file=str(path)), torch.device("cpu"))
    prediction, target = images()
    torch.testing.assert_close(term(prediction, target), vgg(prediction, target))


class _Harm:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_weights_file_cannot_run_code(tmp_path: Path) -> None:
    path, mark = tmp_path / "vgg19.pth", tmp_path / "mark"
    torch.save({"features.0.weight": _Harm(mark)}, path)
    with pytest.raises(ObjectiveError, match="plain weights") as caught:
        Vgg19Perceptual.from_file(path)
    assert caught.value.code == "vgg_file"
    assert not mark.exists()


@pytest.mark.parametrize("name", ["vgg19.safetensors", "vgg19.pth"])
@pytest.mark.parametrize("content", [None, b"", b"not weights at all"])
def test_missing_or_broken_file_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ObjectiveError, match=f"{name} cannot be read") as caught:
        Vgg19Perceptual.from_file(path)
    assert caught.value.code == "vgg_file"


def test_file_with_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ObjectiveError, match="holds a list"):
        Vgg19Perceptual.from_file(tmp_path / "list.pth")


def test_other_networks_are_refused_by_key_and_by_shape(state) -> None:
    vgg16 = {key: value for key, value in state.items() if not key.startswith("features.16.")}
    with pytest.raises(ObjectiveError, match=r"2 tensors are missing, the first is features\.16\.weight") as caught:
        Vgg19Perceptual(vgg16)
    assert caught.value.code == "vgg_keys"
    grey = {**state, "features.0.weight": torch.zeros(64, 1, 3, 3)}
    with pytest.raises(ObjectiveError, match=r"features\.0\.weight has shape \(64, 1, 3, 3\)") as caught:
        Vgg19Perceptual(grey)
    assert caught.value.code == "vgg_shape"


class _Pyramid(torch.nn.Module):
    """Two feature maps whose L1 is known: the image times a weight, and the mean of its quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0))

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.weight * image, functional.avg_pool2d(image, 2)]


def test_segmenter_term_is_the_mean_over_its_maps_with_frozen_weights() -> None:
    network = _Pyramid().train()
    term = build_perceptual(LossRecipe(perceptual="seg", perceptual_weight=2.0), torch.device("cpu"), network)
    assert isinstance(term, SegmenterPerceptual)
    prediction = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)
    loss = term(prediction, torch.zeros(1, 1, 4, 4))
    loss.backward()
    assert float(loss.detach()) == pytest.approx((3 * 0.5 + 0.5) / 2)
    assert float(prediction.grad.sum()) == pytest.approx((3 + 1) / 2)
    assert network.weight.grad is None
    assert not network.training


def test_segmenter_comes_from_its_file(tmp_path: Path) -> None:
    network = Segmenter(SegmenterCard(widths=(4, 8), grid_px=16))
    save_segmenter(network, tmp_path / "segmenter.safetensors")
    recipe = LossRecipe(
        perceptual="seg", perceptual_weight=1.0, perceptual_file=str(tmp_path / "segmenter.safetensors")
    )
    term = build_perceptual(recipe, torch.device("cpu"))
    prediction, target = images()
    ours, theirs = network.eval().features(prediction), network.features(target)
    wanted = np.mean([float((a - b).detach().abs().mean()) for a, b in zip(ours, theirs, strict=True)])
    assert float(term(prediction, target)) == pytest.approx(wanted, rel=1e-5)
    assert float(term(prediction, target)) > 0
    assert float(term(target, target)) == 0.0


def test_segmenter_without_feature_maps_is_refused() -> None:
    class Blind:
        def features(self, image: torch.Tensor) -> list[torch.Tensor]:
            return []

    with pytest.raises(ObjectiveError, match="no feature maps"):
        SegmenterPerceptual(Blind())(torch.zeros(1), torch.zeros(1))


def test_missing_network_is_named_and_off_is_off() -> None:
    cpu = torch.device("cpu")
    assert build_perceptual(LossRecipe(), cpu) is None
    assert build_perceptual(LossRecipe(perceptual="disc", perceptual_weight=1.0), cpu) is None
    assert build_perceptual(LossRecipe(perceptual="vgg"), cpu) is None
    with pytest.raises(ObjectiveError, match="a segmenter trained on real DWI"):
        build_perceptual(LossRecipe(perceptual="seg", perceptual_weight=1.0), cpu)
    with pytest.raises(ObjectiveError, match="a local state dict of VGG-19"):
        build_perceptual(VGG, cpu)
