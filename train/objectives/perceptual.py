"""Perceptual terms: L1 on the features of a frozen network, VGG-19 from a local file or our own segmenter.

Sources: Johnson et al., ECCV 2016; layers and weights of VGG-19 as in pix2pixHD (Wang et al., CVPR 2018); features of a
segmenter trained on the same kind of image are our choice where no VGG file is at hand, and need no download.

``perceptual = "disc"`` has no class here. L1 on the discriminator's features is what feature matching already is, so
it only adds to that term's weight (`train.objectives.objective`).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.objectives.errors import ObjectiveError

if TYPE_CHECKING:
    from train.recipe import LossRecipe

#: VGG-19 up to relu5_1 (Simonyan and Zisserman, ICLR 2015, configuration E): filters, "M" a 2 x 2 maximum.
_LAYERS: tuple[int | str, ...] = (64, 64, "M", 128, 128, "M", *(256,) * 4, "M", *(512,) * 4, "M", 512)
#: Where relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 stand among the layers.
_TAKEN = (1, 6, 11, 20, 29)
#: Weights of relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1.
VGG_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
#: Mean and standard deviation of ImageNet's red, green and blue in 0..1, which the public weights were trained with.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class FeatureExtractor(Protocol):
    """A frozen network that turns images (B, 1, H, W) in [-1, 1] into feature maps, finest first."""

    def features(self, image: Tensor) -> list[Tensor]:
        """Feature maps (B, C_i, H_i, W_i) of an image."""
        ...


class PerceptualTerm(Protocol):
    """A perceptual loss: images in [-1, 1] in, a scalar out."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Distance of two batches (B, 1, H, W); no gradient reaches ``target``."""
        ...


def _feature_distances(network: FeatureExtractor, prediction: Tensor, target: Tensor) -> list[Tensor]:
    """L1 of each feature map."""
    with torch.no_grad():
        theirs = network.features(target)
    return [functional.l1_loss(a, b) for a, b in zip(network.features(prediction), theirs, strict=True)]


def vgg_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the 26 tensors read from a VGG-19 state dict: torchvision's, up to ``features.28``."""
    shapes: dict[str, tuple[int, ...]] = {}
    index, channels = 0, 3
    for layer in _LAYERS:
        if isinstance(layer, int):
            shapes[f"features.{index}.weight"] = (layer, channels, 3, 3)
            shapes[f"features.{index}.bias"] = (layer,)
            index, channels = index + 2, layer  # its ReLU follows
        else:
            index += 1
    return shapes


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise ObjectiveError("vgg_file", f"{path.name} cannot be read: {error}") from error
    try:
        # weights_only: a weights file must not be able to run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ObjectiveError("vgg_file", f"{path.name} cannot be read as plain weights: {error}") from error
    if not isinstance(state, Mapping):
        raise ObjectiveError("vgg_file", f"{path.name} holds a {type(state).__name__} and not a state dict")
    return state


class Vgg19Perceptual(nn.Module):
    """L1 on relu1_1 to relu5_1 of a frozen VGG-19, with pix2pixHD's weights.

    Grey images in [-1, 1] are brought to 0..1, repeated to three channels and normalised as ImageNet was (pix2pixHD's
    code leaves that last step out; the weights were trained with it).

    Parameters
    ----------
    state : Mapping[str, Tensor]
        State dict of VGG-19 with torchvision's names (`vgg_shapes`); what lies behind relu5_1 is ignored.

    Raises
    ------
    ObjectiveError
        When a tensor is missing or has another shape.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        wanted = vgg_shapes()
        missing = [name for name in wanted if not isinstance(state.get(name), Tensor)]
        if missing:
            raise ObjectiveError(
                "vgg_keys", f"not a state dict of VGG-19: {len(missing)} tensors are missing, the first is {missing[0]}"
            )
        for name, shape in wanted.items():
            if tuple(state[name].shape) != shape:
                found = tuple(state[name].shape)
                raise ObjectiveError("vgg_shape", f"not a VGG-19: {name} has shape {found} and not {shape}")
        modules: list[nn.Module] = []
        channels = 3
        for layer in _LAYERS:
            if isinstance(layer, int):
                modules += [nn.Conv2d(channels, layer, 3, padding=1), nn.ReLU()]
                channels = layer
            else:
                modules.append(nn.MaxPool2d(2))
        self.layers = nn.ModuleList(modules)
        self.layers.load_state_dict({name.removeprefix("features."): state[name].float() for name in wanted})
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(requires_grad=False).eval()

    @classmethod
    def from_file(cls, path: Path) -> Vgg19Perceptual:
        """Load from a local ``.safetensors`` file, or a file of ``torch.save`` that holds tensors only.

        Raises
        ------
        ObjectiveError
            When the file cannot be read or is not a VGG-19.
        """
        return cls(_read_state(path))

    def features(self, image: Tensor) -> list[Tensor]:
        """relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 of an image (B, 1, H, W) in [-1, 1].

        Returns
        -------
        list of Tensor
            (B, 64, H, W), (B, 128, H/2, W/2), (B, 256, H/4, W/4), (B, 512, H/8, W/8), (B, 512, H/16, W/16).
        """
        x = ((image + 1.0) / 2.0).expand(-1, 3, -1, -1)
        x = (x - self.mean) / self.std
        found: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in _TAKEN:
                found.append(x)
        return found

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Weighted sum of the layers' L1; (B, 1, H, W) each; scalar."""
        distances = _feature_distances(self, prediction, target)
        return torch.stack([weight * distance for weight, distance in zip(VGG_WEIGHTS, distances, strict=True)]).sum()


class SegmenterPerceptual:
    """L1 on the features of a segmenter trained on real DWI, mean over its feature maps.

    Parameters
    ----------
    segmenter : FeatureExtractor
        For example `train.segmenter.Segmenter`. A torch module is frozen and set to evaluation here.
    """

    def __init__(self, segmenter: FeatureExtractor) -> None:
        if isinstance(segmenter, nn.Module):
            segmenter.requires_grad_(requires_grad=False).eval()
        self.segmenter = segmenter

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Mean L1 of two batches (B, 1, H, W) over the feature maps; scalar.

        Raises
        ------
        ObjectiveError
            When the segmenter returns no feature map.
        """
        distances = _feature_distances(self.segmenter, prediction, target)
        if not distances:
            raise ObjectiveError("no_features", "the segmenter returns no feature maps")
        return torch.stack(distances).mean()


def build_perceptual(
    loss: LossRecipe, device: torch.device, segmenter: FeatureExtractor | None = None
) -> PerceptualTerm | None:
    """The perceptual term a recipe asks for.

    Parameters
    ----------
    loss : LossRecipe
        ``perceptual``, ``perceptual_weight`` and ``perceptual_file``: weights of VGG-19, or a segmenter that
        `train.segmenter.save_segmenter` wrote.
    device : torch.device
        Where training runs; what is loaded goes there.
    segmenter : FeatureExtractor, optional
        Used by ``seg`` in place of the file.

    Returns
    -------
    PerceptualTerm or None
        None for ``none``, for ``disc`` (part of feature matching) and for a weight of zero.

    Raises
    ------
    ObjectiveError
        When there is neither file nor segmenter, or the file is not a VGG-19.
    train.segmenter.SegmenterError
        When the file is not a segmenter.
    """
    if loss.perceptual_weight == 0.0 or loss.perceptual in {"none", "disc"}:
        return None
    if loss.perceptual == "seg" and segmenter is not None:
        return SegmenterPerceptual(segmenter)
    if loss.perceptual_file is None:
        wanted = {"seg": "a segmenter trained on real DWI", "vgg": "a local state dict of VGG-19"}[loss.perceptual]
        raise ObjectiveError("no_network", f"perceptual = {loss.perceptual} needs perceptual_file, {wanted}")
    if loss.perceptual == "seg":
        from train.segmenter import load_segmenter

        return SegmenterPerceptual(load_segmenter(Path(loss.perceptual_file), device))
    return Vgg19Perceptual.from_file(Path(loss.perceptual_file)).to(device)
