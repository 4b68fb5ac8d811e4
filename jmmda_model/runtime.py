"""Inference with a bundle: device, precision, warm-up, self-test, and whole volumes slice by slice.

Reduced precision is never a matter of configuration alone. It is used on CUDA only, and only where the
network itself shows at load time that its output keeps 60 dB and 8 of 4096 levels.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jmmda_model.bundle import Bundle, load_generator
from jmmda_model.imaging.grid import NetworkInput
from jmmda_model.network.generator import BLACK, Generator
from jmmda_model.precision import CANDIDATES, Agreement, Precision, arithmetic, choose_precision
from jmmda_model.probe import ProbeRecord, probe_input

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

# Eager convolutions on the CPU get slower, not faster, with larger batches, and hold more memory.
_CPU_BATCH = 1
_CUDA_BATCH = 8


class RuntimeUnavailableError(RuntimeError):
    """The network cannot run here.

    Parameters
    ----------
    code
        ``device`` (absent or failing), ``precision`` (unknown value), ``self_test`` (the device does not
        reproduce the network), ``not_finite`` (the network answered with NaN or infinity) or ``uncertainty``
        (the network predicts no scale of its error).
    reason
        One sentence for the administrator.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Outcome of :meth:`Runtime.self_test`.

    Attributes
    ----------
    device
        Name of the device.
    precision
        Precision in use.
    psnr_db, max_levels
        Agreement with a double-precision computation on the CPU.
    seconds
        Time of the test.
    """

    device: str
    precision: str
    psnr_db: float
    max_levels: float
    seconds: float


class Runtime:
    """A loaded network on a device. Make one with :meth:`load`.

    Parameters
    ----------
    bundle
        The bundle the network comes from.
    generator
        Its network, on ``device``, in inference mode.
    device
        Where it runs.
    precision
        Arithmetic of the convolutions.
    """

    def __init__(self, bundle: Bundle, generator: Generator, device: torch.device, precision: Precision) -> None:
        self.bundle = bundle
        self.device = device
        self.precision = precision
        self._generator = generator
        self._batch = _CPU_BATCH if device.type == "cpu" else _CUDA_BATCH

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Load a network, choose its precision and warm it up.

        Parameters
        ----------
        bundle
            From :func:`jmmda_model.bundle.load_bundle`.
        device
            ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where it works, else the CPU.
        precision
            ``fp32``, or ``auto``: reduced where the self-test holds.
        threads
            CPU threads of this process; torch's default unless given.

        Raises
        ------
        RuntimeUnavailableError
            ``device`` or ``precision``.
        jmmda_model.bundle.BundleError
            If the weights cannot be used.
        """
        if precision not in ("auto", "fp32"):
            raise RuntimeUnavailableError("precision", f"precision must be 'auto' or 'fp32', got {precision!r}")
        if threads is not None:
            if threads < 1:
                raise RuntimeUnavailableError("device", f"threads must be at least 1, got {threads}")
            torch.set_num_threads(threads)
        generator = load_generator(bundle)
        place, generator = _move(generator, device)
        runtime = cls(bundle, generator, place, Precision.FP32)
        if precision == "auto":
            runtime.precision = choose_precision(CANDIDATES.get(place.type, ()), runtime.measure)
        runtime._warm_up()
        return runtime

    @property
    def device_name(self) -> str:
        """Name of the device for people."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        return str(self.device)

    def predict(self, net_input: NetworkInput, *, progress: Callable[[int, int], None] | None = None) -> FloatArray:
        """Synthesise all slices of a volume.

        Parameters
        ----------
        net_input
            S slices on the network grid, made with the bundle's own contract.
        progress
            Called with (slices done, slices to do), first with 0; slices without brain are not counted.

        Returns
        -------
        numpy.ndarray
            (S, grid_px, grid_px) float32 in [-1, 1]; -1 outside the brain and in slices without brain.

        Raises
        ------
        ValueError
            If the input was made with another contract.
        RuntimeUnavailableError
            ``not_finite`` if the network answers with NaN or infinity.
        """
        return self._all_slices(net_input, progress, with_scale=False)[0]

    @property
    def predicts_scale(self) -> bool:
        """Whether :meth:`predict_with_scale` is possible with this bundle."""
        return self.bundle.card.generator.heteroscedastic

    def predict_with_scale(
        self, net_input: NetworkInput, *, progress: Callable[[int, int], None] | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Synthesise all slices of a volume, with the network's own estimate of its error.

        Parameters
        ----------
        net_input, progress
            As for :meth:`predict`.

        Returns
        -------
        tuple of numpy.ndarray
            What :meth:`predict` returns, and of the same shape the scale b of a Laplace distribution of the
            error: the expected absolute error, in units of the network's output (whose range is 2). It is
            mirror-averaged and multiplied by the gain as the prediction is; 0 outside the brain.

        Raises
        ------
        ValueError
            If the input was made with another contract.
        RuntimeUnavailableError
            ``uncertainty`` if the bundle's network has no such output; ``not_finite`` as for :meth:`predict`.
        """
        if not self.predicts_scale:
            raise RuntimeUnavailableError(
                "uncertainty",
                f"the network of bundle {self.bundle.card.name!r} predicts no scale of its error; "
                f"use a bundle trained with heteroscedastic = true",
            )
        prediction, scale = self._all_slices(net_input, progress, with_scale=True)
        return prediction, scale

    def self_test(self) -> SelfTest:
        """Compare the device with a double-precision computation, and with the record on the card.

        Raises
        ------
        RuntimeUnavailableError
            ``self_test`` if the device does not reproduce the network.
        """
        start = time.perf_counter()
        agreement = Agreement.between(self._answer(self.precision), self._reference(), self._levels)
        if not agreement.holds:
            raise RuntimeUnavailableError(
                "self_test",
                f"{self.device_name} in {self.precision.value} reproduces the network with "
                f"{agreement.psnr_db:.1f} dB and {agreement.max_levels:.1f} levels only; "
                f"use another device, or report this",
            )
        self._compare_with_card()
        return SelfTest(
            device=self.device_name,
            precision=self.precision.value,
            psnr_db=agreement.psnr_db,
            max_levels=agreement.max_levels,
            seconds=time.perf_counter() - start,
        )

    def measure(self, precision: Precision) -> Agreement:
        """Return the agreement of a precision with single precision on this device."""
        return Agreement.between(self._answer(precision), self._answer(Precision.FP32), self._levels)

    @property
    def _levels(self) -> int:
        return self.bundle.card.contract.output_levels

    def _probe(self) -> tuple[FloatArray, FloatArray]:
        settings = self.bundle.card.generator
        return probe_input(settings.in_channels, settings.mask_channels)

    def _answer(self, precision: Precision) -> FloatArray:
        return self._run(*self._probe(), precision)[:, 0]

    def _reference(self) -> npt.NDArray[np.float64]:
        generator = load_generator(self.bundle).double()
        ct, mask = (torch.from_numpy(array).double() for array in self._probe())
        with torch.inference_mode():
            output: npt.NDArray[np.float64] = generator(ct, mask)[:, 0].numpy()
        return output

    def _compare_with_card(self) -> None:
        recorded = self.bundle.card.self_test
        if recorded is None:
            return
        deviation = recorded.deviation(ProbeRecord.of(self._answer(self.precision)[:, None]))
        if deviation > recorded.tolerance:
            raise RuntimeUnavailableError(
                "self_test",
                f"the network's answer deviates by {deviation:.2g} from the bundle's record "
                f"(allowed {recorded.tolerance:.2g})",
            )

    def _warm_up(self) -> None:
        """Run one full-size slice, so that the first real one does not pay for set-up."""
        settings, grid_px = self.bundle.card.generator, self.bundle.card.contract.grid_px
        self._run(*probe_input(settings.in_channels, settings.mask_channels, batch=1, size_px=grid_px), self.precision)

    def _run(self, ct: FloatArray, mask: FloatArray, precision: Precision, *, with_scale: bool = False) -> FloatArray:
        """Return the bare output of the network (B, 1, H, W); with the scale, (B, 2, H, W)."""
        with torch.inference_mode(), arithmetic(self.device, precision):
            inputs = self._on_device(ct), self._on_device(mask)
            if with_scale:
                mean, log_scale = self._generator.forward_with_scale(*inputs)
                output = torch.cat([mean.float(), log_scale.float().exp()], dim=1)
            else:
                output = self._generator(*inputs)
            numbers: FloatArray = output.float().cpu().numpy()
        return numbers

    def _all_slices(
        self, net_input: NetworkInput, progress: Callable[[int, int], None] | None, *, with_scale: bool
    ) -> list[FloatArray]:
        """Return the prediction and, if asked for, the scale, both (S, grid_px, grid_px)."""
        self._check(net_input)
        outside = (BLACK, 0.0) if with_scale else (BLACK,)
        shape = (len(net_input.ct), *net_input.ct.shape[2:])
        results = [np.full(shape, value, dtype=np.float32) for value in outside]
        wanted = np.flatnonzero(net_input.has_brain)
        report = progress or _ignore
        report(0, len(wanted))
        for start in range(0, len(wanted), self._batch):
            chosen = wanted[start : start + self._batch]
            images = self._synthesise(net_input.ct[chosen], net_input.mask[chosen], with_scale=with_scale)
            for result, image in zip(results, images, strict=True):
                result[chosen] = image
            report(min(start + len(chosen), len(wanted)), len(wanted))
        return results

    def _synthesise(self, ct: FloatArray, mask: FloatArray, *, with_scale: bool) -> list[FloatArray]:
        """Return recalibrated slices (B, H, W), black outside the brain, and the scale if asked for."""
        output = self._run(ct, mask, self.precision, with_scale=with_scale)
        if self.bundle.card.flip_average:
            mirrored = self._run(ct[..., ::-1], mask[..., ::-1], self.precision, with_scale=with_scale)
            output = 0.5 * (output + mirrored[..., ::-1])
        if not np.isfinite(output).all():
            raise RuntimeUnavailableError("not_finite", "the network answered with values that are not finite")
        gain, offset = self.bundle.card.output_affine
        brain = mask[:, 0] > 0
        images = [np.where(brain, np.clip(gain * output[:, 0] + offset, -1.0, 1.0), np.float32(BLACK))]
        if with_scale:
            images.append(np.where(brain, abs(gain) * output[:, 1], np.float32(0.0)))
        return [image.astype(np.float32, copy=False) for image in images]

    def _on_device(self, array: FloatArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.device)

    def _check(self, net_input: NetworkInput) -> None:
        card = self.bundle.card
        count, size = len(net_input.has_brain), card.contract.grid_px
        expected = ((count, card.generator.in_channels, size, size), (count, card.generator.mask_channels, size, size))
        if (net_input.ct.shape, net_input.mask.shape) != expected:
            raise ValueError(
                f"the bundle's contract needs CT and mask of shapes {expected}, "
                f"got {net_input.ct.shape} and {net_input.mask.shape}"
            )


def _ignore(done: int, total: int) -> None:
    """Report nothing."""


def _move(generator: Generator, device: str) -> tuple[torch.device, Generator]:
    """Move a network to the device asked for, ``auto`` falling back to the CPU."""
    if device == "auto":
        if torch.cuda.is_available():
            try:
                return _settle(generator, torch.device("cuda:0"))
            except RuntimeError as error:
                logger.warning("CUDA is present but does not work, using the CPU: %s", error)
        return torch.device("cpu"), generator.to("cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise RuntimeUnavailableError("device", f"{device!r} names no device; use auto, cpu or cuda:N") from error
    if place.type not in CANDIDATES:
        raise RuntimeUnavailableError("device", f"{device!r} is not supported; use auto, cpu or cuda:N")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise RuntimeUnavailableError(
            "device", f"{device!r} is not there; CUDA devices found: {torch.cuda.device_count()}"
        )
    try:
        return _settle(generator, place)
    except RuntimeError as error:
        raise RuntimeUnavailableError("device", f"{device!r} does not work: {error}") from error


def _settle(generator: Generator, device: torch.device) -> tuple[torch.device, Generator]:
    """Move a network and run one operation: a driver or card that does not fit fails only there."""
    moved = generator.to(device)
    torch.zeros(1, device=device).add_(1.0).item()
    return device, moved
