"""What the trainer asks of a method, so that a comparison method plugs in without a change of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from train.data.dataset import Batch
from train.recipe import StageRecipe
from train.state import HasState


@dataclass(frozen=True, slots=True)
class Moment:
    """When a step happens.

    Attributes
    ----------
    stage : StageRecipe
        Stage of the step.
    step : int
        Steps done in the stage.
    rate : float
        Learning rate as a fraction of the stage's.
    logged : bool
        Whether the step's figures are looked at: only then may a method compute what is for the log alone.
    """

    stage: StageRecipe
    step: int
    rate: float
    logged: bool


@dataclass(frozen=True, slots=True)
class StepReport:
    """Figures of one step; tensors stay on the device until somebody looks.

    Attributes
    ----------
    loss : Tensor
        Sum of the generator's weighted terms, scalar.
    terms : Mapping[str, Tensor]
        Weighted terms by name, scalars, including those of other networks.
    gradient_norm : Tensor
        Of the generator, before clipping, scalar.
    gradient_at_output : Mapping[str, float]
        Pull of each term at the generator's output, for logged steps.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    gradient_norm: Tensor
    gradient_at_output: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """A way to train an image translator."""

    def parts(self) -> dict[str, HasState]:
        """Everything a checkpoint must keep, by name; ``average`` holds the weights that are evaluated and exported."""

    def networks(self) -> dict[str, nn.Module]:
        """Networks that are trained, by name."""

    def start_stage(self, stage: StageRecipe) -> None:
        """Prepare for a stage."""

    def step(self, batch: Batch, moment: Moment) -> StepReport:
        """One update of every network. The batch is on the device."""

    def predict(self, ct: Tensor, mask: Tensor) -> Tensor:
        """Image (B, 1, H, W) in [-1, 1] from the weights that are evaluated, without gradients."""

    def fusion_weights(self, ct: Tensor, mask: Tensor) -> list[list[float]]:
        """Mean weight of each input of each adaptive fusion, for the log; empty where a method has none."""

    def evaluated_weights(self) -> dict[str, Any]:
        """State of the network that `predict` uses."""
