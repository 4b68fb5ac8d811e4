"""Moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


class MovingAverage(Generic[N]):
    """Moving average of a network's weights with decay min(``decay``, (1 + t) / (10 + t)), in fp32.

    The short memory at the start lets the average follow the fast first steps. Each stage counts t anew.

    Parameters
    ----------
    network : nn.Module
        Its weights are copied; `network` of the average is a frozen twin.
    decay : float
        Upper bound of the decay.
    """

    def __init__(self, network: N, decay: float) -> None:
        self.network: N = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self.network.eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights of ``network`` after ``step`` (from 0) steps of the stage."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1.0 - decay)
        for kept, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)
