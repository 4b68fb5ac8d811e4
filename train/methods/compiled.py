"""Compilation of a network where it is asked for and the machine can do it."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether compilation is ``wanted``, and on which ``device``."""

    wanted: bool
    device: torch.device


def as_asked(module: nn.Module, answer: Answer) -> nn.Module:
    """The module compiled, or itself where that is not wanted or not possible (one warning says so)."""
    if not answer.wanted or not can_compile(answer.device.type):
        return module
    return cast(nn.Module, torch.compile(module))


@functools.cache
def can_compile(kind: str) -> bool:
    """Whether `torch.compile` works on a kind of device: a small function is compiled once to find out.

    A missing C++ compiler (CPU) or Triton (CUDA) shows only when code is generated, deep in the first training step.
    """
    from torch._dynamo.exc import TorchDynamoException

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * 2.0

    try:
        torch.compile(doubled, fullgraph=True)(torch.ones(8, device=kind))
    except (TorchDynamoException, RuntimeError, ImportError, OSError) as error:
        _log.warning(
            "torch.compile does not work here (%s): training goes on without it", str(error).strip().partition("\n")[0]
        )
        return False
    return True
