"""Where a run computes: Lightning Fabric for one device or many, a single-device stand-in where it is not installed.

The trainer needs little: put a module on the device (with gradients averaged over the processes), average a tensor,
agree on a value, wait for each other. Under ``torchrun`` Fabric joins the processes that are already there, with
gloo on CPUs and NCCL on GPUs.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from train.state import TrainingError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_log = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE = timedelta(hours=12)


class Devices(Protocol):
    """The devices of a run as one process sees them.

    Attributes
    ----------
    device : torch.device
        Of this process.
    rank, world : int
        Number of this process and of all.
    """

    device: torch.device
    rank: int
    world: int

    def setup(self, module: nn.Module) -> nn.Module:
        """Callable twin of a module on the device; its gradients are averaged over the processes."""

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes."""

    def largest(self, value: Tensor) -> Tensor:
        """Largest value of a tensor over the processes, element-wise."""

    def broadcast(self, value: T) -> T:
        """Value of process 0, in every process."""


class SingleDevice:
    """One process on one device, with plain torch.

    Parameters
    ----------
    device : torch.device
        Where to compute.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.world = 0, 1

    def setup(self, module: nn.Module) -> nn.Module:
        """Move the module."""
        return module.to(self.device)

    def mean(self, value: Tensor) -> Tensor:
        """Return the tensor: there is one process."""
        return value

    def largest(self, value: Tensor) -> Tensor:
        """Return the tensor: there is one process."""
        return value

    def broadcast(self, value: T) -> T:
        """Return the value: there is one process."""
        return value


class FabricDevices:
    """Devices through Lightning Fabric.

    Parameters
    ----------
    fabric : lightning_fabric.Fabric
        Launched.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.device: torch.device = fabric.device
        self.rank: int = fabric.global_rank
        self.world: int = fabric.world_size

    def setup(self, module: nn.Module) -> nn.Module:
        """Move the module and, with several processes, wrap it for distributed data-parallel training."""
        wrapped: nn.Module = self._fabric.setup_module(module)
        return wrapped

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes."""
        return self._reduced(value, "mean")

    def largest(self, value: Tensor) -> Tensor:
        """Largest over the processes."""
        return self._reduced(value, "max")

    def broadcast(self, value: T) -> T:
        """Value of process 0."""
        sent: T = self._fabric.broadcast(value)
        return sent

    def _reduced(self, value: Tensor, how: str) -> Tensor:
        reduced: Any = self._fabric.all_reduce(value.clone(), reduce_op=how)
        return value if self.world == 1 else torch.as_tensor(reduced, device=value.device)


def choose_device(name: str) -> torch.device:
    """``auto`` (CUDA where there is one, else CPU), ``cpu`` or ``cuda:N``.

    Raises
    ------
    TrainingError
        ``device``: a name torch does not know, or CUDA where torch sees none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError("device", f"{name} is no device; write auto, cpu or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise TrainingError("device", f"training runs on cpu or cuda, not on {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainingError("device", f"device {name} was asked for and torch sees no CUDA device of that number")
    return device


def open_devices(name: str = "auto") -> Devices:
    """Open the device of a run, or join the other processes when ``torchrun`` started this one.

    Parameters
    ----------
    name : str
        See `choose_device`. Under ``torchrun`` only its kind counts: each process takes the device of its local rank.

    Raises
    ------
    TrainingError
        ``device``: see `choose_device`. ``fabric``: several processes were started and Fabric is not installed.
    """
    device = choose_device(name)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        if processes > 1:
            raise TrainingError("fabric", "several processes need the package lightning-fabric") from error
        _log.info("lightning-fabric is not installed: training on the single device %s", device)
        return SingleDevice(device)
    from lightning_fabric.strategies.ddp import DDPStrategy

    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # The others wait while process 0 makes volumes. Both networks have equal buffers everywhere: nothing to broadcast.
    together = DDPStrategy(timeout=_PATIENCE, broadcast_buffers=False)
    several: Any = local if device.type == "cpu" or processes > 1 else [device.index or 0]
    with warnings.catch_warnings():
        # Fabric advises another accelerator than the one asked for; the recipe's user has chosen.
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        fabric = Fabric(
            accelerator="cpu" if device.type == "cpu" else "cuda",
            devices=several,
            num_nodes=max(1, processes // local),
            strategy=together if processes > 1 else "auto",
            precision="32-true",
        )
        fabric.launch()
    return FabricDevices(fabric)


def in_turn(devices: Devices, build: Callable[[], T]) -> T:
    """Let process 0 build something on disk first, then one process of each other machine, then all the others.

    On one machine, or with a shared folder, everyone after the first finds it there.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    turns = 1 if devices.world == 1 else 3
    mine = 0 if devices.rank == 0 else 1 if local == 0 else 2
    results = []
    for turn in range(turns):
        if turn == mine:
            results.append(build())
        devices.broadcast(turn)  # nobody goes on before process 0 has arrived here; collectives keep the rest in step
        devices.mean(torch.zeros(1, device=devices.device))
    return results[0]
