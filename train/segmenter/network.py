"""The segmenter's card and network, and its files: safetensors weights with a JSON card beside them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

#: Layout of the card; a segmenter with another one is refused.
CARD_SCHEMA = 1
_GROUPS = 4
#: Slices that go through the network together.
PREDICT_BATCH = 8
#: Channels of each level, fine to coarse.
DEFAULT_WIDTHS = (12, 24, 48, 96)


class SegmenterError(ValueError):
    """A segmenter cannot be trained or used.

    Parameters
    ----------
    code : str
        ``missing``, ``card``, ``hash``, ``weights``, ``no_labels`` or ``grid``.
    reason : str
        One sentence that says what to do where that is known.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SegmenterCard:
    """What a segmenter is and how it was trained; kept as JSON beside the weights.

    Attributes
    ----------
    widths : tuple of int
        Channels of each level of the encoder, fine to coarse.
    grid_px : int
        Side of the images it was trained on; finer images are averaged down to it.
    source : str
        ``phantom`` or the name of the layout of the training data.
    n_cases, n_slices, steps, seed : int
        Training cases and slices, steps done, seed.
    seconds : float
        Time the steps took.
    dice : Mapping[str, float]
        Dice of lesion and brain on held-out measured DWI where it was measured, else empty.
    sha256 : str
        Of the weights file.
    """

    widths: tuple[int, ...] = DEFAULT_WIDTHS
    grid_px: int = 128
    source: str = ""
    n_cases: int = 0
    n_slices: int = 0
    steps: int = 0
    seed: int = 0
    seconds: float = 0.0
    dice: Mapping[str, float] = field(default_factory=dict)
    sha256: str = ""
    schema: int = CARD_SCHEMA

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build a card from JSON values.

        Raises
        ------
        SegmenterError
            ``card``: unknown schema, missing or impossible values.
        """
        if values.get("schema") != CARD_SCHEMA:
            raise SegmenterError("card", f"schema {values.get('schema')!r} is not {CARD_SCHEMA}, the one known here")
        try:
            card = cls(**{**values, "widths": tuple(int(width) for width in values["widths"])})
        except (KeyError, TypeError, ValueError) as error:
            raise SegmenterError("card", f"the card is not complete: {error}") from error
        if not card.widths or any(width < _GROUPS or width % _GROUPS for width in card.widths) or card.grid_px < 1:
            raise SegmenterError("card", f"widths must be multiples of {_GROUPS} and grid_px positive")
        return card


def _block(channels_in: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for first in (channels_in, channels):
        layers += [nn.Conv2d(first, channels, 3, padding=1), nn.GroupNorm(_GROUPS, channels), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class Segmenter(nn.Module):
    """U-Net from normalised DWI to lesion and brain; 0.28 M weights with the default widths.

    Parameters
    ----------
    card : SegmenterCard, optional
        Its ``widths`` and ``grid_px`` shape the network.
    """

    def __init__(self, card: SegmenterCard | None = None) -> None:
        super().__init__()
        self.card = card or SegmenterCard()
        widths = self.card.widths
        self.encoder = nn.ModuleList(_block(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True))
        self.decoder = nn.ModuleList(_block(a + b, a) for a, b in itertools.pairwise(widths))
        self.head = nn.Conv2d(widths[0], 2, 1)

    def _to_grid(self, image: Tensor) -> Tensor:
        """Average a finer image down to the grid of training, so that filters meet the sizes they know."""
        factor = image.shape[-1] // self.card.grid_px
        return functional.avg_pool2d(image, factor) if factor > 1 else image

    def features(self, image: Tensor) -> list[Tensor]:
        """Encoder features, fine to coarse: level k has (B, widths[k], h / 2^k, w / 2^k).

        Parameters
        ----------
        image : Tensor
            (B, 1, H, W) normalised DWI in [-1, 1]; a frame finer than ``grid_px`` is averaged down to it first, which
            makes h and w. h and w must divide by 2^(levels - 1).

        Raises
        ------
        SegmenterError
            ``grid``: when the frame does not divide.
        """
        level = self._to_grid(image)
        step = 2 ** (len(self.encoder) - 1)
        if level.shape[-1] % step or level.shape[-2] % step:
            raise SegmenterError("grid", f"a frame of {tuple(level.shape[-2:])} does not divide by {step}")
        found: list[Tensor] = []
        for number, block in enumerate(self.encoder):
            level = block(functional.max_pool2d(level, 2) if number else level)
            found.append(level)
        return found

    def forward(self, image: Tensor) -> Tensor:
        """Logits of lesion (channel 0) and brain (1), (B, 2, H, W), of an image (B, 1, H, W) in [-1, 1]."""
        found = self.features(image)
        level = found[-1]
        for block, skip in zip(reversed(self.decoder), reversed(found[:-1]), strict=True):
            level = block(torch.cat([skip, functional.interpolate(level, scale_factor=2, mode="nearest")], dim=1))
        logits: Tensor = self.head(level)
        if logits.shape[-1] != image.shape[-1]:
            logits = functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return logits

    @torch.no_grad()
    def lesion(self, dwi: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Lesion of a normalised DWI volume (S, H, W) in [-1, 1], (S, H, W); probability 0.5 is the border."""
        device = self.head.weight.device
        parts = [
            (self(torch.from_numpy(np.ascontiguousarray(rows))[:, None].to(device))[:, 0] > 0).cpu().numpy()
            for rows in np.array_split(dwi, max(1, -(-len(dwi) // PREDICT_BATCH)))
        ]
        return np.concatenate(parts)


def save_segmenter(network: Segmenter, path: Path) -> SegmenterCard:
    """Write weights (``path``, safetensors) and card (same name, ``.json``); each is written beside and renamed."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    raw = save(tensors)
    network.card = replace(network.card, sha256=hashlib.sha256(raw).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, raw)
    _replace(path.with_suffix(".json"), json.dumps(asdict(network.card), indent=1).encode())
    return network.card


def _replace(path: Path, raw: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(raw)
    os.replace(part, path)


def load_segmenter(path: Path, device: torch.device | None = None) -> Segmenter:
    """Read a segmenter, frozen and in evaluation; the weights must be those the card names.

    Raises
    ------
    SegmenterError
        ``missing``, ``card``, ``hash`` or ``weights``.
    """
    from safetensors.torch import load

    try:
        raw = path.read_bytes()
        values = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SegmenterError("missing", f"{path.name} and {path.stem}.json are both needed") from error
    except json.JSONDecodeError as error:
        raise SegmenterError("card", f"{path.stem}.json is not JSON: {error.msg}") from error
    card = SegmenterCard.from_json(values)
    if hashlib.sha256(raw).hexdigest() != card.sha256:
        raise SegmenterError("hash", f"{path.name} is not the file its card names; train the segmenter again")
    network = Segmenter(card)
    try:
        network.load_state_dict(load(raw))
    except (RuntimeError, ValueError) as error:
        raise SegmenterError("weights", f"{path.name} does not fit its card") from error
    network.to(device or torch.device("cpu")).eval().requires_grad_(requires_grad=False)
    return network
