"""A network that steers without learning."""

from __future__ import annotations

import copy

from torch import nn


def frozen_twin(network: nn.Module) -> nn.Module:
    """A network on the same memory as another, whose weights ask for no gradient and whose buffers stand still.

    Updates in place (optimiser steps, `load_state_dict`) reach both; only gradients do not.
    """
    twin = copy.deepcopy(network).eval()
    for ours, theirs in zip(twin.modules(), network.modules(), strict=True):
        for name, parameter in theirs.named_parameters(recurse=False):
            setattr(ours, name, nn.Parameter(parameter.detach(), requires_grad=False))
        for name, buffer in theirs.named_buffers(recurse=False):
            setattr(ours, name, buffer)
    return twin
