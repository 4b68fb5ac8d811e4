"""Parameters, multiply-adds and memory of a network, counted from what it really executes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jmmda_model.network.discriminator import build_discriminator
from jmmda_model.network.generator import build_generator
from jmmda_model.network.settings import DiscriminatorSettings, GeneratorSettings

_MIB = 1024.0**2


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """What a network costs.

    Attributes
    ----------
    parameters
        Number of trainable parameters.
    gmac
        Multiply-adds of one forward pass of one image, in 1e9.
    saved_mib
        Memory that one forward pass of one image in single precision keeps for the backward pass, MiB; the
        parameters are not in it.
    """

    parameters: int
    gmac: float
    saved_mib: float


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters (works on the meta device too)."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_gmac(run: Callable[..., object], *inputs: Tensor) -> float:
    """Return the multiply-adds of one forward pass, in 1e9, attention included.

    Element-wise operations and normalisation are not counted, as in the usual tables; nor is the strided form
    of haar, which consists of sums only. Other wavelets are convolutions and are counted.

    Parameters
    ----------
    run
        Network in any state, or one of its forward methods; it runs once without gradients.
    *inputs
        Tensors on the network's device. On the meta device nothing is computed, so large networks are
        counted at no cost.
    """
    # The fused attention of the CPU is one operator that the counter does not know; the plain form it does.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        run(*inputs)
    return float(counter.get_total_flops()) / 2 / 1e9


def count_saved_mib(run: Callable[..., object], *inputs: Tensor, parameters: Iterable[Tensor]) -> float:
    """Return the memory that a forward pass keeps for its backward pass, MiB.

    Parameters
    ----------
    run
        Network, or one of its forward methods; it runs once.
    *inputs
        Tensors on the network's device, the meta device included.
    parameters
        Tensors that are there anyway and do not count.
    """
    present = {parameter.untyped_storage()._cdata for parameter in parameters}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage._cdata not in present:
            kept[storage._cdata] = storage  # held, so that its address is not used a second time
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved):
        run(*inputs)
    return sum(storage.nbytes() for storage in kept.values()) / _MIB


def describe(settings: GeneratorSettings | DiscriminatorSettings, size_px: int) -> NetworkCost:
    """Return what a network of these settings costs, counted without computing anything.

    Parameters
    ----------
    settings
        Shape of the network. A generator with a scale head is counted with it.
    size_px
        Rows and columns of the image.

    Raises
    ------
    ValueError
        If the network does not take this size.
    """
    # Fake tensors have the shapes and the kernels of the CPU. On the meta device, attention would keep its whole
    # matrix, which the fused kernels of every device avoid.
    with FakeTensorMode():
        inputs = [torch.zeros(1, settings.in_channels, size_px, size_px)]
        network: nn.Module
        run: Callable[..., object]
        if isinstance(settings, GeneratorSettings):
            inputs.append(torch.zeros(1, settings.mask_channels, size_px, size_px))
            network = generator = build_generator(settings)
            run = generator.forward_with_scale if settings.heteroscedastic else generator
        else:
            network = run = build_discriminator(settings)
        return NetworkCost(
            parameters=count_parameters(network),
            gmac=count_gmac(run, *inputs),
            saved_mib=count_saved_mib(run, *inputs, parameters=network.parameters()),
        )
