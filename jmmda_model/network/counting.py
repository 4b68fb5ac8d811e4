"""Parameters and multiply-adds of a network, counted from what it really executes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters (works on the meta device too)."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_gmac(module: nn.Module, *inputs: Tensor) -> float:
    """Return the multiply-adds of one forward pass, in 1e9, attention included.

    Element-wise operations and normalisation are not counted, as in the usual tables.

    Parameters
    ----------
    module
        Network in any state; it runs once without gradients.
    *inputs
        Tensors on the module's device. On the meta device nothing is computed, so large networks are
        counted at no cost.
    """
    # The fused attention of the CPU is one operator that the counter does not know; the plain form it does.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return float(counter.get_total_flops()) / 2 / 1e9
