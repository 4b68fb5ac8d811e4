"""State of a training run and its checkpoint: what must survive a kill for the next loss to be the same."""

from __future__ import annotations

import copy
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.generator import Generator, build_generator
from jmmda_model.network.settings import DiscriminatorSettings
from train.recipe import Recipe, StageRecipe, generator_settings

CHECKPOINT_NAME = "checkpoint.pt"
_FORMAT = 1


class TrainingError(RuntimeError):
    """Raised when a run cannot go on: checkpoint of another recipe, or losses that stay non-finite."""


@dataclass(slots=True)
class Position:
    """Where a run stands.

    Attributes
    ----------
    stage, step : int
        Index of the stage and steps done in it.
    total : int
        Steps done in all stages.
    skipped, skipped_in_a_row : int
        Steps whose loss or gradient was not finite and that changed nothing.
    elapsed_s, stage_started_s : float
        Seconds of training so far, over all resumes, and what they were when the stage began.
    """

    stage: int = 0
    step: int = 0
    total: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    elapsed_s: float = 0.0
    stage_started_s: float = 0.0


class MovingAverage:
    """Moving average of a network's weights with decay min(``decay``, (1 + t) / (10 + t)).

    The short memory at the start lets the average follow the fast first steps. Each stage counts t anew.

    Parameters
    ----------
    network : nn.Module
        Its weights are copied; `network` of the average is a frozen twin.
    decay : float
        Upper bound of the decay.
    """

    def __init__(self, network: Generator, decay: float) -> None:
        self.network: Generator = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self.network.eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights of ``network`` after ``step`` (from 0) steps of the stage."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for mean, value in zip(self.network.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)
        for kept, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)


class Networks:
    """Generator, its moving average, the discriminator, and their optimisers.

    Parameters
    ----------
    recipe : Recipe
        Sizes, rates and the seed of the initial weights.
    device : torch.device
        Where everything lives.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        settings = generator_settings(recipe.generator)
        torch.manual_seed(recipe.seed)
        self.generator = build_generator(settings).to(device)
        size = recipe.discriminator
        self.discriminator = build_discriminator(
            DiscriminatorSettings(
                in_channels=settings.in_channels + 1,
                ndf=size.ndf,
                n_layers=size.n_layers,
                num_scales=size.num_scales,
                spectral_norm=size.spectral_norm,
            )
        ).to(device)
        self.average = MovingAverage(self.generator, recipe.optimiser.ema_decay)
        self.new_optimisers()

    def new_optimisers(self) -> None:
        """Forget the optimisers' moments, as at the start of a stage."""
        betas = (self.recipe.optimiser.beta1, self.recipe.optimiser.beta2)
        rate = self.recipe.optimiser.discriminator_learning_rate
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), lr=1e-4, betas=betas)
        self.discriminator_optimiser = torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=betas)

    def start_stage(self) -> None:
        """Go on from the averaged weights with fresh optimisers: moments of another resolution would mislead."""
        self.generator.load_state_dict(self.average.network.state_dict())
        self.new_optimisers()

    def parts(self) -> dict[str, Any]:
        """Everything with a ``state_dict`` by name."""
        return {
            "generator": self.generator,
            "average": self.average.network,
            "discriminator": self.discriminator,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
        }


def stage_of(recipe: Recipe, position: Position) -> StageRecipe | None:
    """Stage a run is in, or None when all are done."""
    return recipe.stages[position.stage] if position.stage < len(recipe.stages) else None


def save_checkpoint(folder: Path, recipe: Recipe, position: Position, networks: Networks) -> Path:
    """Write ``checkpoint.pt`` of a run atomically: a kill leaves the old or the new one, never a part."""
    values = {
        "format": _FORMAT,
        "recipe": recipe.to_json(),
        "position": asdict(position),
        "parts": {name: part.state_dict() for name, part in networks.parts().items()},
    }
    return _save(values, folder / CHECKPOINT_NAME)


def load_checkpoint(folder: Path, recipe: Recipe, networks: Networks) -> Position:
    """Restore networks and optimisers in place and return the position.

    Raises
    ------
    TrainingError
        When the checkpoint was made from another recipe; only the time limit and the log settings may differ.
    FileNotFoundError
        When the run has no checkpoint.
    """
    values = torch.load(folder / CHECKPOINT_NAME, map_location="cpu", weights_only=True)
    if values["format"] != _FORMAT:
        raise TrainingError(f"checkpoint format {values['format']} is not {_FORMAT}")
    if _decisive(values["recipe"]) != _decisive(recipe.to_json()):
        raise TrainingError("the checkpoint was made from another recipe; start a new run folder")
    for name, part in networks.parts().items():
        part.load_state_dict(values["parts"][name])
    return Position(**values["position"])


def _decisive(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe.items() if key not in ("max_minutes", "log", "description")}


def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """Averaged generator weights of a run's newest checkpoint, on the CPU.

    Raises
    ------
    FileNotFoundError
        When the run has no checkpoint.
    """
    values = torch.load(folder / CHECKPOINT_NAME, map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = values["parts"]["average"]
    return weights


def save_stage_weights(folder: Path, name: str, networks: Networks) -> Path:
    """Keep the averaged weights at the end of a stage as ``stage-NAME.pt``, to compare stages later."""
    return _save(networks.average.network.state_dict(), folder / f"stage-{name}.pt")


def load_stage_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Averaged weights at the end of a stage.

    Raises
    ------
    FileNotFoundError
        When the run has not finished that stage.
    """
    weights: dict[str, Tensor] = torch.load(folder / f"stage-{name}.pt", map_location="cpu", weights_only=True)
    return weights


def _save(values: object, path: Path) -> Path:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        torch.save(values, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)
    return path
