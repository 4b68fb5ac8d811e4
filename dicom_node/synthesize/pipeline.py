"""From the files of one CT series to synthetic pixels on that CT's own grid.

One function, used by the worker process and by the offline command, so that both produce the same bytes. Everything
that touches intensities or geometry comes from `jmmda_model.imaging`, which training calls too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicom_node.dicom.pixels import load_volume
from dicom_node.dicom.slices import read_slices
from dicom_node.dicom.values import SliceHeader
from dicom_node.errors import Permanent, Refused
from dicom_node.ledger.result_file import SynthesisResult
from jmmda_model.bundle import BundleError, load_bundle
from jmmda_model.imaging.eligibility import EligibilityLimits, ensure_eligible, with_age
from jmmda_model.imaging.errors import ImagingError
from jmmda_model.imaging.grid import NetworkInput, from_network_grid, scale_from_network_grid, to_network_grid
from jmmda_model.imaging.mask import BrainMask, brain_mask
from jmmda_model.imaging.volume import CtVolume
from jmmda_model.runtime import Runtime, RuntimeUnavailableError

#: Called with (step, done, total): the step's name and how far it is. It is also the worker's sign of life.
Progress = Callable[[str, int, int], None]


class _Stopwatch:
    """Wall seconds per named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 4)


def _silent(step: str, done: int, total: int) -> None:
    """Report nothing."""


def load_runtime(bundle: str, *, device: str, precision: str = "auto", threads: int | None = None) -> Runtime:
    """Load a bundle by path or name and warm it up.

    Raises
    ------
    Permanent
        `bundle` when it is missing, damaged or of an unknown contract; `device` when the device cannot be used.
    """
    try:
        return Runtime.load(load_bundle(bundle), device=device, precision=precision, threads=threads)
    except (BundleError, RuntimeUnavailableError) as error:
        raise Permanent(error.code, error.reason) from error


def load_ct_volume(headers: Sequence[SliceHeader], progress: Progress = _silent) -> CtVolume:
    """Decode the slices of a gated series into one volume in Hounsfield units.

    Parameters
    ----------
    headers : sequence of SliceHeader
        S slices sorted along the normal, as the geometry gate returned them.
    progress : Progress
        Called once per decoded slice with step `read`.

    Raises
    ------
    Permanent
        `pixel_data` when a slice does not decode.
    """

    def on_slice(done: int, total: int) -> None:
        progress("read", done, total)

    loaded = load_volume(headers, on_slice=on_slice)
    return CtVolume(
        hu=loaded.hu,
        positions_mm=loaded.positions_mm,
        orientation=loaded.orientation,
        spacing_mm=loaded.spacing_mm,
        thickness_mm=loaded.thickness_mm,
    )


def synthesize_series(
    paths: Sequence[Path],
    runtime: Runtime,
    progress: Progress = _silent,
    *,
    frames: Sequence[int | None] = (),
    eligibility: Mapping[str, float] | None = None,
) -> SynthesisResult:
    """Run the whole path for one series: read, brain mask, network grid, JMMDA-GAN, back to the CT grid.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        S files of one CT series in the order of the geometry gate.
    runtime : Runtime
        A loaded model.
    progress : Progress
        Called at least once per step; steps are `read`, `mask`, `network`, `pixels`.
    frames : sequence of int or None
        Which frame of each file (Enhanced CT), None for all of it; empty when there are only whole files.
    eligibility : Mapping[str, float], optional
        Section ``[eligibility]`` of the settings; the defaults of `EligibilityLimits` when left out.

    Returns
    -------
    SynthesisResult
        Pixels (S, rows, cols) uint16 on the CT grid, zero outside the brain.

    Raises
    ------
    Refused
        `no_brain`, `half_brain`, `fov`, `thickness`: the figures say by how much.
    Permanent
        `unreadable`, `pixel_data`: a file cannot be used.
    """
    watch = _Stopwatch()
    contract = runtime.bundle.card.contract
    with watch.step("read"):
        headers = read_slices(paths, frames)
        volume = load_ct_volume(headers, progress)
    try:
        with watch.step("mask"):
            limits = EligibilityLimits(**(eligibility or {}))
            mask = with_age(brain_mask(volume, limits=limits), _age_years(headers), limits)
            ensure_eligible(mask)
        progress("mask", 1, 1)
        with watch.step("grid"):
            network_input = to_network_grid(volume, mask, contract)
    except ImagingError as error:
        raise Refused(error.code, error.reason, error.figures) from error

    def on_batch(done: int, total: int) -> None:
        progress("network", done, total)

    with watch.step("network"):
        prediction, scale = _predict(runtime, network_input, on_batch)
    with watch.step("pixels"):
        pixels = from_network_grid(prediction, network_input, mask, contract)
        expected_error = None if scale is None else scale_from_network_grid(scale, network_input, mask, contract)
    progress("pixels", 1, 1)
    return SynthesisResult(
        pixels=pixels,
        mask=mask.mask,
        source_sop_instance_uids=tuple(header.sop_instance_uid for header in headers),
        source_slices=network_input.source_slices,
        notes=network_input.notes,
        quality_flags=mask.flags,
        figures=_figures(mask),
        seconds=watch.seconds,
        expected_error=expected_error,
    )


def _predict(
    runtime: Runtime, network_input: NetworkInput, on_batch: Callable[[int, int], None]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Return the prediction, and the expected error where the bundle's network says it."""
    if runtime.predicts_scale:
        return runtime.predict_with_scale(network_input, progress=on_batch)
    return runtime.predict(network_input, progress=on_batch), None


def _age_years(headers: Sequence[SliceHeader]) -> float | None:
    """Return the age that the headers agree on; the youngest where they do not, none where none has it."""
    return min((age for header in headers if (age := header.patient_age_years) is not None), default=None)


def _figures(mask: BrainMask) -> dict[str, float]:
    figures = {name: float(value) for name, value in mask.figures.items()}
    figures["brain_volume_ml"] = round(mask.volume_ml, 1)
    return figures
