"""Adam as the recipes ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from train.recipe import OptimiserRecipe

#: Devices whose Adam has a fused kernel: one pass over the weights instead of a dozen.
_FUSED_DEVICES = ("cpu", "cuda")


def build_adam(
    recipe: OptimiserRecipe,
    device: torch.device,
    decaying: Sequence[nn.Parameter],
    others: Sequence[nn.Parameter] = (),
) -> Optimizer:
    """Adam, or with ``weight_decay`` AdamW.

    Parameters
    ----------
    recipe : OptimiserRecipe
        Betas, weight decay and whether to use the fused kernel.
    device : torch.device
        Where the parameters are.
    decaying, others : sequence of nn.Parameter
        Parameters with and without weight decay. The rate is set anew in each step, see `set_rate`.
    """
    groups: list[dict[str, Any]] = [{"params": list(decaying)}]
    if others:
        groups.append({"params": list(others), "weight_decay": 0.0})
    kind = torch.optim.AdamW if recipe.weight_decay > 0.0 else torch.optim.Adam
    return kind(
        groups,
        lr=1e-4,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True if recipe.fused and device.type in _FUSED_DEVICES else None,
    )


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate
