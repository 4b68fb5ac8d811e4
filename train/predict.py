"""Predict whole cases with the weights of a run or with a bundle, the way the node does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jmmda_model.imaging.context import ct_channels
from jmmda_model.imaging.contract import PreprocessingContract
from jmmda_model.imaging.intensity import mask_channels
from train.data.cache import CachedCase
from train.data.dataset import case_asymmetry, case_planes

_BATCH = 4


class Predictor(Protocol):
    """Anything that predicts a cached case."""

    @property
    def description(self) -> str:
        """What predicts, in words, for reports."""

    def predict_case(self, case: CachedCase) -> NDArray[np.float32]:
        """(S, H, W) in [-1, 1]; slices without brain are -1."""


class NetworkPredictor:
    """A network with an output affine.

    Parameters
    ----------
    network : nn.Module
        Trained, called with CT and mask channels; moved to ``device`` and set to evaluation.
    contract : PreprocessingContract
        Of the cases.
    affine : (float, float)
        Gain and offset of the output in [-1, 1]; (1, 0) leaves it as it is.
    flip_average : bool
        Average with the prediction of the mirrored slice.
    description : str
        For reports.
    device : torch.device
        Where to run, always in fp32.
    """

    def __init__(
        self,
        network: nn.Module,
        contract: PreprocessingContract,
        *,
        affine: tuple[float, float] = (1.0, 0.0),
        flip_average: bool = False,
        description: str = "",
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.network: nn.Module = network.to(self.device)
        self.network.eval()
        self.contract = contract
        self.affine = affine
        self.flip_average = flip_average
        self._description = description

    @property
    def description(self) -> str:
        """What predicts, in words, for reports."""
        return self._description

    def inputs(
        self, case: CachedCase, rows: NDArray[np.intp], asymmetry: NDArray[np.float32] | None = None
    ) -> tuple[Tensor, Tensor]:
        """CT (n, channels, H, W) and mask (n, channels, H, W) of some slices, from the same functions the node uses."""
        ct = ct_channels(case_planes(case, rows, self.contract, asymmetry), self.contract)
        mask = mask_channels(np.asarray(case.brain[rows]), self.contract)
        return torch.from_numpy(ct).to(self.device), torch.from_numpy(mask).to(self.device)

    @torch.no_grad()
    def raw(self, ct: Tensor, mask: Tensor) -> NDArray[np.float32]:
        """(n, H, W) output of the network before the affine."""
        output: Tensor = self.network(ct, mask)
        if self.flip_average:
            output = (output + self.network(ct.flip(-1), mask.flip(-1)).flip(-1)) / 2.0
        return np.asarray(output[:, 0].cpu().numpy(), np.float32)

    def predict_case(self, case: CachedCase) -> NDArray[np.float32]:
        """(S, H, W) in [-1, 1]; slices without brain are -1, and so is what lies outside the brain."""
        brain = np.asarray(case.brain) > 0
        output = np.full(brain.shape, -1.0, np.float32)
        rows = np.flatnonzero(brain.any(axis=(1, 2)))
        gain, offset = self.affine
        sides = case_asymmetry(case, self.contract)
        for chosen in np.array_split(rows, max(1, -(-len(rows) // _BATCH))):
            if chosen.size:
                output[chosen] = np.clip(self.raw(*self.inputs(case, chosen, sides)) * gain + offset, -1.0, 1.0)
        return np.where(brain, output, np.float32(-1.0)).astype(np.float32)


def weights_predictor(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    contract: PreprocessingContract,
    description: str,
    device: torch.device | None = None,
) -> NetworkPredictor:
    """Predictor of plain weights, put into a network of their shape, without affine."""
    network.load_state_dict(dict(weights))
    return NetworkPredictor(network, contract, description=description, device=device)


def bundle_predictor(bundle: Path | str, device: torch.device | None = None) -> NetworkPredictor:
    """Predictor of a bundle: its weights as stored (fp16, run in fp32), its contract and its output affine.

    Raises
    ------
    jmmda_model.bundle.BundleError
        When the bundle is not usable.
    """
    from jmmda_model.bundle import load_bundle, load_generator

    loaded = load_bundle(bundle)
    card = loaded.card
    return NetworkPredictor(
        load_generator(loaded),
        card.contract,
        affine=card.output_affine,
        flip_average=card.flip_average,
        description=f"bundle {card.name}, weights SHA-256 {card.sha256[:12]}",
        device=device,
    )
