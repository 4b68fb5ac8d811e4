"""Weights of a bundle: packed to safetensors in half precision, and unpacked into a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from jmmda_model.card import BundleError
from jmmda_model.network.generator import Generator, build_generator
from jmmda_model.network.settings import GeneratorSettings
from jmmda_model.probe import ProbeRecord, probe_input


def pack(state_dict: Mapping[str, Tensor]) -> bytes:
    """Return weights as the bytes of a safetensors file, in half precision.

    Raises
    ------
    BundleError
        ``weights`` if a tensor is not of a floating type or not finite in half precision.
    """
    return bytes(save({name: _to_half(name, tensor) for name, tensor in state_dict.items()}, {"format": "pt"}))


def unpack(data: bytes, settings: GeneratorSettings) -> Generator:
    """Build a network from the bytes of a safetensors file, in single precision, ready for inference.

    Raises
    ------
    BundleError
        ``weights`` if the bytes are damaged, hold values that are not finite or do not fit the network.
    """
    try:
        state = load(data)
    except SafetensorError as error:
        raise BundleError("weights", f"the weights file is damaged: {error}") from error
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BundleError("weights", f"{name} holds values that are not finite")
    try:
        # The values drawn here are replaced at once; loading must not move the caller's random state.
        with torch.random.fork_rng(devices=[]):
            generator = build_generator(settings)
        generator.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (RuntimeError, ValueError) as error:
        raise BundleError("weights", f"the weights do not fit the network of the card: {error}") from error
    return generator.eval().requires_grad_(False)


def answer_probe(generator: Generator) -> ProbeRecord:
    """Run a network on the fixed probe (single precision, CPU) and describe its answer."""
    ct, mask = probe_input(generator.settings.in_channels, generator.settings.mask_channels)
    with torch.inference_mode():
        output = generator.eval()(torch.from_numpy(ct), torch.from_numpy(mask))
    return ProbeRecord.of(output.numpy())


def _to_half(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise BundleError("weights", f"{name} is not a floating-point tensor")
    half = tensor.detach().to("cpu", torch.float16).contiguous()
    if not bool(torch.isfinite(half).all()):
        raise BundleError("weights", f"{name} is not finite in half precision; the training diverged")
    return half
